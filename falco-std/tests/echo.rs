//! Messages of many sizes, over sockets of both kinds and over other streams, from one thread and
//! from many.

mod common;

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;

use common::{Running, bounded, client, echo, key};
use falco_std::{Client, Error, Fate, RequestError, Server, Settings, Stream};

fn body(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at * 31 % 251).expect("it is below 251"))
        .collect()
}

fn check_sizes(client: &Client) {
    for length in [0, 1, 2, 16_000, 16_384, 300_000, 1, 0] {
        assert_eq!(
            client.request(body(length)).expect("an answer"),
            body(length),
            "{length} bytes"
        );
    }
}

#[test]
fn echo_over_tcp() {
    bounded(|| {
        let server = Running::echo();
        let client = server.connect();
        check_sizes(&client);
        client.ping().expect("a ping goes");
        check_sizes(&client);
        client.close();
        let report = server.stop();
        assert_eq!(
            (
                report.stats.accepted,
                report.stats.established,
                report.stats.failed,
                report.cut_connections
            ),
            (1, 1, 0, 0)
        );
    });
}

#[cfg(unix)]
#[test]
fn echo_over_a_unix_socket() {
    bounded(|| {
        let path = std::env::temp_dir().join(format!("falco-std-{}.socket", std::process::id()));
        let server = Server::classic(key()).bind_unix(&path).expect("the path is free");
        let handle = server.handle();
        assert_eq!(
            server.local_addr().map_err(|error| error.kind()),
            Err(io::ErrorKind::Unsupported)
        );
        let serving = thread::spawn(move || server.serve(echo).expect("it never fails"));
        let client = client().connect_unix(&path).expect("the server accepts it");
        check_sizes(&client);
        client.close();
        handle.shutdown();
        assert_eq!(serving.join().expect("serve does not panic").stats.established, 1);
        std::fs::remove_file(path).expect("the file stays until it is removed");
    });
}

#[cfg(unix)]
#[test]
fn echo_over_any_stream() {
    use falco_std::{Blocking, ConnectionError};

    bounded(|| {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let server = Server::classic(key()).unbound().expect("there is entropy");
        let serving = thread::spawn(move || server.serve_connection(Blocking(far), echo));
        let client = client().over(Blocking(near)).expect("the server accepts it");
        check_sizes(&client);
        client.ping().expect("a ping goes");
        check_sizes(&client);
        // Such a stream ends only when it is dropped.
        drop(client);
        let ended = serving
            .join()
            .expect("it does not panic")
            .expect("the stream is in order");
        assert_eq!(ended, ConnectionError::ClosedByPeer);
    });
}

#[test]
fn a_client_over_a_given_stream_does_not_reconnect() {
    bounded(|| {
        let server = Running::start(
            Server::classic(key()).settings(common::lifetime(common::millis(1_000))),
            echo,
        );
        let stream = TcpStream::connect(server.address).expect("it listens");
        let client = client().over(stream).expect("the server accepts it");
        assert_eq!(client.request("one").expect("an answer"), b"one");
        thread::sleep(common::millis(1_300));
        for _ in 0..2 {
            let error = client.request("two").expect_err("the server has gone");
            assert_eq!(error.fate(), Fate::NotProcessed, "{error}");
        }
        assert_eq!(server.stop().stats.accepted, 1);
    });
}

#[test]
fn many_threads_share_one_client() {
    bounded(|| {
        let server = Running::echo();
        let client = Arc::new(server.connect());
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let client = Arc::clone(&client);
                thread::spawn(move || {
                    for round in 0..50 {
                        let text = format!("thread {number}, round {round}");
                        assert_eq!(client.request(&text).expect("an answer"), text.as_bytes());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("each thread has its own answers");
        }
        drop(client);
        assert_eq!(server.stop().stats.accepted, 1);
    });
}

#[test]
fn clients_of_one_builder_share_its_key() {
    bounded(|| {
        let server = Running::echo();
        let builder = client();
        let clients: Vec<_> = (0..4)
            .map(|_| builder.clone().connect(server.address).expect("the server accepts it"))
            .collect();
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(
                client.request(number.to_string()).expect("an answer"),
                number.to_string().as_bytes()
            );
        }
        assert_eq!(server.stop().stats.established, 4);
    });
}

#[test]
fn a_request_over_the_clients_limit_is_not_sent_and_the_connection_goes_on() {
    bounded(|| {
        let server = Running::echo();
        let client = client()
            .settings(Settings::new().with_max_message(100))
            .connect(server.address)
            .expect("taken");
        assert_eq!(client.request(body(100)).expect("an answer"), body(100));
        let error = client.request(body(101)).expect_err("it is over the limit");
        assert_eq!(error.fate(), Fate::NotProcessed);
        assert!(
            matches!(
                error,
                Error::Request(RequestError::TooLarge {
                    length: 101,
                    limit: 100
                })
            ),
            "the numbers are told: {error:?}"
        );
        assert_eq!(client.request("after it").expect("an answer"), b"after it");
        assert_eq!(server.stop().stats.accepted, 1, "the connection lived on");
    });
}

#[test]
fn a_request_over_the_servers_limit_ends_its_connection() {
    bounded(|| {
        let settings = Settings::new().with_max_message(100);
        let server = Running::start(Server::classic(key()).settings(settings), echo);
        let client = server.connect();
        assert_eq!(client.request(body(100)).expect("an answer"), body(100));
        client.request(body(101)).expect_err("the server does not take it");
        assert_eq!(client.request("after it").expect("an answer"), b"after it");
        let report = server.stop();
        assert_eq!((report.stats.accepted, report.stats.failed), (2, 0));
    });
}

/// Reads and writes one byte at a time.
struct Dribble(TcpStream);

impl Read for Dribble {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = buf.len().min(1);
        self.0.read(buf.get_mut(..length).unwrap_or_default())
    }
}

impl Write for Dribble {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf.get(..1).unwrap_or_default())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Dribble {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

#[test]
fn bytes_may_come_one_at_a_time() {
    bounded(|| {
        let server = Running::echo();
        let stream = TcpStream::connect(server.address).expect("it listens");
        stream.set_nodelay(true).expect("it is a socket");
        let client = client().over(Dribble(stream)).expect("the server accepts it");
        for length in [0, 1, 500] {
            assert_eq!(client.request(body(length)).expect("an answer"), body(length));
        }
        client.close();
        assert_eq!(server.stop().stats.established, 1);
    });
}
