//! Decides whether a new connection is admitted, when the age of a half-open connection starts, and
//! whether an established connection exceeds a limit.

use super::{Admission, HalfOpen, MustClose, Source, State};
use crate::message::KeyId;
use crate::time::Instant;

impl Admission {
    /// Adds a half-open connection under a number that was not used before, and returns the
    /// connections that are selected to be dropped, as [`select`](Self::select) does. Returns
    /// `None`, and does not add it, if the server [stops](Self::stop), if there is no
    /// [room](Self::has_room), or if its source has twice as many half-open connections as it may
    /// have.
    pub fn admit(&mut self, number: u64, source: Source, now: Instant) -> Option<impl Iterator<Item = u64> + use<>> {
        if self.stopping || !self.has_room() {
            return None;
        }
        let (count, _) = self.sources.entry(source).or_default();
        if let Some(limit) = self.limits.max_half_open_per_source
            && *count >= limit.saturating_mul(2)
        {
            return None;
        }
        *count += 1;
        let half_open = HalfOpen {
            source,
            hello: false,
            since: None,
            state: State::Unread,
        };
        self.half_open.insert(number, half_open);
        let selected = [
            self.select_from_source_of(number),
            // One connection makes up for the place that was just taken. A second one frees places
            // faster than they are taken.
            self.select(now, None),
            self.select(now, None),
        ];
        Some(selected.into_iter().flatten())
    }

    /// Reports that the server has read everything that has arrived from a half-open connection,
    /// and waits for more. The age of the connection counts from the first such call, so a client
    /// gains no time by sending byte by byte.
    ///
    /// If the source of the connection has more half-open connections than it may have, returns
    /// one of them that is selected to be dropped, as [`select`](Self::select) does.
    pub fn all_read(&mut self, number: u64, now: Instant) -> Option<u64> {
        if let Some(mut half_open) = self.get(number)
            && half_open.state == State::Unread
        {
            let since = *half_open.since.get_or_insert(now);
            half_open.state = State::Waiting;
            self.queue(half_open).insert(half_open.source, (since, number));
            self.set(number, half_open);
        }
        self.select_from_source_of(number)
    }

    /// Reports that a connection has completed its handshake under a key; `None` is the key of the
    /// classic wire. `retired` is whether the key was retired since the hello.
    ///
    /// If the connection must close, returns why, for
    /// [`ServerMux::close_for`](crate::mux::ServerMux::close_for). A connection that exceeds a
    /// limit does not count towards the limit of its key or that of the classic wire. It counts
    /// towards all others until it is removed. A connection that was not [admitted](Self::admit),
    /// such as a guest, does not count.
    ///
    /// Call it once the code that retires keys can find the connection by its key. If the key is
    /// retired after `retired` was read, that code closes the connection.
    pub fn establish(&mut self, number: u64, key: Option<KeyId>, retired: bool) -> Option<MustClose> {
        let within = self.count_established(number, key);
        if retired {
            Some(MustClose::KeyRetired)
        } else if self.stopping {
            Some(MustClose::ShuttingDown)
        } else {
            (!within).then_some(MustClose::OverLimit)
        }
    }

    /// Counts an established connection. Returns `false` if its key or the classic wire has as many
    /// as it may have.
    fn count_established(&mut self, number: u64, key: Option<KeyId>) -> bool {
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

    /// Counts a connection towards its key. Returns `false` if the key has as many as it may have.
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
}
