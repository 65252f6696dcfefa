//! Bodies, whole and open, whose bytes are their positions in the body of their request, so that a
//! byte that is lost, repeated or moved is noticed.

use std::vec::Vec;

use crate::outgoing::Outgoing;

/// Bytes of the window of a side that takes open bodies.
pub(super) const WINDOW: usize = 1024;

/// A body that one side writes.
pub(super) struct Written<M> {
    pub(super) message: M,
    /// How many bytes are ready to be sealed, beyond those that are.
    ready: usize,
    /// How many are sealed.
    pub(super) sealed: usize,
    pub(super) finished: bool,
}

impl<M: Outgoing> Written<M> {
    /// A whole body has all of its bytes at once.
    pub(super) fn new(message: M) -> Self {
        Self {
            ready: message.length(),
            sealed: 0,
            finished: !message.is_open(),
            message,
        }
    }

    /// What to pass to `seal`, if this body is of the request `number`: all of a whole body, or the
    /// bytes of an open one that are ready.
    pub(super) fn bytes(&mut self, number: u32) -> Vec<u8> {
        if self.finished {
            self.message.finish();
        }
        let from = if self.message.is_open() { self.sealed } else { 0 };
        let until = self.sealed + self.ready;
        (from..until).map(|position| byte_at(number, position)).collect()
    }

    pub(super) const fn add(&mut self, bytes: usize) {
        if !self.finished && self.ready < 4 * WINDOW {
            self.ready += bytes;
        }
    }

    /// Notes what the last call of `seal` sealed.
    pub(super) fn note_sealed(&mut self) {
        let sealed = if self.message.is_open() {
            self.message.take_sealed()
        } else {
            self.message.sealed_bytes() - self.sealed
        };
        self.ready = self.ready.checked_sub(sealed).expect("no more than was there");
        self.sealed += sealed;
    }

    /// Whether it was sealed to its end. It may also be done because the rest of it is not sent.
    pub(super) fn is_whole(&self) -> bool {
        self.message.is_done() && self.finished && self.ready == 0
    }
}

fn byte_at(number: u32, position: usize) -> u8 {
    let ([.., byte], [.., of]) = (position.to_be_bytes(), number.to_be_bytes());
    byte.wrapping_add(of.wrapping_mul(101))
}

/// A body that one side reads.
#[derive(Clone, Copy)]
pub(super) struct Read {
    number: u32,
    /// How long a whole body is. `None` if it is open.
    total: Option<usize>,
    pub(super) got: usize,
    /// How many bytes of an open body no credit was given for.
    pub(super) untaken: usize,
    ended: bool,
}

impl Read {
    pub(super) fn open(number: u32, body: &[u8]) -> Self {
        Self::begin(number, None, body)
    }

    pub(super) fn whole(number: u32, total: usize, body: &[u8]) -> Self {
        Self::begin(number, Some(total), body)
    }

    fn begin(number: u32, total: Option<usize>, body: &[u8]) -> Self {
        let mut read = Self {
            number,
            total,
            got: 0,
            untaken: 0,
            ended: false,
        };
        read.part(body);
        read
    }

    pub(super) const fn is_open(&self) -> bool {
        self.total.is_none()
    }

    /// Whether all of a whole body has arrived.
    pub(super) fn is_whole(&self) -> bool {
        self.total == Some(self.got)
    }

    pub(super) fn part(&mut self, body: &[u8]) {
        assert!(!self.ended, "nothing follows the end");
        for (at, byte) in body.iter().enumerate() {
            assert_eq!(
                *byte,
                byte_at(self.number, self.got + at),
                "the bytes are in their places"
            );
        }
        self.got += body.len();
        if let Some(total) = self.total {
            assert!(self.got <= total, "more than the total");
        } else {
            self.untaken += body.len();
            assert!(self.untaken <= WINDOW, "more than the window is held");
        }
    }

    /// The body has ended: it has the bytes that the other side sealed.
    pub(super) fn end(&mut self, sealed: Option<&usize>) {
        assert!(!self.ended, "a body ends once");
        assert_eq!(
            Some(&self.got),
            sealed,
            "a body that is reported as whole was sealed to its end"
        );
        assert!(
            self.total.is_none_or(|total| total == self.got),
            "the last part is the last"
        );
        self.ended = true;
    }

    /// Bytes that are reserved for it or held of it.
    pub(super) fn held(&self) -> usize {
        if self.is_open() { WINDOW } else { self.got }
    }
}
