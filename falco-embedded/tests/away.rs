//! Devices that do not drive their connection for a while, or only for short moments: what has come
//! meanwhile is read first, what is pending is sent, and a dead peer is detected.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;

use common::{
    Joined, Lines, Port, RestingClock, VirtualClock, client_key, everywhere, join, lines, reverse, run, server_key,
    settings, until,
};
use falco_core::{ConnectionError, Instant, Refusal};
use falco_embedded::{Error, Timer, asynchronous, blocking};

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    reverse(request, answer)
}

#[test]
fn what_came_during_a_pause_is_read_before_the_connection_expires() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let quiet = settings().with_keep_alive(false);
    let Joined {
        world,
        mut client,
        mut server,
        pipes: [_, down],
    } = join(&client_key, &server_key, &quiet);
    let asks = async {
        client.establish().await.unwrap();
        client.idle(Instant::from_millis(50_000)).await.unwrap();
        let ping = client.ping().await.unwrap();
        poll_fn(|_| {
            if down.bytes.borrow().is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        // The answer came ten seconds before the lifetime ran out.
        world.pass(15_000);
        client.pong(ping).await.unwrap();
        client.close().await
    };
    assert_eq!(run(&world, asks, server.serve(handler)), (Ok(()), Ok(())));
    assert_eq!(world.now(), 65_000);

    let Lines {
        world,
        client,
        server,
        pipes: [up, down],
    } = lines(&client_key, &server_key, &quiet);
    let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(world.clone()));
    let other = common::Other::new(async { server.serve(handler).await.unwrap() });
    let clock = RestingClock {
        world: world.clone(),
        other: &other,
    };
    let mut client = blocking::Client::new(client, Port { from: down, to: up }, clock);
    client.establish().unwrap();
    client.idle(Instant::from_millis(50_000)).unwrap();
    let ping = client.ping().unwrap();
    other.poll(&world);
    world.pass(15_000);
    client.pong(ping).unwrap();
    client.close().unwrap();
    other.finish(&world);
    assert_eq!(world.now(), 65_000);
}

#[test]
fn a_dead_peer_is_detected_by_a_device_that_is_busy_most_of_the_time() {
    for busy in [1_000, 19_000, 25_000, 70_000] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Joined {
            world,
            mut client,
            mut server,
            ..
        } = join(&client_key, &server_key, &settings());
        let up = Cell::new(false);
        let asks = async {
            let ping = client.ping().await.unwrap();
            client.pong(ping).await.unwrap();
            up.set(true);
        };
        run(&world, asks, until(&up, server.serve(handler)));
        // From here on the server is not driven, and the client only for short moments.
        let begun = world.now();
        let ended = loop {
            world.pass(busy);
            let until = Instant::from_millis(world.now() + 1);
            if let Err(end) = run(&world, client.idle(until), async {}).0 {
                break end;
            }
            assert!(world.now() - begun <= 200_000, "{busy}");
        };
        let ends = [ConnectionError::PeerDead, ConnectionError::Expired].map(Error::Connection);
        assert!(ends.contains(&ended), "{busy}: {ended:?}");
        // Two lifetimes at most. The last bytes, for which the port has no room, may be given up at
        // the next call only.
        assert!(
            world.now() - begun <= 2 * (60_000 + busy) + 2_000,
            "{busy}: {}",
            world.now()
        );
    }
}

#[test]
fn after_establishing_or_pinging_a_client_may_pause_for_longer_than_a_handshake() {
    for pings in [false, true] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Joined {
            world,
            mut client,
            mut server,
            ..
        } = join(&client_key, &server_key, &settings());
        let mut clock = VirtualClock(world.clone());
        let asks = async {
            if pings {
                client.ping().await.unwrap();
            } else {
                client.establish().await.unwrap();
            }
            clock.sleep_until(Instant::from_millis(30_000)).await;
            assert_eq!(client.request(b"later", &mut [0; 8]).await, Ok(5));
            client.close().await
        };
        let ended = run(&world, asks, server.serve(handler));
        assert_eq!(ended, (Ok(()), Ok(())), "{pings}");
    }
}

#[test]
fn what_a_call_sends_is_flushed_when_it_returns() {
    let served = everywhere(&settings(), reverse, async |client, _, [up, _]| {
        up.buffers.set(true);
        client.establish().await.unwrap();
        assert!(up.is_flushed(), "the proof that the welcome was read");
        client.ping().await.unwrap();
        assert!(up.is_flushed(), "the ping");
        client.close().await.unwrap();
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn short_calls_send_what_is_due() {
    let quick = settings().with_lifetime(core::time::Duration::from_secs(3)).unwrap();
    let served = everywhere(&quick, reverse, async |client, world, [up, _]| {
        client.establish().await.unwrap();
        up.buffers.set(true);
        // A ping is due after a second; none of these calls waits.
        world.pass(1_000);
        for _ in 0..3 {
            client.idle(world.now()).await.unwrap();
        }
        assert!(up.is_flushed());
        assert!(!up.bytes.borrow().is_empty(), "the ping");
        client.close().await.unwrap();
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn a_dead_peer_is_detected_by_short_calls() {
    for (busy, idle) in [(10, 0), (10, 1), (10, 5), (500, 0), (3_000, 1)] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Lines {
            world,
            client,
            server,
            pipes: [up, down],
        } = lines(&client_key, &server_key, &settings());
        let gone = Cell::new(false);
        let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(world.clone()));
        let other = common::Other::new(until(&gone, server.serve(handler)));
        let clock = RestingClock {
            world: world.clone(),
            other: &other,
        };
        let mut client = blocking::Client::new(
            client,
            Port {
                from: down,
                to: up.clone(),
            },
            clock,
        );
        client.request(b"here", &mut [0; 8]).unwrap();
        gone.set(true);
        let ended = loop {
            world.pass(busy);
            // What is written is dropped.
            up.bytes.borrow_mut().clear();
            if let Err(end) = client.idle(Instant::from_millis(world.now() + idle)) {
                break end;
            }
            assert!(world.now() < 60_000, "{busy} {idle}");
        };
        assert_eq!(ended, Error::Connection(ConnectionError::PeerDead), "{busy} {idle}");
        // A third of a lifetime until a ping, another one for its answer, and a second of grace for
        // late polls.
        assert!(
            world.now() <= 41_000 + 4 * (busy + idle),
            "{busy} {idle}: {}",
            world.now()
        );
    }
}

#[test]
fn after_a_pause_of_two_lifetimes_the_end_is_sent_and_returned_by_every_call() {
    let served = everywhere(&settings(), reverse, async |client, world, [up, _]| {
        client.request(b"here", &mut [0; 8]).await.unwrap();
        up.bytes.borrow_mut().clear();
        world.pass(130_000);
        let expired = Err(Error::Connection(ConnectionError::Expired));
        assert_eq!(client.request(b"late", &mut [0; 8]).await, expired.map(|()| 0));
        assert_eq!(up.bytes.borrow().len(), 26, "a record with a CLOSE");
        assert_eq!(client.idle(world.now()).await, expired);
        assert_eq!(client.idle(0).await, expired);
        assert_eq!(client.ping().await.err(), expired.err());
        up.closed.set(true);
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn a_super_loop_reads_what_has_come_before_a_deadline_after_a_pause() {
    // After the first pause, the time limit of a PONG has passed; after the second, also the
    // client's lifetime.
    for (pause, goes_on_until) in [(25_000, 60_000), (45_000, 75_000)] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Lines {
            mut client, mut server, ..
        } = lines(&client_key, &server_key, &settings());
        let mut away = false;
        let mut millis = 0;
        while millis < goes_on_until {
            let now = Instant::from_millis(millis);
            common::carry(server.connection_mut(), client.connection_mut(), now);
            while client.step_idle(now).unwrap() {}
            client.connection_mut().handle_timeout(now);
            while client.step_idle(now).unwrap() {}
            common::carry(client.connection_mut(), server.connection_mut(), now);
            while server.step(now).unwrap() {}
            server.connection_mut().handle_timeout(now);
            // Neither side is driven for a while, once, after the PONG was written.
            if millis >= 20_000 && !away && !server.connection().unsent().is_empty() {
                away = true;
                millis += pause;
            }
            millis += 10;
        }
        assert!(away, "{pause}");
    }
}

#[test]
fn what_has_come_is_read_before_a_deadline_if_the_executor_is_late() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        assert_eq!(client.request(b"slow", &mut [0; 8]).await, Ok(4));
        client.close().await
    };
    // Nothing else runs meanwhile, so that the answer has come when either side is polled again.
    let serving = server.serve(async |request: &[u8], answer: &mut [u8]| {
        world.pass(61_000);
        reverse(request, answer)
    });
    assert_eq!(run(&world, asks, serving), (Ok(()), Ok(())));
    assert_eq!(world.now(), 61_000);
}
