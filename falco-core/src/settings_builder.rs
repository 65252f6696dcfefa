//! Settings from single values and whole settings, for the builders of the adapters.

use core::time::Duration;

use crate::settings::{Settings, SettingsError};

/// Combines single values with whole [`Settings`], in any order. A single value takes precedence
/// over the settings, whether it is set before or after them. [`build`](Self::build) checks the
/// ranges.
///
/// ```
/// use core::time::Duration;
/// use falco_core::{Settings, SettingsBuilder};
///
/// let whole = Settings::new().with_max_message(1024).with_keep_alive(false);
/// let settings = SettingsBuilder::new().lifetime(Duration::from_secs(5)).settings(whole).build()?;
/// assert_eq!(settings, whole.with_lifetime(Duration::from_secs(5))?);
/// # Ok::<(), falco_core::SettingsError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a builder does nothing until it is built"]
pub struct SettingsBuilder {
    settings: Settings,
    max_message: Option<u32>,
    max_in_flight: Option<u16>,
    lifetime: Option<Duration>,
    handshake_timeout: Option<Duration>,
}

impl SettingsBuilder {
    /// How long a client may take to connect by default, for the builders of the adapters.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How long a request may take by default, for the builders of the adapters.
    pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// The defaults.
    pub const fn new() -> Self {
        Self {
            settings: Settings::new(),
            max_message: None,
            max_in_flight: None,
            lifetime: None,
            handshake_timeout: None,
        }
    }

    /// Sets everything that is not set as a single value.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// As [`Settings::with_max_message`].
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.max_message = Some(bytes);
        self
    }

    /// As [`Settings::with_max_in_flight`].
    pub const fn max_in_flight(mut self, requests: u16) -> Self {
        self.max_in_flight = Some(requests);
        self
    }

    /// As [`Settings::with_lifetime`].
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// As [`Settings::with_handshake_timeout`].
    pub const fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = Some(timeout);
        self
    }

    /// The settings.
    ///
    /// # Errors
    /// [`SettingsError`] for a value out of its range.
    pub fn build(self) -> Result<Settings, SettingsError> {
        let mut settings = self.settings;
        if let Some(bytes) = self.max_message {
            settings = settings.with_max_message(bytes);
        }
        if let Some(requests) = self.max_in_flight {
            settings = settings.with_max_in_flight(requests)?;
        }
        if let Some(lifetime) = self.lifetime {
            settings = settings.with_lifetime(lifetime)?;
        }
        if let Some(timeout) = self.handshake_timeout {
            settings = settings.with_handshake_timeout(timeout)?;
        }
        Ok(settings)
    }
}
