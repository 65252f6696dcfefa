//! The greeting: what a server has to send before a request may reach a handler.

/// The greeting of a server's connection: the PONG to the client's first PING, on the classic wire
/// the accept, until the stream has accepted and flushed it. No request reaches a handler before: a
/// client whose stream ends before it has received a byte after the handshake concludes that its
/// requests were [not processed](crate::Fate::NotProcessed).
///
/// ```
/// use falco_core::Greeting;
///
/// let mut greeting = Greeting::new();
/// // Nothing is pending before the handshake has completed.
/// greeting.flushed();
/// assert!(!greeting.is_established() && !greeting.is_pending());
/// greeting.established();
/// assert!(greeting.is_pending());
/// greeting.flushed();
/// assert!(greeting.is_established() && !greeting.is_pending());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting(Stage);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshake,
    Pending,
    Flushed,
}

impl Greeting {
    /// Before the handshake has completed.
    #[must_use]
    pub const fn new() -> Self {
        Self(Stage::Handshake)
    }

    /// The connection has returned [`ServerEvent::Established`](crate::ServerEvent::Established).
    pub const fn established(&mut self) {
        self.0 = Stage::Pending;
    }

    /// The stream has accepted and flushed all that was sealed, and the connection has no more
    /// pending output.
    pub const fn flushed(&mut self) {
        if self.is_pending() {
            self.0 = Stage::Flushed;
        }
    }

    /// Whether the greeting is pending: read nothing, and pass no request to a handler.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(self.0, Stage::Pending)
    }

    /// Whether the handshake has completed.
    #[must_use]
    pub const fn is_established(self) -> bool {
        !matches!(self.0, Stage::Handshake)
    }
}

impl Default for Greeting {
    fn default() -> Self {
        Self::new()
    }
}
