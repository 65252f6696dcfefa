//! A request or a ping for which a caller waits, on its way from the adapter to the mux and back.

use core::fmt;

use super::retry::Attempts;
use crate::message::Fate;

/// A request with its caller. An adapter creates it once and hands it to
/// [`ClientMux::request`](super::ClientMux::request). If the connection does not complete the
/// request, the mux returns it whole. The adapter then hands it to another connection, or fails it.
///
/// A ping is a call whose body is `()`, for [`ClientMux::ping`](super::ClientMux::ping). Its ticket
/// is not used.
///
/// `B` is the body and `W` whatever waits for the answer.
#[non_exhaustive]
pub struct Call<B, W> {
    /// The adapter's number of the request. Later requests have larger numbers, and no two
    /// outstanding requests of a connection have the same.
    pub ticket: u64,
    /// The body.
    pub body: B,
    /// Whatever waits for the answer.
    pub waiter: W,
    /// How often it has been tried on other connections.
    pub attempts: Attempts,
    /// An open answer is returned in pieces, as it arrives.
    #[cfg(feature = "streams")]
    pub streams: bool,
}

impl<B, W> Call<B, W> {
    /// A request that no connection has tried yet.
    pub fn new(ticket: u64, body: B, waiter: W) -> Self {
        Self {
            ticket,
            body,
            waiter,
            attempts: Attempts::default(),
            #[cfg(feature = "streams")]
            streams: false,
        }
    }

    /// An open answer to it is returned in pieces, as it arrives:
    /// [`ClientStep::Opened`](super::ClientStep::Opened). Otherwise it is collected.
    #[cfg(feature = "streams")]
    #[must_use]
    pub fn streaming(mut self) -> Self {
        self.streams = true;
        self
    }
}

/// What a connection leaves behind when it ends: `C` is the [`Call`] of a request or a ping, or
/// with the feature `streams` an open request.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unfinished<C> {
    /// The request or ping. An open request that has begun has no body.
    pub call: C,
    /// Whether it may have been processed. No handler processes a ping.
    pub fate: Fate,
    /// Whether it goes to another connection, within its own time limit. If not, it fails.
    pub retry: bool,
}

impl<B, W> fmt::Debug for Call<B, W> {
    /// Shows no body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("ticket", &self.ticket)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
