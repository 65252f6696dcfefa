//! Time on the noise wire while a side does not read on purpose, and for requests whose rest does
//! not arrive.

use crate::common::noise::{
    BEGIN, CLOSE, MESSAGE, PART, PING, REFUSE, Told, at_client, at_server, at_server_with, begin, honest,
};
use crate::common::{ms, span};
use falco_core::testing::{raw_frame, raw_settings};
use falco_core::{ConnectionError, Settings};

const LIFETIME: u64 = 60_000;
const EXPIRED: ConnectionError = ConnectionError::Expired;

#[test]
fn a_lifetime_stands_still_while_nothing_is_read_by_choice() {
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
fn it_stands_still_for_one_lifetime_at_most() {
    let mut rig = at_server(&Settings::new());
    rig.machine.set_reading(ms(10_000), false);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME)));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME - 1)), Ok(()));
    rig.now = ms(2 * LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Err(EXPIRED));
    assert_eq!(rig.said(), [(CLOSE, 0, vec![1])]);
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
fn it_counts_anew_from_each_record_received() {
    let mut rig = at_server(&Settings::new());
    rig.machine.set_reading(ms(10_000), false);
    // A record that had already arrived is handled during the pause.
    rig.now = ms(50_000);
    rig.hear(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(50_000 + 2 * LIFETIME)));
    rig.machine.set_reading(ms(80_000), true);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(80_000 + LIFETIME)));
}

#[test]
fn a_client_that_does_not_read_by_choice_does_not_take_its_peer_for_dead() {
    let mut rig = at_client(&Settings::new());
    rig.machine.set_reading(ms(1_000), false);
    for now in [20_000, 21_000, 40_000, 59_000] {
        rig.now = ms(now);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()), "{now}");
        rig.said();
    }
    rig.machine.set_reading(rig.now, true);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert!(rig.machine.poll_timeout() > Some(rig.now));
}

#[test]
fn a_client_that_reads_again_gives_its_peer_the_rest_of_the_third() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    assert_eq!(rig.said().len(), 1, "a ping");
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
fn the_handshakes_deadline_does_not_stand_still() {
    let mut client = crate::common::noise::noise_client_end(&Settings::new(), 1);
    client.set_reading(ms(1), false);
    assert_eq!(client.poll_timeout(), Some(ms(5_000)));
    let mut server = crate::common::noise::noise_server_end(&Settings::new(), 1);
    server.set_reading(ms(1), false);
    assert_eq!(server.poll_timeout(), Some(ms(5_000)));
}

#[test]
fn a_request_half_received_without_a_part_for_a_lifetime_is_not_processed() {
    let mut rig = at_server(&Settings::new().with_max_message(10).with_max_held(20));
    rig.hear(&raw_frame(BEGIN, 1, &begin(10, &[1; 9])));
    rig.hear(&raw_frame(MESSAGE, 2, b"with the handler"));
    rig.now = ms(10_000);
    rig.hear(&raw_frame(BEGIN, 3, &begin(10, &[3; 3])));
    rig.now = ms(30_000);
    rig.hear(&raw_frame(PART, 3, &[3; 1]));
    rig.now = ms(59_999);
    rig.hear(&raw_frame(PING, 0, &[1; 8]));
    rig.said();
    assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!((rig.bytes(&[]), rig.said()), (vec![], vec![]));
    rig.now = ms(LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [Told::Abandoned(1)]);
    assert_eq!(rig.said(), [(REFUSE, 1, vec![5])]);
    // Its last part arrives too late, and the bytes that it held are free.
    assert_eq!(rig.hear(&raw_frame(PART, 1, &[1; 1])), []);
    assert_eq!(rig.hear(&raw_frame(MESSAGE, 4, &[4; 10])).len(), 1);
    // The other had its last part at 30 s.
    assert_eq!(rig.machine.poll_timeout(), Some(ms(30_000 + LIFETIME)));
    rig.now = ms(30_000 + LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [Told::Abandoned(3)]);
    assert_eq!(rig.said(), [(REFUSE, 3, vec![5])]);
    assert_eq!(rig.machine.in_flight(), 1, "no answer is ever too late");
}

#[test]
fn a_server_that_is_never_idle_gives_up_what_is_half_received_all_the_same() {
    let mut rig = at_server(&Settings::new());
    rig.hear(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    for now in [30_000, 59_999] {
        rig.now = ms(now);
        assert_eq!(rig.hear(&raw_frame(PING, 0, &[1; 8])), [Told::Ping]);
    }
    rig.said();
    // No call looks at the deadline except `recv`, and the part is too late.
    rig.now = ms(LIFETIME);
    assert_eq!(rig.hear(&raw_frame(PART, 1, &[1; 8])), [Told::Abandoned(1)]);
    assert_eq!(rig.said(), [(REFUSE, 1, vec![5])]);
    assert_eq!(rig.machine.in_flight(), 0);
}

#[test]
fn silence_is_told_from_its_whole_length_however_late_it_is_looked_at() {
    let longest = u64::from(u32::MAX);
    let settings = Settings::new().with_lifetime(span(longest)).unwrap();
    let mut handshake = honest();
    handshake.settings = raw_settings(u16::MAX, 9, 1000, u32::MAX);
    for late in [longest, longest + 1, longest + 2, 2 * longest - 2] {
        let mut rig = at_server_with(&settings, &handshake);
        rig.hear(&raw_frame(BEGIN, 1, &begin(9, b"a")));
        rig.now = ms(longest - 1);
        rig.hear(&raw_frame(BEGIN, 2, &begin(9, b"a")));
        rig.now = ms(late);
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
        assert_eq!(rig.bytes(&[]), [Told::Abandoned(1)], "{late}");
        assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * longest - 1)), "{late}");
    }
}

#[test]
fn what_is_half_received_does_not_go_stale_while_nothing_is_read_by_choice() {
    let mut rig = at_server(&Settings::new());
    rig.hear(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    rig.machine.set_reading(ms(40_000), false);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME)));
    rig.now = ms(90_000);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), []);
    rig.machine.set_reading(rig.now, true);
    let rest = rig.hear(&raw_frame(PART, 1, &[1; 7]));
    assert_eq!(rest, [Told::Part(1, vec![1; 7], false)]);
    // From then on it has its usual time.
    rig.now = ms(149_999);
    rig.hear(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(90_000 + LIFETIME)));
    rig.now = ms(90_000 + LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [Told::Abandoned(1)]);
    // A request of which nothing more arrived is given up a lifetime after reading resumed.
    let mut rig = at_server(&Settings::new());
    rig.hear(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    rig.machine.set_reading(ms(40_000), false);
    rig.machine.set_reading(ms(50_000), true);
    rig.now = ms(60_001);
    rig.hear(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(50_000 + LIFETIME)));
}

#[test]
fn many_requests_that_go_stale_at_once_have_one_end_each() {
    let mut rig = at_server(&Settings::new());
    let frames: Vec<u8> = (1..=50).flat_map(|id| raw_frame(BEGIN, id, &begin(9, b"a"))).collect();
    assert_eq!(rig.hear(&frames).len(), 50);
    rig.now = ms(30_000);
    rig.hear(&raw_frame(PING, 0, &[1; 8]));
    rig.said();
    rig.now = ms(LIFETIME);
    rig.machine.handle_timeout(rig.now).unwrap();
    let (mut told, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        told.extend(rig.bytes(&[]));
        refused.extend(rig.said());
    }
    assert_eq!(told, (1..=50).map(Told::Abandoned).collect::<Vec<_>>());
    assert_eq!(refused, (1..=50).map(|id| (REFUSE, id, vec![5])).collect::<Vec<_>>());
}

#[test]
fn nothing_is_abandoned_before_its_beginning_was_told() {
    let mut rig = at_server(&Settings::new());
    let frames = [raw_frame(MESSAGE, 1, b"one"), raw_frame(BEGIN, 2, &begin(9, b"two"))];
    let record = rig.raw.seal(&frames.concat());
    rig.unread.extend(record);
    assert_eq!(rig.next(), Some(Told::Whole(1, b"one".to_vec())));
    rig.machine.set_reading(ms(1), false);
    rig.now = ms(LIFETIME);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    let told = rig.bytes(&[]);
    let at = |wanted: &Told| told.iter().position(|told| told == wanted);
    let (begun, abandoned) = (at(&Told::Begin(2, 9, b"two".to_vec())), at(&Told::Abandoned(2)));
    assert!(abandoned.is_none() || begun < abandoned && begun.is_some(), "{told:?}");
}
