//! Subscriptions under both drivers: pieces within a window, silence, ends, cancellation. The
//! service is the core's own server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;

use common::{
    Came, Joined, Service, WINDOW, World, beside, bytes, client_key, device, join, many_key, polled, run, server_key,
    service, turn,
};
use falco_core::{ConnectionError, Fate, Refusal, RequestError};
use falco_embedded::Error;

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
fn a_request_that_has_begun_may_have_been_processed() {
    let serves = async |service: &mut Service<'_>, _: &World| {
        service.until(1, Came::Opened).await;
        service.hang_up();
    };
    beside(&device(), &service(), serves, async |client, _, _| {
        // The stream ends before all of it is sent.
        let (body, mut memory) = (bytes(5_000), [0; WINDOW]);
        assert_eq!(client.fate(), Fate::NotProcessed);
        let ended = client.subscribe(&body, &mut memory).await.err();
        assert_eq!(ended, Some(Error::Connection(ConnectionError::Truncated)));
        assert_eq!(client.fate(), Fate::MaybeProcessed);
    });
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
