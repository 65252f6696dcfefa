//! Values that a client or a server has with every adapter.

use core::time::Duration;

/// How long a client may take to connect by default, for adapters.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take by default, for adapters.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The size of a client's replay cache on the classic wire by default, for adapters. Each request
/// and each answer takes one nonce.
pub const DEFAULT_CLIENT_REPLAY_MEMORY: usize = 1024;

/// The size of a server's replay cache on the classic wire by default, for adapters: 1.25 MiB. Each
/// request and each answer takes one nonce.
pub const DEFAULT_SERVER_REPLAY_MEMORY: usize = 65_536;
/// How many bytes requests may hold over all connections of a server by default, for adapters, and
/// how many bytes of answers may be queued.
pub const DEFAULT_SERVER_MAX_HELD: usize = 1 << 30;

/// If nothing has arrived for this long, the connection may have ended, so an adapter reads the
/// stream before it begins a request. That costs a system call, which requests in quick succession
/// do not need.
pub const QUIET: Duration = Duration::from_millis(1);
