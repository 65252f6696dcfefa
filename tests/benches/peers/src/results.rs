//! What was measured, as `run --json` writes it and `chart` reads it.

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::workload::{Shape, Workload};

#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) provider: String,
    /// How many cores client and server had together.
    pub(crate) cores: u8,
    pub(crate) seconds: f64,
    pub(crate) idle_seconds: f64,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) skipped: Vec<Skipped>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) kernel: String,
    /// Averages of the length of the run queue before the start. It was quiet if they are near 0.
    pub(crate) load: String,
    /// Of the peers and the runtime.
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let model = model
            .and_then(|line| line.split_once(": "))
            .map_or("unknown", |(_, model)| model);
        Self {
            processor: model.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease"),
            load: read("/proc/loadavg"),
            versions: versions(),
        }
    }
}

/// The versions of what is compared, from the lock file.
fn versions() -> Vec<String> {
    const NAMES: [&str; 9] = [
        "aws-lc-rs",
        "falcotcp",
        "ring",
        "rustls",
        "snow",
        "tarpc",
        "tokio",
        "tokio-rustls",
        "tonic",
    ];
    let packages = include_str!("../Cargo.lock").split("[[package]]");
    let field = |package: &str, name| {
        let value = package.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim_matches(['=', ' ', '"']).to_owned())
    };
    packages
        .filter_map(|package| Some((field(package, "name")?, field(package, "version")?)))
        .filter(|(name, _)| NAMES.contains(&name.as_str()))
        .map(|(name, version)| format!("{name} {version}"))
        .collect()
}

/// One contender under one workload, in one round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Measurement {
    pub(crate) workload: String,
    pub(crate) contender: String,
    pub(crate) round: u32,
    /// Completed requests; of idle connections, how many there are.
    pub(crate) count: u64,
    pub(crate) wall_us: u64,
    pub(crate) client_cpu_us: i64,
    pub(crate) server_cpu_us: i64,
    /// How much more resident memory there is at the end.
    pub(crate) client_kib: i64,
    pub(crate) server_kib: i64,
}

/// What was not measured, and why.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Skipped {
    pub(crate) workload: String,
    pub(crate) contender: String,
    pub(crate) reason: String,
}

impl Skipped {
    pub(crate) fn new(contender: Contender, workload: Workload, reason: String) -> Self {
        Self {
            workload: workload.name().to_owned(),
            contender: contender.name().to_owned(),
            reason,
        }
    }
}

impl Measurement {
    /// Completed requests in a second.
    pub(crate) fn rate(&self) -> f64 {
        float(self.count) / float(self.wall_us) * 1e6
    }

    /// Processor time of each request, in microseconds: client, server.
    pub(crate) fn cpu(&self) -> (f64, f64) {
        (
            signed(self.client_cpu_us) / float(self.count),
            signed(self.server_cpu_us) / float(self.count),
        )
    }

    pub(crate) fn both_cpu(&self) -> f64 {
        let (client, server) = self.cpu();
        client + server
    }

    /// Memory of each connection, in KiB: client, server.
    pub(crate) fn memory(&self) -> (f64, f64) {
        (
            signed(self.client_kib) / float(self.count),
            signed(self.server_kib) / float(self.count),
        )
    }

    /// Processor time of all connections in 5 s, in milliseconds: client, server.
    pub(crate) fn idle(&self) -> (f64, f64) {
        let scale = 5e3 / float(self.wall_us);
        (signed(self.client_cpu_us) * scale, signed(self.server_cpu_us) * scale)
    }
}

impl Results {
    /// All rounds of a contender under a workload, in order.
    pub(crate) fn of(&self, workload: Workload, contender: Contender) -> Vec<&Measurement> {
        let all = self.measurements.iter();
        all.filter(|one| one.workload == workload.name() && one.contender == contender.name())
            .collect()
    }

    /// One value of all rounds.
    pub(crate) fn summary(
        &self,
        workload: Workload,
        contender: Contender,
        value: impl Fn(&Measurement) -> f64,
    ) -> Option<Summary> {
        Summary::of(self.of(workload, contender).into_iter().map(value).collect())
    }

    /// A value in relation to the contender's baseline in the same round.
    pub(crate) fn ratio(
        &self,
        workload: Workload,
        contender: Contender,
        value: impl Fn(&Measurement) -> f64,
    ) -> Option<Summary> {
        let base = self.of(workload, contender.baseline());
        let ratio = |one: &Measurement| {
            let base = base.iter().find(|base| base.round == one.round)?;
            Some(value(one) / value(base))
        };
        Summary::of(self.of(workload, contender).into_iter().filter_map(ratio).collect())
    }
}

/// The value of a workload that its chart shows, and its unit.
pub(crate) fn headline(workload: Workload) -> (&'static str, fn(&Measurement) -> f64) {
    match workload.shape() {
        Shape::Sequential { .. } | Shape::Pipelined { .. } | Shape::Connections { .. } => {
            ("requests per second", Measurement::rate)
        }
        Shape::Connect => ("connections per second", Measurement::rate),
        Shape::IdleMemory { .. } => ("KiB of the server per connection", |one| one.memory().1),
        Shape::IdleCpu { .. } => ("ms of processor time of the server in 5 s", |one| one.idle().1),
    }
}

/// The median of some values, and their range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (upper, lower) = (values.get(values.len() / 2)?, values.get((values.len() - 1) / 2)?);
        Some(Self {
            median: f64::midpoint(*upper, *lower),
            min,
            max,
        })
    }
}

/// Counts and microseconds of a run have far less than 53 bits.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "there is no other conversion"
)]
fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "there is no other conversion"
)]
fn signed(value: i64) -> f64 {
    value as f64
}
