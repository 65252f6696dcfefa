//! The load of a measurement: many tasks send one request after the other, and count the results.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use falco_tokio::{Client, Error};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::failure::fate;
use crate::values::real;

/// The counters are divided into this many parts, so that tasks seldom wait for a lock.
const SHARDS: usize = 16;
/// The longest latency that is recorded, in nanoseconds: a day. A longer one counts as this.
const LONGEST: u64 = 24 * 3_600 * 1_000_000_000;
/// How often requests at a rate are sent: all that are due then.
const TICK: Duration = Duration::from_millis(1);
/// How long a task waits after a request that failed.
const PAUSE: Duration = Duration::from_millis(10);

/// The results.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) answered: u64,
    /// Bytes of the answers.
    pub(super) received: u64,
    /// Requests that failed, by error and by whether they may have been processed.
    pub(super) errors: BTreeMap<(String, &'static str), u64>,
    /// Latencies of the requests that were answered, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// The longest time after which a request failed.
    pub(super) longest_failed: Duration,
}

impl Counts {
    pub(super) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST, 3);
        Self {
            answered: 0,
            received: 0,
            errors: BTreeMap::new(),
            latencies: latencies.expect("the bounds are in order, and three digits are supported"),
            longest_failed: Duration::ZERO,
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The latency that this fraction of the requests did not exceed.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        // A bucket of the histogram can be wider than the values in it.
        let nanos = self.latencies.value_at_quantile(quantile).min(self.latencies.max());
        Duration::from_nanos(nanos)
    }

    pub(super) fn count(&mut self, answered: &Result<Bytes, Error>, time: Duration) {
        match answered {
            Ok(answer) => {
                self.answered += 1;
                self.received += u64::try_from(answer.len()).unwrap_or(u64::MAX);
                let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                self.latencies.saturating_record(nanos.max(1));
            }
            Err(error) => {
                *self.errors.entry((kind(error), fate(error))).or_default() += 1;
                self.longest_failed = self.longest_failed.max(time);
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.received += other.received;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.longest_failed = self.longest_failed.max(other.longest_failed);
        // Cannot fail, because both have the same bounds.
        let _ = self.latencies.add(&other.latencies);
    }
}

/// What to send, how many requests are left, and the results.
pub(super) struct Load {
    body: Bytes,
    /// None if time is the limit.
    left: Option<AtomicU64>,
    stopped: AtomicBool,
    shards: Vec<Mutex<Counts>>,
}

impl Load {
    pub(super) fn new(size: u32, requests: Option<u64>) -> Self {
        Self {
            body: (0..size).map(u32::to_le_bytes).map(|[low, ..]| low).collect(),
            left: requests.map(AtomicU64::new),
            stopped: AtomicBool::new(false),
            shards: (0..SHARDS).map(|_| Mutex::new(Counts::new())).collect(),
        }
    }

    /// Sends no more requests.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The results so far.
    pub(super) fn counts(&self) -> Counts {
        let mut all = Counts::new();
        self.shards.iter().for_each(|shard| all.add(&lock(shard)));
        all
    }

    /// Whether the caller is to send another request.
    fn take(&self) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        let Some(left) = &self.left else { return true };
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
    }
}

/// Sends one request after the other.
pub(super) async fn work(load: Arc<Load>, client: Client, number: usize, until: Option<Instant>) {
    while until.is_none_or(|until| Instant::now() < until) && load.take() {
        let began = Instant::now();
        if !one(&load, &client, number, began).await {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Sends `rate` requests a second, whether or not others are answered, and waits until all have
/// ended. If this task is late it catches up, and the wait counts as latency.
pub(super) async fn work_at(rate: u32, load: Arc<Load>, client: Client, until: Option<Instant>) {
    let began = Instant::now();
    let mut requests = JoinSet::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0_u64;
    let due = |number: u64| began + Duration::from_secs_f64(real(number) / f64::from(rate));
    'all: loop {
        ticks.tick().await;
        let now = Instant::now();
        while due(sent) <= now {
            let due = due(sent);
            if until.is_some_and(|until| due >= until) || !load.take() {
                break 'all;
            }
            let (load, client) = (Arc::clone(&load), client.clone());
            let shard = usize::try_from(sent).unwrap_or_default();
            requests.spawn(async move { one(&load, &client, shard, due).await });
            sent += 1;
        }
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

/// Sends one request that was due at `began`, and counts the result. Returns whether it was
/// answered.
async fn one(load: &Load, client: &Client, shard: usize, began: Instant) -> bool {
    let answered = client.request(load.body.clone()).await;
    let time = began.elapsed();
    if let Some(shard) = load.shards.get(shard % SHARDS) {
        lock(shard).count(&answered, time);
    }
    answered.is_ok()
}

fn lock(shard: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // A panic leaves no number half changed.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text under which an error is counted.
fn kind(error: &Error) -> String {
    if let Error::TimedOut { doing, .. } = error {
        // Without the limit, which can differ between requests.
        return format!("timed out {doing}");
    }
    error.to_string()
}
