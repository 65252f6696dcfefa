//! Messages with an open body, whose length is not known when they begin.

use super::{Open, OutgoingAnswer, OutgoingRequest};

impl OutgoingRequest {
    /// Whether its body is open: [`open_request`](crate::ClientConnection::open_request) created
    /// it.
    #[must_use]
    #[inline]
    pub const fn is_open(&self) -> bool {
        !matches!(self.open, Open::No)
    }

    /// Reports that the body passed to `seal` from now on is the rest of an open body. Its END is
    /// sealed behind it.
    pub fn finish(&mut self) {
        if self.open == Open::Yes {
            self.open = Open::Finished;
        }
    }

    /// Returns how many bytes at the front of an open body are sealed, and restarts the count.
    /// Remove these bytes from the body that you pass to `seal` next.
    pub fn take_sealed(&mut self) -> usize {
        if self.is_open() {
            core::mem::take(&mut self.sealed)
        } else {
            0
        }
    }

    #[inline]
    pub(crate) const fn is_finished(&self) -> bool {
        matches!(self.open, Open::Finished)
    }

    /// Counts `bytes` of an open body as sealed, and its END if it has `ended`.
    pub(crate) const fn seal_open(&mut self, number: u32, bytes: usize, ended: bool) {
        self.number = number;
        self.sealed += bytes;
        self.done = ended;
    }
}

impl OutgoingAnswer {
    /// Whether it is open: [`open_answer`](crate::ServerConnection::open_answer) created it.
    #[must_use]
    #[inline]
    pub const fn is_open(&self) -> bool {
        !matches!(self.open, Open::No)
    }

    /// Reports that the body passed to `seal` from now on is the rest of an open answer. Its END is
    /// sealed behind it.
    pub fn finish(&mut self) {
        if self.open == Open::Yes {
            self.open = Open::Finished;
        }
    }

    /// Returns how many bytes at the front of an open answer are sealed, and restarts the count.
    /// Remove these bytes from the body that you pass to `seal` next.
    pub fn take_sealed(&mut self) -> usize {
        if self.is_open() {
            core::mem::take(&mut self.sealed)
        } else {
            0
        }
    }

    /// Whether an open answer was cut off, and its request refused as cancelled: it needed credit
    /// after the client's stream had ended. It is then [done](Self::is_done).
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    #[inline]
    pub(crate) const fn is_finished(&self) -> bool {
        matches!(self.open, Open::Finished)
    }

    /// Whether the BEGIN of an open answer is sealed.
    #[inline]
    pub(crate) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether a frame of the answer is sealed. An empty one is then done.
    pub(super) const fn has_sealed(&self) -> bool {
        self.begun || self.sealed > 0 || self.done
    }

    /// Counts `bytes` of an open answer as sealed, and its END if it has `ended`.
    pub(crate) const fn seal_open(&mut self, bytes: usize, ended: bool) {
        self.begun = true;
        self.sealed += bytes;
        self.done = ended;
    }

    pub(crate) const fn cut(&mut self) {
        self.cut = true;
        self.done = true;
    }
}
