//! What the tests share: a key, a server on a thread, and a bound on the time that a test may take.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::missing_panics_doc,
    reason = "each test file uses a part of it"
)]

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

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

/// Runs a test on a thread of its own, and fails if it is not done within half a minute.
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
    pub server: Arc<Server>,
    pub serving: JoinHandle<Report>,
}

impl Running {
    pub fn start<H>(builder: ServerBuilder, handler: H) -> Self
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        let server = Arc::new(builder.bind("127.0.0.1:0").expect("a free port"));
        let (address, handle) = (server.local_addr().expect("it is bound"), server.handle());
        let own = Arc::clone(&server);
        let serving = thread::spawn(move || own.serve(handler));
        Self {
            address,
            handle,
            server,
            serving,
        }
    }

    pub fn echo() -> Self {
        Self::start(Server::classic(key()), echo)
    }

    pub fn connect(&self) -> Client {
        client().connect(self.address).expect("the server takes it")
    }

    /// Stops it; what is not done in ten seconds is cut.
    pub fn stop(self) -> Report {
        self.handle.stop_within(Duration::from_secs(10));
        self.serving.join().expect("serve does not panic")
    }
}

#[allow(clippy::unnecessary_wraps, reason = "that is what a handler is")]
pub fn echo(request: Request) -> Result<Vec<u8>, HandlerError> {
    Ok(request.into_body())
}
