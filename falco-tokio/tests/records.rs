//! How many bytes and writes a message takes, over streams that take any number of bytes at a time.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use common::key;
use falco_tokio::{Client, Request, Server, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What went into a stream.
#[derive(Clone, Default)]
struct Count(Arc<(AtomicUsize, AtomicUsize)>);

impl Count {
    /// Bytes, and the calls that took them.
    fn take(&self) -> (usize, usize) {
        (self.0.0.swap(0, Ordering::Relaxed), self.0.1.swap(0, Ordering::Relaxed))
    }
}

/// A stream that takes at most so many bytes at a time, and may take nothing every other time.
struct Narrow<S> {
    inner: S,
    takes: usize,
    may_rest: bool,
    rests: bool,
    count: Count,
}

impl<S> Narrow<S> {
    fn new(inner: S, takes: usize, may_rest: bool) -> (Self, Count) {
        let (rests, count) = (false, Count::default());
        let stream = Self {
            inner,
            takes,
            may_rest,
            rests,
            count: count.clone(),
        };
        (stream, count)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Narrow<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Narrow<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.rests = self.may_rest && !self.rests;
        if self.rests {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let takes = buf.len().min(self.takes);
        let (now, _) = buf.split_at(takes);
        let took = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, now))?;
        self.count.0.0.fetch_add(took, Ordering::Relaxed);
        self.count.0.1.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(took))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Serves one connection, which ends as its client closes it.
fn serve(stream: impl Stream + 'static) -> tokio::task::JoinHandle<()> {
    let server = Server::builder(key(1)).unbound().unwrap();
    tokio::spawn(async move {
        let handler = |request: Request| async move { Ok(request.into_body()) };
        server.serve_connection(stream, handler).await.unwrap();
    })
}

/// Both directions of one connection, with what each side has written.
async fn pair(takes: usize, holds: usize) -> (Client, [Count; 2], tokio::task::JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(holds);
    let ((near, ours), (far, theirs)) = (Narrow::new(near, takes, true), Narrow::new(far, takes, true));
    let serving = serve(far);
    let client = Client::builder(key(1)).over(near).await.unwrap();
    client.request("hello").await.unwrap();
    ours.take();
    theirs.take();
    (client, [ours, theirs], serving)
}

/// Each record carries as much as a buffer holds, whatever the stream took before it.
#[tokio::test]
async fn the_size_of_records_does_not_depend_on_what_the_stream_takes() {
    let steps = [
        1, 2, 3, 5, 7, 13, 26, 64, 127, 997, 4_096, 16_381, 32_768, 65_521, 65_535, 65_536, 65_537, 65_539, 98_303,
        98_304, 131_072,
    ];
    for takes in steps {
        let (client, counts, serving) = pair(takes, 1 << 20).await;
        // Of tiny steps a small part of a megabyte takes long enough.
        for length in [1, 1_000, 70_000, (takes * 40_000).min(1 << 20)] {
            let body = vec![7_u8; length];
            let answer = client.request(body.clone()).await.unwrap();
            assert!(answer == body, "{length} bytes");
            for (count, side) in counts.iter().zip(["client", "server"]) {
                let (bytes, writes) = count.take();
                // A record has 65,535 bytes at the most, and 25 of them are not the body's; a
                // buffer holds one and the beginning of another.
                let records = length / 32_000 + 2;
                assert!(
                    bytes <= length + records * 25,
                    "{side}, {takes} at a time: {bytes} bytes for {length}"
                );
                let least = bytes / takes;
                assert!(
                    writes <= least + records,
                    "{side}, {takes} at a time: {writes} writes for {bytes} bytes, and {least} would do"
                );
            }
        }
        client.close().await;
        serving.await.unwrap();
    }
}

/// What was measured when this was found: an answer of a megabyte through an in-memory stream took
/// 25 MB and 600 ms where the stream held 65,536 bytes.
#[tokio::test]
async fn a_megabyte_takes_a_megabyte_however_much_the_stream_holds() {
    for holds in [1_024, 65_521, 65_536, 98_000, 98_304, 131_072] {
        let (client, [_, theirs], serving) = pair(usize::MAX, holds).await;
        let began = std::time::Instant::now();
        assert_eq!(client.request(vec![7; 1 << 20]).await.unwrap().len(), 1 << 20);
        let (bytes, writes) = theirs.take();
        println!("holds {holds}: {bytes} bytes, {writes} writes, {:?}", began.elapsed());
        assert!(bytes < (1 << 20) + 1_000, "holds {holds}: {bytes} bytes");
        client.close().await;
        serving.await.unwrap();
    }
}

/// The first request of a caller that has waited for the connection needs no write of its own.
#[tokio::test]
async fn the_first_request_is_written_with_the_first_ping() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (near, ours) = Narrow::new(near, usize::MAX, false);
    let serving = serve(far);
    let client = Client::builder(key(1)).over(near).await.unwrap();
    client.request("hello").await.unwrap();
    let (_, writes) = ours.take();
    assert_eq!(writes, 2, "the hello, and the request with the ping");
    client.close().await;
    serving.await.unwrap();
}

/// A client that has much to send, over a stream that takes all of it at once, still hears the
/// server.
#[tokio::test]
async fn a_side_that_keeps_writing_reads_too() {
    let (near, far) = tokio::io::duplex(64 << 20);
    let (near, _) = Narrow::new(near, 100, false);
    let serving = serve(far);
    let client = Client::builder(key(1)).over(near).await.unwrap();
    // 40,000 writes of 100 bytes and more.
    let large = tokio::spawn({
        let client = client.clone();
        async move { client.request(vec![7; 4 << 20]).await.unwrap().len() }
    });
    tokio::task::yield_now().await;
    let mut answered = 0;
    while !large.is_finished() {
        assert_eq!(client.request("small").await.unwrap(), "small");
        answered += 1;
        assert!(answered < 100_000);
        tokio::time::sleep(Duration::ZERO).await;
    }
    assert_eq!(large.await.unwrap(), 4 << 20);
    assert!(answered > 5, "{answered} small requests were answered meanwhile");
    client.close().await;
    serving.await.unwrap();
}

/// A runtime with several threads runs a connection's task right after the task that woke it, so
/// that each request would be a write of its own.
#[test]
fn requests_that_many_tasks_submit_are_sent_together_while_others_are_outstanding() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    // The server has a thread of its own: the client's is to wake no task but the client's.
    let (of_server, of_client) = (runtime(), runtime());
    let (address, serving) = of_server.block_on(async {
        let server = Server::builder(key(1)).bind("127.0.0.1:0").await.unwrap();
        let handler = |request: Request| async move {
            if request.body() == "held" {
                request.cancelled().await;
            }
            Ok(request.into_body())
        };
        (server.local_addr().unwrap(), tokio::spawn(server.serve(handler)))
    });
    // All tasks of the client run on the one worker.
    let writes = of_client.spawn(async move {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, ours) = Narrow::new(stream, usize::MAX, false);
        let client = Client::builder(key(1)).over(stream).await.unwrap();
        let outstanding = tokio::spawn({
            let client = client.clone();
            async move { client.request("held").await }
        });
        tokio::task::yield_now().await;
        client.request("small").await.unwrap();
        ours.take();
        let small = |_| {
            let client = client.clone();
            tokio::spawn(async move { client.request("small").await.unwrap() })
        };
        let callers: Vec<_> = (0..100).map(small).collect();
        for caller in callers {
            caller.await.unwrap();
        }
        outstanding.abort();
        ours.take().1
    });
    let writes = of_client.block_on(writes).unwrap();
    assert!(writes <= 20, "{writes} writes for 100 requests");
    serving.abort();
}
