//! What a test's thread logs.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each suite uses some of it")]

use std::io::{Result, Write};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::format::FmtSpan;

/// A second subscriber of the process. While there is only one, an event that another thread logs
/// first is disabled for all threads.
static SECOND: OnceLock<Dispatch> = OnceLock::new();

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Everything from `level` on that this thread logs until the guard is dropped, with these
    /// events of spans.
    pub(crate) fn capture(level: Level, spans: FmtSpan) -> (Self, DefaultGuard) {
        SECOND.get_or_init(|| Dispatch::new(NoSubscriber::new()));
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_span_events(spans)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn warnings() -> (Self, DefaultGuard) {
        Self::capture(Level::WARN, FmtSpan::NONE)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
