//! Settings of a connection, with their ranges and the reasons for the defaults.

use core::fmt;
use core::time::Duration;

use crate::error::LINGER;

/// Limits and times of a connection. Every value is checked when it is set, so that a `Settings` is
/// always valid.
///
/// ```
/// use core::time::Duration;
/// use falco_core::Settings;
///
/// let settings = Settings::new()
///     .with_max_message(64 << 10)
///     .with_lifetime(Duration::from_secs(10))?;
/// assert_eq!(settings.max_message(), 65_536);
/// assert!(Settings::new().with_max_in_flight(0).is_err());
/// # Ok::<(), falco_core::SettingsError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    max_message: u32,
    max_in_flight: u16,
    max_record: u16,
    max_held: u32,
    keep_alive: bool,
    lifetime: Duration,
    handshake_timeout: Duration,
    #[cfg(feature = "streams")]
    window_kib: u16,
    #[cfg(feature = "streams")]
    max_open: u16,
}

impl Settings {
    /// How long one side waits for the other to end as well, after a
    /// [graceful](crate::ConnectionError::is_graceful) end: 1 s. It cannot be changed.
    pub const LINGER: Duration = LINGER;
    /// The default idle timeout (`lifetime`): 60 s, as in the published falcotcp peers.
    /// [`with_lifetime`](Self::with_lifetime) says what restarts it.
    pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
    /// How long a handshake may take by default: 5 s, the same as in the published Tokio client.
    pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
    /// The largest message body by default, 16 MiB.
    pub const DEFAULT_MAX_MESSAGE: u32 = 16 << 20;
    /// The largest record of the noise wire by default. It is also the maximum: the length has 16
    /// bits.
    pub const DEFAULT_MAX_RECORD: u16 = u16::MAX;
    /// The bytes of unanswered requests that a server holds for one connection by default, 64 MiB.
    pub const DEFAULT_MAX_HELD: u32 = 64 << 20;
    /// How many requests of one connection may be unanswered by default.
    pub const DEFAULT_MAX_IN_FLIGHT: u16 = 1024;

    /// The defaults: messages of at most 16 MiB, 1024 requests in flight, a lifetime of 60 s, 5 s
    /// for the handshake.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max_message: Self::DEFAULT_MAX_MESSAGE,
            max_in_flight: Self::DEFAULT_MAX_IN_FLIGHT,
            max_record: Self::DEFAULT_MAX_RECORD,
            max_held: Self::DEFAULT_MAX_HELD,
            keep_alive: true,
            lifetime: Self::DEFAULT_LIFETIME,
            handshake_timeout: Self::DEFAULT_HANDSHAKE_TIMEOUT,
            #[cfg(feature = "streams")]
            window_kib: 0,
            #[cfg(feature = "streams")]
            max_open: 0,
        }
    }

    /// The largest message body in both directions, in bytes: a longer one is neither sent nor
    /// read, whatever the peer's limit is. On the noise wire each side announces its limit, and the
    /// peer sends nothing longer. The classic wire announces nothing. Any value is valid; 0 allows
    /// only empty messages. On the noise wire `u32::MAX` counts as one byte less, because that wire
    /// reserves the value.
    #[must_use]
    pub const fn with_max_message(mut self, bytes: u32) -> Self {
        self.max_message = bytes;
        self
    }

    /// The in-flight limit: how many requests may be unanswered at once, at least 1.
    ///
    /// # Errors
    /// [`SettingsError::MaxInFlight`] for 0.
    pub const fn with_max_in_flight(mut self, requests: u16) -> Result<Self, SettingsError> {
        if requests == 0 {
            return Err(SettingsError::MaxInFlight);
        }
        self.max_in_flight = requests;
        Ok(self)
    }

    /// The largest record that this side reads on the noise wire, 64 to 65535 bytes. The receive
    /// buffer needs two bytes more. The classic wire has no records.
    ///
    /// # Errors
    /// [`SettingsError::MaxRecord`] for less than 64.
    pub const fn with_max_record(mut self, bytes: u16) -> Result<Self, SettingsError> {
        if bytes < 64 {
            return Err(SettingsError::MaxRecord(bytes));
        }
        self.max_record = bytes;
        Ok(self)
    }

    /// How many bytes of requests in flight one connection may hold: 64 MiB by default, and always
    /// at least [`max_message`](Self::with_max_message). A server on the noise wire refuses a
    /// request over this limit as busy. Clients of the adapters have at most this many bytes in
    /// flight at once. If a server has a smaller limit, set the same limit in its clients.
    ///
    /// A server also passes no request to a handler while it has queued more bytes of answers than
    /// this for the connection.
    #[must_use]
    pub const fn with_max_held(mut self, bytes: u32) -> Self {
        self.max_held = bytes;
        self
    }

    /// Whether a client on the noise wire sends keep-alive pings, so that its connection does not
    /// expire. On by default.
    #[must_use]
    pub const fn with_keep_alive(mut self, keep_alive: bool) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// The idle timeout: how long a connection stays open without a received record (noise), or
    /// without a message or a ping (classic). 1 s to `u32::MAX` milliseconds, about 49 days. On the
    /// noise wire the smaller value of the two sides applies.
    ///
    /// # Errors
    /// [`SettingsError::Lifetime`] outside that range.
    pub const fn with_lifetime(mut self, lifetime: Duration) -> Result<Self, SettingsError> {
        // u32::MAX as a literal: the noise wire sends the lifetime as 32 bits of milliseconds.
        if lifetime.as_millis() < 1_000 || lifetime.as_millis() > 4_294_967_295 {
            return Err(SettingsError::Lifetime(lifetime));
        }
        self.lifetime = lifetime;
        Ok(self)
    }

    /// How long a handshake may take, at least 1 ms.
    ///
    /// # Errors
    /// [`SettingsError::HandshakeTimeout`] for less.
    pub const fn with_handshake_timeout(mut self, timeout: Duration) -> Result<Self, SettingsError> {
        if timeout.as_millis() == 0 {
            return Err(SettingsError::HandshakeTimeout(timeout));
        }
        self.handshake_timeout = timeout;
        Ok(self)
    }

    /// The window and the largest number of open requests, on the noise wire. Both are 0 by
    /// default: this side takes no open bodies.
    ///
    /// The window is how many KiB of one open body the peer may send before this side gives credit.
    /// This side may have to hold as many. A server reserves one window of
    /// [`max_held`](Self::with_max_held) for each request that began open, until that request has
    /// completed. If there is no room, it refuses the request as busy. A client limits its requests
    /// in flight so that a window for each of them fits `max_held`.
    ///
    /// `max_open` is how many such requests a server holds at once. A client ignores it. A server
    /// takes no open requests if either of the two is 0.
    #[cfg(feature = "streams")]
    #[must_use]
    pub const fn with_streams(mut self, window_kib: u16, max_open: u16) -> Self {
        self.window_kib = window_kib;
        self.max_open = max_open;
        self
    }

    /// As [`with_streams`](Self::with_streams) for a server, but lowers `max_open`, to 1 at least,
    /// until the windows leave a quarter of `max_held` to other requests. So open requests that are
    /// silent for hours do not block the others of their connection.
    #[cfg(feature = "streams")]
    #[must_use]
    pub fn with_fitting_streams(self, window_kib: u16, max_open: u16) -> Self {
        let with = self.with_streams(window_kib, max_open);
        let windows = (with.max_held() / 4 * 3).checked_div(with.window()).unwrap_or(u32::MAX);
        let most = u16::try_from(windows).unwrap_or(u16::MAX).max(1);
        with.with_streams(window_kib, max_open.min(most))
    }

    /// The settings of a server that has, or has not, a handler for open requests. Without one it
    /// announces that it takes none.
    ///
    /// ```
    /// use falco_core::Settings;
    ///
    /// let settings = Settings::new().with_streams(64, 4);
    /// assert_eq!(settings.with_stream_handler(true).max_open(), 4);
    /// assert_eq!(settings.with_stream_handler(false).max_open(), 0);
    /// ```
    #[cfg(feature = "streams")]
    #[must_use]
    pub const fn with_stream_handler(self, handled: bool) -> Self {
        if handled { self } else { self.with_streams(0, 0) }
    }

    /// The window of an open body, in KiB: see [`with_streams`](Self::with_streams).
    #[cfg(feature = "streams")]
    #[must_use]
    pub const fn window_kib(&self) -> u16 {
        self.window_kib
    }

    /// How many requests that began open a server holds at once.
    #[cfg(feature = "streams")]
    #[must_use]
    pub const fn max_open(&self) -> u16 {
        self.max_open
    }

    /// How many requests may be in flight so that a window for each of them fits the held bytes.
    #[cfg(feature = "streams")]
    pub(crate) fn max_windows(&self) -> u16 {
        let windows = self.max_held().checked_div(self.window()).unwrap_or(u32::MAX);
        u16::try_from(windows).unwrap_or(u16::MAX)
    }

    /// The window of an open body, in bytes.
    #[cfg(feature = "streams")]
    #[expect(clippy::as_conversions, reason = "`From` is not const")]
    pub(crate) const fn window(&self) -> u32 {
        (self.window_kib as u32) << 10
    }

    /// The largest message body, in bytes.
    #[must_use]
    pub const fn max_message(&self) -> u32 {
        self.max_message
    }

    /// How many requests may be unanswered at once.
    #[must_use]
    pub const fn max_in_flight(&self) -> u16 {
        self.max_in_flight
    }

    /// The largest record that this side reads, in bytes.
    #[must_use]
    pub const fn max_record(&self) -> u16 {
        self.max_record
    }

    /// How many bytes of requests in flight one connection may hold: at least the largest message,
    /// and at least one window of an open body.
    #[must_use]
    pub const fn max_held(&self) -> u32 {
        #[cfg(feature = "streams")]
        if self.max_held < self.window() && self.max_message < self.window() {
            return self.window();
        }
        if self.max_held < self.max_message {
            self.max_message
        } else {
            self.max_held
        }
    }

    /// Whether a client sends keep-alive pings.
    #[must_use]
    pub const fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// The idle timeout: see [`with_lifetime`](Self::with_lifetime).
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// How long a handshake may take.
    #[must_use]
    pub const fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

/// A setting out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// An in-flight limit of 0.
    MaxInFlight,
    /// A record shorter than 64 bytes.
    MaxRecord(u16),
    /// A lifetime under 1 s, or over `u32::MAX` milliseconds.
    Lifetime(Duration),
    /// A handshake timeout under 1 ms.
    HandshakeTimeout(Duration),
    /// A context of this many bytes, which are more than 65,535.
    Context(usize),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxInFlight => f.write_str("at least 1 request must be allowed in flight"),
            Self::MaxRecord(given) => write!(f, "the limit on records must be at least 64 bytes, not {given}"),
            Self::Lifetime(given) => write!(
                f,
                "the lifetime must be 1000 ms to 4294967295 ms, not {} ms",
                given.as_millis()
            ),
            Self::HandshakeTimeout(given) => write!(f, "the handshake timeout must be at least 1 ms, not {given:?}"),
            Self::Context(given) => write!(f, "a context of {given} bytes is over the limit of 65535 bytes"),
        }
    }
}

impl core::error::Error for SettingsError {}
