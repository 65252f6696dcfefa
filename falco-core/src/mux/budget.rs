//! The bounds on the bytes of requests and of answers over all connections of a server.

#[cfg(feature = "std")]
mod shared;

#[cfg(feature = "std")]
pub use self::shared::SharedBudget;
use crate::message::KeyId;

/// A bound on the bytes that the requests of all connections hold, and one on the bytes of their
/// queued answers.
pub trait Budget {
    /// The client has proved that it has this key. Bytes that are taken afterwards count for the
    /// key. None were taken before.
    fn set_key(&mut self, key: Option<KeyId>) {
        let _ = key;
    }

    /// Takes this many bytes for a request. Returns `false`, and takes none, if fewer are left.
    #[must_use]
    fn take(&self, bytes: usize) -> bool;

    /// Gives back bytes that were taken.
    fn give_back(&self, bytes: usize);

    /// As [`take`](Self::take), for the window of an open request. The request may leave it unused
    /// for a long time.
    #[must_use]
    fn take_open(&self, bytes: usize) -> bool {
        self.take(bytes)
    }

    /// Gives back a window.
    fn give_back_open(&self, bytes: usize) {
        self.give_back(bytes);
    }

    /// Counts bytes of an answer that is about to be queued. With them its connection has `queued`
    /// bytes of answers. Returns `false`, and counts none, if there is no room for them.
    #[must_use]
    fn take_answers(&self, bytes: usize, queued: usize) -> bool {
        let _ = queued;
        self.add_answers(bytes);
        true
    }

    /// Counts bytes of answers that are queued already.
    fn add_answers(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Subtracts bytes of answers that are no longer queued.
    fn remove_answers(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Whether the answers exceed their bound. If so, a connection that has many bytes of them
    /// passes no request to a handler.
    fn is_over(&self) -> bool {
        false
    }
}

/// No bound besides those of each connection.
impl Budget for () {
    fn take(&self, _bytes: usize) -> bool {
        true
    }

    fn give_back(&self, _bytes: usize) {}
}
