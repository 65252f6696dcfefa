//! A connection's place among those of its server.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::Service;
use super::stats::Metrics;

/// A connection's place among those of its server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The number and, in the highest bit, whether it is a guest: an idle connection is smaller.
    tagged: u64,
}

impl Place {
    const GUEST: u64 = 1 << 63;

    pub(super) const fn new(number: u64) -> Self {
        Self { tagged: number }
    }

    /// The place of a connection that the server did not accept itself, so it does not count
    /// towards `max_connections`.
    pub(super) const fn of_guest(number: u64) -> Self {
        Self {
            tagged: number | Self::GUEST,
        }
    }

    pub(super) const fn number(self) -> u64 {
        self.tagged & !Self::GUEST
    }

    pub(super) const fn is_guest(self) -> bool {
        self.tagged & Self::GUEST != 0
    }
}

/// A place that a connection shares with its handlers. If the connection ends while handlers run,
/// the last of them frees the place. So a client that connects again and again cannot run more
/// handlers than the limits on connections and requests in flight allow.
#[derive(Debug)]
pub(super) struct SharedPlace {
    service: Arc<Service>,
    place: Place,
    /// The connection has ended.
    ended: AtomicBool,
}

impl SharedPlace {
    pub(super) fn new(service: &Arc<Service>, place: Place) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(service),
            place,
            ended: AtomicBool::new(false),
        })
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.service.counters.metrics
    }

    /// The connection has ended: the place is free as soon as nothing shares it.
    pub(super) fn end(&self) {
        // Dropping the last reference synchronizes with the drops of all others.
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            self.service.registry.free(self.place);
        }
    }
}
