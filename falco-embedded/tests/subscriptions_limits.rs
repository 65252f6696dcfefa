//! What bounds an open answer, what other answers a subscription gets, and who takes no open
//! requests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use core::future::poll_fn;
use core::task::Poll;
use std::rc::Rc;

use common::{
    BUFFER, Came, Joined, Pipe, Raw, Service, VirtualClock, WINDOW, World, beside, bytes, client_key, device,
    everywhere, join, many_key, raw_key, reverse, run, server_key, service, settings, turn,
};
use falco_core::testing::{CountingRng, key};
use falco_core::{
    ClassicKey, ConnectionError, Fate, FixedReplayCache, Instant, Refusal, RequestError, ServerConnection,
};
use falco_embedded::{BufferedClient, BufferedConnection, BufferedServer, Error, asynchronous};

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
fn a_device_refuses_an_open_request() {
    // Its settings did not pass through `start`.
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Joined {
        world,
        mut client,
        pipes: [up, down],
        ..
    } = join(&client_key, &server_key, &device());
    let mut rng = CountingRng::new(2);
    let machine = ServerConnection::new(&server_key, &service(), Instant::ZERO, &mut rng).unwrap();
    let connection = BufferedConnection::new(machine, ([0; BUFFER], [0; BUFFER]));
    let server = BufferedServer::new(connection, ([0; 100], [0; 100]));
    let mut server = asynchronous::Server::new(server, up, down, VirtualClock(Rc::clone(&world)));
    let asks = async {
        let mut memory = [0; WINDOW];
        let body = bytes(5_000);
        let mut subscription = client.subscribe(&body, &mut memory).await.unwrap();
        let refused = Error::Request(RequestError::Refused(Refusal::TooLarge));
        assert_eq!(subscription.next().await, Err(refused));
        assert_eq!(client.request(b"abc", &mut memory).await, Ok(3));
        client.close().await.unwrap();
    };
    let task = server.serve(async |request: &[u8], answer: &mut [u8]| reverse(request, answer));
    assert_eq!(run(&world, asks, task).1, Ok(()));
}

#[test]
fn a_device_refuses_an_open_request_while_a_handler_runs_though_its_settings_allow_it() {
    let (server_key, raw_key, world) = (many_key(), raw_key(), Rc::new(World::default()));
    let settings = service().with_max_in_flight(4).unwrap();
    let machine = ServerConnection::new(&server_key, &settings, Instant::ZERO, &mut CountingRng::new(2)).unwrap();
    let connection = BufferedConnection::new(machine, ([0; BUFFER], [0; BUFFER]));
    let server = BufferedServer::new(connection, ([0; 600], [0; 8]));
    let [up, down] = [Pipe::new(&world, 40), Pipe::new(&world, 40)];
    let mut raw = Raw::new(&raw_key, &settings, [up.clone(), down.clone()]);
    let clock = VirtualClock(Rc::clone(&world));
    let mut server = asynchronous::Server::new(server, up.clone(), down, clock);
    let (running, done) = (Cell::new(false), Cell::new(false));
    let asking = async {
        raw.establish(&world).await;
        let mut request = raw.machine.request(3).unwrap();
        raw.send(Instant::ZERO, &mut request, b"abc", BUFFER);
        for _ in 0..100 {
            turn(&world).await;
        }
        assert!(running.get());
        let mut open = raw.machine.open_request().unwrap();
        raw.send(Instant::ZERO, &mut open, b"open", BUFFER);
        assert!(open.id().is_some());
        for _ in 0..100 {
            turn(&world).await;
            raw.read(Instant::ZERO);
        }
        assert_eq!((&raw.refused[..], raw.answers), (&[Refusal::TooLarge][..], 0));
        done.set(true);
        for _ in 0..100 {
            turn(&world).await;
            raw.read(Instant::ZERO);
        }
        assert_eq!((raw.refused.len(), raw.answers, raw.machine.in_flight()), (1, 1, 0));
        up.closed.set(true);
    };
    let serving = server.serve(async |request: &[u8], answer: &mut [u8]| {
        running.set(true);
        poll_fn(|_| if done.get() { Poll::Ready(()) } else { Poll::Pending }).await;
        reverse(request, answer)
    });
    let served = run(&world, asking, serving).1;
    assert_eq!(served, Err(Error::Connection(ConnectionError::Truncated)));
}
