//! What all connections of a client share.

use core::time::Duration;
use std::sync::{Arc, PoisonError, RwLock};

use falco_core::Settings;
use falco_core::keys::{ClientKeys, Entropy};
use falco_core::mux::{Admitted, Backoff};
use tokio::sync::Notify;

use super::servers::Servers;
use super::stats::Counters;
use crate::clock::Clock;

/// A client's key, and whether the client was admitted under it.
#[derive(Debug)]
pub(super) struct OwnKey {
    pub(super) keys: Arc<ClientKeys>,
    pub(super) admitted: Admitted,
}

impl OwnKey {
    pub(super) fn new(keys: Arc<ClientKeys>) -> Arc<Self> {
        let admitted = Admitted::new();
        Arc::new(Self { keys, admitted })
    }
}

/// What all connections of a client share.
#[derive(Debug)]
pub(super) struct Env {
    /// Replaced when the key changes.
    pub(super) key: RwLock<Arc<OwnKey>>,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) entropy: Entropy,
    pub(super) servers: Servers,
    pub(super) connect_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) fail_fast: bool,
    /// Whether there is more than one connection.
    pub(super) spread: bool,
    pub(super) counters: Counters,
    /// Notified when a connection is there again after failed attempts.
    pub(super) recovered: Notify,
}

impl Env {
    pub(super) fn key(&self) -> Arc<OwnKey> {
        Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner))
    }
}
