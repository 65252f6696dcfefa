//! A task that is polled after a deadline, as after the process was stopped or its threads were
//! busy. What has arrived is read before the deadline counts. The file of the same name in
//! falco-std has the same tests.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::time::Duration;

use common::key;
use falco_tokio::{Client, ConnectionError, Error, Handle, Request, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

const SOON: Duration = Duration::from_secs(50);
/// After the lifetime of 60 s, counted from [`SOON`].
const LATE: Duration = Duration::from_secs(20);

/// A client and a server, and the test between them, which carries their bytes.
struct Middle {
    client: Client,
    to_client: DuplexStream,
    server: Handle,
    to_server: DuplexStream,
    serving: JoinHandle<std::io::Result<ConnectionError>>,
}

impl Middle {
    async fn new() -> Self {
        let (near, mut to_client) = duplex(1 << 16);
        let (mut to_server, far) = duplex(1 << 16);
        let server = Server::builder(key(1)).unbound().unwrap();
        let handle = server.handle();
        let echo = |request: Request| async move { Ok(request.into_body()) };
        let serving = tokio::spawn(async move { server.serve_connection(far, echo).await });
        let quiet = Settings::new().with_keep_alive(false);
        let connecting = tokio::spawn(Client::builder(key(1)).settings(quiet).over(near));
        // Hello and welcome, PING and PONG.
        for _ in 0..2 {
            carry(&mut to_client, &mut to_server).await;
            carry(&mut to_server, &mut to_client).await;
        }
        Self {
            client: connecting.await.unwrap().unwrap(),
            to_client,
            server: handle,
            to_server,
            serving,
        }
    }

    fn ask(&self) -> JoinHandle<Result<bytes::Bytes, Error>> {
        let client = self.client.clone();
        tokio::spawn(async move { client.request_within("hello", Duration::from_secs(3_600)).await })
    }
}

async fn receive(from: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let count = from.read(&mut bytes).await.unwrap();
    bytes.truncate(count);
    bytes
}

async fn carry(from: &mut DuplexStream, to: &mut DuplexStream) {
    let bytes = receive(from).await;
    to.write_all(&bytes).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_reads_what_has_arrived_before_its_lifetime_counts() {
    let mut middle = Middle::new().await;
    let asking = middle.ask();
    let request = receive(&mut middle.to_client).await;
    sleep(SOON).await;
    // The bytes are in the stream before the task is polled, and that is after the deadline.
    middle.to_server.write_all(&request).await.unwrap();
    advance(LATE).await;
    assert!(!receive(&mut middle.to_server).await.is_empty());
    let stats = middle.server.stats();
    assert_eq!((stats.requests, stats.answers), (1, 1));
    asking.abort();
    drop(middle.to_server);
    let end = middle.serving.await.unwrap().unwrap();
    assert_eq!(end, ConnectionError::Truncated);
}

#[tokio::test(start_paused = true)]
async fn a_client_reads_what_has_arrived_before_its_lifetime_counts() {
    let mut middle = Middle::new().await;
    let asking = middle.ask();
    carry(&mut middle.to_client, &mut middle.to_server).await;
    let answer = receive(&mut middle.to_server).await;
    sleep(SOON).await;
    middle.to_client.write_all(&answer).await.unwrap();
    advance(LATE).await;
    assert_eq!(asking.await.unwrap().unwrap(), "hello");
    assert_eq!(middle.client.stats().connected, 1);
}
