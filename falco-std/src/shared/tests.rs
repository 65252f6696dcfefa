//! Writes on a system where a write that has timed out cannot be tried again, as on Windows. The
//! stream is made for these tests, so they run everywhere.

use core::sync::atomic::{AtomicU64, Ordering};
use std::io::{Read, Write};
use std::thread;

use super::*;
use crate::stream::Stream;

/// How long the peer may take nothing.
const DEADLINE: Duration = Duration::from_millis(200);

/// A stream that accepts at most one byte in a write, after `pause` or, if the timeout is shorter,
/// none.
#[derive(Clone)]
struct Slow {
    pause: Duration,
    /// In milliseconds; 0 for none.
    timeout: Arc<AtomicU64>,
    writes: Arc<AtomicU64>,
    largest: Arc<AtomicU64>,
}

impl Slow {
    fn new(pause: Duration) -> Self {
        Self {
            pause,
            timeout: Arc::default(),
            writes: Arc::default(),
            largest: Arc::default(),
        }
    }
}

impl Read for Slow {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Slow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        self.largest.fetch_max(length, Ordering::SeqCst);
        let timeout = match self.timeout.load(Ordering::SeqCst) {
            0 => Duration::MAX,
            millis => Duration::from_millis(millis),
        };
        thread::sleep(self.pause.min(timeout));
        if timeout < self.pause {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(1)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Slow {
    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let millis = timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self.timeout.store(millis, Ordering::SeqCst);
        Ok(())
    }

    fn shutdown(&self, _: Shutdown) -> io::Result<()> {
        Ok(())
    }
}

/// Has one output of many bytes.
#[derive(Default)]
struct Long {
    sealed: bool,
    failed: Option<io::Result<ConnectionError>>,
    ending: Option<Ending>,
}

impl Output for Long {
    fn seal(&mut self, _: Instant, out: &mut Vec<u8>) -> usize {
        if core::mem::replace(&mut self.sealed, true) || self.failed.is_some() {
            return 0;
        }
        *out = vec![7; 100_000];
        out.len()
    }

    fn all_sealed(&mut self) -> bool {
        self.sealed
    }

    fn write_failed(&mut self, why: io::Result<ConnectionError>, _: bool) {
        self.failed = Some(why);
    }

    /// The process may have been stopped, so a write that can be tried again is.
    fn blocked(&mut self, _: Instant, _: Instant) -> bool {
        false
    }

    fn unblocked(&mut self) {}

    fn drained(&mut self, _: Instant) -> Option<Shutdown> {
        None
    }

    fn ending(&mut self) -> &mut Option<Ending> {
        &mut self.ending
    }

    fn writes_until(&self, since: Instant) -> Instant {
        since + DEADLINE
    }

    fn set_reading(&mut self, _: Instant, _: bool) {
        panic!("another thread reads");
    }
}

fn over(stream: &Slow) -> Arc<Shared<Long>> {
    let streams: [BoxedStream; 2] = [Box::new(stream.clone()), Box::new(stream.clone())];
    let shared = Shared::with(Long::default(), Clock::new(), streams, true, false);
    shared.expect("the stream takes any timeout")
}

#[test]
fn a_peer_that_takes_nothing_holds_the_thread_until_the_write_deadline() {
    let stream = Slow::new(Duration::from_secs(60));
    let shared = over(&stream);
    let began = std::time::Instant::now();
    shared.flush();
    let took = began.elapsed();
    assert!(took >= DEADLINE / 2 && took < 10 * DEADLINE, "{took:?}");
    let failed = shared.lock().state.failed.take();
    assert!(matches!(failed, Some(Ok(ConnectionError::Stalled))), "{failed:?}");
    assert_eq!(stream.writes.load(Ordering::SeqCst), 1, "it was tried again");
    assert_eq!(stream.largest.load(Ordering::SeqCst), 16 << 10);
}

#[test]
fn a_peer_that_is_slow_holds_the_thread_once() {
    let stream = Slow::new(DEADLINE / 2);
    let shared = over(&stream);
    let began = std::time::Instant::now();
    shared.flush();
    // One write, and a thread goes on.
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    // It ends when the test does.
    shared.flush();
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
    assert!(shared.slow.load(Ordering::Relaxed));
    // No other thread writes now, and the next output is left to one at once.
    let other = over(&stream);
    other.slow.store(true, Ordering::Relaxed);
    let began = std::time::Instant::now();
    other.flush();
    assert!(began.elapsed() < DEADLINE / 4, "{:?}", began.elapsed());
}
