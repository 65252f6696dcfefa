//! What falco-std and falco-tokio both promise about the end of a client, of a connection and of a
//! server. The file of the same name in falco-tokio has the same tests with `await`.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

use common::{Running, bounded};
use falco_std::{Client, ConnectionError, Error, Fate, Key, Request, Server, ServerBuilder, Stream, StreamRequest};

fn key(number: u8) -> Key {
    Key::from_bytes([number; 32]).unwrap()
}

/// A server that returns each body.
fn echo(builder: ServerBuilder) -> Running {
    Running::start(builder, common::echo)
}

fn client(server: &Running) -> Client {
    Client::builder(key(1)).connect(server.address).unwrap()
}

#[test]
fn a_client_that_was_closed_is_closed_for_all_its_clones_and_says_so() {
    bounded(|| {
        let server = echo(Server::builder(key(1)));
        let client = client(&server);
        let clone = client.clone();
        assert_eq!(clone.request("before").unwrap(), b"before");
        client.close();
        for client in [&client, &clone] {
            for failed in [
                client.request("after").map(drop),
                client.request_within("after", Duration::from_secs(1)).map(drop),
                client.ping().map(drop),
                client.set_key(key(1)),
            ] {
                let error = failed.unwrap_err();
                assert!(matches!(error, Error::Closed), "{error:?}");
                assert_eq!(error.fate(), Fate::NotProcessed);
            }
        }
        clone.close();
        assert_eq!(server.stop().stats.requests, 1);
    });
}

#[test]
fn a_request_that_has_begun_gets_its_answer_though_the_client_is_closed() {
    bounded(|| {
        let slow = |request: Request| {
            thread::sleep(Duration::from_millis(1500));
            Ok(request.into_body())
        };
        let server = Running::start(Server::builder(key(1)), slow);
        let client = client(&server);
        let clone = client.clone();
        let waiting = thread::spawn(move || clone.request("slow"));
        while server.handle.stats().requests == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        client.close();
        assert_eq!(waiting.join().unwrap().unwrap(), b"slow");
        let report = server.stop();
        assert_eq!((report.cut_connections, report.stats.answers), (0, 1));
    });
}

#[test]
fn a_connection_ends_when_the_last_clone_is_dropped() {
    bounded(|| {
        let server = echo(Server::builder(key(1)));
        let first = client(&server);
        let second = first.clone();
        drop(first);
        assert_eq!(second.request("still there").unwrap(), b"still there");
        assert_eq!(server.handle.stats().connections, 1);
        drop(second);
        while server.handle.stats().connections > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        server.stop();
    });
}

#[test]
fn requests_that_wait_behind_others_get_their_answers_though_the_client_is_closed() {
    bounded(|| {
        let slow = |request: Request| {
            thread::sleep(Duration::from_millis(200));
            Ok(request.into_body())
        };
        for (server, client) in [
            (Server::builder(key(1)).max_in_flight(1), Client::builder(key(1))),
            (Server::classic(key(1)), Client::classic(key(1))),
        ] {
            let server = Running::start(server, slow);
            let client = client.connect(server.address).unwrap();
            let waiting: Vec<_> = (0..4)
                .map(|_| {
                    let client = client.clone();
                    thread::spawn(move || client.request("x"))
                })
                .collect();
            while client.stats().outstanding < 4 || server.handle.stats().requests == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            // The last of them may be counted and not submitted yet.
            thread::sleep(Duration::from_millis(50));
            client.close();
            for request in waiting {
                assert_eq!(request.join().unwrap().unwrap(), b"x");
            }
            let report = server.stop();
            assert_eq!((report.stats.answers, report.stats.established), (4, 1));
        }
    });
}

#[test]
fn a_shutdown_counts_half_open_connections_as_unauthenticated() {
    bounded(|| {
        let server = echo(Server::builder(key(1)));
        let silent = [(); 2].map(|()| TcpStream::connect(server.address).unwrap());
        while server.handle.stats().half_open < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        let report = server.stop();
        assert_eq!((report.stats.unauthenticated, report.cut_connections), (2, 0));
        drop(silent);
    });
}

#[test]
fn a_shutdown_with_a_limit_says_what_it_cut() {
    bounded(|| {
        let handler = |request: Request| {
            // Until the connection is cut.
            while !request.is_cancelled() {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(request.into_body())
        };
        let server = Running::start(Server::builder(key(1)), handler);
        let client = client(&server);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let client = client.clone();
                thread::spawn(move || client.request("never"))
            })
            .collect();
        while server.handle.stats().requests < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        server.handle.shutdown_within(Duration::from_millis(50));
        let report = server.serving.join().unwrap();
        assert_eq!((report.cut_connections, report.cut_requests), (1, 3));
        assert_eq!((report.stats.requests, report.stats.answers), (3, 0));
        // A handler cannot be interrupted, and is counted when it has returned.
        while server.handle.stats().cancelled < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        for request in waiting {
            assert_eq!(request.join().unwrap().unwrap_err().fate(), Fate::MaybeProcessed);
        }
    });
}

/// The server reads less than the client has sent. Even so, the stream ends without a reset, so a
/// client knows that nothing was processed.
#[test]
fn a_client_without_the_key_is_not_reset() {
    bounded(|| {
        let noise = echo(Server::builder(key(1)));
        let classic = echo(Server::classic(key(1)));
        for address in [noise.address, classic.address] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&[0x4e; 1_000]).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            thread::sleep(Duration::from_millis(100));
            assert!(received.is_empty());
            // Where the end has arrived first, a reset shows only here.
            assert!(stream.take_error().unwrap().is_none());
        }
        let error = Client::classic(key(1)).connect(noise.address).unwrap_err();
        assert!(error.is_refused(), "{error:?}");
    });
}

/// A stream that is reset when its peer ends it.
struct Reset(TcpStream);

impl io::Read for Reset {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.0.read(to) {
            Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
            read => read,
        }
    }
}

impl io::Write for Reset {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Reset {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<falco_std::BoxedStream>> {
        Ok(Some(Box::new(Self(self.0.try_clone()?))))
    }
}

#[test]
fn the_handler_of_an_open_request_receives_the_error_of_a_stream_that_fails() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cut = stream.try_clone().unwrap();
        let (guest, (to, ends)) = (listener.accept().unwrap().0, mpsc::channel());
        let server = Server::builder(key(1)).streams(64 << 10, 4).unbound().unwrap();
        let serving = thread::spawn(move || {
            server.serve_connection_streams(Reset(guest), common::echo, move |mut request: StreamRequest| {
                request.answer.send("begun")?;
                to.send(request.body.next().unwrap().unwrap_err())?;
                to.send(request.answer.send("late").unwrap_err())?;
                Ok(())
            })
        });
        let client = Client::builder(key(1)).over(stream).unwrap();
        let mut call = client.open("").unwrap();
        assert_eq!(call.next().unwrap().unwrap(), b"begun");
        cut.shutdown(Shutdown::Both).unwrap();
        for half in ["body", "answer"] {
            let end = ends.recv().unwrap();
            let reset = matches!(&end, Error::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionReset);
            assert!(reset && end.fate() == Fate::MaybeProcessed, "{half}: {end:?}");
        }
        assert!(serving.join().unwrap().is_err());
    });
}

/// Both ends of a connection whose client has sent part of a classic hello.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(&[0; 10]).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Reads the end of the stream, which is no reset.
fn assert_ended(mut client: TcpStream) {
    assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
    assert!(client.take_error().unwrap().is_none());
}

#[test]
fn a_server_that_shuts_down_closes_guests_without_a_handshake() {
    bounded(|| {
        let server = Arc::new(Server::classic(key(1)).unbound().unwrap());
        let handle = server.handle();
        let ((before, stream), own) = (pair(), Arc::clone(&server));
        let serving = thread::spawn(move || own.serve_connection(stream, common::echo));
        while handle.stats().connections == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        handle.shutdown();
        assert_eq!(serving.join().unwrap().unwrap(), ConnectionError::Closed);
        assert_ended(before);
        // One that arrives later.
        let (after, stream) = pair();
        let ended = server.serve_connection(stream, common::echo);
        assert_eq!(ended.unwrap(), ConnectionError::Closed);
        assert_ended(after);
        assert_eq!(handle.stats().connections, 0);
    });
}
