//! What the tests share: a key, a server on a thread, and a time limit for each test.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::missing_panics_doc,
    reason = "each test file uses a part of it"
)]

pub mod streaming;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use falco_core::keys::Secrets;
use falco_core::testing::CountingRng;
use falco_core::{ClientConnection, Status};
use falco_std::{Client, ClientBuilder, Handle, HandlerError, Key, Report, Request, Server, ServerBuilder, Settings};

/// The key of all tests.
pub fn key() -> Key {
    Key::from_bytes([7; 32]).expect("it is not zero")
}

pub fn other_key() -> Key {
    Key::from_bytes([8; 32]).expect("it is not zero")
}

pub fn client() -> ClientBuilder {
    Client::classic(key())
}

pub fn lifetime(lifetime: Duration) -> Settings {
    Settings::new().with_lifetime(lifetime).expect("it is in range")
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs a test on a thread of its own, for half a minute at most.
pub fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let running = thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match wait.recv_timeout(Duration::from_secs(30)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = running.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// A server that serves on a thread.
pub struct Running {
    pub address: SocketAddr,
    pub handle: Handle,
    pub serving: JoinHandle<Report>,
}

impl Running {
    pub fn start<H>(builder: ServerBuilder, handler: H) -> Self
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        Self::at(builder, "127.0.0.1:0".parse().expect("an address"), handler)
    }

    pub fn at<H>(builder: ServerBuilder, address: SocketAddr, handler: H) -> Self
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        let server = builder.bind(address).expect("the address is free");
        let (address, handle) = (server.local_addr().expect("it is bound"), server.handle());
        let serving = thread::spawn(move || server.serve(handler).expect("it never fails"));
        Self {
            address,
            handle,
            serving,
        }
    }

    pub fn echo() -> Self {
        Self::start(Server::classic(key()), echo)
    }

    pub fn connect(&self) -> Client {
        client().connect(self.address).expect("the server accepts it")
    }

    /// Shuts the server down, within ten seconds.
    pub fn stop(self) -> Report {
        self.handle.shutdown_within(Duration::from_secs(10));
        self.serving.join().expect("serve does not panic")
    }
}

#[allow(clippy::unnecessary_wraps, reason = "that is what a handler is")]
pub fn echo(request: Request) -> Result<Vec<u8>, HandlerError> {
    Ok(request.into_body())
}

/// A listener that accepts nothing and whose backlog is full, so that connecting to it takes for
/// ever.
pub struct Blackhole {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _filling: Vec<socket2::Socket>,
}

impl Blackhole {
    /// At `address`, of which the port may be 0.
    pub fn at(address: SocketAddr) -> Self {
        let socket = || socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
        let listener = socket().expect("a socket more");
        listener.set_reuse_address(true).expect("it is a socket");
        listener.bind(&address.into()).expect("the address is free");
        listener.listen(0).expect("it is bound");
        let bound = listener.local_addr().expect("it is bound");
        let mut filling = Vec::new();
        loop {
            let one = socket().expect("a socket more");
            let full = one.connect_timeout(&bound, millis(100)).is_err();
            filling.push(one);
            if full {
                break;
            }
        }
        Self {
            address: bound.as_socket().expect("it is of the internet"),
            _listener: listener,
            _filling: filling,
        }
    }

    pub fn new() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"))
    }
}

/// A hello on the noise wire. Those with the same number are the same.
pub fn hello(number: u64) -> [u8; 74] {
    let secrets = Secrets {
        noise: vec![key()],
        ..Secrets::default()
    };
    let keys = secrets.into_client(&mut CountingRng::new(3)).expect("there is a key");
    let now = falco_core::Instant::ZERO;
    let machine = ClientConnection::new(&keys, &Settings::new(), now, &mut CountingRng::new(number));
    let mut machine = machine.expect("entropy");
    assert_eq!(machine.status(), Status::Handshaking);
    let mut hello = [0; 74];
    assert_eq!(machine.poll_transmit(now, &mut hello), Ok(74));
    hello
}

/// Connects and sends this much of a [`hello`]. If it is all of it, reads the welcome.
pub fn half_way(address: SocketAddr, length: usize, number: u64) -> TcpStream {
    let hello = hello(number);
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream
        .write_all(hello.get(..length).expect("it is that long"))
        .expect("the server has room for it");
    if length == hello.len() {
        stream.read_exact(&mut [0; 64]).expect("a welcome");
    }
    stream
}

/// Whether the server has ended the stream, within 100 ms: without a reset.
pub fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(millis(100))).expect("it is a socket");
    match stream.read(&mut [0; 1]) {
        Ok(read) => {
            assert_eq!(read, 0, "a stranger gets not one byte");
            true
        }
        Err(error) => {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            false
        }
    }
}

/// Runs `call` on this many threads at once. Returns the result and the time of each.
pub fn at_once<T: Send + 'static>(threads: usize, call: impl Fn() -> T + Send + Sync + 'static) -> Vec<(T, Duration)> {
    let call = Arc::new(call);
    let running: Vec<_> = (0..threads)
        .map(|_| {
            let call = Arc::clone(&call);
            thread::spawn(move || {
                let start = std::time::Instant::now();
                (call(), start.elapsed())
            })
        })
        .collect();
    let done = running
        .into_iter()
        .map(|thread| thread.join().expect("it does not panic"));
    done.collect()
}
