//! The counter for the statistics of clients and servers.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{self, Labels};

/// A number that only increases.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    count: AtomicU64,
    metric: Option<metrics::Counter>,
}

impl Counter {
    /// A counter that is also a metric.
    pub(crate) fn with_metric(name: &'static str, what: &'static str, labels: Labels<'_>) -> Self {
        Self {
            count: AtomicU64::new(0),
            metric: Some(metrics::Counter::new(name, what, labels)),
        }
    }

    pub(crate) fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        if let Some(metric) = &self.metric {
            metric.add(count);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
