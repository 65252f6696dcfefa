//! What the suites share: keys, servers that run, clients of them.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each suite uses some of it")]

pub(crate) mod child;
pub(crate) mod counted;
#[cfg(target_os = "linux")]
pub(crate) mod flood;
pub(crate) mod log;
#[cfg(target_os = "linux")]
pub(crate) mod peak;
pub(crate) mod raw;
pub(crate) mod scene;
pub(crate) mod streaming;
pub(crate) mod usage;

use core::net::SocketAddr;

use falco_tokio::{Client, Handle, Handler, Key, Report, Request, ServerBuilder};
use tokio::task::JoinHandle;

/// A key by its number, the same whenever it is asked for.
pub(crate) fn key(number: u8) -> Key {
    Key::from_bytes([number; 32]).unwrap()
}

/// A server that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) task: JoinHandle<Report>,
}

impl Running {
    pub(crate) async fn start(builder: ServerBuilder, handler: impl Handler) -> Self {
        Self::start_at(builder, "127.0.0.1:0".parse().unwrap(), handler).await
    }

    async fn start_at(builder: ServerBuilder, address: SocketAddr, handler: impl Handler) -> Self {
        let server = builder.bind(address).await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let task = tokio::spawn(async move { server.serve(handler).await.unwrap() });
        Self { address, handle, task }
    }

    /// One that answers with what it is sent.
    pub(crate) async fn echo(builder: ServerBuilder) -> Self {
        Self::start(builder, |request: Request| async move { Ok(request.into_body()) }).await
    }

    /// The same at an address that is known.
    pub(crate) async fn echo_at(builder: ServerBuilder, address: SocketAddr) -> Self {
        Self::start_at(
            builder,
            address,
            |request: Request| async move { Ok(request.into_body()) },
        )
        .await
    }

    pub(crate) async fn stop(self) -> Report {
        self.handle.shutdown_within(core::time::Duration::from_secs(5));
        self.task.await.unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::builder(key(1)).connect(self.address).await.unwrap()
    }
}
