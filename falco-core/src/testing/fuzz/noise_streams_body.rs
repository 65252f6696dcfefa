//! Open bodies whose bytes are their positions, so that a byte that is lost, repeated or moved is
//! noticed.

use std::vec::Vec;

/// Bytes of the window of both sides.
const WINDOW: usize = 1024;

/// An open body that one side writes.
pub(super) struct Written<M> {
    pub(super) message: M,
    /// How many bytes are ready to be sealed, beyond those that are.
    pub(super) ready: usize,
    /// How many are sealed.
    pub(super) sealed: usize,
    pub(super) finished: bool,
}

impl<M> Written<M> {
    pub(super) const fn new(message: M) -> Self {
        Self {
            message,
            ready: 0,
            sealed: 0,
            finished: false,
        }
    }

    /// The bytes that are ready. Each byte is its position in the body.
    pub(super) fn bytes(&self) -> Vec<u8> {
        (self.sealed..self.sealed + self.ready).map(byte_at).collect()
    }

    pub(super) const fn add(&mut self, bytes: usize) {
        if !self.finished && self.ready < 4 * WINDOW {
            self.ready += bytes;
        }
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.ready = self.ready.checked_sub(bytes).expect("no more than was there");
        self.sealed += bytes;
    }
}

fn byte_at(position: usize) -> u8 {
    let [.., byte] = position.to_be_bytes();
    byte
}

/// An open body that one side reads.
#[derive(Clone, Copy, Default)]
pub(super) struct Read {
    got: usize,
    /// How many of them no credit was given for.
    pub(super) untaken: usize,
    ended: bool,
}

impl Read {
    pub(super) fn part(&mut self, body: &[u8]) {
        assert!(!self.ended, "nothing follows the end");
        for (at, byte) in body.iter().enumerate() {
            assert_eq!(*byte, byte_at(self.got + at), "the bytes are in their places");
        }
        self.got += body.len();
        self.untaken += body.len();
        assert!(self.untaken <= WINDOW, "more than the window is held");
    }

    pub(super) fn end(&mut self, whole: usize) {
        assert!(!self.ended, "a body ends once");
        assert_eq!(self.got, whole, "a body is whole");
        self.ended = true;
    }
}
