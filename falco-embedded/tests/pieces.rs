//! Streams that take a few bytes at a time. The bytes on the wire depend on the bodies and on the
//! output buffers, and not on how much the stream took of earlier bytes.
//!
//! The expected numbers are exact. A record is as large as the output buffer and the peer's largest
//! record allow. It is written in as many calls as there are pieces of it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use std::rc::Rc;

use common::{Asker, Other, Pipe, Port, RestingClock, VirtualClock, World, at_once, client_key, run, server_key};
use falco_core::testing::{CountingRng, classic_key};
use falco_core::{ClientConnection, ClientKeyRef, Instant, Refusal, ServerKeyRef, Settings};
use falco_embedded::{
    BufferedClient, BufferedConnection, BufferedServer, Error, PendingRequest, asynchronous, blocking,
};

/// The largest message of these devices.
const LARGEST: usize = 200_000;
/// The largest record there is, with its length.
const RECORD: usize = 65_537;

/// How many bytes the stream takes with each call, in turn.
const PIECES: [&[usize]; 18] = [
    &[1],
    &[2],
    &[3],
    &[7],
    &[13],
    &[64],
    &[251],
    &[509],
    &[997],
    &[4_096],
    &[16_381],
    &[65_521],
    &[65_536],
    &[65_537],
    &[98_303],
    &[131_072],
    &[1, 65_536, 13, 997, 509, 2],
    &[509, 1, 131_072, 1, 284],
];

/// Sizes of the outbox on the noise wire, from the smallest that is allowed.
const OUTPUTS: [usize; 5] = [285, 514, 4_096, RECORD, 2 * RECORD];

type Client<H> = BufferedClient<H, (Vec<u8>, Vec<u8>)>;
type Server<H> = BufferedServer<H, (Vec<u8>, Vec<u8>), (Vec<u8>, Vec<u8>)>;

/// What a wire makes of one body.
trait Layout {
    /// The lengths of the records, or of the message, for a body of `length` bytes and an outbox of
    /// `output` bytes.
    fn records(&self, output: usize, length: usize) -> Vec<usize>;
}

struct Noise;

impl Layout for Noise {
    fn records(&self, output: usize, length: usize) -> Vec<usize> {
        // Length and tag of a record; the head of a frame; the total, in the first of several.
        let (around, head, total) = (2 + 16, 7, 4);
        let room = output.min(RECORD) - around;
        if head + length <= room {
            return vec![around + head + length];
        }
        let (mut records, mut left) = (vec![around + room], length - (room - head - total));
        while left > 0 {
            let part = left.min(room - head);
            records.push(around + head + part);
            left -= part;
        }
        records
    }
}

/// A message is sent as a whole, after a header of so many bytes.
struct Classic(usize);

impl Layout for Classic {
    fn records(&self, _: usize, length: usize) -> Vec<usize> {
        vec![self.0 + length]
    }
}

/// How the two sides are driven: both async, one of them blocking, or without a driver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Polled,
    BlockingClient,
    BlockingServer,
    Buffered,
}

/// How the streams behave and what is sent over them.
struct Plan<'p> {
    by: By,
    pieces: &'p [usize],
    /// How many bytes a stream holds.
    holds: usize,
    bodies: &'p [usize],
}

#[allow(clippy::unnecessary_wraps, reason = "as a handler is")]
fn echo(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    answer[..request.len()].copy_from_slice(request);
    Ok(request.len())
}

/// Sends each body. Returns for each how many bytes were written, and in how many calls, to the
/// server and to the client.
async fn ask(client: &mut dyn Asker, bodies: &[usize], pipes: &[Pipe; 2]) -> Vec<[(usize, usize); 2]> {
    client.establish().await.unwrap();
    let ping = client.ping().await.unwrap();
    // The classic wire has no answers to pings.
    assert!(matches!(client.pong(ping).await, Ok(()) | Err(Error::NoPongs)));
    let (mut answer, mut told) = (vec![0; LARGEST], Vec::new());
    for &length in bodies {
        let body: Vec<u8> = (0..=250).cycle().take(length).collect();
        let before = pipes.each_ref().map(count);
        assert_eq!(client.request(&body, &mut answer).await, Ok(length));
        assert!(answer[..length] == body);
        let after = pipes.each_ref().map(count);
        told.push([0, 1].map(|way| (after[way].0 - before[way].0, after[way].1 - before[way].1)));
    }
    client.close().await.unwrap();
    pipes[0].closed.set(true);
    told
}

fn count(pipe: &Pipe) -> (usize, usize) {
    (pipe.gauge.written.get(), pipe.gauge.writes.get())
}

fn carry<G, H>(plan: &Plan<'_>, mut client: Client<G>, mut server: Server<H>) -> Vec<[(usize, usize); 2]>
where
    G: ClientKeyRef,
    H: ServerKeyRef,
{
    let world = Rc::new(World::default());
    let pipes = [(); 2].map(|()| Pipe::new(&world, plan.holds));
    for pipe in &pipes {
        *pipe.gauge.pieces.borrow_mut() = plan.pieces.to_vec();
    }
    let ([up, down], clock) = (pipes.clone(), VirtualClock(Rc::clone(&world)));
    let resting = |other| RestingClock {
        world: Rc::clone(&world),
        other,
    };
    let told = match plan.by {
        By::Polled => {
            let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock.clone());
            let mut server = asynchronous::Server::new(server, up, down, clock);
            let serving = async {
                let _ = server
                    .serve(async |request: &[u8], answer: &mut [u8]| echo(request, answer))
                    .await;
                pipes[1].closed.set(true);
            };
            run(&world, ask(&mut client, plan.bodies, &pipes), serving).0
        }
        By::BlockingClient => {
            let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), clock);
            let other = Other::new(async {
                let _ = server
                    .serve(async |request: &[u8], answer: &mut [u8]| echo(request, answer))
                    .await;
                pipes[1].closed.set(true);
            });
            let mut client = blocking::Client::new(client, Port { from: down, to: up }, resting(&other));
            at_once(ask(&mut client, plan.bodies, &pipes))
        }
        By::BlockingServer => {
            let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock);
            let mut told = Vec::new();
            {
                let other = Other::new(async { told = ask(&mut client, plan.bodies, &pipes).await });
                let mut server = blocking::Server::new(server, Port { from: up, to: down }, resting(&other));
                let _ = server.serve(echo);
                pipes[1].closed.set(true);
                other.finish(&world);
            }
            told
        }
        By::Buffered => super_loop(plan, &mut client, &mut server, &pipes),
    };
    assert_eq!(world.now(), 0, "nothing waits for a time");
    told
}

/// A super-loop for both sides at once.
fn super_loop<G, H>(
    plan: &Plan<'_>,
    client: &mut Client<G>,
    server: &mut Server<H>,
    pipes: &[Pipe; 2],
) -> Vec<[(usize, usize); 2]>
where
    G: ClientKeyRef,
    H: ServerKeyRef,
{
    let (now, [up, down]) = (Instant::ZERO, pipes);
    let mut turn = |client: &mut Client<G>, ask: Option<&mut PendingRequest<Vec<u8>, Vec<u8>>>| {
        let mut ask = ask;
        let mut moved = false;
        while client.step(now, ask.as_deref_mut()).unwrap() {}
        moved |= exchange(client.connection_mut(), down, up, now);
        while server.step(now).unwrap() {}
        if let Some((request, answer)) = server.request() {
            let length = echo(request, answer).unwrap();
            server.answer(length);
            moved = true;
        }
        moved | exchange(server.connection_mut(), up, down, now)
    };
    while turn(client, None) {}
    assert!(client.is_established());
    let mut told = Vec::new();
    for &length in plan.bodies {
        let body: Vec<u8> = (0..=250).cycle().take(length).collect();
        let before = pipes.each_ref().map(count);
        let mut ask = client.request(body.clone(), vec![0; length]).unwrap();
        loop {
            let moved = turn(client, Some(&mut ask));
            if ask.answered().unwrap().is_some() {
                break;
            }
            assert!(moved, "it gets on");
        }
        assert!(ask.into_parts().1 == body);
        let after = pipes.each_ref().map(count);
        told.push([0, 1].map(|way| (after[way].0 - before[way].0, after[way].1 - before[way].1)));
    }
    told
}

/// Moves as many bytes as possible.
fn exchange<R, H>(line: &mut BufferedConnection<R, H, (Vec<u8>, Vec<u8>)>, from: &Pipe, to: &Pipe, now: Instant) -> bool
where
    R: falco_core::Role,
    H: falco_core::KeyRef<R>,
{
    let mut read = 0;
    if !from.bytes.borrow().is_empty() {
        read = from.take(line.space().unwrap());
        line.filled(read);
    }
    let mut written = 0;
    if to.is_writable() && !line.unsent().is_empty() {
        written = to.give(line.unsent()).unwrap();
        line.sent(now, written);
    }
    read + written > 0
}

/// Runs the plan with this outbox and compares with the expected numbers.
fn check<G, H>(plan: &Plan<'_>, output: usize, layouts: [&dyn Layout; 2], client: Client<G>, server: Server<H>)
where
    G: ClientKeyRef,
    H: ServerKeyRef,
{
    let told = carry(plan, client, server);
    assert_eq!(told.len(), plan.bodies.len());
    for (&length, told) in plan.bodies.iter().zip(told) {
        for (layout, (written, calls)) in layouts.into_iter().zip(told) {
            let records = layout.records(output, length);
            let what = format!("{length} bytes through {output}, by {:?} at a time", plan.pieces);
            assert_eq!(written, records.iter().sum::<usize>(), "bytes on the wire: {what}");
            let least = *plan.pieces.iter().min().unwrap();
            let mut ceiling: usize = records.iter().map(|record| record.div_ceil(least)).sum();
            if plan.holds == usize::MAX && plan.pieces.len() == 1 {
                assert_eq!(calls, ceiling, "calls of write: {what}");
            } else {
                // The stream may still hold bytes when a record begins.
                ceiling += records.len();
                assert!(calls <= ceiling, "{calls} calls of write, and not {ceiling}: {what}");
            }
        }
    }
}

/// Lengths at and beside the limits of frames and records, and the largest.
const BODIES: [usize; 14] = [
    0, 1, 242, 243, 488, 489, 490, 3_000, 4_071, 4_072, 65_512, 65_513, 131_100, LARGEST,
];

/// Those that do not take too many pieces.
fn bodies(pieces: &[usize]) -> &'static [usize] {
    let most = 3_000 * pieces.iter().sum::<usize>() / pieces.len();
    BODIES.split_at(BODIES.partition_point(|length| *length <= most)).0
}

fn settings() -> Settings {
    let largest = LARGEST.try_into().unwrap();
    Settings::new().with_max_message(largest).with_keep_alive(false)
}

fn noise(by: By) {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let settings = settings().with_max_record(u16::MAX).unwrap();
    let least = ClientConnection::<&falco_embedded::NoiseClientKey>::buffer_sizes(&settings);
    assert_eq!(least.output, OUTPUTS[0]);
    for pieces in PIECES {
        for output in OUTPUTS {
            // A stream that holds little takes what it has room for, which depends on its reader.
            for holds in [usize::MAX, *pieces.iter().max().unwrap()] {
                let (inbox, outbox) = (|| vec![0; RECORD], || vec![0; output]);
                let mut rng = CountingRng::new(1);
                let client =
                    BufferedClient::start(&client_key, &settings, Instant::ZERO, &mut rng, (inbox(), outbox()));
                let memory = (vec![0; LARGEST], vec![0; LARGEST]);
                let buffers = (inbox(), outbox());
                let mut rng = CountingRng::new(2);
                let server = BufferedServer::start(&server_key, &settings, Instant::ZERO, &mut rng, buffers, memory);
                let bodies = bodies(pieces);
                let plan = Plan {
                    by,
                    pieces,
                    holds,
                    bodies,
                };
                check(&plan, output, [&Noise, &Noise], client.unwrap(), server.unwrap());
            }
        }
    }
}

#[test]
fn both_async_on_the_noise_wire() {
    noise(By::Polled);
}

#[test]
fn a_blocking_client_on_the_noise_wire() {
    noise(By::BlockingClient);
}

#[test]
fn a_blocking_server_on_the_noise_wire() {
    noise(By::BlockingServer);
}

#[test]
fn no_driver_on_the_noise_wire() {
    noise(By::Buffered);
}

#[test]
fn the_classic_wire() {
    let settings = settings();
    for by in [By::Polled, By::BlockingClient, By::BlockingServer, By::Buffered] {
        for pieces in PIECES {
            // The smallest buffers, and larger ones.
            for more in [0, 1, LARGEST] {
                let (client_key, server_key) = (classic_key(7), classic_key(7));
                let (requests, answers) = (37 + LARGEST, 36 + LARGEST);
                let (inbox, outbox) = (vec![0; answers], vec![0; requests + more]);
                let mut rng = CountingRng::new(1);
                let client = BufferedClient::start(&client_key, &settings, Instant::ZERO, &mut rng, (inbox, outbox));
                let buffers = (vec![0; requests], vec![0; answers + more]);
                let memory = (vec![0; LARGEST], vec![0; LARGEST]);
                let mut rng = CountingRng::new(2);
                let server = BufferedServer::start(&server_key, &settings, Instant::ZERO, &mut rng, buffers, memory);
                let (holds, bodies) = (usize::MAX, bodies(pieces));
                let plan = Plan {
                    by,
                    pieces,
                    holds,
                    bodies,
                };
                let layouts: [&dyn Layout; 2] = [&Classic(37), &Classic(36)];
                check(&plan, requests + more, layouts, client.unwrap(), server.unwrap());
            }
        }
    }
}
