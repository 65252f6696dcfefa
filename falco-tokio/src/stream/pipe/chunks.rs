//! Bytes of an open body in order, in little more memory than they have.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use falco_core::mux::SharedBudget;

use super::PIECE;

/// Pieces that are shorter are joined.
pub(super) const SHORT: usize = 4 << 10;
/// How many bytes of short pieces are joined. While pieces are added, the buffer may be twice as
/// large as they are, and no larger than this.
pub(super) const JOINED: usize = 16 << 10;

/// The same bytes, copied if they keep much unused memory. Of bytes that somebody else has as well,
/// it cannot be known.
pub(crate) fn without_unused(bytes: Bytes) -> Bytes {
    match bytes.try_into_mut() {
        Ok(mut bytes) => {
            if bytes.try_reclaim(SharedBudget::most_unused(bytes.len()).saturating_add(1)) {
                Bytes::copy_from_slice(&bytes)
            } else {
                bytes.freeze()
            }
        }
        Err(shared) => shared,
    }
}

/// Bytes in order.
#[derive(Default)]
pub(super) struct Chunks {
    pub(super) queue: VecDeque<Bytes>,
    /// Short pieces behind these. They are joined, so that many single bytes take no more memory
    /// than their number.
    pub(super) joined: Vec<u8>,
    /// Pieces of the first chunk were taken. All of its memory stays as long as it does.
    is_split: bool,
}

impl Chunks {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.joined.is_empty()
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.end_joined();
        self.queue.push_back(bytes);
    }

    /// Adds bytes to send.
    pub(super) fn add(&mut self, bytes: Bytes) {
        if bytes.len() < SHORT && !self.is_empty() {
            self.copy(&bytes);
        } else if !bytes.is_empty() {
            // At most one chunk has more memory than its bytes.
            self.free_split();
            self.push(without_unused(bytes));
        }
    }

    /// Adds a copy of `bytes`, which are joined with others if they are short.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if bytes.len() >= SHORT {
            self.push(Bytes::copy_from_slice(bytes));
            return;
        }
        if self.joined.len() + bytes.len() > JOINED {
            self.end_joined();
        }
        let joined = &mut self.joined;
        let length = joined.len() + bytes.len();
        if length > joined.capacity() {
            let capacity = joined.capacity().saturating_mul(2).min(JOINED).max(length);
            joined.reserve_exact(capacity - joined.len());
        }
        joined.extend_from_slice(bytes);
    }

    /// The first chunk.
    pub(super) fn front(&mut self) -> Option<&mut Bytes> {
        if self.queue.is_empty() {
            self.end_joined();
        }
        self.queue.front_mut()
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.front()?;
        self.queue.pop_front()
    }

    /// Takes the first chunk, or a copy of a piece of it if it is long. What is taken has no more
    /// memory than its bytes, which are what counts.
    pub(super) fn pop_piece(&mut self) -> Option<Bytes> {
        let first = self.front()?;
        let Some(piece) = first.get(..PIECE).filter(|_| first.len() > PIECE) else {
            return self.pop_rest();
        };
        let piece = Bytes::copy_from_slice(piece);
        first.advance(PIECE);
        self.is_split = true;
        Some(piece)
    }

    /// Takes all that is left of the first chunk.
    pub(super) fn pop_rest(&mut self) -> Option<Bytes> {
        self.free_split();
        self.pop()
    }

    /// Frees what was taken of the first chunk.
    pub(super) fn free_split(&mut self) {
        if core::mem::take(&mut self.is_split)
            && let Some(first) = self.queue.front_mut()
        {
            *first = Bytes::copy_from_slice(first);
        }
    }

    fn end_joined(&mut self) {
        if !self.joined.is_empty() {
            // A boxed slice has no unused memory.
            let joined = core::mem::take(&mut self.joined).into_boxed_slice();
            self.queue.push_back(Bytes::from(joined));
        }
    }
}
