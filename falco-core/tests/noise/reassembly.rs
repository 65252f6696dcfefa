//! Messages are joined from their parts, in fixed places and on the heap, within limits. An
//! announced total takes no memory.

use core::cell::Cell;
use std::rc::Rc;

use crate::common::noise::{MESSAGE, at_server};
use falco_core::testing::raw_frame;
use falco_core::{HeapPartials, Partial, Reassembly, RequestId, Settings, Storage};

/// Ids of requests 1 to `count`.
fn ids(count: u32) -> Vec<RequestId> {
    let mut rig = at_server(&Settings::new());
    (1..=count)
        .map(|number| {
            rig.receive(&raw_frame(MESSAGE, number, b""));
            rig.ids[&number]
        })
        .collect()
}

#[test]
fn interleaved_parts_of_several_messages_are_joined() {
    let ids = ids(3);
    let mut parts = Reassembly::<HeapPartials>::default();
    parts.begin(ids[0], 6, b"ab").unwrap();
    parts.begin(ids[1], 0, b"").unwrap();
    parts.begin(ids[2], 3, b"").unwrap();
    parts.part(ids[2], b"xyz").unwrap();
    parts.part(ids[0], b"cd").unwrap();
    assert_eq!(parts.whole(ids[0]), None);
    assert_eq!(parts.take(ids[0]), None, "not whole");
    assert_eq!(parts.whole(ids[1]).unwrap(), b"");
    assert_eq!(parts.take(ids[2]), Some((b"xyz".to_vec(), 3)));
    assert_eq!(parts.take(ids[2]), None, "taken");
    parts.part(ids[0], b"ef").unwrap();
    assert_eq!(parts.whole(ids[0]).unwrap(), b"abcdef");
    let (body, length) = parts.take(ids[0]).unwrap();
    assert_eq!(&body[..length], b"abcdef");
}

#[test]
fn one_fixed_place_holds_one_message_of_at_most_its_size() {
    let ids = ids(2);
    let mut parts = Reassembly::new([Partial::new([0xEE; 8])]);
    parts.begin(ids[0], 8, b"abcd").unwrap();
    let taken = parts.begin(ids[1], 1, b"x").unwrap_err();
    assert_eq!((taken.needed, taken.capacity), (1, 0), "the slot is taken");
    parts.part(ids[0], b"efgh").unwrap();
    assert_eq!(parts.whole(ids[0]).unwrap(), b"abcdefgh");
    parts.forget(ids[0]);
    assert_eq!(parts.whole(ids[0]), None);
    parts.begin(ids[1], 3, b"x").unwrap();
    assert_eq!(parts.part(ids[0], b"y").unwrap_err().needed, 0, "forgotten");
    parts.part(ids[1], b"yz").unwrap();
    assert_eq!(parts.whole(ids[1]).unwrap(), b"xyz", "no more than the message");
}

#[test]
fn a_message_that_does_not_fit_leaves_nothing_behind() {
    let ids = ids(2);
    let mut parts = Reassembly::new([Partial::new([0; 8])]);
    let begun = parts.begin(ids[0], 9, b"abcd");
    if begun.is_ok() {
        assert_eq!(parts.part(ids[0], b"efghi").unwrap_err().needed, 9);
    }
    assert!(parts.part(ids[0], b"j").is_err(), "further parts are refused too");
    assert!(parts.begin(ids[1], 8, &[1; 8]).is_ok(), "and the slot is free");
    // More than its own total, which a connection does not let happen.
    let mut parts = Reassembly::<HeapPartials>::default();
    assert_eq!(parts.begin(ids[0], 3, b"four").unwrap_err().needed, 3);
    parts.begin(ids[0], 3, b"fo").unwrap();
    assert_eq!(parts.part(ids[0], b"ur").unwrap_err().needed, 3);
    assert_eq!(parts.whole(ids[0]), None);
}

/// A vector that records its size.
#[derive(Default)]
struct RecordingVec(Vec<u8>, Rc<Cell<usize>>);

impl Storage for RecordingVec {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }

    fn grow(&mut self, total: usize) {
        self.0.grow(total);
        self.1.set(self.0.capacity());
    }

    fn release(&mut self) {
        self.0.release();
        self.1.set(self.0.capacity());
    }
}

/// The same vector, with its own way to take a part.
#[derive(Default)]
struct Direct(RecordingVec);

impl Storage for Direct {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }

    fn grow(&mut self, total: usize) {
        self.0.grow(total);
    }

    fn reserved(&mut self) -> usize {
        self.0.0.reserved()
    }

    fn put(&mut self, at: usize, part: &[u8], total: usize) -> bool {
        let room = self.0.0.put(at, part, total);
        self.0.1.set(self.0.0.capacity());
        room
    }

    fn release(&mut self) {
        self.0.release();
    }
}

fn assert_memory_grows_with_what_arrives(storage: impl Storage, taken: &Cell<usize>) {
    let id = ids(1)[0];
    let mut parts = Reassembly::new([Partial::new(storage)]);
    parts.begin(id, u32::MAX, b"").unwrap();
    assert_eq!(taken.get(), 0);
    let mut came = 0;
    for length in [1, 1, 2, 10, 100, 1_000, 65_000, 65_000] {
        parts.part(id, &vec![1; length]).unwrap();
        came += length;
        assert!(
            taken.get() >= came && taken.get() <= 2 * came,
            "{} bytes for {came}",
            taken.get()
        );
    }
    parts.forget(id);
    assert_eq!(taken.get(), 0, "given back");
    // The last step does not exceed the total.
    parts.begin(id, 100, &[1; 60]).unwrap();
    parts.part(id, &[2; 30]).unwrap();
    assert!(taken.get() <= 100);
    parts.part(id, &[3; 10]).unwrap();
    assert_eq!(parts.whole(id).unwrap(), [&[1; 60][..], &[2; 30], &[3; 10]].concat());
}

#[test]
fn memory_grows_with_what_has_arrived_and_not_with_an_announced_total() {
    let taken = Rc::new(Cell::new(0));
    let vector = || RecordingVec(Vec::new(), Rc::clone(&taken));
    assert_memory_grows_with_what_arrives(vector(), &taken);
    taken.set(0);
    assert_memory_grows_with_what_arrives(Direct(vector()), &taken);
}

#[test]
fn debug_shows_how_many_bytes_there_are_and_none_of_them() {
    let id = ids(1)[0];
    let mut place = Partial::new(vec![0xAB_u8; 3]);
    assert!(!format!("{place:?}").contains("171"));
    place = Partial::new(Vec::new());
    let mut parts = Reassembly::new([place]);
    parts.begin(id, 9, b"secret").unwrap();
    assert_eq!(format!("{parts:?}"), "Reassembly(..)");
}
