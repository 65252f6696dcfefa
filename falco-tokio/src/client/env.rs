//! What all connections of a client share.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::{Arc, PoisonError, RwLock};

use falco_core::Settings;
use falco_core::keys::{ClientKeys, Entropy, KeyOptions};
use falco_core::mux::Backoff;

use super::dial::Dial;
use super::stats::Counters;
use crate::clock::Clock;

/// What all connections of a client share.
#[derive(Debug)]
pub(super) struct Env {
    /// Replaced when the key changes.
    pub(super) keys: RwLock<Arc<ClientKeys>>,
    pub(super) key_options: KeyOptions,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) dial: Dial,
    pub(super) connect_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) fail_fast: bool,
    /// Whether there is more than one connection.
    pub(super) spread: bool,
    pub(super) counters: Counters,
    /// Whether this client has completed a handshake under its key, and no server has reported since
    /// that the key is retired.
    pub(super) admitted: AtomicBool,
}

impl Env {
    /// A handshake has completed.
    pub(super) fn admit(&self) {
        self.counters.connected.add(1);
        self.admitted.store(true, Ordering::Relaxed);
    }

    /// The pause after so many failed attempts in a row.
    pub(super) fn pause(&self, failed: u32) -> Duration {
        self.backoff.pause(failed, |bound| self.entropy.below(bound))
    }

    pub(super) fn keys(&self) -> Arc<ClientKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}
