//! Futures that are dropped: the answer to such a request is discarded and its place is free again;
//! a request whose handler was dropped is not handled again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;

use common::{Joined, MESSAGE, client_key, join, polled, reverse, run, server_key, settings, until};
use falco_core::{ConnectionError, Instant, Refusal, RequestError};
use falco_embedded::Error;

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    reverse(request, answer)
}

#[test]
fn the_answer_to_a_request_whose_future_was_dropped_is_discarded() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    // Dropped after so many polls: before it begins, half sent, sent, half answered.
    for polls in 1..300 {
        let Joined {
            world,
            mut client,
            mut server,
            ..
        } = join(&client_key, &server_key, &settings());
        let asks = async {
            let mut answer = [0; MESSAGE];
            let _ = polled(polls, client.request(&[0xAA; MESSAGE], &mut answer)).await;
            let length = client.request(b"second", &mut answer).await.unwrap();
            assert_eq!(&answer[..length], b"dnoces", "{polls} polls");
            client.close().await
        };
        assert_eq!(
            run(&world, asks, server.serve(handler)),
            (Ok(()), Ok(())),
            "{polls} polls"
        );
        assert_eq!(world.now(), 0, "{polls} polls");
    }
}

#[test]
fn closing_and_idling_cancel_a_request_that_was_dropped() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    for polls in 1..300 {
        for idles in [false, true] {
            let Joined {
                world,
                mut client,
                mut server,
                pipes,
            } = join(&client_key, &server_key, &settings());
            let asks = async {
                let _ = polled(polls, client.request(&[0xAA; MESSAGE], &mut [0; MESSAGE])).await;
                if idles {
                    client.idle(Instant::from_millis(1_000)).await.unwrap();
                    assert_eq!(client.buffered().connection().machine().in_flight(), 0, "{polls} polls");
                }
                let established = client.buffered().is_established();
                client.close().await.unwrap();
                pipes[0].closed.set(true);
                established
            };
            let (established, served) = run(&world, asks, server.serve(handler));
            if established {
                assert_eq!(served, Ok(()), "{polls} polls, {idles}");
                assert_eq!(world.now(), u64::from(idles) * 1_000, "{polls} polls");
            }
        }
    }
}

#[test]
fn a_handler_is_dropped_when_its_connection_ends() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes,
    } = join(&client_key, &server_key, &settings());
    let begun = Cell::new(false);
    let asks = async {
        let _ = polled(100, client.request(b"for ever", &mut [0; 8])).await;
        pipes[0].closed.set(true);
        world.now()
    };
    let serving = server.serve(async |_: &[u8], _: &mut [u8]| {
        begun.set(true);
        core::future::pending().await
    });
    let (at, served) = run(&world, asks, serving);
    assert_eq!(served, Err(Error::Connection(ConnectionError::Truncated)));
    assert!(begun.get());
    assert_eq!(world.now(), at);
}

#[test]
fn a_request_whose_handler_was_dropped_is_refused_and_not_handled_twice() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &settings());
    let (runs, begun) = (Cell::new(0), Cell::new(false));
    let asks = async {
        let failed = client.request(b"open the valve", &mut [0; 16]).await;
        assert_eq!(failed, Err(Error::Request(RequestError::Refused(Refusal::Failed))));
        assert_eq!(client.request(b"again", &mut [0; 16]).await, Ok(5));
        client.close().await
    };
    let serving = async {
        let first = server.serve(async |_: &[u8], _: &mut [u8]| {
            runs.set(runs.get() + 1);
            begun.set(true);
            core::future::pending().await
        });
        until(&begun, first).await;
        server
            .serve(async |request: &[u8], answer: &mut [u8]| {
                runs.set(runs.get() + 1);
                reverse(request, answer)
            })
            .await
    };
    assert_eq!(run(&world, asks, serving), (Ok(()), Ok(())));
    assert_eq!(runs.get(), 2);
    assert_eq!(world.now(), 0);
}
