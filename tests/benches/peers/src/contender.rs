//! What is compared, and what each contender cannot do.

use core::fmt;
use core::str::FromStr;

use crate::Failure;
use crate::workload::{Shape, Workload};

/// A program to measure: a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Plain,
    Rustls,
    RustlsFirst,
    Snow,
    Tarpc,
    Tonic,
    Falcotcp,
    FalcoTokio,
    FalcoCore,
    PlainStd,
    FalcoStd,
}

impl Contender {
    pub(crate) const ALL: [Self; 11] = [
        Self::Plain,
        Self::Rustls,
        Self::RustlsFirst,
        Self::Snow,
        Self::Tarpc,
        Self::Tonic,
        Self::Falcotcp,
        Self::FalcoTokio,
        Self::FalcoCore,
        Self::PlainStd,
        Self::FalcoStd,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Rustls => "rustls",
            Self::RustlsFirst => "rustls-first",
            Self::Snow => "snow",
            Self::Tarpc => "tarpc",
            Self::Tonic => "tonic",
            Self::Falcotcp => "falcotcp",
            Self::FalcoTokio => "falco-tokio",
            Self::FalcoCore => "falco-core",
            Self::PlainStd => "plain-std",
            Self::FalcoStd => "falco-std",
        }
    }

    /// What it is compared with: the plain TCP of its own kind.
    pub(crate) const fn baseline(self) -> Self {
        if self.has_threads() {
            Self::PlainStd
        } else {
            Self::Plain
        }
    }

    /// Whether each connection has a thread of its own.
    pub(crate) const fn has_threads(self) -> bool {
        matches!(self, Self::PlainStd | Self::FalcoStd)
    }

    pub(crate) const fn has_tls(self) -> bool {
        matches!(self, Self::Rustls | Self::RustlsFirst | Self::Tarpc | Self::Tonic)
    }

    /// Why it cannot run a workload.
    pub(crate) const fn obstacle(self, workload: Workload) -> Option<&'static str> {
        if matches!(self, Self::Falcotcp) {
            return match workload.shape() {
                Shape::Sequential { .. } | Shape::Connect | Shape::Connections { count: 1, .. } => None,
                Shape::Pipelined { .. } => Some("a client has one request at a time"),
                Shape::Connections { .. } => Some("the server answers the first connection that is ready, always"),
                Shape::IdleMemory { .. } | Shape::IdleCpu { .. } => {
                    Some("the server waits 10 ms for each idle connection, one after the other")
                }
            };
        }
        if matches!(self, Self::RustlsFirst) && !matches!(workload.shape(), Shape::Connect) {
            return Some("only the handshake differs from that of rustls");
        }
        if self.has_threads() && workload.shape().connections() > MAX_THREADS {
            return Some("each connection has a thread");
        }
        None
    }
}

/// More connections than this are not measured with one thread for each.
const MAX_THREADS: usize = 1024;

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Contender {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self, Failure> {
        (Self::ALL.into_iter().find(|one| one.name() == name))
            .ok_or_else(|| format!("there is no contender '{name}'; `list` prints them").into())
    }
}
