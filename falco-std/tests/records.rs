//! How many bytes and writes a message takes, over streams that accept any number of bytes at a
//! time, and that neither reading nor writing prevents the other.

mod common;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use common::{bounded, echo, key, millis};
use falco_std::{BoxedStream, Client, ClientBuilder, Server, ServerBuilder, Settings, Stream};

/// One direction of a connection in memory.
struct Pipe {
    state: Mutex<(VecDeque<u8>, bool)>,
    changed: Condvar,
    holds: usize,
}

impl Pipe {
    fn new(holds: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            holds,
        })
    }

    /// Waits until `ready`, then calls `act`. Fails with `WouldBlock` after `limit`.
    fn when(
        &self,
        limit: Option<Duration>,
        ready: impl Fn(&(VecDeque<u8>, bool)) -> bool,
        act: impl FnOnce(&mut (VecDeque<u8>, bool)) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut state = self.state.lock().expect("it does not panic");
        while !ready(&state) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let left = left.unwrap_or(Duration::from_secs(60));
            state = self.changed.wait_timeout(state, left).expect("it does not panic").0;
        }
        let done = act(&mut state);
        drop(state);
        self.changed.notify_all();
        done
    }

    fn end(&self) {
        self.state.lock().expect("it does not panic").1 = true;
        self.changed.notify_all();
    }
}

/// Counts what was written to a stream.
#[derive(Default)]
struct Count {
    bytes: AtomicUsize,
    writes: AtomicUsize,
}

impl Count {
    /// Bytes and writes since the last call.
    fn take(&self) -> (usize, usize) {
        (
            self.bytes.swap(0, Ordering::SeqCst),
            self.writes.swap(0, Ordering::SeqCst),
        )
    }
}

#[derive(Default)]
struct Limits {
    read: Mutex<Option<Duration>>,
    write: Mutex<Option<Duration>>,
}

/// A stream that accepts at most `takes` bytes at a time, and pauses each time.
#[derive(Clone)]
struct Narrow {
    from: Arc<Pipe>,
    to: Arc<Pipe>,
    takes: usize,
    pause: Duration,
    splits: bool,
    count: Arc<Count>,
    limits: Arc<Limits>,
}

impl Read for Narrow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let limit = *self.limits.read.lock().expect("it does not panic");
        self.from.when(
            limit,
            |(bytes, ended)| !bytes.is_empty() || *ended,
            |(bytes, _)| bytes.read(buf),
        )
    }
}

impl Write for Narrow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if !self.pause.is_zero() {
            thread::sleep(self.pause);
        }
        let (limit, holds) = (*self.limits.write.lock().expect("it does not panic"), self.to.holds);
        self.to.when(
            limit,
            |(bytes, ended)| bytes.len() < holds || *ended,
            |(bytes, ended)| {
                if *ended {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let takes = buf.len().min(self.takes).min(holds - bytes.len());
                bytes.extend(buf.iter().take(takes));
                // Before the other side can read it.
                self.count.bytes.fetch_add(takes, Ordering::SeqCst);
                self.count.writes.fetch_add(1, Ordering::SeqCst);
                Ok(takes)
            },
        )
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Narrow {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        *self.limits.read.lock().expect("it does not panic") = timeout;
        Ok(())
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        *self.limits.write.lock().expect("it does not panic") = timeout;
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.to.end();
        }
        if how != Shutdown::Write {
            self.from.end();
        }
        Ok(())
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        if !self.splits {
            return Ok(None);
        }
        Ok(Some(Box::new(self.clone())))
    }
}

fn streams(takes: usize, holds: usize, pause: Duration, splits: bool) -> [Narrow; 2] {
    let (there, back) = (Pipe::new(holds), Pipe::new(holds));
    [(&back, &there), (&there, &back)].map(|(from, to)| Narrow {
        from: Arc::clone(from),
        to: Arc::clone(to),
        takes,
        pause,
        splits,
        count: Arc::default(),
        limits: Arc::default(),
    })
}

fn serve(server: ServerBuilder, stream: Narrow) -> JoinHandle<()> {
    let server = server.unbound().expect("there is entropy");
    thread::spawn(move || {
        let ended = server.serve_connection(stream, echo);
        ended.expect("the stream is in order");
    })
}

/// A client and a server, with the counters of what each has written.
fn pair(
    client: &ClientBuilder,
    server: ServerBuilder,
    takes: usize,
    splits: bool,
) -> (Client, [Arc<Count>; 2], JoinHandle<()>) {
    let [near, far] = streams(takes, 1 << 20, Duration::ZERO, splits);
    let counts = [Arc::clone(&near.count), Arc::clone(&far.count)];
    let serving = serve(server, far);
    let client = client.clone().over(near).expect("the server accepts it");
    client.request("hello").expect("an answer");
    for count in &counts {
        count.take();
    }
    (client, counts, serving)
}

/// Has a body returned, and compares bytes and writes with the minimum.
fn check(client: &Client, counts: &[Arc<Count>; 2], takes: usize, length: usize) {
    let body = vec![7; length];
    assert!(client.request(&body).expect("an answer") == body, "{length} bytes");
    for (count, side) in counts.iter().zip(["client", "server"]) {
        let (bytes, writes) = count.take();
        assert!(
            bytes <= length + length / 500 + 200,
            "{side}, {takes} at a time: {bytes} bytes for {length}"
        );
        // Each record has a write of its own, and at least a third of the largest size.
        let (least, records) = (bytes / takes, length / 20_000 + 2);
        assert!(
            writes <= least + records,
            "{side}, {takes} at a time: {writes} writes for {bytes} bytes, and {least} would do"
        );
    }
}

const STEPS: [usize; 21] = [
    1, 2, 3, 5, 7, 13, 26, 64, 127, 997, 4_096, 16_381, 32_768, 65_521, 65_535, 65_536, 65_537, 65_539, 98_303, 98_304,
    131_072,
];

#[test]
fn the_size_of_records_does_not_depend_on_what_the_stream_takes() {
    // Streams that split and that do not, on both wires.
    for (splits, classic) in [(true, false), (false, false), (true, true)] {
        bounded(move || {
            for takes in STEPS {
                let (client, server) = if classic {
                    (Client::classic(key()), Server::classic(key()))
                } else {
                    (Client::builder(key()), Server::builder(key()))
                };
                let (client, counts, serving) = pair(&client, server, takes, splits);
                // In tiny steps a megabyte would take too long.
                for length in [1, 1_000, 70_000, 1, (takes * 40_000).min(1 << 20), 997] {
                    check(&client, &counts, takes, length);
                }
                client.close();
                serving.join().expect("it does not panic");
            }
        });
    }
}

#[test]
fn buffers_that_were_freed_do_not_change_the_size_of_records() {
    bounded(|| {
        let pairs: Vec<_> = [1, 13, 997, 65_521, 65_537, 131_072]
            .into_iter()
            .map(|takes| {
                let pair = pair(&Client::builder(key()), Server::builder(key()), takes, true);
                check(&pair.0, &pair.1, takes, 70_001);
                (takes, pair)
            })
            .collect();
        // Longer than the second after which buffers are freed.
        thread::sleep(millis(1_300));
        for (takes, (client, counts, serving)) in pairs {
            for length in [1, 70_001, (takes * 40_000).min(1 << 20)] {
                check(&client, &counts, takes, length);
            }
            client.close();
            serving.join().expect("it does not panic");
        }
    });
}

#[test]
fn the_thread_that_reads_leaves_a_long_write_to_another() {
    bounded(|| {
        let [mut near, far] = streams(2_000, 64 << 20, Duration::ZERO, true);
        near.pause = millis(2);
        let settings = Settings::new().with_max_in_flight(1).expect("it is in range");
        let server = Server::builder(key())
            .settings(settings)
            .unbound()
            .expect("there is entropy");
        let serving = thread::spawn(move || {
            server.serve_connection(far, move |request| {
                thread::sleep(millis(100));
                Ok(vec![u8::from(request.body() == b"first")])
            })
        });
        let client = Arc::new(Client::builder(key()).over(near).expect("the server accepts it"));
        let own = Arc::clone(&client);
        let first = thread::spawn(move || own.request("first").expect("an answer"));
        thread::sleep(millis(30));
        // It is held back until the first is answered, so that the thread that reads begins it.
        let own = Arc::clone(&client);
        let large = thread::spawn(move || own.request(vec![1; 2 << 20]).expect("an answer"));
        assert_eq!(first.join().expect("it does not panic"), [1]);
        let mut slowest = Duration::ZERO;
        while !large.is_finished() {
            let trip = client.ping().expect("the connection is in order");
            slowest = slowest.max(trip.expect("the wire answers pings"));
        }
        println!("the slowest ping took {slowest:?}");
        assert!(slowest < millis(600), "{slowest:?}");
        large.join().expect("it does not panic");
        drop(client);
        let _ = serving.join().expect("it does not panic");
    });
}

#[test]
fn a_side_that_writes_to_a_slow_stream_also_reads() {
    // Which side has much to send, over a stream that accepts a little at a time.
    for client_is_slow in [true, false] {
        bounded(move || {
            let [mut near, mut far] = streams(2_000, 64 << 20, Duration::ZERO, true);
            let slow = if client_is_slow { &mut near } else { &mut far };
            slow.pause = millis(2);
            let server = Server::builder(key()).unbound().expect("there is entropy");
            let serving = thread::spawn(move || {
                server.serve_connection(far, move |request| {
                    Ok(match request.body() {
                        b"small" => Vec::new(),
                        _ if client_is_slow => vec![1],
                        _ => vec![1; 2 << 20],
                    })
                })
            });
            let client = Arc::new(Client::builder(key()).over(near).expect("the server accepts it"));
            let (own, done) = (Arc::clone(&client), Arc::new(AtomicBool::new(false)));
            let told = Arc::clone(&done);
            // A thousand writes of two milliseconds.
            let large = thread::spawn(move || {
                let asked = vec![1; if client_is_slow { 2 << 20 } else { 1 }];
                let answer = own.request(asked);
                told.store(true, Ordering::SeqCst);
                answer.expect("an answer").len()
            });
            thread::sleep(millis(50));
            let (mut answered, mut slowest) = (0, Duration::ZERO);
            while !done.load(Ordering::SeqCst) {
                let start = Instant::now();
                client.request("small").expect("an answer");
                slowest = slowest.max(start.elapsed());
                answered += 1;
            }
            large.join().expect("it does not panic");
            println!("{answered} small ones meanwhile, the slowest took {slowest:?}");
            // A request waits for one record in each direction, 66 ms each.
            assert!(answered > 5 && slowest < millis(700), "{answered}, {slowest:?}");
            drop(client);
            let _ = serving.join().expect("it does not panic");
        });
    }
}
