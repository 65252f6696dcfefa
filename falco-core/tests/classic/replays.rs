//! Frames that arrive again, on another connection or as another type, are replays. Nothing is sent
//! to them.

use crate::common::{
    ANSWER_HEAD, Ends, Handle, REQUEST_HEAD, Script, assert_ended, ends_with, handle, handle_with, ms, server,
};
use falco_core::testing::RecvBytes;
use falco_core::{
    ClientConnection, ConnectionError, Instant, Received, RustCrypto, ServerConnection, ServerEvent, Settings,
};

const NOW: Instant = ms(0);
const REPLAYED: ConnectionError = ConnectionError::Replayed;

/// The keys of both processes, and the bytes of one connection under them.
struct Recorded {
    ours: Handle,
    theirs: Handle,
    both: Ends,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// A connection whose replay caches have this many places, with one request of 128 bytes answered.
fn recorded(slots: usize) -> Recorded {
    let (ours, theirs) = (handle_with(slots), handle_with(slots));
    let mut both = ends_with(&ours, &theirs, &Settings::new(), 1);
    let request = both.request(&[7; 128]);
    let (id, _) = both.receive_request(&request);
    let answer = both.answer(id, &[8; 128]);
    both.receive_answer(&answer);
    Recorded {
        ours,
        theirs,
        both,
        request,
        answer,
    }
}

/// A sealed text as a hello, as a message and as an answer.
fn as_hello(sealed: &[u8]) -> Vec<u8> {
    [&[0], sealed].concat()
}

fn as_answer(sealed: &[u8]) -> Vec<u8> {
    [u64::try_from(sealed.len()).unwrap().to_be_bytes().as_slice(), sealed].concat()
}

fn as_message(sealed: &[u8]) -> Vec<u8> {
    [&[1], as_answer(sealed).as_slice()].concat()
}

fn assert_server_refuses(server: &mut ServerConnection<Handle>, mut bytes: Vec<u8>) {
    assert_eq!(server.recv_bytes(NOW, &mut bytes), Err(REPLAYED));
    assert_ended(server, NOW, REPLAYED);
}

fn assert_client_refuses(client: &mut ClientConnection<Handle>, mut bytes: Vec<u8>) {
    assert_eq!(client.recv_bytes(NOW, &mut bytes), Err(REPLAYED));
    assert_ended(client, NOW, REPLAYED);
}

#[test]
fn a_second_connection_does_not_open_with_anything_recorded_from_a_first() {
    let Recorded {
        theirs,
        both,
        request,
        answer,
        ..
    } = recorded(64);
    for opening in [
        both.hello,
        as_hello(&request[REQUEST_HEAD..]),
        as_hello(&answer[ANSWER_HEAD..]),
    ] {
        assert_eq!(opening.len(), 157);
        assert_server_refuses(&mut server(&theirs, &Settings::new(), 2), opening);
    }
}

#[test]
fn nothing_recorded_from_a_connection_is_a_message_on_it_or_on_another() {
    for elsewhere in [false, true] {
        for which in 0..3 {
            let Recorded {
                ours,
                theirs,
                mut both,
                request,
                answer,
            } = recorded(64);
            let message = match which {
                0 => request,
                1 => as_message(&both.hello[1..]),
                _ => as_message(&answer[ANSWER_HEAD..]),
            };
            if elsewhere {
                both = ends_with(&ours, &theirs, &Settings::new(), 2);
            }
            assert_server_refuses(&mut both.server, message);
        }
    }
}

#[test]
fn nothing_recorded_from_a_connection_is_an_answer_on_it_or_on_another() {
    for elsewhere in [false, true] {
        for which in 0..3 {
            let Recorded {
                ours,
                theirs,
                mut both,
                request,
                answer,
            } = recorded(64);
            let message = match which {
                0 => as_answer(&request[REQUEST_HEAD..]),
                1 => as_answer(&both.hello[1..]),
                _ => answer,
            };
            if elsewhere {
                both = ends_with(&ours, &theirs, &Settings::new(), 2);
            }
            both.request(b"?");
            assert_client_refuses(&mut both.client, message);
        }
    }
}

#[test]
fn a_side_knows_its_own_texts_even_with_a_cache_of_size_zero() {
    // The first and the last of its own nonces, on both sides.
    let Recorded { mut both, answer, .. } = recorded(0);
    assert_server_refuses(&mut both.server, as_message(&answer[ANSWER_HEAD..]));
    let Recorded { mut both, .. } = recorded(0);
    both.request(b"?");
    let hello = as_answer(&both.hello[1..]);
    assert_client_refuses(&mut both.client, hello);
    let Recorded { mut both, .. } = recorded(0);
    let last = both.request(b"?");
    assert_client_refuses(&mut both.client, as_answer(&last[REQUEST_HEAD..]));
}

#[test]
fn a_side_knows_its_own_texts_when_nonces_wrap_around() {
    let mut entropy = Script([[7; 128].as_slice(), &[255; 12], &[0; 4]].concat());
    let (ours, theirs) = (handle_with(0), handle_with(0));
    let Ends { server, now, .. } = ends_with::<RustCrypto>(&ours, &theirs, &Settings::new(), 1);
    let mut client = ClientConnection::new(ours, &Settings::new(), now, &mut entropy).unwrap();
    crate::common::pending_output(&mut client, now);
    assert!(client.recv_bytes(now, &mut [0xFF]).is_ok());
    let mut both = Ends {
        client,
        server,
        hello: Vec::new(),
        now,
    };
    let request = both.request(b"under the nonce 0");
    assert_eq!(request[REQUEST_HEAD..][..12], [0; 12]);
    assert_client_refuses(&mut both.client, as_answer(&request[REQUEST_HEAD..]));
}

#[test]
fn nonces_next_to_those_of_this_side_are_accepted() {
    // The nonces of both sides are adjacent: the client's are 5 and 6, the server's are 7 and 4.
    for nonce in [7, 4] {
        let near = |last| [[0; 11].as_slice(), &[last], &[0; 4]].concat();
        let settings = Settings::new();
        let mut entropy = Script([[7; 128].to_vec(), near(5)].concat());
        let mut client = ClientConnection::new(handle_with(0), &settings, NOW, &mut entropy).unwrap();
        let mut server = ServerConnection::new(handle_with(0), &settings, NOW, &mut Script(near(nonce))).unwrap();
        let mut hello = crate::common::pending_output(&mut client, NOW);
        assert!(server.recv_bytes(NOW, &mut hello).is_ok());
        assert!(
            client
                .recv_bytes(NOW, &mut crate::common::pending_output(&mut server, NOW))
                .is_ok()
        );
        let mut both: Ends = Ends {
            client,
            server,
            hello,
            now: NOW,
        };
        let request = both.request(b"?");
        let (id, _) = both.receive_request(&request);
        let answer = both.answer(id, b"!");
        assert_eq!(answer[ANSWER_HEAD + 11], nonce);
        assert_eq!(both.receive_answer(&answer).1, b"!");
    }
}

#[test]
fn a_client_and_a_server_that_share_a_replay_cache_cannot_connect_to_each_other() {
    let one = handle();
    let mut client = crate::common::client(&one, &Settings::new(), 1);
    let hello = crate::common::pending_output(&mut client, NOW);
    assert_server_refuses(&mut server(&one, &Settings::new(), 1), hello);
}

#[test]
fn a_text_that_is_not_authentic_takes_no_place_in_the_cache() {
    let Recorded { theirs, both, .. } = recorded(4);
    for forged in 0..50 {
        let mut hello = as_hello(&[forged; 156]);
        let end = server(&theirs, &Settings::new(), 2).recv_bytes(NOW, &mut hello);
        assert_eq!(end, Err(ConnectionError::Unauthenticated));
    }
    assert_server_refuses(&mut server(&theirs, &Settings::new(), 3), both.hello);
}

#[test]
fn a_hello_is_forgotten_after_as_many_nonces_as_the_cache_has_places() {
    // A request and its answer take one place each.
    for (slots, requests, forgotten) in [
        (1, 0, false),
        (3, 1, false),
        (2, 1, true),
        (9, 4, false),
        (8, 4, true),
        (0, 0, true),
    ] {
        let (ours, theirs): (Handle, Handle) = (handle(), handle_with(slots));
        let mut both = ends_with(&ours, &theirs, &Settings::new(), 1);
        for _ in 0..requests {
            let request = both.request(b"?");
            let (id, _) = both.receive_request(&request);
            both.answer(id, b"!");
        }
        let mut second = server(&theirs, &Settings::new(), 2);
        let established = (157, Received::Event(ServerEvent::Established));
        let expected = if forgotten { Ok(established) } else { Err(REPLAYED) };
        assert_eq!(
            second.recv_bytes(NOW, &mut both.hello.clone()),
            expected,
            "{slots} slots, {requests} requests"
        );
    }
}
