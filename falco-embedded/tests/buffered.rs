//! `BufferedClient` and `BufferedServer` in a super-loop: what a server does with more than it can
//! accept, and both on the classic wire.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod common;

use std::rc::Rc;

use common::{
    BUFFER, MESSAGE, Pipe, VirtualClock, World, carry, client_key, lines, reverse, run, server_key, settings,
};
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, key};
use falco_core::{
    ClassicKey, ClientConnection, CloseReason, ConnectionError, FixedReplayCache, Instant, OutputTooSmall, Refusal,
    RequestError, RustCrypto, ServerConnection, Settings, Storage,
};
use falco_embedded::{
    Buffer, BufferedClient, BufferedConnection, BufferedServer, Error, PendingRequest, StartError, asynchronous,
};

const NOW: Instant = Instant::ZERO;

type Bytes = ([u8; BUFFER], [u8; BUFFER]);

/// Runs both until neither has anything to do. Requests are left to the caller.
fn settle<G, H, M>(
    client: &mut BufferedClient<G, Bytes>,
    mut ask: Option<&mut PendingRequest<&[u8], [u8; MESSAGE]>>,
    server: &mut BufferedServer<H, Bytes, (M, [u8; 8])>,
) where
    G: falco_core::ClientKeyRef,
    H: falco_core::ServerKeyRef,
    M: Storage,
{
    loop {
        let mut moved = false;
        while client.step(NOW, ask.as_deref_mut()).unwrap() {}
        while server.step(NOW).unwrap() {}
        moved |= carry(client.connection_mut(), server.connection_mut(), NOW);
        moved |= carry(server.connection_mut(), client.connection_mut(), NOW);
        if !moved {
            return;
        }
    }
}

type Server<'k> = BufferedServer<&'k common::ServerKey, Bytes, ([u8; 600], [u8; 8])>;
type Client<'k> = BufferedClient<&'k falco_embedded::NoiseClientKey, Bytes>;

fn client(key: &falco_embedded::NoiseClientKey) -> Client<'_> {
    BufferedClient::start(
        key,
        &settings(),
        NOW,
        &mut CountingRng::new(1),
        ([0; BUFFER], [0; BUFFER]),
    )
    .unwrap()
}

/// A server whose memory is smaller than the limit that it announces.
fn server(key: &common::ServerKey) -> Server<'_> {
    let machine = ServerConnection::new(key, &settings(), NOW, &mut CountingRng::new(2)).unwrap();
    BufferedServer::new(
        BufferedConnection::new(machine, ([0; BUFFER], [0; BUFFER])),
        ([0; 600], [0; 8]),
    )
}

#[test]
fn a_request_larger_than_the_memory_is_refused_as_too_large_at_its_beginning() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    // The first part would fit.
    let mut ask = client.request(&[1; 601][..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut ask), &mut server);
    let too_large = Err(Error::Request(RequestError::Refused(Refusal::TooLarge)));
    assert_eq!(ask.answered(), too_large.map(|()| None));

    let mut ask = client.request(&[1; 600][..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut ask), &mut server);
    assert_eq!(server.request().unwrap().0, [1; 600]);
    server.answer(8);
    settle(&mut client, Some(&mut ask), &mut server);
    assert_eq!(ask.answered(), Ok(Some(8)));

    // An answer must fit the memory for it, even if the client would read it.
    let mut ask = client.request(&b"much"[..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut ask), &mut server);
    server.answer(9);
    settle(&mut client, Some(&mut ask), &mut server);
    let too_large = Err(Error::Request(RequestError::Refused(Refusal::AnswerTooLarge)));
    assert_eq!(ask.answered(), too_large);
}

#[test]
fn while_a_request_waits_pings_are_answered_and_a_second_request_is_refused_as_busy() {
    let server_key = {
        let secret = NoiseSecret::derive(key(7), &RustCrypto);
        let ring = KeyRing::new([Some(secret)], &mut CountingRng::new(0)).unwrap();
        NoiseServer::<FixedTable<4>, _, _, &[u8]>::new(ring, &[], RustCrypto).unwrap()
    };
    let client_key = NoiseClient::<FixedTable<4>, _, &[u8]>::new(key(7), &[], RustCrypto).unwrap();
    let many = settings().with_max_in_flight(4).unwrap();
    let machine = ServerConnection::new(&server_key, &many, NOW, &mut CountingRng::new(2)).unwrap();
    let connection = BufferedConnection::new(machine, ([0; BUFFER], [0; BUFFER]));
    let mut server = BufferedServer::new(connection, ([0; 600], [0; 8]));
    // Two requests at once, which a `BufferedClient` does not send.
    let mut machine = ClientConnection::new(&client_key, &many, NOW, &mut CountingRng::new(1)).unwrap();
    let mut inbox = falco_core::RecvBuf::new([0; BUFFER]);
    let mut requests = [machine.request(3).unwrap(), machine.request(3).unwrap()];
    let (mut refused, mut ponged, mut asked) = (None, false, false);
    for _ in 0..20 {
        let mut out = [0; BUFFER];
        let messages = requests.iter_mut().map(|request| (request, &b"abc"[..]));
        let written = machine.seal(NOW, messages, &mut out).unwrap();
        let mut sent = 0;
        while sent < written {
            let space = server.connection_mut().space().unwrap();
            let count = space.len().min(written - sent);
            space[..count].copy_from_slice(&out[sent..][..count]);
            server.connection_mut().filled(count);
            sent += count;
            while server.step(NOW).unwrap() {}
        }
        while server.step(NOW).unwrap() {}
        let unsent = server.connection().unsent().to_vec();
        server.connection_mut().sent(NOW, unsent.len());
        inbox.space(unsent.len().max(1)).unwrap()[..unsent.len()].copy_from_slice(&unsent);
        inbox.filled(unsent.len());
        while let Ok(falco_core::Received::Event(event)) = machine.recv(NOW, inbox.unread()) {
            match event {
                falco_core::ClientEvent::Refused { id, refusal } => refused = Some((id, refusal)),
                falco_core::ClientEvent::Pong { .. } => ponged = server.request().is_some(),
                _ => {}
            }
        }
        if server.request().is_some() && !asked {
            asked = true;
            machine.ping().unwrap();
        }
    }
    let second = requests[1].id().unwrap();
    assert_eq!(refused, Some((second, Refusal::Busy)));
    assert!(ponged);
    assert_eq!(server.request().unwrap().0, b"abc");
}

#[test]
fn a_request_that_is_cancelled_before_its_handler_begins_is_not_handled() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    {
        let mut ask = client.request(&b"regret"[..], [0; MESSAGE]).unwrap();
        // It has left the client, and the server has not processed it.
        for _ in 0..6 {
            while client.step(NOW, Some(&mut ask)).unwrap() {}
            carry(client.connection_mut(), server.connection_mut(), NOW);
            if client.connection().machine().in_flight() == 1 {
                break;
            }
            while server.step(NOW).unwrap() {}
            carry(server.connection_mut(), client.connection_mut(), NOW);
        }
    }
    settle(&mut client, None, &mut server);
    assert_eq!(server.request(), None);
    assert_eq!(client.connection().machine().in_flight(), 0);
}

#[test]
fn refusing_waits_for_room_and_loses_nothing() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    let mut ask = client.request(&b"no"[..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut ask), &mut server);
    assert!(server.request().is_some());
    // A PONG is in the outbox, and the machine has another.
    for _ in 0..2 {
        client.ping().unwrap();
        while client.step(NOW, Some(&mut ask)).unwrap() {}
        while carry(client.connection_mut(), server.connection_mut(), NOW) {
            while server.step(NOW).unwrap() {}
        }
    }
    assert!(!server.connection().unsent().is_empty());
    server.refuse(Refusal::Failed);
    while server.step(NOW).unwrap() {}
    settle(&mut client, Some(&mut ask), &mut server);
    let failed = Err(Error::Request(RequestError::Refused(Refusal::Failed)));
    assert_eq!(ask.answered(), failed.map(|()| None));
    assert!(client.last_pong().is_some());
}

/// A client whose lifetime has run out, with a CLOSE in its outbox, and when that was.
fn expired<'k>(
    client_key: &'k falco_embedded::NoiseClientKey,
    server_key: &common::ServerKey,
) -> (Client<'k>, Instant) {
    let settings = settings().with_keep_alive(false);
    let (mut rng, memory) = (CountingRng::new(1), ([0; BUFFER], [0; BUFFER]));
    let mut client = BufferedClient::start(client_key, &settings, NOW, &mut rng, memory).unwrap();
    settle(&mut client, None, &mut server(server_key));
    let late = client.connection().poll_timeout().unwrap();
    assert_eq!(late.as_millis(), 60_000);
    client.connection_mut().handle_timeout(late);
    assert!(!client.step_idle(late).unwrap());
    assert_eq!(client.connection().unsent().len(), 26, "a record with a CLOSE");
    (client, late)
}

const EXPIRED: Result<bool, Error> = Err(Error::Connection(ConnectionError::Expired));

#[test]
fn last_bytes_have_a_second_and_not_a_lifetime() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, _) = expired(&client_key, &server_key);
    let end = client.connection().poll_timeout().unwrap();
    assert_eq!(end.as_millis(), 61_000);
    client.connection_mut().handle_timeout(end);
    assert!(client.connection().unsent().is_empty());
    assert_eq!(client.step_idle(end), EXPIRED);
    assert_eq!(client.step_idle(NOW), EXPIRED);
}

#[test]
fn a_peer_that_takes_a_byte_now_and_then_does_not_prolong_an_end() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, late) = expired(&client_key, &server_key);
    let end = late + core::time::Duration::from_secs(1);
    for millis in [300, 600, 900] {
        let now = late + core::time::Duration::from_millis(millis);
        client.connection_mut().sent(now, 1);
        assert!(!client.step_idle(now).unwrap());
        assert_eq!(client.connection().poll_timeout(), Some(end));
    }
    client.connection_mut().handle_timeout(end);
    assert_eq!(client.step_idle(end), EXPIRED);
}

/// The server has not proved itself, so it gets no time for the rest.
#[test]
fn a_handshake_that_times_out_ends_at_once_although_bytes_are_pending() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let mut pair = lines(&client_key, &server_key, &settings());
    let client = &mut pair.client;
    // Half of the hello is written when the handshake times out.
    assert!(!client.step_idle(NOW).unwrap());
    client.connection_mut().sent(NOW, 10);
    let late = client.connection().poll_timeout().unwrap();
    assert_eq!(late.as_millis(), 5_000);
    client.connection_mut().handle_timeout(late);
    let timeout = Err(Error::Connection(ConnectionError::HandshakeTimeout));
    assert_eq!(client.step_idle(late), timeout);
    assert!(client.connection().unsent().is_empty());
    assert_eq!(client.connection().poll_timeout(), None);
    assert_eq!(client.step_idle(NOW), timeout);
}

/// A super-loop that was stopped meanwhile has not written, so the stream gets its full time.
#[test]
fn a_write_deadline_that_is_noticed_late_moves() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    for (millis, gives_up) in [(59_999, false), (60_000, true), (60_050, true), (60_051, false)] {
        let (mut client, mut server) = (client(&client_key), server(&server_key));
        settle(&mut client, None, &mut server);
        let mut ask = client.request(&b"abc"[..], [0; MESSAGE]).unwrap();
        while client.step(NOW, Some(&mut ask)).unwrap() {}
        assert!(!client.connection().unsent().is_empty());
        client.connection_mut().handle_timeout(Instant::from_millis(millis));
        assert_eq!(client.connection().unsent().is_empty(), gives_up, "{millis}");
    }
}

/// Only the greeting holds up a handler: see `first_pong.rs`.
#[test]
fn later_output_that_is_pending_holds_up_no_handler() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    settle(&mut client, None, &mut server);
    client.ping().unwrap();
    let mut ask = client.request(&b"abc"[..], [0; MESSAGE]).unwrap();
    for _ in 0..4 {
        while client.step(NOW, Some(&mut ask)).unwrap() {}
        carry(client.connection_mut(), server.connection_mut(), NOW);
        while server.step(NOW).unwrap() {}
    }
    assert!(!server.connection().unsent().is_empty(), "the PONG");
    assert_eq!(server.request().unwrap().0, b"abc");
}

#[test]
fn no_handler_begins_once_the_connection_has_ended() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    let mut ask = client.request(&b"late"[..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut ask), &mut server);
    assert!(server.request().is_some());
    let late = server.connection().poll_timeout().unwrap();
    server.connection_mut().handle_timeout(late);
    assert_eq!(server.request(), None);
    // Its CLOSE is pending.
    assert!(!server.step(late).unwrap());
    assert!(!server.connection().unsent().is_empty());
    assert_eq!(server.request(), None);
}

#[test]
fn only_progress_restarts_the_write_deadline() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    let mut ask = client.request(&b"much"[..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut ask), &mut server);
    server.answer(8);
    while server.step(NOW).unwrap() {}
    // The client pings, which keeps the connection alive, and takes a single byte.
    for seconds in [10, 40] {
        let now = Instant::from_millis(seconds * 1_000);
        client.ping().unwrap();
        while client.step(now, Some(&mut ask)).unwrap() {}
        carry(client.connection_mut(), server.connection_mut(), NOW);
        while server.step(now).unwrap() {}
        server.connection_mut().sent(now, usize::from(seconds == 10));
    }
    assert_eq!(server.connection().poll_timeout(), Some(Instant::from_millis(70_000)));
    server.connection_mut().handle_timeout(Instant::from_millis(69_999));
    assert!(!server.connection().unsent().is_empty());
    let late = Instant::from_millis(70_000);
    server.connection_mut().handle_timeout(late);
    assert!(server.connection().unsent().is_empty());
    assert_eq!(server.step(late), Err(Error::Stalled));
    assert_eq!(server.step(late), Err(Error::Stalled), "and it stays ended");
}

#[test]
fn the_outcome_of_a_cancelled_request_is_not_that_of_the_next() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let (mut client, mut server) = (client(&client_key), server(&server_key));
    let mut first = client.request(&b"first"[..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut first), &mut server);
    assert_eq!(server.request().unwrap().0, b"first");
    // The first is answered while the second is pending, which is then cancelled as well.
    let mut second = client.request(&b"second"[..], [0; MESSAGE]).unwrap();
    server.answer(8);
    settle(&mut client, Some(&mut second), &mut server);
    assert_eq!(second.answered(), Ok(None));
    assert_eq!(server.request().unwrap().0, b"second");
    settle(&mut client, None, &mut server);
    server.refuse(Refusal::Failed);
    settle(&mut client, None, &mut server);
    let mut third = client.request(&b"third"[..], [0; MESSAGE]).unwrap();
    settle(&mut client, Some(&mut third), &mut server);
    assert_eq!(server.request().unwrap().0, b"third");
    // The server receives the cancellation.
    client.close(NOW, CloseReason::Done);
    while client.step_idle(NOW).unwrap() {}
    let cancelled = client.connection().unsent().len();
    assert_eq!(cancelled, 18 + 7 + 8, "a record with a CANCEL and a CLOSE");
}

#[test]
fn an_outbox_that_is_too_small_is_an_error_with_the_numbers() {
    let key = client_key(7);
    let machine = ClientConnection::new(&key, &settings(), NOW, &mut CountingRng::new(1)).unwrap();
    let mut client = BufferedClient::new(BufferedConnection::new(machine, ([0; BUFFER], [0; 20])));
    let too_small = OutputTooSmall { needed: 74, given: 20 };
    assert_eq!(client.step_idle(NOW), Err(Error::Output(too_small)));
    let error = StartError::TooSmall {
        buffer: Buffer::Outbox,
        needed: 285,
        given: 20,
    };
    assert_eq!(error.to_string(), "the outbox needs 285 bytes and has 20");
}

/// A key as a device has it, with its nonces in an array.
fn classic() -> ClassicKey<FixedReplayCache<64>> {
    ClassicKey::new(key(7), FixedReplayCache::new(&mut CountingRng::new(9)).unwrap())
}

#[test]
fn the_classic_wire_under_the_drivers() {
    let (client_key, server_key) = (classic(), classic());
    let settings = Settings::new().with_max_message(400);
    let world = Rc::new(World::default());
    let (up, down, clock) = (
        Pipe::new(&world, 40),
        Pipe::new(&world, 40),
        VirtualClock(Rc::clone(&world)),
    );
    let mut rng = CountingRng::new(1);
    let small = BufferedClient::start(&client_key, &settings, NOW, &mut rng, ([0; 435], [0; 437]));
    assert!(matches!(small.err(), Some(StartError::TooSmall { needed: 436, .. })));
    let client = BufferedClient::start(&client_key, &settings, NOW, &mut rng, ([0; 436], [0; 437])).unwrap();
    let mut rng = CountingRng::new(2);
    let memory = ([0; 400], [0; 400]);
    let server = BufferedServer::start(&server_key, &settings, NOW, &mut rng, ([0; 437], [0; 436]), memory).unwrap();
    let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock.clone());
    let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), clock);
    let asks = async {
        for length in [0, 1, 27, 28, 399, 400] {
            let mut answer = [0; 400];
            assert_eq!(client.request(&vec![3; length], &mut answer).await, Ok(length));
        }
        let ping = client.ping().await.unwrap();
        assert_eq!(client.pong(ping).await, Err(Error::NoPongs));
        assert_eq!(client.request(b"alive", &mut [0; 8]).await, Ok(5));
        assert_eq!(world.now(), 0);
        // This wire cannot refuse.
        let failed = client.request(b"fail", &mut [0; 8]).await;
        assert!(matches!(failed, Err(Error::Connection(_))), "{failed:?}");
    };
    let serving = async {
        let served = server
            .serve(async |request: &[u8], answer: &mut [u8]| match request {
                b"fail" => Err(Refusal::Failed),
                _ => reverse(request, answer),
            })
            .await;
        down.closed.set(true);
        served
    };
    let ((), served) = run(&world, asks, serving);
    assert_eq!(served, Err(Error::Connection(ConnectionError::HandlerFailed)));
}

#[test]
fn a_count_of_one_is_singular_in_messages() {
    let too_large = Error::<core::convert::Infallible>::AnswerTooLarge { length: 1, room: 0 };
    assert_eq!(
        too_large.to_string(),
        "the answer has 1 byte, but its memory has only 0"
    );
    let (buffer, needed, given) = (Buffer::Inbox, 1, 0);
    let too_small = StartError::TooSmall { buffer, needed, given };
    assert_eq!(too_small.to_string(), "the inbox needs 1 byte and has 0");
}
