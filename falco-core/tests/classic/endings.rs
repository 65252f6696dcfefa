//! How connections end other than by time: a close of either side, refusals, unmatched answers, the
//! end of the stream.

use crate::common::{Ends, asked, assert_ended, client, ends, ms, pending_output, server};
use falco_core::testing::{ClientLog, Pair, RecvBytes, ServerLog, classic_key};
use falco_core::{
    ClientEvent, CloseReason, ConnectionError, Error, Instant, Received, Refusal, ReplyError, SealError, ServerWait,
    Settings, Status,
};

const NOW: Instant = ms(0);
const DONE: CloseReason = CloseReason::Done;
const CLOSED: ConnectionError = ConnectionError::Closed;

#[test]
fn a_side_with_nothing_in_flight_closes_at_once() {
    for reason in [DONE, CloseReason::ShuttingDown, CloseReason::KeyRetired] {
        let Ends {
            mut client, mut server, ..
        } = ends();
        client.close(NOW, reason);
        server.close(NOW, reason);
        assert_ended(&mut client, NOW, CLOSED);
        assert_ended(&mut server, NOW, CLOSED);
    }
    let mut fresh = (
        client(&crate::common::handle(), &Settings::new(), 1),
        server(&crate::common::handle(), &Settings::new(), 1),
    );
    fresh.0.close(NOW, DONE);
    fresh.1.close(NOW, DONE);
    assert_ended(&mut fresh.0, NOW, CLOSED);
    assert_ended(&mut fresh.1, NOW, CLOSED);
}

#[test]
fn a_closing_client_receives_its_answers_and_accepts_no_new_requests() {
    let (mut both, ids) = asked(2);
    let (mut made, mut out) = (both.client.request(1).unwrap(), [0; 99]);
    both.client.close(NOW, DONE);
    assert_eq!((both.client.status(), both.client.end()), (Status::Draining, None));
    let closing = Error::Closing;
    assert_eq!(both.client.request(1).unwrap_err(), closing);
    assert_eq!(both.client.ping().unwrap_err(), closing);
    assert_eq!(
        both.client.seal(NOW, [(&mut made, b"?".as_slice())], &mut out),
        Err(SealError::Closing)
    );
    for (id, status) in [(ids[0], Status::Draining), (ids[1], Status::Ended)] {
        let answer = both.answer(id, b"!");
        assert_eq!(both.receive_answer(&answer).0.number(), id.number());
        assert_eq!(both.client.status(), status);
    }
    assert_ended(&mut both.client, NOW, CLOSED);
}

#[test]
fn a_closing_server_sends_its_answers_and_reads_no_new_requests() {
    let (mut both, ids) = asked(2);
    both.server.close(NOW, DONE);
    assert_eq!((both.server.status(), both.server.end()), (Status::Draining, None));
    let mut more = both.request(b"more");
    for bytes in [&mut [][..], &mut [2], &mut more] {
        assert_eq!(
            both.server.recv_bytes(NOW, bytes),
            Ok((0, Received::Wait(ServerWait::AnswerFirst)))
        );
    }
    for (id, status) in [(ids[0], Status::Draining), (ids[1], Status::Ended)] {
        let answer = both.answer(id, b"!");
        both.receive_answer(&answer);
        assert_eq!(both.server.status(), status);
    }
    assert_ended(&mut both.server, NOW, CLOSED);
}

#[test]
fn a_refusal_ends_the_connection_after_the_answers_before_it() {
    // Which of three requests are refused, and how many answers are sent.
    for (refused, sent) in [
        (vec![0], 0),
        (vec![1], 1),
        (vec![2], 2),
        (vec![2, 1], 1),
        (vec![1, 2, 1], 1),
    ] {
        let (mut both, ids) = asked(3);
        for at in refused {
            assert_eq!(both.server.refuse(ids[at], Refusal::Failed), Ok(()));
        }
        for id in &ids[..sent] {
            assert_eq!(both.server.status(), Status::Draining);
            assert_eq!(
                both.server.recv_bytes(NOW, &mut [2]),
                Ok((0, Received::Wait(ServerWait::AnswerFirst))),
                "nothing new is read"
            );
            let answer = both.answer(*id, b"!");
            both.receive_answer(&answer);
        }
        assert_ended(&mut both.server, NOW, ConnectionError::HandlerFailed);
        let ended = ReplyError::Connection(ConnectionError::HandlerFailed);
        assert_eq!(both.server.answer(ids[2], 1).unwrap_err(), ended);
        assert_eq!(both.server.refuse(ids[2], Refusal::Failed), Err(ended));
    }
    // Closing does not change it.
    let (mut both, ids) = asked(1);
    both.server.close(NOW, DONE);
    assert_eq!(both.server.refuse(ids[0], Refusal::Failed), Ok(()));
    assert_ended(&mut both.server, NOW, ConnectionError::HandlerFailed);
}

#[test]
fn a_refused_request_ends_both_sides_each_with_its_own_error() {
    let (ours, theirs) = (classic_key(1), classic_key(1));
    let mut pair = Pair::new(&ours, &theirs, &Settings::new(), 1).unwrap();
    pair.answer_with(|body| (body != b"bad").then(|| body.to_vec()));
    for body in ["good", "bad", "never"] {
        pair.request(body.as_bytes()).unwrap();
    }
    pair.settle().unwrap();
    assert_eq!(
        pair.server_log.last(),
        Some(&ServerLog::Ended(ConnectionError::HandlerFailed))
    );
    let log = [
        ClientLog::Established,
        ClientLog::Answer(1, b"good".to_vec()),
        ClientLog::Ended(ConnectionError::ClosedByPeer),
    ];
    assert_eq!(pair.client_log, log);
}

#[test]
fn a_length_of_zero_is_skipped_or_refuses_a_request_in_flight_and_ends_the_connection() {
    let mut both = ends();
    for _ in 0..3 {
        assert_eq!(both.client.recv_bytes(NOW, &mut [0; 20]), Ok((8, Received::Skip)));
    }
    assert_eq!(
        both.client.recv_bytes(NOW, &mut [0; 7]),
        Ok((0, Received::NeedMore { total: 8 }))
    );
    let first = both.request(b"1");
    both.request(b"2");
    let id = both.receive_request(&first).0.number();
    match both.client.recv_bytes(NOW, &mut [0; 20]) {
        Ok((8, Received::Event(ClientEvent::Refused { id: refused, refusal }))) => {
            assert_eq!((refused.number(), refusal), (id, Refusal::Failed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(both.client.in_flight(), 1);
    assert_ended(&mut both.client, NOW, ConnectionError::AnswersOutOfStep);
}

#[test]
fn an_answer_without_a_request_ends_the_connection_at_its_head() {
    let (mut both, ids) = asked(1);
    let answer = both.answer(ids[0], b"!");
    both.receive_answer(&answer);
    let (mut other, ids) = asked(1);
    let unasked = other.answer(ids[0], b"!");
    for length in 8..=unasked.len() {
        let mut both = ends();
        let mut unasked = unasked[..length].to_vec();
        let end = both.client.recv_bytes(NOW, &mut unasked);
        assert_eq!(end, Err(ConnectionError::UnexpectedAnswer));
    }
    assert_eq!(
        both.client.recv_bytes(NOW, &mut unasked.clone()),
        Err(ConnectionError::UnexpectedAnswer)
    );
    assert_ended(&mut both.client, NOW, ConnectionError::UnexpectedAnswer);
}

#[test]
fn the_end_of_the_stream_is_an_error_that_says_whether_a_frame_was_cut() {
    let fresh = || client(&crate::common::handle(), &Settings::new(), 1);
    let waiting = |mut client: crate::common::ClientEnd| {
        pending_output(&mut client, NOW);
        client
    };
    for unread in [[].as_slice(), &[0], &[0; 30]] {
        let between = if unread.is_empty() {
            ConnectionError::ClosedByPeer
        } else {
            ConnectionError::Truncated
        };
        for mut client in [fresh(), waiting(fresh())] {
            assert_eq!(client.end_of_stream(NOW, unread), Err(ConnectionError::Refused));
            assert_ended(&mut client, NOW, ConnectionError::Refused);
        }
        let mut server = server(&crate::common::handle(), &Settings::new(), 1);
        assert_eq!(server.end_of_stream(NOW, unread), Err(between));
        assert_ended(&mut server, NOW, between);
        for requests in [0, 2] {
            let (mut both, _) = asked(requests);
            assert_eq!(both.client.end_of_stream(NOW, unread), Err(between));
            assert_ended(&mut both.client, NOW, between);
            assert_eq!(both.server.end_of_stream(NOW, unread), Err(between));
            assert_ended(&mut both.server, NOW, between);
        }
        // A first end stays the end. While closing, the end of the stream comes first.
        let (mut both, _) = asked(1);
        both.client.close(NOW, DONE);
        assert_eq!(both.client.end_of_stream(NOW, unread), Err(between));
        let mut closed = ends().server;
        closed.close(NOW, DONE);
        assert_eq!(closed.end_of_stream(NOW, unread), Err(CLOSED));
    }
}

#[test]
fn what_was_ready_before_the_end_is_not_sealed_after_it() {
    let (mut both, ids) = asked(1);
    let (mut answer, mut out) = (both.server.answer(ids[0], 1).unwrap(), [0; 99]);
    let (mut request, body) = (both.client.request(1).unwrap(), b"!".as_slice());
    both.client.ping().unwrap();
    assert!(both.server.end_of_stream(NOW, &[]).is_err() && both.client.end_of_stream(NOW, &[]).is_err());
    let ended = Err(SealError::Connection(ConnectionError::ClosedByPeer));
    assert_eq!(both.server.seal(NOW, [(&mut answer, body)], &mut out), ended);
    assert_eq!(both.client.seal(NOW, [(&mut request, body)], &mut out), ended);
    assert!(!answer.is_done() && !request.is_done());
    assert_eq!(out, [0; 99]);
}
