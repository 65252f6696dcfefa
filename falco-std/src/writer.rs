//! The output side of a stream, with the bytes that it has not accepted yet.

use core::ops::Range;
use core::time::Duration;
use std::io;

use crate::line::{KEPT, at_least_a_millisecond};
use crate::stream::BoxedStream;

pub(crate) struct Writer {
    stream: BoxedStream,
    out: Vec<u8>,
    /// The part of `out` that the stream has not accepted.
    rest: Range<usize>,
    /// The stream was flushed since it last accepted bytes.
    flushed: bool,
    timeout: Option<Duration>,
}

impl Writer {
    pub(crate) fn new(stream: BoxedStream, timeout: Option<Duration>) -> io::Result<Self> {
        stream.set_write_timeout(timeout)?;
        Ok(Self {
            stream,
            out: Vec::new(),
            rest: 0..0,
            flushed: true,
            timeout,
        })
    }

    /// Whether the stream has accepted all bytes. It may still have to be flushed.
    pub(crate) fn is_written(&self) -> bool {
        self.rest.is_empty()
    }

    /// Calls `seal` with the buffer. Returns how many bytes are to be written. A buffer of more
    /// than [`KEPT`] bytes is not kept for shorter output.
    pub(crate) fn seal(&mut self, seal: impl FnOnce(&mut Vec<u8>) -> usize) -> usize {
        self.free_buffer(KEPT);
        let count = seal(&mut self.out);
        if self.out.len() > KEPT.max(count.saturating_mul(2)) {
            self.out.truncate(count);
            self.out.shrink_to_fit();
        }
        self.rest = 0..count;
        count
    }

    /// Frees the buffer if it is larger than `capacity`, unless it is in use.
    pub(crate) fn free_buffer(&mut self, capacity: usize) {
        if self.rest.is_empty() && self.out.capacity() > capacity {
            self.out = Vec::new();
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.rest.is_empty() && self.flushed
    }

    /// Discards what is left: nothing is written after a failure.
    pub(crate) fn discard(&mut self) {
        self.out = Vec::new();
        self.rest = 0..0;
        self.flushed = true;
    }

    /// Writes once, `most` bytes at most, or flushes the stream if it has accepted everything.
    pub(crate) fn step(&mut self, most: usize) -> io::Result<()> {
        if self.rest.is_empty() {
            self.stream.flush()?;
            self.flushed = true;
            return Ok(());
        }
        let bytes = self.out.get(self.rest.clone()).unwrap_or_default();
        let bytes = bytes.get(..most).unwrap_or(bytes);
        match self.stream.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => {
                self.rest.start += written;
                self.flushed = false;
                Ok(())
            }
        }
    }

    /// Sets the timeout of a write exactly. It is not rounded as the timeout of a read is, because
    /// on some systems a write that has timed out must not be tried again.
    pub(crate) fn limit(&mut self, wait: Duration) -> io::Result<()> {
        let wait = Some(at_least_a_millisecond(wait));
        if self.timeout != wait {
            self.stream.set_write_timeout(wait)?;
            self.timeout = wait;
        }
        Ok(())
    }
}
