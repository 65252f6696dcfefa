//! What a process uses of the system, as Linux reports it.

use core::fmt;
use std::fs;

/// What this process has taken up to now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) bytes: u64,
    /// Time on a processor, in user space and in the system, over all threads that there are.
    pub(crate) nanoseconds: u64,
    /// How often a thread went to sleep, and so was woken.
    pub(crate) sleeps: u64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let mut usage = Self {
            bytes: field("/proc/self/status", "VmRSS:") << 10,
            nanoseconds: 0,
            sleeps: 0,
        };
        for thread in fs::read_dir("/proc/self/task").unwrap() {
            let thread = thread.unwrap().path();
            // A thread may end meanwhile.
            let Ok(times) = fs::read_to_string(thread.join("schedstat")) else {
                continue;
            };
            let on_processor = times.split_whitespace().next().unwrap();
            usage.nanoseconds += on_processor.parse::<u64>().unwrap();
            usage.sleeps += field(thread.join("status"), "voluntary_ctxt_switches:");
        }
        usage
    }

    /// As its [`Display`](fmt::Display) has written it.
    pub(crate) fn parse(text: &str) -> Self {
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Self {
            bytes: next(),
            nanoseconds: next(),
            sleeps: next(),
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.bytes, self.nanoseconds, self.sleeps)
    }
}

fn field(path: impl AsRef<std::path::Path>, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
