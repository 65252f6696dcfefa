//! The last answer of a connection that ends: how long the client may take to read it.

#![cfg(unix)]

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use common::{bounded, key, millis};
use falco_std::{BoxedStream, Client, ConnectionError, Server, Stream};

/// A stream that accepts nothing while its gate is shut.
struct Gated {
    inner: UnixStream,
    shut: Arc<AtomicBool>,
    /// The gate opens after one write has found it shut.
    once: bool,
}

impl Read for Gated {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Gated {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.shut.load(Ordering::SeqCst) {
            thread::sleep(millis(10));
            if self.once {
                self.shut.store(false, Ordering::SeqCst);
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Stream for Gated {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.inner.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        let (inner, shut) = (self.inner.try_clone()?, Arc::clone(&self.shut));
        let once = self.once;
        Ok(Some(Box::new(Self { inner, shut, once })))
    }
}

/// Sends a request whose answer the stream does not accept for this long, while the server shuts
/// down. The client pings after a third of the lifetime. Returns what the client received, what
/// ended the connection, and after how long.
fn late_answer(
    lifetime: Duration,
    shut_for: Duration,
) -> (Result<Vec<u8>, falco_std::Error>, io::Result<ConnectionError>, Duration) {
    let (near, far) = UnixStream::pair().expect("a pair");
    let shut = Arc::new(AtomicBool::new(false));
    let far = Gated {
        inner: far,
        shut: Arc::clone(&shut),
        once: false,
    };
    let server = Server::builder(key())
        .settings(common::lifetime(lifetime))
        .unbound()
        .expect("it is made");
    let handle = server.handle();
    let gate = Arc::clone(&shut);
    let serving = thread::spawn(move || {
        server.serve_connection(far, move |_| {
            handle.shutdown();
            gate.store(true, Ordering::SeqCst);
            Ok(b"late".to_vec())
        })
    });
    let client = Client::builder(key()).over(near).expect("the right key");
    let asking = thread::spawn(move || client.request("answer late"));
    while !shut.load(Ordering::SeqCst) {
        thread::sleep(millis(5));
    }
    let start = Instant::now();
    thread::sleep(shut_for);
    shut.store(false, Ordering::SeqCst);
    let answer = asking.join().expect("it does not panic");
    let ended = serving.join().expect("it does not panic");
    (answer, ended, start.elapsed())
}

#[test]
fn a_ping_while_the_last_answer_is_being_written_does_not_shorten_its_time() {
    bounded(|| {
        // The ping wakes the thread that reads, which finds that the connection has ended.
        let (answer, ended, _) = late_answer(Duration::from_secs(6), millis(4_000));
        assert_eq!(answer.expect("it had a lifetime"), b"late");
        assert_eq!(ended.expect("the stream works"), ConnectionError::Closed);
    });
}

#[test]
fn the_last_answer_has_a_lifetime_and_no_longer() {
    bounded(|| {
        let (answer, _, took) = late_answer(Duration::from_secs(1), millis(4_000));
        assert!(answer.is_err(), "{answer:?}");
        assert!(took < millis(6_000), "{took:?}");
    });
}

#[test]
fn a_write_that_was_blocked_for_a_moment_does_not_end_the_connection_later() {
    bounded(|| {
        let (near, far) = UnixStream::pair().expect("a pair");
        let shut = Arc::new(AtomicBool::new(false));
        let far = Gated {
            inner: far,
            shut: Arc::clone(&shut),
            once: true,
        };
        let settings = common::lifetime(Duration::from_secs(1));
        let server = Server::builder(key()).settings(settings).unbound().expect("it is made");
        let serving = thread::spawn(move || {
            server.serve_connection(far, move |_| {
                shut.store(true, Ordering::SeqCst);
                Ok(b"answer".to_vec())
            })
        });
        let client = Client::builder(key()).over(near).expect("the right key");
        for _ in 0..2 {
            assert_eq!(client.request("ask").expect("an answer"), b"answer");
            // The client pings meanwhile.
            thread::sleep(millis(1_500));
        }
        client.close();
        let ended = serving.join().expect("it does not panic");
        assert_eq!(ended.expect("the stream works"), ConnectionError::Closed);
    });
}
