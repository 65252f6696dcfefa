//! How many descriptors the process has for connections.

/// Descriptors that are kept for the rest of the process, such as files and sockets of handlers.
#[cfg(unix)]
const RESERVED: usize = 64;

/// How many descriptors the process has for connections, or `None` if the system has no limit. If
/// `raise` is set, first raises the soft limit as far as `wanted` connections need and the system
/// allows.
#[cfg(unix)]
pub(super) fn available(wanted: usize, raise: bool) -> Option<usize> {
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
            soft = raised;
        }
    }
    Some(usize::try_from(soft).unwrap_or(usize::MAX).saturating_sub(kept))
}

/// Systems without such a limit.
#[cfg(not(unix))]
pub(super) const fn available(_wanted: usize, _raise: bool) -> Option<usize> {
    None
}
