//! Which connections a server accepts, and which half-open connection it drops when places are
//! short. There is no clock and no I/O: an adapter reports events, and drops the connections that
//! are selected here.

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
pub use self::recent::hello_fingerprint;
pub use self::source::{Source, SourcePrefix};

/// While connections with a hello hold more places, a connection without one is not dropped for
/// this long, because its hello may follow in the next packet.
const HELLO_GRACE: Duration = Duration::from_millis(20);

/// After this time without a hello, a connection is late: a client sends the hello directly after
/// the TCP handshake. It applies only in [`Admission::select_late`].
const HELLO_LATE: Duration = Duration::from_millis(100);

/// After this time with a hello and without the first PING, a connection is late. The PING follows
/// the hello after one round trip.
const PING_LATE: Duration = Duration::from_secs(1);

/// How many handshakes may be in progress at once, not counting connections without a hello. With
/// more, all of them could time out when all clients reconnect at once.
const MAX_IN_PROGRESS: usize = 1024;

/// While there are connections without a hello to drop, one in this many half-open places is kept
/// free, so that the next connections need not wait for a drop.
const FREE_PART: usize = 16;

/// Whether there is a place for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth case")]
pub enum Room {
    /// There is a place.
    Free,
    /// There is none now. One may become free when a half-open connection completes its handshake
    /// or is dropped.
    Wait,
    /// There is none: all connections are established.
    Full,
}

/// The connections of a server by number, and the rule that selects which half-open one is dropped.
///
/// A half-open connection is dropped only if few places are free, by these rules, or by
/// [`select_late`](Self::select_late):
///
/// 1. Connections that have sent nothing, part of a hello, or a replayed hello are dropped first.
///    One is selected at random from the older half, at most the 256 oldest, so that a flood does
///    not drop all clients whose hellos are slow. If one source has more than a 16th of these
///    connections, and more than 8, one of that source is selected. While there are more
///    connections with a hello, one without a hello is not dropped in its first 20 ms.
/// 2. If there are none, a connection is selected whose hello decrypted and whose first PING has
///    not arrived for one second. If one source has more than a 16th of the connections with a
///    hello, and more than 8, and the new connection is from another source, one of that source is
///    selected without that delay.
///
/// At most 1,024 handshakes are in progress at once: connections with a hello, and those that the
/// server has not read yet. Further connections wait.
///
/// A connection can be selected only after [`waits`](Self::waits), so none is dropped because the
/// server is slow.
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
/// assert!(admission.hello(1, Some(0x5EED)));
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
    /// How many half-open connections are selected: neither [`leave`](Self::leave) nor
    /// [`stays`](Self::stays) was called for them.
    selected: usize,
    /// How many connections are established.
    established: usize,
    /// Half-open connections of each source, and how many of them were selected.
    sources: BTreeMap<Source, (usize, usize)>,
    /// If keys have a limit: how many established connections count towards each key, and towards
    /// which key each connection counts. The key of the classic wire has no id.
    keys: BTreeMap<Option<KeyId>, usize>,
    key_of: BTreeMap<u64, Option<KeyId>>,
    /// If the classic wire has a limit: the established connections on it.
    classic: BTreeSet<u64>,
    /// Candidates that have sent nothing, part of a hello, or a replayed hello.
    without_hello: Queue,
    /// Candidates whose hello decrypted.
    with_hello: Queue,
    recent: Recent,
    random: u64,
}

#[derive(Clone, Copy, Debug)]
struct HalfOpen {
    source: Source,
    /// Its hello has decrypted and is not a replay.
    hello: bool,
    /// When the server first waited for its hello, or after the hello, for its first PING.
    since: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes may have arrived that the server has not read.
    Unread,
    /// The server waits for more of its bytes.
    Waiting,
    /// The adapter is to drop it.
    Selected,
}

impl Admission {
    /// An admission without connections. `seed` is a secret random number.
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
    /// 0 if keys have no limit.
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
    /// [`room`](Self::room). Returns `false`, and does not add it, if its source has twice as many
    /// half-open connections as it may have.
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

    /// Reports that the server has read everything that has arrived from a half-open connection,
    /// and waits for more. The age of the connection counts from the first such call, so a client
    /// gains no time by sending byte by byte.
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

    /// Reports that the hello of a half-open connection has decrypted. `fingerprint` is the
    /// [`hello_fingerprint`] of its bytes. Returns `false` if the hello is a replay: the connection
    /// then stays among those that are dropped first.
    pub fn hello(&mut self, number: u64, fingerprint: Option<u64>) -> bool {
        let is_new = fingerprint.is_none_or(|fingerprint| self.recent.insert(fingerprint));
        if let Some(mut half_open) = self.unqueue(number) {
            half_open.hello = is_new;
            // A replay counts as the oldest connection.
            half_open.since = (!is_new).then_some(Instant::ZERO);
            self.set(number, half_open);
        }
        is_new
    }

    /// Selects a half-open connection that is to be dropped. `needed` is the source of a connection
    /// that waits for a place now, if one does. Returns `None` if enough places are free or are
    /// being freed, or if nothing can be dropped before [`due`](Self::due).
    ///
    /// The adapter drops the connection and calls [`leave`](Self::leave). If bytes of the
    /// connection have arrived that the server has not read, the adapter calls
    /// [`stays`](Self::stays) instead.
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
        let hoards = self.with_hello.hoards().filter(|source| *source != needed);
        let number = if let Some(source) = hoards {
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

    /// Marks a candidate as selected.
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

    /// Whether a connection was selected, and neither [`leave`](Self::leave) nor
    /// [`stays`](Self::stays) was called for it since.
    #[must_use]
    pub fn is_selected(&self, number: u64) -> bool {
        self.get(number)
            .is_some_and(|half_open| half_open.state == State::Selected)
    }

    /// Reports that bytes have arrived from a connection that was selected, which is therefore not
    /// dropped. It becomes a candidate again at the next [`waits`](Self::waits), with the same age
    /// as before.
    pub fn stays(&mut self, number: u64) {
        if let Some(half_open) = self.unqueue(number) {
            self.set(number, half_open);
        }
    }

    /// Reports that a half-open connection has completed its handshake under a key; `None` is the
    /// key of the classic wire. Returns `false` if that key or the classic wire has reached its
    /// limit: then close the connection. Until [`leave`](Self::leave) it counts towards
    /// `max_connections`, but not towards these two limits.
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

    /// Counts a connection towards its key. Returns `false` if the key has reached its limit.
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

    /// Reports that a connection that was [admitted](Self::admit) has ended.
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

    /// Removes a connection if it is half-open, and returns whether it was.
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

    /// Returns a half-open connection that is no longer a candidate and no longer selected. The
    /// caller stores it with `set`, or removes it.
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
