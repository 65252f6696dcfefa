//! The limits on a server's connections.

/// Half-open connections get at most one in this many descriptors.
const HALF_OPEN_PART: usize = 2;

/// If connections on the classic wire have a limit, they get at most one in this many places.
const CLASSIC_PART: usize = 2;

/// How many connections a server may have at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "adapters fill it in")]
pub struct AdmissionLimits {
    /// All connections, half-open ones included; 0 counts as 1.
    pub max_connections: usize,
    /// Half-open connections; 0 counts as 1.
    pub max_half_open: usize,
    /// Half-open connections of one source, or `None` for no limit; 0 counts as 1.
    pub max_half_open_per_source: Option<usize>,
    /// Established connections under one key, or `None` for no limit; 0 counts as 1.
    pub max_connections_per_key: Option<usize>,
    /// Established connections on the classic wire, or `None` for no limit; 0 counts as 1.
    pub max_classic_connections: Option<usize>,
}

impl AdmissionLimits {
    /// These two limits and no others.
    #[must_use]
    pub const fn new(max_connections: usize, max_half_open: usize) -> Self {
        Self {
            max_connections,
            max_half_open,
            max_half_open_per_source: None,
            max_connections_per_key: None,
            max_classic_connections: None,
        }
    }

    /// These limits, lowered so that connections need no more than this many descriptors. Half-open
    /// connections get at most half of them, and so do those on the classic wire if they have a
    /// limit.
    ///
    /// ```
    /// use falco_core::mux::AdmissionLimits;
    ///
    /// let wanted = AdmissionLimits::new(10_000, 1024);
    /// let limits = wanted.within(960);
    /// assert_eq!((limits.max_connections, limits.max_half_open), (960, 480));
    /// assert_eq!(wanted.within(20_000), wanted);
    /// ```
    #[must_use]
    pub fn within(self, descriptors: usize) -> Self {
        Self {
            max_connections: self.max_connections.min(descriptors).max(1),
            max_half_open: self.max_half_open.min(descriptors / HALF_OPEN_PART).max(1),
            max_classic_connections: self
                .max_classic_connections
                .map(|limit| limit.min(descriptors / CLASSIC_PART).max(1)),
            ..self
        }
    }

    /// These limits for a server with these keys. If it accepts both wires, connections on the
    /// classic wire get at most half of all, unless they have a limit of their own.
    #[cfg(all(feature = "std", feature = "noise", feature = "rustcrypto"))]
    #[must_use]
    pub fn for_keys(self, keys: &crate::keys::Secrets) -> Self {
        if !keys.has_both_wires() {
            return self;
        }
        let half = (self.max_connections / CLASSIC_PART).max(1);
        Self {
            max_classic_connections: self.max_classic_connections.or(Some(half)),
            ..self
        }
    }

    /// These limits, where 0 counts as 1.
    pub(super) fn at_least_one(self) -> Self {
        let at_least_one = |limit: usize| limit.max(1);
        Self {
            max_connections: self.max_connections.max(1),
            max_half_open: self.max_half_open.max(1),
            max_half_open_per_source: self.max_half_open_per_source.map(at_least_one),
            max_connections_per_key: self.max_connections_per_key.map(at_least_one),
            max_classic_connections: self.max_classic_connections.map(at_least_one),
        }
    }
}
