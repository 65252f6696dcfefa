//! The ledger of a key: exactly as many nonces remembered as it has slots, the oldest forgotten
//! first; seals counted up to their limit, at which the key refuses and nothing goes out.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Mutex;

use common::{Handle, assert_ended, client, ends_with, handle, ms, owed};
use falco_core::crypto::Nonce;
use falco_core::testing::{CountingRng, key};
use falco_core::{
    ClassicKey, ClientConnection, ConnectionError, Instant, Ledger, NonceLedger, NonceSeen, NonceSlot, OutputTooSmall,
    SEALS_PER_KEY, SealError, SealRefused, Settings,
};
use proptest::prelude::*;

const NOW: Instant = ms(0);
const EXHAUSTED: ConnectionError = ConnectionError::KeyExhausted;

fn ledger(slots: usize) -> NonceLedger<Vec<NonceSlot>> {
    NonceLedger::new(vec![NonceSlot::EMPTY; slots], &mut CountingRng::new(5)).unwrap()
}

/// Nonces that count up from a first, as those of a connection do.
fn nonce(connection: u8, number: u32) -> Nonce {
    let mut nonce = [connection; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce
}

#[test]
fn a_ledger_remembers_exactly_as_many_nonces_as_it_has_slots_and_forgets_the_oldest_first() {
    for slots in [0_u32, 1, 2, 3, 5, 32, 100] {
        let mut ledger = ledger(usize::try_from(slots).unwrap());
        for number in 0..3 * slots + 4 {
            assert_eq!(ledger.open(&nonce(1, number)), Ok(()));
            // All within reach are known, by which nothing changes.
            for known in (number + 1).saturating_sub(slots)..=number {
                if slots > 0 {
                    assert_eq!(ledger.open(&nonce(1, known)), Err(NonceSeen::new()), "{slots} slots");
                    assert_eq!(ledger.seal(&nonce(1, known)), Err(SealRefused::NonceUsed));
                }
            }
        }
        // And the one beyond reach is forgotten; to ask makes it the newest.
        let last = 3 * slots + 3;
        assert_eq!(ledger.open(&nonce(1, last - slots)), Ok(()), "{slots} slots");
        assert_eq!(ledger.seals(), 0);
    }
}

#[test]
fn a_ledger_knows_the_nonce_zero_like_any_other() {
    for slots in [1, 2, 7] {
        let mut ledger = ledger(slots);
        assert_eq!(ledger.open(&[0; 12]), Ok(()), "empty slots hold no nonce");
        assert_eq!(ledger.open(&[0; 12]), Err(NonceSeen::new()));
    }
}

/// A memory that were searched from end to end would take a hundred times as long as this allows.
#[test]
fn a_check_takes_no_longer_where_much_is_remembered() {
    let (began, mut large) = (std::time::Instant::now(), ledger(30_000));
    for number in 0..90_000 {
        let connection = u8::try_from(number % 7).unwrap();
        assert_eq!(large.open(&nonce(connection, number)), Ok(()));
    }
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
}

#[test]
fn nonces_chosen_without_the_ledgers_secret_do_not_share_a_bucket() {
    let (began, mut large) = (std::time::Instant::now(), ledger(30_000));
    for low in 0..90_000_u32 {
        // Words that cancel out, were they put together before they meet a secret.
        let word = u64::from(low);
        let high = word.rotate_left(32) ^ word;
        let chosen: [u8; 12] = [&high.to_be_bytes()[..], &low.to_be_bytes()]
            .concat()
            .try_into()
            .unwrap();
        assert_eq!(large.open(&chosen), Ok(()));
    }
    assert!(began.elapsed().as_secs() < 8, "{:?}", began.elapsed());
}

#[test]
fn storage_is_emptied_and_a_generator_that_fails_is_an_error() {
    let mut storage = [NonceSlot::EMPTY; 4];
    let mut first = NonceLedger::new(storage.as_mut_slice(), &mut CountingRng::new(1)).unwrap();
    (0..9).for_each(|number| assert!(first.open(&nonce(1, number)).is_ok()));
    let mut second = NonceLedger::new(storage.as_mut_slice(), &mut CountingRng::new(1)).unwrap();
    (0..9).for_each(|number| assert!(second.open(&nonce(1, number)).is_ok()));
    for drawn in 0..24 {
        assert!(NonceLedger::new([NonceSlot::EMPTY; 4], &mut common::Script(vec![1; drawn])).is_err());
    }
    assert!(NonceLedger::new([NonceSlot::EMPTY; 4], &mut common::Script(vec![1; 24])).is_ok());
}

#[test]
fn both_cells_are_ledgers_of_the_one_inside() {
    fn check(cell: &impl Ledger) {
        assert_eq!((cell.open(&[1; 12]), cell.seal(&[2; 12])), (Ok(()), Ok(())));
        assert_eq!(cell.seal(&[1; 12]), Err(SealRefused::NonceUsed));
        assert_eq!(cell.open(&[2; 12]), Err(NonceSeen::new()));
    }
    let cells = (RefCell::new(ledger(4)), Mutex::new(ledger(4)));
    check(&cells.0);
    check(&cells.1);
    assert_eq!((cells.0.borrow().seals(), cells.1.lock().unwrap().seals()), (1, 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_is_a_queue_of_its_last_nonces(
        slots in 0..9_usize,
        steps in proptest::collection::vec((any::<bool>(), 0..3_u8, 0..8_u32), 0..200),
    ) {
        let (mut ledger, mut model, mut seals) = (ledger(slots), VecDeque::new(), 0);
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
                prop_assert_eq!(ledger.seal(&nonce), if new { Ok(()) } else { Err(SealRefused::NonceUsed) });
                seals += u64::from(new);
            } else {
                prop_assert_eq!(ledger.open(&nonce), if new { Ok(()) } else { Err(NonceSeen::new()) });
            }
            prop_assert_eq!(ledger.seals(), seals);
        }
    }
}

#[test]
fn seals_are_counted_to_two_to_the_32nd_and_no_further() {
    assert_eq!(SEALS_PER_KEY, 4_294_967_296);
    for slots in [0, 3] {
        let mut ledger = ledger(slots);
        ledger.add_seals(SEALS_PER_KEY - 2);
        assert_eq!((ledger.seal(&nonce(1, 0)), ledger.seal(&nonce(1, 1))), (Ok(()), Ok(())));
        assert_eq!(ledger.seals(), SEALS_PER_KEY);
        assert_eq!(ledger.seal(&nonce(1, 2)), Err(SealRefused::Exhausted));
        assert_eq!(
            ledger.open(&nonce(1, 2)),
            Ok(()),
            "it was not remembered, and opening goes on"
        );
        ledger.add_seals(u64::MAX);
        assert_eq!(
            (ledger.seals(), ledger.seal(&nonce(1, 9))),
            (u64::MAX, Err(SealRefused::Exhausted))
        );
    }
}

fn with_seals_left(left: u64) -> Handle {
    let key = handle();
    key.ledger().lock().unwrap().add_seals(SEALS_PER_KEY - left);
    key
}

#[test]
fn a_client_under_an_exhausted_key_sends_nothing_more() {
    let mut none = client(&with_seals_left(0), &Settings::new(), 1);
    assert_eq!(none.poll_transmit(NOW, &mut [0; 157]), Ok(0));
    assert_ended(&mut none, NOW, EXHAUSTED);

    let mut both = ends_with(&with_seals_left(3), &handle(), &Settings::new(), 1);
    both.ask(b"1");
    both.ask(b"2");
    // A call of which something went says how much; the next one says why no more.
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
    let requests = [both.ask(b"1"), both.ask(b"2")];
    let [one, two] = requests.map(|request| both.hear(&request).0);
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
fn what_finds_no_room_uses_up_no_seal_and_no_nonce() {
    let key = handle();
    let mut both = ends_with(&key, &handle(), &Settings::new(), 1);
    let (mut message, body) = (both.client.request(3).unwrap(), b"one".as_slice());
    let seals = key.ledger().lock().unwrap().seals();
    for given in 0..40 {
        let small = OutputTooSmall { needed: 40, given };
        assert_eq!(
            both.client.seal(NOW, [(&mut message, body)], &mut vec![0; given]),
            Err(small.into())
        );
    }
    assert_eq!(key.ledger().lock().unwrap().seals(), seals);
    let request = both.ask(b"two");
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
fn no_nonce_is_sealed_under_twice_though_the_generator_repeats_itself() {
    let key = handle();
    let hello = owed(&mut client(&key, &Settings::new(), 1), NOW);
    assert_eq!(hello.len(), 157);
    let mut second = client(&key, &Settings::new(), 1);
    assert_eq!(second.poll_transmit(NOW, &mut [0; 157]), Ok(0));
    assert_ended(&mut second, NOW, EXHAUSTED);
}

#[test]
fn a_handle_on_a_key_may_be_a_reference() {
    let classic = ClassicKey::new(key(7), RefCell::new(ledger(2)));
    let mut client = ClientConnection::new(&classic, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
    assert_eq!(owed(&mut client, NOW).len(), 157);
    assert_eq!(classic.ledger().borrow().seals(), 1);
}
