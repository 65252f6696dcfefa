//! What several streams have to send at the same time goes out together, also on a runtime that
//! runs the task of a connection right after the task that has woken it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};
use std::io;
use std::sync::Arc;

use common::key;
use common::streaming::{echo, soon};
use falco_tokio::{Client, Request, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::{mpsc, watch};

const STREAMS: usize = 40;
const ROUNDS: usize = 20;

/// A stream that counts the writes of its connection.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// All tasks are woken at once, and each sends a few bytes and waits for their echo.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_many_streams_send_at_once_is_written_together() {
    let (near, far) = duplex(1 << 20);
    let writes: [Arc<AtomicUsize>; 2] = Default::default();
    let [near, far] = [(near, &writes[0]), (far, &writes[1])].map(|(stream, writes)| {
        let writes = Arc::clone(writes);
        Counted { stream, writes }
    });
    let serving = tokio::spawn(async move {
        let server = Server::builder(key(1)).streams(64 << 10, 100).unbound().unwrap();
        let whole = |request: Request| async move { Ok(request.into_body()) };
        server.serve_connection_streams(far, whole, echo).await
    });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let (begin, round) = watch::channel(0);
    let (to, mut done) = mpsc::unbounded_channel();
    let mut callers = Vec::new();
    for number in 0..STREAMS {
        let mut call = soon(client.open("")).await.unwrap();
        let (mut round, to) = (round.clone(), to.clone());
        callers.push(tokio::spawn(async move {
            while round.changed().await.is_ok() {
                call.send(format!("{number}")).await.unwrap();
                assert_eq!(call.next().await.unwrap().unwrap(), format!("{number}"));
                to.send(()).unwrap();
            }
            call.finish().unwrap();
            assert!(call.next().await.is_none());
        }));
    }
    let count = || writes.each_ref().map(|writes| writes.load(Ordering::Relaxed));
    let before = count();
    for number in 1..=ROUNDS {
        begin.send(number).unwrap();
        for _ in 0..STREAMS {
            soon(done.recv()).await.unwrap();
        }
    }
    let after = count();
    drop(begin);
    for caller in callers {
        soon(caller).await.unwrap();
    }
    client.close().await;
    soon(serving).await.unwrap().unwrap();
    for (before, after) in before.into_iter().zip(after) {
        let each = after - before;
        assert!(
            each <= STREAMS * ROUNDS / 2,
            "{each} writes of {ROUNDS} times {STREAMS} chunks"
        );
    }
}
