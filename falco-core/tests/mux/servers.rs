//! Which server of several the next attempt goes to, and how long one that failed is left alone.

use falco_core::mux::{Backoff, Servers};
use falco_core::{ConnectionError, Instant};

#[test]
fn servers_take_turns_and_one_that_failed_is_left_alone_for_a_while() {
    let mut servers = Servers::new(3, Backoff::default());
    let now = Instant::from_millis(1_000);
    assert_eq!(servers.next(1, 0, now), Some((1, 1)));
    assert_eq!(servers.next(1, 1, now), Some((2, 2)));
    assert_eq!(servers.next(1, 2, now), Some((0, 3)));
    assert_eq!(servers.next(1, 3, now), None);
    servers.failed(2, now, |_| 0);
    assert_eq!(servers.next(1, 1, now), Some((0, 3)));
    assert_eq!(servers.next(2, 0, now), Some((0, 2)));
    // The first pause is 50 ms at most, and half of that at least.
    assert!(servers.is_left_alone(2, Instant::from_millis(1_024)));
    assert_eq!(servers.next(2, 0, Instant::from_millis(1_050)), Some((2, 1)));
    for _ in 0..20 {
        servers.failed(2, now, |bound| bound - 1);
    }
    assert!(servers.is_left_alone(2, Instant::from_millis(10_999)));
    assert!(!servers.is_left_alone(2, Instant::from_millis(11_001)));
    servers.established(2);
    assert!(!servers.is_left_alone(2, now));
    assert_eq!(servers.next(2, 0, now), Some((2, 1)));
}

#[test]
fn without_a_server_there_is_no_attempt_and_the_home_may_be_any_number() {
    let mut none = Servers::new(0, Backoff::default());
    assert_eq!(none.next(0, 0, Instant::ZERO), None);
    none.failed(0, Instant::ZERO, |_| 0);
    let two = Servers::new(2, Backoff::default());
    assert_eq!(two.next(7, 0, Instant::ZERO), Some((1, 1)));
    assert_eq!(two.next(usize::MAX, 1, Instant::ZERO), Some((0, 2)));
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
    for (end, failed) in ends {
        let mut servers = Servers::new(2, Backoff::default());
        servers.lost(1, end, Instant::ZERO, |_| 0);
        assert_eq!(servers.is_left_alone(1, Instant::ZERO), failed, "{end:?}");
    }
}
