//! The limit of open files, of which each connection that is carried takes one.

/// What the process opens besides: listeners, connections to servers, files, the runtime.
#[cfg(unix)]
const BESIDES: u64 = 192;

/// Raises the soft limit, which is often 1024, as far as `connections` need and the hard limit
/// allows.
#[cfg(unix)]
pub(crate) fn raise(connections: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let needed = connections.saturating_add(BESIDES);
    let raised = maximum.map_or(needed, |hard| hard.min(needed));
    if current.is_none_or(|soft| soft >= needed) {
        return;
    }
    // A system may have another limit below the hard one. Then this fails, and the present limit
    // stays.
    let current = Some(raised);
    match setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        Ok(()) if raised >= needed => tracing::info!(to = raised, "raised the soft limit of open files"),
        _ => tracing::warn!(
            needed,
            "too few files may be open for so many connections: raise `ulimit -n`"
        ),
    }
}

#[cfg(not(unix))]
pub(crate) const fn raise(_connections: u64) {}
