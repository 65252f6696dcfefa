//! A server that closes before its last answer is sent: the end is orderly only if the answer is
//! sent.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use std::rc::Rc;

use common::{
    Broken, Lines, Other, Port, Raw, RestingClock, VirtualClock, Writes, carry, client_key, lines, raw_key, reverse,
    run, server_key, settings, turn,
};
use falco_core::testing::{CountingRng, classic_key};
use falco_core::{CloseReason, ConnectionError, Instant, Settings};
use falco_embedded::{BufferedClient, BufferedServer, Error, Timer, asynchronous, blocking};

/// Sends a request and a CLOSE together, so that the server ends when its answer is sealed. Then
/// the client takes `sips` bytes, one every half minute, and after `pause` the rest. The stream of
/// the answer behaves as in `writes`. Returns how serving ended, when, and whether the answer came.
fn last_answer(blocks: bool, sips: u64, pause: u64, writes: Writes) -> (common::Served, u64, bool) {
    let (client_key, server_key, raw_key) = (client_key(7), server_key(7), raw_key());
    let Lines {
        world, server, pipes, ..
    } = lines(&client_key, &server_key, &settings());
    let [up, down] = pipes.clone();
    let mut raw = Raw::new(&raw_key, &settings(), pipes);
    let mut clock = VirtualClock(Rc::clone(&world));
    let asking = async {
        raw.establish(&world).await;
        let mut request = raw.machine.request(300).unwrap();
        raw.send(Instant::ZERO, &mut request, &[5; 300], 400);
        raw.machine.close(Instant::ZERO, CloseReason::Done);
        let mut out = [0; 600];
        while let Ok(count @ 1..) = raw.machine.poll_transmit(Instant::ZERO, &mut out) {
            up.bytes.borrow_mut().extend(&out[..count]);
        }
        for _ in 0..30 {
            turn(&world).await;
        }
        for sip in 1..=sips {
            clock.sleep_until(Instant::from_millis(sip * 30_000)).await;
            down.take(&mut [0]);
        }
        clock.sleep_until(Instant::from_millis(world.now() + pause)).await;
        for _ in 0..300 {
            raw.read(Instant::from_millis(world.now()));
            turn(&world).await;
        }
        up.closed.set(true);
    };
    let answers = |request: &[u8], answer: &mut [u8]| {
        down.writes.set(writes);
        down.buffers.set(writes == Writes::FailsToFlush);
        reverse(request, answer)
    };
    let (served, at) = if blocks {
        let other = Other::new(asking);
        let clock = RestingClock {
            world: Rc::clone(&world),
            other: &other,
        };
        let port = Port {
            from: up.clone(),
            to: down.clone(),
        };
        let served = blocking::Server::new(server, port, clock).serve(answers);
        let at = world.now();
        other.finish(&world);
        (served, at)
    } else {
        let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(Rc::clone(&world)));
        let serving = async {
            let served = server
                .serve(async |request: &[u8], answer: &mut [u8]| answers(request, answer))
                .await;
            (served, world.now())
        };
        run(&world, asking, serving).1
    };
    (served, at, raw.end == Some(ConnectionError::Closed))
}

#[test]
fn an_answer_that_was_not_sent_makes_the_end_an_error() {
    for blocks in [false, true] {
        let broken = Error::Io(Broken);
        for (writes, expected) in [
            (Writes::Fails, broken),
            (Writes::Zero, Error::WriteZero),
            (Writes::FailsToFlush, broken),
        ] {
            assert_eq!(last_answer(blocks, 0, 0, writes), (Err(expected), 0, false), "{blocks}");
        }
    }
}

#[test]
fn the_last_answer_has_as_long_as_any_other_write() {
    for blocks in [false, true] {
        for pause in [1_500, 30_000, 59_000] {
            let expected = (Ok(()), pause, true);
            assert_eq!(last_answer(blocks, 0, pause, Writes::Some), expected, "{blocks}");
        }
        // After a lifetime it is given up.
        let (served, at, came) = last_answer(blocks, 0, 100_000, Writes::Some);
        assert_eq!((served, at, came), (Err(Error::Stalled), 60_000, false), "{blocks}");
    }
}

#[test]
fn a_client_that_takes_a_byte_now_and_then_does_not_prolong_the_end() {
    for blocks in [false, true] {
        let (served, at, came) = last_answer(blocks, 10, 0, Writes::Some);
        assert_eq!((served, at, came), (Err(Error::Stalled), 60_000, false), "{blocks}");
    }
}

#[test]
fn an_answer_that_is_never_flushed_makes_the_end_an_error() {
    let (client_key, server_key, raw_key) = (client_key(7), server_key(7), raw_key());
    let Lines {
        world, server, pipes, ..
    } = lines(&client_key, &server_key, &settings());
    let [up, down] = pipes.clone();
    let mut raw = Raw::new(&raw_key, &settings(), pipes);
    let asking = async {
        raw.establish(&world).await;
        let mut request = raw.machine.request(3).unwrap();
        raw.send(Instant::ZERO, &mut request, b"abc", 100);
        raw.machine.close(Instant::ZERO, CloseReason::Done);
        raw.exchange(Instant::ZERO);
    };
    let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(Rc::clone(&world)));
    let serving = server.serve(async |request: &[u8], answer: &mut [u8]| {
        down.buffers.set(true);
        down.stuck.set(true);
        reverse(request, answer)
    });
    assert_eq!(run(&world, asking, serving).1, Err(Error::Stalled));
    assert_eq!(world.now(), 60_000);
    let again = run(&world, server.serve(async |_: &[u8], _: &mut [u8]| Ok(0)), async {}).0;
    assert_eq!(again, Err(Error::Stalled));
}

#[test]
fn a_server_whose_answers_have_arrived_ends_orderly_even_if_its_close_cannot_be_sent() {
    for writes in [Writes::Blocked, Writes::Fails] {
        let (client_key, server_key, raw_key) = (client_key(7), server_key(7), raw_key());
        let Lines {
            world, server, pipes, ..
        } = lines(&client_key, &server_key, &settings());
        let [up, down] = pipes.clone();
        let mut raw = Raw::new(&raw_key, &settings(), pipes);
        let asking = async {
            raw.establish(&world).await;
            let mut request = raw.machine.request(3).unwrap();
            raw.send(Instant::ZERO, &mut request, b"abc", 100);
            while raw.machine.in_flight() > 0 {
                turn(&world).await;
                raw.read(Instant::ZERO);
            }
            down.writes.set(writes);
            raw.machine.close(Instant::ZERO, CloseReason::Done);
            raw.exchange(Instant::ZERO);
        };
        let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(Rc::clone(&world)));
        let serving = server.serve(async |request: &[u8], answer: &mut [u8]| reverse(request, answer));
        assert_eq!(run(&world, asking, serving).1, Ok(()), "{writes:?}");
        assert!(world.now() <= 1_000, "{writes:?}: {}", world.now());
    }
}

/// The classic wire has no CLOSE that would have to wait for the answer, and so ends at once.
#[test]
fn on_the_classic_wire_a_server_that_closes_over_a_pending_answer_gives_it_a_lifetime() {
    let (client_key, server_key) = (classic_key(7), classic_key(7));
    let (settings, start) = (Settings::new().with_max_message(100), Instant::ZERO);
    let (mut one, mut two) = (CountingRng::new(1), CountingRng::new(2));
    let (buffers, bodies) = (([0; 200], [0; 200]), ([0; 100], [0; 100]));
    let mut client = BufferedClient::start(&client_key, &settings, start, &mut one, ([0; 200], [0; 200])).unwrap();
    let mut server = BufferedServer::start(&server_key, &settings, start, &mut two, buffers, bodies).unwrap();
    let mut ask = client.request(&b"one"[..], [0; 8]).unwrap();
    while server.request().is_none() {
        while client.step(start, Some(&mut ask)).unwrap() {}
        carry(client.connection_mut(), server.connection_mut(), start);
        while server.step(start).unwrap() {}
        carry(server.connection_mut(), client.connection_mut(), start);
    }
    server.answer(8);
    while server.step(start).unwrap() {}
    assert!(!server.connection().unsent().is_empty());
    // Nothing is in flight: the answer is sealed, and the stream has not taken it.
    let at = Instant::from_millis(10_000);
    server.close(at, CloseReason::ShuttingDown);
    while server.step(at).unwrap() {}
    assert_eq!(server.connection().poll_timeout(), Some(Instant::from_millis(70_000)));
    // A byte now and then does not postpone that.
    server.connection_mut().sent(Instant::from_millis(60_000), 1);
    assert_eq!(server.connection().poll_timeout(), Some(Instant::from_millis(70_000)));
    let late = Instant::from_millis(70_000);
    server.connection_mut().handle_timeout(late);
    assert_eq!(server.step(late), Err(Error::Stalled), "the answer is lost");
}
