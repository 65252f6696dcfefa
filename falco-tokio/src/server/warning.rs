//! Warnings that a client can cause at will. Each kind is rate-limited. How many were left out is
//! logged with the next warning of the kind, or when the interval ends, or when the server does.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// The time in which one warning about accepting connections is logged.
const INTERVAL: Duration = Duration::from_secs(10);
/// The time in which [`HANDLERS`] warnings about handlers are logged.
const SECOND: Duration = Duration::from_secs(1);
/// More than of the other kinds, because each may have another error.
const HANDLERS: u32 = 10;

/// The limits of each kind.
#[derive(Debug)]
pub(crate) struct Warnings {
    /// Accepting failed.
    pub(crate) accepting: WarningLimit,
    /// A connection was closed at once because there was no place for it.
    pub(crate) no_place: WarningLimit,
    /// A connection could not be set up.
    pub(crate) setup: WarningLimit,
    /// A trusted proxy sent no header, or one that is too long.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) header: WarningLimit,
    /// A hello did not decrypt, or was replayed.
    pub(crate) refused: WarningLimit,
    /// The first bytes of a connection were those of another protocol, or of another version.
    pub(crate) foreign: WarningLimit,
    /// A key has reached its limit of connections.
    pub(crate) key_limit: WarningLimit,
    /// A handler failed.
    pub(crate) failed: WarningLimit,
    /// A handler panicked.
    pub(crate) panicked: WarningLimit,
    /// An answer was larger than its client accepts.
    pub(crate) too_large: WarningLimit,
    /// Too many bytes of answers were queued for another answer.
    pub(crate) no_room: WarningLimit,
}

impl Default for Warnings {
    fn default() -> Self {
        let once = |what| WarningLimit::new(what, INTERVAL, 1);
        let often = |what| WarningLimit::new(what, SECOND, HANDLERS);
        Self {
            accepting: once("accepting a connection failed"),
            no_place: once("closed a connection at once"),
            setup: once("a connection could not be set up"),
            #[cfg(feature = "proxy-protocol")]
            header: once("closed a connection without a valid PROXY header"),
            refused: once("refused a handshake"),
            foreign: once("closed a connection of another protocol"),
            key_limit: once("closed a connection over the limit of its key"),
            failed: often("the handler failed"),
            panicked: often("the handler panicked"),
            too_large: often("the answer is larger than the client accepts"),
            no_room: often("dropped an answer"),
        }
    }
}

impl Warnings {
    /// Logs how many warnings were left out and not reported yet. For the end of the server.
    pub(crate) fn report(&self) {
        self.each(WarningLimit::report);
    }

    /// Calls a function with the limit of each kind.
    fn each(&self, call: impl FnMut(&WarningLimit)) {
        let Self {
            accepting,
            no_place,
            setup,
            #[cfg(feature = "proxy-protocol")]
            header,
            refused,
            foreign,
            key_limit,
            failed,
            panicked,
            too_large,
            no_room,
        } = self;
        #[cfg(feature = "proxy-protocol")]
        let header = Some(header);
        #[cfg(not(feature = "proxy-protocol"))]
        let header = None;
        let others = [
            accepting, no_place, setup, refused, foreign, key_limit, failed, panicked, too_large, no_room,
        ];
        others.into_iter().chain(header).for_each(call);
    }
}

impl Drop for Warnings {
    /// A server that is bound to nothing ends when it is dropped.
    fn drop(&mut self) {
        self.report();
    }
}

/// Logs a warning if one of its kind is due, or the same at DEBUG.
macro_rules! warn_limited {
    ($limit:expr, $($fields:tt)+) => {
        if let Some(left_out) = $limit.due() {
            tracing::warn!(left_out, $($fields)+)
        } else {
            tracing::debug!($($fields)+)
        }
    };
}
pub(crate) use warn_limited;

/// Limits how many warnings of one kind are logged.
#[derive(Debug)]
pub(crate) struct WarningLimit(Arc<Limit>);

#[derive(Debug)]
struct Limit {
    state: Mutex<State>,
    /// What the warnings say.
    what: &'static str,
    interval: Duration,
    /// How many are logged in an interval.
    most: u32,
}

#[derive(Debug)]
struct State {
    /// When the interval began.
    since: Option<Instant>,
    /// How many were logged in it.
    logged: u32,
    /// How many were left out and not reported yet.
    left_out: u64,
    /// The task that waits for the end of the interval, while something is left out.
    timer: Option<AbortHandle>,
}

impl WarningLimit {
    fn new(what: &'static str, interval: Duration, most: u32) -> Self {
        let state = State {
            since: None,
            logged: 0,
            left_out: 0,
            timer: None,
        };
        Self(Arc::new(Limit {
            state: Mutex::new(state),
            what,
            interval,
            most,
        }))
    }

    /// Returns how many warnings were left out, if one is to be logged now. If not, it is counted,
    /// and the count is logged when the interval ends.
    pub(crate) fn due(&self) -> Option<u64> {
        let limit = &self.0;
        let now = Instant::now();
        let mut state = limit.lock();
        if state.since.is_none_or(|since| now >= since + limit.interval) {
            state.since = Some(now);
            state.logged = 0;
        }
        if state.logged < limit.most {
            state.logged += 1;
            return Some(core::mem::take(&mut state.left_out));
        }
        state.left_out += 1;
        // A runtime that has ended has ended the task, too.
        if state.timer.as_ref().is_none_or(AbortHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            let timer = runtime.spawn(Arc::clone(limit).report_at_the_end());
            state.timer = Some(timer.abort_handle());
        }
        None
    }

    fn report(&self) {
        let mut state = self.0.lock();
        let left_out = core::mem::take(&mut state.left_out);
        if let Some(timer) = state.timer.take() {
            timer.abort();
        }
        drop(state);
        self.0.warn_of(left_out);
    }
}

impl Limit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_of(&self, left_out: u64) {
        if left_out > 0 {
            warn!(left_out, "{}: further warnings were left out", self.what);
        }
    }

    /// Waits until the interval has ended, and logs how many warnings were left out in it. This
    /// does not count towards the next interval: the next warning is logged with its fields.
    async fn report_at_the_end(self: Arc<Self>) {
        while let Some(end) = self.pending_until() {
            sleep_until(end).await;
        }
    }

    /// When the interval ends, if something is left out and not reported yet. Logs it if that is
    /// over.
    fn pending_until(&self) -> Option<Instant> {
        let mut state = self.lock();
        let end = state.since.map_or_else(Instant::now, |since| since + self.interval);
        if state.left_out > 0 && end > Instant::now() {
            return Some(end);
        }
        state.timer = None;
        let left_out = core::mem::take(&mut state.left_out);
        drop(state);
        self.warn_of(left_out);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Result, Write};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// What this thread logs until the guard is dropped.
        fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time();
            let subscriber = subscriber.with_writer(move || writer.clone()).finish();
            (log, tracing::subscriber::set_default(subscriber))
        }

        /// The counts that were logged since the last call, each on a line of its own.
        fn counts(&self) -> Vec<String> {
            let bytes = core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            let text = String::from_utf8(bytes).unwrap_or_default();
            let count = |line: &str| {
                let (before, count) = line.split_once("left_out=").unwrap_or_default();
                assert!(before.contains("of a kind: further warnings were left out"), "{line}");
                count.to_owned()
            };
            text.lines().map(count).collect()
        }
    }

    /// Some warnings are due, and then `left_out` are not.
    fn warn(limit: &WarningLimit, most: u32, left_out: u64) {
        for _ in 0..most {
            assert_eq!(limit.due(), Some(0));
        }
        for _ in 0..left_out {
            assert_eq!(limit.due(), None);
        }
    }

    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_out_is_counted_when_the_interval_ends() {
        let (log, _guard) = Log::capture();
        for most in [1, 10] {
            let limit = WarningLimit::new("of a kind", INTERVAL, most);
            warn(&limit, most, 0);
            assert_eq!(tasks(), 0);
            for left_out in [2000, 1] {
                warn(&limit, 0, left_out);
                assert_eq!(tasks(), 1);
                tokio::time::sleep(INTERVAL.saturating_sub(Duration::from_millis(1))).await;
                assert_eq!(log.counts(), [""; 0]);
                tokio::time::sleep(Duration::from_millis(2)).await;
                assert_eq!(log.counts(), [left_out.to_string()]);
                assert_eq!(tasks(), 0);
                // This is the first of an interval, with its own fields.
                warn(&limit, most, 0);
            }
            tokio::time::sleep(INTERVAL).await;
            assert_eq!(limit.due(), Some(0));
            assert_eq!(log.counts(), [""; 0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_warning_that_is_due_first_has_the_count() {
        let (log, _guard) = Log::capture();
        let limit = WarningLimit::new("of a kind", INTERVAL, 1);
        tokio::time::advance(INTERVAL).await;
        warn(&limit, 1, 5);
        // The interval ends before the timer has run.
        limit.0.lock().since = Instant::now().checked_sub(INTERVAL);
        assert_eq!(limit.due(), Some(5));
        // These are left out in the next interval, and are logged at its end.
        warn(&limit, 0, 3);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(log.counts(), [""; 0]);
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(log.counts(), ["3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_server_logs_each_count_once() {
        let (log, _guard) = Log::capture();
        let warnings = Warnings::default();
        let mut kinds = 0;
        warnings.each(|limit| {
            kinds += 1;
            for _ in 0..limit.0.most + 7 {
                let _ = limit.due();
            }
        });
        warnings.report();
        tokio::time::sleep(INTERVAL * 2).await;
        drop(warnings);
        let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).unwrap_or_default();
        assert!(kinds >= 10 && text.lines().count() == kinds, "{text}");
        assert!(text.lines().all(|line| line.ends_with("left_out=7")), "{text}");
        assert_eq!(tasks(), 0);
    }
}
