//! Which half-open connection is dropped for another.

use core::time::Duration;

use super::queue::Queue;
use super::{Admission, MAX_IN_PROGRESS, Source, State};
use crate::time::Instant;

/// While connections with a hello hold more places, a connection without one is not dropped for
/// this long, because its hello may follow in the next packet.
const HELLO_GRACE: Duration = Duration::from_millis(20);

/// After this time without a hello, a connection is late: a client sends the hello directly after
/// the TCP handshake. It applies only in [`Admission::select_late`].
const HELLO_LATE: Duration = Duration::from_millis(100);

/// After this time with a hello and without the first PING, a connection is late. The PING follows
/// the hello after one round trip.
const PING_LATE: Duration = Duration::from_secs(1);

/// While there are connections without a hello to drop, one in this many half-open places is kept
/// free, so that the next connections need not wait for a drop.
const FREE_PART: usize = 16;

impl Admission {
    /// Selects a half-open connection that is to be dropped. `needed` is the source of a connection
    /// that waits for a place now, if one does. Returns `None` if enough places are free or are
    /// being freed, or if nothing can be dropped before [`due`](Self::due).
    ///
    /// The adapter drops the connection and calls [`leave`](Self::leave). If bytes of the
    /// connection have arrived that the server has not read, the adapter calls
    /// [`keep`](Self::keep) instead.
    pub fn select(&mut self, now: Instant, needed: Option<Source>) -> Option<u64> {
        let in_progress = self.in_progress() >= MAX_IN_PROGRESS;
        let wanted = (self.half_open.len() / FREE_PART).max(usize::from(needed.is_some()));
        if self.free() + self.selected < wanted {
            let more_with_hello = self.with_hello.len() > self.without_hello.len();
            let is_new = |since: Instant| since != Instant::ZERO && now < since + HELLO_GRACE;
            let first = self.without_hello.first();
            if first.is_some_and(|(since, _)| !(more_with_hello && is_new(since))) {
                let random = self.random();
                let number = self.without_hello.pick(None, random)?;
                return self.mark(number);
            }
        } else if !in_progress {
            return None;
        }
        // Connections with a valid hello are dropped one at a time, and only when a place is
        // needed.
        let needed = needed.filter(|_| self.selected == 0)?;
        let first = self.with_hello.first();
        let late = first.filter(|(since, _)| now >= *since + PING_LATE);
        let over_share = self.with_hello.over_share().filter(|source| *source != needed);
        let number = if let Some(source) = over_share {
            let random = self.random();
            self.with_hello.pick(Some(source), random)
        } else {
            late.map(|(_, number)| number)
        };
        number.and_then(|number| self.mark(number))
    }

    /// When the next connection becomes one that can be selected, if nothing changes before.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let hello = self.without_hello.first().map(|(since, _)| since + HELLO_GRACE);
        let ping = self.with_hello.first().map(|(since, _)| since + PING_LATE);
        hello.into_iter().chain(ping).filter(|at| *at > now).min()
    }

    /// Selects a half-open connection although places are free. Call it if the system lacks
    /// something else, such as descriptors. Selects a connection whose hello has not arrived for
    /// 100 ms, or else one whose first PING has not arrived for one second. Returns `None` while
    /// another selected connection is being dropped.
    pub fn select_late(&mut self, now: Instant) -> Option<u64> {
        if self.selected > 0 {
            return None;
        }
        let late = |queue: &Queue, after: Duration| queue.first().filter(|(since, _)| now >= *since + after);
        let late = late(&self.without_hello, HELLO_LATE).or_else(|| late(&self.with_hello, PING_LATE));
        late.and_then(|(_, number)| self.mark(number))
    }

    /// Selects a half-open connection of the same source as half-open connection `number`, if that
    /// source has more of them than it may have.
    pub(super) fn select_from_source_of(&mut self, number: u64) -> Option<u64> {
        let limit = self.limits.max_half_open_per_source?;
        let source = self.get(number)?.source;
        let (count, selected) = self.sources.get(&source)?;
        if *count <= limit + *selected {
            return None;
        }
        let random = self.random();
        let number = self.without_hello.pick(Some(source), random);
        let number = number.or_else(|| self.with_hello.pick(Some(source), random))?;
        self.mark(number)
    }

    /// Marks a candidate as selected.
    fn mark(&mut self, number: u64) -> Option<u64> {
        let mut half_open = self.unqueue(number)?;
        half_open.state = State::Selected;
        self.count_selected(half_open.source, true);
        self.set(number, half_open);
        Some(number)
    }

    pub(super) fn count_selected(&mut self, source: Source, more: bool) {
        let add = |count: &mut usize| *count = if more { *count + 1 } else { count.saturating_sub(1) };
        add(&mut self.selected);
        if let Some((_, selected)) = self.sources.get_mut(&source) {
            add(selected);
        }
    }

    /// `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
