//! Streams that panic, that accept bytes only at a flush, or that cannot be split, and handlers
//! whose errors do something when they are dropped. None of them costs more than its own request or
//! its own connection.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, lifetime, millis};
use falco_std::{
    Blocking, BoxedStream, Client, ConnectionError, Error, Fate, Handle, HandlerError, Refusal, RequestError,
};
use falco_std::{Request, Server, Stream};

/// What a [`Faulty`] stream does.
#[derive(Default)]
struct Faults {
    panic_on_read: AtomicBool,
    panic_on_write: AtomicBool,
    /// So many flushes fail with `WouldBlock`.
    blocked_flushes: AtomicUsize,
    flushes: AtomicUsize,
}

/// A TCP stream with faults.
struct Faulty {
    stream: TcpStream,
    splits: bool,
    faults: Arc<Faults>,
}

impl Faulty {
    fn new(stream: TcpStream, splits: bool) -> (Self, Arc<Faults>) {
        let faults = Arc::<Faults>::default();
        let own = Self {
            stream,
            splits,
            faults: Arc::clone(&faults),
        };
        (own, faults)
    }
}

impl Read for Faulty {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buf);
        assert!(
            !self.faults.panic_on_read.load(Ordering::SeqCst),
            "the test wants this panic"
        );
        read
    }
}

impl Write for Faulty {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        assert!(
            !self.faults.panic_on_write.load(Ordering::SeqCst),
            "the test wants this panic"
        );
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.faults.flushes.fetch_add(1, Ordering::SeqCst);
        let blocked = &self.faults.blocked_flushes;
        let left = blocked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.stream.flush()
    }
}

impl Stream for Faulty {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read_ready(buf)
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        if !self.splits {
            return Ok(None);
        }
        let (stream, faults) = (self.stream.try_clone()?, Arc::clone(&self.faults));
        Ok(Some(Box::new(Self {
            stream,
            splits: true,
            faults,
        })))
    }
}

/// A server on the noise wire, and a client of it over a stream with faults.
fn connect(splits: bool) -> (Running, Client, Arc<Faults>) {
    let server = Running::start(Server::builder(key()), |request| {
        if request.body() == b"slow" {
            thread::sleep(millis(500));
        }
        echo(request)
    });
    let (stream, faults) = Faulty::new(TcpStream::connect(server.address).unwrap(), splits);
    let client = Client::builder(key())
        .request_timeout(None)
        .over(stream)
        .expect("the right key");
    (server, client, faults)
}

#[test]
fn a_stream_that_panics_while_it_is_read_fails_the_requests_in_flight() {
    bounded(|| {
        let (server, client, faults) = connect(true);
        assert_eq!(client.request("before").expect("an answer"), b"before");
        faults.panic_on_read.store(true, Ordering::SeqCst);
        let error = client.request("lost").expect_err("the reader panics");
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        assert_eq!(error.fate(), Fate::MaybeProcessed, "{error:?}");
        server.stop();
    });
}

#[test]
fn a_stream_that_panics_while_it_is_written_fails_the_requests_of_other_threads() {
    bounded(|| {
        let (server, client, faults) = connect(true);
        assert_eq!(client.request("before").expect("an answer"), b"before");
        faults.panic_on_write.store(true, Ordering::SeqCst);
        let own = client.clone();
        let panicked = thread::spawn(move || own.request("panics")).join();
        panicked.expect_err("the panic reaches the caller");
        faults.panic_on_write.store(false, Ordering::SeqCst);
        client.request("after").expect_err("the connection has ended");
        server.stop();
    });
}

#[test]
fn a_stream_that_panics_under_one_caller_fails_those_that_wait_for_it() {
    bounded(|| {
        let (server, client, faults) = connect(false);
        faults.panic_on_read.store(true, Ordering::SeqCst);
        let own = client.clone();
        // The answer takes longer than the other caller needs to begin its wait.
        let reads = thread::spawn(move || own.request("slow"));
        while client.stats().outstanding == 0 {
            thread::sleep(millis(1));
        }
        thread::sleep(millis(50));
        client.request("waits").expect_err("the connection has ended");
        reads.join().expect_err("the panic reaches the caller");
        server.stop();
    });
}

#[test]
fn a_flush_that_would_block_is_tried_again() {
    bounded(|| {
        for splits in [true, false] {
            let (server, client, faults) = connect(splits);
            // In this order: the reader may still flush what ends the handshake.
            let before = faults.flushes.load(Ordering::SeqCst);
            faults.blocked_flushes.store(3, Ordering::SeqCst);
            assert_eq!(client.request("hello").expect("an answer"), b"hello", "{splits}");
            // The stream takes the request before it is flushed, so the answer may come earlier.
            while faults.flushes.load(Ordering::SeqCst) < before + 4 {
                thread::sleep(millis(1));
            }
            server.stop();
        }
    });
}

#[test]
fn a_stream_that_does_not_split_is_asked_for_its_end_before_a_request() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let address = server.address;
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let own = Arc::clone(&streams);
        let client = Client::builder(key())
            .connect_with(move || {
                let stream = TcpStream::connect(address)?;
                own.lock().unwrap().push(stream.try_clone()?);
                Ok(Faulty::new(stream, false).0)
            })
            .expect("the right key");
        assert_eq!(client.request("before").expect("an answer"), b"before");
        // The client reads an end of the stream. A request that was sent after it may have been
        // processed.
        streams.lock().unwrap()[0].shutdown(Shutdown::Read).unwrap();
        assert_eq!(client.request("after").expect("a new connection"), b"after");
        assert_eq!(server.stop().stats.requests, 2);
    });
}

#[test]
fn a_write_over_a_stream_that_does_not_split_has_the_agreed_lifetime() {
    bounded(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            let server = Server::builder(key()).unbound().unwrap();
            let start = Instant::now();
            let ended = server.serve_connection(Faulty::new(stream, false).0, |_| Ok(vec![7; 16 << 20]));
            (ended, start.elapsed())
        });
        // Nothing reads the answer: the client's stream panics, and stays open.
        let (stream, faults) = Faulty::new(TcpStream::connect(address).unwrap(), true);
        let open = stream.stream.try_clone().unwrap();
        let client = Client::builder(key())
            .settings(lifetime(millis(1_000)))
            .request_timeout(Some(millis(100)))
            .over(Unending(stream))
            .expect("the right key");
        faults.panic_on_read.store(true, Ordering::SeqCst);
        client.request("much").expect_err("nothing is read");
        let (ended, took) = serving.join().expect("it does not panic");
        assert_eq!(ended.expect("the stream works"), ConnectionError::Stalled);
        assert!(took < millis(5_000), "{took:?}");
        drop(open);
    });
}

/// A stream that cannot be shut down.
struct Unending(Faulty);

impl Read for Unending {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Unending {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Unending {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        let (stream, faults) = (self.0.stream.try_clone()?, Arc::clone(&self.0.faults));
        Ok(Some(Box::new(Self(Faulty {
            stream,
            splits: true,
            faults,
        }))))
    }
}

/// An error that does something when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> fmt::Debug for OnDrop<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDrop")
    }
}

impl<F: Fn()> fmt::Display for OnDrop<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error of the test")
    }
}

impl<F: Fn()> core::error::Error for OnDrop<F> {}

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn assert_failed(client: &Client, body: &str) {
    let error = client.request(body).expect_err("the handler fails");
    assert!(
        matches!(error, Error::Request(RequestError::Refused(Refusal::Failed))),
        "{body}: {error:?}"
    );
}

#[test]
fn an_error_or_a_panic_that_panics_when_it_is_dropped_costs_no_worker() {
    bounded(|| {
        let dropped = || panic!("the test wants this panic");
        let handler = move |request: Request| -> Result<Vec<u8>, HandlerError> {
            match request.body() {
                b"error" => Err(Box::new(OnDrop(dropped))),
                b"panic" => std::panic::panic_any(OnDrop(dropped)),
                _ => Ok(request.into_body()),
            }
        };
        let server = Running::start(Server::builder(key()).workers(1), handler);
        let client = Client::builder(key()).connect(server.address).expect("the right key");
        for _ in 0..3 {
            assert_failed(&client, "error");
            assert_failed(&client, "panic");
        }
        assert_eq!(client.request("after").expect("the worker goes on"), b"after");
        assert_eq!(server.stop().cut_connections, 0);
    });
}

#[test]
fn an_error_that_uses_the_server_when_it_is_dropped_does_not_stop_it() {
    bounded(|| {
        let handle = Arc::new(OnceLock::<Handle>::new());
        let own = Arc::clone(&handle);
        let handler = move |request: Request| -> Result<Vec<u8>, HandlerError> {
            let (own, key_id) = (Arc::clone(&own), request.key_id());
            let retire = move || _ = own.get().unwrap().retire_key(key_id.unwrap());
            Err(Box::new(OnDrop(retire)))
        };
        let server = Running::start(Server::builder(key()), handler);
        handle.set(server.handle.clone()).unwrap();
        let client = Client::builder(key()).connect(server.address).expect("the right key");
        assert_failed(&client, "hello");
        server.stop();
    });
}

/// A stream that sends a request with this client when it is dropped.
struct Asking {
    stream: TcpStream,
    client: Arc<Mutex<Option<Client>>>,
}

impl Read for Asking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Asking {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let client = self.client.lock().unwrap().take();
        if let Some(client) = client {
            assert_eq!(client.request("dropped").expect("an answer"), b"dropped");
        }
    }
}

#[test]
fn a_stream_that_uses_its_client_when_it_is_dropped_does_not_stop_it() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), |request| {
            if request.body() == b"lost" {
                thread::sleep(millis(300));
            }
            echo(request)
        });
        let address = server.address;
        let (asks, streams) = (Arc::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (own_asks, own_streams) = (Arc::clone(&asks), Arc::clone(&streams));
        let client = Client::builder(key())
            .connect_with(move || {
                let stream = TcpStream::connect(address)?;
                own_streams.lock().unwrap().push(stream.try_clone()?);
                let client = Arc::clone(&own_asks);
                Ok(Blocking(Asking { stream, client }))
            })
            .expect("the right key");
        assert_eq!(client.request("before").expect("an answer"), b"before");
        streams.lock().unwrap()[0].shutdown(Shutdown::Read).unwrap();
        client.request("lost").expect_err("the connection has ended");
        // The client drops the first stream when it makes the next connection.
        *asks.lock().unwrap() = Some(client.clone());
        assert_eq!(client.request("after").expect("a new connection"), b"after");
        assert!(asks.lock().unwrap().is_none(), "the stream was dropped");
        server.stop();
    });
}
