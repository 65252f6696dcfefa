//! Streams that accept bytes and do not flush them, such as an encrypted or a buffered stream over
//! a blocked link. Bytes that are not flushed count as not written.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use common::key;
use falco_tokio::{Client, ConnectionError, Error, Request, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::time::{Instant, sleep};

/// A stream that keeps what it accepts, and while it is `stuck` passes nothing on.
struct Buffered {
    inner: DuplexStream,
    kept: Vec<u8>,
    stuck: Arc<AtomicBool>,
}

impl Buffered {
    fn new(inner: DuplexStream) -> (Self, Arc<AtomicBool>) {
        let stuck = Arc::<AtomicBool>::default();
        let stream = Self {
            inner,
            kept: Vec::new(),
            stuck: Arc::clone(&stuck),
        };
        (stream, stuck)
    }
}

impl AsyncRead for Buffered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.kept.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stuck.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let kept = core::mem::take(&mut self.kept);
        // The link has room for all that these tests send.
        assert!(kept.is_empty() || Pin::new(&mut self.inner).poll_write(cx, &kept)?.is_ready());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

async fn echo(request: Request) -> Result<bytes::Bytes, falco_tokio::HandlerError> {
    Ok(request.into_body())
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_makes_no_progress_for_a_lifetime_ends_the_connection() {
    let (near, far) = duplex(1 << 16);
    let (far, stuck) = Buffered::new(far);
    let server = Server::classic(key(1)).unbound().unwrap();
    let serving = tokio::spawn(async move { server.serve_connection(far, echo).await });
    let client = Client::classic(key(1)).request_timeout(None);
    let client = client.over(near).await.unwrap();
    stuck.store(true, Ordering::Relaxed);
    let (asking, start) = (client.clone(), Instant::now());
    let asking = tokio::spawn(async move { asking.request("a").await });
    // The client lives. The classic wire has no answers to its pings.
    let pinging = tokio::spawn(async move {
        while client.ping().await.is_ok() {
            sleep(Duration::from_secs(10)).await;
        }
    });
    let end = serving.await.unwrap().unwrap();
    assert_eq!((end, start.elapsed().as_secs()), (ConnectionError::Stalled, 60));
    pinging.abort();
    assert!(asking.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_sent_when_it_is_flushed() {
    let (near, far) = duplex(1 << 16);
    let (near, stuck) = Buffered::new(near);
    let server = Server::classic(key(1)).unbound().unwrap();
    tokio::spawn(async move { server.serve_connection(far, echo).await });
    let client = Client::classic(key(1)).over(near).await.unwrap();
    stuck.store(true, Ordering::Relaxed);
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    stuck.store(false, Ordering::Relaxed);
    assert!(client.ping().await.is_ok());
}
