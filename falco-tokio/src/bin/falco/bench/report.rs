//! The results, as a table for people and as JSON for programs.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::BTreeMap;

use serde_json::json;

use super::load::Counts;
use crate::failure::UNPROCESSED;
use crate::values::{counted, millis, real};

/// The percentiles in a report, with their names.
pub(super) const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// A measurement with its parameters.
pub(super) struct Measured {
    pub(super) address: String,
    pub(super) wire: &'static str,
    pub(super) connections: u32,
    pub(super) in_flight: u16,
    /// Requests each second, if they do not wait for answers.
    pub(super) rate: Option<u32>,
    pub(super) size: u32,
    /// How long opening all connections took.
    pub(super) connecting: Duration,
    pub(super) elapsed: Duration,
    pub(super) interrupted: bool,
    pub(super) counts: Counts,
}

impl Measured {
    /// The parameters in one line.
    pub(super) fn title(&self) -> String {
        let Self {
            connections,
            in_flight,
            rate,
            size,
            wire,
            ..
        } = self;
        let connections = counted(u64::from(*connections), "connection");
        let load = match rate {
            None => format!("{in_flight} in flight on each"),
            Some(rate) => format!("{} due each second", requests((*rate).into())),
        };
        format!("{connections}, {load}, {size}-byte messages, {wire} wire")
    }

    pub(super) fn per_second(&self, count: u64) -> f64 {
        real(count) / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Bytes of the requests that were answered.
    fn sent(&self) -> u64 {
        self.counts.answered.saturating_mul(self.size.into())
    }

    /// Minimum, mean, percentiles and maximum of latency.
    fn latencies(&self) -> Vec<(&'static str, Duration)> {
        let latencies = &self.counts.latencies;
        if latencies.is_empty() {
            return Vec::new();
        }
        let mean = Duration::try_from_secs_f64(latencies.mean() / 1e9).unwrap_or_default();
        let mut all = vec![("min", Duration::from_nanos(latencies.min())), ("mean", mean)];
        all.extend(QUANTILES.map(|(name, quantile)| (name, self.counts.quantile(quantile))));
        all.push(("max", self.counts.quantile(1.0)));
        all
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{}: {}\n{:.1} s{}, after connecting in {} ms\n\n",
            self.address,
            self.title(),
            self.elapsed.as_secs_f64(),
            if self.interrupted { ", cut short" } else { "" },
            millis(self.connecting),
        );
        let mut row = |name: &str, total: String, rate: String| {
            let _ = writeln!(text, "{name:<10} {total:>16} {rate:>16}");
        };
        row("", "total".to_owned(), "per second".to_owned());
        let answered = self.counts.answered;
        row("answered", grouped(real(answered)), grouped(self.per_second(answered)));
        for (name, bytes) in [("sent", self.sent()), ("received", self.counts.received)] {
            let rate = self.per_second(bytes);
            row(
                name,
                format!("{:.1} MB", real(bytes) / 1e6),
                format!("{:.2} MB", rate / 1e6),
            );
        }
        let failed = self.counts.failed();
        row("failed", grouped(real(failed)), grouped(self.per_second(failed)));
        for ((kind, fate), count) in &self.counts.errors {
            let _ = writeln!(text, "  {:>14}  {kind} ({fate})", grouped(real(*count)));
        }
        let latencies = self.latencies();
        if !latencies.is_empty() {
            let _ = writeln!(text, "\n{:<10} {:>16}", "latency", "ms");
        }
        for (name, time) in latencies {
            let _ = writeln!(text, "{name:<10} {:>16}", millis(time));
        }
        text
    }

    pub(super) fn json(&self) -> String {
        let counts = &self.counts;
        let latencies: serde_json::Map<_, _> = self
            .latencies()
            .into_iter()
            .map(|(name, time)| (name.to_owned(), json!(1000.0 * time.as_secs_f64())))
            .collect();
        let mut errors = BTreeMap::<_, u64>::new();
        let mut unprocessed = 0;
        for ((kind, fate), count) in &counts.errors {
            *errors.entry(kind.as_str()).or_default() += count;
            if *fate == UNPROCESSED {
                unprocessed += count;
            }
        }
        let report = json!({
            "address": self.address,
            "wire": self.wire,
            "connections": self.connections,
            "in_flight": self.rate.is_none().then_some(self.in_flight),
            "rate": self.rate,
            "size": self.size,
            "connecting_seconds": self.connecting.as_secs_f64(),
            "seconds": self.elapsed.as_secs_f64(),
            "interrupted": self.interrupted,
            "answered": counts.answered,
            "failed": counts.failed(),
            "failed_unprocessed": unprocessed,
            "failed_longest_ms": 1000.0 * counts.longest_failed.as_secs_f64(),
            "errors": errors,
            "requests_per_second": self.per_second(counts.answered),
            "sent_bytes": self.sent(),
            "received_bytes": counts.received,
            "sent_mb_per_second": self.per_second(self.sent()) / 1e6,
            "received_mb_per_second": self.per_second(counts.received) / 1e6,
            "latency_ms": latencies,
        });
        format!("{report:#}\n")
    }
}

/// A count of requests, its digits in groups of three.
pub(super) fn requests(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} request{plural}", grouped(real(count)))
}

/// A count without its fraction, its digits in groups of three.
pub(super) fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_in_groups_of_three() {
        for (count, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1,000"),
            (123_456.0, "123,456"),
            (1_234_567.8, "1,234,568"),
        ] {
            assert_eq!(grouped(count), text);
        }
    }

    #[test]
    fn one_request_is_singular() {
        for (count, text) in [
            (0, "0 requests"),
            (1, "1 request"),
            (2, "2 requests"),
            (1000, "1,000 requests"),
        ] {
            assert_eq!(requests(count), text);
        }
    }

    #[test]
    fn a_run_without_answers_has_a_table_too() {
        let measured = Measured {
            address: "nowhere".to_owned(),
            wire: "noise",
            connections: 1,
            in_flight: 1,
            rate: None,
            size: 0,
            connecting: Duration::ZERO,
            elapsed: Duration::ZERO,
            interrupted: true,
            counts: Counts::new(),
        };
        assert!(!measured.table().contains("latency"), "{}", measured.table());
        assert!(measured.json().contains("\"latency_ms\": {}"), "{}", measured.json());
        assert!(super::super::picture::draw(&measured).ends_with("</svg>\n"));
    }
}
