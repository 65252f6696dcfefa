//! Metrics, through the facade of the crate `metrics`. Without the feature of that name, these
//! types are empty and do nothing. [Names and labels](crate#metrics) are public.

use falco_core::ConnectionError;

#[cfg(feature = "metrics")]
pub(crate) use self::facade::{Counter, Gauge, Histogram, Stopwatch};
#[cfg(not(feature = "metrics"))]
pub(crate) use self::nothing::{Counter, Gauge, Histogram, Stopwatch};

/// Names and values of labels.
pub(crate) type Labels<'l> = &'l [(&'static str, &'l str)];

#[cfg(feature = "metrics")]
mod facade {
    use core::fmt;
    use std::time::Instant;

    use metrics::{Label, Unit};

    use super::Labels;

    fn labels(labels: Labels<'_>) -> Vec<Label> {
        let label = |(name, value): &(&'static str, &str)| Label::new(*name, (*value).to_owned());
        labels.iter().map(label).collect()
    }

    #[derive(Clone)]
    pub(crate) struct Counter(metrics::Counter);

    impl Counter {
        pub(crate) fn new(name: &'static str, what: &'static str, with: Labels<'_>) -> Self {
            metrics::describe_counter!(name, what);
            Self(metrics::counter!(name, labels(with)))
        }

        pub(crate) fn add(&self, count: u64) {
            self.0.increment(count);
        }
    }

    #[derive(Clone)]
    pub(crate) struct Gauge(metrics::Gauge);

    impl Gauge {
        pub(crate) fn new(name: &'static str, what: &'static str, with: Labels<'_>) -> Self {
            metrics::describe_gauge!(name, what);
            Self(metrics::gauge!(name, labels(with)))
        }

        pub(crate) fn up(&self) {
            self.0.increment(1.0);
        }

        pub(crate) fn down(&self) {
            self.0.decrement(1.0);
        }

        /// Increments the gauge until the returned value is dropped.
        pub(crate) fn counted(&self) -> super::Up {
            super::Up::new(self.clone())
        }
    }

    #[derive(Clone)]
    pub(crate) struct Histogram(metrics::Histogram);

    impl Histogram {
        pub(crate) fn seconds(name: &'static str, what: &'static str) -> Self {
            metrics::describe_histogram!(name, Unit::Seconds, what);
            Self(metrics::histogram!(name))
        }

        pub(crate) fn bytes(name: &'static str, what: &'static str) -> Self {
            metrics::describe_histogram!(name, Unit::Bytes, what);
            Self(metrics::histogram!(name))
        }

        pub(crate) fn length(&self, bytes: usize) {
            // Exact up to 4 GiB, which is more than a message can have.
            self.0.record(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
        }

        pub(crate) fn time(&self, since: Stopwatch) {
            self.0.record(since.0.elapsed());
        }
    }

    /// When something began.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Stopwatch(Instant);

    impl Stopwatch {
        pub(crate) fn start() -> Self {
            Self(Instant::now())
        }
    }

    macro_rules! no_content_in_debug {
        ($($name:ident),*) => {$(
            impl fmt::Debug for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(stringify!($name))
                }
            }
        )*};
    }

    no_content_in_debug!(Counter, Gauge, Histogram);
}

#[cfg(not(feature = "metrics"))]
mod nothing {
    use super::Labels;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Counter;

    impl Counter {
        pub(crate) const fn new(_: &'static str, _: &'static str, _: Labels<'_>) -> Self {
            Self
        }

        pub(crate) const fn add(self, _: u64) {
            let _ = self;
        }
    }

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Gauge;

    impl Gauge {
        pub(crate) const fn new(_: &'static str, _: &'static str, _: Labels<'_>) -> Self {
            Self
        }

        pub(crate) const fn up(self) {
            let _ = self;
        }

        pub(crate) const fn down(self) {
            let _ = self;
        }

        pub(crate) fn counted(self) -> super::Up {
            super::Up::new(self)
        }
    }

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Histogram;

    impl Histogram {
        pub(crate) const fn seconds(_: &'static str, _: &'static str) -> Self {
            Self
        }

        pub(crate) const fn bytes(_: &'static str, _: &'static str) -> Self {
            Self
        }

        pub(crate) const fn length(self, _: usize) {
            let _ = self;
        }

        pub(crate) const fn time(self, _: Stopwatch) {
            let _ = self;
        }
    }

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Stopwatch;

    impl Stopwatch {
        pub(crate) const fn start() -> Self {
            Self
        }
    }
}

/// Increments a gauge until it is dropped.
#[derive(Debug)]
pub(crate) struct Up(Gauge);

impl Up {
    fn new(gauge: Gauge) -> Self {
        gauge.up();
        Self(gauge)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.down();
    }
}

/// A number of bytes for a counter.
pub(crate) fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The end of a connection as the value of a label.
pub(crate) const fn name_of(end: ConnectionError) -> &'static str {
    match end {
        ConnectionError::UnknownVersion { .. } => "unknown_version",
        ConnectionError::FrameLength { .. } => "frame_length",
        ConnectionError::UnknownType { .. } => "unknown_type",
        ConnectionError::UnexpectedAnswer => "unexpected_answer",
        ConnectionError::AnswersOutOfStep => "answers_out_of_step",
        ConnectionError::RequestIdsExhausted => "request_ids_exhausted",
        ConnectionError::UnknownWire { .. } => "unknown_wire",
        ConnectionError::Unauthenticated => "unauthenticated",
        ConnectionError::Refused => "refused",
        ConnectionError::HandshakeTimeout => "handshake_timeout",
        ConnectionError::Expired => "expired",
        ConnectionError::Tampered => "tampered",
        ConnectionError::Replayed => "replayed",
        ConnectionError::Protocol => "protocol",
        ConnectionError::PeerReportsProtocolError => "peer_reports_protocol_error",
        ConnectionError::PeerExpired => "peer_expired",
        ConnectionError::PeerDead => "peer_dead",
        ConnectionError::Stalled => "stalled",
        ConnectionError::HandlerFailed => "handler_failed",
        ConnectionError::KeyExhausted => "key_exhausted",
        ConnectionError::Truncated => "truncated",
        ConnectionError::ClosedByPeer => "closed_by_peer",
        ConnectionError::Closed => "closed",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_named_as_its_variant() {
        for end in [
            ConnectionError::UnknownVersion { found: 9 },
            ConnectionError::UnexpectedAnswer,
            ConnectionError::AnswersOutOfStep,
            ConnectionError::RequestIdsExhausted,
            ConnectionError::UnknownWire { first: 0 },
            ConnectionError::Unauthenticated,
            ConnectionError::Refused,
            ConnectionError::HandshakeTimeout,
            ConnectionError::Expired,
            ConnectionError::Tampered,
            ConnectionError::Replayed,
            ConnectionError::Protocol,
            ConnectionError::PeerReportsProtocolError,
            ConnectionError::PeerExpired,
            ConnectionError::PeerDead,
            ConnectionError::Stalled,
            ConnectionError::HandlerFailed,
            ConnectionError::KeyExhausted,
            ConnectionError::Truncated,
            ConnectionError::ClosedByPeer,
            ConnectionError::Closed,
        ] {
            let shown = format!("{end:?}");
            let variant = shown.split(' ').next().unwrap_or_default();
            let name: String = name_of(end)
                .split('_')
                .flat_map(|word| word.chars().enumerate())
                .map(|(at, letter)| if at == 0 { letter.to_ascii_uppercase() } else { letter })
                .collect();
            assert_eq!(name, variant);
        }
    }
}
