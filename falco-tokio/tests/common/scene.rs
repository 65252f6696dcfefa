//! A server on one thread, so that anything that blocks one connection blocks all, and a
//! well-behaved client whose latency is measured.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytes::Bytes;
use falco_tokio::{Client, Handle, Handler, HandlerError, Report, Request, Server, ServerBuilder};

use super::key;

/// Between two requests of the client that behaves.
const PAUSE: Duration = Duration::from_millis(2);
/// What 99 of 100 of its requests take at the most.
const BOUND: Duration = Duration::from_millis(50);

/// A client that behaves: it sends small requests, one after the other, and notes how long each
/// took.
pub(crate) struct Honest {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Honest {
    /// It has connected when this returns.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (to, connected) = channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let client = Client::builder(key(1)).connect(address).await.unwrap();
                to.send(()).unwrap();
                let mut latencies = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    assert_eq!(
                        client.request("an honest question").await.unwrap(),
                        "an honest question"
                    );
                    latencies.push(start.elapsed());
                    tokio::time::sleep(PAUSE).await;
                }
                assert_eq!(client.stats().connected, 1, "its connection stood all the time");
                latencies
            })
        });
        connected.recv().unwrap();
        Self { stop, thread }
    }

    /// How long its requests took: how many there were, 99 of 100 of them, and the slowest.
    pub(crate) fn finish(self) -> (usize, Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut latencies = self.thread.join().unwrap();
        latencies.sort_unstable();
        let count = latencies.len();
        let p99 = latencies.get(count * 99 / 100).copied().unwrap();
        (count, p99, latencies.last().copied().unwrap())
    }
}

/// A server in a thread of its own, and a client of it that behaves.
struct Pair {
    address: SocketAddr,
    handle: Handle,
    server: JoinHandle<Report>,
    honest: Honest,
}

impl Pair {
    fn start(builder: ServerBuilder, handler: impl Handler) -> Self {
        let (to, started) = channel();
        let server = thread::spawn(move || {
            runtime().block_on(async {
                let server = builder.bind("127.0.0.1:0").await.unwrap();
                to.send((server.local_addr().unwrap(), server.handle())).unwrap();
                server.serve(handler).await.unwrap()
            })
        });
        let (address, handle) = started.recv().unwrap();
        let honest = Honest::start(address);
        Self {
            address,
            handle,
            server,
            honest,
        }
    }
}

/// A server, and a client of it that behaves; and beside them another such pair that nobody
/// disturbs, which shows what the machine is capable of meanwhile.
pub(crate) struct Scene {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pair: Pair,
    control: Pair,
    _alone: MutexGuard<'static, ()>,
}

/// One scene at a time: the tests of a suite are not to be each other's faults.
static ALONE: Mutex<()> = Mutex::new(());

async fn echo(request: Request) -> Result<Bytes, HandlerError> {
    Ok(request.into_body())
}

impl Scene {
    pub(crate) fn start(builder: ServerBuilder, handler: impl Handler) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = Pair::start(builder, handler);
        Self {
            address: pair.address,
            handle: pair.handle.clone(),
            pair,
            control: Pair::start(Server::builder(key(1)), echo),
            _alone: alone,
        }
    }

    /// One that answers with what it is sent.
    pub(crate) fn echo(builder: ServerBuilder) -> Self {
        Self::start(builder, echo)
    }

    /// Waits until the server has so many connections, one of which is the client's that behaves.
    pub(crate) async fn until_connections(&self, count: u64) {
        let limit = Instant::now() + Duration::from_secs(20);
        while self.handle.stats().connections != count {
            let stats = self.handle.stats();
            assert!(Instant::now() < limit, "not {count} connections: {stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends all, and fails where the client that behaves did not fare well. What the machine itself
    /// makes everybody wait is not the faults'.
    pub(crate) fn finish(self, through: &str) -> Report {
        let (count, p99, slowest) = self.pair.honest.finish();
        let (_, undisturbed, _) = self.control.honest.finish();
        println!(
            "through {through}: {count} honest requests, p99 {p99:?} ({undisturbed:?} undisturbed), at most {slowest:?}"
        );
        assert!(count >= 100, "only {count} requests through {through}");
        assert!(p99 < BOUND + undisturbed, "{p99:?} through {through}");
        self.control.handle.shutdown();
        self.control.server.join().unwrap();
        self.handle.shutdown_within(Duration::from_secs(2));
        self.pair.server.join().unwrap()
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}
