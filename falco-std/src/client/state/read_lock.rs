//! The right to read a connection that has a thread of its own: what its threads share. The guard
//! is in `read_guard`.

use std::sync::{Arc, Condvar};

use crate::line::Line;
use crate::stream::BoxedStream;

#[derive(Default)]
pub(in crate::client) struct ReadLock {
    /// The input side of the stream, while no thread reads.
    pub(in crate::client) line: Option<Line<BoxedStream>>,
    /// The connection's thread is to read as soon as no caller does.
    pub(in crate::client) called: bool,
    /// The connection's thread waits until it is called. Otherwise it also checks after a pause.
    pub(in crate::client) asleep: bool,
    /// Wakes the connection's thread.
    pub(in crate::client) call: Arc<Condvar>,
}

impl ReadLock {
    /// Makes the connection's thread read as soon as no caller does.
    pub(in crate::client) fn call_thread(&mut self) {
        self.called = true;
        self.asleep = false;
        self.call.notify_one();
    }

    /// The input side, unless another thread reads. The caller reads then.
    pub(in crate::client) fn take(&mut self) -> Option<Line<BoxedStream>> {
        let line = self.line.take()?;
        // The caller calls the connection's thread when it has finished, if that is needed.
        self.called = false;
        Some(line)
    }
}
