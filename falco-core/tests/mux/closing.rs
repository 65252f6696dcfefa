//! A closing connection accepts no new requests, whichever side closes it. Requests that have not
//! begun go to another connection.

use core::time::Duration;

use falco_core::mux::{Backoff, Call, ClientMux, ClientStep, Servers};
use falco_core::testing::{CountingRng, RecvBytes, noise_client, raw_frame};
use falco_core::{ClientConnection, CloseReason, ConnectionError, Fate, LastStep, Settings, Status};

use crate::scene::{NOW, Scene};

const MESSAGE: u8 = 1;
const BEGIN: u8 = 2;
const PART: u8 = 3;
const CLOSE: u8 = 8;

#[test]
fn a_client_without_request_numbers_closes_at_once() {
    let keys = noise_client(7).with_requests_begun(u32::MAX - 1);
    let mut scene = Scene::new(&keys, 1 << 20);
    for ticket in 1..=3 {
        scene.request(ticket, 10);
    }
    let sent = scene.sent();
    assert!(sent.contains(&(1, u32::MAX)), "{sent:?}");
    assert_eq!(sent.last(), Some(&(CLOSE, u32::MAX)), "nothing else wakes the writer");
    assert_eq!(scene.mux.connection().status(), Status::Draining);
    assert_eq!(moved(&mut scene), Some(vec![2, 3]));
    assert_eq!(moved(&mut scene), None);
    assert!(
        scene.hear(&raw_frame(1, u32::MAX, b"")).len() == 1,
        "the first completes here"
    );
    assert_eq!(scene.mux.outstanding(), 0);
}

/// The requests that move on.
fn moved(scene: &mut Scene<'_>) -> Option<Vec<u64>> {
    let unbegun = scene.mux.poll_closing()?;
    Some(unbegun.into_iter().map(|call| call.waiter).collect())
}

#[test]
fn what_has_not_begun_moves_on_whichever_side_closes() {
    let keys = noise_client(7);
    for by_server in [false, true] {
        let mut scene = Scene::new(&keys, 500);
        for ticket in 1..=3 {
            scene.request(ticket, 400);
        }
        assert_eq!(scene.begun(), [1]);
        assert_eq!(moved(&mut scene), None, "it is open");
        if by_server {
            let mut close = scene.server.seal(&raw_frame(CLOSE, 1, &[2]));
            let step = scene.mux.recv_bytes(NOW, &mut close);
            assert!(matches!(step, Ok((_, ClientStep::Closing { .. }))), "{step:?}");
        } else {
            scene.mux.close(NOW, CloseReason::Done);
        }
        assert_eq!(moved(&mut scene), Some(vec![2, 3]));
        // The other side closes too.
        scene.mux.close(NOW, CloseReason::Done);
        assert_eq!(moved(&mut scene), None);
        assert_eq!(scene.mux.outstanding(), 1);
    }
}

#[test]
fn a_ping_that_a_closing_connection_gives_back_is_not_sent() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 500);
    scene.request(1, 400);
    assert_eq!(scene.begun(), [1]);
    scene.mux.close(NOW, CloseReason::Done);
    let back = scene.mux.ping(Call::new(0, (), 5)).map_err(|ping| ping.waiter);
    assert_eq!(back, Err(5));
    let sent = scene.sent();
    assert_eq!(sent, [(CLOSE, 1)]);
}

#[test]
fn a_request_that_has_begun_is_sent_as_a_whole_beside_one_without_a_number() {
    let keys = noise_client(7).with_requests_begun(u32::MAX - 1);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 900);
    let mut out = vec![0; 400];
    let sealed = scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap();
    let mut bytes = out[..sealed].to_vec();
    while !bytes.is_empty() {
        scene.server.open(&mut bytes).unwrap();
    }
    // No request id is left for the second request. In the queue it is in front of the rest of the
    // first.
    scene.request(2, 10);
    let sent = scene.sent();
    assert!(!sent.iter().any(|(kind, _)| *kind == BEGIN), "{sent:?}");
    assert!(
        sent.contains(&(PART, u32::MAX)) && sent.contains(&(CLOSE, u32::MAX)),
        "{sent:?}"
    );
    assert!(scene.mux.has_unbegun());
    assert_eq!(moved(&mut scene), Some(vec![2]));
    assert!(!scene.mux.has_unsent());
}

/// A client of which a second request waits for room on the server, and that its user closes.
#[test]
fn a_client_that_its_user_closes_sends_what_it_has_accepted_and_then_the_close() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 500);
    scene.request(1, 400);
    scene.request(2, 400);
    scene.mux.close_when_begun(CloseReason::Done);
    assert_eq!(scene.begun(), [1]);
    assert_eq!(
        scene.mux.poll_timeout(),
        Some(NOW + Duration::from_secs(20)),
        "a keep-alive"
    );
    assert!(scene.mux.poll_closing().is_none());
    assert_eq!(scene.hear(&raw_frame(1, 1, b"")).len(), 1);
    let sent = scene.sent();
    assert_eq!(sent, [(MESSAGE, 2), (CLOSE, 2)]);
    assert_eq!(moved(&mut scene), Some(Vec::new()));
    assert_eq!(scene.mux.closes_at(), None, "a caller waits");
    assert_eq!(scene.hear(&raw_frame(1, 2, b"")).len(), 1);
    // The server ends the connection too.
    assert_eq!(scene.mux.closes_at(), Some(NOW + Settings::LINGER));
    let mut close = scene.server.seal(&raw_frame(CLOSE, 2, &[0]));
    let _ = scene.mux.recv_bytes(NOW, &mut close);
    assert_eq!(scene.mux.end(), Some(ConnectionError::Closed));
    assert_eq!(scene.mux.closes_at(), None);
}

#[test]
fn a_server_that_does_not_end_a_closed_connection_has_a_second_after_the_last_answer() {
    let keys = noise_client(7);
    for (cancelled, reads) in [(false, true), (true, true), (false, false)] {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.request(1, 400);
        assert_eq!(scene.begun(), [1]);
        assert_eq!(scene.mux.abandon_if_due(NOW + Settings::LINGER), None, "it is open");
        scene.mux.close(NOW, CloseReason::Done);
        assert_eq!(scene.sent(), [(CLOSE, 1)]);
        let last = NOW + Duration::from_secs(5);
        if cancelled {
            // No caller waits for its answer.
            let (_, fate) = scene.mux.cancel(1).unwrap();
            assert_eq!(fate, Fate::MaybeProcessed);
        } else {
            let mut answer = scene.server.seal(&raw_frame(MESSAGE, 1, b""));
            let step = scene.mux.recv_bytes(last, &mut answer);
            assert!(matches!(step, Ok((_, ClientStep::Answer { .. }))), "{step:?}");
        }
        assert!(scene.mux.recv_bytes(last, &mut []).is_ok());
        let due = last + Settings::LINGER;
        assert_eq!(
            (scene.mux.poll_timeout(), scene.mux.closes_at()),
            (Some(due), Some(due))
        );
        let before = last + Duration::from_millis(999);
        assert_eq!(scene.mux.handle_timeout(before), Ok(()));
        assert_eq!(scene.mux.abandon_if_due(before), None);
        let end = Err(ConnectionError::Closed);
        if reads {
            assert_eq!(scene.mux.handle_timeout(due), end);
        }
        assert_eq!(scene.mux.abandon_if_due(due), Some(ConnectionError::Closed));
        assert_eq!(scene.mux.recv_bytes(due, &mut []).map(drop), end);
        assert_eq!((scene.mux.poll_timeout(), scene.mux.is_open()), (None, false));
        // The second that it had has passed.
        let ending = scene.mux.ending(ConnectionError::Closed, due);
        assert_eq!(ending.step(due), LastStep::Close);
        assert!(scene.mux.finish().is_empty());
    }
}

#[test]
fn a_server_that_is_silent_while_callers_wait_is_noticed_as_before() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 400);
    assert_eq!(scene.begun(), [1]);
    scene.mux.close(NOW, CloseReason::Done);
    assert_eq!(scene.sent(), [(CLOSE, 1)]);
    let third = Duration::from_secs(20);
    assert_eq!(scene.mux.poll_timeout(), Some(NOW + third));
    scene.mux.handle_timeout(NOW + third).unwrap();
    let mut out = [0; 100];
    assert!(scene.mux.seal(NOW + third, &mut out, |_, _| {}).unwrap() > 0);
    let end = scene.mux.handle_timeout(NOW + third + third);
    assert_eq!(end, Err(ConnectionError::PeerDead));
}

#[test]
fn a_connection_that_is_given_up_has_ended_and_returns_its_requests() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 500);
    scene.request(1, 400);
    scene.request(2, 400);
    assert_eq!(scene.begun(), [1]);
    assert_eq!(scene.mux.abandon(), ConnectionError::Closed);
    assert_eq!(scene.mux.end(), Some(ConnectionError::Closed));
    assert!(!scene.mux.is_open() && scene.mux.poll_timeout().is_none());
    assert!(scene.mux.recv_bytes(NOW, &mut []).is_err());
    assert_eq!(scene.mux.end_of_stream(NOW, &[]), ConnectionError::Closed);
    assert!(scene.sent().is_empty());
    assert!(scene.mux.poll_closing().is_none());
    let ending = scene.mux.ending(ConnectionError::Closed, NOW);
    assert_eq!(ending.step(NOW), LastStep::Close);
    let left: Vec<_> = scene
        .mux
        .finish()
        .into_iter()
        .map(|left| (left.fate, left.retry))
        .collect();
    assert_eq!(left, [(Fate::MaybeProcessed, false), (Fate::NotProcessed, true)]);
    // An earlier end is kept.
    let mut scene = Scene::new(&keys, 500);
    scene.mux.end_of_stream(NOW, &[]);
    assert_eq!(scene.mux.abandon(), ConnectionError::Truncated);
}

#[test]
fn before_the_hello_is_sent_more_bytes_are_needed_than_there_are() {
    let keys = noise_client(7);
    let machine = ClientConnection::new(&keys, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
    let mut mux = ClientMux::<_, Vec<u8>, ()>::new(machine, &Settings::new());
    for have in [0, 1, 100] {
        let mut unread = vec![1; have];
        let step = mux.recv_bytes(NOW, &mut unread);
        assert!(
            matches!(step, Ok((_, ClientStep::NeedMore { total })) if total == have + 1),
            "{step:?}"
        );
    }
}

#[test]
fn after_a_failed_write_an_end_of_the_stream_is_the_servers_if_the_write_found_it() {
    let keys = noise_client(7);
    for found_closed in [false, true] {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.request(1, 400);
        assert_eq!(scene.begun(), [1]);
        let end = scene.mux.end_of_broken_stream(NOW, &[], found_closed);
        assert_eq!(end, found_closed.then_some(ConnectionError::Truncated));
        // The server has answered nothing, and if it has ended the stream it has processed nothing.
        let fate = if found_closed {
            Fate::NotProcessed
        } else {
            Fate::MaybeProcessed
        };
        assert_eq!(scene.mux.finish().pop().unwrap().fate, fate);
    }
}

/// Its handler may run on after the request was cancelled.
#[test]
fn a_client_that_closes_after_its_server_leaves_it_after_a_second() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 500);
    scene.request(1, 10);
    assert_eq!(scene.begun(), [1]);
    let mut close = scene.server.seal(&raw_frame(CLOSE, 1, &[2]));
    let step = scene.mux.recv_bytes(NOW, &mut close);
    assert!(matches!(step, Ok((_, ClientStep::Closing { .. }))), "{step:?}");
    assert!(scene.mux.cancel(1).is_some());
    scene.mux.close_when_begun(CloseReason::Done);
    scene.sent();
    assert_eq!(scene.mux.closes_at(), Some(NOW + Settings::LINGER));
}

/// The server closes the connection while a request is in flight, and then the stream is cut.
#[test]
fn a_stream_that_is_cut_after_the_close_says_nothing_about_the_server() {
    let keys = noise_client(7);
    for (closed, reported) in [(false, false), (true, false), (true, true)] {
        let mut scene = Scene::new(&keys, 500);
        scene.request(1, 400);
        assert_eq!(scene.begun(), [1]);
        if closed {
            let mut close = scene.server.seal(&raw_frame(CLOSE, 1, &[2]));
            let step = scene.mux.recv_bytes(NOW, &mut close);
            assert!(matches!(step, Ok((_, ClientStep::Closing { .. }))), "{step:?}");
        }
        if reported {
            assert!(scene.mux.poll_closing().is_some());
        }
        assert_eq!(scene.mux.history().drained, closed);
        let end = scene.mux.end_of_stream(NOW, &[]);
        assert!(!end.is_orderly(), "{end}");
        let history = scene.mux.history();
        assert_eq!((history.drained, history.end), (closed, Some(end)));
        let mut servers = Servers::new(1, Backoff::default());
        servers.lost(0, history, NOW, |_| 0);
        assert_eq!(servers.is_in_backoff(0, NOW), !closed);
    }
    // A client without request ids closes as well.
    let keys = keys.with_requests_begun(u32::MAX - 1);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 10);
    scene.request(2, 10);
    assert_eq!(scene.sent().last(), Some(&(CLOSE, u32::MAX)));
    assert!(scene.mux.poll_closing().is_some());
    assert!(!scene.mux.end_of_stream(NOW, &[]).is_orderly());
    assert!(scene.mux.history().drained);
}
