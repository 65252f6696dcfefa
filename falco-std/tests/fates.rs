//! The fate of requests whose connection is lost before the greeting, and of those that a server
//! refuses because it holds less than the client has in flight.

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use common::{Running, at_once, bounded, echo, key, millis};
use falco_core::keys::Secrets;
use falco_core::testing::CountingRng;
use falco_core::{Instant, Received, RecvBuf, ServerConnection};
use falco_std::{Client, Error, Fate, Server, Settings, Stream};

/// Shakes hands, reads until more than the proof has come, and sends nothing.
fn welcome(stream: &mut TcpStream) {
    let secrets = Secrets {
        noise: vec![key()],
        ..Secrets::default()
    };
    let keys = secrets.into_server(&mut CountingRng::new(3)).expect("there is a key");
    let (now, settings) = (Instant::ZERO, Settings::new());
    let machine = ServerConnection::new(Arc::new(keys), &settings, now, &mut CountingRng::new(4));
    let (mut machine, mut inbox, mut out) = (machine.expect("entropy"), RecvBuf::new(Vec::new()), [0; 64]);
    loop {
        match machine.recv(now, inbox.unread()).expect("the client is in order") {
            Received::NeedMore { total } => {
                let space = inbox.space(total).expect("it grows");
                let count = stream.read(space).expect("there is more");
                inbox.filled(count);
            }
            Received::Skip => {}
            Received::Wait(_) => {
                let length = machine.poll_transmit(now, &mut out).expect("there is room");
                stream
                    .write_all(out.get(..length).expect("it is a welcome"))
                    .expect("it goes");
                break;
            }
            Received::Event(_) | _ => panic!("nothing of this comes in a hello"),
        }
    }
    // The proof is a record of 33 bytes.
    let mut read = 0;
    while read <= 33 {
        read += stream.read(&mut [0; 4_096]).expect("a request follows");
    }
}

/// Ends the first connection after the client's first request, with or without a reset, and
/// forwards the others to `server`.
fn ends_the_first(server: SocketAddr, reset: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        let (mut first, _) = listener.accept().expect("a client comes");
        welcome(&mut first);
        if reset {
            let socket = socket2::SockRef::from(&first);
            socket.set_linger(Some(Duration::ZERO)).expect("it is a socket");
        }
        drop(first);
        while let Ok((client, _)) = listener.accept() {
            let server = TcpStream::connect(server).expect("it listens");
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (
                    from.try_clone().expect("it is a socket"),
                    to.try_clone().expect("it is a socket"),
                );
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    address
}

/// A stream that does not split.
struct Whole(TcpStream);

impl Read for Whole {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Whole {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Whole {
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

fn connect(address: SocketAddr, split: bool) -> Client {
    let builder = Client::builder(key());
    let client = if split {
        builder.connect(address)
    } else {
        builder.connect_with(move || TcpStream::connect(address).map(Whole))
    };
    client.expect("it shakes hands")
}

#[test]
fn an_end_of_the_stream_before_the_greeting_means_not_processed() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        for split in [true, false] {
            let client = connect(ends_the_first(server.address, false), split);
            let answer = client.request("hello");
            assert_eq!(answer.expect("it moves to the next connection"), b"hello", "{split}");
        }
        server.stop();
    });
}

#[test]
fn a_reset_means_maybe_processed() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        for split in [true, false] {
            let client = connect(ends_the_first(server.address, true), split);
            let error = client.request("hello").expect_err("it may have been processed");
            assert!(matches!(error, Error::Io { .. }), "{split}: {error:?}");
            assert_eq!(error.fate(), Fate::MaybeProcessed, "{split}");
            // The client goes on.
            assert_eq!(client.request("again").expect("an answer"), b"again", "{split}");
        }
        server.stop();
    });
}

/// A stream that splits, and accepts this many bytes in all.
struct Limited {
    stream: TcpStream,
    left: Arc<AtomicUsize>,
}

impl Read for Limited {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Limited {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let written = self.stream.write(buf.get(..left).unwrap_or(buf))?;
        self.left.fetch_sub(written, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Limited {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<falco_std::BoxedStream>> {
        let (stream, left) = (self.stream.try_clone()?, Arc::clone(&self.left));
        Ok(Some(Box::new(Self { stream, left })))
    }
}

#[test]
fn an_end_of_the_stream_after_a_failed_write_means_maybe_processed() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, request) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            welcome(&mut stream);
            seen.send(()).expect("the test waits");
            while let Ok(1..) = stream.read(&mut [0; 4_096]) {}
        });
        // Hello, proof and the first request, and a part of the second.
        let left = Arc::new(AtomicUsize::new(74 + 33 + 30 + 10));
        let stream = TcpStream::connect(address).expect("it listens");
        let client = Client::builder(key()).over(Limited { stream, left });
        let client = Arc::new(client.expect("it shakes hands"));
        let own = Arc::clone(&client);
        let first = thread::spawn(move || own.request("first").expect_err("nobody answers"));
        request.recv().expect("the first request comes");
        client.request("second").expect_err("it does not go whole");
        let first = first.join().expect("it does not panic");
        assert_eq!(first.fate(), Fate::MaybeProcessed, "{first:?}");
    });
}

#[test]
fn a_client_with_default_settings_has_no_more_in_flight_than_a_server_holds() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), |request| {
            thread::sleep(millis(20));
            echo(request)
        });
        let client = Client::builder(key()).connect(server.address).expect("it shakes hands");
        let body = vec![7; 1 << 20];
        for (answer, _) in at_once(100, move || client.request(&body).map(|answer| answer == body)) {
            assert!(answer.expect("it is held back until there is room"));
        }
        server.stop();
    });
}

#[test]
fn a_request_refused_because_the_server_holds_less_goes_again_on_the_same_connection() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let settings = Settings::new().with_max_message(1 << 20).with_max_held(1 << 20);
        let server = Running::start(Server::builder(key()).settings(settings), move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            thread::sleep(millis(50));
            echo(request)
        });
        let client = Client::builder(key()).connect(server.address).expect("it shakes hands");
        let body = vec![7; 400_000];
        for (answer, _) in at_once(12, move || client.request(&body).map(|answer| answer == body)) {
            assert!(answer.expect("it goes when there is room"));
        }
        assert_eq!((server.stop().stats.accepted, ran.load(Ordering::SeqCst)), (1, 12));
    });
}

/// A stream that accepts its second write, which is the greeting, only after a while.
struct Held {
    stream: TcpStream,
    writes: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

impl Read for Held {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Held {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if (1..20).contains(&self.writes.fetch_add(1, Ordering::SeqCst)) {
            thread::sleep(millis(20));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = self.stream.write(buf)?;
        self.taken.fetch_add(1, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Held {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<falco_std::BoxedStream>> {
        let (writes, taken) = (Arc::clone(&self.writes), Arc::clone(&self.taken));
        let stream = self.stream.try_clone()?;
        Ok(Some(Box::new(Self { stream, writes, taken })))
    }
}

#[test]
fn no_handler_is_called_before_the_greeting_was_written() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let taken = Arc::new(AtomicUsize::new(0));
        let (own, seen) = (Arc::clone(&taken), Arc::clone(&taken));
        let serving = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client comes");
            let server = Server::builder(key()).unbound().expect("there is entropy");
            let writes = Arc::default();
            let stream = Held {
                stream,
                writes,
                taken: own,
            };
            server.serve_connection(stream, move |_| Ok(vec![u8::from(seen.load(Ordering::SeqCst) >= 2)]))
        });
        let client = Client::builder(key()).connect(address).expect("it shakes hands");
        let answer = client.request("hello").expect("an answer");
        assert_eq!(answer, [1], "the welcome and the answer to the PING went before");
        client.close();
        assert!(serving.join().expect("it does not panic").is_ok());
    });
}
