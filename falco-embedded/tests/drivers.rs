//! Both drivers on pipes of a few bytes and a virtual clock: lengths, refusals, keep-alive, ends,
//! dropped requests and handlers. The examples show them on sockets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use common::{
    Joined, Lines, MESSAGE, Port, RestingClock, VirtualClock, client_key, everywhere, join, lines, polled, reverse,
    run, server_key, settings, side_by_side, until,
};
use falco_core::{CloseReason, ConnectionError, Instant, Refusal, RequestError};
use falco_embedded::{Clock, Error, Timer, asynchronous, blocking};

async fn handler(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    reverse(request, answer)
}

#[test]
fn messages_of_all_kinds_of_lengths_are_answered_and_the_end_is_orderly() {
    let served = everywhere(&settings(), reverse, async |client, world, _| {
        client.establish().await.unwrap();
        for length in (0..=MESSAGE).step_by(37).chain([1, 488, 489, 490, 512, 514, MESSAGE]) {
            let body: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut answer = [0; MESSAGE];
            let came = client.request(&body, &mut answer).await.unwrap();
            assert!(answer[..came].iter().eq(body.iter().rev()), "{length}");
        }
        let ping = client.ping().await.unwrap();
        client.pong(ping).await.unwrap();
        assert_eq!(client.close().await, Ok(()));
        assert_eq!(world.now(), 0, "nothing waits for a time");
        let ended = Err(Error::Connection(ConnectionError::Closed));
        assert_eq!(client.idle(5).await, ended, "and it stays ended");
        assert_eq!(client.request(b"more", &mut [0; 8]).await, ended.map(|()| 0));
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn a_request_that_fails_costs_no_time_and_not_the_connection() {
    let serve = |request: &[u8], answer: &mut [u8]| match request {
        b"fail" => Err(Refusal::Failed),
        b"boast" => Ok(answer.len() + 1),
        _ => reverse(request, answer),
    };
    let served = everywhere(&settings(), serve, async |client, world, _| {
        let mut answer = [0; MESSAGE];
        let failed = client.request(b"fail", &mut answer).await;
        assert_eq!(failed, Err(Error::Request(RequestError::Refused(Refusal::Failed))));
        let boasted = client.request(b"boast", &mut answer).await;
        let too_large = Err(Error::Request(RequestError::Refused(Refusal::AnswerTooLarge)));
        assert_eq!(boasted, too_large, "an answer must fit the memory for it");
        let small = client.request(b"a longer one", &mut answer[..4]).await;
        assert_eq!(small, Err(Error::AnswerTooLarge { length: 12, room: 4 }));
        let large = client.request(&[0; MESSAGE + 1], &mut answer).await;
        assert!(matches!(large, Err(Error::Request(RequestError::TooLarge { .. }))));
        assert_eq!(client.request(b"fine", &mut answer).await, Ok(4));
        client.close().await.unwrap();
        assert_eq!(world.now(), 0);
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn an_answer_larger_than_the_client_reads_is_refused() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let small = settings().with_max_message(100);
    let lined = || {
        let theirs = lines(&client_key, &server_key, &settings());
        let ours = lines(&client_key, &server_key, &small);
        Lines {
            client: ours.client,
            ..theirs
        }
    };
    let joined = || {
        let Lines {
            world,
            client,
            server,
            pipes,
        } = lined();
        let ([up, down], clock) = (pipes.clone(), VirtualClock(world.clone()));
        Joined {
            client: asynchronous::Client::new(client, down.clone(), up.clone(), clock.clone()),
            server: asynchronous::Server::new(server, up, down, clock),
            world,
            pipes,
        }
    };
    let much = |_: &[u8], _: &mut [u8]| Ok(101);
    let served = side_by_side(joined, lined, much, async |client, world, _| {
        let refused = client.request(b"much", &mut [0; 200]).await;
        let too_large = Err(Error::Request(RequestError::Refused(Refusal::AnswerTooLarge)));
        assert_eq!(refused, too_large);
        client.close().await.unwrap();
        assert_eq!(world.now(), 0);
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn a_wrong_key_is_refused_and_the_server_sends_no_byte() {
    let (client_key, server_key) = (client_key(8), server_key(7));
    let served = side_by_side(
        || join(&client_key, &server_key, &settings()),
        || lines(&client_key, &server_key, &settings()),
        reverse,
        async |client, _, [_, down]| {
            let refused = Err(Error::Connection(ConnectionError::Refused));
            assert_eq!(client.establish().await, refused);
            assert!(down.bytes.borrow().is_empty());
        },
    );
    assert_eq!(served, [Err(Error::Connection(ConnectionError::Unauthenticated)); 3]);
}

#[test]
fn idling_keeps_the_connection() {
    let short = settings().with_lifetime(Duration::from_secs(3)).unwrap();
    let served = everywhere(&short, reverse, async |client, world, _| {
        client.establish().await.unwrap();
        client.idle(60_000).await.unwrap();
        assert_eq!(world.now(), 60_000);
        assert_eq!(client.request(b"still here", &mut [0; 16]).await, Ok(10));
        client.close().await.unwrap();
        assert_eq!(world.now(), 60_000);
    });
    assert_eq!(served, [Ok(()); 3]);
}

#[test]
fn without_keep_alive_a_connection_expires_on_time() {
    let short = settings()
        .with_lifetime(Duration::from_secs(3))
        .unwrap()
        .with_keep_alive(false);
    let served = everywhere(&short, reverse, async |client, world, _| {
        client.establish().await.unwrap();
        let ended = client.idle(60_000).await;
        let ends = [ConnectionError::Expired, ConnectionError::PeerExpired].map(|end| Err(Error::Connection(end)));
        assert!(ends.contains(&ended), "{ended:?}");
        assert_eq!(world.now(), 3_000);
        assert_eq!(client.ping().await.err(), ended.err(), "and it stays ended");
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn a_peer_that_takes_no_byte_for_a_lifetime_ends_the_connection() {
    let quiet = settings().with_keep_alive(false);
    let served = everywhere(&quiet, reverse, async |client, world, [up, _]| {
        client.establish().await.unwrap();
        assert_eq!(client.request(b"one", &mut [0; 8]).await, Ok(3));
        up.writes.set(common::Writes::Blocked);
        let ended = client.request(&[1; MESSAGE], &mut [0; MESSAGE]).await;
        // The server may have noticed first, and have refused the request as incomplete.
        let ends = [
            Error::Stalled,
            Error::Connection(ConnectionError::Expired),
            Error::Request(RequestError::Refused(Refusal::NotProcessed)),
        ];
        assert!(ended.is_err_and(|end| ends.contains(&end)), "{ended:?}");
        assert!((60_000..=61_000).contains(&world.now()), "{}", world.now());
        up.closed.set(true);
        assert!(
            client.request(b"more", &mut [0; 8]).await.is_err(),
            "and it stays ended"
        );
        assert!(world.now() <= 61_000, "{}", world.now());
    });
    assert!(served.iter().all(Result::is_err), "{served:?}");
}

#[test]
fn a_server_whose_client_reads_nothing_ends_within_a_lifetime() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        mut server,
        pipes,
    } = join(&client_key, &server_key, &settings());
    let asks = async {
        client.establish().await.unwrap();
        let _ = polled(200, client.request(&[1; MESSAGE], &mut [0; MESSAGE])).await;
        pipes[1].writes.set(common::Writes::Blocked);
    };
    let ((), served) = run(&world, asks, server.serve(handler));
    let ends = [Error::Stalled, Error::Connection(ConnectionError::Expired)];
    assert!(served.is_err_and(|end| ends.contains(&end)), "{served:?}");
    assert!((60_000..=61_000).contains(&world.now()), "{}", world.now());
    assert_eq!(
        run(&world, async {}, server.serve(handler)).1,
        served,
        "and it stays ended"
    );
}

#[test]
fn a_server_that_closes_ends_the_client_at_once() {
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
        until(&up, server.serve(handler)).await;
        server.close(CloseReason::ShuttingDown);
        server.serve(handler).await
    };
    let (asked, served) = run(&world, asks, serving);
    assert_eq!(
        (asked, served),
        (Err(Error::Connection(ConnectionError::Closed)), Ok(()))
    );
    assert_eq!(world.now(), 0);
}

#[test]
fn a_handler_that_takes_longer_than_a_lifetime_keeps_the_connection() {
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
    let clock = VirtualClock(world.clone());
    let serving = server.serve(async |request: &[u8], answer: &mut [u8]| {
        clock.clone().sleep_until(Instant::from_millis(200_000)).await;
        reverse(request, answer)
    });
    assert_eq!(run(&world, asks, serving), (Ok(()), Ok(())));
    assert_eq!(world.now(), 200_000);
}

#[test]
fn the_port_serves_another_connection_after_the_first() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (first, second) = (
        lines(&client_key, &server_key, &settings()),
        lines(&client_key, &server_key, &settings()),
    );
    let ([up, down], clock) = (first.pipes, VirtualClock(first.world.clone()));
    let mut client = asynchronous::Client::new(first.client, down.clone(), up.clone(), clock.clone());
    let mut server = asynchronous::Server::new(first.server, up, down, clock);
    let asks = async {
        assert_eq!(client.request(b"one", &mut [0; 8]).await, Ok(3));
        client.close().await.unwrap();
        let (reader, writer, timer) = client.into_parts();
        let mut client = asynchronous::Client::new(second.client, reader, writer, timer);
        assert_eq!(client.request(b"two", &mut [0; 8]).await, Ok(3));
        client.close().await.unwrap();
    };
    let serving = async {
        server.serve(handler).await.unwrap();
        let (reader, writer, timer) = server.into_parts();
        let mut server = asynchronous::Server::new(second.server, reader, writer, timer);
        server.serve(handler).await.unwrap();
    };
    run(&first.world, asks, serving);
    assert_eq!(first.world.now(), 0);
}

#[test]
fn a_blocking_handler_may_take_as_long_as_its_client_waits() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Lines {
        world,
        client,
        server,
        pipes: [up, down],
    } = lines(&client_key, &server_key, &settings().with_keep_alive(false));
    let clock = VirtualClock(world.clone());
    let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock);
    let other = common::Other::new(async {
        assert_eq!(client.request(b"slow", &mut [0; 8]).await, Ok(4));
        client.close().await.unwrap();
    });
    let clock = RestingClock {
        world: world.clone(),
        other: &other,
    };
    let mut server = blocking::Server::new(server, Port { from: up, to: down }, clock);
    let served = server.serve(|request, answer| {
        // The server's lifetime is paused while it cannot read. The client's is not.
        world.pass(59_000);
        reverse(request, answer)
    });
    assert_eq!(served, Ok(()));
    other.finish(&world);
}

#[test]
fn embassys_timer_is_not_early() {
    let mut clock = falco_embedded::EmbassyClock;
    let until = clock.now() + Duration::from_millis(30);
    let mut sleep = pin!(async {
        clock.sleep_until(until).await;
        clock.now()
    });
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    assert!(sleep.as_mut().poll(&mut context).is_pending());
    let ended = loop {
        std::thread::sleep(Duration::from_millis(5));
        if let Poll::Ready(now) = sleep.as_mut().poll(&mut context) {
            break now;
        }
    };
    assert!(ended >= until, "{ended:?} {until:?}");
}
