//! Floods of unauthenticated connections: a server with a descriptor limit and the flood each in a
//! process of their own, and honest clients whose connect and request are timed beside those of a
//! server that nobody floods.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use falco_std::{Client, Server};
use rlimit::Resource;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

use crate::child::{Child, next_order, say};
use crate::common::{Running, echo, hello, key, millis};

/// How long a flood lasts before the first honest client connects.
const BEFORE: Duration = Duration::from_millis(500);
/// Between two honest clients.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long one honest client tries.
const PATIENCE: Duration = Duration::from_secs(20);
/// Recordings that a replay flood has.
const RECORDINGS: u64 = 50;
/// Descriptors of a flood, whose connections stay until the server drops them.
const DESCRIPTORS: u64 = 16_000;

/// Where a flood comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    /// The address of the honest clients.
    HonestAddress,
    /// Thousands of addresses.
    Everywhere,
}

/// What a flood does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flood {
    /// So many silent connections, each of which returns at once when it is dropped.
    Returning(u64),
    /// So many silent connections a second, each of which stays until it is dropped.
    Paced(u64),
    /// So many connections a second that send half a hello.
    Halves(u64),
    /// So many connections a second that replay recorded hellos and then send nothing.
    Replaying(u64),
}

/// A server of a process with a limit of open files (0: that of this process) and one of half-open
/// connections (0: the default). It prints its address, and then what it has counted.
pub(crate) fn server(arguments: &str) {
    let (limit, max_half_open) = arguments.split_once(' ').unwrap();
    let limit: u64 = limit.parse().unwrap();
    if limit > 0 {
        rlimit::setrlimit(Resource::NOFILE, limit, limit).unwrap();
    }
    let mut builder = Server::builder(key());
    if let Ok(max_half_open @ 1..) = max_half_open.parse() {
        builder = builder.max_half_open(max_half_open);
    }
    let running = Running::start(builder, echo);
    say(running.address);
    while next_order().is_some() {
        say(format!("{:?}", running.handle.stats()));
    }
}

struct Strangers {
    address: SocketAddr,
    /// From thousands of addresses.
    everywhere: bool,
    hellos: Vec<Vec<u8>>,
    events: std::os::fd::OwnedFd,
    sockets: HashMap<u64, Socket>,
    next: u64,
}

impl Strangers {
    fn connect(&mut self) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        let number = self.next;
        self.next += 1;
        if self.everywhere {
            let [.., high, low] = (number % 20_000).to_be_bytes();
            let address = IpAddr::from(Ipv4Addr::new(127, 9, high, low));
            socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
        }
        // It is in progress.
        let _ = socket.connect(&self.address.into());
        let wanted = if self.hellos.is_empty() {
            epoll::EventFlags::IN
        } else {
            epoll::EventFlags::OUT
        };
        epoll::add(&self.events, &socket, epoll::EventData::new_u64(number), wanted).unwrap();
        self.sockets.insert(number, socket);
    }

    /// Writes the hellos of those that are connected, and drops those that the server has dropped.
    /// Returns how many.
    fn turn(&mut self, limit: Option<&Timespec>) -> usize {
        let mut ready = Vec::with_capacity(64);
        epoll::wait(&self.events, rustix::buffer::spare_capacity(&mut ready), limit).unwrap();
        let mut dropped = 0;
        for event in ready {
            let (data, flags) = (event.data, event.flags);
            let number = data.u64();
            let socket = self.sockets.get_mut(&number).unwrap();
            let mut goes_on = if flags.contains(epoll::EventFlags::OUT) {
                let hellos = u64::try_from(self.hellos.len()).unwrap();
                let hello = &self.hellos[usize::try_from(number % hellos).unwrap()];
                epoll::modify(&self.events, &*socket, data, epoll::EventFlags::IN).unwrap();
                socket.write_all(hello).is_ok()
            } else {
                true
            };
            if flags.contains(epoll::EventFlags::IN) {
                goes_on &= matches!(socket.read(&mut [0; 256]), Ok(1..));
            }
            if !goes_on {
                self.sockets.remove(&number);
                dropped += 1;
            }
        }
        dropped
    }
}

pub(crate) fn flood(arguments: &str) {
    let words: Vec<_> = arguments.split(' ').collect();
    let [address, from, how, count] = words.try_into().unwrap();
    let (address, count): (SocketAddr, u64) = (address.parse().unwrap(), count.parse().unwrap());
    rlimit::increase_nofile_limit(DESCRIPTORS).unwrap();
    let hellos = match how {
        "replay" => (0..RECORDINGS).map(|number| recording(address, number)).collect(),
        "halves" => vec![hello(1)[..37].to_vec()],
        _ => Vec::new(),
    };
    let mut strangers = Strangers {
        address,
        everywhere: from == "everywhere",
        hellos,
        events: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
        sockets: HashMap::new(),
        next: 0,
    };
    say("ready");
    assert!(next_order().is_some());
    if how == "return" {
        (0..count).for_each(|_| strangers.connect());
        loop {
            let dropped = strangers.turn(None);
            (0..dropped).for_each(|_| strangers.connect());
        }
    }
    let (start, millisecond) = (
        Instant::now(),
        Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        },
    );
    loop {
        let due = u64::try_from(start.elapsed().as_millis()).unwrap() * count / 1000;
        while strangers.next < due {
            strangers.connect();
        }
        strangers.turn(Some(&millisecond));
    }
}

/// The hello of a client that the server has received, as an observer on the network records it.
fn recording(address: SocketAddr, number: u64) -> Vec<u8> {
    let hello = hello(1000 + number);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&hello).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    hello.to_vec()
}

/// One honest client: connects, sends a request and closes. Its time ends with the answer. Also
/// returns how many attempts failed.
fn honest(address: SocketAddr, round_trip: Duration) -> (Duration, usize) {
    let (start, mut failed) = (Instant::now(), 0);
    loop {
        let builder = Client::builder(key());
        let client = if round_trip.is_zero() {
            builder.connect(address)
        } else {
            builder.over(distant(address, round_trip))
        };
        let answer = client.and_then(|client| client.request("let me through"));
        if answer.is_ok() || start.elapsed() > PATIENCE {
            return (start.elapsed(), failed);
        }
        failed += 1;
        thread::sleep(millis(50));
    }
}

/// A connection whose every byte from the server comes a round trip late. What the client sends is
/// not delayed: a hello follows the last packet of TCP's handshake at once, whatever the distance.
fn distant(address: SocketAddr, round_trip: Duration) -> UnixStream {
    let (near, far) = UnixStream::pair().unwrap();
    thread::sleep(round_trip);
    let server = TcpStream::connect(address).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_server) = (far.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(Shutdown::Write)
    });
    let (delayed, due) = channel::<(Instant, Vec<u8>)>();
    let mut from_server = server;
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut bytes) {
            let _ = delayed.send((Instant::now() + round_trip, bytes[..count].to_vec()));
        }
    });
    let mut to_client = far;
    thread::spawn(move || {
        for (at, bytes) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if to_client.write_all(&bytes).is_err() {
                break;
            }
        }
        to_client.shutdown(Shutdown::Both)
    });
    near
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap()
}

/// A server with a descriptor limit and a limit on half-open connections under a flood, and
/// `clients` honest clients of it, one after the other, or several at once where a round trip is
/// long. Beside each is one of a server that nobody floods. 99 of 100 take no longer than `bound`
/// beyond what those take, in one of two rounds: other processes may spoil one, and the flood would
/// spoil each.
#[track_caller]
pub(crate) fn endures(
    (limit, max_half_open): (u64, usize),
    flood: Flood,
    from: From,
    (clients, round_trip, bound): (usize, Duration, Duration),
) {
    let limits = format!("{limit} {max_half_open}");
    let [mut flooded, undisturbed] = [(); 2].map(|()| Child::spawn("server", &limits));
    let [address, control]: [SocketAddr; 2] = [&flooded, &undisturbed].map(|server| server.line().parse().unwrap());
    let source = match from {
        From::HonestAddress => "honest",
        From::Everywhere => "everywhere",
    };
    let what = match flood {
        Flood::Returning(count) => format!("return {count}"),
        Flood::Paced(rate) => format!("paced {rate}"),
        Flood::Halves(rate) => format!("halves {rate}"),
        Flood::Replaying(rate) => format!("replay {rate}"),
    };
    let mut flooding = Child::spawn("flood", &format!("{address} {source} {what}"));
    assert_eq!(flooding.line(), "ready");
    flooding.order("begin");
    thread::sleep(BEFORE);
    let mut round = || {
        let mut running = Vec::new();
        for number in 0..2 * clients {
            let address = if number % 2 == 0 { address } else { control };
            let client = thread::spawn(move || honest(address, round_trip));
            if round_trip.is_zero() {
                while !client.is_finished() {
                    thread::sleep(Duration::from_micros(100));
                }
            }
            running.push(client);
            thread::sleep(BETWEEN);
        }
        let (mut times, mut usual, mut attempts) = (Vec::new(), Vec::new(), 0);
        for (number, client) in running.into_iter().enumerate() {
            let (time, failed) = client.join().unwrap();
            if number % 2 == 0 {
                times.push(time);
                attempts += failed;
            } else {
                usual.push(time);
            }
        }
        let stats = flooded.ask("stats");
        let [p50, p99] = [50, 99].map(|percent| percentile(&mut times, percent));
        let [u50, u99] = [50, 99].map(|percent| percentile(&mut usual, percent));
        println!(
            "{flood:?} from {from:?}, {limit} descriptors, a round trip of {round_trip:?}: {clients} honest clients, \
             p50 {p50:?} p99 {p99:?} (undisturbed {u50:?} and {u99:?}), {attempts} attempts failed; {stats}"
        );
        p99 < bound + u99
    };
    if !round() {
        println!("this round is repeated once");
        assert!(round(), "more than {bound:?} longer in both rounds");
    }
}
