//! How many descriptors the process has for connections.

/// Descriptors that connections leave to the rest of the process: files, sockets of the handlers'
/// own.
#[cfg(unix)]
const RESERVED: usize = 64;

/// How many connections the process has descriptors for, out of `wanted`: none where the system has
/// no limit. `raise` allows to raise the soft limit as far as that takes.
#[cfg(unix)]
pub(super) fn available(wanted: usize, raise: bool) -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    // The directory that is read is one of them itself.
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
        // A system may have another limit below the hard one, as macOS does. Then this fails and
        // what there is has to do.
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
