//! Ends at awkward times: each is returned after the last bytes were sent, and again by later
//! calls. Every request completes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::task::Poll;
use core::time::Duration;
use std::rc::Rc;

use common::{
    Asker as _, BUFFER, Broken, Joined, Lines, MESSAGE, Other, Pipe, Port, Raw, RestingClock, VirtualClock, World,
    Writes, client_key, everywhere, join, lines, many_key, polled, raw_key, reverse, run, server_key, settings, turn,
    until,
};
use falco_core::testing::CountingRng;
use falco_core::{CloseReason, ConnectionError, Fate, Instant, Refusal, ServerConnection};
use falco_embedded::{BufferedConnection, BufferedServer, Clock, Error, Timer, asynchronous, blocking};

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    reverse(request, answer)
}

#[test]
fn a_ping_that_could_not_be_written_is_an_error() {
    for (writes, expected) in [(Writes::Fails, Error::Io(Broken)), (Writes::Zero, Error::WriteZero)] {
        let served = everywhere(&settings(), reverse, async |client, _, [up, _]| {
            client.request(b"one", &mut [0; 8]).await.unwrap();
            up.writes.set(writes);
            assert_eq!(client.ping().await, Err(expected));
            up.closed.set(true);
        });
        assert!(served.iter().all(Result::is_err), "{served:?}");
    }
}

#[test]
fn a_flush_that_fails_is_an_error_of_this_call_and_of_later_ones() {
    let served = everywhere(&settings(), reverse, async |client, _, [up, _]| {
        client.request(b"one", &mut [0; 8]).await.unwrap();
        up.writes.set(Writes::FailsToFlush);
        assert_eq!(client.ping().await, Err(Error::Io(Broken)));
        assert_eq!(client.ping().await, Err(Error::Connection(ConnectionError::Truncated)));
        up.closed.set(true);
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn short_calls_of_idle_return_that_a_write_failed() {
    let quick = settings().with_lifetime(Duration::from_secs(3)).unwrap();
    let served = everywhere(&quick, reverse, async |client, world, [up, _]| {
        client.establish().await.unwrap();
        // A ping is due. The first call may return before it is written.
        world.pass(1_000);
        up.writes.set(Writes::Fails);
        let mut errors = Vec::new();
        for _ in 0..4 {
            errors.extend(client.idle(world.now()).await.err());
        }
        let truncated = Error::Connection(ConnectionError::Truncated);
        assert_eq!(errors[0], Error::Io(Broken));
        assert!(
            errors.len() >= 3 && errors[1..].iter().all(|error| *error == truncated),
            "{errors:?}"
        );
        up.closed.set(true);
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn closing_fails_if_the_close_could_not_be_sent() {
    let served = everywhere(&settings(), reverse, async |client, _, [up, down]| {
        client.request(b"one", &mut [0; 8]).await.unwrap();
        up.bytes.borrow_mut().clear();
        up.writes.set(Writes::Fails);
        down.closed.set(true);
        assert!(client.close().await.is_err());
        up.closed.set(true);
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn a_request_half_sent_before_the_end_of_its_stream_is_refused_at_once() {
    let (server_key, raw_key) = (server_key(7), raw_key());
    for blocks in [false, true] {
        let client_key = client_key(7);
        let Lines {
            world, server, pipes, ..
        } = lines(&client_key, &server_key, &settings());
        let [up, down] = pipes.clone();
        let mut raw = Raw::new(&raw_key, &settings(), pipes);
        let asking = async {
            raw.establish(&world).await;
            let mut half = raw.machine.request(1_500).unwrap();
            raw.send(Instant::ZERO, &mut half, &[3; 1_500], 300);
            raw.machine.close(Instant::ZERO, CloseReason::Done);
            raw.exchange(Instant::ZERO);
            up.closed.set(true);
            for _ in 0..100 {
                raw.read(Instant::ZERO);
                turn(&world).await;
            }
            assert_eq!(raw.refused, [Refusal::NotProcessed], "{blocks}");
            assert_eq!(raw.end, Some(ConnectionError::Closed), "{blocks}");
        };
        let served = if blocks {
            let other = Other::new(asking);
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            let port = Port {
                from: up.clone(),
                to: down,
            };
            let served = blocking::Server::new(server, port, clock).serve(reverse);
            other.finish(&world);
            served
        } else {
            let mut server = asynchronous::Server::new(server, up.clone(), down, VirtualClock(Rc::clone(&world)));
            run(&world, asking, server.serve(handler)).1
        };
        assert_eq!((served, world.now()), (Ok(()), 0));
    }
}

#[test]
fn a_handler_that_returns_after_the_end_does_not_prevent_the_close() {
    // Blocking, for longer than a lifetime and its grace period.
    let (client_key, server_key, raw_key) = (client_key(7), server_key(7), raw_key());
    let Lines {
        world, server, pipes, ..
    } = lines(&client_key, &server_key, &settings());
    let [up, down] = pipes.clone();
    let mut raw = Raw::new(&raw_key, &settings(), pipes);
    let other = Other::new(async {
        raw.establish(&world).await;
        let mut request = raw.machine.request(3).unwrap();
        raw.send(Instant::ZERO, &mut request, b"abc", BUFFER);
        turn(&world).await;
    });
    let clock = RestingClock {
        world: Rc::clone(&world),
        other: &other,
    };
    let port = Port {
        from: up,
        to: down.clone(),
    };
    let mut server = blocking::Server::new(server, port, clock);
    let expired = Err(Error::Connection(ConnectionError::Expired));
    let served = server.serve(|request, answer| {
        down.bytes.borrow_mut().clear();
        world.pass(130_000);
        reverse(request, answer)
    });
    assert_eq!(served, expired);
    assert_eq!(down.bytes.borrow().len(), 26, "a record with a CLOSE");
    assert_eq!(server.serve(reverse), expired);
    assert_eq!(down.bytes.borrow().len(), 26);
    other.finish(&world);

    // Async, while the port takes nothing for a moment.
    let Lines {
        world, server, pipes, ..
    } = lines(&client_key, &server_key, &settings());
    let [up, down] = pipes.clone();
    let mut clock = VirtualClock(Rc::clone(&world));
    let mut server = asynchronous::Server::new(server, up, down.clone(), clock.clone());
    let mut raw = Raw::new(&raw_key, &settings(), pipes);
    let (begun, done) = (Cell::new(false), Cell::new(false));
    let asking = async {
        raw.establish(&world).await;
        let mut request = raw.machine.request(3).unwrap();
        raw.send(Instant::ZERO, &mut request, b"abc", BUFFER);
        while !begun.get() {
            turn(&world).await;
        }
        raw.read(Instant::ZERO);
        down.writes.set(Writes::Blocked);
        clock.sleep_until(Instant::from_millis(60_500)).await;
        done.set(true);
        turn(&world).await;
        turn(&world).await;
        down.writes.set(Writes::Some);
    };
    let serving = server.serve(async |request: &[u8], answer: &mut [u8]| {
        begun.set(true);
        poll_fn(|_| if done.get() { Poll::Ready(()) } else { Poll::Pending }).await;
        reverse(request, answer)
    });
    assert_eq!(run(&world, asking, serving).1, expired);
    assert_eq!(down.bytes.borrow().len(), 26, "a record with a CLOSE");
}

type ManyServer<'k> = BufferedServer<&'k common::ManyKey, ([u8; BUFFER], [u8; BUFFER]), ([u8; 600], [u8; 8])>;

/// A server that allows several requests in flight, and its client.
fn many<'k>(
    server_key: &'k common::ManyKey,
    raw_key: &'k common::RawKey,
    world: &Rc<World>,
) -> (ManyServer<'k>, Raw<'k>, [Pipe; 2]) {
    let settings = settings().with_max_in_flight(20).unwrap();
    let machine = ServerConnection::new(server_key, &settings, Instant::ZERO, &mut CountingRng::new(2)).unwrap();
    let server = BufferedServer::new(
        BufferedConnection::new(machine, ([0; BUFFER], [0; BUFFER])),
        ([0; 600], [0; 8]),
    );
    let pipes = [Pipe::new(world, 40), Pipe::new(world, 40)];
    let raw = Raw::new(raw_key, &settings, pipes.clone());
    (server, raw, pipes)
}

#[test]
fn every_request_is_refused_however_many_refusals_are_pending() {
    let (server_key, raw_key) = (many_key(), raw_key());
    let world = Rc::new(World::default());
    let (mut server, mut raw, [up, down]) = many(&server_key, &raw_key, &world);
    let now = Instant::ZERO;
    let drive = |server: &mut BufferedServer<_, _, _>, writes: bool| {
        for _ in 0..200 {
            while server.step(now).unwrap() {}
            let space = server.connection_mut().space().unwrap();
            let mut bytes = up.bytes.borrow_mut();
            let count = bytes.len().min(space.len());
            space
                .iter_mut()
                .zip(bytes.drain(..count))
                .for_each(|(to, byte)| *to = byte);
            server.connection_mut().filled(count);
            if writes {
                let unsent = server.connection().unsent().to_vec();
                down.bytes.borrow_mut().extend(&unsent);
                server.connection_mut().sent(now, unsent.len());
            }
        }
    };
    for _ in 0..10 {
        raw.exchange(now);
        drive(&mut server, true);
    }
    let mut requests: Vec<_> = (0..12).map(|_| raw.machine.request(3).unwrap()).collect();
    raw.send(now, &mut requests[0], b"abc", BUFFER);
    drive(&mut server, true);
    assert!(server.request().is_some());
    // The stream takes nothing, so that refusals queue up: as many as the machine holds, and more.
    for request in &mut requests[1..] {
        raw.send(now, request, b"abc", BUFFER);
    }
    drive(&mut server, false);
    server.refuse(Refusal::Failed);
    for _ in 0..10 {
        drive(&mut server, true);
        raw.exchange(now);
        server.refuse(Refusal::Failed);
    }
    assert_eq!(raw.refused.len(), 12);
    assert_eq!(
        (raw.machine.in_flight(), server.connection().machine().in_flight()),
        (0, 0)
    );
}

#[test]
fn pending_refusals_do_not_hide_an_end() {
    for (writes, expected) in [(Writes::Fails, Error::Io(Broken)), (Writes::Blocked, Error::Stalled)] {
        let (server_key, raw_key) = (many_key(), raw_key());
        let world = Rc::new(World::default());
        let (server, mut raw, [up, down]) = many(&server_key, &raw_key, &world);
        let clock = VirtualClock(Rc::clone(&world));
        let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), clock.clone());
        let asking = async {
            raw.establish(&world).await;
            down.writes.set(Writes::Blocked);
            for _ in 0..14 {
                let mut request = raw.machine.request(3).unwrap();
                raw.send(Instant::ZERO, &mut request, b"abc", BUFFER);
            }
            for _ in 0..300 {
                turn(&world).await;
            }
            down.writes.set(writes);
            if writes == Writes::Fails {
                up.closed.set(true);
            }
        };
        let serving = async {
            let forever = async |_: &[u8], _: &mut [u8]| core::future::pending().await;
            let first = server.serve(forever).await;
            let at = clock.now().as_millis();
            let second = server.serve(handler).await;
            (first, at, second, clock.now().as_millis())
        };
        let ((), (first, at, second, later)) = run(&world, asking, serving);
        assert_eq!(first, Err(expected));
        assert!(at <= 60_000, "{at}");
        assert!(second.is_err(), "it stays ended");
        assert_eq!(at, later, "{expected:?}");
    }
}

#[test]
fn a_flush_that_does_not_end_holds_up_one_end_and_no_later_call() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes: [up, _],
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        assert_eq!(client.request(b"one", &mut [0; 8]).await, Ok(3));
        up.stuck.set(true);
        assert_eq!(client.close().await, Ok(()));
        assert_eq!(world.now(), 1_000);
        assert_eq!(client.close().await, Ok(()));
        assert!(client.idle(Instant::ZERO).await.is_err());
        assert!(client.request(b"more", &mut [0; 8]).await.is_err());
        world.now()
    };
    assert_eq!(run(&world, asks, server.serve(handler)), (1_000, Ok(())));
}

#[test]
fn a_request_on_a_connection_that_its_server_is_closing_fails_as_closed() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Lines {
        world,
        client,
        mut server,
        pipes: [up, down],
    } = lines(&client_key, &server_key, &settings());
    let clock = VirtualClock(Rc::clone(&world));
    let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock);
    let (waits, over) = (Cell::new(false), Cell::new(false));
    let asks = async {
        // Cancelled while its handler runs, so that the server has a request to complete.
        {
            let mut answer = [0; 8];
            let mut slow = core::pin::pin!(client.request(b"slow", &mut answer));
            poll_fn(|context| {
                world.stir();
                assert!(slow.as_mut().poll(context).is_pending());
                if waits.get() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        for _ in 0..20 {
            let _ = polled(1, client.idle(Instant::from_millis(1))).await;
            turn(&world).await;
        }
        let closing = Err(Error::Connection(ConnectionError::Closed));
        assert_eq!(client.request(b"next", &mut [0; 8]).await, closing);
        over.set(true);
    };
    let serving = async {
        while !over.get() {
            while server.step(Instant::ZERO).unwrap() {}
            if server.request().is_some() && !waits.replace(true) {
                server.close(Instant::ZERO, CloseReason::ShuttingDown);
                continue;
            }
            let sent = down.give(server.connection().unsent()).unwrap();
            server.connection_mut().sent(Instant::ZERO, sent);
            let space = server.connection_mut().space().unwrap();
            let count = up.take(space);
            server.connection_mut().filled(count);
            turn(&world).await;
        }
    };
    run(&world, asks, serving);
}

#[test]
fn an_end_at_the_time_at_which_idling_ends_is_returned() {
    let quiet = settings()
        .with_lifetime(Duration::from_secs(3))
        .unwrap()
        .with_keep_alive(false);
    let served = everywhere(&quiet, reverse, async |client, world, [up, _]| {
        client.request(b"one", &mut [0; 8]).await.unwrap();
        let ends = [ConnectionError::Expired, ConnectionError::PeerExpired].map(Error::Connection);
        let idled = client.idle(3_000).await;
        assert!(idled.is_err_and(|end| ends.contains(&end)), "{idled:?}");
        assert_eq!(world.now(), 3_000);
        up.closed.set(true);
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn last_bytes_that_are_pending_when_a_future_is_dropped_are_sent_by_the_next_call() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let quiet = settings()
        .with_lifetime(Duration::from_secs(3))
        .unwrap()
        .with_keep_alive(false);
    let Joined {
        world,
        mut client,
        mut server,
        pipes: [up, _],
    } = join(&client_key, &server_key, &quiet);
    let stood = Cell::new(false);
    let asks = async {
        client.request(b"one", &mut [0; 8]).await.unwrap();
        stood.set(true);
    };
    run(&world, asks, until(&stood, server.serve(handler)));
    up.writes.set(Writes::Blocked);
    let asks = async {
        {
            // It waits for the end of the lifetime, then for room.
            let mut idling = core::pin::pin!(client.idle(Instant::from_millis(60_000)));
            poll_fn(|context| {
                assert!(idling.as_mut().poll(context).is_pending());
                if world.now() == 3_000 {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        assert!(up.bytes.borrow().is_empty());
        up.writes.set(Writes::Some);
        let expired = Err(Error::Connection(ConnectionError::Expired));
        assert_eq!(client.request(b"more", &mut [0; 8]).await, expired);
        assert_eq!(up.bytes.borrow().len(), 26, "a record with a CLOSE");
    };
    run(&world, asks, async {});
}

#[test]
fn a_client_without_request_ids_returns_the_end() {
    let (client_key, server_key) = (client_key(7).with_requests_begun(u32::MAX), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        let mut answer = [0; MESSAGE];
        let end = client.request(b"one too many", &mut answer).await;
        assert_eq!(end, Err(Error::Connection(ConnectionError::Closed)));
        client.fate()
    };
    let serves = server.serve(async |_: &[u8], _: &mut [u8]| Ok(0));
    let (fate, end) = run(&world, asks, serves);
    assert_eq!((fate, end), (Fate::NotProcessed, Ok(())));
    // Nothing was waited for.
    assert_eq!(world.now(), 0);
}
