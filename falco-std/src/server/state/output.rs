//! What a connection of a server has to write, and how it ends.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Weak};

use falco_core::{ConnectionError, Ending, Instant, LastStep};

use super::State;
use crate::shared::{Output, seal_into};

impl Output for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.write_failed || self.cut {
            return 0;
        }
        self.held_up |= !self.mux.may_handle();
        self.pump_writable();
        let mut sealed = seal_into(out, self.mux.seal_size(), |out| self.mux.seal(now, out));
        if sealed == 0 && self.pump_writable() {
            sealed = seal_into(out, self.mux.seal_size(), |out| self.mux.seal(now, out));
        }
        self.note_end(now);
        self.resume(now);
        sealed
    }

    fn all_sealed(&mut self) -> bool {
        self.pump_writable();
        // Requests that wait for the client go on after sealing or flushing.
        let resumes = self.submit_due || self.held_up || self.mux.has_request() || !self.mux.may_handle();
        !resumes && self.mux.all_sealed()
    }

    fn after_seal(&mut self) -> Option<Arc<dyn Fn() + Send + Sync>> {
        let due = core::mem::take(&mut self.submit_due);
        self.submit.clone().filter(|_| due)
    }

    fn write_failed(&mut self, why: io::Result<ConnectionError>, _written: bool) {
        self.write_failed = true;
        self.fail_opens(&why);
        self.end.get_or_insert(why);
        self.cancel_all();
    }

    fn blocked(&mut self, since: Instant, now: Instant) -> bool {
        self.mux.blocked(since);
        self.mux.is_stalled(now, self.ending)
    }

    fn unblocked(&mut self) {
        self.mux.wrote();
    }

    fn drained(&mut self, now: Instant) -> Option<Shutdown> {
        // Otherwise nothing was sealed, and the stream may not have accepted what was before.
        if !self.write_failed && !self.cut {
            self.mux.flushed();
            // A request may have been held back during the greeting.
            self.resume(now);
        }
        let ending = self.ending.as_mut().filter(|_| !self.cut)?;
        ending.written();
        match ending.step(now) {
            LastStep::ShutDown => {
                ending.shut(now);
                // The thread that reads may be waiting for the client, without a time limit.
                if let Some((timer, until)) = self.linger.take().zip(ending.poll_timeout()) {
                    timer.push(Weak::clone(&self.own), until.since(now));
                }
                Some(Shutdown::Write)
            }
            // This wakes the thread that reads, which drops what has arrived.
            LastStep::Close | LastStep::DropArrived => Some(Shutdown::Both),
            LastStep::Write | LastStep::DropInput => None,
        }
    }

    fn ending(&mut self) -> &mut Option<Ending> {
        &mut self.ending
    }

    fn writes_until(&self, since: Instant) -> Instant {
        self.mux.writes_until(since, self.ending)
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        self.mux.set_reading(now, reading);
    }
}
