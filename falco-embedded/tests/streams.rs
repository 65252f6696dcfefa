//! Streams that fail, end, take nothing, buffer or deliver byte by byte, under both drivers: every
//! call returns in time, and what the peer sent last is processed before an error is returned.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod common;

use core::future::{Future, poll_fn};
use std::rc::Rc;

use common::{
    BUFFER, Broken, Joined, Lines, MESSAGE, Other, Pipe, Port, RestingClock, VirtualClock, World, Writes, client_key,
    everywhere, join, lines, reverse, run, server_key, settings, side_by_side, turn,
};
use falco_core::testing::CountingRng;
use falco_core::{CloseReason, ConnectionError, Instant};
use falco_embedded::rand_core::{TryCryptoRng, TryRng};
use falco_embedded::{BufferedClient, Clock, Error, PendingRequest, Timer, asynchronous, blocking};

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, falco_core::Refusal> {
    reverse(request, answer)
}

#[test]
fn a_stream_that_takes_no_byte_or_fails_ends_the_connection_at_once() {
    for (writes, expected) in [(Writes::Zero, Error::WriteZero), (Writes::Fails, Error::Io(Broken))] {
        let served = everywhere(&settings(), reverse, async |client, world, [up, _]| {
            client.establish().await.unwrap();
            up.writes.set(writes);
            let ended = client.request(b"lost", &mut [0; 8]).await;
            assert_eq!(ended, Err(expected));
            assert_eq!(world.now(), 0);
            up.closed.set(true);
            let after = client.request(b"more", &mut [0; 8]).await;
            assert!(matches!(after, Err(Error::Connection(_))), "{after:?}");
        });
        assert_eq!(served, [Err(Error::Connection(ConnectionError::Truncated)); 3]);

        // The same to the server, at its answer.
        let served = everywhere(&settings(), reverse, async |client, _, [up, down]| {
            client.establish().await.unwrap();
            down.writes.set(writes);
            let ended = client.request(b"lost", &mut [0; 8]).await;
            assert!(ended.is_err());
            up.closed.set(true);
        });
        assert_eq!(served, [Err(expected); 3]);
    }
}

#[test]
fn what_has_come_is_processed_before_a_stream_error_is_returned() {
    let (right, wrong) = (client_key(7), server_key(8));
    let _ = side_by_side(
        || join(&right, &wrong, &settings()),
        || lines(&right, &wrong, &settings()),
        reverse,
        async |client, _, [up, down]| {
            // The server has ended the stream before it got all of the hello.
            down.closed.set(true);
            up.writes.set(Writes::Fails);
            let refused = Err(Error::Connection(ConnectionError::Refused));
            assert_eq!(client.establish().await, refused);
            up.writes.set(Writes::Some);
            up.closed.set(true);
        },
    );

    // An answer has come, then the stream fails.
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes: [up, down],
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        let ping = client.ping().await.unwrap();
        client.pong(ping).await.unwrap();
        let mut answer = [0; 8];
        let asked = {
            let mut asking = core::pin::pin!(client.request(b"abc", &mut answer));
            let mut broken = false;
            poll_fn(|context| {
                if !down.bytes.borrow().is_empty() && !broken {
                    broken = true;
                    up.writes.set(Writes::Fails);
                }
                asking.as_mut().poll(context)
            })
            .await
        };
        up.closed.set(true);
        asked
    };
    let (asked, _) = run(&world, asks, server.serve(handler));
    assert_eq!(asked, Ok(3));
}

#[test]
fn a_client_that_shuts_down_its_half_of_the_stream_still_gets_its_answer() {
    for blocks in [false, true] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Lines {
            world,
            mut client,
            server,
            pipes,
        } = lines(&client_key, &server_key, &settings());
        let [up, down] = pipes;
        let clock = VirtualClock(Rc::clone(&world));
        let (from, to, now) = (down.clone(), up.clone(), clock.clone());
        let asking = async {
            let mut ask = client.request(&[3; 400][..], [0; MESSAGE]).unwrap();
            let mut closing = false;
            loop {
                let moment = now.now();
                if client.step(moment, Some(&mut ask)).unwrap() {
                    continue;
                }
                if let Some(length) = ask.answered().unwrap() {
                    break length;
                }
                let line = client.connection_mut();
                let sent = to.give(line.unsent()).unwrap();
                line.sent(moment, sent);
                let rest = line.unsent().is_empty();
                let read = from.take(client.connection_mut().space().unwrap());
                client.connection_mut().filled(read);
                if client.is_established() && rest && client.connection().machine().in_flight() > 0 {
                    if closing {
                        // Everything is sent, including the CLOSE.
                        to.closed.set(true);
                    } else {
                        client.close(moment, CloseReason::Done);
                        closing = true;
                    }
                }
                turn(&world).await;
            }
        };
        if blocks {
            let other = Other::new(async { assert_eq!(asking.await, 400) });
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            let mut server = blocking::Server::new(server, Port { from: up, to: down }, clock);
            assert_eq!(server.serve(reverse), Ok(()));
            other.finish(&world);
        } else {
            let mut server = asynchronous::Server::new(server, up, down, clock);
            assert_eq!(run(&world, asking, server.serve(handler)), (400, Ok(())));
        }
        assert_eq!(world.now(), 0);
    }
}

#[test]
fn a_stream_that_ends_inside_a_record_is_truncated() {
    let served = everywhere(&settings(), reverse, async |client, world, [up, _]| {
        client.establish().await.unwrap();
        let _ = client.request(b"one", &mut [0; 8]).await;
        up.bytes.borrow_mut().extend([0, 200, 1, 2, 3]);
        up.closed.set(true);
        assert_eq!(world.now(), 0);
    });
    assert_eq!(served, [Err(Error::Connection(ConnectionError::Truncated)); 3]);
}

#[test]
fn garbage_gets_no_byte_and_the_server_returns_a_reason() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x4E; 200], &[0xFF; 2000]] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        for blocks in [false, true] {
            let Lines {
                world,
                server,
                pipes: [up, down],
                ..
            } = lines(&client_key, &server_key, &settings());
            up.bytes.borrow_mut().extend(garbage);
            let served = if blocks {
                let other = Other::new(async {});
                let clock = RestingClock {
                    world: Rc::clone(&world),
                    other: &other,
                };
                let port = Port {
                    from: up,
                    to: down.clone(),
                };
                blocking::Server::new(server, port, clock).serve(reverse)
            } else {
                let mut server = asynchronous::Server::new(server, up, down.clone(), VirtualClock(world.clone()));
                run(&world, async {}, server.serve(handler)).1
            };
            assert!(matches!(served, Err(Error::Connection(_))), "{served:?}");
            assert!(down.bytes.borrow().is_empty());
            assert!(world.now() <= 5_000, "{}", world.now());
        }
    }
}

#[test]
fn a_peer_that_sends_byte_by_byte_has_two_lifetimes_at_most() {
    // A byte of a hello every second, then a byte of a record.
    for (proves, within) in [(false, 5_000..=5_000), (true, 60_000..=120_000)] {
        let (client_key, server_key) = (client_key(7), server_key(7));
        let Joined {
            world,
            mut client,
            mut server,
            pipes: [up, _],
        } = join(&client_key, &server_key, &settings().with_keep_alive(false));
        let mut clock = VirtualClock(world.clone());
        let dripping = async {
            if proves {
                client.establish().await.unwrap();
                assert_eq!(client.request(b"one", &mut [0; 8]).await, Ok(3));
                up.bytes.borrow_mut().extend([1, 200]);
            } else {
                up.bytes.borrow_mut().extend([0x4E, 0x01]);
            }
            // Fewer than either needs, so that it is never complete.
            for second in 1..70 {
                clock.sleep_until(Instant::from_millis(second * 1_000)).await;
                let _ = up.give(&[7]);
            }
        };
        let ((), served) = run(&world, dripping, async {
            let served = server.serve(handler).await;
            (served, world.now())
        });
        assert!(matches!(served.0, Err(Error::Connection(_))), "{served:?}");
        assert!(within.contains(&served.1), "{served:?}");
    }
}

#[test]
fn bytes_that_a_stream_buffers_are_flushed() {
    let served = everywhere(&settings(), reverse, async |client, world, pipes| {
        for pipe in pipes {
            pipe.buffers.set(true);
        }
        assert_eq!(client.request(&[9; MESSAGE], &mut [0; MESSAGE]).await, Ok(MESSAGE));
        assert_eq!(client.close().await, Ok(()));
        assert_eq!(world.now(), 0);
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn a_flush_that_does_not_return_delays_an_end_by_a_second() {
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
        let closed = client.close().await;
        (closed, world.now())
    };
    let (asked, served) = run(&world, asks, server.serve(handler));
    assert_eq!((asked, served), ((Ok(()), 1_000), Ok(())));
}

/// A generator that fails.
struct Dead;

impl TryRng for Dead {
    type Error = Broken;

    fn try_next_u32(&mut self) -> Result<u32, Broken> {
        Err(Broken)
    }

    fn try_next_u64(&mut self) -> Result<u64, Broken> {
        Err(Broken)
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Broken> {
        Err(Broken)
    }
}

impl TryCryptoRng for Dead {}

#[test]
fn without_entropy_or_with_small_buffers_nothing_starts() {
    use falco_embedded::{Buffer, BufferedServer, StartError};

    let (client_key, server_key) = (client_key(7), server_key(7));
    let (settings, now, mut rng) = (settings(), Instant::ZERO, CountingRng::new(3));
    let too_small = |buffer, needed, given| StartError::TooSmall { buffer, needed, given };

    let client = BufferedClient::start(&client_key, &settings, now, &mut rng, ([0; BUFFER - 1], [0; BUFFER]));
    assert_eq!(client.err(), Some(too_small(Buffer::Inbox, BUFFER, BUFFER - 1)));
    let client = BufferedClient::start(&client_key, &settings, now, &mut rng, ([0; BUFFER], [0; 284]));
    assert_eq!(client.err(), Some(too_small(Buffer::Outbox, 285, 284)));
    let client = BufferedClient::start(&client_key, &settings, now, &mut Dead, ([0; BUFFER], [0; 285]));
    assert!(matches!(client.err(), Some(StartError::Entropy(_))));

    let buffers = ([0; BUFFER], [0; BUFFER]);
    let server = BufferedServer::start(
        &server_key,
        &settings,
        now,
        &mut rng,
        buffers,
        ([0; MESSAGE - 1], [0; 0]),
    );
    assert_eq!(server.err(), Some(too_small(Buffer::Message, MESSAGE, MESSAGE - 1)));
    let fits = BufferedServer::start(&server_key, &settings, now, &mut rng, buffers, ([0; MESSAGE], [0; 0]));
    assert!(fits.is_ok());
}

#[test]
fn the_smallest_buffers_are_enough() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let small = settings().with_max_record(64).unwrap();
    let sizes = falco_core::ServerConnection::<&common::ServerKey>::buffer_sizes(&small);
    assert_eq!((sizes.unread, sizes.output), (74, 285));
    let world = Rc::new(World::default());
    let (up, down) = (Pipe::new(&world, 7), Pipe::new(&world, 7));
    let (clock, now) = (VirtualClock(Rc::clone(&world)), Instant::ZERO);
    let (mut one, mut two) = (CountingRng::new(1), CountingRng::new(2));
    let client = BufferedClient::start(&client_key, &small, now, &mut one, ([0; 74], [0; 285])).unwrap();
    let memory = ([0; MESSAGE], [0; MESSAGE]);
    let server =
        falco_embedded::BufferedServer::start(&server_key, &small, now, &mut two, ([0; 74], [0; 285]), memory).unwrap();
    let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock.clone());
    let mut server = asynchronous::Server::new(server, up, down, clock);
    let asks = async {
        for length in [0, 1, 39, 40, 41, 250, MESSAGE] {
            let body = vec![5; length];
            assert_eq!(client.request(&body, &mut [0; MESSAGE]).await, Ok(length));
        }
        client.close().await
    };
    assert_eq!(run(&world, asks, server.serve(handler)), (Ok(()), Ok(())));
}

#[test]
fn debug_shows_no_byte_of_a_key_or_a_body() {
    let key = client_key(0xAB);
    let mut client = BufferedClient::start(
        &key,
        &settings(),
        Instant::ZERO,
        &mut CountingRng::new(1),
        ([0; BUFFER], [0; BUFFER]),
    )
    .unwrap();
    let ask: PendingRequest<&[u8], [u8; 4]> = client.request(&[0xCD; 9][..], [0xEF; 4]).unwrap();
    let shown = format!("{client:?} {ask:?}").to_lowercase();
    for secret in ["171, 171", "abab", "205, 205", "cdcd", "239, 239"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
