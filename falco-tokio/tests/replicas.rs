//! A client of two servers, each in its own process, under a load that does not wait for answers.
//! The servers are restarted in turn, one is killed, and one is stopped, so that it sends nothing
//! while its sockets stay open. Failed requests are counted by their fate.
//!
//! It takes about 18 seconds. With an optimized build it sends 20,000 requests a second, otherwise
//! 2,000. `FALCO_PHASE_SECONDS=8` makes each of its four phases take that long at least.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::child::{self, Child, next_order, say};
use common::{Running, key};
use falco_tokio::{Client, Error, Fate, Request, Server};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Requests in each millisecond.
const RATE: usize = if cfg!(debug_assertions) { 2 } else { 20 };
/// How long a phase lasts at least, if not told otherwise.
const SECONDS: u64 = 2;
/// What one request in a hundred may wait, in any phase and on a busy machine.
const LATE: Duration = Duration::from_millis(500);
/// The idle timeout. A silent server is pinged after a third of it, and given up after another.
const LIFETIME: Duration = Duration::from_secs(2);
/// How long a handler takes, so that there are always requests under way.
const WORK: Duration = Duration::from_millis(2);
/// Connections to each server.
const CONNECTIONS: usize = 4;
/// How many requests a connection has outstanding at most.
const OUTSTANDING: usize = 1024;
/// What happens while a request waits.
const PHASES: [&str; 4] = ["undisturbed", "restarted in turn", "killed", "stopped"];

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    if let Some((_, arguments)) = child::role() {
        serve(&arguments);
    }
}

/// A server that answers with its name, and drains at the first order.
fn serve(arguments: &str) {
    let (address, name) = arguments.split_once(' ').unwrap();
    let name = Bytes::copy_from_slice(name.as_bytes());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::builder(key(1)).bind(address).await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let handler = move |_: Request| {
            let name = name.clone();
            async move {
                sleep(WORK).await;
                Ok(name)
            }
        };
        let task = tokio::spawn(async move { server.serve(handler).await.unwrap() });
        say(address);
        let _ = tokio::task::spawn_blocking(next_order).await;
        let report = Running { address, handle, task }.stop().await;
        say(report.cut_requests);
    });
}

/// A server as the test sees it.
struct Replica {
    process: Child,
    address: String,
    name: usize,
}

impl Replica {
    fn start(address: &str, name: usize) -> Self {
        let process = Child::spawn("server", &format!("{address} {name}"));
        let address = process.line();
        Self { process, address, name }
    }

    /// In a thread that may wait, a successor at the same address after this one has drained.
    fn restart(mut self) -> Self {
        assert_eq!(self.process.ask("drain"), "0");
        self.replace()
    }

    fn replace(mut self) -> Self {
        self.process.kill();
        Self::start(&self.address, self.name)
    }
}

/// The outcomes of the requests of one phase.
#[derive(Default)]
struct Ended {
    waits: Vec<Duration>,
    failed: BTreeMap<(&'static str, String), usize>,
}

impl Ended {
    fn failures(&self, fate: &str) -> usize {
        self.failed
            .iter()
            .filter(|((is, _), _)| *is == fate)
            .map(|(_, count)| count)
            .sum()
    }

    /// What one wait in a hundred exceeds, and the longest.
    fn late_and_longest(&self) -> (Duration, Duration) {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        (waits[(waits.len() - 1) * 99 / 100], waits[waits.len() - 1])
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (late, longest) = self.late_and_longest();
        write!(
            f,
            "{} requests, p99 {late:.1?}, longest wait {longest:.1?}",
            self.waits.len()
        )?;
        for ((fate, error), count) in &self.failed {
            write!(f, "\n    {count} {fate}: {error}")?;
        }
        Ok(())
    }
}

/// Requests that are sent at a rate, whether or not others are answered.
struct Load {
    client: Client,
    phase: AtomicUsize,
    stopped: AtomicBool,
    ended: [Mutex<Ended>; PHASES.len()],
    /// Answers of each server.
    answers: [AtomicUsize; 2],
}

impl Load {
    fn start(client: Client) -> (Arc<Self>, JoinHandle<()>) {
        let load = Arc::new(Self {
            client,
            phase: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            ended: Default::default(),
            answers: Default::default(),
        });
        let sending = tokio::spawn(Arc::clone(&load).run());
        (load, sending)
    }

    async fn run(self: Arc<Self>) {
        let mut requests = tokio::task::JoinSet::new();
        let mut ticks = interval(Duration::from_millis(1));
        // Those that could not be sent in time are sent later.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !self.stopped.load(Ordering::Relaxed) {
            ticks.tick().await;
            for _ in 0..RATE {
                requests.spawn(Arc::clone(&self).request());
            }
            while requests.try_join_next().is_some() {}
        }
        requests.join_all().await;
    }

    async fn request(self: Arc<Self>) {
        let (phase, began) = (self.phase.load(Ordering::Relaxed), Instant::now());
        let answered = self.client.request(Bytes::from_static(&[7; 64])).await;
        let wait = began.elapsed();
        let mut ended = self.ended[phase].lock().unwrap();
        ended.waits.push(wait);
        match answered {
            Ok(name) => {
                self.answers[usize::from(&*name == b"1")].fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => *ended.failed.entry((fate(&error), error.to_string())).or_default() += 1,
        }
    }

    /// Begins a phase, in which nothing happens before the requests of the last one have ended.
    async fn enter(&self, phase: &str) {
        let at = PHASES.iter().position(|is| *is == phase).unwrap();
        self.phase.store(at, Ordering::Relaxed);
        sleep(Duration::from_millis(200)).await;
    }

    /// Waits until a server answers.
    async fn answered_by(&self, server: usize) {
        let before = self.answers[server].load(Ordering::Relaxed);
        let answered = async {
            while self.answers[server].load(Ordering::Relaxed) < before + 10 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(20), answered)
            .await
            .expect("the client returns to it");
    }
}

fn fate(error: &Error) -> &'static str {
    if error.fate() == Fate::NotProcessed {
        "not processed"
    } else {
        "may have been processed"
    }
}

/// Does what may wait for a process.
async fn blocking<T: Send + 'static>(does: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(does).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_restarted_killed_and_stopped_under_load() {
    let seconds = std::env::var("FALCO_PHASE_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let phase = Duration::from_secs(seconds);
    let any = "127.0.0.1:0";
    let (mut one, mut two) = blocking(move || (Replica::start(any, 0), Replica::start(any, 1))).await;
    let builder = Client::builder(key(1)).lifetime(LIFETIME).connections(2 * CONNECTIONS);
    let builder = builder.max_outstanding(2 * CONNECTIONS * OUTSTANDING);
    let client = builder.connect_any([&one.address, &two.address]).await.unwrap();
    let (load, sending) = Load::start(client);
    load.answered_by(0).await;
    load.answered_by(1).await;
    sleep(phase).await;

    load.enter("restarted in turn").await;
    one = blocking(move || one.restart()).await;
    load.answered_by(0).await;
    two = blocking(move || two.restart()).await;
    load.answered_by(1).await;
    sleep(phase / 2).await;

    load.enter("killed").await;
    one = blocking(move || one.replace()).await;
    load.answered_by(0).await;
    sleep(phase / 2).await;

    load.enter("stopped").await;
    kill_process(two.process.id(), Signal::STOP).unwrap();
    sleep(phase.max(2 * LIFETIME)).await;
    load.answered_by(0).await;
    load.stopped.store(true, Ordering::Relaxed);
    timeout(Duration::from_secs(60), sending)
        .await
        .expect("all requests end")
        .unwrap();

    let ended = load.ended.each_ref().map(|ended| ended.lock().unwrap());
    for (name, ended) in PHASES.iter().zip(&ended) {
        println!("{name}: {ended}");
    }
    for (name, ended) in PHASES.iter().zip(&ended) {
        assert_eq!(ended.failures("not processed"), 0, "{name}");
        let most = if matches!(*name, "killed" | "stopped") {
            CONNECTIONS * OUTSTANDING
        } else {
            0
        };
        assert!(ended.failures("may have been processed") <= most, "{name}");
        let (late, longest) = ended.late_and_longest();
        assert!(late < LATE && longest < 4 * LIFETIME, "{name}: {late:?} {longest:?}");
    }
    drop((one, two));
}
