//! The tables, in Markdown.

use crate::contender::Contender;
use crate::results::{Measurement, Results, Summary};
use crate::workload::{Shape, Workload};

/// Says what was measured where.
pub(crate) fn head(results: &Results) {
    let machine = &results.machine;
    println!("{}, Linux {}, load {}", machine.processor, machine.kernel, machine.load);
    println!("{}; FalcoTCP with {}", machine.versions.join(", "), results.provider);
    let cores = if results.cores == 1 {
        "one core for both ends"
    } else {
        "one core for each end"
    };
    println!("{cores}, {} s for each measurement\n", results.seconds);
    println!("Medians of the rounds, with their range in parentheses. The columns \"of plain\" are");
    println!("relative to the baseline in the same round: plain-std for falco-std, plain for the others.\n");
}

/// Prints the table of one workload.
pub(crate) fn workload(results: &Results, workload: Workload) {
    println!("## {}: {}\n", workload.name(), workload.title());
    match workload.shape() {
        Shape::IdleMemory { .. } => idle(results, workload, "KiB per connection", Measurement::memory),
        Shape::IdleCpu { .. } => idle(results, workload, "ms in 5 s", Measurement::idle),
        Shape::Sequential { .. } | Shape::Pipelined { .. } | Shape::Connections { .. } | Shape::Connect => {
            requests(results, workload);
        }
    }
    for skipped in results
        .skipped
        .iter()
        .filter(|skipped| skipped.workload == workload.name())
    {
        println!("- {}: {}", skipped.contender, skipped.reason);
    }
    println!();
}

/// From this size on, bytes per second say more than requests.
const BULK: usize = 1 << 20;

fn requests(results: &Results, workload: Workload) {
    let unit = if matches!(workload.shape(), Shape::Connect) {
        "connections/s"
    } else {
        "requests/s"
    };
    let size = workload.shape().size();
    let bulk = size >= BULK;
    let (bytes, line) = if bulk { (" GB/s |", "---|") } else { ("", "") };
    println!("| contender | {unit} | of plain |{bytes} CPU µs per request | of plain | client | server |");
    println!("|---|---|---|{line}---|---|---|---|");
    for contender in Contender::ALL {
        let summary = |value: fn(&Measurement) -> f64| results.summary(workload, contender, value);
        let (Some(rate), Some(cpu)) = (summary(Measurement::rate), summary(Measurement::both_cpu)) else {
            continue;
        };
        let (client, server) = (summary(|one| one.cpu().0), summary(|one| one.cpu().1));
        // Each byte goes to the server and back, one after the other.
        let bytes = if bulk {
            format!(" {:.2} |", rate.median * 2e-9 * size_as_float(size))
        } else {
            String::new()
        };
        println!(
            "| {contender} | {} | {} |{bytes} {} | {} | {} | {} |",
            range(rate),
            ratio(results.ratio(workload, contender, Measurement::rate)),
            range(cpu),
            ratio(results.ratio(workload, contender, Measurement::both_cpu)),
            client.map_or_else(String::new, |client| number(client.median)),
            server.map_or_else(String::new, |server| number(server.median)),
        );
    }
    println!();
}

fn idle(results: &Results, workload: Workload, unit: &str, value: fn(&Measurement) -> (f64, f64)) {
    println!("| contender | server, {unit} | of plain | client, {unit} | of plain |");
    println!("|---|---|---|---|---|");
    for contender in Contender::ALL {
        let (client, server) = (
            move |one: &Measurement| value(one).0,
            move |one: &Measurement| value(one).1,
        );
        let (Some(of_client), Some(of_server)) = (
            results.summary(workload, contender, client),
            results.summary(workload, contender, server),
        ) else {
            continue;
        };
        println!(
            "| {contender} | {} | {} | {} | {} |",
            range(of_server),
            ratio(results.ratio(workload, contender, server)),
            range(of_client),
            ratio(results.ratio(workload, contender, client)),
        );
    }
    println!();
}

fn size_as_float(size: usize) -> f64 {
    u32::try_from(size).map_or(f64::MAX, f64::from)
}

/// Three digits, and more for whole numbers.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0..0.1 => format!("{value:.3}"),
        0.1..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn range(summary: Summary) -> String {
    format!(
        "{} ({} to {})",
        number(summary.median),
        number(summary.min),
        number(summary.max)
    )
}

fn ratio(summary: Option<Summary>) -> String {
    summary
        .filter(|summary| summary.median.is_finite())
        .map_or_else(|| "–".to_owned(), |summary| number(summary.median))
}
