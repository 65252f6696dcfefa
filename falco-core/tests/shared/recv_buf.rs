//! The buffer for unread bytes keeps their order, moves and reserves memory only if needed, and
//! returns the numbers if its storage is full.
use std::collections::VecDeque;

use falco_core::{RecvBuf, Storage, StorageFull};
use proptest::prelude::*;

fn put<S: Storage>(inbox: &mut RecvBuf<S>, total: usize, bytes: &[u8]) {
    let space = inbox.space(total).unwrap();
    space[..bytes.len()].copy_from_slice(bytes);
    inbox.filled(bytes.len());
}

#[test]
fn bytes_keep_their_order() {
    let mut inbox = RecvBuf::new([0; 4]);
    assert!(inbox.is_empty() && inbox.unread().is_empty());
    put(&mut inbox, 4, b"abcd");
    inbox.consume(1);
    assert_eq!((inbox.len(), inbox.unread().to_vec()), (3, b"bcd".to_vec()));
    put(&mut inbox, 4, b"e");
    assert_eq!(*inbox.unread(), *b"bcde");
    inbox.unread()[0] = b'B';
    assert_eq!(*inbox.unread(), *b"Bcde", "they may be changed where they lie");
    inbox.consume(9);
    assert!(inbox.is_empty(), "more than all is all");
    assert_eq!(inbox.space(4).unwrap().len(), 4);
    inbox.filled(9);
    assert_eq!(inbox.len(), 4, "more than the space is the space");
}

#[test]
fn storage_of_a_fixed_size_reports_how_much_is_needed_and_how_much_there_is() {
    fn check<S: Storage>(mut inbox: RecvBuf<S>) {
        let numbers = |full: StorageFull| (full.needed, full.capacity);
        assert_eq!(numbers(inbox.space(9).unwrap_err()), (9, 8));
        put(&mut inbox, 8, b"12345678");
        assert_eq!(numbers(inbox.space(0).unwrap_err()), (9, 8));
        assert_eq!(*inbox.unread(), *b"12345678", "nothing has changed");
        let text = inbox.space(20).unwrap_err().to_string();
        assert!(text.contains(" 8 ") && text.contains(" 20 "), "{text}");
    }
    check(RecvBuf::new([0; 8]));
    check(RecvBuf::new([0; 8].as_mut_slice()));
    check(RecvBuf::new(heapless::Vec::<u8, 8>::new()));
    assert!(RecvBuf::new([]).space(0).is_err());
}

#[test]
fn space_is_not_empty_and_a_vector_always_has_some() {
    let mut inbox = RecvBuf::new(Vec::new());
    for length in 0..2_000 {
        assert!(!inbox.space(0).unwrap().is_empty());
        put(&mut inbox, 0, &[1]);
        assert_eq!(inbox.len(), length + 1);
    }
}

#[test]
fn a_vector_first_grows_to_a_hello_and_then_doubles_what_has_arrived() {
    let mut inbox = RecvBuf::new(Vec::new());
    assert_eq!(inbox.space(1).unwrap().len(), 1, "no more than wanted");
    let mut inbox = RecvBuf::new(Vec::new());
    assert_eq!(inbox.space(1 << 30).unwrap().len(), 160);
    put(&mut inbox, 1 << 30, &[7; 160]);
    assert_eq!(inbox.space(1 << 30).unwrap().len(), 160, "twice what has come");
    put(&mut inbox, 1 << 30, &[7; 100]);
    assert_eq!(inbox.space(300).unwrap().len(), 60, "what is there is used first");
}

#[test]
fn unread_bytes_are_moved_only_if_there_is_too_little_room_behind_them() {
    let mut inbox = RecvBuf::new([0; 100]);
    put(&mut inbox, 40, &[7; 40]);
    inbox.consume(30);
    let place = inbox.unread().as_ptr();
    assert_eq!(inbox.space(70).unwrap().len(), 60);
    assert_eq!(inbox.unread().as_ptr(), place);
    assert_eq!(
        inbox.space(71).unwrap().len(),
        90,
        "what is wanted reaches beyond the end"
    );
    assert_ne!(inbox.unread().as_ptr(), place);
    assert_eq!(*inbox.unread(), [7; 10]);
}

#[test]
fn storage_that_grows_has_at_least_the_read_ahead() {
    let mut inbox = RecvBuf::new(Vec::new());
    inbox.set_read_ahead(4_096);
    assert_eq!(inbox.space(1).unwrap().len(), 4_096);
    let mut fixed = RecvBuf::new([0; 16]);
    fixed.set_read_ahead(4_096);
    assert_eq!(fixed.space(1).unwrap().len(), 16);
    assert!(fixed.space(17).is_err());
}

#[test]
fn memory_is_freed_only_if_nothing_is_unread() {
    let mut inbox = RecvBuf::new(Vec::new());
    put(&mut inbox, 1_000, b"unread");
    inbox.release();
    assert_eq!(*inbox.unread(), *b"unread");
    inbox.consume(6);
    inbox.release();
    assert_eq!(inbox.space(1).unwrap().len(), 1, "it starts anew");
    put(&mut inbox, 6, b"again!");
    assert_eq!(*inbox.unread(), *b"again!");
    let mut heapless = RecvBuf::new(heapless::Vec::<u8, 8>::new());
    put(&mut heapless, 3, b"abc");
    heapless.consume(3);
    heapless.release();
    put(&mut heapless, 8, b"12345678");
    assert_eq!(*heapless.unread(), *b"12345678");
    let mut array = RecvBuf::new([0; 4]);
    array.release();
    put(&mut array, 4, b"abcd");
    assert_eq!(*array.unread(), *b"abcd");
}

#[derive(Clone, Debug)]
enum Step {
    Read { wanted: usize, come: usize },
    Consume(usize),
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..60_usize, 0..40_usize).prop_map(|(wanted, come)| Step::Read { wanted, come }),
        (0..40_usize).prop_map(Step::Consume),
        Just(Step::Release),
    ]
}

/// `capacity`: of storage of a fixed size.
fn follows<S: Storage>(mut inbox: RecvBuf<S>, steps: &[Step], capacity: Option<usize>) {
    let (mut model, mut next) = (VecDeque::new(), 0_u8);
    for step in steps {
        match *step {
            Step::Read { wanted, come } => match inbox.space(wanted) {
                Ok(space) => {
                    assert!(!space.is_empty());
                    let come = come.min(space.len());
                    for place in &mut space[..come] {
                        next = next.wrapping_add(1);
                        *place = next;
                        model.push_back(next);
                    }
                    inbox.filled(come);
                }
                Err(full) => {
                    let needed = wanted.max(model.len() + 1);
                    assert_eq!((full.needed, Some(full.capacity)), (needed, capacity));
                    assert!(needed > full.capacity);
                }
            },
            Step::Consume(count) => {
                inbox.consume(count);
                model.drain(..count.min(model.len()));
            }
            Step::Release => inbox.release(),
        }
        assert_eq!((inbox.len(), inbox.is_empty()), (model.len(), model.is_empty()));
        assert_eq!(*inbox.unread(), *model.make_contiguous());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_buffer_over_any_storage_is_a_queue_of_bytes(
        steps in proptest::collection::vec(step(), 0..60), ahead in 0..100_usize,
    ) {
        follows(RecvBuf::new([0; 50]), &steps, Some(50));
        follows(RecvBuf::new([0; 50].as_mut_slice()), &steps, Some(50));
        follows(RecvBuf::new(heapless::Vec::<u8, 50>::new()), &steps, Some(50));
        let mut inbox = RecvBuf::new(Vec::new());
        inbox.set_read_ahead(ahead);
        follows(inbox, &steps, None);
    }
}
