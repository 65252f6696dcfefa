//! No handler begins before the stream has taken the answer to the client's first ping: a client
//! whose stream ends before it has read anything assumes that its request was not processed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use std::rc::Rc;

use common::{
    Broken, Lines, Other, Pipe, Port, Raw, RawKey, RestingClock, VirtualClock, World, Writes, client_key, lines,
    raw_key, reverse, run, server_key, settings, turn,
};
use falco_core::{Instant, Refusal};
use falco_embedded::{Clock, Error, Timer, asynchronous, blocking};

/// The welcome, and a record with the PONG.
const GREETING: usize = 64 + 33;

/// How the server is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Polled,
    Blocking,
    Buffered,
}

/// How the stream behaves after the welcome.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// How many bytes it holds.
    room: usize,
    writes: Writes,
    /// For how many milliseconds it takes nothing.
    blocked: u64,
    /// It holds back what it takes until it is flushed.
    buffers: bool,
}

/// A client that sends its proof and a request in one write, as soon as it can. Returns whether the
/// request was answered.
async fn ask_at_once(
    raw: &mut Raw<'_>,
    world: &Rc<World>,
    [up, down]: &[Pipe; 2],
    stream: Stream,
    handled: &Cell<u32>,
) -> bool {
    let now = || Instant::from_millis(world.now());
    let mut out = [0; 200];
    let hello = raw.machine.poll_transmit(now(), &mut out).unwrap();
    up.bytes.borrow_mut().extend(&out[..hello]);
    while !raw.established {
        turn(world).await;
        raw.read(now());
    }
    down.buffers.set(stream.buffers);
    down.writes.set(if stream.blocked > 0 {
        Writes::Blocked
    } else {
        stream.writes
    });
    let mut request = raw.machine.request(5).unwrap();
    raw.send(now(), &mut request, b"hello", 200);
    assert!(request.is_done());
    turn(world).await;
    if stream.blocked > 0 {
        VirtualClock(Rc::clone(world))
            .sleep_until(now() + core::time::Duration::from_millis(stream.blocked))
            .await;
        assert_eq!((handled.get(), down.gauge.written.get()), (0, 64));
        down.writes.set(stream.writes);
    }
    for _ in 0..200 {
        turn(world).await;
        raw.read(now());
    }
    up.closed.set(true);
    raw.answers > 0
}

struct Outcome {
    answered: bool,
    handled: u32,
    served: Result<(), Error<Broken>>,
}

fn serve(by: By, stream: Stream, raw_key: &RawKey) -> Outcome {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Lines { world, server, .. } = lines(&client_key, &server_key, &settings());
    let pipes = [Pipe::new(&world, usize::MAX), Pipe::new(&world, stream.room)];
    let [up, down] = pipes.clone();
    let mut raw = Raw::new(raw_key, &settings(), pipes.clone());
    let (handled, mut answered) = (Cell::new(0), false);
    let handler = |request: &[u8], answer: &mut [u8]| {
        handled.set(handled.get() + 1);
        let written = pipes[1].gauge.written.get();
        assert!(written >= GREETING, "{by:?} {stream:?}: {written} bytes had been taken");
        // Without a driver the caller flushes.
        assert!(by == By::Buffered || pipes[1].is_flushed(), "{by:?} {stream:?}");
        reverse(request, answer)
    };
    let asks = async { answered = ask_at_once(&mut raw, &world, &pipes, stream, &handled).await };
    let served = match by {
        By::Polled => {
            let mut server = asynchronous::Server::new(server, up, down, VirtualClock(Rc::clone(&world)));
            let serving = server.serve(async |request: &[u8], answer: &mut [u8]| handler(request, answer));
            run(&world, asks, serving).1
        }
        By::Blocking => {
            let other = Other::new(asks);
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            let served = blocking::Server::new(server, Port { from: up, to: down }, clock).serve(handler);
            other.finish(&world);
            served
        }
        By::Buffered => run(&world, asks, super_loop(server, &world, &pipes, handler)).1,
    };
    Outcome {
        answered,
        handled: handled.get(),
        served,
    }
}

/// A super-loop without a driver, until the stream has ended.
async fn super_loop(
    mut server: common::DeviceServer<'_>,
    world: &Rc<World>,
    [up, down]: &[Pipe; 2],
    mut handler: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Refusal>,
) -> Result<(), Error<Broken>> {
    let clock = VirtualClock(Rc::clone(world));
    loop {
        let now = clock.now();
        let line = server.connection_mut();
        if !up.bytes.borrow().is_empty() {
            let read = up.take(line.space().unwrap());
            line.filled(read);
        } else if up.closed.get() {
            return Ok(());
        }
        if down.is_writable() {
            match down.give(line.unsent()) {
                Ok(written) => line.sent(now, written),
                Err(broken) => return Err(Error::Io(broken)),
            }
        }
        while server.step(now).unwrap() {}
        if let Some((request, answer)) = server.request() {
            let length = handler(request, answer).unwrap();
            server.answer(length);
        }
        // The other side may wait for a time, so that this does not count as activity.
        poll_once().await;
    }
}

async fn poll_once() {
    let mut polled = false;
    core::future::poll_fn(|_| {
        if core::mem::replace(&mut polled, true) {
            core::task::Poll::Ready(())
        } else {
            core::task::Poll::Pending
        }
    })
    .await;
}

#[test]
fn a_handler_begins_after_the_first_pong() {
    let raw_key = raw_key();
    for by in [By::Polled, By::Blocking, By::Buffered] {
        for room in [1, 2, 7, 32, 33, 34, 600] {
            for blocked in [0, 1, 30_000] {
                for buffers in [false, true] {
                    // Without a driver nothing flushes the stream.
                    let buffers = buffers && by != By::Buffered;
                    let stream = Stream {
                        room,
                        writes: Writes::Some,
                        blocked,
                        buffers,
                    };
                    let outcome = serve(by, stream, &raw_key);
                    assert!(outcome.answered, "{by:?} {stream:?}");
                    assert_eq!(outcome.handled, 1, "{by:?} {stream:?}");
                }
            }
        }
    }
}

#[test]
fn no_handler_begins_if_the_first_pong_cannot_be_sent() {
    let raw_key = raw_key();
    for by in [By::Polled, By::Blocking] {
        for (writes, expected) in [
            (Writes::Zero, Error::WriteZero),
            (Writes::Fails, Error::Io(Broken)),
            // Taken, and not flushed.
            (Writes::FailsToFlush, Error::Io(Broken)),
        ] {
            for blocked in [0, 1_000] {
                let stream = Stream {
                    room: 600,
                    writes,
                    blocked,
                    buffers: false,
                };
                let outcome = serve(by, stream, &raw_key);
                assert_eq!(outcome.handled, 0, "{by:?} {stream:?}");
                assert_eq!(outcome.served, Err(expected), "{by:?} {stream:?}");
            }
        }
    }
}
