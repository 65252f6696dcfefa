//! A server's key ring with many keys: what it costs to make one and to look a key up. The limits
//! are ratios within one run, and far from both what a table by id takes and what a search takes.

use core::time::Duration;
use std::time::Instant;

use falco_core::keys::{Secrets, ServerKeys};
use falco_core::noise::Ring;
use falco_core::testing::CountingRng;
use falco_core::{Key, KeyId};

const FEW: usize = 1_000;
const MANY: usize = 50_000;

fn keys(count: usize, seed: u64) -> Vec<Key> {
    let mut rng = CountingRng::new(seed);
    (0..count).map(|_| Key::generate(&mut rng).unwrap()).collect()
}

/// A server with so many keys, their ids, and how long it took to make.
fn server(count: usize) -> (ServerKeys, Vec<KeyId>, Duration) {
    let noise = keys(count, 1);
    let ids = noise.iter().map(Key::id).collect();
    let secrets = Secrets {
        noise,
        ..Secrets::default()
    };
    let start = Instant::now();
    let server = secrets.into_server(&mut CountingRng::new(2)).unwrap();
    (server, ids, start.elapsed())
}

/// How long it takes to look all of these up, at best.
fn look_up(server: &ServerKeys, ids: &[KeyId], known: bool) -> Duration {
    let ring = server.test_ring().unwrap();
    let looks = (0..5).map(|_| {
        let start = Instant::now();
        for id in ids {
            assert_eq!(ring.select(*id, &mut [0; 32]), known);
        }
        start.elapsed()
    });
    looks.min().unwrap()
}

#[test]
fn one_ring_of_many_keys_takes_about_as_long_to_make_as_many_rings_of_few() {
    let rounds = (0..3).map(|_| {
        let many_rings: Duration = (0..MANY / FEW).map(|_| server(FEW).2).sum();
        (many_rings, server(MANY).2)
    });
    // Other processes disturb some rounds.
    let (few, many) = rounds.min_by_key(|(few, many)| *few + *many).unwrap();
    assert!(
        many < few * 5,
        "{MANY} keys took {few:?} in rings of {FEW}, and {many:?} in one"
    );
}

#[test]
fn a_look_up_among_fifty_times_the_keys_takes_about_as_long_whether_there_is_the_key_or_not() {
    let (small, small_ids, _) = server(FEW);
    let (large, ids, _) = server(MANY);
    let unknown: Vec<_> = keys(FEW, 3).iter().map(Key::id).collect();
    // Keys from all over the ring.
    let spread: Vec<_> = ids.iter().copied().step_by(MANY / FEW).collect();
    for (what, among_few, among_many) in [
        (
            "known",
            look_up(&small, &small_ids, true),
            look_up(&large, &spread, true),
        ),
        (
            "unknown",
            look_up(&small, &unknown, false),
            look_up(&large, &unknown, false),
        ),
    ] {
        // Memory that is not cached costs some.
        assert!(
            among_many < among_few * 15,
            "{FEW} {what} ids took {among_few:?} among {FEW} keys, {among_many:?} among {MANY}"
        );
    }
}

#[test]
fn keys_come_and_go_among_many() {
    let (server, ids, _) = server(2_000);
    let ring = server.test_ring().unwrap();
    let contains = |id: KeyId| !server.is_retired(Some(id));
    for (number, id) in ids.iter().enumerate() {
        assert!(server.retire(*id));
        assert!(!server.retire(*id));
        assert!(!contains(*id) && !ring.select(*id, &mut [0; 32]));
        assert!(ids.iter().skip(number + 1).take(3).all(|id| contains(*id)));
    }
    for key in keys(2_000, 1) {
        server.add(key, None).unwrap();
    }
    assert!(ids.iter().all(|id| contains(*id)));
}

#[test]
fn an_unknown_id_is_given_a_secret_that_no_key_has() {
    let (server, ids, _) = server(3);
    let ring = server.test_ring().unwrap();
    let psk = |id| {
        let mut psk = [0; 32];
        (ring.select(id, &mut psk), psk)
    };
    let unknown: Vec<_> = keys(2, 9).iter().map(Key::id).collect();
    let (first, second) = (psk(unknown[0]), psk(unknown[1]));
    assert_eq!((first.0, second.0), (false, false));
    assert_eq!(first.1, second.1);
    assert_ne!(first.1, [0; 32]);
    assert!(ids.iter().all(|id| psk(*id).1 != first.1));
}
