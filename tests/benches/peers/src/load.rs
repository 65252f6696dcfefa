//! The clients of the contenders on Tokio: what a client has to be able to do, and the workloads.

use core::convert::Infallible;
use core::future::pending;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::Failure;
use crate::pair::{self, Started};
use crate::window::{Window, body, verify, verify_length};
use crate::workload::{Shape, Workload};

/// Connects to the server of a contender.
pub(crate) trait Peer: Send + Sync + 'static {
    type Connection: Connection;

    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
}

/// A connection, after its handshake.
pub(crate) trait Connection: Send + Sized + 'static {
    /// A request in the form that costs least to send many times.
    type Message: Send + Sync + 'static;

    fn message(body: Vec<u8>) -> Self::Message;

    /// Sends a request and shows the body of its answer.
    fn call<R: Send>(
        &mut self,
        message: &Self::Message,
        look: impl FnOnce(&[u8]) -> R + Send,
    ) -> impl Future<Output = Result<R, Failure>> + Send;

    /// Keeps `depth` requests in flight while the window is open. Returns how many were answered.
    fn pipeline(
        &mut self,
        message: &Self::Message,
        depth: usize,
        window: Window,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;

    /// Does what an idle connection needs, such as keep-alive pings, if nothing else does.
    fn idle(self) -> impl Future<Output = Result<Infallible, Failure>> + Send {
        async {
            let _kept_open = self;
            pending().await
        }
    }

    fn close(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Connections that are opened at the same time.
const AT_ONCE: usize = 32;
/// Ports for new connections are scarce, because each is held for a minute after its use.
pub(crate) const MAX_CONNECTS: u64 = 20_000;
/// How long idle connections are left alone before their memory is measured.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);
/// How long they are left alone before their processor time is measured. By then the timers of
/// handshakes, 5 s, have fired.
pub(crate) const SETTLE_TIMERS: Duration = Duration::from_secs(6);

/// Runs a workload and reports to the parent.
pub(crate) async fn run<P: Peer>(peer: P, workload: Workload, length: Duration) -> Result<(), Failure> {
    let (peer, shape) = (Arc::new(peer), workload.shape());
    let body = body(shape.size());
    let message = Arc::new(P::Connection::message(body.clone()));
    let mut first = peer.connect().await?;
    first.call(&message, |answer| verify(&body, answer)).await??;
    let (size, warm_up) = (body.len(), length / 5);
    match shape {
        Shape::Sequential { .. } => {
            sequential(&mut first, &message, size, Window::open(warm_up)).await?;
            let started = pair::start()?;
            started.finish(sequential(&mut first, &message, size, Window::open(length)).await?)?;
        }
        Shape::Pipelined { depth, .. } => {
            first.pipeline(&message, depth, Window::open(warm_up)).await?;
            let started = pair::start()?;
            started.finish(first.pipeline(&message, depth, Window::open(length)).await?)?;
        }
        Shape::Connections { count, .. } => {
            let mut all = open(&peer, &message, size, count - 1).await?;
            all.push(first);
            let (all, ..) = together(all, &message, size, warm_up, false).await?;
            let (_, count, started) = together(all, &message, size, length, true).await?;
            return started.map_or(Ok(()), |started| started.finish(count));
        }
        Shape::Connect => {
            first.close().await?;
            let started = pair::start()?;
            return started.finish(connects(&*peer, &message, size, Window::open(length)).await?);
        }
        Shape::IdleMemory { count } => {
            let started = pair::start()?;
            let all = open(&peer, &message, size, count).await?;
            tokio::time::sleep(SETTLE).await;
            started.finish(count.try_into()?)?;
            drop(all);
        }
        Shape::IdleCpu { count } => {
            let mut all: JoinSet<_> = open(&peer, &message, size, count)
                .await?
                .into_iter()
                .map(Connection::idle)
                .collect();
            tokio::time::sleep(SETTLE_TIMERS).await;
            let started = pair::start()?;
            tokio::time::sleep(length).await;
            started.finish(count.try_into()?)?;
            // A connection that has ended was not idle.
            if let Some(ended) = all.try_join_next() {
                match ended?? {}
            }
        }
    }
    first.close().await
}

async fn sequential<C: Connection>(
    connection: &mut C,
    message: &C::Message,
    size: usize,
    window: Window,
) -> Result<u64, Failure> {
    let mut count = 0;
    while window.is_open() {
        connection.call(message, |answer| verify_length(size, answer)).await??;
        count += 1;
    }
    Ok(count)
}

/// Sends on all connections at once, and returns them with the number of requests.
async fn together<C: Connection>(
    connections: Vec<C>,
    message: &Arc<C::Message>,
    size: usize,
    length: Duration,
    measured: bool,
) -> Result<(Vec<C>, u64, Option<Started>), Failure> {
    let started = measured.then(pair::start).transpose()?;
    let (window, mut tasks) = (Window::open(length), JoinSet::new());
    for mut connection in connections {
        let message = Arc::clone(message);
        tasks.spawn(async move {
            let count = sequential(&mut connection, &message, size, window).await?;
            Ok::<_, Failure>((connection, count))
        });
    }
    let (mut all, mut total) = (Vec::with_capacity(tasks.len()), 0);
    while let Some(done) = tasks.join_next().await {
        let (connection, count) = done??;
        all.push(connection);
        total += count;
    }
    Ok((all, total, started))
}

/// Opens connections, and sends one request on each.
async fn open<P: Peer>(
    peer: &Arc<P>,
    message: &Arc<<P::Connection as Connection>::Message>,
    size: usize,
    count: usize,
) -> Result<Vec<P::Connection>, Failure> {
    let (mut tasks, mut all) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        let (peer, message) = (Arc::clone(peer), Arc::clone(message));
        tasks.spawn(async move {
            let mut connection = peer.connect().await?;
            connection
                .call(&message, |answer| verify_length(size, answer))
                .await??;
            Ok::<_, Failure>(connection)
        });
        if number >= AT_ONCE
            && let Some(done) = tasks.join_next().await
        {
            all.push(done??);
        }
    }
    while let Some(done) = tasks.join_next().await {
        all.push(done??);
    }
    Ok(all)
}

async fn connects<P: Peer>(
    peer: &P,
    message: &<P::Connection as Connection>::Message,
    size: usize,
    window: Window,
) -> Result<u64, Failure> {
    let mut count = 0;
    while window.is_open() && count < MAX_CONNECTS {
        let mut connection = peer.connect().await?;
        connection.call(message, |answer| verify_length(size, answer)).await??;
        connection.close().await?;
        count += 1;
    }
    Ok(count)
}

/// Keeps `depth` requests in flight, each in a task of its own, for clients that tasks can share.
pub(crate) async fn tasks<F>(
    depth: usize,
    size: usize,
    window: Window,
    call: impl Fn() -> F + Clone + Send + 'static,
) -> Result<u64, Failure>
where
    F: Future<Output = Result<Bytes, Failure>> + Send,
{
    let mut tasks = JoinSet::new();
    for _ in 0..depth {
        let call = call.clone();
        tasks.spawn(async move {
            let mut count = 0;
            while window.is_open() {
                verify_length(size, &call().await?)?;
                count += 1;
            }
            Ok::<u64, Failure>(count)
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done??;
    }
    Ok(total)
}
