//! Deadlines on the noise wire, to the millisecond: the lifetime and what restarts it, keep-alive,
//! dead peers.

use crate::common::noise::{
    BEGIN, CANCEL, CLOSE, MESSAGE, NoiseEvent, PART, PING, PONG, REFUSE, asking, at_client, at_client_with, at_server,
    at_server_with, begin, honest,
};
use crate::common::{ms, span};
use falco_core::testing::{raw_frame, raw_settings};
use falco_core::{ConnectionError, Settings, Status};

const LIFETIME: u64 = 60_000;
const EXPIRED: ConnectionError = ConnectionError::Expired;

fn quiet() -> Settings {
    Settings::new().with_keep_alive(false)
}

#[test]
fn the_smaller_lifetime_is_in_force_on_both_sides() {
    for (ours, theirs) in [(60_000, 1_000), (1_000, 60_000), (5_000, 5_000), (u32::MAX, 90_000_000)] {
        let smaller = u64::from(ours.min(theirs));
        let settings = quiet().with_lifetime(span(ours.into())).unwrap();
        let mut handshake = honest();
        handshake.settings = raw_settings(u16::MAX, 9, 1000, theirs);
        let mut server = at_server_with(&settings, &handshake);
        assert_eq!(server.machine.poll_timeout(), Some(ms(smaller)));
        assert_eq!(server.machine.handle_timeout(ms(smaller - 1)), Ok(()));
        assert_eq!(server.machine.handle_timeout(ms(smaller)), Err(EXPIRED));
        let mut client = at_client_with(&settings, &handshake);
        assert_eq!(client.machine.poll_timeout(), Some(ms(smaller)));
        assert_eq!(client.machine.handle_timeout(ms(smaller - 1)), Ok(()));
        assert_eq!(client.machine.handle_timeout(ms(smaller)), Err(EXPIRED));
    }
}

#[test]
fn a_lifetime_that_runs_out_ends_with_a_close_that_has_the_last_request() {
    for now in [LIFETIME, LIFETIME + 1, u64::MAX] {
        let mut server = at_server(&Settings::new());
        server.receive(&raw_frame(MESSAGE, 77, b"?"));
        assert_eq!(server.machine.handle_timeout(ms(LIFETIME - 1)), Ok(()));
        server.now = ms(now);
        assert_eq!(server.receive(&raw_frame(MESSAGE, 78, b"late")), []);
        assert_eq!(server.sent(), [(CLOSE, 77, vec![1])]);
        server.assert_ended(EXPIRED);

        let mut client = at_client(&quiet());
        client.request(b"?");
        client.opened();
        assert_eq!(client.machine.handle_timeout(ms(LIFETIME - 1)), Ok(()));
        client.now = ms(now);
        assert_eq!(client.receive(&raw_frame(MESSAGE, 1, b"late")), []);
        assert_eq!(client.sent(), [(CLOSE, 1, vec![1])]);
        client.assert_ended(EXPIRED);
    }
}

#[test]
fn any_complete_authentic_record_restarts_the_lifetime() {
    let to_server = [
        raw_frame(MESSAGE, 2, b""),
        raw_frame(BEGIN, 2, &begin(1, b"")),
        raw_frame(PART, 1, b"part of nothing"),
        raw_frame(CANCEL, 9, b""),
        raw_frame(PING, 0, &[0; 8]),
        raw_frame(PONG, 0, &[0; 8]),
        raw_frame(255, 0, b""),
    ];
    for frames in to_server {
        let mut rig = at_server(&Settings::new());
        rig.receive(&raw_frame(MESSAGE, 1, b""));
        rig.answer(1, b"");
        rig.now = ms(LIFETIME - 1);
        rig.receive(&frames);
        assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME - 1)), "{frames:02x?}");
    }
    let to_client = [
        raw_frame(MESSAGE, 1, b""),
        raw_frame(REFUSE, 1, &[3]),
        raw_frame(PING, 0, &[0; 8]),
        raw_frame(PONG, 0, &[0; 8]),
        raw_frame(255, 0, b""),
    ];
    for frames in to_client {
        let mut rig = at_client(&quiet());
        rig.request(b"?");
        rig.now = ms(LIFETIME - 1);
        rig.receive(&frames);
        assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME - 1)), "{frames:02x?}");
    }
}

#[test]
fn records_in_part_and_records_sent_do_not_restart_the_lifetime() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(MESSAGE, 1, b"?"));
    let record = rig.raw.seal(&raw_frame(MESSAGE, 2, &[1; 100]));
    let (last, most) = record.split_last().unwrap();
    for (now, byte) in (1..).zip(most) {
        rig.now = ms(now);
        rig.bytes(&[*byte]);
        assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    }
    rig.now = ms(30_000);
    rig.answer(1, b"answer");
    assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    rig.now = ms(40_000);
    rig.bytes(&[*last]);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(40_000 + LIFETIME)));

    let mut rig = at_client(&quiet());
    rig.now = ms(30_000);
    rig.request(b"?");
    rig.machine.ping().unwrap();
    assert_eq!(rig.sent().len(), 2);
    let record = rig.raw.seal(&raw_frame(MESSAGE, 1, b"answer"));
    rig.bytes(&record[..record.len() - 1]);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
}

#[test]
fn a_client_pings_when_it_has_received_or_sent_nothing_for_a_third_of_the_lifetime() {
    // Nothing sent or received.
    let mut rig = at_client(&Settings::new());
    assert_eq!(rig.machine.poll_timeout(), Some(ms(20_000)));
    for now in [0, 1, 19_999] {
        rig.now = ms(now);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
        assert_eq!(rig.sent(), []);
    }
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    rig.machine.handle_timeout(rig.now).unwrap();
    let said = rig.sent();
    assert_eq!((said.len(), said[0].0), (1, PING));
    rig.now = ms(20_050);
    assert_eq!(rig.receive(&raw_frame(PONG, 0, &said[0].2)), [NoiseEvent::Pong]);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(40_000)));
    // Receives, and sends nothing.
    let mut rig = at_client(&Settings::new());
    for now in [5_000, 10_000, 15_000] {
        rig.now = ms(now);
        rig.receive(&raw_frame(200, 0, b""));
        assert_eq!(rig.machine.poll_timeout(), Some(ms(20_000)));
    }
    // Sends, and receives nothing.
    let mut rig = at_client(&Settings::new());
    for now in [5_000, 10_000, 15_000] {
        rig.now = ms(now);
        rig.request(b"?");
        assert_eq!(rig.machine.poll_timeout(), Some(ms(20_000)));
    }
    // Both: a third from the older.
    let mut rig = at_client(&Settings::new());
    rig.now = ms(10_000);
    rig.request(b"?");
    rig.now = ms(15_000);
    rig.receive(&raw_frame(MESSAGE, 1, b""));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(30_000)));
}

#[test]
fn a_peer_that_sends_nothing_for_another_third_is_dead_and_one_that_sends_anything_is_not() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    rig.sent();
    assert_eq!(rig.machine.poll_timeout(), Some(ms(40_000)));
    rig.now = ms(39_999);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    rig.now = ms(40_000);
    assert_eq!(rig.machine.handle_timeout(rig.now), Err(ConnectionError::PeerDead));
    rig.assert_ended(ConnectionError::PeerDead);

    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    rig.sent();
    rig.now = ms(39_999);
    rig.receive(&raw_frame(200, 0, b"anything"));
    rig.now = ms(40_000);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    let kinds: Vec<u8> = rig.sent().iter().map(|frame| frame.0).collect();
    assert_eq!(kinds, [PING], "nothing was sent for a third");
}

#[test]
fn without_keep_alive_a_client_pings_only_when_asked() {
    let mut rig = at_client(&quiet());
    for now in [20_000, 40_000, 59_999] {
        rig.now = ms(now);
        assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
        assert_eq!(rig.sent(), []);
    }
    rig.machine.ping().unwrap();
    assert_eq!(rig.sent().len(), 1);
}

#[test]
fn a_pending_ping_that_is_not_sealed_moves_no_deadline() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    let before = rig.machine.poll_timeout();
    rig.now = ms(30_000);
    rig.receive(&raw_frame(200, 0, b""));
    let after = rig.machine.poll_timeout();
    assert!(after >= before, "{before:?} became {after:?}");
}

#[test]
fn the_time_to_answer_a_ping_starts_when_it_is_sealed() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    // While the PING is not sealed, no answer is expected, and the lifetime counts.
    assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    rig.now = ms(35_000);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    let said = rig.sent();
    assert_eq!((said.len(), said[0].0), (1, PING));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(55_000)));
    // Pings of the caller do not move that deadline.
    rig.now = ms(40_000);
    rig.machine.ping().unwrap();
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.machine.handle_timeout(ms(54_999)), Ok(()));
    let dead = Err(ConnectionError::PeerDead);
    assert_eq!(rig.machine.handle_timeout(ms(55_000)), dead);
    // If something arrives while the PING is pending, no answer is expected.
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    rig.now = ms(25_000);
    rig.receive(&raw_frame(200, 0, b""));
    assert_eq!(rig.sent().len(), 1);
    rig.now = ms(45_000);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.sent().len(), 1, "the next ping");
    // Never sealed: the lifetime runs out, and a CLOSE says so.
    let mut rig = at_client(&Settings::new());
    rig.machine.handle_timeout(ms(20_000)).unwrap();
    rig.machine.handle_timeout(ms(59_999)).unwrap();
    rig.now = ms(LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Err(EXPIRED));
    assert_eq!(rig.sent(), [(CLOSE, 0, vec![1])]);
}

#[test]
fn early_late_and_repeated_calls_change_nothing() {
    let mut often = asking(1);
    let mut seldom = asking(1);
    for now in 0..20_000 {
        often.machine.handle_timeout(ms(now)).unwrap();
    }
    for now in [20_000, 20_000, 20_001, 5, 0] {
        often.machine.handle_timeout(ms(now)).unwrap();
    }
    seldom.machine.handle_timeout(ms(20_000)).unwrap();
    seldom.machine.handle_timeout(ms(20_001)).unwrap();
    assert_eq!(often.machine.poll_timeout(), seldom.machine.poll_timeout());
    (often.now, seldom.now) = (ms(20_001), ms(20_001));
    assert_eq!(often.sent(), seldom.sent());
    assert_eq!(often.machine.status(), Status::Established);
    // A clock that goes backwards has no effect.
    assert_eq!(often.machine.handle_timeout(ms(0)), Ok(()));
    assert_eq!(often.machine.handle_timeout(ms(LIFETIME)), Err(EXPIRED));
    assert_eq!(often.machine.handle_timeout(ms(0)), Err(EXPIRED));
}
