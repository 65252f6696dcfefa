//! Which connections a server accepts, and which half-open connection it drops when places are
//! short. There is no clock and no I/O: an adapter reports events, and drops the connections that
//! are selected here.

mod decide;
mod limits;
mod queue;
mod recent;
mod select;
mod source;

use alloc::collections::{BTreeMap, BTreeSet};

use self::queue::Queue;
use self::recent::Recent;
use crate::message::KeyId;
use crate::time::Instant;

pub use self::limits::AdmissionLimits;
pub(super) use self::recent::hello_fingerprint;
pub use self::source::Source;

/// How many handshakes may be in progress at once, not counting connections without a hello. With
/// more, all of them could time out when all clients reconnect at once.
const MAX_IN_PROGRESS: usize = 1024;

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
/// A connection can be selected only after [`all_read`](Self::all_read), so none is dropped because
/// the server is slow.
///
/// ```
/// use falco_core::Instant;
/// use falco_core::mux::{Admission, AdmissionLimits, Source};
///
/// let (mut admission, now) = (Admission::new(AdmissionLimits::new(10, 2), 7), Instant::ZERO);
/// for number in [1, 2] {
///     let mut selected = admission.admit(number, Source::NONE, now).expect("there is room");
///     assert_eq!(selected.next(), None);
///     assert_eq!(admission.all_read(number, now), None);
/// }
/// assert!(admission.hello(1, 0x5EED));
/// assert_eq!(admission.all_read(1, now), None);
/// assert!(!admission.has_room() && admission.may_have_room_later());
/// let later = Instant::from_millis(20);
/// assert_eq!(admission.select(later, Some(Source::NONE)), Some(2), "it has sent nothing");
/// admission.leave(2);
/// assert!(admission.has_room());
/// ```
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    half_open: BTreeMap<u64, HalfOpen>,
    /// How many half-open connections are selected: neither [`leave`](Self::leave) nor
    /// [`keep`](Self::keep) was called for them.
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
    stopping: bool,
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

/// Why an established connection may not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is no other reason")]
pub enum MustClose {
    /// Its key was retired since its hello.
    KeyRetired,
    /// The server [stops](Admission::stop).
    ShuttingDown,
    /// Its key, or the classic wire, has as many connections as it may have.
    OverLimit,
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
            stopping: false,
        }
    }

    /// The server stops. [`admit`](Self::admit) returns `None` afterwards. The caller closes all
    /// connections as [`ShuttingDown`](crate::CloseReason::ShuttingDown), and each guest that
    /// arrives later. If a connection still completes its handshake, [`establish`](Self::establish)
    /// returns that it must close.
    pub const fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the server stops.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stopping
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
    pub fn has_room(&self) -> bool {
        self.free() > 0 && self.in_progress() < MAX_IN_PROGRESS
    }

    /// Whether there is no place for another connection now, and one may become free when a
    /// half-open connection completes its handshake or is dropped.
    #[must_use]
    pub fn may_have_room_later(&self) -> bool {
        !self.has_room() && !self.half_open.is_empty()
    }

    /// The hello of a half-open connection has decrypted. `fingerprint` is that of
    /// [`ServerStep::Hello`](super::ServerStep::Hello). Returns `false` if a hello with this
    /// fingerprint has come before. The connection then stays among those that are dropped first.
    /// The hello of a connection that is not half-open here, such as a guest's, is not remembered.
    pub fn hello(&mut self, number: u64, fingerprint: u64) -> bool {
        let Some(mut half_open) = self.unqueue(number) else {
            return true;
        };
        half_open.hello = self.recent.insert(fingerprint);
        // A replay counts as the oldest connection.
        half_open.since = (!half_open.hello).then_some(Instant::ZERO);
        self.set(number, half_open);
        half_open.hello
    }

    /// Whether a connection was selected, and neither [`leave`](Self::leave) nor
    /// [`keep`](Self::keep) was called for it since.
    #[must_use]
    pub fn is_selected(&self, number: u64) -> bool {
        self.get(number)
            .is_some_and(|half_open| half_open.state == State::Selected)
    }

    /// Reports that bytes have arrived from a connection that was selected, which is therefore not
    /// dropped. It becomes a candidate again at the next [`all_read`](Self::all_read), with the
    /// same age as before.
    pub fn keep(&mut self, number: u64) {
        if let Some(half_open) = self.unqueue(number) {
            self.set(number, half_open);
        }
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
