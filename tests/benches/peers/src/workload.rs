//! What the clients do.

use core::str::FromStr;

use crate::Failure;

/// A workload, by its place in the table below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    name: &'static str,
    title: &'static str,
    shape: Shape,
}

/// What a client does while it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One request after another on one connection.
    Sequential { size: usize },
    /// `depth` requests in flight on one connection.
    Pipelined { size: usize, depth: usize },
    /// One request in flight on each of `count` connections.
    Connections { size: usize, count: usize },
    /// Connect, handshake, one request, close.
    Connect,
    /// Memory with `count` idle connections.
    IdleMemory { count: usize },
    /// Processor time with `count` idle connections.
    IdleCpu { count: usize },
}

impl Shape {
    /// How many connections are open at once.
    pub(crate) const fn connections(self) -> usize {
        match self {
            Self::Sequential { .. } | Self::Pipelined { .. } | Self::Connect => 1,
            Self::Connections { count, .. } | Self::IdleMemory { count } | Self::IdleCpu { count } => count,
        }
    }

    /// Bytes in the body of each request.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Sequential { size } | Self::Pipelined { size, .. } | Self::Connections { size, .. } => size,
            Self::Connect | Self::IdleMemory { .. } | Self::IdleCpu { .. } => SMALL,
        }
    }
}

const SMALL: usize = 64;

const fn workload(name: &'static str, title: &'static str, shape: Shape) -> Workload {
    Workload { name, title, shape }
}

const fn curve(name: &'static str, title: &'static str, count: usize) -> Workload {
    workload(name, title, Shape::Connections { size: SMALL, count })
}

impl Workload {
    pub(crate) const ALL: [Self; 14] = [
        workload(
            "64B",
            "64 B, one request after another",
            Shape::Sequential { size: SMALL },
        ),
        workload(
            "16KiB",
            "16 KiB, one request after another",
            Shape::Sequential { size: 16 << 10 },
        ),
        workload(
            "in-flight",
            "64 B, 128 requests in flight on one connection",
            Shape::Pipelined {
                size: SMALL,
                depth: 128,
            },
        ),
        workload(
            "connections",
            "64 B, 128 connections with one request in flight each",
            Shape::Connections {
                size: SMALL,
                count: 128,
            },
        ),
        workload(
            "1MiB",
            "1 MiB, one request after another",
            Shape::Sequential { size: 1 << 20 },
        ),
        workload(
            "16MiB",
            "16 MiB, one request after another",
            Shape::Sequential { size: 16 << 20 },
        ),
        workload(
            "connect",
            "Connect, handshake, one request of 64 B, close",
            Shape::Connect,
        ),
        workload(
            "idle-memory",
            "Resident memory of an idle connection, of 1,000",
            Shape::IdleMemory { count: 1000 },
        ),
        curve("curve-1", "64 B, 1 connection", 1),
        curve("curve-16", "64 B, 16 connections with one request in flight each", 16),
        curve(
            "curve-128",
            "64 B, 128 connections with one request in flight each",
            128,
        ),
        curve(
            "curve-1024",
            "64 B, 1,024 connections with one request in flight each",
            1024,
        ),
        curve(
            "curve-8192",
            "64 B, 8,192 connections with one request in flight each",
            8192,
        ),
        workload(
            "idle-cpu",
            "Processor time of 10,000 idle connections",
            Shape::IdleCpu { count: 10_000 },
        ),
    ];

    pub(crate) const fn name(self) -> &'static str {
        self.name
    }

    pub(crate) const fn title(self) -> &'static str {
        self.title
    }

    pub(crate) const fn shape(self) -> Shape {
        self.shape
    }

    /// The workloads that a name means: one, or all steps of the curve.
    pub(crate) fn named(name: &str) -> Result<Vec<Self>, Failure> {
        if name == "curve" {
            return Ok(Self::ALL
                .into_iter()
                .filter(|one| one.name.starts_with("curve-"))
                .collect());
        }
        Ok(vec![name.parse()?])
    }
}

impl FromStr for Workload {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self, Failure> {
        (Self::ALL.into_iter().find(|one| one.name == name))
            .ok_or_else(|| format!("there is no workload '{name}'; `list` prints them").into())
    }
}
