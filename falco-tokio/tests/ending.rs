//! How connections end: what was answered arrives, however slow the link, and whoever closes is told when it is done.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::time::Duration;

use common::key;
use falco_tokio::{Client, ClientBuilder, Request, Server, ServerBuilder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::sleep;

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, pause: Duration) {
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
    let _ = to.shutdown().await;
}

/// A stream whose other end is `far`, over a link that carries a KiB in each `pause` towards this side.
fn slow_link(far: DuplexStream, pause: Duration) -> DuplexStream {
    let (near, middle) = duplex(1024);
    let ((from_far, to_far), (from_near, to_near)) = (split(far), split(middle));
    tokio::spawn(carry(from_far, to_near, pause));
    tokio::spawn(carry(from_near, to_far, Duration::ZERO));
    near
}

async fn an_answer_outlasts_the_end(server: ServerBuilder, client: ClientBuilder) {
    let server = server.unbound().unwrap();
    let handle = server.handle();
    let (far, end) = duplex(1024);
    let serving = tokio::spawn(async move {
        let handler = |_: Request| async move {
            sleep(Duration::from_secs(1)).await;
            Ok(vec![7; 90_000])
        };
        server.serve_connection(end, handler).await
    });
    let client = client.over(slow_link(far, Duration::from_millis(100))).await.unwrap();
    let asked = client.request("a long answer");
    let (answer, ()) = tokio::join!(asked, async {
        sleep(Duration::from_millis(500)).await;
        handle.shutdown();
    });
    assert_eq!(answer.unwrap().len(), 90_000);
    serving.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_lets_a_slow_client_take_its_last_answer() {
    an_answer_outlasts_the_end(Server::builder(key(1)), Client::builder(key(1))).await;
    an_answer_outlasts_the_end(Server::classic(key(1)), Client::classic(key(1))).await;
}
