//! Who reads a connection that has a thread of its own: its part of the state. `turn` uses it.

use std::sync::{Arc, Condvar};

use crate::line::Line;
use crate::stream::BoxedStream;

#[derive(Default)]
pub(in crate::client) struct Turns {
    /// The input side, while nobody reads.
    pub(in crate::client) line: Option<Line<BoxedStream>>,
    /// The thread is to read as soon as nobody does.
    pub(in crate::client) called: bool,
    /// The thread waits until it is called. Otherwise it also looks after a pause.
    pub(in crate::client) asleep: bool,
    /// Wakes the thread.
    pub(in crate::client) call: Arc<Condvar>,
}

impl Turns {
    /// Has the thread read as soon as nobody does.
    pub(in crate::client) fn call_thread(&mut self) {
        self.called = true;
        self.asleep = false;
        self.call.notify_one();
    }

    /// The input side, for who reads now.
    pub(in crate::client) fn take(&mut self) -> Option<Line<BoxedStream>> {
        let line = self.line.take()?;
        // Whoever gives it back calls the thread, if it is needed.
        self.called = false;
        Some(line)
    }
}
