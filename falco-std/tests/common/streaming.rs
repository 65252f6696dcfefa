//! Servers of open requests, for the suites about streams.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::panic_in_result_fn,
    reason = "each test file uses a part of it"
)]

use core::net::SocketAddr;
use core::time::Duration;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use falco_std::{Client, ClientBuilder, Handle, HandlerError, Report, Server, ServerBuilder, StreamRequest};

use super::{key, millis};

pub(crate) const WINDOW: u32 = 64 << 10;

pub(crate) struct Streaming {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) serving: JoinHandle<Report>,
}

impl Streaming {
    pub(crate) fn start<S>(builder: ServerBuilder, streams: S) -> Self
    where
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        let server = builder.bind("127.0.0.1:0").unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let serving = thread::spawn(move || server.serve_streams(super::echo, streams).unwrap());
        Self {
            address,
            handle,
            serving,
        }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(Client::builder(key()))
    }

    pub(crate) fn client_of(&self, builder: ClientBuilder) -> Client {
        builder.connect(self.address).unwrap()
    }

    /// Waits until handlers have returned so that this many requests, answers and refusals are
    /// counted: a client may have an answer before its handler has returned.
    pub(crate) fn await_counts(&self, expected: (u64, u64, u64)) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let stats = self.handle.stats();
            let found = (stats.requests, stats.answers, stats.refusals);
            if found == expected {
                return;
            }
            assert!(Instant::now() < until, "{found:?}");
            thread::sleep(millis(1));
        }
    }

    pub(crate) fn stop(self) -> Report {
        self.handle.shutdown_within(Duration::from_secs(5));
        self.serving.join().unwrap()
    }
}

pub(crate) fn server() -> ServerBuilder {
    Server::builder(key()).streams(WINDOW, 1000)
}

pub(crate) fn echo(mut request: StreamRequest) -> Result<(), HandlerError> {
    while let Some(bytes) = request.body.next() {
        request.answer.send(bytes?)?;
    }
    request.answer.finish()?;
    Ok(())
}
