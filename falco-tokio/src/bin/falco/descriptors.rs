//! The limit of open files (`RLIMIT_NOFILE`). Each connection takes one.

/// Descriptors besides the `connections` of [`raise`]: listeners, connections to servers, files,
/// the runtime.
#[cfg(unix)]
const RESERVED: u64 = 192;

/// Raises the soft limit, which is often 1024, as far as `connections` need and the hard limit
/// allows. Returns how many connections there may be.
#[cfg(unix)]
pub(crate) fn raise(connections: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let needed = connections.saturating_add(RESERVED);
    let raised = maximum.map_or(needed, |hard| hard.min(needed));
    if current.is_none_or(|soft| soft >= needed) {
        return connections;
    }
    let before = current.unwrap_or(needed);
    // A system may have another limit below the hard one. Then this fails, and the present limit
    // stays.
    let current = Some(raised);
    match setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        Ok(()) if raised >= needed => {
            tracing::info!(to = raised, "raised the soft limit of open files");
            connections
        }
        set => {
            let limit = if set.is_ok() { raised } else { before };
            tracing::warn!(
                needed,
                limit,
                "too few files may be open for so many connections: raise the limit (ulimit -n)"
            );
            limit.saturating_sub(RESERVED)
        }
    }
}

#[cfg(not(unix))]
pub(crate) const fn raise(connections: u64) -> u64 {
    connections
}
