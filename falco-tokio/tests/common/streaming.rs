//! Servers of open requests, for the suites about streams.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each suite uses some of it")]

use core::future::Future;
use core::net::SocketAddr;
use core::time::Duration;

use falco_tokio::{Client, ClientBuilder, Handle, HandlerError, Report, Request, Server, ServerBuilder, StreamRequest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::key;

pub(crate) const WINDOW: u32 = 64 << 10;

/// A server of open requests that runs. It answers other requests with what it is sent.
pub(crate) struct Streaming {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) task: JoinHandle<Report>,
}

impl Streaming {
    pub(crate) async fn start<S, F>(builder: ServerBuilder, streams: S) -> Self
    where
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let server = builder.bind("127.0.0.1:0").await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let echo = |request: Request| async move { Ok(request.into_body()) };
        let task = tokio::spawn(async move { server.serve_streams(echo, streams).await.unwrap() });
        Self { address, handle, task }
    }

    pub(crate) async fn client(&self) -> Client {
        self.client_of(Client::builder(key(1))).await
    }

    pub(crate) async fn client_of(&self, builder: ClientBuilder) -> Client {
        builder.connect(self.address).await.unwrap()
    }

    pub(crate) async fn stop(self) -> Report {
        self.handle.shutdown_within(Duration::from_secs(5));
        self.task.await.unwrap()
    }
}

pub(crate) fn server() -> ServerBuilder {
    Server::builder(key(1)).streams(WINDOW, 1000)
}

/// A handler that answers with what it receives.
pub(crate) async fn echo(mut request: StreamRequest) -> Result<(), HandlerError> {
    while let Some(bytes) = request.body.next().await {
        request.answer.send(bytes?).await?;
    }
    request.answer.finish()?;
    Ok(())
}

/// Waits for something that happens soon.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("it takes too long")
}

pub(crate) async fn receive<T>(from: &mut mpsc::UnboundedReceiver<T>) -> T {
    soon(from.recv()).await.unwrap()
}
