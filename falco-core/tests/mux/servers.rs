//! Which servers of several the next attempts go to, when one begins beside another, and how long a
//! server that failed is not tried.

use core::time::Duration;

use falco_core::mux::{Backoff, History, Round, Servers};
use falco_core::{ConnectionError, Instant};

const NOW: Instant = Instant::from_millis(1_000);

fn after(millis: u64) -> Instant {
    NOW + Duration::from_millis(millis)
}

/// Begins attempts until none begins.
fn begun(servers: &Servers, round: &mut Round, now: Instant) -> Vec<usize> {
    core::iter::from_fn(|| servers.begin(round, now)).collect()
}

/// The server that a round of this home begins with.
fn first(servers: &Servers, home: usize, now: Instant) -> usize {
    servers.begin(&mut Round::new(home), now).unwrap()
}

#[test]
fn servers_take_turns_and_one_that_failed_is_not_tried_for_a_while() {
    let mut servers = Servers::new(3, Backoff::default());
    let mut round = Round::new(1);
    for (server, goes_on) in [(1, true), (2, true), (0, false)] {
        assert_eq!(begun(&servers, &mut round, NOW), [server]);
        assert_eq!(servers.attempt_failed(&mut round, server, NOW, |_| 0), goes_on);
    }
    assert!(!round.is_running());

    let mut servers = Servers::new(3, Backoff::default());
    servers.failed(2, NOW, |_| 0);
    assert_eq!(first(&servers, 2, NOW), 0);
    // The first pause is 50 ms at most, and half of that at least.
    assert!(servers.is_in_backoff(2, after(24)));
    assert_eq!(first(&servers, 2, after(50)), 2);
    for _ in 0..20 {
        servers.failed(2, NOW, |bound| bound - 1);
    }
    assert!(servers.is_in_backoff(2, after(9_999)));
    assert!(!servers.is_in_backoff(2, after(10_001)));
    servers.established(2);
    assert!(!servers.is_in_backoff(2, NOW));
    assert_eq!(first(&servers, 2, NOW), 2);
}

#[test]
fn without_a_server_there_is_no_attempt_and_the_home_may_be_any_number() {
    let mut none = Servers::new(0, Backoff::default());
    let mut round = Round::new(0);
    assert_eq!(none.begin(&mut round, Instant::ZERO), None);
    assert_eq!(none.next_at(&round), None);
    none.failed(0, Instant::ZERO, |_| 0);
    let two = Servers::new(2, Backoff::default());
    assert_eq!(first(&two, 7, Instant::ZERO), 1);
    assert_eq!(first(&two, usize::MAX, Instant::ZERO), 1);
}

/// RFC 8305, section 5, with whole handshakes in place of TCP connections.
#[test]
fn beside_an_attempt_that_hangs_the_next_one_begins_after_a_delay() {
    let mut servers = Servers::new(3, Backoff::default());
    let mut round = Round::new(0);
    assert_eq!(begun(&servers, &mut round, NOW), [0]);
    assert_eq!(servers.next_at(&round), Some(after(250)));
    assert_eq!(begun(&servers, &mut round, after(249)), []);
    assert_eq!(begun(&servers, &mut round, after(250)), [1]);
    assert_eq!(servers.next_at(&round), Some(after(500)));
    // One that fails is followed by the next at once, beside that which hangs.
    assert!(servers.attempt_failed(&mut round, 1, after(300), |_| 0));
    assert_eq!(servers.next_at(&round), Some(after(300)));
    assert_eq!(begun(&servers, &mut round, after(300)), [2]);
    assert_eq!(servers.next_at(&round), None, "all were tried");
    // The one that hangs is the last that can fail the round.
    assert!(servers.attempt_failed(&mut round, 2, after(400), |_| 0));
    assert_eq!(begun(&servers, &mut round, after(4_000)), []);
    assert!(!servers.attempt_failed(&mut round, 0, after(5_000), |_| 0));
}

#[test]
fn the_first_that_completes_ends_the_round_and_the_slower_ones_are_not_tried_for_a_while() {
    let mut servers = Servers::new(4, Backoff::default());
    let mut round = Round::new(0);
    for (at, server) in [(0, 0), (250, 1), (500, 2)] {
        assert_eq!(begun(&servers, &mut round, after(at)), [server]);
    }
    let now = after(600);
    assert_eq!(servers.completed(&mut round, 1, now, |_| 0), [0]);
    assert!(!round.is_running());
    let backs_off = [0, 1, 2, 3].map(|server| servers.is_in_backoff(server, now));
    assert_eq!(backs_off, [true, false, false, false]);
    // The next round has nothing of the last one.
    assert_eq!(begun(&servers, &mut round, now), [1]);
    round.abandon();
    assert_eq!(begun(&servers, &mut round, after(1_000)), [0]);
    assert_eq!(servers.completed(&mut round, 0, after(1_000), |_| 0), []);
}

#[test]
fn a_server_that_was_skipped_is_tried_in_the_same_round_once_its_back_off_is_over() {
    let mut servers = Servers::new(2, Backoff::default());
    for (server, times) in [(0, 5), (1, 6)] {
        for _ in 0..times {
            servers.failed(server, NOW, |bound| bound - 1);
        }
    }
    // If all would be skipped, that which would be skipped for the shortest time is tried.
    let mut round = Round::new(1);
    assert_eq!(first(&servers, 1, NOW), 0);
    assert_eq!(begun(&servers, &mut round, NOW), [0]);
    let next = servers.next_at(&round).unwrap();
    assert!((after(1_500)..=after(1_600)).contains(&next), "{next:?}");
    assert_eq!(begun(&servers, &mut round, after(1_000)), []);
    assert_eq!(begun(&servers, &mut round, next), [1]);
}

/// The connections of a client share what is known of its servers.
#[test]
fn a_round_goes_on_although_another_has_found_the_last_server_dead() {
    let mut servers = Servers::new(2, Backoff::default());
    let mut round = Round::new(0);
    assert_eq!(begun(&servers, &mut round, NOW), [0]);
    assert!(servers.attempt_failed(&mut round, 0, NOW, |_| 0));
    servers.failed(1, after(1), |_| 0);
    assert_eq!(begun(&servers, &mut round, after(1)), [0]);
    assert!(servers.attempt_failed(&mut round, 0, after(100), |_| 0));
    assert_eq!(begun(&servers, &mut round, after(100)), [1]);
}

/// One that restarts drains its connections: it is tried again at once.
#[test]
fn a_server_whose_connection_has_drained_has_not_failed() {
    let ends = [
        (Some(ConnectionError::Closed), false),
        (Some(ConnectionError::ClosedByPeer), true),
        (Some(ConnectionError::Expired), true),
        (None, true),
    ];
    for ((end, failed), drained) in ends.into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let mut history = History::default();
        (history.end, history.drained) = (end, drained);
        let mut servers = Servers::new(2, Backoff::default());
        servers.lost(1, history, Instant::ZERO, |_| 0);
        let backs_off = servers.is_in_backoff(1, Instant::ZERO);
        assert_eq!(backs_off, failed && !drained, "{history:?}");
    }
}

/// A client takes another key if one of its servers accepts it.
#[test]
fn a_new_key_is_offered_to_the_connected_server_and_then_to_all_others() {
    let mut servers = Servers::new(4, Backoff::default());
    // This one would be skipped, and is asked last.
    servers.failed(3, NOW, |_| 0);
    let mut round = Round::of_new_key(Some(2), 0);
    for (server, goes_on) in [(2, true), (0, true), (1, true), (3, false)] {
        assert_eq!(begun(&servers, &mut round, NOW), [server]);
        assert_eq!(servers.attempt_failed(&mut round, server, NOW, |_| 0), goes_on);
    }
    // They may only not have the key yet.
    let backs_off = [0, 1, 2, 3].map(|server| servers.is_in_backoff(server, NOW));
    assert_eq!(backs_off, [false, false, false, true]);
    // Without a connection the home is first, and a server that hangs does not hold up the next.
    let mut round = Round::of_new_key(None, 1);
    assert_eq!(begun(&servers, &mut round, NOW), [1]);
    assert_eq!(servers.next_at(&round), Some(after(250)));
    assert_eq!(begun(&servers, &mut round, after(250)), [2]);
    assert!(servers.attempt_failed(&mut round, 2, after(260), |_| 0));
    assert_eq!(begun(&servers, &mut round, after(260)), [3], "its back-off is over");
    assert_eq!(servers.completed(&mut round, 3, after(270), |_| 0), [1]);
    assert!(!round.is_running());
}

#[test]
fn a_new_key_is_offered_although_all_servers_would_be_skipped() {
    let mut servers = Servers::new(2, Backoff::default());
    for server in [0, 1, 1] {
        servers.failed(server, NOW, |bound| bound - 1);
    }
    let mut round = Round::of_new_key(None, 1);
    assert_eq!(begun(&servers, &mut round, NOW), [0]);
    assert!(servers.attempt_failed(&mut round, 0, NOW, |_| 0));
    assert_eq!(begun(&servers, &mut round, NOW), [1]);
    assert_eq!(servers.completed(&mut round, 1, NOW, |_| 0), []);
    assert!(!servers.is_in_backoff(1, NOW));
}
