//! Time on the noise wire while a side does not read on purpose, and for requests whose rest does
//! not arrive.

use crate::common::noise::{
    BEGIN, CLOSE, MESSAGE, NoiseEvent, PART, PING, REFUSE, at_client, at_server, at_server_with, begin, honest,
};
use crate::common::{ms, span};
use falco_core::testing::{raw_frame, raw_settings};
use falco_core::{ConnectionError, Deadlines, Settings};

const LIFETIME: u64 = 60_000;
const EXPIRED: ConnectionError = ConnectionError::Expired;

#[test]
fn the_lifetime_is_paused_while_a_side_does_not_read_on_purpose() {
    let mut rig = at_server(&Settings::new());
    rig.machine.set_reading(ms(10_000), false);
    rig.machine.set_reading(ms(20_000), false);
    assert_eq!(rig.machine.handle_timeout(ms(65_000)), Ok(()));
    rig.machine.set_reading(ms(65_000), true);
    rig.machine.set_reading(ms(65_000), true);
    // 50 s were left at 10 s, and are left at 65 s.
    assert_eq!(rig.machine.poll_timeout(), Some(ms(115_000)));
    assert_eq!(rig.machine.handle_timeout(ms(114_999)), Ok(()));
    assert_eq!(rig.machine.handle_timeout(ms(115_000)), Err(EXPIRED));
}

#[test]
fn an_end_that_is_due_with_the_write_deadline_comes_first() {
    let stalled = Err(ConnectionError::Stalled);
    for (blocked, end) in [(0, Some(EXPIRED)), (1, None)] {
        let mut rig = at_server(&Settings::new());
        let mut deadlines = Deadlines::new();
        deadlines.block(ms(blocked));
        if end.is_none() {
            // A record restarts the lifetime after that.
            rig.now = ms(2);
            rig.receive(&raw_frame(PING, 0, &[1; 8]));
        }
        let due = ms(blocked + LIFETIME);
        assert_eq!(deadlines.handle_timeout(&mut rig.machine, due), stalled);
        assert_eq!(rig.machine.end(), end);
        let again = end.map_or(stalled, Err);
        assert_eq!(deadlines.handle_timeout(&mut rig.machine, due), again);
    }
}

#[test]
fn the_lifetime_is_paused_for_one_lifetime_at_most() {
    let mut rig = at_server(&Settings::new());
    rig.machine.set_reading(ms(10_000), false);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME)));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME - 1)), Ok(()));
    rig.now = ms(2 * LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Err(EXPIRED));
    assert_eq!(rig.sent(), [(CLOSE, 0, vec![1])]);
    // Several pauses add up.
    let mut rig = at_server(&Settings::new());
    for start in [0, 40_000, 80_000] {
        rig.machine.set_reading(ms(start), false);
        rig.machine.set_reading(ms(start + 30_000), true);
    }
    let deadline = rig.machine.poll_timeout().unwrap();
    assert!(
        deadline <= ms(2 * LIFETIME),
        "three half lifetimes of standing still gave {deadline:?}"
    );
}

#[test]
fn each_received_record_renews_the_pause() {
    let mut rig = at_server(&Settings::new());
    rig.machine.set_reading(ms(10_000), false);
    // A record that had already arrived is handled during the pause.
    rig.now = ms(50_000);
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(50_000 + 2 * LIFETIME)));
    rig.machine.set_reading(ms(80_000), true);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(80_000 + LIFETIME)));
}

#[test]
fn a_client_that_does_not_read_on_purpose_does_not_consider_its_peer_dead() {
    let mut rig = at_client(&Settings::new());
    rig.machine.set_reading(ms(1_000), false);
    for now in [20_000, 21_000, 40_000, 59_000] {
        rig.now = ms(now);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()), "{now}");
        rig.sent();
    }
    rig.machine.set_reading(rig.now, true);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert!(rig.machine.poll_timeout() > Some(rig.now));
}

#[test]
fn a_client_that_reads_again_gives_its_peer_the_full_time_to_answer() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    assert_eq!(rig.sent().len(), 1, "a ping");
    rig.machine.set_reading(ms(21_000), false);
    rig.machine.set_reading(ms(50_000), true);
    assert_eq!(
        rig.machine.handle_timeout(ms(50_000)),
        Ok(()),
        "what has come could not be read yet"
    );
    assert_eq!(rig.machine.handle_timeout(ms(51_000)), Ok(()));
    let dead = Err(ConnectionError::PeerDead);
    assert_eq!(rig.machine.handle_timeout(ms(70_000)), dead, "and no more than that");
}

#[test]
fn the_handshake_deadline_is_not_paused() {
    let mut client = crate::common::noise::noise_client_end(&Settings::new(), 1);
    client.set_reading(ms(1), false);
    assert_eq!(client.poll_timeout(), Some(ms(5_000)));
    let mut server = crate::common::noise::noise_server_end(&Settings::new(), 1);
    server.set_reading(ms(1), false);
    assert_eq!(server.poll_timeout(), Some(ms(5_000)));
}

#[test]
fn a_request_in_part_of_which_nothing_arrives_for_a_lifetime_is_not_processed() {
    let mut rig = at_server(&Settings::new().with_max_message(10).with_max_held(20));
    rig.receive(&raw_frame(BEGIN, 1, &begin(10, &[1; 9])));
    rig.receive(&raw_frame(MESSAGE, 2, b"with the handler"));
    rig.now = ms(10_000);
    rig.receive(&raw_frame(BEGIN, 3, &begin(10, &[3; 3])));
    rig.now = ms(30_000);
    rig.receive(&raw_frame(PART, 3, &[3; 1]));
    rig.now = ms(59_999);
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    rig.sent();
    assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!((rig.bytes(&[]), rig.sent()), (vec![], vec![]));
    rig.now = ms(LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [NoiseEvent::Abandoned(1)]);
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![5])]);
    // Its last part arrives too late, and the bytes that it held are free.
    assert_eq!(rig.receive(&raw_frame(PART, 1, &[1; 1])), []);
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 4, &[4; 10])).len(), 1);
    // The other had its last part at 30 s.
    assert_eq!(rig.machine.poll_timeout(), Some(ms(30_000 + LIFETIME)));
    rig.now = ms(30_000 + LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [NoiseEvent::Abandoned(3)]);
    assert_eq!(rig.sent(), [(REFUSE, 3, vec![5])]);
    assert_eq!(rig.machine.in_flight(), 1, "no answer is ever too late");
}

#[test]
fn a_busy_server_gives_up_stale_requests_too() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    for now in [30_000, 59_999] {
        rig.now = ms(now);
        assert_eq!(rig.receive(&raw_frame(PING, 0, &[1; 8])), [NoiseEvent::Ping]);
    }
    rig.sent();
    // No call looks at the deadline except `recv`, and the part is too late.
    rig.now = ms(LIFETIME);
    assert_eq!(rig.receive(&raw_frame(PART, 1, &[1; 8])), [NoiseEvent::Abandoned(1)]);
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![5])]);
    assert_eq!(rig.machine.in_flight(), 0);
}

#[test]
fn the_silence_of_a_request_is_measured_exactly_however_late_the_call_is() {
    let longest = u64::from(u32::MAX);
    let settings = Settings::new().with_lifetime(span(longest)).unwrap();
    let mut handshake = honest();
    handshake.settings = raw_settings(u16::MAX, 9, 1000, u32::MAX);
    for late in [longest, longest + 1, longest + 2, 2 * longest - 2] {
        let mut rig = at_server_with(&settings, &handshake);
        rig.receive(&raw_frame(BEGIN, 1, &begin(9, b"a")));
        rig.now = ms(longest - 1);
        rig.receive(&raw_frame(BEGIN, 2, &begin(9, b"a")));
        rig.now = ms(late);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
        assert_eq!(rig.bytes(&[]), [NoiseEvent::Abandoned(1)], "{late}");
        assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * longest - 1)), "{late}");
    }
}

#[test]
fn a_request_in_part_does_not_go_stale_while_the_server_does_not_read_on_purpose() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    rig.machine.set_reading(ms(40_000), false);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME)));
    rig.now = ms(90_000);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), []);
    rig.machine.set_reading(rig.now, true);
    let rest = rig.receive(&raw_frame(PART, 1, &[1; 7]));
    assert_eq!(rest, [NoiseEvent::Part(1, vec![1; 7], false)]);
    // From then on it has its usual time.
    rig.now = ms(149_999);
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(90_000 + LIFETIME)));
    rig.now = ms(90_000 + LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [NoiseEvent::Abandoned(1)]);
    // A request of which nothing more arrived is given up a lifetime after reading resumed.
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    rig.machine.set_reading(ms(40_000), false);
    rig.machine.set_reading(ms(50_000), true);
    rig.now = ms(60_001);
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(50_000 + LIFETIME)));
}

#[test]
fn many_requests_that_go_stale_at_once_complete_once_each() {
    let mut rig = at_server(&Settings::new());
    let frames: Vec<u8> = (1..=50).flat_map(|id| raw_frame(BEGIN, id, &begin(9, b"a"))).collect();
    assert_eq!(rig.receive(&frames).len(), 50);
    rig.now = ms(30_000);
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    rig.sent();
    rig.now = ms(LIFETIME);
    rig.machine.handle_timeout(rig.now).unwrap();
    let (mut events, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        events.extend(rig.bytes(&[]));
        refused.extend(rig.sent());
    }
    assert_eq!(events, (1..=50).map(NoiseEvent::Abandoned).collect::<Vec<_>>());
    assert_eq!(refused, (1..=50).map(|id| (REFUSE, id, vec![5])).collect::<Vec<_>>());
}

#[test]
fn a_request_is_not_abandoned_before_its_begin_event() {
    let mut rig = at_server(&Settings::new());
    let frames = [raw_frame(MESSAGE, 1, b"one"), raw_frame(BEGIN, 2, &begin(9, b"two"))];
    let record = rig.raw.seal(&frames.concat());
    rig.unread.extend(record);
    assert_eq!(rig.next(), Some(NoiseEvent::Whole(1, b"one".to_vec())));
    rig.machine.set_reading(ms(1), false);
    rig.now = ms(LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    let events = rig.bytes(&[]);
    let at = |wanted: &NoiseEvent| events.iter().position(|event| event == wanted);
    let (begun, abandoned) = (
        at(&NoiseEvent::Begin(2, 9, b"two".to_vec())),
        at(&NoiseEvent::Abandoned(2)),
    );
    assert!(
        abandoned.is_none() || begun < abandoned && begun.is_some(),
        "{events:?}"
    );
}
