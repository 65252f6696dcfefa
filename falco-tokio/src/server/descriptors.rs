//! How many descriptors the process has for connections, and how they are divided.

use falco_core::mux::AdmissionLimits;
use tracing::warn;

/// At most one in this many descriptors goes to a connection whose PROXY header was not read yet.
const HEADERS_PART: usize = 4;

/// Lowers the limits on connections so that the process has enough descriptors. `headers` is how
/// many connections may wait for their PROXY header at once, in addition to these limits. Returns
/// both numbers, lowered.
pub(super) fn divide(wanted: AdmissionLimits, headers: usize, raise: bool) -> (AdmissionLimits, usize) {
    let Some(available) = available(wanted.max_connections.saturating_add(headers), raise) else {
        return (wanted, headers);
    };
    let headers = headers.min(available / HEADERS_PART);
    let limits = wanted.within(available - headers);
    if limits.max_connections < wanted.max_connections {
        let (max_connections, max_half_open) = (limits.max_connections, limits.max_half_open);
        warn!(
            available,
            max_connections,
            max_half_open,
            "lowered the limits on connections: the process may not open more files (ulimit -n)"
        );
    }
    (limits, headers)
}

/// Descriptors that are kept for the rest of the process, such as the runtime, files and
/// connections of handlers.
#[cfg(unix)]
const RESERVED: usize = 64;

/// How many descriptors the process has for connections, or `None` if the system has no limit. If
/// `raise` is set, first raises the soft limit as far as `wanted` connections need and the system
/// allows.
#[cfg(unix)]
fn available(wanted: usize, raise: bool) -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    // Reading the directory takes a descriptor itself.
    let in_use = std::fs::read_dir("/dev/fd").map_or(0, |open| open.count().saturating_sub(1));
    let kept = in_use.saturating_add(RESERVED);
    let needed = u64::try_from(wanted.saturating_add(kept)).unwrap_or(u64::MAX);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut soft = current?;
    if raise && soft < needed {
        let raised = maximum.map_or(needed, |hard| hard.min(needed));
        let limit = Rlimit {
            current: Some(raised),
            maximum,
        };
        // A system may have another limit below the hard one, as macOS does. Then this fails, and
        // the present limit stays.
        if raised > soft && setrlimit(Resource::Nofile, limit).is_ok() {
            tracing::info!(from = soft, to = raised, "raised the soft limit of open files");
            soft = raised;
        }
    }
    Some(usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(kept))
}

/// Systems without such a limit.
#[cfg(not(unix))]
const fn available(_wanted: usize, _raise: bool) -> Option<usize> {
    None
}
