//! Streams and connect functions that panic. Each ends its connection or attempt, and the client
//! makes the next.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use common::key;
use falco_tokio::{Client, Error, Fate, Request, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::time::timeout;

/// Where a stream panics, once it is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Read,
    Write,
    Shutdown,
}

struct Trap {
    stream: DuplexStream,
    place: Place,
    armed: Arc<AtomicBool>,
}

impl Trap {
    fn step_on(&self, place: Place) {
        assert!(
            place != self.place || !self.armed.load(Ordering::Relaxed),
            "as the test wants it"
        );
    }
}

impl AsyncRead for Trap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.step_on(Place::Read);
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Trap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.step_on(Place::Write);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.step_on(Place::Shutdown);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The client's end of a stream to a server that echoes.
fn stream(place: Place, armed: &Arc<AtomicBool>) -> io::Result<Trap> {
    let (near, far) = duplex(1 << 16);
    let server = Server::builder(key(1)).unbound().map_err(io::Error::other)?;
    let echo = |request: Request| async move { Ok(request.into_body()) };
    tokio::spawn(async move { server.serve_connection(far, echo).await });
    Ok(Trap {
        stream: near,
        place,
        armed: Arc::clone(armed),
    })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("it has an end")
}

#[tokio::test]
async fn a_stream_that_panics_ends_its_connection_and_not_the_client() {
    for place in [Place::Read, Place::Write] {
        let armed = Arc::new(AtomicBool::new(false));
        let trap = Arc::clone(&armed);
        let dial = move || {
            // The next stream does not panic.
            let armed = if trap.load(Ordering::Relaxed) {
                Arc::default()
            } else {
                Arc::clone(&trap)
            };
            async move { stream(place, &armed) }
        };
        let client = Client::builder(key(1)).connect_with(dial).await.unwrap();
        assert_eq!(client.request("before").await.unwrap(), "before");
        armed.store(true, Ordering::Relaxed);
        match within(client.request("it panics")).await {
            // The stream is read first if it was quiet, and the request goes to the next one.
            Ok(answer) => assert_eq!((place, &answer[..]), (Place::Read, &b"it panics"[..])),
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "{place:?}: {error}");
                assert_eq!(error.fate(), Fate::MaybeProcessed);
            }
        }
        assert_eq!(within(client.request("after")).await.unwrap(), "after", "{place:?}");
        within(client.close()).await;
    }
}

#[tokio::test]
async fn a_stream_that_panics_while_it_is_shut_down_does_not_keep_its_client_from_closing() {
    let armed = Arc::new(AtomicBool::new(true));
    let dial = move || {
        let armed = Arc::clone(&armed);
        async move { stream(Place::Shutdown, &armed) }
    };
    let client = Client::builder(key(1)).connect_with(dial).await.unwrap();
    assert_eq!(client.request("before").await.unwrap(), "before");
    within(client.close()).await;
    let error = client.request("after").await.unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
}

#[tokio::test]
async fn a_panic_while_connecting_is_a_failed_attempt() {
    let attempts = AtomicUsize::new(0);
    let armed = Arc::new(AtomicBool::new(false));
    let trap = Arc::clone(&armed);
    let dial = move || {
        let attempt = attempts.fetch_add(1, Ordering::Relaxed);
        assert!(attempt != 1, "in the function");
        let armed = if attempt == 0 {
            Arc::clone(&trap)
        } else {
            Arc::default()
        };
        async move {
            assert!(attempt != 2, "in its future");
            stream(Place::Write, &armed)
        }
    };
    let client = Client::builder(key(1)).backoff(Duration::from_millis(1), Duration::from_millis(2));
    let client = client.connect_with(dial).await.unwrap();
    // Otherwise the first PING may step on the trap, and the request goes to the next connection.
    assert_eq!(within(client.request("before")).await.unwrap(), "before");
    armed.store(true, Ordering::Relaxed);
    within(client.request("the first connection ends")).await.unwrap_err();
    assert_eq!(within(client.request("after")).await.unwrap(), "after");
    assert_eq!(client.stats().attempts, 4);
}
