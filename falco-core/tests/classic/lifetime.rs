//! The lifetime, to the millisecond, on a virtual clock: what restarts it and what does not.

use crate::common::{Ends, assert_ended, ends, handle, ms, pending_output, server, span};
use falco_core::testing::{ClientLog, Pair, RecvBytes, ServerLog, classic_key};
use falco_core::{CloseReason, ConnectionError, Error, Received, SealError, ServerEvent, Settings, Status};

const LIFETIME: u64 = 60_000;
const EXPIRED: ConnectionError = ConnectionError::Expired;

#[test]
fn a_connection_lives_at_59_999_ms_and_has_ended_at_60_000() {
    let mut both = ends();
    assert_eq!(both.client.poll_timeout(), Some(ms(LIFETIME)));
    assert_eq!(both.server.poll_timeout(), Some(ms(LIFETIME)));
    for now in [0, 1, 30_000, LIFETIME - 1] {
        assert_eq!(both.client.handle_timeout(ms(now)), Ok(()));
        assert_eq!(both.server.handle_timeout(ms(now)), Ok(()));
        assert_eq!(
            both.client.recv_bytes(ms(now), &mut []),
            Ok((0, Received::NeedMore { total: 8 }))
        );
        assert_eq!(
            both.server.recv_bytes(ms(now), &mut []),
            Ok((0, Received::NeedMore { total: 1 }))
        );
    }
    assert_eq!(
        (both.client.status(), both.server.status()),
        (Status::Established, Status::Established)
    );
    assert_eq!(both.client.handle_timeout(ms(LIFETIME)), Err(EXPIRED));
    assert_eq!(both.server.handle_timeout(ms(LIFETIME)), Err(EXPIRED));
    assert_ended(&mut both.client, ms(LIFETIME), EXPIRED);
    assert_ended(&mut both.server, ms(LIFETIME), EXPIRED);
}

#[test]
fn every_call_at_or_after_the_deadline_finds_it_expired_and_sends_nothing() {
    for now in [ms(LIFETIME), ms(LIFETIME + 1), ms(u64::MAX)] {
        // Nothing is received or sealed after the deadline.
        let mut both = ends();
        let mut late = both.request(b"late");
        assert_eq!(both.server.recv_bytes(now, &mut late), Err(EXPIRED));
        assert_ended(&mut both.server, now, EXPIRED);

        let mut both = ends();
        let mut message = both.client.request(4).unwrap();
        let sealed = both
            .client
            .seal(now, [(&mut message, b"late".as_slice())], &mut [0; 100]);
        assert_eq!(sealed, Err(SealError::Connection(EXPIRED)));
        assert!(!message.is_done());
        assert_ended(&mut both.client, now, EXPIRED);
        assert_eq!(both.client.request(0).unwrap_err(), Error::Connection(EXPIRED));
        assert_eq!(both.client.ping().unwrap_err(), Error::Connection(EXPIRED));

        let mut both = ends();
        both.client.ping().unwrap();
        assert_eq!(both.client.poll_transmit(now, &mut [0; 200]), Ok(0));
        assert_ended(&mut both.client, now, EXPIRED);

        let mut owing = server(&handle(), &Settings::new(), 1);
        assert!(owing.recv_bytes(ms(0), &mut ends().hello).is_ok());
        assert_eq!(owing.poll_transmit(now, &mut [0; 200]), Ok(0), "not even its accept");
        assert_ended(&mut owing, now, EXPIRED);

        let mut both = ends();
        assert_eq!(both.client.end_of_stream(now, &[]), Err(EXPIRED));
        both.server.close(now, CloseReason::Done);
        assert_eq!(both.server.end(), Some(EXPIRED));
    }
}

#[test]
fn a_ping_or_a_message_restarts_the_lifetime() {
    for at in [1, 40_000, LIFETIME - 1] {
        let again = Some(ms(at + LIFETIME));
        let mut both = ends();
        both.now = ms(at);
        both.client.ping().unwrap();
        assert_eq!(
            both.client.poll_timeout(),
            Some(ms(LIFETIME)),
            "a ping that has not gone counts for nothing"
        );
        let mut ping = pending_output(&mut both.client, both.now);
        assert_eq!(both.client.poll_timeout(), again);
        let event = (1, Received::Event(ServerEvent::Ping));
        assert_eq!(both.server.recv_bytes(both.now, &mut ping), Ok(event));
        assert_eq!(both.server.poll_timeout(), again);

        let mut both = ends();
        both.now = ms(at);
        let mut message = both.client.request(2).unwrap();
        assert_eq!(
            both.client.poll_timeout(),
            Some(ms(LIFETIME)),
            "nor does a request that has not gone"
        );
        let mut out = [0; 39];
        both.client
            .seal(both.now, [(&mut message, b"hi".as_slice())], &mut out)
            .unwrap();
        assert_eq!(both.client.poll_timeout(), again);
        let (id, _) = both.receive_request(&out);
        let answer = both.answer(id, b"ho");
        assert_eq!(both.server.poll_timeout(), again);
        both.now = ms(at + 7);
        both.receive_answer(&answer);
        assert_eq!(
            both.client.poll_timeout(),
            Some(ms(at + 7 + LIFETIME)),
            "an answer counts when it is opened"
        );
    }
}

#[test]
fn a_frame_in_part_does_not_restart_the_lifetime() {
    let (request, answer) = (ends().request(b"hello"), b"hello".len() + 36);
    for length in 0..request.len() {
        let mut both = ends();
        let mut part = request[..length].to_vec();
        let received = both.server.recv_bytes(ms(LIFETIME - 1), &mut part);
        assert!(matches!(received, Ok((_, Received::NeedMore { .. }))), "{received:?}");
        assert_eq!(
            both.server.poll_timeout(),
            Some(ms(LIFETIME)),
            "{length} bytes of a message"
        );
        assert_eq!(both.server.recv_bytes(ms(LIFETIME), &mut request.clone()), Err(EXPIRED));
    }
    for length in 0..answer {
        let mut both = ends();
        let request = both.request(b"hello");
        let (id, _) = both.receive_request(&request);
        let answer = both.answer(id, b"hello");
        let mut answer = answer[..length].to_vec();
        let received = both.client.recv_bytes(ms(LIFETIME - 1), &mut answer);
        assert!(matches!(received, Ok((_, Received::NeedMore { .. }))), "{received:?}");
        assert_eq!(
            both.client.poll_timeout(),
            Some(ms(LIFETIME)),
            "{length} bytes of an answer"
        );
        assert_eq!(both.client.recv_bytes(ms(LIFETIME), &mut answer.clone()), Err(EXPIRED));
    }
}

#[test]
fn bytes_that_anybody_could_have_sent_do_not_keep_a_client_alive() {
    let mut both = ends();
    assert_eq!(
        both.client.recv_bytes(ms(LIFETIME - 1), &mut [0; 8]),
        Ok((8, Received::Skip))
    );
    assert_eq!(both.client.poll_timeout(), Some(ms(LIFETIME)));
}

#[test]
fn forty_pings_in_600_s_keep_a_connection_and_the_lifetime_starts_at_the_last() {
    for (every, pings) in [(15_000, 40_u64), (LIFETIME - 1, 40)] {
        let (ours, theirs) = (classic_key(1), classic_key(1));
        let mut pair = Pair::new(&ours, &theirs, &Settings::new(), 1).unwrap();
        for _ in 0..pings {
            pair.advance(span(every)).unwrap();
            pair.ping().unwrap();
        }
        pair.advance(span(LIFETIME - 1)).unwrap();
        assert_eq!(pair.now(), ms(every * pings + LIFETIME - 1));
        assert_eq!(pair.client_log, [ClientLog::Established]);
        let heard = pair
            .server_log
            .iter()
            .filter(|event| **event == ServerLog::Ping)
            .count();
        assert_eq!(u64::try_from(heard), Ok(pings));
        pair.advance(span(1)).unwrap();
        assert_eq!(pair.client_log.last(), Some(&ClientLog::Ended(EXPIRED)));
        assert_eq!(pair.server_log.last(), Some(&ServerLog::Ended(EXPIRED)));
    }
}

#[test]
fn a_message_every_59_999_ms_keeps_a_connection_and_a_gap_of_60_000_ends_it() {
    let (ours, theirs) = (classic_key(1), classic_key(1));
    let mut pair = Pair::new(&ours, &theirs, &Settings::new(), 1).unwrap();
    for number in 1..=40 {
        pair.advance(span(LIFETIME - 1)).unwrap();
        pair.request(b"still here").unwrap();
        pair.settle().unwrap();
        assert_eq!(
            pair.client_log.last(),
            Some(&ClientLog::Answer(number, b"still here".to_vec()))
        );
    }
    pair.advance(span(LIFETIME)).unwrap();
    assert!(pair.request(b"too late").is_err());
    assert_eq!(pair.client_log.last(), Some(&ClientLog::Ended(EXPIRED)));
    assert_eq!(pair.server_log.len(), 1 + 40 + 1);
}

#[test]
fn a_handler_may_take_longer_than_a_lifetime_and_then_a_new_one_runs() {
    let mut both = ends();
    let mut stream = both.request(b"one");
    stream.extend(both.request(b"two"));
    let (first, second) = stream.split_at(40);
    let (one, two) = (both.receive_request(first).0, both.receive_request(second).0);
    for now in [1, LIFETIME, 10 * LIFETIME] {
        assert_eq!(both.server.handle_timeout(ms(now)), Ok(()));
        let event = (1, Received::Event(ServerEvent::Ping));
        assert_eq!(both.server.recv_bytes(ms(now), &mut [2]), Ok(event));
        assert_eq!(
            both.server.poll_timeout(),
            None,
            "it stands still while a handler runs, pings or not"
        );
    }
    both.now = ms(10 * LIFETIME);
    assert_eq!(both.answer(one, b"1").len(), 37);
    assert_eq!(both.server.poll_timeout(), None, "another handler runs");
    both.now = ms(20 * LIFETIME);
    assert_eq!(both.answer(two, b"22").len(), 38);
    assert_eq!(both.server.poll_timeout(), Some(ms(21 * LIFETIME)));
    assert_eq!(both.server.handle_timeout(ms(21 * LIFETIME - 1)), Ok(()));
    assert_eq!(both.server.handle_timeout(ms(21 * LIFETIME)), Err(EXPIRED));
}

#[test]
fn a_client_waits_for_an_answer_a_lifetime_from_what_it_sent_last() {
    let mut both = ends();
    both.now = ms(10_000);
    both.request(b"slow");
    both.client.ping().unwrap();
    pending_output(&mut both.client, ms(20_000));
    assert_eq!(both.client.poll_timeout(), Some(ms(20_000 + LIFETIME)));
    // Closing does not move the deadline.
    both.client.close(ms(30_000), CloseReason::Done);
    assert_eq!(both.client.status(), Status::Draining);
    assert_eq!(both.client.handle_timeout(ms(20_000 + LIFETIME - 1)), Ok(()));
    assert_eq!(both.client.handle_timeout(ms(20_000 + LIFETIME)), Err(EXPIRED));
    assert_ended(&mut both.client, ms(20_000 + LIFETIME), EXPIRED);
}

#[test]
fn early_late_and_repeated_calls_are_harmless_and_so_is_a_clock_that_goes_backwards() {
    let Ends {
        mut client, mut server, ..
    } = ends();
    for now in [0, 50_000, 10, 10, 0, 49_999] {
        assert_eq!(client.handle_timeout(ms(now)), Ok(()));
        assert_eq!(server.handle_timeout(ms(now)), Ok(()));
    }
    assert_eq!(
        (client.poll_timeout(), server.poll_timeout()),
        (Some(ms(LIFETIME)), Some(ms(LIFETIME)))
    );
    // If the clock goes backwards, a ping counts from the latest time.
    client.ping().unwrap();
    let mut ping = pending_output(&mut client, ms(3));
    assert!(server.recv_bytes(ms(3), &mut ping).is_ok());
    assert_eq!(
        (client.poll_timeout(), server.poll_timeout()),
        (Some(ms(110_000)), Some(ms(110_000)))
    );
    assert_eq!(client.handle_timeout(ms(u64::MAX)), Err(EXPIRED));
    assert_eq!(server.handle_timeout(ms(110_000)), Err(EXPIRED));
    for now in [ms(0), ms(109_999), ms(u64::MAX)] {
        assert_ended(&mut client, now, EXPIRED);
        assert_ended(&mut server, now, EXPIRED);
    }
}
