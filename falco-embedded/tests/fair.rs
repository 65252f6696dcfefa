//! Much to read and much to write at once: neither has to wait until the other is done.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use core::future::{Future, poll_fn};
use core::pin::pin;
use std::rc::Rc;

use common::{
    BUFFER, Op, Other, Pipe, Port, Raw, RestingClock, VirtualClock, World, Writes, client_key, raw_key, run,
    server_key, turn,
};
use falco_core::testing::{CountingRng, RawHandshake, raw_frame, raw_settings};
use falco_core::{ConnectionError, Instant, Refusal, RustCrypto, Settings};
use falco_embedded::{BufferedClient, BufferedServer, Error, NoiseClientKey, asynchronous, blocking};

const NOW: Instant = Instant::ZERO;
/// A message that takes hundreds of writes.
const LARGE: usize = 60_000;
/// Bytes that a write takes.
const PIECE: usize = 100;
/// Records with a PING that are in the stream from the beginning, 660,000 bytes: twice as many as
/// are read while the message is written, at one read for each write.
const FLOOD: usize = 20_000;

type Server<'k> = BufferedServer<&'k common::ServerKey, ([u8; BUFFER], [u8; BUFFER]), (Vec<u8>, Vec<u8>)>;
type Client<'k> = BufferedClient<&'k NoiseClientKey, ([u8; BUFFER], [u8; BUFFER])>;

fn settings() -> Settings {
    let settings = Settings::new().with_max_record(512).unwrap();
    settings
        .with_max_message(LARGE.try_into().unwrap())
        .with_keep_alive(false)
}

/// From here on the stream takes a piece at a time, and notes when it has the message.
fn begin(world: &World, to: &Pipe) {
    *to.gauge.pieces.borrow_mut() = vec![PIECE];
    to.gauge.goal.set(to.gauge.written.get() + LARGE);
    to.gauge.reached.set(None);
    world.log.borrow_mut().clear();
}

/// Reads and writes alternated until the message was written, and there was more to read then. Only
/// the side under test uses the pipe's calls.
fn assert_fair(world: &World, to: &Pipe) {
    let log = world.log.borrow();
    let reached = to
        .gauge
        .reached
        .get()
        .expect("the message was written before all had been read");
    let (during, after) = log.split_at(reached);
    assert!(after.contains(&Op::Read), "there was more to read all the time");
    assert!(during.len() > LARGE / PIECE, "{} calls", during.len());
    for op in [Op::Read, Op::Wrote] {
        let longest = during.split(|other| *other != op).map(<[Op]>::len).max();
        assert!(
            longest.is_some_and(|longest| longest <= 2),
            "{longest:?} times {op:?} in a row"
        );
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as a handler is")]
fn much(_: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    answer.fill(7);
    Ok(LARGE)
}

/// A client that sends a request, and then pings without a pause.
async fn flood_server(raw: &mut Raw<'_>, world: &World, [up, down]: &[Pipe; 2]) {
    raw.establish(world).await;
    let mut request = raw.machine.request(3).unwrap();
    raw.send(NOW, &mut request, b"abc", 100);
    let mut out = [0; 100];
    for _ in 0..FLOOD {
        raw.machine.ping().unwrap();
        let length = raw.machine.poll_transmit(NOW, &mut out).unwrap();
        up.bytes.borrow_mut().extend(&out[..length]);
    }
    up.closed.set(true);
    begin(world, down);
}

#[test]
fn a_server_alternates_between_writing_its_answer_and_reading() {
    for blocks in [false, true] {
        let (raw_key, server_key) = (raw_key(), server_key(7));
        let world = Rc::new(World::default());
        let pipes = [(); 2].map(|()| Pipe::new(&world, usize::MAX));
        let [up, down] = pipes.clone();
        let mut raw = Raw::new(&raw_key, &settings(), pipes.clone());
        let (buffers, memory) = (([0; BUFFER], [0; BUFFER]), (vec![0; LARGE], vec![0; LARGE]));
        let line: Server<'_> =
            BufferedServer::start(&server_key, &settings(), NOW, &mut CountingRng::new(2), buffers, memory).unwrap();
        let served = if blocks {
            let other = Other::new(flood_server(&mut raw, &world, &pipes));
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            blocking::Server::new(line, Port { from: up, to: down }, clock).serve(much)
        } else {
            let mut server = asynchronous::Server::new(line, up, down, VirtualClock(Rc::clone(&world)));
            let serving = server.serve(async |request: &[u8], answer: &mut [u8]| much(request, answer));
            run(&world, flood_server(&mut raw, &world, &pipes), serving).1
        };
        assert_eq!(served, Err(Error::Connection(ConnectionError::Truncated)));
        assert_fair(&world, &pipes[1]);
        raw.read(NOW);
        assert!(raw.pongs > LARGE / PIECE / 10, "it answers pings meanwhile");
        assert!(raw.answers > 0, "the whole answer has come");
    }
}

/// A server that completes the handshake, and then pings without a pause.
async fn flood_client(world: &World, [up, down]: &[Pipe; 2]) {
    while up.bytes.borrow().len() < 74 {
        turn(world).await;
    }
    let hello: Vec<u8> = up.bytes.borrow_mut().drain(..74).collect();
    let mut raw = RawHandshake::new(RustCrypto, 7);
    raw.settings = raw_settings(512, 1, LARGE.try_into().unwrap(), 60_000);
    let (welcome, mut raw) = raw.server(&hello).unwrap();
    down.bytes.borrow_mut().extend(welcome);
    for number in 0..FLOOD {
        let ping = raw.seal(&raw_frame(6, 0, &number.to_be_bytes()));
        down.bytes.borrow_mut().extend(ping);
    }
    down.closed.set(true);
    begin(world, up);
}

#[test]
fn a_client_alternates_between_writing_its_request_and_reading() {
    for blocks in [false, true] {
        let key = client_key(7);
        let world = Rc::new(World::default());
        let pipes = [(); 2].map(|()| Pipe::new(&world, usize::MAX));
        let [up, down] = pipes.clone();
        let mut rng = CountingRng::new(1);
        let line: Client<'_> =
            BufferedClient::start(&key, &settings(), NOW, &mut rng, ([0; BUFFER], [0; BUFFER])).unwrap();
        let (body, mut answer) = (vec![7; LARGE], [0; 8]);
        let asked = if blocks {
            let other = Other::new(flood_client(&world, &pipes));
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            let mut client = blocking::Client::new(line, Port { from: down, to: up }, clock);
            client.request(&body, &mut answer)
        } else {
            let mut client = asynchronous::Client::new(line, down, up, VirtualClock(Rc::clone(&world)));
            run(&world, client.request(&body, &mut answer), flood_client(&world, &pipes)).0
        };
        assert_eq!(asked, Err(Error::Connection(ConnectionError::Truncated)));
        assert_fair(&world, &pipes[0]);
    }
}

#[test]
fn a_server_whose_answer_is_stuck_continues_to_read() {
    for blocks in [false, true] {
        let (raw_key, server_key) = (raw_key(), server_key(7));
        let world = Rc::new(World::default());
        let pipes = [(); 2].map(|()| Pipe::new(&world, usize::MAX));
        let [up, down] = pipes.clone();
        let mut raw = Raw::new(&raw_key, &settings(), pipes.clone());
        let (buffers, memory) = (([0; BUFFER], [0; BUFFER]), (vec![0; LARGE], vec![0; LARGE]));
        let line: Server<'_> =
            BufferedServer::start(&server_key, &settings(), NOW, &mut CountingRng::new(2), buffers, memory).unwrap();
        let stuck = async {
            flood_server(&mut raw, &world, &pipes).await;
            pipes[1].writes.set(Writes::Blocked);
        };
        let served = if blocks {
            let other = Other::new(stuck);
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            blocking::Server::new(line, Port { from: up, to: down }, clock).serve(much)
        } else {
            let mut server = asynchronous::Server::new(line, up, down, VirtualClock(Rc::clone(&world)));
            let serving = server.serve(async |request: &[u8], answer: &mut [u8]| much(request, answer));
            run(&world, stuck, serving).1
        };
        // The end of the stream ends it at once, and not a deadline.
        assert_eq!(served, Err(Error::Connection(ConnectionError::Truncated)));
        assert_eq!((world.now(), pipes[0].bytes.borrow().len()), (0, 0));
    }
}

#[test]
fn other_tasks_have_their_turn_however_much_comes() {
    let (raw_key, server_key) = (raw_key(), server_key(7));
    let world = Rc::new(World::default());
    let pipes = [(); 2].map(|()| Pipe::new(&world, usize::MAX));
    let [up, down] = pipes.clone();
    let mut raw = Raw::new(&raw_key, &settings(), pipes.clone());
    let (buffers, memory) = (([0; BUFFER], [0; BUFFER]), (vec![0; LARGE], vec![0; LARGE]));
    let line: Server<'_> =
        BufferedServer::start(&server_key, &settings(), NOW, &mut CountingRng::new(2), buffers, memory).unwrap();
    let mut server = asynchronous::Server::new(line, up, down, VirtualClock(Rc::clone(&world)));
    let mut longest = 0;
    let serving = async {
        let mut serving = pin!(server.serve(async |request: &[u8], answer: &mut [u8]| much(request, answer)));
        poll_fn(|context| {
            let before = world.log.borrow().len();
            let polled = serving.as_mut().poll(context);
            longest = longest.max(world.log.borrow().len().saturating_sub(before));
            polled
        })
        .await
    };
    let served = run(&world, flood_server(&mut raw, &world, &pipes), serving).1;
    assert_eq!(served, Err(Error::Connection(ConnectionError::Truncated)));
    assert!(longest <= 2 * 64, "{longest} reads and writes at one poll");
}
