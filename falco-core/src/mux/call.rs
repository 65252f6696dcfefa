//! A request for which a caller waits, on its way from the adapter to the mux and back.

use core::fmt;

use super::retry::{Attempts, Retry};
use crate::error::RequestError;
use crate::message::Fate;

/// A request with its caller. An adapter creates it once and hands it to
/// [`ClientMux::request`](super::ClientMux::request). If the connection does not complete the
/// request, the mux returns it whole. The adapter then hands it to another connection, or fails it.
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

/// A ping for which a caller waits, on its way from the adapter to the mux and back. If a
/// connection does not complete the ping, the mux returns it. The adapter then hands it to another
/// connection, or fails it. `P` is whatever waits for the answer.
#[non_exhaustive]
pub struct Ping<P> {
    /// Whatever waits for the answer.
    pub waiter: P,
    /// How often it has been tried on other connections.
    pub attempts: Attempts,
}

impl<P> Ping<P> {
    /// A ping that no connection has tried yet.
    pub fn new(waiter: P) -> Self {
        let attempts = Attempts::default();
        Self { waiter, attempts }
    }
}

/// A ping that a connection leaves behind when it ends.
#[non_exhaustive]
pub struct UnfinishedPing<P> {
    /// The ping.
    pub ping: Ping<P>,
    /// What its caller can conclude: always [`Fate::NotProcessed`], because no handler processes
    /// it.
    pub fate: Fate,
    /// Whether it goes to another connection or fails.
    pub retry: Retry,
}

/// A request that a connection did not accept.
#[allow(clippy::exhaustive_enums, reason = "an adapter has to handle each of them")]
pub enum Rejected<B, W> {
    /// The connection accepts no new requests. This one may go to another connection.
    Closed(Call<B, W>),
    /// The request fails: its body is larger than a message may be.
    Failed(Call<B, W>, RequestError),
}

/// A request that a connection leaves behind when it ends.
#[non_exhaustive]
pub struct Unfinished<B, W> {
    /// The request.
    pub call: Call<B, W>,
    /// Whether it may have been processed.
    pub fate: Fate,
    /// Whether it goes to another connection or fails.
    pub retry: Retry,
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

impl<P> fmt::Debug for Ping<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ping")
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for UnfinishedPing<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnfinishedPing")
            .field("ping", &self.ping)
            .field("fate", &self.fate)
            .field("retry", &self.retry)
            .finish()
    }
}

impl<B, W> fmt::Debug for Rejected<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(call) => f.debug_tuple("Closed").field(call).finish(),
            Self::Failed(call, error) => f.debug_tuple("Failed").field(call).field(error).finish(),
        }
    }
}

impl<B, W> fmt::Debug for Unfinished<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished")
            .field("call", &self.call)
            .field("fate", &self.fate)
            .field("retry", &self.retry)
            .finish()
    }
}
