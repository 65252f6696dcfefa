//! What a server decides about a connection that arrives, that it waits for, and whose handshake is
//! complete.

use falco_core::keys::Secrets;
use falco_core::mux::{Admission, AdmissionLimits, MustClose};
use falco_core::{Key, KeyId};

use crate::admission::{LIMITS, admit, admits, full, is_within, ms, source};

fn key_id(number: u8) -> KeyId {
    Key::from_bytes([number; 32]).unwrap().id()
}

#[test]
fn at_its_own_limit_a_source_loses_its_own_and_at_twice_that_gets_nothing() {
    let limits = AdmissionLimits {
        max_half_open_per_source: Some(4),
        ..LIMITS
    };
    let mut admission = Admission::new(limits, 1);
    for number in 0..4 {
        assert_eq!(admit(&mut admission, number, source(1), 0), Some(vec![]));
        assert_eq!(admission.all_read(number, ms(0)), None);
    }
    let selected = admit(&mut admission, 4, source(1), 0).unwrap();
    assert!(matches!(selected[..], [0..4]), "{selected:?}");
    assert_eq!(admit(&mut admission, 5, source(2), 0), Some(vec![]));
    assert_eq!(admission.all_read(5, ms(0)), None);
    assert_eq!(admission.all_read(4, ms(0)), None, "one is being dropped");
    // Its bytes have arrived, so it is kept and another connection is dropped.
    admission.keep(selected[0]);
    let other = admission.all_read(4, ms(0));
    assert!(
        other.is_some_and(|other| other < 5 && other != selected[0]),
        "{other:?}"
    );
    for number in 6..9 {
        assert!(admits(&mut admission, number, source(1)));
    }
    assert_eq!(admit(&mut admission, 9, source(1), 0), None);
    assert_eq!(admit(&mut admission, 10, source(2), 0), Some(vec![]));
    assert_eq!(admission.half_open(), 10);
}

#[test]
fn nothing_is_admitted_without_room() {
    let mut admission = full(8);
    assert!(admission.may_have_room_later());
    assert_eq!(admit(&mut admission, 8, source(1), 0), None);
    assert_eq!((admission.connections(), admission.half_open()), (8, 8));
}

#[test]
fn one_that_is_admitted_has_its_place_replaced_and_one_more_freed() {
    // Of 64 places four are kept free, and none is.
    let mut admission = full(64);
    for _ in 0..2 {
        let number = admission.select(ms(0), Some(source(1))).unwrap();
        admission.leave(number);
    }
    let selected = admit(&mut admission, 64, source(1), 0).unwrap();
    assert_eq!(selected.len(), 2, "{selected:?}");
    for number in selected {
        admission.leave(number);
    }
    // Three are free before this one, and no more are kept free of 62.
    let selected = admit(&mut admission, 65, source(1), 0).unwrap();
    assert_eq!(selected.len(), 1, "{selected:?}");
}

#[test]
fn a_connection_is_closed_for_the_first_of_three_reasons() {
    let limits = AdmissionLimits {
        max_connections_per_key: Some(1),
        ..LIMITS
    };
    let (retired, stopping, over) = (
        Some(MustClose::KeyRetired),
        Some(MustClose::ShuttingDown),
        Some(MustClose::OverLimit),
    );
    let key = Some(key_id(1));
    // A guest is not counted, but is closed as well.
    for guest in [false, true] {
        let mut admission = Admission::new(limits, 1);
        for number in 0..5 {
            assert!(guest || admits(&mut admission, number, source(1)));
        }
        assert_eq!(admission.establish(0, key, false), None);
        assert_eq!(admission.establish(1, key, true), retired);
        let second = if guest { None } else { over };
        assert_eq!(admission.establish(2, key, false), second);
        assert!(!admission.is_stopping());
        admission.stop();
        assert!(admission.is_stopping());
        assert_eq!(admission.establish(3, key, true), retired);
        assert_eq!(admission.establish(4, key, false), stopping);
        assert!(!admits(&mut admission, 5, source(1)), "there is room");
        assert_eq!(admission.under_key(key), usize::from(!guest));
        assert_eq!(admission.connections(), if guest { 0 } else { 5 });
    }
}

#[test]
fn a_key_at_its_limit_gets_no_further_connection_and_others_do() {
    let limits = AdmissionLimits {
        max_connections_per_key: Some(2),
        ..LIMITS
    };
    let mut admission = Admission::new(limits, 1);
    for number in 0..6 {
        assert!(admits(&mut admission, number, source(1)));
    }
    let (one, other) = (Some(key_id(1)), Some(key_id(2)));
    assert!(is_within(&mut admission, 0, one) && is_within(&mut admission, 1, one));
    assert!(!is_within(&mut admission, 2, one));
    assert!(is_within(&mut admission, 3, other) && is_within(&mut admission, 4, None));
    assert_eq!([one, other, None].map(|key| admission.under_key(key)), [2, 1, 1]);
    // One that was over the limit gives nothing back.
    admission.leave(2);
    assert!(admits(&mut admission, 7, source(1)) && !is_within(&mut admission, 7, one));
    admission.leave(0);
    assert!(is_within(&mut admission, 5, one));
    assert_eq!((admission.connections(), admission.half_open()), (5, 0));
}

#[test]
fn the_classic_wire_has_a_limit_of_its_own_beside_the_noise_wire() {
    let limits = AdmissionLimits {
        max_connections: 9,
        ..LIMITS
    };
    let keys = |noise, classic: u8| Secrets {
        noise: (0..noise)
            .map(|number| Key::from_bytes([number + 1; 32]).unwrap())
            .collect(),
        classic: (classic > 0).then(|| Key::from_bytes([classic; 32]).unwrap()),
        ..Secrets::default()
    };
    assert_eq!(limits.for_keys(&keys(1, 0)), limits, "one wire");
    assert_eq!(limits.for_keys(&keys(0, 9)), limits, "one wire");
    let both = keys(1, 9);
    assert_eq!(limits.for_keys(&both).max_classic_connections, Some(4));
    let own = AdmissionLimits {
        max_classic_connections: Some(7),
        ..limits
    };
    assert_eq!(own.for_keys(&both), own, "one that was set stays");
    assert_eq!(own.within(6).max_classic_connections, Some(3));

    let mut admission = Admission::new(limits.for_keys(&both), 1);
    for number in 0..9 {
        assert!(admits(&mut admission, number, source(1)));
    }
    // Those over the limit give nothing back when they leave.
    for number in 0..8 {
        assert_eq!(is_within(&mut admission, number, None), number < 4, "{number}");
    }
    for number in 4..8 {
        admission.leave(number);
        assert!(
            admits(&mut admission, 10 + number, source(1)) && is_within(&mut admission, 10 + number, Some(key_id(1)))
        );
    }
    assert_eq!(admission.connections(), 9);
    assert!(!is_within(&mut admission, 8, None));
    admission.leave(8);
    admission.leave(0);
    assert!(admits(&mut admission, 20, source(1)) && is_within(&mut admission, 20, None));
}

#[test]
fn where_all_are_established_there_is_no_room() {
    let limits = AdmissionLimits {
        max_connections: 2,
        ..LIMITS
    };
    let mut admission = Admission::new(limits, 1);
    for number in 0..2 {
        assert!(admission.has_room());
        assert!(admits(&mut admission, number, source(1)));
    }
    assert!(is_within(&mut admission, 0, None));
    assert!(admission.may_have_room_later());
    assert!(is_within(&mut admission, 1, None));
    assert!(!admission.has_room() && !admission.may_have_room_later());
    admission.leave(0);
    assert!(admission.has_room());
}
