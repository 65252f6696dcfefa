//! A thread that runs again after a deadline, as after the process was stopped. What has arrived is
//! read before the deadline counts. The file of the same name in falco-tokio has the same tests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use common::{Running, bounded, echo, key, lifetime, millis};
use falco_std::{BoxedStream, Client, ConnectionError, Request, Server, Settings, Stream};

/// A stream whose reader runs late once: a lifetime of one second passes while it has the bytes.
struct Late {
    stream: TcpStream,
    armed: Arc<AtomicBool>,
}

impl Read for Late {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buf)?;
        if self.armed.swap(false, Ordering::SeqCst) {
            thread::sleep(millis(1_300));
        }
        Ok(count)
    }
}

impl Write for Late {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Late {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        let (stream, armed) = (self.stream.try_clone()?, Arc::clone(&self.armed));
        Ok(Some(Box::new(Self { stream, armed })))
    }
}

/// Carries bytes between a client and `server`, until the first that the client sends when `armed`.
/// The server does not hear of the end of the client.
fn carry_until(server: SocketAddr, armed: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(server).unwrap();
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let back = thread::spawn(move || io::copy(&mut from, &mut to));
        let mut bytes = [0; 4_096];
        loop {
            let count = client.read(&mut bytes).unwrap();
            let is_last = armed.load(Ordering::SeqCst);
            server.write_all(bytes.get(..count).unwrap()).unwrap();
            if is_last {
                break;
            }
        }
        // Until the server ends the stream.
        let _ = back.join();
    });
    address
}

fn quiet() -> Settings {
    lifetime(Duration::from_secs(1)).with_keep_alive(false)
}

#[test]
fn a_server_reads_what_has_arrived_before_its_lifetime_counts() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (armed, handled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (by_stream, by_handler) = (Arc::clone(&armed), Arc::clone(&handled));
        let serving = thread::spawn(move || {
            let server = Server::builder(key()).settings(quiet()).unbound().unwrap();
            let (stream, _) = listener.accept().unwrap();
            let armed = by_stream;
            server.serve_connection(Late { stream, armed }, move |request: Request| {
                by_handler.fetch_add(1, Ordering::SeqCst);
                echo(request)
            })
        });
        let front = carry_until(address, Arc::clone(&armed));
        let client = Client::builder(key()).settings(quiet()).connect(front).unwrap();
        client.ping().unwrap();
        armed.store(true, Ordering::SeqCst);
        // Its own lifetime is over before the server answers.
        let _ = client.request("hello");
        // So is that of the server, after the answer.
        let end = serving.join().unwrap().unwrap();
        assert_eq!(end, ConnectionError::Expired);
        assert_eq!(handled.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_client_reads_what_has_arrived_before_its_lifetime_counts() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let (address, armed) = (server.address, Arc::new(AtomicBool::new(false)));
        let by_stream = Arc::clone(&armed);
        let client = Client::builder(key()).settings(quiet()).connect_with(move || {
            let stream = TcpStream::connect(address)?;
            let armed = Arc::clone(&by_stream);
            Ok(Late { stream, armed })
        });
        let client = client.unwrap();
        client.ping().unwrap();
        armed.store(true, Ordering::SeqCst);
        assert_eq!(client.request("hello").unwrap(), b"hello");
        assert_eq!(client.stats().connected, 1);
        server.stop();
    });
}
