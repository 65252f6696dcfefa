//! Almost correct frames: lengths out of range, announced lengths, single flipped bits. Each gets
//! its typed error with its numbers, nothing is sent, and an announced length takes no memory.

use core::cell::Cell;
use std::rc::Rc;

use crate::common::verdict::{NOW, Verdict, check, frame_length, judge_length, settings};
use crate::common::{ANSWER_HEAD, Ends, REQUEST_HEAD, assert_ended, ends_with, handle};
use falco_core::testing::RecvBytes;
use falco_core::{ConnectionError, Received, RecvBuf, Settings, Storage};

#[test]
fn a_length_out_of_range_is_refused_with_its_numbers_before_its_text_arrives() {
    let wrong = [1, 11, 12, 27, 1_029, 1 << 32, 1 << 40, 1 << 63, u64::MAX];
    for length in wrong {
        let mut both = ends_with(&handle(), &handle(), &settings(), 1);
        let mut head = [&[1], length.to_be_bytes().as_slice()].concat();
        assert_eq!(both.server.recv_bytes(NOW, &mut head), Err(frame_length(length)));
        assert_ended(&mut both.server, NOW, frame_length(length));
        both.request(b"?");
        assert_eq!(
            both.client.recv_bytes(NOW, &mut length.to_be_bytes()),
            Err(frame_length(length))
        );
        assert_ended(&mut both.client, NOW, frame_length(length));
    }
    // Zero is no message. To a client it has a meaning of its own.
    let mut both = ends_with(&handle(), &handle(), &settings(), 1);
    assert_eq!(
        both.server.recv_bytes(NOW, &mut [1, 0, 0, 0, 0, 0, 0, 0, 0]),
        Err(frame_length(0))
    );
    for right in [28_u64, 29, 1_028] {
        let mut both = ends_with(&handle(), &handle(), &settings(), 1);
        let total = usize::try_from(right).unwrap();
        let mut head = [&[1], right.to_be_bytes().as_slice()].concat();
        assert_eq!(
            both.server.recv_bytes(NOW, &mut head),
            Ok((
                0,
                Received::NeedMore {
                    total: REQUEST_HEAD + total
                }
            ))
        );
        both.request(b"?");
        let needed = Ok((
            0,
            Received::NeedMore {
                total: ANSWER_HEAD + total,
            },
        ));
        assert_eq!(both.client.recv_bytes(NOW, &mut right.to_be_bytes()), needed);
    }
    // No length overflows, whatever the settings allow.
    let largest = Settings::new().with_max_message(u32::MAX);
    for length in [(1 << 32) + 28, 1 << 33, 1 << 63, u64::MAX] {
        let mut both = ends_with(&handle(), &handle(), &largest, 1);
        let mut head = [&[1], u64::to_be_bytes(length).as_slice()].concat();
        let refused = ConnectionError::FrameLength {
            length,
            min: 28,
            max: (1 << 32) + 27,
        };
        assert_eq!(both.server.recv_bytes(NOW, &mut head), Err(refused));
    }
}

/// A vector that records its size.
struct NoiseEvent(Vec<u8>, Rc<Cell<usize>>);

impl Storage for NoiseEvent {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }

    fn grow(&mut self, total: usize) {
        self.0.grow(total);
        self.1.set(self.0.capacity());
    }
}

#[test]
fn memory_grows_with_bytes_received_and_not_with_an_announced_length() {
    let settings = Settings::new().with_max_message(10 << 20);
    let mut both = ends_with(&handle(), &handle(), &settings, 1);
    let taken = Rc::new(Cell::new(0));
    let mut inbox = RecvBuf::new(NoiseEvent(Vec::new(), Rc::clone(&taken)));
    let mut promise = [&[1], u64::to_be_bytes(10 << 20).as_slice()].concat();
    promise.resize(20_000, 0xAB);
    for (came, byte) in (1..).zip(promise) {
        let Ok(Received::NeedMore { total }) = both.server.recv(NOW, inbox.unread()) else {
            panic!("it is not whole")
        };
        inbox.space(total).unwrap()[0] = byte;
        inbox.filled(1);
        assert!(
            taken.get() <= (2 * came).max(160),
            "{} bytes taken for {came} that came",
            taken.get()
        );
    }
    assert_eq!(
        both.server.recv(NOW, inbox.unread()),
        Ok(Received::NeedMore { total: 9 + (10 << 20) })
    );
}

/// The expected result of one flipped bit in a frame whose length is at `at`, after `at` correct
/// bytes.
fn flipped(bytes: &[u8], at: usize, found: u8) -> Verdict {
    if at == 1 && found != 1 {
        return Verdict::End(ConnectionError::UnknownType { found });
    }
    match judge_length(bytes, at) {
        Ok(total) if total > bytes.len() => Verdict::NeedMore(total),
        Ok(_) => Verdict::End(ConnectionError::Tampered),
        Err(verdict) => verdict,
    }
}

fn each_flip(bytes: &[u8], mut check: impl FnMut(Vec<u8>)) {
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check(bytes);
    }
}

#[test]
fn each_flipped_bit_of_a_hello_a_message_and_an_answer_gets_its_error() {
    let (ours, theirs) = (handle(), handle());
    let both = |seed| ends_with(&ours, &theirs, &settings(), seed);
    let mut seeds = 2..;
    let mut next = || both(seeds.next().unwrap());
    let mut first = both(1);
    each_flip(&first.hello, |bytes| {
        let expected = match bytes[0] {
            0 => ConnectionError::Unauthenticated,
            first => ConnectionError::UnknownWire { first },
        };
        check(
            "hello",
            &bytes,
            &mut crate::common::server(&theirs, &settings(), 1),
            &Verdict::End(expected),
        );
    });
    let request = first.request(b"hello");
    let mut grown = 0;
    each_flip(&request, |bytes| {
        let expected = flipped(&bytes, 1, bytes[0]);
        grown += u32::from(expected == Verdict::NeedMore(9 + 33 + 64));
        check("message", &bytes, &mut next().server, &expected);
    });
    let (id, _) = first.receive_request(&request);
    let answer = first.answer(id, b"hello");
    each_flip(&answer, |bytes| {
        let Ends { mut client, .. } = {
            let mut both = next();
            both.request(b"?");
            both
        };
        check("answer", &bytes, &mut client, &flipped(&bytes, 0, 1));
    });
    assert_eq!(grown, 1, "a length that grew is waited for");
    let event = first.receive_answer(&answer);
    assert_eq!(event.1, b"hello", "unharmed it opens");
}
