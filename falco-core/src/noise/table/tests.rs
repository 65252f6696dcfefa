//! Compares both tables with a plain list of requests.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::{FixedTable, HeapTable, RequestSlot, RequestTable, State};

#[derive(Clone, Debug)]
enum Op {
    /// Adds a request whose id is this much greater than the newest.
    Push(u32),
    /// Removes one of the requests in the table.
    Remove(usize),
    /// Marks one of the requests in the table as lost.
    Lose(usize),
    /// Removes the first request that is marked.
    RemoveLost,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1..4_u32).prop_map(Op::Push),
        5 => any::<usize>().prop_map(Op::Remove),
        1 => any::<usize>().prop_map(Op::Lose),
        1 => Just(Op::RemoveLost),
    ];
    proptest::collection::vec(op, 0..300)
}

fn slot(id: u32) -> RequestSlot {
    RequestSlot {
        id,
        ..RequestSlot::EMPTY
    }
}

/// Applies `ops` to `table` and to a list of ids and states, and compares all their contents after
/// each operation.
fn compare<T: RequestTable>(mut table: T, ops: &[Op]) {
    let (mut requests, mut newest) = (Vec::<(u32, State)>::new(), 0);
    let find = |table: &T, id: u32| table.find(id).unwrap();
    for op in ops {
        match *op {
            Op::Push(distance) => {
                newest += distance;
                let room = requests.len() < usize::from(T::capacity());
                assert_eq!(table.push(slot(newest)), room);
                if room {
                    requests.push((newest, State::Waiting));
                }
            }
            Op::Remove(pick) if !requests.is_empty() => {
                let (id, _) = requests.remove(pick % requests.len());
                table.remove(find(&table, id));
            }
            Op::Lose(pick) if !requests.is_empty() => {
                let pick = pick % requests.len();
                let (id, state) = requests.get_mut(pick).unwrap();
                *state = State::Lost;
                let at = find(&table, *id);
                table.get_mut(at).unwrap().state = State::Lost;
                table.note_lost(*id);
            }
            Op::RemoveLost => {
                let first = requests.iter().position(|(_, state)| *state == State::Lost);
                let lost = first.map(|first| requests.remove(first).0);
                assert_eq!(table.next_lost(), lost);
                if let Some(id) = lost {
                    table.remove(find(&table, id));
                }
            }
            Op::Remove(_) | Op::Lose(_) => {}
        }
        let all: Vec<_> = table.iter_mut().map(|slot| (slot.id, slot.state)).collect();
        assert_eq!(all, requests);
        assert_eq!(table.len(), requests.len());
        for id in 0..=newest + 1 {
            let found = table.find(id).and_then(|place| table.get(place)).map(|slot| slot.id);
            let expected = requests.iter().find(|(other, _)| *other == id).map(|(id, _)| *id);
            assert_eq!(found, expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_on_the_heap_is_a_list_of_requests(ops in ops()) {
        compare(HeapTable::empty(), &ops);
    }

    #[test]
    fn a_table_in_place_is_a_list_of_requests(ops in ops()) {
        compare(FixedTable::<5>::empty(), &ops);
    }
}

#[test]
fn a_table_on_the_heap_keeps_few_slots_of_completed_requests() {
    // Every other request stays.
    let mut table = HeapTable::empty();
    for id in 1..10_000 {
        assert!(table.push(slot(id)));
        if id % 2 == 1 {
            table.remove(table.find(id).unwrap());
        }
        assert!(table.slots.len() <= 2 * table.len() + super::SPARE);
    }
    // One request stays at the front, and others are added and removed after it.
    let mut table = HeapTable::empty();
    assert!(table.push(slot(1)) && table.push(slot(2)));
    for id in 3..10_000 {
        assert!(table.push(slot(id)));
        table.remove(table.find(id - 1).unwrap());
        assert!(table.slots.len() <= 2 * table.len() + super::SPARE);
    }
    assert!(table.slots.capacity() <= 32);
    for id in [1, 9_999] {
        table.remove(table.find(id).unwrap());
    }
    assert!(table.slots.is_empty() && table.slots.capacity() <= 32);
}

fn fill_and_empty(table: &mut HeapTable, count: u32) {
    for id in 1..=count {
        assert!(table.push(slot(id)));
    }
    // With a request in flight, nothing is released.
    let full = table.slots.capacity();
    table.shrink();
    assert_eq!(table.slots.capacity(), full);
    for id in 1..=count {
        table.remove(table.find(id).unwrap());
    }
}

#[test]
fn a_table_on_the_heap_keeps_the_memory_of_a_small_burst_until_shrink_is_called() {
    let mut table = HeapTable::empty();
    for _ in 0..2 {
        fill_and_empty(&mut table, 128);
        assert_eq!(table.slots.capacity(), 128);
    }
    table.shrink();
    assert!(table.slots.capacity() <= 16);
    fill_and_empty(&mut table, 129);
    assert!(table.slots.capacity() <= 16);
}

#[test]
fn a_request_that_lasts_does_not_keep_the_slots_of_many_others() {
    for lasts in [1, 500, 1_000] {
        let mut table = HeapTable::empty();
        for id in 1..=1_000 {
            assert!(table.push(slot(id)));
        }
        for id in (1..=1_000).filter(|id| *id != lasts) {
            table.remove(table.find(id).unwrap());
        }
        assert!(table.find(lasts).is_some());
        assert!(table.slots.capacity() <= 256, "{lasts}: {}", table.slots.capacity());
    }
}
