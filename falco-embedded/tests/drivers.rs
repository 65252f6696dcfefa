//! The drivers on pipes of a few bytes and a virtual clock: every length, dropped futures, ends, deadlines. What they do on sockets is shown by the example `host`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use common::{Joined, MESSAGE, client_key, join, run, server_key, settings};
use falco_core::{CloseReason, ConnectionError, Instant, Refusal, RequestError};
use falco_embedded::{Clock, Error};

/// The handler: the request, turned round.
fn reverse(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    let place = answer.get_mut(..request.len()).ok_or(Refusal::AnswerTooLarge)?;
    for (to, from) in place.iter_mut().zip(request.iter().rev()) {
        *to = *from;
    }
    Ok(request.len())
}

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    reverse(request, answer)
}

#[test]
fn messages_of_every_kind_of_length_come_back_and_the_end_is_orderly() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        client.establish().await.unwrap();
        for length in (0..=MESSAGE).step_by(37).chain([1, 488, 489, 490, 512, 514, MESSAGE]) {
            let body: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut answer = [0; MESSAGE];
            let came = client.request(&body, &mut answer).await.unwrap();
            assert!(answer[..came].iter().eq(body.iter().rev()), "{length}");
        }
        let ping = client.ping().await.unwrap();
        client.pong(ping).await.unwrap();
        client.close().await
    };
    assert_eq!(run(&world, asks, server.serve(handler)), (Ok(()), Ok(())));
}

#[test]
fn the_answer_to_a_request_whose_future_was_dropped_is_nobodys() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    // Dropped after so many polls: before it begins, half sent, waiting, half answered.
    for polls in 1..300 {
        let Joined {
            world,
            mut client,
            mut server,
            ..
        } = join(&client_key, &server_key, &settings());
        let asks = async {
            let mut answer = [0; MESSAGE];
            {
                let mut left = polls;
                let mut first = pin!(client.request(&[0xAA; MESSAGE], &mut answer));
                poll_fn(|context| {
                    left -= 1;
                    if left > 0 && first.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
                .await;
            }
            let length = client.request(b"second", &mut answer).await.unwrap();
            assert_eq!(&answer[..length], b"dnoces", "{polls} polls");
            client.close().await
        };
        assert_eq!(
            run(&world, asks, server.serve(handler)),
            (Ok(()), Ok(())),
            "{polls} polls"
        );
    }
}

#[test]
fn a_wrong_key_is_refused_and_the_server_says_not_a_byte() {
    let (client_key, server_key) = (client_key(8), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes,
    } = join(&client_key, &server_key, &settings());
    let serving = async {
        let served = server.serve(handler).await;
        pipes[1].closed.set(true);
        served
    };
    let (established, served) = run(&world, client.establish(), serving);
    assert_eq!(established, Err(Error::Connection(ConnectionError::Refused)));
    assert_eq!(served, Err(Error::Connection(ConnectionError::Unauthenticated)));
}

#[test]
fn a_handler_that_fails_costs_its_request_and_nothing_else() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        let mut answer = [0; MESSAGE];
        let failed = client.request(b"fail", &mut answer).await;
        assert_eq!(failed, Err(Error::Request(RequestError::Refused(Refusal::Failed))));
        let small = client.request(b"a longer one", &mut answer[..4]).await;
        assert_eq!(small, Err(Error::AnswerTooLarge { length: 12, room: 4 }));
        let large = client.request(&[0; MESSAGE + 1], &mut answer).await;
        assert!(matches!(large, Err(Error::Request(RequestError::TooLarge { .. }))));
        assert_eq!(client.request(b"fine", &mut answer).await, Ok(4));
        client.close().await
    };
    let handling = server.serve(async |request: &[u8], answer: &mut [u8]| match request {
        b"fail" => Err(Refusal::Failed),
        _ => reverse(request, answer),
    });
    assert_eq!(run(&world, asks, handling), (Ok(()), Ok(())));
}

#[test]
fn idling_keeps_the_connection_and_without_keep_alive_it_lapses_on_time() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let short = settings().with_lifetime(Duration::from_secs(3)).unwrap();
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &short);
    let asks = async {
        client.establish().await.unwrap();
        client.idle(Instant::from_millis(60_000)).await.unwrap();
        assert_eq!(client.request(b"still here", &mut [0; 16]).await, Ok(10));
        client.close().await
    };
    assert_eq!(run(&world, asks, server.serve(handler)), (Ok(()), Ok(())));

    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &short.with_keep_alive(false));
    let clock = common::VirtualClock(world.clone());
    let asks = async {
        client.establish().await.unwrap();
        let ended = client.idle(Instant::from_millis(60_000)).await;
        (ended, clock.now().as_millis())
    };
    let (asked, served) = run(&world, asks, server.serve(handler));
    let lapsed =
        [ConnectionError::Expired, ConnectionError::PeerExpired].map(|end| (Err(Error::Connection(end)), 3000));
    assert!(lapsed.contains(&asked), "{asked:?}");
    assert!(matches!(served, Err(Error::Connection(_))));
}

#[test]
fn a_peer_that_takes_no_byte_for_a_lifetime_ends_the_connection() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes,
    } = join(&client_key, &server_key, &settings());
    let clock = common::VirtualClock(world.clone());
    let asks = async {
        client.establish().await.unwrap();
        assert_eq!(client.request(b"one", &mut [0; 8]).await, Ok(3));
        pipes[0].blocked.set(true);
        let ended = client.request(&[1; MESSAGE], &mut [0; MESSAGE]).await;
        pipes[0].closed.set(true);
        assert!(
            matches!(
                ended,
                Err(Error::Stalled | Error::Connection(ConnectionError::PeerDead | ConnectionError::Expired))
            ),
            "{ended:?}"
        );
        assert!(clock.now().as_millis() <= 61_000, "{:?}", clock.now());
    };
    let ((), served) = run(&world, asks, server.serve(handler));
    assert!(served.is_err());
}

#[test]
fn a_server_that_closes_is_told_of_to_the_client_at_once() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        ..
    } = join(&client_key, &server_key, &settings());
    let up = Cell::new(false);
    let asks = async {
        client.establish().await.unwrap();
        up.set(true);
        client.idle(Instant::from_millis(60_000)).await
    };
    let serving = async {
        {
            let mut running = pin!(server.serve(handler));
            poll_fn(|context| {
                assert!(running.as_mut().poll(context).is_pending());
                if up.get() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        server.close(CloseReason::ShuttingDown);
        server.serve(handler).await
    };
    let (asked, served) = run(&world, asks, serving);
    assert_eq!(
        (asked, served),
        (Err(Error::Connection(ConnectionError::Closed)), Ok(()))
    );
}
