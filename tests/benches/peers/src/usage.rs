//! What a process queries and sets in the system: its own use of processor and memory, and limits.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Usage {
    /// Processor time of all its threads, in user mode and in the system, in microseconds.
    pub(crate) cpu_us: i64,
    /// Resident memory.
    pub(crate) resident_kib: i64,
}

impl Usage {
    pub(crate) fn now() -> Result<Self, Failure> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let status = std::fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.ok_or("/proc/self/status has no line VmRSS")?;
        let resident_kib = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu_us, resident_kib })
    }
}

/// The cores on which this process may run.
pub(crate) fn cores() -> Result<Vec<usize>, Failure> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count())
        .filter(|core| set.is_set(*core) == Ok(true))
        .collect())
}

/// Keeps this process, with all threads that it starts later, on one core.
pub(crate) fn pin(core: usize) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// How many descriptors this process can have at most.
pub(crate) fn descriptors() -> Result<u64, Failure> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// Raises the limit on descriptors as far as it goes.
pub(crate) fn raise_descriptors() -> Result<(), Failure> {
    let most = descriptors()?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}
