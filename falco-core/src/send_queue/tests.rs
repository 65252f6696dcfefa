use core::cell::Cell;
use std::rc::Rc;
use std::vec::Vec;

use super::{InQueue, Outgoing, SendQueue, Turn};

/// A message that counts how often the queue looks at it.
struct Counted {
    number: usize,
    length: usize,
    sealed: usize,
    looks: Rc<Cell<usize>>,
}

impl Counted {
    fn look(&self) {
        self.looks.set(self.looks.get() + 1);
    }
}

impl Outgoing for Counted {
    fn length(&self) -> usize {
        self.look();
        self.length
    }

    fn is_done(&self) -> bool {
        self.look();
        self.sealed >= self.length
    }

    fn sealed_bytes(&self) -> usize {
        self.look();
        self.sealed
    }

    #[cfg(feature = "streams")]
    fn is_open(&self) -> bool {
        false
    }

    #[cfg(feature = "streams")]
    fn has_begun(&self) -> bool {
        self.sealed > 0
    }

    #[cfg(feature = "streams")]
    fn take_sealed(&mut self) -> usize {
        0
    }

    #[cfg(feature = "streams")]
    fn finish(&mut self) {}
}

type Queue = SendQueue<Counted, &'static [u8]>;

/// A queue of messages with these lengths, and the count of looks.
fn queue(lengths: impl IntoIterator<Item = usize>) -> (Queue, Rc<Cell<usize>>) {
    let (mut queue, looks) = (Queue::new(), Rc::new(Cell::new(0)));
    for (number, length) in lengths.into_iter().enumerate() {
        let looks = Rc::clone(&looks);
        queue.push(
            Counted {
                number,
                length,
                sealed: 0,
                looks,
            },
            &[],
        );
    }
    (queue, looks)
}

/// Makes a turn that seals `sealed` bytes of the first messages and looks at one more, for which
/// there is no room. Returns the numbers of the messages that are done.
fn turn(queue: &mut Queue, sealed: &[usize]) -> Vec<usize> {
    let mut messages = queue.messages(&InQueue);
    for bytes in sealed {
        messages.next().unwrap().0.sealed += bytes;
    }
    let _ = messages.next();
    drop(messages);
    let mut done = Vec::new();
    queue.end_turn(|turn| {
        if let Turn::Done(message, _) = turn {
            done.push(message.number);
        }
    });
    done
}

fn order(queue: &Queue) -> Vec<usize> {
    queue.iter().map(|(message, _)| message.number).collect()
}

#[test]
fn an_output_looks_only_at_the_messages_in_it_however_many_wait() {
    let looks = [8, 1_024, 65_534].map(|count| {
        let long = [20_000, 30_000];
        let (mut queue, looks) = queue(long.into_iter().chain(core::iter::repeat_n(100, count)));
        looks.set(0);
        assert_eq!(queue.useful_output(), 30_000);
        assert_eq!(turn(&mut queue, &[20_000, 10_000, 100, 100]), [0, 2, 3]);
        looks.get()
    });
    assert!(looks.iter().all(|count| *count < 32), "{looks:?}");
    assert_eq!(looks, [looks[0]; 3]);
}

#[test]
fn a_message_that_had_a_frame_goes_behind_those_that_had_none() {
    let (mut queue, _) = queue([300, 100, 100, 100]);
    assert_eq!(turn(&mut queue, &[100, 100]), [1]);
    assert_eq!(order(&queue), [2, 3, 0]);
    // The first message had no frame, and two behind it had one.
    assert!(turn(&mut queue, &[0, 50, 100]).is_empty());
    assert_eq!(order(&queue), [2, 3, 0]);
    assert_eq!(turn(&mut queue, &[100, 50, 100]), [2, 3, 0]);
    assert!(turn(&mut queue, &[]).is_empty());
}

#[test]
fn the_longest_message_that_waits_is_worthwhile() {
    let (mut queue, _) = queue([20_000, 50_000, 20_000, 50_000, 10_000]);
    assert_eq!((queue.useful_output(), queue.bodies()), (50_000, 150_000));
    assert_eq!(turn(&mut queue, &[20_000, 50_000]), [0, 1]);
    assert_eq!((queue.useful_output(), queue.bodies()), (50_000, 80_000));
    queue.retain(|message, _| message.length < 50_000);
    assert_eq!((queue.useful_output(), queue.bodies()), (20_000, 30_000));
    assert_eq!(queue.pop().unwrap().0.number, 2);
    assert_eq!((queue.useful_output(), queue.bodies()), (10_040, 10_000));
    assert_eq!(turn(&mut queue, &[10_000]), [4]);
    assert_eq!((queue.useful_output(), queue.bodies()), (0, 0));
}
