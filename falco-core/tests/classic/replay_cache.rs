//! The replay cache of a key remembers exactly as many nonces as it has places and forgets the
//! oldest first. It counts seals up to their limit, at which the key refuses and nothing is sent.

use std::collections::VecDeque;

use crate::common::{Handle, assert_ended, client, ends_with, handle, ms, pending_output};
use falco_core::crypto::Nonce;
use falco_core::testing::{CountingRng, key};
use falco_core::{
    ClassicKey, ClientConnection, ConnectionError, FixedReplayCache, HeapReplayCache, Instant, NonceRefused,
    OutputTooSmall, ReplayCache, SealError, Settings,
};
use proptest::prelude::*;

const NOW: Instant = ms(0);
const EXHAUSTED: ConnectionError = ConnectionError::KeyExhausted;

fn cache(nonces: usize) -> HeapReplayCache {
    HeapReplayCache::new(nonces, &mut CountingRng::new(5)).unwrap()
}

/// A nonce of a connection, as they count up.
fn nonce(connection: u8, number: u32) -> Nonce {
    let mut nonce = [connection; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce
}

#[test]
fn a_cache_remembers_exactly_as_many_nonces_as_it_has_places_and_forgets_the_oldest_first() {
    for slots in [0_u32, 1, 2, 3, 5, 32, 100] {
        let cache = cache(usize::try_from(slots).unwrap());
        for number in 0..3 * slots + 4 {
            assert_eq!(cache.check_open(&nonce(1, number)), Ok(()));
            // All within reach are remembered, and asking changes nothing.
            for known in (number + 1).saturating_sub(slots)..=number {
                if slots > 0 {
                    assert_eq!(
                        cache.check_open(&nonce(1, known)),
                        Err(NonceRefused::Seen),
                        "{slots} slots"
                    );
                    assert_eq!(cache.check_seal(&nonce(1, known)), Err(NonceRefused::Seen));
                }
            }
        }
        // The one beyond reach is forgotten. Asking makes it the newest.
        let last = 3 * slots + 3;
        assert_eq!(cache.check_open(&nonce(1, last - slots)), Ok(()), "{slots} slots");
        assert_eq!(cache.seals(), 0);
    }
}

#[test]
fn a_cache_remembers_the_nonce_zero_like_any_other() {
    for slots in [1, 2, 7] {
        let cache = cache(slots);
        assert_eq!(cache.check_open(&[0; 12]), Ok(()), "empty places hold no nonce");
        assert_eq!(cache.check_open(&[0; 12]), Err(NonceRefused::Seen));
    }
}

/// A linear search would take a hundred times as long as this allows.
#[test]
fn a_check_takes_no_longer_in_a_large_cache() {
    let (began, large) = (std::time::Instant::now(), cache(30_000));
    for number in 0..90_000 {
        let connection = u8::try_from(number % 7).unwrap();
        assert_eq!(large.check_open(&nonce(connection, number)), Ok(()));
    }
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
}

#[test]
fn nonces_chosen_without_the_secret_of_the_hash_do_not_share_a_bucket() {
    let (began, large) = (std::time::Instant::now(), cache(30_000));
    for low in 0..90_000_u32 {
        // Words that would cancel out if they were combined before they are mixed with a secret.
        let word = u64::from(low);
        let high = word.rotate_left(32) ^ word;
        let chosen: [u8; 12] = [&high.to_be_bytes()[..], &low.to_be_bytes()]
            .concat()
            .try_into()
            .unwrap();
        assert_eq!(large.check_open(&chosen), Ok(()));
    }
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
}

#[test]
fn a_new_cache_is_empty_and_a_generator_that_fails_is_an_error() {
    for _ in 0..2 {
        let heap = HeapReplayCache::new(4, &mut CountingRng::new(1)).unwrap();
        let fixed = FixedReplayCache::<4>::new(&mut CountingRng::new(1)).unwrap();
        for number in 0..9 {
            assert!(heap.check_open(&nonce(1, number)).is_ok());
            assert!(fixed.check_open(&nonce(1, number)).is_ok());
        }
    }
    for drawn in 0..24 {
        assert!(HeapReplayCache::new(4, &mut crate::common::Script(vec![1; drawn])).is_err());
        assert!(FixedReplayCache::<4>::new(&mut crate::common::Script(vec![1; drawn])).is_err());
    }
    assert!(HeapReplayCache::new(4, &mut crate::common::Script(vec![1; 24])).is_ok());
    assert!(FixedReplayCache::<4>::new(&mut crate::common::Script(vec![1; 24])).is_ok());
}

#[test]
fn both_kinds_of_cache_and_references_to_them_follow_the_same_rules() {
    fn check(cache: impl ReplayCache) {
        assert_eq!(
            (cache.check_open(&[1; 12]), cache.check_seal(&[2; 12])),
            (Ok(()), Ok(()))
        );
        assert_eq!(cache.check_seal(&[1; 12]), Err(NonceRefused::Seen));
        assert_eq!(cache.check_open(&[2; 12]), Err(NonceRefused::Seen));
        for number in 0..4 {
            assert_eq!(cache.check_open(&nonce(3, number)), Ok(()));
        }
        assert_eq!(cache.check_open(&[2; 12]), Ok(()), "four places, and five nonces since");
    }
    let (heap, fixed) = (cache(4), FixedReplayCache::<4>::new(&mut CountingRng::new(5)).unwrap());
    check(&heap);
    check(&fixed);
    assert_eq!((heap.seals(), fixed.seals()), (1, 1));
    fixed.add_seals(NonceRefused::SEALS_PER_KEY);
    assert_eq!(fixed.check_seal(&[9; 12]), Err(NonceRefused::Exhausted));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_is_a_queue_of_the_last_nonces(
        slots in 0..9_usize,
        steps in proptest::collection::vec((any::<bool>(), 0..3_u8, 0..8_u32), 0..200),
    ) {
        let (cache, mut model, mut seals) = (cache(slots), VecDeque::new(), 0);
        for (seal, connection, number) in steps {
            let nonce = nonce(connection, number);
            let new = !model.contains(&nonce);
            if new {
                model.push_back(nonce);
                if model.len() > slots {
                    model.pop_front();
                }
            }
            if seal {
                prop_assert_eq!(cache.check_seal(&nonce), if new { Ok(()) } else { Err(NonceRefused::Seen) });
                seals += u64::from(new);
            } else {
                prop_assert_eq!(cache.check_open(&nonce), if new { Ok(()) } else { Err(NonceRefused::Seen) });
            }
            prop_assert_eq!(cache.seals(), seals);
        }
    }
}

#[test]
fn seals_are_counted_to_two_to_the_32nd_and_no_further() {
    assert_eq!(NonceRefused::SEALS_PER_KEY, 4_294_967_296);
    for slots in [0, 3] {
        let cache = cache(slots);
        cache.add_seals(NonceRefused::SEALS_PER_KEY - 2);
        assert_eq!(
            (cache.check_seal(&nonce(1, 0)), cache.check_seal(&nonce(1, 1))),
            (Ok(()), Ok(()))
        );
        assert_eq!(cache.seals(), NonceRefused::SEALS_PER_KEY);
        assert_eq!(cache.check_seal(&nonce(1, 2)), Err(NonceRefused::Exhausted));
        assert_eq!(
            cache.check_open(&nonce(1, 2)),
            Ok(()),
            "it was not remembered, and opening goes on"
        );
        cache.add_seals(u64::MAX);
        assert_eq!(
            (cache.seals(), cache.check_seal(&nonce(1, 9))),
            (u64::MAX, Err(NonceRefused::Exhausted))
        );
    }
}

fn with_seals_left(left: u64) -> Handle {
    let key = handle();
    key.replay_cache().add_seals(NonceRefused::SEALS_PER_KEY - left);
    key
}

#[test]
fn a_client_under_an_exhausted_key_sends_nothing_more() {
    let mut none = client(&with_seals_left(0), &Settings::new(), 1);
    assert_eq!(none.poll_transmit(NOW, &mut [0; 157]), Ok(0));
    assert_ended(&mut none, NOW, EXHAUSTED);

    let mut both = ends_with(&with_seals_left(3), &handle(), &Settings::new(), 1);
    both.request(b"1");
    both.request(b"2");
    // The call that sealed something returns its length, the next one returns the error.
    let (mut message, mut out) = (both.client.request(1).unwrap(), [0; 100]);
    both.client.ping().unwrap();
    assert_eq!(
        both.client.seal(NOW, [(&mut message, b"3".as_slice())], &mut out),
        Ok(1)
    );
    let again = both.client.seal(NOW, [(&mut message, b"3".as_slice())], &mut out);
    assert_eq!(again, Err(SealError::Connection(EXHAUSTED)));
    assert!(!message.is_done() && message.id().is_none());
    assert_eq!(both.client.in_flight(), 2);
    assert_ended(&mut both.client, NOW, EXHAUSTED);
}

#[test]
fn a_server_under_an_exhausted_key_sends_nothing_more() {
    let mut both = ends_with(&handle(), &with_seals_left(1), &Settings::new(), 1);
    let requests = [both.request(b"1"), both.request(b"2")];
    let [one, two] = requests.map(|request| both.receive_request(&request).0);
    let (mut first, mut second) = (both.server.answer(one, 1).unwrap(), both.server.answer(two, 1).unwrap());
    let (mut out, body) = ([0; 100], b"!".as_slice());
    assert_eq!(
        both.server
            .seal(NOW, [(&mut first, body), (&mut second, body)], &mut out),
        Ok(37)
    );
    assert!(first.is_done() && !second.is_done());
    let again = both.server.seal(NOW, [(&mut second, body)], &mut out);
    assert_eq!(again, Err(SealError::Connection(EXHAUSTED)));
    assert_ended(&mut both.server, NOW, EXHAUSTED);
}

#[test]
fn a_message_that_finds_no_room_uses_no_seal_and_no_nonce() {
    let key = handle();
    let mut both = ends_with(&key, &handle(), &Settings::new(), 1);
    let (mut message, body) = (both.client.request(3).unwrap(), b"one".as_slice());
    let seals = key.replay_cache().seals();
    for given in 0..40 {
        let small = OutputTooSmall { needed: 40, given };
        assert_eq!(
            both.client.seal(NOW, [(&mut message, body)], &mut vec![0; given]),
            Err(small.into())
        );
    }
    assert_eq!(key.replay_cache().seals(), seals);
    let request = both.request(b"two");
    assert_eq!(request[9..21], *next(&both.hello[1..13]), "the nonce after the hello's");
}

fn next(nonce: &[u8]) -> Vec<u8> {
    let number = nonce
        .iter()
        .fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
        + 1;
    number.to_be_bytes()[4..].to_vec()
}

#[test]
fn no_nonce_is_used_twice_even_if_the_generator_repeats_itself() {
    let key = handle();
    let hello = pending_output(&mut client(&key, &Settings::new(), 1), NOW);
    assert_eq!(hello.len(), 157);
    let mut second = client(&key, &Settings::new(), 1);
    assert_eq!(second.poll_transmit(NOW, &mut [0; 157]), Ok(0));
    assert_ended(&mut second, NOW, EXHAUSTED);
}

#[test]
fn a_connection_may_borrow_its_key() {
    let classic = ClassicKey::new(key(7), cache(2));
    let mut client = ClientConnection::new(&classic, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
    assert_eq!(pending_output(&mut client, NOW).len(), 157);
    assert_eq!(classic.replay_cache().seals(), 1);
}
