//! Which half-open connection a server drops: the rule, and what honest clients get through under
//! floods on a virtual clock, with random numbers that are the same in each run.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::VecDeque;

use falco_core::mux::{Admission, AdmissionLimits, Source};
use falco_core::{Instant, KeyId};

const MAX_HALF_OPEN: usize = 1024;
pub(crate) const LIMITS: AdmissionLimits = AdmissionLimits::new(10_000, MAX_HALF_OPEN);

pub(crate) fn source(number: u32) -> Source {
    Source::of(IpAddr::V4(Ipv4Addr::from(number)), Source::PREFIX)
}

/// Which connections are selected to be dropped; `None` where it is not admitted.
pub(crate) fn admit(admission: &mut Admission, number: u64, source: Source, now: u64) -> Option<Vec<u64>> {
    Some(admission.admit(number, source, ms(now))?.collect())
}

/// Whether it is admitted, at 0.
pub(crate) fn admits(admission: &mut Admission, number: u64, source: Source) -> bool {
    admit(admission, number, source, 0).is_some()
}

/// Whether it is not over a limit of its key.
pub(crate) fn is_within(admission: &mut Admission, number: u64, key: Option<KeyId>) -> bool {
    admission.establish(number, key, false).is_none()
}

pub(crate) fn ms(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

/// A table with so many places, in which numbers from 0 on are taken and waited for since 0.
pub(crate) fn full(places: u64) -> Admission {
    let limits = AdmissionLimits {
        max_half_open: usize::try_from(places).unwrap(),
        ..LIMITS
    };
    let mut admission = Admission::new(limits, 1);
    for number in 0..places {
        assert!(admits(&mut admission, number, source(1)));
    }
    for number in 0..places {
        assert_eq!(admission.all_read(number, ms(0)), None);
    }
    admission
}

/// Drops connections for others, which the server does not wait for, until it cannot.
fn drop_all(admission: &mut Admission, now: Instant) -> Vec<u64> {
    let mut dropped = Vec::new();
    while let Some(number) = admission.select(now, Some(source(8))) {
        admission.leave(number);
        dropped.push(number);
        // Those that keep a part of the places free make room for several.
        let mut other = 1_000_000 + number;
        while admission.has_room() {
            for number in admit(admission, other, source(7), now.as_millis()).unwrap() {
                admission.leave(number);
                dropped.push(number);
            }
            other += 1_000_000;
        }
    }
    dropped
}

#[test]
fn nothing_is_dropped_while_places_are_free_or_nobody_needs_one() {
    let mut admission = full(8);
    assert!(admission.may_have_room_later());
    let needed = Some(source(1));
    assert_eq!(admission.select(ms(5000), None), None);
    let first = admission.select(ms(5000), needed).unwrap();
    assert_eq!(admission.select(ms(5000), needed), None, "one is being dropped");
    admission.leave(first);
    assert!(admission.has_room());
    assert_eq!(admission.select(ms(5000), needed), None);
}

#[test]
fn some_places_are_kept_free_of_connections_without_a_hello() {
    let mut admission = full(64);
    let mut selected = 0;
    while admission.select(ms(50), None).is_some() {
        selected += 1;
    }
    assert_eq!(selected, 64 / 16);
    // Not of those with one.
    let mut admission = full(64);
    for number in 0..64 {
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(50));
    }
    assert_eq!(admission.select(ms(5000), None), None);
    assert!(admission.select(ms(5000), Some(source(1))).is_some());
}

#[test]
fn what_the_server_has_not_read_is_never_dropped() {
    let mut admission = Admission::new(LIMITS, 1);
    for number in 0..100 {
        assert!(admits(&mut admission, number, source(1)));
    }
    assert_eq!(admission.select_late(ms(60_000)), None);
    admission.all_read(7, ms(10_000));
    assert_eq!(admission.select_late(ms(60_000)), Some(7));
    assert!(admission.is_selected(7));
    admission.keep(7);
    assert!(!admission.is_selected(7));
    assert_eq!(admission.select_late(ms(60_000)), None);
}

#[test]
fn sending_byte_by_byte_gains_nothing() {
    let mut admission = full(3);
    for step in 1..10 {
        admission.keep(0);
        admission.all_read(0, ms(step));
    }
    // It is the oldest still, and one of the older half of three goes first.
    let dropped = drop_all(&mut admission, ms(100));
    assert_ne!(dropped.last(), Some(&0), "{dropped:?}");
}

#[test]
fn connections_without_a_hello_or_with_a_replay_are_dropped_first() {
    let mut admission = full(100);
    for number in 0..50 {
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(1));
    }
    for number in 50..75 {
        assert!(!admission.hello(number, number - 50), "it came before");
        admission.all_read(number, ms(1));
    }
    let dropped = drop_all(&mut admission, ms(1001));
    assert_eq!(dropped.len(), 100);
    assert_eq!(admission.half_open(), 100);
    assert!(dropped.iter().take(50).all(|number| *number >= 50), "{dropped:?}");
}

#[test]
fn a_hello_that_is_one_packet_behind_is_spared_where_more_hold_a_place_with_one() {
    let mut admission = full(11);
    for number in 0..10 {
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(0));
    }
    admission.leave(10);
    assert!(admits(&mut admission, 11, source(1)));
    admission.all_read(11, ms(100));
    let needed = Some(source(1));
    assert_eq!(admission.select(ms(119), needed), None);
    assert_eq!(admission.due(ms(119)), Some(ms(120)));
    assert_eq!(admission.select(ms(120), needed), Some(11));
    assert_eq!(full(1).select(ms(0), needed), Some(0), "there are no others");
}

#[test]
fn where_something_else_is_short_only_what_is_late_is_dropped_and_one_at_a_time() {
    let mut admission = Admission::new(LIMITS, 1);
    for number in 0..4 {
        assert!(admits(&mut admission, number, source(1)));
    }
    for (number, since) in [(0, 10), (1, 0), (2, 20), (3, 5)] {
        if number >= 2 {
            assert!(admission.hello(number, number));
        }
        admission.all_read(number, ms(since));
    }
    assert_eq!(admission.select_late(ms(99)), None);
    assert_eq!(admission.select_late(ms(100)), Some(1));
    assert_eq!(admission.select_late(ms(5000)), None);
    admission.leave(1);
    assert_eq!(admission.select_late(ms(110)), Some(0));
    admission.leave(0);
    assert_eq!(admission.select_late(ms(1004)), None);
    assert_eq!(admission.select_late(ms(1005)), Some(3));
}

#[test]
fn connections_of_a_source_over_its_share_are_dropped_first() {
    let limits = AdmissionLimits {
        max_half_open: 40,
        ..LIMITS
    };
    let mut admission = Admission::new(limits, 1);
    for number in 0..40 {
        // The first 20 come from places of their own, the others from one.
        assert!(admits(
            &mut admission,
            number,
            source(u32::try_from(number.min(20)).unwrap())
        ));
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(number));
    }
    let dropped = drop_all(&mut admission, ms(1000));
    // Down to what is few.
    assert!(dropped.iter().take(12).all(|number| *number >= 20), "{dropped:?}");
}

#[test]
fn no_limit_is_zero() {
    let limits = AdmissionLimits {
        max_connections: 0,
        max_half_open: 0,
        max_half_open_per_source: Some(0),
        max_connections_per_key: Some(0),
        max_classic_connections: Some(0),
    };
    let mut admission = Admission::new(limits.within(0), 1);
    assert!(admission.has_room());
    assert!(admits(&mut admission, 0, source(1)) && is_within(&mut admission, 0, None));
}

#[test]
fn a_replay_is_recognised_among_the_last_sixteen_thousand() {
    let mut admission = Admission::new(LIMITS, 1);
    assert!(admits(&mut admission, 0, source(1)));
    for fingerprint in 0..16_384 {
        assert!(admission.hello(0, fingerprint));
    }
    for fingerprint in 0..16_384 {
        assert!(!admission.hello(0, fingerprint), "{fingerprint}");
    }
    for fingerprint in 16_384..3 * 16_384 {
        assert!(admission.hello(0, fingerprint));
    }
    assert!(admission.hello(0, 0), "the memory is bounded");
}

#[test]
fn the_hello_of_a_connection_that_was_not_admitted_is_not_remembered() {
    let mut admission = Admission::new(LIMITS, 1);
    assert!(admission.hello(1, 7), "it is a guest");
    assert!(admits(&mut admission, 2, Source::NONE));
    assert!(admission.hello(2, 7));
    assert!(!admission.hello(2, 7));
}

/// What comes of a flood.
#[derive(Clone, Copy)]
enum Flood {
    Silent,
    Replays,
    /// Hellos that the server has not seen, of somebody who has a key or many recordings.
    FreshHellos,
}

/// How many of 200 honest clients get in, each of which needs a round trip after its hello, while
/// `rate` connections a millisecond come from `sources` sources. Honest ones come from source 0.
fn get_in(flood: Flood, rate: u64, sources: u32, round_trip: u64) -> usize {
    const HONEST: usize = 200;
    let mut admission = Admission::new(LIMITS, 0x5EED);
    let (mut next, mut counted, mut arrived) = (0, 0, 0);
    let mut due: VecDeque<(u64, u64)> = VecDeque::new();
    let mut dropped = std::collections::BTreeSet::new();
    let mut arrive = |admission: &mut Admission, now: u64, from: u32, dropped: &mut std::collections::BTreeSet<u64>| {
        let number = next;
        next += 1;
        while admission.may_have_room_later() {
            let selected = admission
                .select(ms(now), Some(source(from)))
                .expect("somebody can be dropped");
            admission.leave(selected);
            dropped.insert(selected);
        }
        for selected in admit(admission, number, source(from), now).unwrap() {
            admission.leave(selected);
            dropped.insert(selected);
        }
        admission.all_read(number, ms(now));
        number
    };
    let mut flooder = 0_u64;
    for now in 1_000.. {
        for _ in 0..rate {
            flooder += 1;
            let from = u32::try_from(flooder).unwrap() % sources;
            let number = arrive(&mut admission, now, from, &mut dropped);
            let fingerprint = match flood {
                Flood::Silent => continue,
                Flood::Replays => flooder % 50,
                Flood::FreshHellos => flooder,
            };
            admission.hello(number, fingerprint);
            admission.all_read(number, ms(now));
        }
        // When the places have been full for a while.
        if now > 3_000 && now % 10 == 0 && arrived < HONEST {
            arrived += 1;
            let number = arrive(&mut admission, now, 0, &mut dropped);
            // The hello comes within the same millisecond.
            assert!(admission.hello(number, u64::MAX - number));
            admission.all_read(number, ms(now));
            due.push_back((now + round_trip, number));
        }
        while let Some((_, number)) = due.front().copied().filter(|(at, _)| *at <= now) {
            due.pop_front();
            if !dropped.contains(&number) {
                assert!(is_within(&mut admission, number, None));
                admission.leave(number);
                counted += 1;
            }
        }
        if arrived == HONEST && due.is_empty() {
            break;
        }
    }
    counted
}

#[test]
fn silent_floods_keep_nobody_out() {
    for sources in [1, 20_000] {
        assert_eq!(get_in(Flood::Silent, 8, sources, 200), 200, "from {sources}");
        assert_eq!(get_in(Flood::Silent, 40, sources, 200), 200, "from {sources}");
    }
}

#[test]
fn replays_keep_nobody_out() {
    for sources in [1, 20_000] {
        assert_eq!(get_in(Flood::Replays, 1, sources, 200), 200, "from {sources}");
        assert_eq!(get_in(Flood::Replays, 10, sources, 200), 200, "from {sources}");
    }
}

/// Of somebody who has a key, or more recordings than the server remembers.
#[test]
fn fresh_hellos_keep_nobody_out_if_there_are_places_for_one_second_of_them() {
    // 1024 places, at 1,000 a second.
    assert_eq!(get_in(Flood::FreshHellos, 1, 1, 200), 200);
    assert_eq!(get_in(Flood::FreshHellos, 1, 20_000, 200), 200);
}

#[test]
fn a_hello_has_a_second_for_what_follows_it() {
    let mut admission = full(20);
    for number in 0..20 {
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(100 + number));
    }
    // All of its own source, as after a restart of the server behind a proxy.
    let needed = Some(source(1));
    assert_eq!(admission.select(ms(1099), needed), None);
    assert_eq!(admission.due(ms(1099)), Some(ms(1100)));
    assert_eq!(admission.select(ms(1100), needed), Some(0));
    assert_eq!(admission.select(ms(2000), needed), None, "one by one");
    admission.leave(0);
    assert!(admits(&mut admission, 20, source(1)));
    assert!(
        admission.select(ms(1100), Some(source(2))).is_some(),
        "for another source at once"
    );
}

#[test]
fn handshakes_in_progress_are_bounded_and_silent_connections_do_not_count() {
    let limits = AdmissionLimits {
        max_half_open: 5000,
        ..LIMITS
    };
    let mut admission = Admission::new(limits, 1);
    for number in 0..2000 {
        assert!(admission.has_room());
        assert!(admits(&mut admission, number, source(1)));
        admission.all_read(number, ms(0));
    }
    for number in 2000..3024 {
        assert!(admission.has_room());
        assert!(admits(&mut admission, number, source(1)));
    }
    assert!(admission.may_have_room_later());
    assert_eq!(
        admission.select(ms(100), Some(source(1))),
        None,
        "none in progress is late"
    );
    assert!(is_within(&mut admission, 2000, None));
    assert!(admission.has_room());
}

#[test]
fn an_honest_source_beside_one_that_floods_keeps_its_places() {
    let mut admission = Admission::new(LIMITS, 3);
    for number in 0..10 {
        assert!(admits(&mut admission, number, source(0)));
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(0));
    }
    for number in 10..50_000 {
        while admission.may_have_room_later() {
            let selected = admission.select(ms(number), Some(source(0))).unwrap();
            assert!(selected >= 10);
            admission.leave(selected);
        }
        for selected in admit(&mut admission, number, source(9), number).unwrap() {
            assert!(selected >= 10);
            admission.leave(selected);
        }
        assert!(admission.hello(number, number));
        admission.all_read(number, ms(number));
    }
}
