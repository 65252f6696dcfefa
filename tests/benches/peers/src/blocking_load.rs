//! The clients of the contenders on threads: what a client has to be able to do, and the workloads.

use core::time::Duration;
use std::sync::Barrier;
use std::thread;

use crate::Failure;
use crate::load::{MAX_CONNECTS, SETTLE, SETTLE_TIMERS};
use crate::pair;
use crate::window::{Window, body, verify, verify_length};
use crate::workload::{Shape, Workload};

/// Connects to the server of a contender.
pub(crate) trait Peer {
    type Connection: Connection;

    fn connect(&self) -> Result<Self::Connection, Failure>;
}

/// A connection, after its handshake.
pub(crate) trait Connection: Send {
    /// A request in the form that costs least to send many times.
    type Message: Sync;

    fn message(body: Vec<u8>) -> Self::Message;

    /// Sends a request and shows the body of its answer.
    fn call<R>(&mut self, message: &Self::Message, look: impl FnOnce(&[u8]) -> R) -> Result<R, Failure>;

    /// Keeps `depth` requests in flight while the window is open. Returns how many were answered.
    fn pipeline(&mut self, message: &Self::Message, depth: usize, window: Window) -> Result<u64, Failure>;

    fn close(self) -> Result<(), Failure>;
}

/// The stack of each thread of a client.
const STACK: usize = 128 << 10;

/// Runs a workload and reports to the parent.
pub(crate) fn run<P: Peer>(peer: &P, workload: Workload, length: Duration) -> Result<(), Failure> {
    let shape = workload.shape();
    let body = body(shape.size());
    let message = P::Connection::message(body.clone());
    let mut first = peer.connect()?;
    first.call(&message, |answer| verify(&body, answer))??;
    let (size, warm_up) = (body.len(), length / 5);
    match shape {
        Shape::Sequential { .. } => {
            sequential(&mut first, &message, size, Window::open(warm_up))?;
            let started = pair::start()?;
            started.finish(sequential(&mut first, &message, size, Window::open(length))?)?;
        }
        Shape::Pipelined { depth, .. } => {
            first.pipeline(&message, depth, Window::open(warm_up))?;
            let started = pair::start()?;
            started.finish(first.pipeline(&message, depth, Window::open(length))?)?;
        }
        Shape::Connections { count, .. } => {
            let mut all = open(peer, &message, size, count - 1)?;
            all.push(first);
            together(&mut all, &message, size, warm_up)?;
            return together_measured(&mut all, &message, size, length);
        }
        Shape::Connect => {
            first.close()?;
            let started = pair::start()?;
            return started.finish(connects(peer, &message, size, Window::open(length))?);
        }
        Shape::IdleMemory { count } => {
            let started = pair::start()?;
            let all = open(peer, &message, size, count)?;
            thread::sleep(SETTLE);
            started.finish(count.try_into()?)?;
            drop(all);
        }
        Shape::IdleCpu { count } => {
            let all = open(peer, &message, size, count)?;
            thread::sleep(SETTLE_TIMERS);
            let started = pair::start()?;
            thread::sleep(length);
            started.finish(count.try_into()?)?;
            drop(all);
        }
    }
    first.close()
}

fn sequential<C: Connection>(
    connection: &mut C,
    message: &C::Message,
    size: usize,
    window: Window,
) -> Result<u64, Failure> {
    let mut count = 0;
    while window.is_open() {
        connection.call(message, |answer| verify_length(size, answer))??;
        count += 1;
    }
    Ok(count)
}

/// Sends on all connections at once. Returns the number of requests.
fn together<C: Connection>(
    connections: &mut [C],
    message: &C::Message,
    size: usize,
    length: Duration,
) -> Result<u64, Failure> {
    threads(connections.iter_mut(), |connection| {
        sequential(connection, message, size, Window::open(length))
    })
}

/// As [`together`], and reports to the parent. The threads start before the measurement does.
fn together_measured<C: Connection>(
    connections: &mut [C],
    message: &C::Message,
    size: usize,
    length: Duration,
) -> Result<(), Failure> {
    let gate = Barrier::new(connections.len() + 1);
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            threads(connections.iter_mut(), |connection| {
                gate.wait();
                sequential(connection, message, size, Window::open(length))
            })
        });
        // A failure here ends the process, with the threads that wait.
        let started = pair::start().unwrap_or_else(|failure| {
            eprintln!("peers: {failure}");
            std::process::exit(1);
        });
        gate.wait();
        let count = running.join().map_err(|_| "a thread panicked")??;
        started.finish(count)
    })
}

/// Runs `work` for each item in a thread of its own, and adds up the results.
pub(crate) fn threads<T: Send>(
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> Result<u64, Failure> + Sync,
) -> Result<u64, Failure> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        for item in items {
            let work = &work;
            running.push(
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || work(item))?,
            );
        }
        let done = running
            .into_iter()
            .map(|one| one.join().map_err(|_| "a thread panicked")?);
        done.sum()
    })
}

/// Opens connections, and sends one request on each.
fn open<P: Peer>(
    peer: &P,
    message: &<P::Connection as Connection>::Message,
    size: usize,
    count: usize,
) -> Result<Vec<P::Connection>, Failure> {
    let one = |_| {
        let mut connection = peer.connect()?;
        connection.call(message, |answer| verify_length(size, answer))??;
        Ok(connection)
    };
    (0..count).map(one).collect()
}

fn connects<P: Peer>(
    peer: &P,
    message: &<P::Connection as Connection>::Message,
    size: usize,
    window: Window,
) -> Result<u64, Failure> {
    let mut count = 0;
    while window.is_open() && count < MAX_CONNECTS {
        let mut connection = peer.connect()?;
        connection.call(message, |answer| verify_length(size, answer))??;
        connection.close()?;
        count += 1;
    }
    Ok(count)
}
