//! Defaults of clients, the same in every adapter.

use core::time::Duration;

/// How long a client may take to connect by default, for adapters.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take by default, for adapters.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The size of a client's replay cache on the classic wire by default, for adapters. Each request
/// and each answer takes one nonce.
pub const DEFAULT_CLIENT_REPLAY_MEMORY: usize = 1024;

/// If nothing has arrived for this long, the connection may have ended, so an adapter reads the
/// stream before it begins a request. That costs a system call, which requests in quick succession
/// do not need.
pub const QUIET: Duration = Duration::from_millis(1);
