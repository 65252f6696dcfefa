//! Limits on connections by source and by key, and keys that are revoked.

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, millis, other_key};
use falco_std::{BoxedStream, Client, Fate, Server, Stream};

/// Waits until something is so, for 5 s at most.
#[track_caller]
fn until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < millis(5_000), "it is to happen soon");
        thread::sleep(millis(2));
    }
}

fn client(key: falco_std::Key, address: SocketAddr) -> Client {
    Client::builder(key).connect(address).expect("the server accepts it")
}

#[test]
fn a_revoked_key_loses_its_connections_at_once_and_a_retired_one_drains() {
    bounded(|| {
        let (running, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, seen) = (Arc::clone(&running), Arc::clone(&cancelled));
        let server = Running::start(Server::builder(key()).key(other_key()), move |request| {
            if request.body() == b"for ever" {
                counter.fetch_add(1, Ordering::SeqCst);
                while !request.is_cancelled() {
                    thread::sleep(millis(2));
                }
                seen.fetch_add(1, Ordering::SeqCst);
                counter.fetch_sub(1, Ordering::SeqCst);
            }
            echo(request)
        });
        let leaked = client(key(), server.address);
        let other = client(other_key(), server.address);
        let [cut, goes_on] = [&leaked, &other].map(|client| {
            let client = client.clone();
            thread::spawn(move || client.request("for ever"))
        });
        until(|| running.load(Ordering::SeqCst) == 2);

        // Draining waits for the request that has begun.
        assert!(server.handle.retire_key(key().id()));
        thread::sleep(millis(100));
        assert_eq!(server.handle.stats().connections, 2);
        assert!(!cut.is_finished() && !goes_on.is_finished());
        // Revoking does not, also after that.
        let start = Instant::now();
        assert!(!server.handle.revoke_key(key().id()));
        let error = cut.join().expect("it does not panic").expect_err("it was cut");
        assert!(start.elapsed() < millis(1_000), "at once: {:?}", start.elapsed());
        assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
        until(|| (running.load(Ordering::SeqCst), cancelled.load(Ordering::SeqCst)) == (1, 1));
        until(|| server.handle.stats().connections == 1);
        assert_eq!(server.handle.stats().revoked, 1);
        // The client knows why, and does not get in again; the other goes on.
        let refused = leaked.request("again").expect_err("its key is revoked");
        assert!(refused.is_refused(), "{refused}");
        assert!(!goes_on.is_finished());
        assert_eq!(other.request("in spite of it").expect("an answer"), b"in spite of it");

        assert!(server.handle.revoke_key(other_key().id()));
        let error = goes_on.join().expect("it does not panic").expect_err("it was cut");
        assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
        until(|| server.handle.stats().connections == 0);
        let report = server.stop();
        assert_eq!((report.stats.revoked, report.stats.answers), (2, 1));
        assert_eq!(
            (report.cut_connections, report.cut_requests),
            (0, 0),
            "no shutdown cut them"
        );
    });
}

/// A stream of a client that notes when the client has ended it.
struct Noted(TcpStream, Arc<AtomicUsize>);

impl Read for Noted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Noted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Noted {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(Some(Box::new(Self(self.0.try_clone()?, Arc::clone(&self.1)))))
    }
}

/// A key that has been used for a handshake and one request.
#[test]
fn an_idle_client_of_a_revoked_key_receives_the_reason() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        // The thread that has written the answer may still have the output side of the stream.
        for _ in 0..50 {
            let (address, ended) = (server.address, Arc::new(AtomicUsize::new(0)));
            let noted = Arc::clone(&ended);
            let connect = move || Ok(Noted(TcpStream::connect(address)?, Arc::clone(&noted)));
            let builder = Client::builder(key()).backoff(millis(1), millis(2));
            let client = builder.connect_with(connect);
            let client = client.expect("the server accepts it");
            assert_eq!(client.request("one").expect("an answer"), b"one");
            assert!(server.handle.revoke_key(key().id()));
            until(|| server.handle.stats().connections == 0 && ended.load(Ordering::SeqCst) > 0);
            let start = Instant::now();
            let error = client.request("two").expect_err("its key is revoked");
            // Had it not received the reason, it would try again until its time limit.
            assert!(error.is_refused() && start.elapsed() < millis(5_000), "{error}");
            assert_eq!(error.fate(), Fate::NotProcessed);
            server.handle.add_key(key()).expect("it is not there");
        }
        server.stop();
    });
}

#[test]
fn a_key_gets_no_more_connections_than_its_limit_and_other_keys_do() {
    bounded(|| {
        let builder = Server::builder(key()).key(other_key()).max_connections_per_key(2);
        let server = Running::start(builder, echo);
        let (one, two) = (client(key(), server.address), client(key(), server.address));
        for client in [&one, &two] {
            assert_eq!(client.request("within").expect("an answer"), b"within");
        }
        // The handshake itself is completed, and then the connection is closed.
        let third = Client::builder(key()).backoff(millis(1), millis(20));
        let third = third.connect_lazy(server.address).expect("nothing is done yet");
        let error = third.request("beyond").expect_err("there are two");
        assert_eq!(error.fate(), Fate::NotProcessed, "{error}");
        let stats = server.handle.stats();
        assert!(stats.over_key_limit > 0 && stats.requests == 2, "{stats:?}");
        let other = client(other_key(), server.address);
        assert_eq!(other.request("another key").expect("an answer"), b"another key");
        assert_eq!(one.request("still here").expect("an answer"), b"still here");
        // A place that is given back can be taken.
        one.close();
        until(|| third.request("after all").is_ok());
        server.stop();
    });
}

/// A stream of a client that does not end, whatever the client does.
struct Endless(TcpStream);

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Endless {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Endless {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        Ok(())
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(Some(Box::new(Self(self.0.try_clone()?))))
    }
}

/// Clients of a key at its limit that do not end their streams, as many as there are places.
#[test]
fn clients_over_the_limit_of_their_key_that_do_not_go_leave_their_places_to_others() {
    bounded(|| {
        let builder = Server::builder(key()).key(other_key()).max_connections(10);
        let server = Running::start(builder.max_connections_per_key(2), echo);
        let mut stubborn = Vec::new();
        for number in 0..10 {
            let stream = TcpStream::connect(server.address).expect("it listens");
            let first = Mutex::new(Some(stream.try_clone().expect("a descriptor more")));
            let connect = move || {
                let stream = first.lock().expect("nothing panics").take();
                stream
                    .map(Endless)
                    .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
            };
            let builder = Client::builder(key()).backoff(millis(1), millis(2));
            let client = builder.connect_timeout(millis(500)).connect_with(connect);
            until(|| server.handle.stats().established == number + 1);
            stubborn.push((stream, client));
        }
        until(|| server.handle.stats().over_key_limit == 8);
        let other = client(other_key(), server.address);
        assert_eq!(other.request("another key").expect("an answer"), b"another key");
        let stats = server.handle.stats();
        assert_eq!((stats.rejected, stats.connections), (0, 3), "{stats:?}");
        drop(stubborn);
        server.stop();
    });
}

/// Connects from an address, and sends nothing.
#[cfg(target_os = "linux")]
fn silent(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket more");
    socket
        .bind(&SocketAddr::from((from, 0)).into())
        .expect("it is this host");
    socket.connect(&to.into()).expect("it listens");
    socket.into()
}

/// Any address of 127.0.0.0/8 can be connected from.
#[cfg(target_os = "linux")]
#[test]
fn a_source_has_no_more_half_open_connections_than_its_limit() {
    bounded(|| {
        for (prefix, expected) in [(32, 24), (24, 8)] {
            let builder = Server::builder(key()).max_half_open_per_source(8);
            let server = Running::start(builder.source_prefix(prefix, 64), echo);
            let mut strangers = Vec::new();
            for number in 0..60 {
                strangers.push(silent([127, 1, 1, number % 3], server.address));
                // One at a time, so that each is accepted before the next.
                until(|| server.handle.stats().accepted == u64::from(number) + 1);
            }
            until(|| server.handle.stats().half_open <= expected);
            let stats = server.handle.stats();
            assert_eq!(stats.half_open, expected, "{stats:?}");
            let client = client(key(), server.address);
            assert_eq!(client.request("from elsewhere").expect("an answer"), b"from elsewhere");
            server.stop();
        }
    });
}

/// A recording of a hello is enough for the classic wire after a restart, and a ping keeps the
/// connection. It gets no more than its part of the places.
#[test]
fn the_classic_wire_gets_no_more_than_its_part_of_the_places() {
    bounded(|| {
        let builder = Server::builder(key()).classic(other_key()).max_connections(8);
        let server = Running::start(builder, echo);
        let classic = || Client::classic(other_key()).connect(server.address);
        let mut all: Vec<_> = (0..4).map(|_| classic().expect("it is within")).collect();
        for client in &all {
            assert_eq!(client.request("within").expect("an answer"), b"within");
        }
        for _ in 0..3 {
            classic().expect_err("the other places are for the noise wire");
        }
        assert_eq!(server.handle.stats().over_key_limit, 3);
        until(|| server.handle.stats().connections == 4);
        all.extend((0..4).map(|_| client(key(), server.address)));
        for client in &all {
            assert_eq!(client.request("served").expect("an answer"), b"served");
        }
        // One that leaves makes room for another.
        drop(all.swap_remove(0));
        until(|| server.handle.stats().connections == 7);
        classic().expect("there is a place");
        server.stop();
    });
}

/// A handler cannot be stopped. Until it returns, its request and its connection count, so that a
/// client that comes again and again gets no more of them than one that stays.
#[test]
fn handlers_that_run_on_keep_the_place_and_the_bytes_of_their_connection() {
    bounded(|| {
        let release = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicUsize::new(0));
        let (gate, counter) = (Arc::clone(&release), Arc::clone(&running));
        let builder = Server::builder(key()).workers(8).max_connections(2).max_held(10_000);
        let server = Running::start(builder, move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            while request.body().len() == 6_000 && gate.load(Ordering::SeqCst) == 0 {
                thread::sleep(millis(2));
            }
            counter.fetch_sub(1, Ordering::SeqCst);
            echo(request)
        });
        let stream = TcpStream::connect(server.address).expect("it listens");
        let cut = stream.try_clone().expect("a second handle");
        let leaves = Client::builder(key()).over(stream).expect("it is accepted");
        let asking = thread::spawn(move || leaves.request(vec![7; 6_000]));
        until(|| running.load(Ordering::SeqCst) == 1);
        cut.shutdown(Shutdown::Both).expect("it is open");
        asking
            .join()
            .expect("it does not panic")
            .expect_err("its stream has ended");
        until(|| server.handle.stats().connections == 0);

        let second = client(key(), server.address);
        let busy = second
            .request(vec![7; 6_000])
            .expect_err("6,000 of 10,000 bytes are held");
        assert!(busy.to_string().contains("busy"), "{busy}");
        assert_eq!(second.request("small").expect("an answer"), b"small");
        Client::builder(key())
            .connect(server.address)
            .expect_err("both places are taken");
        assert_eq!(server.handle.stats().rejected, 1);

        release.store(1, Ordering::SeqCst);
        until(|| running.load(Ordering::SeqCst) == 0);
        // The last of a handler to go are its bytes and its place.
        let start = Instant::now();
        while second.request(vec![7; 6_000]).is_err() {
            assert!(start.elapsed() < millis(5_000), "its bytes are free");
        }
        while Client::builder(key()).connect(server.address).is_err() {
            assert!(start.elapsed() < millis(5_000), "its place is free");
        }
        server.stop();
    });
}

/// A drain takes a lifetime at most. The shutdown does not wait for a handler that takes longer.
#[test]
fn a_server_ends_though_a_handler_runs_on() {
    bounded(|| {
        let release = Arc::new(AtomicUsize::new(0));
        let running = Arc::new(AtomicUsize::new(0));
        let (gate, counter) = (Arc::clone(&release), Arc::clone(&running));
        let builder = Server::builder(key()).lifetime(millis(1_000));
        let server = Running::start(builder, move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            while gate.load(Ordering::SeqCst) == 0 {
                thread::sleep(millis(2));
            }
            echo(request)
        });
        let client = client(key(), server.address);
        let asking = thread::spawn(move || client.request("x"));
        until(|| running.load(Ordering::SeqCst) == 1);
        let start = Instant::now();
        server.handle.shutdown();
        let report = server.serving.join().expect("it does not panic");
        assert!(start.elapsed() < millis(10_000), "{:?}", start.elapsed());
        assert_eq!(report.cut_requests, 1);
        release.store(1, Ordering::SeqCst);
        asking
            .join()
            .expect("it does not panic")
            .expect_err("it is not answered");
    });
}

/// A client of one key sends as much as the server holds, and its handlers do not end. A client of
/// another key is served.
#[test]
fn requests_of_one_key_leave_room_to_another() {
    bounded(|| {
        let builder = Server::builder(key()).key(other_key()).max_held(1 << 20);
        let server = Running::start(builder, |request| {
            while request.body().len() == 20_000 && !request.is_cancelled() {
                thread::sleep(millis(2));
            }
            Ok(request.into_body())
        });
        let greedy = Arc::new(client(key(), server.address));
        let asking: Vec<_> = (0..60)
            .map(|_| {
                let greedy = Arc::clone(&greedy);
                thread::spawn(move || greedy.request(vec![7; 20_000]).is_ok())
            })
            .collect();
        until(|| server.handle.stats().busy > 0);
        let other = client(other_key(), server.address);
        let answer = other.request_within(vec![7; 60_000], Duration::from_secs(10));
        assert_eq!(answer.expect("there is room").len(), 60_000);
        server.handle.revoke_key(key().id());
        for asking in asking {
            asking.join().expect("it does not panic");
        }
        server.stop();
    });
}
