//! The output of a buffered connection without its bytes: which of them the stream has accepted,
//! and whether they are discarded when the connection ends. It is not generic, so that a device
//! that is both a client and a server has its code once.

use core::ops::Range;

use falco_core::{ConnectionError, Ending, Instant, LastStep};

use crate::error::Error;

pub(crate) struct Output {
    /// `start <= end`; the bytes of the outbox between them are to be written.
    start: usize,
    end: usize,
    /// The stream has accepted bytes that are not flushed. Always `false` without a driver.
    unflushed: bool,
    /// Whether the pending bytes, or bytes that were lost, may contain part of an answer.
    answers: bool,
    stream: Stream,
    /// How the stream ends, once the connection has ended.
    ending: Option<Ending>,
}

/// Whether bytes can still be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Open,
    /// Pending bytes made no progress for too long, and were discarded.
    Stalled,
    /// The stream failed. `lost` is whether bytes were pending at that time.
    #[cfg(any(feature = "async", feature = "blocking"))]
    Failed {
        lost: bool,
    },
}

impl Output {
    pub(crate) const fn new() -> Self {
        Self {
            start: 0,
            end: 0,
            unflushed: false,
            answers: false,
            stream: Stream::Open,
            ending: None,
        }
    }

    /// Where the bytes to write are.
    pub(crate) const fn unsent(&self) -> Range<usize> {
        self.start..self.end
    }

    pub(crate) const fn is_unsent(&self) -> bool {
        self.start < self.end
    }

    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) const fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// Whether bytes are not written or not flushed.
    pub(crate) const fn is_pending(&self) -> bool {
        self.is_unsent() || self.unflushed
    }

    /// Whether pending bytes may contain part of an answer.
    pub(crate) const fn has_answer(&self) -> bool {
        self.answers
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.stream, Stream::Open)
    }

    /// Whether writing has failed.
    pub(crate) const fn has_failed(&self) -> bool {
        !matches!(self.stream, Stream::Open | Stream::Stalled)
    }

    /// So many bytes are in the outbox, which was empty.
    pub(crate) const fn fill(&mut self, count: usize) {
        self.start = 0;
        self.end = count;
    }

    /// Bytes of the outbox contain part of an answer.
    pub(crate) const fn note_answer(&mut self) {
        self.answers = true;
    }

    /// The stream has accepted `count` bytes. Returns whether others are left.
    pub(crate) fn sent(&mut self, count: usize) -> bool {
        self.start = self.start.saturating_add(count).min(self.end);
        self.answers &= self.is_pending();
        self.is_unsent()
    }

    /// The stream has accepted bytes, and has to be flushed.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) const fn set_unflushed(&mut self) {
        self.unflushed = true;
    }

    /// The stream has flushed what it has accepted.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) const fn flushed(&mut self) {
        self.unflushed = false;
        self.answers &= self.is_unsent();
    }

    /// Whether bytes would be lost if nothing more were written. Those that the stream has accepted
    /// and not flushed count only if they may contain an answer.
    const fn may_lose(&self) -> bool {
        self.is_unsent() || (self.unflushed && self.answers)
    }

    /// Nothing can be written any more.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn fail(&mut self) {
        let lost = self.may_lose() || self.stream == Stream::Failed { lost: true };
        self.discard(Stream::Failed { lost });
    }

    /// The write deadline has passed.
    pub(crate) const fn stall(&mut self) {
        self.discard(Stream::Stalled);
    }

    /// Discards pending bytes. Nothing may be written after some were lost, because a record would
    /// be incomplete.
    const fn discard(&mut self, stream: Stream) {
        self.start = self.end;
        self.unflushed = false;
        self.stream = stream;
    }

    /// Whether the connection has ended.
    pub(crate) const fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// The connection has ended.
    pub(crate) const fn end(&mut self, ending: Option<Ending>) {
        self.ending = ending;
    }

    /// When the last bytes of a connection that has ended are discarded.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.ending.filter(|_| self.is_pending())?.poll_timeout()
    }

    /// Discards the last bytes of a connection that has ended, if nothing more is to be written.
    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) fn stop_at_end(&mut self, now: Instant) {
        if self.is_pending() && self.ending.is_some_and(|ending| ending.step(now) != LastStep::Write) {
            let stream = if self.may_lose() { Stream::Stalled } else { self.stream };
            self.discard(stream);
        }
    }

    /// Whether the loss of the last bytes replaces `end` as the reason why the connection ended.
    /// Then [`wait`](Self::wait) returns the error.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) const fn breaks(&self, end: ConnectionError, input_ended: bool) -> bool {
        let lost = match self.stream {
            Stream::Stalled => true,
            #[cfg(any(feature = "async", feature = "blocking"))]
            Stream::Failed { lost } => lost,
            Stream::Open => false,
        };
        lost && !end.holds_after_loss(self.answers, input_ended)
    }

    /// Whether to wait for the stream. An error if nothing more can happen.
    pub(crate) const fn wait(&self, input_ended: bool) -> Result<(), Error> {
        match self.stream {
            Stream::Stalled => Err(Error::Stalled),
            #[cfg(any(feature = "async", feature = "blocking"))]
            Stream::Failed { .. } => match ConnectionError::of_failed_output(input_ended) {
                Some(end) => Err(Error::Connection(end)),
                None => Ok(()),
            },
            Stream::Open => {
                let _ = input_ended;
                Ok(())
            }
        }
    }
}
