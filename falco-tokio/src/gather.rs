//! Whether the task of a connection lets the work of several streams gather before it takes it, so
//! that it is sent together.

/// After so many times without others, a stream works alone.
const MISSES: u8 = 4;
/// A stream that works alone is waited for again after so many times.
const ALONE: u8 = 16;

/// Whether several streams have work at a time. If so, the connection takes it one poll later: the
/// other tasks that are ready run before that, and add theirs. A stream that works alone is not
/// delayed, except for one time in [`ALONE`].
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// How many times are left until the next try.
    left: u8,
    /// How often it has waited and there were no others.
    missed: u8,
    /// It waits now.
    deferred: bool,
}

impl Gather {
    /// Whether to wait for more work, once.
    pub(crate) const fn waits(&self) -> bool {
        self.left == 0 && !self.deferred
    }

    /// The connection has left work for its next poll.
    pub(crate) const fn defer(&mut self) {
        self.deferred = true;
    }

    /// The connection has taken work of so many streams.
    pub(crate) const fn took(&mut self, streams: usize) {
        self.deferred = false;
        match (streams, self.left) {
            (0, _) => {}
            (1, 0) if self.missed < MISSES => self.missed += 1,
            (1, 0) => self.left = ALONE,
            (1, left) => self.left = left - 1,
            (2.., _) => (self.left, self.missed) = (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_while_several_have_work_and_seldom_for_one() {
        let mut gather = Gather::default();
        let mut waited = 0;
        for _ in 0..174 {
            waited += u8::from(gather.waits());
            gather.took(1);
        }
        assert_eq!(waited, MISSES + 10, "then once in 17 times");
        gather.took(2);
        for _ in 0..10 {
            assert!(gather.waits());
            gather.defer();
            assert!(!gather.waits());
            gather.took(50);
        }
        // A poll without work of a stream says nothing.
        gather.took(0);
        assert!(gather.waits());
    }
}
