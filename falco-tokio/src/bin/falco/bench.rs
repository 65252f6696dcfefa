//! `falco bench`: its arguments, the run with its progress line, and its end. `load` sends the
//! requests, `report` formats the results, and `picture` draws them.

mod load;
mod picture;
mod report;

use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use falco_tokio::{Client, Key};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::load::Load;
use self::report::{Measured, grouped};
use crate::failure::{Code, Failure};
use crate::signals::Signals;
use crate::target::Target;
use crate::values::{self, millis, real};
use crate::{key, log, output};

/// Measures how fast a server answers: requests per second, and the percentiles of latency.
///
/// Each connection has a number of requests in flight, and sends the next when one of them is
/// answered. So the load adapts to the server: while the server stalls nothing is sent, and
/// requests that would have been sent then do not count in the percentiles. Latency is measured in
/// this process, from passing a request to the library to receiving its whole answer. With --rate
/// requests are sent at a fixed rate instead, and latency counts from when a request was due.
/// Ctrl-C ends the run early and prints what was measured.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How many connections to open
    #[arg(long, short, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// How many requests to have in flight on each connection
    #[arg(long, short = 'p', value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// How many requests to send each second, whether or not others are answered. All connections
    /// are those of one client: a request goes to the least loaded one, and waits while there is
    /// none, for --timeout at most
    #[arg(long, value_name = "COUNT", conflicts_with = "in_flight", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The size of each message, such as 64 or 16K
    #[arg(long, short, value_name = "SIZE", default_value = "64", value_parser = values::size)]
    size: u32,
    /// How long to send requests
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = values::some_time)]
    duration: Duration,
    /// How many requests to send in all, instead of --duration
    #[arg(long, short = 'n', value_name = "COUNT", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// The time limit of each request, and of opening each connection
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = values::some_time)]
    timeout: Duration,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Draws the distribution of latencies into this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco bench localhost --key-file falco.key --connections 64
  falco bench localhost --key-file falco.key -c 8 --in-flight 32 --size 16K --duration 30s --svg latency.svg
  falco bench localhost --key-file falco.key -c 8 --rate 20000 --duration 30s
  falco bench localhost --key-file falco.key --requests 100000 --json | jq .latency_ms.p99";

/// How many connections are opened at a time: fewer than a server allows to be half-open.
const OPENING: usize = 64;
/// The shortest and the longest pause before reconnecting.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// How often the progress line changes.
const PROGRESS: Duration = Duration::from_millis(500);
/// How long connections may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    // Before the measurement, so that it is not lost if the file cannot be written.
    let drawing = args.svg.as_deref().map(create).transpose()?;
    // Before `Signals`, which would keep Ctrl-C from ending a process that waits for a key.
    let key = args.target.key()?;
    let mut signals = Signals::new(args.timeout)?;
    let began = Instant::now();
    let clients = tokio::select! {
        clients = open(&args, &key) => clients?,
        () = signals.next() => return Err(Failure::Reported(Code::Failed)),
    };
    let connecting = began.elapsed();
    let load = Arc::new(Load::new(args.size, args.requests));
    let (elapsed, interrupted) = measure(&args, &load, &clients, &mut signals).await;
    close(clients).await;

    let target = &args.target;
    let measured = Measured {
        address: target.address.to_string(),
        wire: target.wire.name(),
        connections: args.connections,
        in_flight: args.in_flight,
        rate: args.rate,
        size: args.size,
        connecting,
        elapsed,
        interrupted,
        counts: load.counts(),
    };
    if let (Some(file), Some(path)) = (drawing, &args.svg) {
        let drawn = replace(file, picture::draw(&measured).as_bytes());
        drawn.map_err(|error| unwritable(path, &error))?;
    }
    let report = if args.json { measured.json() } else { measured.table() };
    output::put(report.as_bytes())?;
    if measured.counts.failed() > 0 {
        return Err(Failure::Reported(Code::Failed));
    }
    Ok(())
}

/// Opens the file for the picture. Its content stays until there is a new picture.
fn create(path: &Path) -> Result<File, Failure> {
    key::check_is_no_key(path, "--svg")?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let opened = options.open(path);
    opened.map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format_args!("cannot write {}: {error}", path.display()))
}

fn replace(mut file: File, picture: &[u8]) -> io::Result<()> {
    // A pipe or a terminal has no length.
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    file.write_all(picture)
}

/// Opens all connections. Fails with the first that fails.
async fn open(args: &Args, key: &Key) -> Result<Vec<Client>, Failure> {
    let places = Arc::new(Semaphore::new(OPENING));
    let mut opening = JoinSet::new();
    // At a rate, one client has all connections.
    let clients = args.rate.map_or(args.connections, |_| 1);
    for _ in 0..clients {
        let builder = args.target.builder(key::copy(key)?, args.timeout)?;
        // If the server goes away, requests fail at once, instead of counting as slow. Those at a
        // rate wait, because their latency counts from when they were due.
        let builder = builder.fail_fast(args.rate.is_none()).backoff(RETRY.0, RETRY.1);
        let builder = match args.rate {
            None => builder.max_outstanding(args.in_flight.into()),
            Some(_) => builder.connections(usize::try_from(args.connections).unwrap_or(usize::MAX)),
        };
        let (target, places) = (args.target.clone(), Arc::clone(&places));
        opening.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await;
            target.connect(builder).await
        });
    }
    let mut clients = Vec::new();
    while let Some(opened) = opening.join_next().await {
        clients.push(opened.map_err(|error| Failure::new(Code::Failed, error))??);
    }
    Ok(clients)
}

/// Sends all requests. Returns how long that took and whether a signal ended it early.
async fn measure(args: &Args, load: &Arc<Load>, clients: &[Client], signals: &mut Signals) -> (Duration, bool) {
    let began = Instant::now();
    let until = args.requests.is_none().then(|| began + args.duration);
    let mut workers = JoinSet::new();
    for (number, client) in clients.iter().enumerate() {
        if let Some(rate) = args.rate {
            workers.spawn(load::work_at(rate, Arc::clone(load), client.clone(), until));
            continue;
        }
        for _ in 0..args.in_flight {
            workers.spawn(load::work(Arc::clone(load), client.clone(), number, until));
        }
    }
    let mut asked = 0;
    let is_seen = stderr().is_terminal();
    let mut ticks = tokio::time::interval_at(began + PROGRESS, PROGRESS);
    let mut last = (began, 0);
    loop {
        tokio::select! {
            worker = workers.join_next() => if worker.is_none() {
                break;
            },
            _ = ticks.tick(), if is_seen => last = progress(load, began, last),
            () = signals.next() => {
                asked += 1;
                load.stop();
                if asked > 1 {
                    workers.abort_all();
                }
            }
        }
    }
    if is_seen {
        log::note(format_args!("{CLEAR}"));
    }
    (began.elapsed(), asked > 0)
}

/// Moves to the beginning of the line and clears it.
const CLEAR: &str = "\r\x1b[K";

/// Prints the progress, with the rate since the last call. Returns what the next call needs.
fn progress(load: &Load, began: Instant, (since, answered): (Instant, u64)) -> (Instant, u64) {
    let (now, counts) = (Instant::now(), load.counts());
    let new = real(counts.answered.saturating_sub(answered));
    let rate = new / now.duration_since(since).as_secs_f64().max(0.001);
    let [middle, late] = [0.5, 0.99].map(|quantile| millis(counts.quantile(quantile)));
    log::note(format_args!(
        "{CLEAR}{:5.1} s  {} requests/s  p50 {middle} ms  p99 {late} ms  {} failed",
        now.duration_since(began).as_secs_f64(),
        grouped(rate),
        counts.failed(),
    ));
    (now, counts.answered)
}

async fn close(clients: Vec<Client>) {
    let mut closing = JoinSet::new();
    for client in clients {
        closing.spawn(async move { client.close().await });
    }
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing.join_all()).await;
}
