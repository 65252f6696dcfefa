//! Late polls of a slow device, whose clock advances during a step. Bytes that arrived before still
//! count, and bytes that complete no record postpone no deadline.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;

use common::{
    Broken, Joined, Lines, Other, Port, Raw, RestingClock, VirtualClock, Writes, client_key, join, lines, raw_key,
    reverse, run, server_key, settings, turn, until,
};
use falco_core::{CloseReason, ConnectionError, Instant, Refusal};
use falco_embedded::{Error, Timer, asynchronous, blocking};

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    reverse(request, answer)
}

#[test]
fn a_pong_that_has_come_is_read_however_long_a_step_takes() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    for slow in [0, 1, 3, 20] {
        for body in [&b"abc"[..], &[1; 400]] {
            let Joined {
                world,
                mut client,
                mut server,
                pipes: [up, down],
            } = join(&client_key, &server_key, &settings());
            let asks = async {
                client.establish().await.unwrap();
                // Read the answer of the server, then send the keep-alive ping.
                client.idle(Instant::from_millis(19_000)).await.unwrap();
                world.pass(1_000);
                for _ in 0..3 {
                    client.idle(Instant::from_millis(world.now())).await.unwrap();
                }
                assert!(!up.bytes.borrow().is_empty(), "the ping");
                while down.bytes.borrow().is_empty() {
                    turn(&world).await;
                }
                world.pass(25_000);
                world.slow.set(slow);
                let answered = client.request(body, &mut [0; 400]).await;
                world.slow.set(0);
                client.close().await.unwrap();
                answered
            };
            let (answered, served) = run(&world, asks, server.serve(handler));
            assert_eq!((answered, served), (Ok(body.len()), Ok(())), "{slow}");

            let Lines {
                world,
                client,
                server,
                pipes: [up, down],
            } = lines(&client_key, &server_key, &settings());
            let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(world.clone()));
            let other = Other::new(async { server.serve(handler).await.unwrap() });
            let clock = RestingClock {
                world: world.clone(),
                other: &other,
            };
            let port = Port {
                from: down.clone(),
                to: up,
            };
            let mut client = blocking::Client::new(client, port, clock);
            client.establish().unwrap();
            client.idle(Instant::from_millis(19_000)).unwrap();
            world.pass(1_000);
            for _ in 0..3 {
                client.idle(Instant::from_millis(world.now())).unwrap();
            }
            for _ in 0..5 {
                other.poll(&world);
            }
            assert!(!down.bytes.borrow().is_empty(), "the pong");
            world.pass(25_000);
            world.slow.set(slow);
            assert_eq!(client.request(body, &mut [0; 400]), Ok(body.len()), "{slow}");
            world.slow.set(0);
            client.close().unwrap();
            other.finish(&world);
        }
    }
}

#[test]
fn an_answer_that_has_come_is_read_however_fast_the_clock_goes() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    for slow in [1, 20, 200] {
        let Joined {
            world,
            mut client,
            mut server,
            pipes: [_, down],
        } = join(&client_key, &server_key, &settings().with_keep_alive(false));
        let came = Cell::new(false);
        let asks = async {
            let ping = client.ping().await.unwrap();
            while down.bytes.borrow().is_empty() {
                turn(&world).await;
            }
            came.set(true);
            ping
        };
        let (ping, ()) = run(&world, asks, until(&came, server.serve(handler)));
        world.pass(65_000);
        world.slow.set(slow);
        assert_eq!(run(&world, client.pong(ping), async {}).0, Ok(()), "{slow}");

        let Lines {
            world,
            client,
            server,
            pipes: [up, down],
        } = lines(&client_key, &server_key, &settings().with_keep_alive(false));
        let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), VirtualClock(world.clone()));
        let other = Other::new(async {
            let _ = server.serve(handler).await;
        });
        let clock = RestingClock {
            world: world.clone(),
            other: &other,
        };
        let mut client = blocking::Client::new(client, Port { from: down, to: up }, clock);
        client.establish().unwrap();
        let ping = client.ping().unwrap();
        for _ in 0..5 {
            other.poll(&world);
        }
        world.pass(65_000);
        world.slow.set(slow);
        assert_eq!(client.pong(ping), Ok(()), "{slow}");
    }
}

#[test]
fn parts_that_have_come_are_read_before_their_request_is_refused_as_stale() {
    let (server_key, raw_key) = (server_key(7), raw_key());
    for away in [50_000, 61_000, 118_000] {
        let client_key = client_key(7);
        let Lines {
            world, server, pipes, ..
        } = lines(&client_key, &server_key, &settings());
        let [up, down] = pipes.clone();
        let mut raw = Raw::new(&raw_key, &settings().with_keep_alive(false), pipes);
        let mut server = asynchronous::Server::new(server, up, down, VirtualClock(world.clone()));
        let half = Cell::new(false);
        let mut request = None;
        let asking = async {
            raw.establish(&world).await;
            let begun = request.insert(raw.machine.request(1_500).unwrap());
            raw.send(Instant::ZERO, begun, &[3; 1_500], 300);
            for _ in 0..50 {
                turn(&world).await;
            }
            half.set(true);
        };
        run(&world, asking, until(&half, server.serve(handler)));
        // The rest comes a second later, while the server is not driven.
        world.pass(1_000);
        let now = Instant::from_millis(world.now());
        let mut request = request.unwrap();
        while !request.is_done() {
            raw.send(now, &mut request, &[3; 1_500], 514);
        }
        world.pass(away - 1_000);
        let read = Cell::new(false);
        let reading = async {
            for _ in 0..400 {
                raw.read(now);
                turn(&world).await;
            }
            read.set(true);
        };
        run(&world, reading, until(&read, server.serve(handler)));
        assert_eq!(raw.refused, [], "{away}");
        assert!(raw.machine.in_flight() == 0, "{away}: it was answered");
    }
}

#[test]
fn a_server_that_is_closed_late_reads_what_has_come_first() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes: [up, _],
    } = join(&client_key, &server_key, &settings().with_keep_alive(false));
    let asked = Cell::new(false);
    let asks = async {
        client.request(b"abc", &mut [0; 8]).await.unwrap();
        asked.set(true);
    };
    run(&world, asks, until(&asked, server.serve(handler)));
    world.pass(50_000);
    run(&world, async { client.ping().await.unwrap() }, async {});
    assert!(!up.bytes.borrow().is_empty());
    world.pass(15_000);
    server.close(CloseReason::ShuttingDown);
    assert_eq!(run(&world, client.close(), server.serve(handler)), (Ok(()), Ok(())));
    // The server may have ended before the client's CLOSE is taken, which then has a second.
    assert!(world.now() <= 66_000, "{}", world.now());
}

#[test]
fn bytes_of_a_record_that_is_never_complete_postpone_no_end() {
    for (keeps, within, end) in [
        (true, 40_000..=41_002, ConnectionError::PeerDead),
        (false, 60_000..=61_002, ConnectionError::Expired),
    ] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Joined {
            world,
            mut client,
            mut server,
            pipes: [up, down],
        } = join(&client_key, &server_key, &settings().with_keep_alive(keeps));
        let begun = Cell::new(false);
        let asks = async {
            let ping = client.ping().await.unwrap();
            client.pong(ping).await.unwrap();
            begun.set(true);
        };
        run(&world, asks, until(&begun, server.serve(handler)));
        let (begun, over) = (world.now(), Cell::new(false));
        let mut clock = VirtualClock(world.clone());
        let dripping = async {
            down.bytes.borrow_mut().extend([1, 244]);
            clock
                .sleep_until(Instant::from_millis(begun + within.start() - 50))
                .await;
            // A byte every five milliseconds, until the end.
            while !over.get() {
                clock.sleep_until(Instant::from_millis(world.now() + 5)).await;
                down.bytes.borrow_mut().push_back(7);
                up.bytes.borrow_mut().clear();
                world.stir();
                assert!(world.now() < 70_000 + begun);
            }
        };
        let idles = async {
            let ended = client.idle(Instant::from_millis(1_000_000)).await;
            over.set(true);
            (ended, world.now() - begun)
        };
        let ((), (ended, at)) = run(&world, dripping, idles);
        assert_eq!(ended, Err(Error::Connection(end)));
        assert!(within.contains(&at), "{keeps}: {at}");
    }
}

#[test]
fn frequent_calls_do_not_extend_the_lifetime() {
    for each in [1, 10, 100, 1_000] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Joined {
            world,
            mut client,
            mut server,
            ..
        } = join(&client_key, &server_key, &settings().with_keep_alive(false));
        let begun = Cell::new(false);
        let asks = async {
            let ping = client.ping().await.unwrap();
            client.pong(ping).await.unwrap();
            begun.set(true);
        };
        run(&world, asks, until(&begun, server.serve(handler)));
        let begun = world.now();
        let ended = loop {
            world.pass(each);
            let now = Instant::from_millis(world.now());
            if let Err(ended) = run(&world, client.idle(now), async {}).0 {
                break ended;
            }
        };
        assert_eq!(ended, Error::Connection(ConnectionError::Expired));
        let lived = world.now() - begun;
        assert!((60_000..=61_001 + each).contains(&lived), "{each}: {lived}");
    }
}

#[test]
fn idling_over_a_stream_that_takes_nothing_fails_in_time_however_much_comes() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes: [up, down],
    } = join(&client_key, &server_key, &settings());
    let begun = Cell::new(false);
    let asks = async {
        client.request(b"abc", &mut [0; 8]).await.unwrap();
        begun.set(true);
    };
    run(&world, asks, until(&begun, server.serve(handler)));
    up.writes.set(Writes::Fails);
    let (mut clock, over) = (VirtualClock(world.clone()), Cell::new(false));
    let dripping = async {
        down.bytes.borrow_mut().extend([1, 244]);
        clock.sleep_until(Instant::from_millis(19_990)).await;
        while !over.get() {
            clock.sleep_until(Instant::from_millis(world.now() + 1)).await;
            down.bytes.borrow_mut().push_back(7);
            world.stir();
            assert!(world.now() < 21_000);
        }
    };
    let idles = async {
        let ended = client.idle(Instant::from_millis(20_050)).await;
        over.set(true);
        ended
    };
    assert_eq!(run(&world, dripping, idles).1, Err(Error::Io(Broken)));
    assert!(world.now() <= 20_100, "{}", world.now());
}
