//! The tunnel as a library: how each direction ends, and what each side notices of the other.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::io;

use common::key;
use falco_tokio::{Client, Handle, Report, Request, Server, StreamRequest, tunnel};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// A tunnel's server, which passes the other end of each target's socket to the test.
struct Side {
    client: Client,
    handle: Handle,
    serving: JoinHandle<Report>,
    targets: mpsc::UnboundedReceiver<DuplexStream>,
    /// How `join` has ended at the server.
    joined: mpsc::UnboundedReceiver<io::Result<tunnel::Carried>>,
}

impl Side {
    async fn start() -> Self {
        let server = Server::builder(key(1)).bind("127.0.0.1:0").await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let (to, targets) = mpsc::unbounded_channel();
        let (end, joined) = mpsc::unbounded_channel();
        let echo = |request: Request| async move { Ok(request.into_body()) };
        let streams = move |request: StreamRequest| {
            let (to, end) = (to.clone(), end.clone());
            async move {
                let incoming = tunnel::accept(request).await?;
                assert!(!format!("{incoming:?}").contains("with the name"), "{incoming:?}");
                if incoming.target() != "target" {
                    return Ok(incoming.refuse("no\nsuch target").await?);
                }
                let (mut near, far) = duplex(1 << 10);
                to.send(far).unwrap();
                let result = incoming.join(&mut near).await;
                let failed = result.is_err();
                let _ = end.send(result);
                if failed {
                    Err(io::Error::other("cut off").into())
                } else {
                    Ok(())
                }
            }
        };
        let serving = tokio::spawn(async move { server.serve_streams(echo, streams).await.unwrap() });
        let client = Client::builder(key(1)).connect(address).await.unwrap();
        Self {
            client,
            handle,
            serving,
            targets,
            joined,
        }
    }

    /// A tunnel: the socket of its user, the socket of the target, and how `join` ends.
    async fn open(&mut self) -> (DuplexStream, DuplexStream, JoinHandle<io::Result<tunnel::Carried>>) {
        let tunnel = tunnel::connect(&self.client, "target").await.unwrap();
        let (user, mut socket) = duplex(1 << 10);
        let carrying = tokio::spawn(async move { tunnel.join(&mut socket).await });
        let target = soon(self.targets.recv()).await.unwrap();
        (user, target, carrying)
    }

    async fn stop(self) {
        self.client.close().await;
        self.handle.shutdown_within(Duration::from_secs(5));
        let report = self.serving.await.unwrap();
        assert_eq!(report.cut_requests, 0);
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("it takes too long")
}

async fn rest(socket: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    soon(socket.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test]
async fn either_direction_ends_first() {
    let mut side = Side::start().await;
    for user_first in [true, false] {
        let (mut user, mut target, carrying) = side.open().await;
        let (first, second) = if user_first {
            (&mut user, &mut target)
        } else {
            (&mut target, &mut user)
        };
        first.write_all(b"early").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(rest(second).await, b"early");
        second.write_all(b"after that").await.unwrap();
        second.shutdown().await.unwrap();
        assert_eq!(rest(first).await, b"after that");
        let carried = soon(carrying).await.unwrap().unwrap();
        let counts = if user_first { (5, 10) } else { (10, 5) };
        assert_eq!((carried.sent, carried.received), counts);
        let at_server = soon(side.joined.recv()).await.unwrap().unwrap();
        assert_eq!((at_server.received, at_server.sent), counts);
    }
    side.stop().await;
}

/// `tunnel::connect` sends the name alone. Another client may send more with it.
#[tokio::test]
async fn bytes_that_come_with_the_name_of_the_target_arrive_and_are_not_printed() {
    let mut side = Side::start().await;
    let call = side.client.open(&b"T\x06targetwith the name"[..]).await.unwrap();
    let mut target = soon(side.targets.recv()).await.unwrap();
    let mut bytes = [0; 13];
    soon(target.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"with the name");
    drop(call);
    side.stop().await;
}

/// The server refuses before the client has noticed that its request was accepted, or later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reason_of_a_refusal_arrives_whenever_it_comes() {
    let side = Side::start().await;
    for _ in 0..300 {
        let tunnel = tunnel::connect(&side.client, "other").await.unwrap();
        let (_user, mut socket) = duplex(64);
        let error = soon(tunnel.join(&mut socket)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(error.to_string(), "the server refused: no\\nsuch target");
    }
    side.stop().await;
}

#[tokio::test]
async fn a_name_of_256_bytes_is_refused_at_once() {
    let side = Side::start().await;
    let longest = tunnel::connect(&side.client, &"x".repeat(255)).await.unwrap();
    drop(longest);
    tunnel::connect(&side.client, &"x".repeat(256)).await.unwrap_err();
    side.stop().await;
}

#[tokio::test]
async fn a_side_that_is_dropped_fails_the_other() {
    let mut side = Side::start().await;
    // The future of the client's side: the handler of a request that is cancelled is dropped.
    let (mut user, mut target, carrying) = side.open().await;
    user.write_all(b"half of it").await.unwrap();
    carrying.abort();
    soon(async { while target.write_all(&[0; 256]).await.is_ok() {} }).await;
    assert!(side.joined.try_recv().is_err());
    // The target closes its socket while more is written to it.
    let (mut user, target, carrying) = side.open().await;
    drop(target);
    soon(async { while user.write_all(&[0; 256]).await.is_ok() {} }).await;
    assert!(soon(side.joined.recv()).await.unwrap().is_err());
    assert!(soon(carrying).await.unwrap().is_err());
    // The user closes its socket while more is written to it.
    let (user, mut target, carrying) = side.open().await;
    drop(user);
    soon(async { while target.write_all(&[0; 256]).await.is_ok() {} }).await;
    assert!(side.joined.try_recv().is_err());
    assert!(soon(carrying).await.unwrap().is_err());
    side.stop().await;
}

/// What a target has sent last arrives although its socket fails while more is written to it, also
/// if it has ended its bytes.
#[tokio::test]
async fn the_last_bytes_of_a_target_arrive_before_its_failure() {
    let mut side = Side::start().await;
    for _ in 0..50 {
        let (user, mut target, carrying) = side.open().await;
        let (mut reads, mut writes) = tokio::io::split(user);
        let uploading = tokio::spawn(async move { while writes.write_all(&[0; 256]).await.is_ok() {} });
        target.read_exact(&mut [0; 4096]).await.unwrap();
        target.write_all(&[7; 1000]).await.unwrap();
        drop(target);
        let mut received = vec![0; 1000];
        soon(reads.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, [7; 1000]);
        assert!(soon(side.joined.recv()).await.unwrap().is_err());
        let error = soon(carrying).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        uploading.abort();
    }
    side.stop().await;
}

/// Over TCP a failure is noticed while the other side takes nothing more.
#[tokio::test]
async fn halves_of_sockets_are_watched_while_they_are_not_read() {
    let mut side = Side::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (user, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut user, (mut socket, _)) = (user.unwrap(), accepted.unwrap());
    let tunnel = tunnel::connect(&side.client, "target").await.unwrap();
    let carrying = tokio::spawn(async move {
        let (reads, writes) = socket.split();
        tunnel.join_halves(reads, writes).await
    });
    let mut target = soon(side.targets.recv()).await.unwrap();
    while timeout(Duration::from_millis(300), user.write_all(&[7; 1 << 14]))
        .await
        .is_ok()
    {}
    assert!(!carrying.is_finished());
    SockRef::from(&user).set_linger(Some(Duration::ZERO)).unwrap();
    drop(user);
    let error = soon(carrying).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    soon(async { while target.write_all(&[0; 256]).await.is_ok() {} }).await;
    side.stop().await;
}

#[tokio::test]
async fn a_side_that_carries_nothing_is_cut_off_after_its_idle_timeout() {
    const LIMIT: Duration = Duration::from_millis(300);
    let mut side = Side::start().await;
    let tunnel = tunnel::connect(&side.client, "target").await.unwrap();
    let (mut user, mut socket) = duplex(1 << 10);
    let tunnel = tunnel.idle_timeout(Some(LIMIT));
    let carrying = tokio::spawn(async move { tunnel.join(&mut socket).await });
    let mut target = soon(side.targets.recv()).await.unwrap();
    let mut last = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(LIMIT / 3).await;
        last = Instant::now();
        target.write_all(b"x").await.unwrap();
        user.read_exact(&mut [0]).await.unwrap();
    }
    let error = soon(carrying).await.unwrap().unwrap_err();
    assert!(last.elapsed() >= LIMIT);
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    soon(async { while target.write_all(&[0; 256]).await.is_ok() {} }).await;
    side.stop().await;
}

#[tokio::test]
async fn a_server_that_goes_away_fails_the_client() {
    let mut side = Side::start().await;
    let (_user, mut target, carrying) = side.open().await;
    target.write_all(b"half of it").await.unwrap();
    side.handle.shutdown_within(Duration::ZERO);
    soon(carrying).await.unwrap().unwrap_err();
}
