//! Streams that fail at each write and at each read in turn. The connection ends with that error,
//! which all its callers receive, and other connections are not affected. Also a stream whose flush
//! takes a while.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex};

use common::key;
use falco_tokio::{Client, Error, Fate, Request, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Errors by their numbers in the system; 0 stands for a write that takes nothing.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const TAKES_NOTHING: i32 = 0;
/// Calls of each kind that a connection with two requests makes at the most; at some of these it
/// fails no more.
const CALLS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);

/// A stream whose `fails_at`th call of a kind fails, and all after it.
struct Faulty {
    inner: DuplexStream,
    reading: bool,
    error: i32,
    fails_at: usize,
    calls: usize,
}

impl Faulty {
    fn new(inner: DuplexStream, reading: bool, error: i32, fails_at: usize) -> Self {
        Self {
            inner,
            reading,
            error,
            fails_at,
            calls: 0,
        }
    }

    fn fails(&mut self, reading: bool) -> bool {
        let counts = self.reading == reading;
        self.calls += usize::from(counts);
        counts && self.calls > self.fails_at
    }
}

impl AsyncRead for Faulty {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.fails(true) {
            return Poll::Ready(Err(io::Error::from_raw_os_error(self.error)));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Faulty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.fails(false) {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        Poll::Ready(match self.error {
            TAKES_NOTHING => Ok(0),
            error => Err(io::Error::from_raw_os_error(error)),
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// All ways to fail: whether it is a read, with which error, at which call.
fn faults() -> impl Iterator<Item = (bool, i32, usize)> {
    let kinds = [(false, ENOSPC), (false, EIO), (false, TAKES_NOTHING), (true, EIO)];
    kinds
        .into_iter()
        .flat_map(|(reading, error)| (0..CALLS).map(move |fails_at| (reading, error, fails_at)))
}

/// Whether it is the error that the stream fails with.
fn is_it(found: &io::Error, error: i32) -> bool {
    if error == TAKES_NOTHING {
        return found.kind() == io::ErrorKind::WriteZero;
    }
    found.raw_os_error() == Some(error) || found.kind() == io::Error::from_raw_os_error(error).kind()
}

/// A server, and what it has processed.
fn server() -> (Arc<Server>, Arc<Mutex<Vec<String>>>) {
    (Arc::new(Server::builder(key(1)).unbound().unwrap()), Arc::default())
}

/// Serves one connection, noting what is processed.
async fn serve(
    server: Arc<Server>,
    noted: Arc<Mutex<Vec<String>>>,
    stream: impl falco_tokio::Stream + 'static,
) -> io::Result<falco_tokio::ConnectionError> {
    let handler = move |request: Request| {
        let text = str::from_utf8(request.body()).unwrap().to_owned();
        noted.lock().unwrap().push(text);
        async move { Ok(request.into_body()) }
    };
    server.serve_connection(stream, handler).await
}

/// Whether what the caller was told agrees with what was processed.
fn check(said: &Result<(), Error>, number: usize, noted: &Mutex<Vec<String>>, fault: (bool, i32, usize)) {
    let times = noted
        .lock()
        .unwrap()
        .iter()
        .filter(|text| **text == number.to_string())
        .count();
    match said {
        Ok(()) => assert_eq!(times, 1, "{fault:?}"),
        Err(error) if error.fate() == Fate::NotProcessed => assert_eq!(times, 0, "{fault:?}: {error}"),
        Err(_) => assert!(times <= 1, "{fault:?}"),
    }
}

#[tokio::test]
async fn a_server_ends_the_connection_whose_stream_fails_and_no_other() {
    let (server, noted) = server();
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(serve(Arc::clone(&server), Arc::clone(&noted), far));
    let other = Client::builder(key(1)).over(near).await.unwrap();
    let (mut failed, mut next) = (0, 0);
    for fault @ (reading, error, fails_at) in faults() {
        let (near, far) = tokio::io::duplex(4096);
        let far = Faulty::new(far, reading, error, fails_at);
        let serving = tokio::spawn(serve(Arc::clone(&server), Arc::clone(&noted), far));
        if let Ok(client) = Client::builder(key(1)).over(near).await {
            for _ in 0..2 {
                next += 1;
                let answer = tokio::time::timeout(PATIENCE, client.request(next.to_string()));
                let said = answer.await.expect("an error is to be told soon").map(drop);
                check(&said, next, &noted, fault);
            }
            client.close().await;
        }
        let ended = tokio::time::timeout(PATIENCE, serving)
            .await
            .expect("the connection is to end");
        if let Err(found) = ended.unwrap() {
            failed += 1;
            assert!(is_it(&found, error), "{fault:?}: {found}");
        }
        assert_eq!(other.request("not disturbed").await.unwrap(), "not disturbed");
    }
    // Welcome, two answers: at least so many calls of each kind meet the fault.
    assert!(failed >= 4 * 3, "{failed}");
    println!("{failed} connections failed");
}

#[tokio::test]
async fn callers_receive_the_error_of_a_stream_that_fails() {
    let (server, noted) = server();
    let (mut failed, mut next) = (0, 0);
    for fault @ (reading, error, fails_at) in faults() {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(serve(Arc::clone(&server), Arc::clone(&noted), far));
        let near = Faulty::new(near, reading, error, fails_at);
        let opening = tokio::time::timeout(PATIENCE, Client::builder(key(1)).over(near));
        match opening.await.expect("an error is to be told soon") {
            Err(Error::Io { source, fate, .. }) => {
                failed += 1;
                assert!(is_it(&source, error), "{fault:?}: {source}");
                assert_eq!(fate, Fate::NotProcessed);
            }
            Err(other) => panic!("{fault:?}: {other}"),
            Ok(client) => {
                for _ in 0..2 {
                    next += 1;
                    let answer = tokio::time::timeout(PATIENCE, client.request(next.to_string()));
                    let said = answer.await.expect("an error is to be told soon").map(drop);
                    check(&said, next, &noted, fault);
                    failed += usize::from(said.is_err());
                }
            }
        }
    }
    assert!(failed >= 4 * 3, "{failed}");
    println!("{failed} errors were told");
}

#[tokio::test]
async fn a_client_takes_another_stream_where_one_has_failed() {
    let (server, noted) = server();
    let mut next = 0;
    for fault @ (reading, error, fails_at) in faults() {
        let dialed = Arc::new(AtomicUsize::new(0));
        let (dials, server, noting) = (Arc::clone(&dialed), Arc::clone(&server), Arc::clone(&noted));
        // The first stream stands long enough to connect; the third stays whole.
        let dial = move || {
            let (near, far) = tokio::io::duplex(4096);
            tokio::spawn(serve(Arc::clone(&server), Arc::clone(&noting), far));
            let number = dials.fetch_add(1, Ordering::Relaxed);
            let fails_at = if number >= 2 {
                usize::MAX
            } else {
                fails_at + 4 * usize::from(number == 0)
            };
            core::future::ready(Ok(Faulty::new(near, reading, error, fails_at)))
        };
        let backoff = Duration::from_millis(1);
        let client = Client::builder(key(1))
            .backoff(backoff, backoff)
            .connect_with(dial)
            .await
            .unwrap();
        let mut ends = Vec::new();
        for _ in 0..12 {
            next += 1;
            let answer = tokio::time::timeout(PATIENCE, client.request(next.to_string()));
            let said = answer.await.expect("an error is to be told soon").map(drop);
            check(&said, next, &noted, fault);
            ends.push(said.is_ok());
        }
        // Two streams fail, and each takes one request with it at the most.
        assert!(ends.iter().filter(|right| **right).count() >= 10, "{fault:?}: {ends:?}");
    }
}

/// A stream that takes a while to flush.
struct Slow {
    inner: DuplexStream,
    unflushed: Arc<AtomicBool>,
    flush: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.unflushed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed.load(Ordering::Relaxed) {
            let takes = || Box::pin(tokio::time::sleep(Duration::from_millis(50)));
            ready!(self.flush.get_or_insert_with(takes).as_mut().poll(cx));
            self.flush = None;
            self.unflushed.store(false, Ordering::Relaxed);
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn no_handler_is_called_before_the_greeting_was_flushed() {
    let (near, inner) = tokio::io::duplex(4096);
    let unflushed = Arc::new(AtomicBool::new(false));
    let far = Slow {
        inner,
        unflushed: Arc::clone(&unflushed),
        flush: None,
    };
    tokio::spawn(async move {
        let (server, _) = server();
        let handler = move |_: Request| {
            let flushed = !unflushed.load(Ordering::Relaxed);
            async move { Ok(vec![u8::from(flushed)]) }
        };
        server.serve_connection(far, handler).await
    });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.request("at once"));
    assert_eq!(answer.await.expect("the flush ends").unwrap(), [1][..]);
}
