//! Candidates of one kind, by age and by source.

use alloc::collections::{BTreeMap, BTreeSet};

use super::source::Source;
use crate::time::Instant;

/// The time since which the server waits for the hello or the first PING of a connection, and the
/// number of the connection.
type Candidate = (Instant, u64);

/// A source holds too many candidates if it has more than one in `SHARE` of all candidates, and
/// more than [`FEW`].
const SHARE: usize = 16;
/// A source with at most this many candidates never holds too many.
const FEW: usize = 8;

/// A candidate is picked from at most this many, which bounds the cost.
const WINDOW: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Queue {
    all: BTreeSet<Candidate>,
    sources: BTreeMap<Source, BTreeSet<Candidate>>,
    /// The sources by how many candidates they have.
    by_count: BTreeSet<(usize, Source)>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The oldest candidate.
    pub(super) fn first(&self) -> Option<Candidate> {
        self.all.first().copied()
    }

    pub(super) fn insert(&mut self, source: Source, candidate: Candidate) {
        self.all.insert(candidate);
        let own = self.sources.entry(source).or_default();
        let before = own.len();
        own.insert(candidate);
        let after = own.len();
        self.count(source, before, after);
    }

    pub(super) fn remove(&mut self, source: Source, candidate: Candidate) {
        self.all.remove(&candidate);
        let Some(own) = self.sources.get_mut(&source) else {
            return;
        };
        let before = own.len();
        own.remove(&candidate);
        let after = own.len();
        if after == 0 {
            self.sources.remove(&source);
        }
        self.count(source, before, after);
    }

    fn count(&mut self, source: Source, before: usize, after: usize) {
        self.by_count.remove(&(before, source));
        if after > 0 {
            self.by_count.insert((after, source));
        }
    }

    /// The source with the most candidates, if it holds too many.
    pub(super) fn over_share(&self) -> Option<Source> {
        let (count, source) = self.by_count.last()?;
        (*count > (self.all.len() / SHARE).max(FEW)).then_some(*source)
    }

    /// Picks a candidate at random from the older half, or from the 256 oldest if the half is
    /// larger. Considers the candidates of `source` if it is given. Otherwise considers those of
    /// the source that holds too many, or all if no source does.
    pub(super) fn pick(&self, source: Option<Source>, random: u64) -> Option<u64> {
        let source = source.or_else(|| self.over_share());
        let candidates = source.map_or(Some(&self.all), |source| self.sources.get(&source))?;
        let window = candidates.len().div_ceil(2).min(WINDOW);
        let nth = random % u64::try_from(window).ok()?.max(1);
        let (_, number) = candidates.iter().nth(usize::try_from(nth).ok()?)?;
        Some(*number)
    }
}
