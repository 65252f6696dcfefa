//! Late polls: what has arrived is read before a deadline that has passed takes effect, and the
//! connection to a dead peer ends.

use crate::common::noise::{BEGIN, NoiseEvent, PART, PING, PONG, REFUSE, at_client, at_server, begin};
use crate::common::{ms, secrets, span};
use falco_core::testing::{CountingRng, Pair, classic_key, noise_client, noise_server, raw_frame};
use falco_core::{ClientKeyRef, ConnectionError, ServerKeyRef, Settings};

const LIFETIME: u64 = 60_000;
const EXPIRED: Result<(), ConnectionError> = Err(ConnectionError::Expired);
const DEAD: Result<(), ConnectionError> = Err(ConnectionError::PeerDead);

#[test]
fn a_record_that_arrived_before_a_late_poll_restarts_the_lifetime() {
    let mut rig = at_server(&Settings::new());
    rig.now = ms(LIFETIME + 5_000);
    rig.machine.handle_late_poll(rig.now);
    assert_eq!(rig.receive(&raw_frame(PING, 0, &[1; 8])), [NoiseEvent::Ping]);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME + 5_000)));
}

#[test]
fn a_late_poll_that_is_not_reported_or_brings_nothing_ends_the_connection() {
    let mut rig = at_server(&Settings::new());
    rig.now = ms(LIFETIME);
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.end(), Some(ConnectionError::Expired));

    let mut rig = at_server(&Settings::new());
    rig.machine.handle_late_poll(ms(70_000));
    assert_eq!(rig.machine.handle_timeout(ms(70_000)), Ok(()));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(70_001)));
    assert_eq!(rig.machine.handle_timeout(ms(70_001)), EXPIRED);
}

#[test]
fn the_grace_period_is_at_most_a_lifetime_for_the_first_late_poll_and_a_second_for_later_ones() {
    let mut rig = at_server(&Settings::new());
    let first = LIFETIME + 7_000;
    rig.machine.handle_late_poll(ms(first));
    // In several calls, up to a second after the first.
    for now in [first, first + 1, first + 500, first + 999] {
        rig.machine.handle_late_poll(ms(now));
        assert_eq!(rig.machine.handle_timeout(ms(now)), Ok(()), "{now}");
        assert_eq!(rig.machine.poll_timeout(), Some(ms(now + 1)));
    }
    rig.machine.handle_late_poll(ms(first + 1_001));
    assert_eq!(rig.machine.handle_timeout(ms(first + 1_001)), EXPIRED);

    // A third of a short lifetime.
    let brief = Settings::new().with_lifetime(span(1_000)).unwrap();
    let mut rig = at_server(&brief);
    rig.machine.handle_late_poll(ms(1_500));
    rig.machine.handle_late_poll(ms(1_833));
    assert_eq!(rig.machine.handle_timeout(ms(1_833)), Ok(()));
    rig.machine.handle_late_poll(ms(1_836));
    assert_eq!(rig.machine.handle_timeout(ms(1_836)), EXPIRED);

    // A poll that is more than a lifetime late gets no grace period.
    let mut rig = at_server(&Settings::new());
    rig.machine.handle_late_poll(ms(2 * LIFETIME));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME)), EXPIRED);
    let mut rig = at_server(&Settings::new());
    rig.machine.handle_late_poll(ms(2 * LIFETIME - 1));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME - 1)), Ok(()));
}

#[test]
fn each_sign_of_life_renews_the_grace_period() {
    let mut rig = at_server(&Settings::new());
    for round in 1..4 {
        // Each counts from the last ping.
        rig.now = ms(round * (LIFETIME + 5_000));
        rig.machine.handle_late_poll(rig.now);
        assert_eq!(rig.receive(&raw_frame(PING, 0, &[1; 8])), [NoiseEvent::Ping], "{round}");
        rig.sent();
    }
}

/// Each kind of connection that a user can have.
#[test]
fn the_grace_period_is_the_same_on_every_wire() {
    fn both<A: ClientKeyRef + Copy, B: ServerKeyRef + Copy>(client: A, server: B, seed: u64) {
        for away in [false, true] {
            let settings = Settings::new().with_keep_alive(false);
            let mut pair = Pair::new(client, server, &settings, seed + u64::from(away)).unwrap();
            pair.settle().unwrap();
            let late = ms(LIFETIME + 5_000);
            let expected = if away { Ok(()) } else { EXPIRED };
            if away {
                pair.client().handle_late_poll(late);
                pair.server().handle_late_poll(late);
            }
            assert_eq!(pair.client().handle_timeout(late), expected);
            assert_eq!(pair.server().handle_timeout(late), expected);
        }
    }
    both(&noise_client(7), &noise_server(7), 1);
    both(&classic_key(8), &classic_key(8), 3);
    let wires = secrets(Some(7), Some(8)).into_server(&mut CountingRng::new(1)).unwrap();
    both(&noise_client(7), &wires, 5);
    both(&classic_key(8), &wires, 7);
    // As the adapters use them.
    let shared = secrets(None, Some(8)).into_server(&mut CountingRng::new(1)).unwrap();
    let client = secrets(None, Some(8)).into_client(&mut CountingRng::new(2)).unwrap();
    both(&client, &shared, 9);
}

#[test]
fn a_deadline_that_has_not_passed_does_not_move_however_often_a_late_poll_is_reported() {
    let mut rig = at_server(&Settings::new());
    for now in [0, 30_000, LIFETIME - 1] {
        rig.machine.handle_late_poll(ms(now));
        assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    }
    // A pause has its own rule.
    rig.machine.set_reading(ms(10_000), false);
    rig.machine.handle_late_poll(ms(2 * LIFETIME));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME)), EXPIRED);
}

#[test]
fn a_pong_that_arrived_before_a_late_poll_is_read_before_the_peer_counts_as_dead() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    let pinged = rig.sent();
    assert_eq!(pinged.len(), 1, "a ping");
    rig.now = ms(45_000);
    rig.machine.handle_late_poll(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    rig.receive(&raw_frame(PONG, 0, &pinged[0].2));
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert!(rig.machine.poll_timeout() > Some(ms(60_000)));
}

#[test]
fn a_peer_that_is_gone_gets_one_grace_period() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    assert_eq!(rig.sent().len(), 1, "a ping");
    for now in [47_000, 47_001, 47_900] {
        rig.machine.handle_late_poll(ms(now));
        assert_eq!(rig.machine.handle_timeout(ms(now)), Ok(()));
        assert_eq!(rig.machine.poll_timeout(), Some(ms(now + 1)));
    }
    rig.machine.handle_late_poll(ms(48_001));
    assert_eq!(rig.machine.handle_timeout(ms(48_001)), DEAD);
}

#[test]
fn a_peer_that_answers_gets_another_grace_period() {
    let mut rig = at_client(&Settings::new());
    for round in 0..3 {
        rig.now = ms(20_000 + round * 45_000);
        rig.machine.handle_timeout(rig.now).unwrap();
        let pinged = rig.sent();
        assert_eq!(pinged.len(), 1, "{round}: a ping");
        rig.now = ms(45_000 + round * 45_000);
        rig.machine.handle_late_poll(rig.now);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()), "{round}");
        rig.receive(&raw_frame(PONG, 0, &pinged[0].2));
    }
}

#[test]
fn a_request_in_part_goes_stale_although_late_polls_are_reported() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    // A client that sends other frames in each millisecond.
    for now in [30_000, LIFETIME - 1].into_iter().chain(LIFETIME..LIFETIME + 1_000) {
        rig.now = ms(now);
        rig.machine.handle_late_poll(rig.now);
        assert_eq!(rig.receive(&raw_frame(PING, 0, &[1; 8])), [NoiseEvent::Ping], "{now}");
        rig.sent();
    }
    rig.now = ms(LIFETIME + 1_001);
    rig.machine.handle_late_poll(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [NoiseEvent::Abandoned(1)]);
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![5])]);
}

#[test]
fn parts_that_arrived_before_a_late_poll_are_read_before_their_request_counts_as_stale() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 1, &begin(3, b"a")));
    // Records arrive in time, so that only the request has run out.
    for (ping, late, part) in [(30_000, 61_000, b"b"), (90_000, 122_000, b"c")] {
        rig.now = ms(ping);
        assert_eq!(rig.receive(&raw_frame(PING, 0, &[1; 8])), [NoiseEvent::Ping]);
        rig.sent();
        rig.now = ms(late);
        rig.machine.handle_late_poll(rig.now);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
        let events = rig.receive(&raw_frame(PART, 1, part));
        assert!(
            matches!(events.as_slice(), [NoiseEvent::Part(1, ..)]),
            "{late}: {events:?}"
        );
    }
}

#[test]
fn late_polls_keep_a_request_in_part_for_at_most_one_more_lifetime() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 1, &begin(3, b"a")));
    // The connection lives for nearly a lifetime longer than the request.
    rig.now = ms(LIFETIME - 1);
    assert_eq!(rig.receive(&raw_frame(PING, 0, &[1; 8])), [NoiseEvent::Ping]);
    rig.sent();
    rig.now = ms(2 * LIFETIME + 500);
    rig.machine.handle_late_poll(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.receive(&raw_frame(PART, 1, b"b")), [NoiseEvent::Abandoned(1)]);
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![5])]);
}

#[test]
fn a_late_poll_does_not_move_the_handshake_deadline() {
    let mut client = crate::common::noise::noise_client_end(&Settings::new(), 1);
    client.handle_late_poll(ms(5_000));
    assert_eq!(client.handle_timeout(ms(5_000)), Err(ConnectionError::HandshakeTimeout));
    let mut server = crate::common::noise::noise_server_end(&Settings::new(), 1);
    server.handle_late_poll(ms(5_000));
    assert_eq!(server.handle_timeout(ms(5_000)), Err(ConnectionError::HandshakeTimeout));
}
