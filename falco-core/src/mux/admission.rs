//! Which connections a server accepts, and which half-open connection it drops when places are
//! short. No clock and no I/O: an adapter reports what happens and drops what this selects.

mod limits;
mod queue;
mod recent;
mod source;

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

use self::queue::Queue;
use self::recent::Recent;
use crate::message::KeyId;
use crate::time::Instant;

pub use self::limits::AdmissionLimits;
pub(super) use self::recent::hello_fingerprint;
pub use self::source::{Source, SourcePrefix};

/// A connection without a hello is spared for so long while connections with a hello hold more
/// places: its hello may be one packet behind.
const HELLO_GRACE: Duration = Duration::from_millis(20);

/// When a hello is late: a client sends it right behind the last packet of TCP's handshake. This
/// counts only where something other than places is short.
const HELLO_LATE: Duration = Duration::from_millis(100);

/// When the first PING is late, which follows the hello after a round trip.
const PING_LATE: Duration = Duration::from_secs(1);

/// How many handshakes are in progress at once, connections without a hello not counted. More would
/// slow each other down until all of them time out, when all clients reconnect at once.
const MAX_IN_PROGRESS: usize = 1024;

/// While connections without a hello are many, so large a part of the half-open places is kept
/// free, so that the next connections need not wait until another has been dropped.
const FREE_PART: usize = 16;

/// Whether there is a place for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum Room {
    /// There is.
    Free,
    /// Not before a half-open connection has completed its handshake or was dropped.
    Wait,
    /// No: all connections are established.
    Full,
}

/// The connections of a server by number, and the rule by which half-open ones are dropped.
///
/// A half-open connection is dropped only if another connection needs its place:
///
/// 1. The first to be dropped are those that have sent nothing, part of a hello, or a replayed
///    hello. It is one of the older half, at random: each has the younger half's time for certain,
///    and a flood does not drop all clients whose hellos are slow. If one source has more than a
///    16th of them, and more than 8, it is one of that source. While connections with a hello are
///    more, one whose hello may still be on its way is not dropped for 20 ms.
/// 2. If there are none, it is one whose hello decrypted and whose first PING has not arrived for a
///    second. If one source has more than a 16th of them, and more than 8, and the new connection
///    is from another source, it is one of that source, without that delay.
///
/// Handshakes in progress, that is, connections with a hello and those that the server has not read
/// yet, are 1,024 at most. Further connections wait.
///
/// A connection is never dropped because the server is slow: it can be selected only after
/// [`waits`](Self::waits).
///
/// ```
/// use falco_core::Instant;
/// use falco_core::mux::{Admission, AdmissionLimits, Room, Source};
///
/// let limits = AdmissionLimits {
///     max_connections: 10,
///     max_half_open: 2,
///     max_half_open_per_source: None,
///     max_connections_per_key: None,
///     max_classic_connections: None,
/// };
/// let (mut admission, now) = (Admission::new(limits, 7), Instant::ZERO);
/// for number in [1, 2] {
///     assert!(admission.admit(number, Source::NONE));
///     admission.waits(number, now);
/// }
/// assert!(admission.hello(1, 0x5EED));
/// admission.waits(1, now);
/// assert_eq!(admission.room(), Room::Wait);
/// let later = Instant::from_millis(20);
/// assert_eq!(admission.select(later, Some(Source::NONE)), Some(2), "it has sent nothing");
/// admission.leave(2);
/// assert_eq!(admission.room(), Room::Free);
/// ```
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    half_open: BTreeMap<u64, HalfOpen>,
    /// How many half-open connections were selected and have neither left nor stayed.
    selected: usize,
    /// How many connections are established.
    established: usize,
    /// Half-open connections of each source, and how many of them were selected.
    sources: BTreeMap<Source, (usize, usize)>,
    /// Where keys have a limit: how many established connections count towards each, and towards
    /// which each counts. The key of the classic wire has no id.
    keys: BTreeMap<Option<KeyId>, usize>,
    key_of: BTreeMap<u64, Option<KeyId>>,
    /// Where the classic wire has a limit: the established connections on it.
    classic: BTreeSet<u64>,
    /// Candidates that have sent nothing, part of a hello, or a replay.
    without_hello: Queue,
    /// Candidates whose hello decrypted.
    with_hello: Queue,
    recent: Recent,
    random: u64,
}

#[derive(Clone, Copy, Debug)]
struct HalfOpen {
    source: Source,
    /// Its hello has decrypted and had not come before.
    hello: bool,
    /// When the server first waited for it, at this stage.
    since: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The server has not read what may have come.
    Unread,
    /// The server waits for more of its bytes.
    Waiting,
    /// It is to be dropped.
    Selected,
}

impl Admission {
    /// No connections yet. `seed` is a random number that nobody else knows.
    #[must_use]
    pub fn new(limits: AdmissionLimits, seed: u64) -> Self {
        Self {
            limits: limits.at_least_one(),
            half_open: BTreeMap::new(),
            selected: 0,
            established: 0,
            sources: BTreeMap::new(),
            keys: BTreeMap::new(),
            key_of: BTreeMap::new(),
            classic: BTreeSet::new(),
            without_hello: Queue::default(),
            with_hello: Queue::default(),
            recent: Recent::default(),
            random: seed,
        }
    }

    /// The limits in force.
    #[must_use]
    pub const fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }

    /// How many connections there are, half-open ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.half_open.len() + self.established
    }

    /// How many of them are half-open.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// How many established connections count towards a key; `None` is the key of the classic wire.
    /// None do where keys have no limit.
    #[must_use]
    pub fn under_key(&self, key: Option<KeyId>) -> usize {
        self.keys.get(&key).copied().unwrap_or(0)
    }

    fn free(&self) -> usize {
        let all = self.limits.max_connections.saturating_sub(self.connections());
        all.min(self.limits.max_half_open.saturating_sub(self.half_open.len()))
    }

    /// Handshakes in progress.
    fn in_progress(&self) -> usize {
        self.half_open
            .len()
            .saturating_sub(self.without_hello.len())
            .saturating_sub(self.selected)
    }

    /// Whether there is a place for another connection.
    #[must_use]
    pub fn room(&self) -> Room {
        match (self.free(), self.half_open.len()) {
            (0, 0) => Room::Full,
            (0, _) => Room::Wait,
            _ if self.in_progress() >= MAX_IN_PROGRESS => Room::Wait,
            _ => Room::Free,
        }
    }

    /// Adds a half-open connection under a number that was not used before. There must be
    /// [`room`](Self::room). False where its source has twice as many as one source may have: then
    /// it was not added.
    pub fn admit(&mut self, number: u64, source: Source) -> bool {
        let (count, _) = self.sources.entry(source).or_default();
        if let Some(limit) = self.limits.max_half_open_per_source
            && *count >= limit.saturating_mul(2)
        {
            return false;
        }
        *count += 1;
        let half_open = HalfOpen {
            source,
            hello: false,
            since: None,
            state: State::Unread,
        };
        self.half_open.insert(number, half_open);
        true
    }

    /// The server has read all that has come from a half-open connection, and waits for more. Its
    /// age counts from the first such time, so that sending byte by byte gains nothing.
    pub fn waits(&mut self, number: u64, now: Instant) {
        if let Some(mut half_open) = self.get(number)
            && half_open.state == State::Unread
        {
            let since = *half_open.since.get_or_insert(now);
            half_open.state = State::Waiting;
            self.queue(half_open).insert(half_open.source, (since, number));
            self.set(number, half_open);
        }
    }

    /// The hello of a half-open connection has decrypted. `fingerprint` is that of
    /// [`ServerStep::Hello`](super::ServerStep::Hello). False where a hello with it came before:
    /// then the connection stays among those that are dropped first. The hello of a connection that
    /// is not half-open here, such as a guest's, is not remembered.
    pub fn hello(&mut self, number: u64, fingerprint: u64) -> bool {
        let Some(mut half_open) = self.unqueue(number) else {
            return true;
        };
        half_open.hello = self.recent.insert(fingerprint);
        // A replay counts as the oldest there is.
        half_open.since = (!half_open.hello).then_some(Instant::ZERO);
        self.set(number, half_open);
        half_open.hello
    }

    /// Selects a half-open connection that is to be dropped. `needed` is the source of a connection
    /// that waits for a place now, if one does. None where enough places are free or are being
    /// freed, and where nothing can be dropped before [`due`](Self::due).
    ///
    /// The adapter drops the connection and calls [`leave`](Self::leave). If bytes of it have come
    /// that the server has not read, it calls [`stays`](Self::stays) instead.
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
        // What has sent a valid hello is dropped one by one, and not ahead of need.
        let needed = needed.filter(|_| self.selected == 0)?;
        let first = self.with_hello.first();
        let late = first.filter(|(since, _)| now >= *since + PING_LATE);
        let hoards = self.with_hello.hoards().filter(|source| *source != needed);
        let number = if let Some(source) = hoards {
            let random = self.random();
            self.with_hello.pick(Some(source), random)
        } else {
            late.map(|(_, number)| number)
        };
        number.and_then(|number| self.mark(number))
    }

    /// When a connection can be selected that cannot be now, unless something changes before.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let hello = self.without_hello.first().map(|(since, _)| since + HELLO_GRACE);
        let ping = self.with_hello.first().map(|(since, _)| since + PING_LATE);
        hello.into_iter().chain(ping).filter(|at| *at > now).min()
    }

    /// Selects a half-open connection although places are free, because the system is short of
    /// something else, such as descriptors: one without a hello that the server has waited for for
    /// 100 ms, or else one with a hello for a second. None while one is being dropped.
    pub fn select_late(&mut self, now: Instant) -> Option<u64> {
        if self.selected > 0 {
            return None;
        }
        let late = |queue: &Queue, after: Duration| queue.first().filter(|(since, _)| now >= *since + after);
        let late = late(&self.without_hello, HELLO_LATE).or_else(|| late(&self.with_hello, PING_LATE));
        late.and_then(|(_, number)| self.mark(number))
    }

    /// Selects a half-open connection of the same source as half-open connection `number`, where
    /// that source has more of them than one may have.
    pub fn select_from_source_of(&mut self, number: u64) -> Option<u64> {
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

    /// Makes a candidate one that is selected.
    fn mark(&mut self, number: u64) -> Option<u64> {
        let mut half_open = self.unqueue(number)?;
        half_open.state = State::Selected;
        self.count_selected(half_open.source, true);
        self.set(number, half_open);
        Some(number)
    }

    fn count_selected(&mut self, source: Source, more: bool) {
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

    /// Whether a connection was selected and has neither left nor stayed since.
    #[must_use]
    pub fn is_selected(&self, number: u64) -> bool {
        self.get(number)
            .is_some_and(|half_open| half_open.state == State::Selected)
    }

    /// Bytes have come from a connection that was selected: it is no candidate before the server
    /// waits for it again, and then as old as it was.
    pub fn stays(&mut self, number: u64) {
        if let Some(half_open) = self.unqueue(number) {
            self.set(number, half_open);
        }
    }

    /// A half-open connection has completed its handshake under a key; `None` is the key of the
    /// classic wire. False where that key or the classic wire has as many connections as it may
    /// have: then the connection is to be closed. It counts until it leaves, though not towards
    /// these two limits.
    pub fn establish(&mut self, number: u64, key: Option<KeyId>) -> bool {
        if !self.end_half_open(number) {
            return true;
        }
        self.established += 1;
        if let (None, Some(limit)) = (key, self.limits.max_classic_connections)
            && self.classic.len() >= limit
        {
            return false;
        }
        let within = self.count_under_key(number, key);
        if within && key.is_none() && self.limits.max_classic_connections.is_some() {
            self.classic.insert(number);
        }
        within
    }

    /// Counts a connection towards its key. False where that has as many as it may have.
    fn count_under_key(&mut self, number: u64, key: Option<KeyId>) -> bool {
        let Some(limit) = self.limits.max_connections_per_key else {
            return true;
        };
        let count = self.keys.entry(key).or_default();
        if *count >= limit {
            return false;
        }
        *count += 1;
        self.key_of.insert(number, key);
        true
    }

    /// A connection that was [admitted](Self::admit) has ended.
    pub fn leave(&mut self, number: u64) {
        if self.end_half_open(number) {
            return;
        }
        self.established = self.established.saturating_sub(1);
        self.classic.remove(&number);
        if let Some(key) = self.key_of.remove(&number)
            && let Some(count) = self.keys.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&key);
            }
        }
    }

    /// Forgets a half-open connection, and says whether it was one.
    fn end_half_open(&mut self, number: u64) -> bool {
        let Some(half_open) = self.unqueue(number) else {
            return false;
        };
        self.half_open.remove(&number);
        if let Some((count, _)) = self.sources.get_mut(&half_open.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&half_open.source);
            }
        }
        true
    }

    fn get(&self, number: u64) -> Option<HalfOpen> {
        self.half_open.get(&number).copied()
    }

    fn set(&mut self, number: u64, half_open: HalfOpen) {
        self.half_open.insert(number, half_open);
    }

    const fn queue(&mut self, half_open: HalfOpen) -> &mut Queue {
        if half_open.hello {
            &mut self.with_hello
        } else {
            &mut self.without_hello
        }
    }

    /// A half-open connection, which is neither a candidate nor selected any more. The caller sets
    /// it, or forgets it.
    fn unqueue(&mut self, number: u64) -> Option<HalfOpen> {
        let half_open = self.get(number)?;
        match (half_open.state, half_open.since) {
            (State::Waiting, Some(since)) => self.queue(half_open).remove(half_open.source, (since, number)),
            (State::Selected, _) => self.count_selected(half_open.source, false),
            (State::Waiting | State::Unread, _) => {}
        }
        Some(HalfOpen {
            state: State::Unread,
            ..half_open
        })
    }
}
