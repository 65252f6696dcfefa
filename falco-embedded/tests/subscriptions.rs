//! Subscriptions, under both drivers and in a super-loop: pieces within a window, silence, ends,
//! cancellation. The service is the core's own server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use core::task::Poll;
use std::rc::Rc;

use common::{
    BUFFER, Came, Joined, Lines, Service, VirtualClock, World, beside, client_key, everywhere, join, lines, many_key,
    polled, reverse, run, server_key, settings, turn,
};
use falco_core::testing::{CountingRng, key};
use falco_core::{ClassicKey, ConnectionError, Fate, FixedReplayCache, Instant, Refusal, RequestError, Settings};
use falco_embedded::{BufferedClient, Clock, Error};

/// The window of the device, and the memory of a subscription.
const WINDOW: usize = 1024;

fn device() -> Settings {
    settings().with_streams(1, 0)
}

/// A service that takes open requests, 2 KiB of each at once.
fn service() -> Settings {
    settings().with_streams(2, 4)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..=250).cycle().take(count).collect()
}

#[test]
fn the_whole_request_arrives_and_the_answer_comes_in_pieces() {
    // The last is larger than the window of the service.
    for length in [0, 1, 400, 5000] {
        let serves = async |service: &mut Service<'_>, _: &World| {
            service.until(1, Came::Opened).await;
            service.open();
            service.until(1, Came::Ended).await;
            assert_eq!(service.body, bytes(length));
            service.send(b"one");
            service.turns().await;
            service.send(b"two");
            service.finish();
            service.ended().await;
            assert_eq!(service.end, Some(ConnectionError::Closed));
        };
        beside(&device(), &service(), serves, async |client, _, _| {
            let (body, mut memory) = (bytes(length), [0; WINDOW]);
            let mut subscription = client.subscribe(&body, &mut memory).await.unwrap();
            let mut whole = Vec::new();
            while let Some(piece) = subscription.next().await.unwrap() {
                assert!(!piece.is_empty());
                whole.extend(piece);
            }
            assert_eq!(whole, b"onetwo");
            // The end stays the end.
            assert_eq!(subscription.next().await, Ok(None));
            drop(subscription);
            client.close().await.unwrap();
        });
    }
}

#[test]
fn a_subscription_begins_with_the_call_and_not_with_the_first_piece() {
    let heard = Cell::new(0);
    let serves = async |service: &mut Service<'_>, _: &World| {
        service.until(1, Came::Ended).await;
        heard.set(service.heard());
        assert_eq!(service.body, b"now");
        service.refuse(Refusal::Busy);
        service.ended().await;
    };
    beside(&device(), &service(), serves, async |client, _, [up, _]| {
        let mut memory = [0; WINDOW];
        let mut subscription = client.subscribe(b"now", &mut memory).await.unwrap();
        let sent = up.gauge.written.get();
        let refused = Err(Error::Request(RequestError::Refused(Refusal::Busy)));
        assert_eq!(subscription.next().await, refused);
        assert_eq!(sent, heard.get());
        assert_eq!(subscription.next().await, refused);
        drop(subscription);
        client.close().await.unwrap();
    });
}

#[test]
fn no_more_than_a_window_arrives_before_it_is_taken() {
    let serves = async |service: &mut Service<'_>, _: &World| {
        service.until(1, Came::Ended).await;
        assert_eq!(service.sendable(), 1024);
        service.open();
        service.send(&bytes(50_000));
        assert_eq!(service.sendable(), 0);
        assert_eq!(service.waiting(), 50_000 - WINDOW);
        service.finish();
        service.ended().await;
        assert_eq!(service.waiting(), 0);
    };
    beside(&device(), &service(), serves, async |client, _, _| {
        let mut memory = [0; WINDOW];
        let mut subscription = client.subscribe(b"much", &mut memory).await.unwrap();
        let mut whole = Vec::new();
        while let Some(piece) = subscription.next().await.unwrap() {
            assert!(piece.len() <= WINDOW);
            whole.extend(piece);
        }
        assert_eq!(whole, bytes(50_000));
        drop(subscription);
        client.close().await.unwrap();
    });
}

#[test]
fn credit_is_given_for_what_was_taken_and_not_before() {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    let Lines {
        world,
        mut client,
        pipes,
        ..
    } = lines(&client_key, &server_key, &device());
    let mut serving = Service::new(&many_key, &service(), &world, &pipes);
    let mut pending = client.subscribe("super-loop", [0; WINDOW]).unwrap();
    let go = |client: &mut common::DeviceClient<'_>, pending: &mut _, service: &mut Service<'_>| {
        let clock = VirtualClock(Rc::clone(&world));
        for _ in 0..400 {
            let now = clock.now();
            while client.step_subscription(now, pending).unwrap() {}
            let line = client.connection_mut();
            let sent = pipes[0].give(line.unsent()).unwrap();
            line.sent(now, sent);
            service.exchange();
            let read = pipes[1].take(line.space().unwrap());
            line.filled(read);
            line.handle_timeout(now);
        }
    };
    go(&mut client, &mut pending, &mut serving);
    assert!(matches!(client.poll_next(&mut pending), Ok(Poll::Pending)));
    assert_eq!(serving.body, b"super-loop");
    serving.open();
    serving.send(&bytes(600));
    go(&mut client, &mut pending, &mut serving);
    assert_eq!(serving.sendable(), 424);
    // Lent, and not taken: what comes meanwhile is kept, and no credit is given.
    assert_eq!(
        client.poll_next(&mut pending),
        Ok(Poll::Ready(Some(bytes(600).as_slice())))
    );
    serving.send(&bytes(424));
    go(&mut client, &mut pending, &mut serving);
    assert_eq!(serving.sendable(), 0);
    // Now it is taken. The 600 are more than half a window, so that credit is given at once.
    assert_eq!(
        client.poll_next(&mut pending),
        Ok(Poll::Ready(Some(bytes(424).as_slice())))
    );
    go(&mut client, &mut pending, &mut serving);
    assert_eq!(serving.sendable(), 600);
    // The memory is full again, in two parts.
    serving.send(&[7; 600]);
    serving.finish();
    go(&mut client, &mut pending, &mut serving);
    assert_eq!(client.poll_next(&mut pending), Ok(Poll::Ready(Some(&[7; 600][..]))));
    assert_eq!(client.poll_next(&mut pending), Ok(Poll::Ready(None)));
    assert_eq!(client.poll_next(&mut pending), Ok(Poll::Ready(None)));
    assert_eq!(pending.into_parts().0, "super-loop");
    assert_eq!(client.connection().machine().in_flight(), 0);
}

#[test]
fn a_device_that_takes_nothing_still_reads_and_is_kept_alive() {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    let Lines {
        world, client, pipes, ..
    } = lines(&client_key, &server_key, &device());
    let mut serving = Service::new(&many_key, &service(), &world, &pipes);
    let mut client = client;
    let mut pending = client.subscribe("full", [0; WINDOW]).unwrap();
    let clock = VirtualClock(Rc::clone(&world));
    for second in 0..600 {
        for _ in 0..60 {
            let now = clock.now();
            while client.step_subscription(now, &mut pending).unwrap() {}
            let line = client.connection_mut();
            let sent = pipes[0].give(line.unsent()).unwrap();
            line.sent(now, sent);
            serving.exchange();
            let read = pipes[1].take(line.space().unwrap());
            line.filled(read);
            line.handle_timeout(now);
        }
        if second == 1 {
            serving.open();
            serving.send(&bytes(3_000));
        }
        world.pass(1_000);
    }
    assert_eq!(serving.waiting(), 3_000 - WINDOW);
    assert!(serving.pings >= 20, "{}", serving.pings);
    let piece = client.poll_next(&mut pending);
    assert_eq!(piece, Ok(Poll::Ready(Some(&bytes(3_000)[..WINDOW]))));
}

#[test]
fn a_service_may_be_silent_for_hours() {
    const HOURS: u64 = 5 * 3_600_000;
    let serves = async |service: &mut Service<'_>, _: &World| {
        service.until(1, Came::Ended).await;
        service.idle(HOURS / 2).await;
        service.open();
        service.send(b"at noon");
        service.idle(HOURS).await;
        // A third of a lifetime of 60 s.
        let pings = HOURS / 20_000;
        assert!((pings - 10..=pings + 10).contains(&u64::try_from(service.pings).unwrap()));
        service.send(b"in the evening");
        service.finish();
        service.ended().await;
    };
    beside(&device(), &service(), serves, async |client, world, _| {
        let mut memory = [0; WINDOW];
        let mut subscription = client.subscribe(b"calls", &mut memory).await.unwrap();
        assert_eq!(subscription.next().await, Ok(Some(b"at noon".to_vec())));
        assert_eq!(world.now(), HOURS / 2);
        assert_eq!(subscription.next().await, Ok(Some(b"in the evening".to_vec())));
        assert_eq!(world.now(), HOURS);
        assert_eq!(subscription.next().await, Ok(None));
        drop(subscription);
        client.close().await.unwrap();
    });
}

#[test]
fn what_cuts_an_answer_off_is_an_error_behind_its_bytes() {
    #[derive(Clone, Copy, Debug)]
    enum Cut {
        HangsUp,
        Refuses,
        Dies,
    }
    for cut in [Cut::HangsUp, Cut::Refuses, Cut::Dies] {
        let serves = async |service: &mut Service<'_>, _: &World| {
            service.until(1, Came::Ended).await;
            service.open();
            service.send(b"half of");
            match cut {
                Cut::HangsUp => service.hang_up(),
                Cut::Refuses => {
                    service.refuse(Refusal::Failed);
                    service.ended().await;
                }
                Cut::Dies => {}
            }
        };
        beside(&device(), &service(), serves, async |client, world, _| {
            let mut memory = [0; WINDOW];
            let mut subscription = client.subscribe(b"whole", &mut memory).await.unwrap();
            assert_eq!(subscription.next().await, Ok(Some(b"half of".to_vec())), "{cut:?}");
            let (error, within) = match cut {
                Cut::HangsUp => (Error::Connection(ConnectionError::Truncated), 0),
                Cut::Refuses => (Error::Request(RequestError::Refused(Refusal::Failed)), 0),
                Cut::Dies => (Error::Connection(ConnectionError::PeerDead), 60_000),
            };
            for _ in 0..3 {
                assert_eq!(subscription.next().await, Err(error), "{cut:?}");
            }
            assert!(world.now() <= within);
            drop(subscription);
            assert_eq!(client.fate(), Fate::MaybeProcessed, "{cut:?}");
            let _ = client.close().await;
        });
    }
}

#[test]
fn a_server_that_drains_lets_an_answer_end() {
    let serves = async |service: &mut Service<'_>, _: &World| {
        service.until(1, Came::Ended).await;
        service.open();
        service.close();
        service.turns().await;
        service.send(b"last words");
        service.finish();
        service.ended().await;
        assert_eq!(service.end, Some(ConnectionError::Closed));
    };
    beside(&device(), &service(), serves, async |client, _, _| {
        let mut memory = [0; WINDOW];
        let mut subscription = client.subscribe(b"calls", &mut memory).await.unwrap();
        assert_eq!(subscription.next().await, Ok(Some(b"last words".to_vec())));
        assert_eq!(subscription.next().await, Ok(None));
        drop(subscription);
        let closed = Some(Error::Connection(ConnectionError::Closed));
        assert_eq!(client.subscribe(b"more", &mut [0; WINDOW]).await.err(), closed);
    });
}

#[test]
fn dropping_and_cancelling_end_the_handler_and_free_the_place() {
    for cancels in [false, true] {
        let heard = Cell::new(0);
        let serves = async |service: &mut Service<'_>, _: &World| {
            service.until(1, Came::Ended).await;
            service.open();
            service.send(&bytes(5_000));
            service.until(1, Came::Cancelled).await;
            heard.set(service.heard());
            // The handler takes a while to stop.
            service.turns().await;
            assert!(!service.came.contains(&(2, Came::Opened)));
            service.refuse(Refusal::Cancelled);
            service.until(2, Came::Ended).await;
            assert_eq!(service.body, b"second");
            service.answer(b"fine");
            service.ended().await;
            assert_eq!(service.end, Some(ConnectionError::Closed));
        };
        beside(&device(), &service(), serves, async |client, world, [up, _]| {
            let mut memory = [0; WINDOW];
            let mut subscription = client.subscribe(b"first", &mut memory).await.unwrap();
            let piece = subscription.next().await.unwrap().unwrap();
            assert_eq!(piece, bytes(piece.len()));
            if cancels {
                subscription.cancel().await.unwrap();
            } else {
                drop(subscription);
            }
            let sent = up.gauge.written.get();
            // It waits for the place of the first, and gets nothing of its answer.
            let mut second = client.subscribe(b"second", &mut memory).await.unwrap();
            assert_eq!(second.next().await, Ok(Some(b"fine".to_vec())));
            assert_eq!(second.next().await, Ok(None));
            assert_eq!(sent == heard.get(), cancels);
            drop(second);
            client.close().await.unwrap();
            assert_eq!(world.now(), 0);
        });
    }
}

#[test]
fn a_future_that_is_dropped_loses_no_bytes() {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    for polls in [1, 2, 3, 7] {
        let Joined {
            world,
            mut client,
            pipes,
            ..
        } = join(&client_key, &server_key, &device());
        let mut serving = Service::new(&many_key, &service(), &world, &pipes);
        let serves = async {
            serving.until(1, Came::Ended).await;
            serving.open();
            serving.send(&bytes(20_000));
            serving.finish();
            serving.ended().await;
        };
        let asks = async {
            let mut memory = [0; WINDOW];
            let mut subscription = client.subscribe(b"much", &mut memory).await.unwrap();
            let mut whole: Vec<u8> = Vec::new();
            loop {
                // Dropped if it is not ready by then.
                match polled(polls, subscription.next()).await {
                    None => turn(&world).await,
                    Some(Ok(Some(piece))) => whole.extend(piece),
                    Some(ended) => {
                        ended.unwrap();
                        break;
                    }
                }
            }
            assert_eq!(whole, bytes(20_000), "{polls} polls");
            client.close().await.unwrap();
        };
        run(&world, asks, serves);
    }
}

#[test]
fn an_answer_of_known_length_comes_in_pieces_if_it_fits() {
    for (length, fits) in [(0, true), (5, true), (WINDOW, true), (WINDOW + 1, false), (2000, false)] {
        let serves = async |service: &mut Service<'_>, _: &World| {
            service.until(1, Came::Ended).await;
            service.answer(&bytes(length));
            service.ended().await;
        };
        beside(&device(), &service(), serves, async |client, _, _| {
            let mut memory = [0; WINDOW];
            let mut subscription = client.subscribe(b"whole", &mut memory).await.unwrap();
            let mut whole = Vec::new();
            let end = loop {
                match subscription.next().await {
                    Ok(Some(piece)) => whole.extend(piece),
                    end => break end,
                }
            };
            if fits {
                assert_eq!((end, whole), (Ok(None), bytes(length)));
            } else {
                // Whatever of it would have fitted meanwhile.
                let too_large = Error::AnswerTooLarge { length, room: WINDOW };
                assert_eq!((end, whole), (Err(too_large), Vec::new()));
            }
            drop(subscription);
            client.close().await.unwrap();
        });
    }
}

#[test]
fn a_request_collects_an_open_answer_that_fits() {
    // The answer is larger than the window, so that credit is needed.
    for (length, fits) in [(0, true), (3, true), (2000, true), (2001, false), (9000, false)] {
        let serves = async |service: &mut Service<'_>, _: &World| {
            service.until(1, Came::Whole).await;
            service.open();
            service.send(&bytes(length));
            service.finish();
            if length == 9000 {
                service.until(1, Came::Cancelled).await;
                service.refuse(Refusal::Cancelled);
            }
            service.until(2, Came::Whole).await;
            service.answer(b"goes on");
            service.ended().await;
            assert_eq!(service.end, Some(ConnectionError::Closed));
        };
        beside(&device(), &service(), serves, async |client, _, _| {
            let mut answer = [0; 2000];
            let asked = client.request(b"whole", &mut answer).await;
            if fits {
                assert_eq!(asked, Ok(length));
                assert_eq!(answer[..length], bytes(length));
            } else {
                let Err(Error::AnswerTooLarge { length: came, room }) = asked else {
                    panic!("{asked:?}");
                };
                assert!(room == 2000 && (2001..=length).contains(&came), "{came}");
            }
            assert_eq!(client.request(b"again", &mut answer).await, Ok(7));
            client.close().await.unwrap();
        });
    }
}

#[test]
fn the_memory_holds_a_window_and_there_is_one() {
    let serves = async |service: &mut Service<'_>, _: &World| {
        service.ended().await;
        assert_eq!(service.came, []);
    };
    for (kib, room) in [(1, WINDOW - 1), (0, WINDOW), (2, WINDOW)] {
        let settings = settings().with_streams(kib, 0);
        beside(&settings, &service(), serves, async |client, _, _| {
            let mut memory = vec![0; room];
            let window = u32::from(kib) * 1024;
            let refused = client.subscribe(b"calls", &mut memory).await.err();
            assert_eq!(refused, Some(Error::Window { window, room }));
            client.establish().await.unwrap();
            client.close().await.unwrap();
        });
    }
}

#[test]
fn a_server_that_takes_none_is_not_sent_any() {
    // The server of a device takes none, whatever its settings are.
    let settings = device().with_streams(1, 8);
    let served = everywhere(&settings, reverse, async |client, _, _| {
        let none = Some(Error::Request(RequestError::NoOpenBodies));
        let mut memory = [0; WINDOW];
        // Not known yet, then known.
        for _ in 0..2 {
            assert_eq!(client.subscribe(b"calls", &mut memory).await.err(), none);
            assert_eq!(client.fate(), Fate::NotProcessed);
        }
        assert_eq!(client.request(b"abc", &mut memory).await, Ok(3));
        client.close().await.unwrap();
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn the_classic_wire_has_no_subscriptions() {
    let mut rng = CountingRng::new(1);
    let key = ClassicKey::new(key(7), FixedReplayCache::<8>::new(&mut rng).unwrap());
    let buffers = ([0; 2100], [0; 2100]);
    let mut client = BufferedClient::start(&key, &device(), Instant::ZERO, &mut rng, buffers).unwrap();
    let refused = client.subscribe(b"calls", [0; WINDOW]).err();
    assert_eq!(refused, Some(Error::Request(RequestError::NoOpenBodies)));
}

#[test]
fn debug_shows_no_byte_of_a_subscription() {
    let key = client_key(7);
    let buffers = ([0; BUFFER], [0; BUFFER]);
    let mut rng = CountingRng::new(1);
    let mut client = BufferedClient::start(&key, &device(), Instant::ZERO, &mut rng, buffers).unwrap();
    let pending = client.subscribe([0xCD; 9], [0xEF; WINDOW]).unwrap();
    let shown = format!("{pending:?}").to_lowercase();
    for secret in ["205, 205", "cdcd", "239, 239", "efef"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
