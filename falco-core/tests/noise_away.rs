//! An owner who was away: what has come by the time that he is back is looked at before a deadline that has passed meanwhile counts, and no peer that is gone is kept by it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use common::ms;
use common::noise::{BEGIN, PING, PONG, REFUSE, Told, at_client, at_server, begin};
use falco_core::testing::raw_frame;
use falco_core::{ConnectionError, Settings};

const LIFETIME: u64 = 60_000;
const EXPIRED: Result<(), ConnectionError> = Err(ConnectionError::Expired);
const DEAD: Result<(), ConnectionError> = Err(ConnectionError::PeerDead);

#[test]
fn what_came_meanwhile_begins_the_lifetime_anew() {
    let mut rig = at_server(&Settings::new());
    rig.now = ms(LIFETIME + 5_000);
    rig.machine.was_away(rig.now);
    assert_eq!(rig.hear(&raw_frame(PING, 0, &[1; 8])), [Told::Ping]);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(2 * LIFETIME + 5_000)));
}

#[test]
fn without_that_it_is_over_and_so_it_is_where_nothing_came() {
    let mut rig = at_server(&Settings::new());
    rig.now = ms(LIFETIME);
    rig.hear(&raw_frame(PING, 0, &[1; 8]));
    assert_eq!(rig.machine.end(), Some(ConnectionError::Expired));

    let mut rig = at_server(&Settings::new());
    rig.machine.was_away(ms(70_000));
    assert_eq!(rig.machine.handle_timeout(ms(70_000)), Ok(()));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(70_001)));
    assert_eq!(rig.machine.handle_timeout(ms(70_001)), EXPIRED);
}

#[test]
fn between_two_signs_of_life_it_gives_one_lifetime_at_most() {
    let mut rig = at_server(&Settings::new());
    let mut now = LIFETIME;
    while now < 2 * LIFETIME {
        rig.machine.was_away(ms(now));
        assert_eq!(rig.machine.handle_timeout(ms(now)), Ok(()), "{now}");
        now += 7_000;
    }
    rig.machine.was_away(ms(now));
    assert_eq!(rig.machine.handle_timeout(ms(now)), EXPIRED);

    // Whoever is away for longer at once gets nothing.
    let mut rig = at_server(&Settings::new());
    rig.machine.was_away(ms(2 * LIFETIME));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME)), EXPIRED);
    let mut rig = at_server(&Settings::new());
    rig.machine.was_away(ms(2 * LIFETIME - 1));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME - 1)), Ok(()));
}

#[test]
fn nothing_moves_where_nothing_has_run_out_and_early_and_often_do_no_harm() {
    let mut rig = at_server(&Settings::new());
    for now in [0, 30_000, LIFETIME - 1] {
        rig.machine.was_away(ms(now));
        assert_eq!(rig.machine.poll_timeout(), Some(ms(LIFETIME)));
    }
    // Standing still goes by its own rule.
    rig.machine.set_reading(ms(10_000), false);
    rig.machine.was_away(ms(2 * LIFETIME));
    assert_eq!(rig.machine.handle_timeout(ms(2 * LIFETIME)), EXPIRED);
}

#[test]
fn a_pong_that_came_meanwhile_is_looked_at_before_the_peer_counts_as_dead() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    let pinged = rig.said();
    assert_eq!(pinged.len(), 1, "a ping");
    rig.now = ms(45_000);
    rig.machine.was_away(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    rig.hear(&raw_frame(PONG, 0, &pinged[0].2));
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert!(rig.machine.poll_timeout() > Some(ms(60_000)));
}

#[test]
fn a_peer_that_is_gone_has_one_respite_and_no_more() {
    let mut rig = at_client(&Settings::new());
    rig.now = ms(20_000);
    rig.machine.handle_timeout(rig.now).unwrap();
    assert_eq!(rig.said().len(), 1, "a ping");
    rig.now = ms(40_000);
    rig.machine.was_away(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.machine.poll_timeout(), Some(ms(40_001)));
    rig.now = ms(40_001);
    rig.machine.was_away(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), DEAD);
}

#[test]
fn what_is_half_received_goes_stale_all_the_same() {
    let mut rig = at_server(&Settings::new());
    rig.hear(&raw_frame(BEGIN, 1, &begin(9, b"a")));
    for now in [30_000, LIFETIME - 1] {
        rig.now = ms(now);
        rig.machine.was_away(rig.now);
        rig.hear(&raw_frame(PING, 0, &[1; 8]));
    }
    rig.said();
    rig.now = ms(LIFETIME);
    rig.machine.was_away(rig.now);
    assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
    assert_eq!(rig.bytes(&[]), [Told::Abandoned(1)]);
    assert_eq!(rig.said(), [(REFUSE, 1, vec![5])]);
}

#[test]
fn a_handshake_moves_for_nobody() {
    let mut client = common::noise::noise_client_end(&Settings::new(), 1);
    client.was_away(ms(5_000));
    assert_eq!(client.handle_timeout(ms(5_000)), Err(ConnectionError::HandshakeTimeout));
    let mut server = common::noise::noise_server_end(&Settings::new(), 1);
    server.was_away(ms(5_000));
    assert_eq!(server.handle_timeout(ms(5_000)), Err(ConnectionError::HandshakeTimeout));
}
