//! Coalescing: whether the task of a connection leaves the work of its streams for its next poll,
//! so that what several streams have to send goes out in one write.

/// After this many deferrals in a row that brought no second stream, the connection has one active
/// stream.
const MISSES: u8 = 4;
/// With one active stream, work is taken at once this many times between two deferrals.
const ALONE: u8 = 16;

/// Whether several streams tend to have work at the same time. If so, the connection takes the work
/// one poll later: other tasks that are ready run before that and add theirs. A single active
/// stream is rarely delayed.
#[derive(Debug, Default)]
pub(crate) struct Coalescing {
    /// How often work is taken at once before the next deferral.
    left: u8,
    /// How many deferrals in a row brought no second stream.
    missed: u8,
    /// Work was left for the next poll.
    deferred: bool,
}

impl Coalescing {
    /// Whether to leave work for the next poll. It is left once, and then taken.
    pub(crate) const fn defers(&self) -> bool {
        self.left == 0 && !self.deferred
    }

    /// The connection has left work for its next poll.
    pub(crate) const fn note_deferred(&mut self) {
        self.deferred = true;
    }

    /// The connection has taken the work of this many streams.
    pub(crate) const fn note_taken(&mut self, streams: usize) {
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
    fn work_is_deferred_while_several_streams_have_some_and_rarely_for_one() {
        let mut coalescing = Coalescing::default();
        let mut waited = 0;
        for _ in 0..174 {
            waited += u8::from(coalescing.defers());
            coalescing.note_taken(1);
        }
        assert_eq!(waited, MISSES + 10, "then once in 17 times");
        coalescing.note_taken(2);
        for _ in 0..10 {
            assert!(coalescing.defers());
            coalescing.note_deferred();
            assert!(!coalescing.defers());
            coalescing.note_taken(50);
        }
        // A poll without work of a stream changes nothing.
        coalescing.note_taken(0);
        assert!(coalescing.defers());
    }
}
