//! Floods of unauthenticated connections: a server with a descriptor limit and the flood each in a
//! process of their own, and honest clients whose connect and request are timed beside those of a
//! server that nobody floods.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use falco_tokio::{Client, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::child::{self, Child, next_order, say};
use super::raw::RawPeer;
use super::{Running, key, scene};

/// How long a flood lasts before the first honest client connects.
const BEFORE: Duration = Duration::from_millis(500);
/// Between two honest clients.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long one honest client tries.
const PATIENCE: Duration = Duration::from_secs(20);
/// Recordings that a replay flood has.
const RECORDINGS: usize = 50;

/// Where a flood comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// The address of the honest clients.
    HonestAddress,
    /// One other address.
    OtherAddress,
    /// Thousands of addresses.
    Everywhere,
}

/// What a flood does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flood {
    /// So many silent connections, each of which returns at once when it is dropped.
    Returning(usize),
    /// So many silent connections a second, each of which stays until it is dropped.
    Paced(u64),
    /// So many connections a second that replay recorded hellos and then send nothing.
    Replaying(u64),
}

/// What honest clients saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) times: Vec<Duration>,
    pub(crate) undisturbed: Vec<Duration>,
    /// Attempts at a connection that failed and were repeated.
    pub(crate) failed: usize,
    /// What the server counted, as its `Debug` shows it.
    pub(crate) stats: String,
}

impl Seen {
    fn percentile(times: &[Duration], percent: usize) -> Duration {
        let mut times = times.to_vec();
        times.sort_unstable();
        times.get(times.len() * percent / 100).copied().unwrap_or_default()
    }

    /// Whether 99 of 100 honest clients took no longer than `bound` beyond what undisturbed ones
    /// take.
    fn is_within(&self, bound: Duration, of: &str) -> bool {
        let [p50, p99] = [50, 99].map(|percent| Self::percentile(&self.times, percent));
        let [u50, u99] = [50, 99].map(|percent| Self::percentile(&self.undisturbed, percent));
        println!(
            "{of}: {} honest clients, p50 {p50:?} p99 {p99:?} (undisturbed {u50:?} and {u99:?}), {} attempts failed; {}",
            self.times.len(),
            self.failed,
            self.stats
        );
        p99 < bound + u99
    }
}

/// The roles of a suite that uses this.
pub(crate) fn role() {
    match child::role() {
        Some((role, arguments)) if role == "server" => server(&arguments),
        Some((role, arguments)) if role == "flood" => scene::runtime().block_on(flood(&arguments)),
        _ => {}
    }
}

fn server(arguments: &str) {
    let (limit, max_half_open) = arguments.split_once(' ').unwrap();
    let limit: u64 = limit.parse().unwrap();
    let mut builder = Server::builder(key(1));
    if let Ok(max_half_open @ 1..) = max_half_open.parse() {
        builder = builder.max_half_open(max_half_open);
    }
    if limit > 0 {
        rlimit::setrlimit(rlimit::Resource::NOFILE, limit, limit).unwrap();
    }
    scene::runtime().block_on(async {
        let running = Running::echo(builder).await;
        say(running.address);
        let handle = running.handle.clone();
        let orders = tokio::task::spawn_blocking(move || {
            while next_order().is_some() {
                say(format!("{:?}", handle.stats()));
            }
        });
        orders.await.unwrap();
    });
}

async fn flood(arguments: &str) {
    let words: Vec<_> = arguments.split(' ').collect();
    let [address, from, how, count] = words.try_into().unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let count: u64 = count.parse().unwrap();
    let source = Arc::new(Source::new(from));
    let mut hellos = Vec::new();
    if how == "replay" {
        for _ in 0..RECORDINGS {
            hellos.push(recording(address).await);
        }
    }
    say("ready");
    assert!(next_order().is_some());
    if how == "return" {
        for _ in 0..count {
            let source = Arc::clone(&source);
            tokio::spawn(async move {
                loop {
                    let _ = stranger(address, &source, &[]).await;
                }
            });
        }
        core::future::pending::<()>().await;
    }
    let (start, mut sent) = (Instant::now(), 0_u64);
    loop {
        let due = u64::try_from(start.elapsed().as_millis()).unwrap() * count / 1000;
        while sent < due {
            let hello = hellos.get(usize::try_from(sent).unwrap() % RECORDINGS).cloned();
            let source = Arc::clone(&source);
            tokio::spawn(async move { stranger(address, &source, &hello.unwrap_or_default()).await });
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The hello of a client that then completes its handshake, as an observer on the network records
/// it.
async fn recording(address: SocketAddr) -> Vec<u8> {
    let mut peer = RawPeer::new(address).await;
    let hello = peer.pending_output();
    peer.stream.write_all(&hello).await.unwrap();
    peer.established().await;
    let first = peer.pending_output();
    peer.stream.write_all(&first).await.unwrap();
    peer.ping().await;
    hello
}

struct Source {
    from: String,
    next: AtomicUsize,
}

impl Source {
    fn new(from: &str) -> Self {
        Self {
            from: from.to_owned(),
            next: AtomicUsize::new(0),
        }
    }

    fn address(&self) -> Option<IpAddr> {
        if self.from == "honest" {
            return None;
        }
        let number = if self.from == "other" {
            0
        } else {
            self.next.fetch_add(1, Ordering::Relaxed) % 20_000
        };
        let [.., high, low] = number.to_be_bytes();
        Some(Ipv4Addr::new(127, 9, high, low).into())
    }
}

/// Connects, sends the bytes of another, and waits until it is dropped.
async fn stranger(address: SocketAddr, source: &Source, hello: &[u8]) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    if let Some(address) = source.address() {
        socket.bind(SocketAddr::new(address, 0))?;
    }
    let mut stream = socket.connect(address).await?;
    stream.write_all(hello).await?;
    let mut dropped = [0; 256];
    while stream.read(&mut dropped).await? > 0 {}
    Ok(())
}

/// One honest client: connects, sends a request and closes. Its time ends with the answer.
async fn honest(address: SocketAddr, round_trip: Duration) -> (Duration, usize) {
    let (start, mut failed) = (Instant::now(), 0);
    loop {
        let builder = Client::builder(key(1));
        let connected = if round_trip.is_zero() {
            builder.connect(address).await
        } else {
            builder.over(distant(address, round_trip).await).await
        };
        if let Ok(client) = connected
            && client.request("let me through").await.is_ok()
        {
            let time = start.elapsed();
            drop(client);
            return (time, failed);
        }
        failed += 1;
        if start.elapsed() > PATIENCE {
            return (start.elapsed(), failed);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A connection whose every byte from the server comes a round trip late. What the client sends is
/// not delayed: a hello follows the last packet of TCP's handshake at once, whatever the distance.
async fn distant(address: SocketAddr, round_trip: Duration) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::time::sleep(round_trip).await;
    let server = TcpStream::connect(address).await.unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(far);
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let (delayed, mut due) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            let _ = delayed.send((Instant::now() + round_trip, bytes.get(..count).unwrap().to_vec()));
        }
    });
    tokio::spawn(async move {
        while let Some((at, bytes)) = due.recv().await {
            tokio::time::sleep_until(at.into()).await;
            if to_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to_client.shutdown().await;
    });
    near
}

/// A server with a descriptor limit (0: that of this process) and a limit on half-open connections
/// (0: the default) under a flood, and `clients` honest clients of it, one after the other, or
/// several at once where a round trip is long.
pub(crate) fn endure(
    (limit, max_half_open): (u64, usize),
    flood: Flood,
    from: From,
    clients: usize,
    round_trip: Duration,
) -> Seen {
    let limits = format!("{limit} {max_half_open}");
    let [mut flooded, undisturbed] = [(); 2].map(|()| Child::spawn("server", &limits));
    let [address, control]: [SocketAddr; 2] = [&flooded, &undisturbed].map(|server| server.line().parse().unwrap());
    let from = match from {
        From::HonestAddress => "honest",
        From::OtherAddress => "other",
        From::Everywhere => "everywhere",
    };
    let what = match flood {
        Flood::Returning(count) => format!("return {count}"),
        Flood::Paced(rate) => format!("paced {rate}"),
        Flood::Replaying(rate) => format!("replay {rate}"),
    };
    let mut flooding = Child::spawn("flood", &format!("{address} {from} {what}"));
    assert_eq!(flooding.line(), "ready");
    flooding.order("begin");
    std::thread::sleep(BEFORE);
    let mut seen = Seen {
        times: Vec::new(),
        undisturbed: Vec::new(),
        failed: 0,
        stats: String::new(),
    };
    scene::runtime().block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..2 * clients {
            let disturbed = number % 2 == 0;
            let address = if disturbed { address } else { control };
            running.spawn(async move { (disturbed, honest(address, round_trip).await) });
            if round_trip.is_zero() {
                seen.note(running.join_next().await.unwrap().unwrap());
            }
            tokio::time::sleep(BETWEEN).await;
        }
        while let Some(done) = running.join_next().await {
            seen.note(done.unwrap());
        }
    });
    seen.stats = flooded.ask("stats");
    seen
}

/// In one of two rounds, 99 of 100 honest clients take no longer than `bound` beyond what
/// undisturbed ones take: other processes may spoil one round, and the flood would spoil each.
#[track_caller]
pub(crate) fn assert_within(bound: Duration, of: &str, round: impl Fn() -> Seen) {
    if !round().is_within(bound, of) {
        println!("this round is repeated once");
        assert!(
            round().is_within(bound, of),
            "more than {bound:?} longer in both rounds of {of}"
        );
    }
}

impl Seen {
    fn note(&mut self, (disturbed, (time, failed)): (bool, (Duration, usize))) {
        if disturbed {
            self.times.push(time);
            self.failed += failed;
        } else {
            self.undisturbed.push(time);
        }
    }
}
