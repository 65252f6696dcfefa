//! Measures contenders in turns, each as a server and a client in processes of their own.

use core::time::Duration;
use std::io::IsTerminal as _;

use crate::Failure;
use crate::args::RunArgs;
use crate::child::Process;
use crate::contender::Contender;
use crate::pair::{Announcement, Outcome, READY};
use crate::report;
use crate::results::{Machine, Measurement, Results, Skipped};
use crate::usage::{self, Usage};
use crate::workload::{Shape, Workload};

/// How long a child may take for what has no length of its own, such as 10,000 handshakes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Descriptors of a process that are not connections, generously.
const OTHER_DESCRIPTORS: u64 = 100;

/// Prints the names of all contenders and workloads.
pub(crate) fn list() {
    println!("contenders:");
    for contender in Contender::ALL {
        println!("  {contender}");
    }
    println!("workloads:");
    for workload in Workload::ALL {
        println!("  {:<12} {}", workload.name(), workload.title());
    }
}

/// Measures, prints the tables, and writes the measurements to a file.
pub(crate) fn run(order: &RunArgs) -> Result<(), Failure> {
    let contenders = if order.contenders.is_empty() {
        Contender::ALL.to_vec()
    } else {
        order.contenders.clone()
    };
    let named = order
        .workloads
        .iter()
        .map(|name| Workload::named(name))
        .collect::<Result<Vec<_>, _>>()?
        .concat();
    let workloads = if named.is_empty() {
        Workload::ALL.to_vec()
    } else {
        named
    };
    let pins = Pins::choose(order.cores)?;
    let mut results = Results {
        machine: Machine::here(),
        provider: order.provider.name().to_owned(),
        cores: order.cores,
        seconds: order.seconds,
        idle_seconds: order.idle_seconds,
        ..Results::default()
    };
    report::head(&results);
    let mut failed = false;
    for workload in workloads {
        let mut able = Vec::new();
        for contender in &contenders {
            match obstacle(*contender, workload)? {
                None => able.push(*contender),
                Some(reason) => results.skipped.push(Skipped::new(*contender, workload, reason)),
            }
        }
        for round in 0..rounds(order, workload) {
            able.retain(|contender| {
                progress(&format!("{}: round {}, {contender}", workload.name(), round + 1));
                match measure(order, &pins, *contender, workload, round) {
                    Ok(measured) => results.measurements.push(measured),
                    Err(failure) => {
                        failed = true;
                        results
                            .skipped
                            .push(Skipped::new(*contender, workload, format!("failed: {failure}")));
                        return false;
                    }
                }
                true
            });
        }
        progress("");
        report::workload(&results, workload);
        // After each workload, so that a run that is ended early leaves what it has.
        if let Some(path) = &order.json {
            std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
        }
    }
    if failed {
        Err("not every contender could be measured".into())
    } else {
        Ok(())
    }
}

/// Idle connections take long to measure and vary little.
fn rounds(order: &RunArgs, workload: Workload) -> u32 {
    if matches!(workload.shape(), Shape::IdleCpu { .. }) {
        order.rounds.min(3)
    } else {
        order.rounds
    }
}

/// Shows a line in place of the one before, where somebody watches.
fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{:<78}\r{line}", "");
    }
}

/// Why a contender is not measured under a workload.
fn obstacle(contender: Contender, workload: Workload) -> Result<Option<String>, Failure> {
    if let Some(reason) = contender.obstacle(workload) {
        return Ok(Some(format!("cannot: {reason}")));
    }
    let (has, needs) = (
        usage::descriptors()?,
        u64::try_from(workload.shape().connections())? + OTHER_DESCRIPTORS,
    );
    Ok(
        (has < needs)
            .then(|| format!("skipped: a process may open {has} files, and {needs} are needed (`ulimit -Hn`)")),
    )
}

/// The core of the server, and that of the client.
struct Pins {
    server: usize,
    client: usize,
}

impl Pins {
    fn choose(cores: u8) -> Result<Self, Failure> {
        let mut free = usage::cores()?.into_iter().rev();
        let server = free.next().ok_or("there is no core to run on")?;
        let client = if cores == 1 {
            server
        } else {
            free.next().ok_or("--cores 2 needs a second core")?
        };
        Ok(Self { server, client })
    }
}

fn measure(
    order: &RunArgs,
    pins: &Pins,
    contender: Contender,
    workload: Workload,
    round: u32,
) -> Result<Measurement, Failure> {
    let argument = |name: &str, value: String| [format!("--{name}"), value];
    let common = [
        argument("contender", contender.to_string()),
        argument("provider", order.provider.name().to_owned()),
    ];
    let serve = [
        &["serve".to_owned()],
        common.as_flattened(),
        &argument("core", pins.server.to_string()),
    ];
    let mut server = Process::start(&serve.concat())?;
    let announcement: Announcement = server.value(PATIENCE)?;
    let seconds = if matches!(workload.shape(), Shape::IdleCpu { .. }) {
        order.idle_seconds
    } else {
        order.seconds
    };
    let load = [
        argument("core", pins.client.to_string()),
        argument("address", announcement.address.to_string()),
        argument("workload", workload.name().to_owned()),
        argument("seconds", seconds.to_string()),
    ];
    let certificate = announcement
        .certificate
        .map(|certificate| argument("certificate", certificate));
    let load = [
        &["load".to_owned()],
        common.as_flattened(),
        load.as_flattened(),
        certificate.as_slice().as_flattened(),
    ];
    let mut client = Process::start(&load.concat())?;
    if client.line(PATIENCE)? != READY {
        return Err("the client does not say that it is ready".into());
    }
    let mut usage = || -> Result<Usage, Failure> {
        server.say("usage")?;
        server.value(PATIENCE)
    };
    let before = usage()?;
    client.say("go")?;
    let outcome: Outcome = client.value(PATIENCE + Duration::try_from_secs_f64(seconds)?)?;
    let after = usage()?;
    if outcome.count == 0 {
        return Err("no request was answered".into());
    }
    Ok(Measurement {
        workload: workload.name().to_owned(),
        contender: contender.name().to_owned(),
        round,
        count: outcome.count,
        wall_us: outcome.wall_us,
        client_cpu_us: outcome.after.cpu_us - outcome.before.cpu_us,
        server_cpu_us: after.cpu_us - before.cpu_us,
        client_kib: outcome.after.resident_kib - outcome.before.resident_kib,
        server_kib: after.resident_kib - before.resident_kib,
    })
}
