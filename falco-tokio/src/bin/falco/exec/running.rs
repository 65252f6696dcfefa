//! A running command, and the processes in its process group. The command's id is also that of the
//! group. No other process can get it before the command has been waited for. After that, nothing
//! is killed by this id.

use core::future::Future;
use std::ffi::{OsStr, OsString};
use std::io::{self, PipeWriter};
#[cfg(unix)]
use std::path::Path;
use std::process::{ExitStatus, Stdio};

#[cfg(unix)]
use rustix::fs::{Access, access};
#[cfg(unix)]
use rustix::io::Errno;
#[cfg(unix)]
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Whether a command could not be started because the system lacks resources for now.
#[cfg(unix)]
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|error| shortages.contains(&error))
}

#[cfg(not(unix))]
pub(super) fn is_shortage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

/// Checks that there is a program of this name that this user may run, in the directories in which
/// the system looks for it.
#[cfg(unix)]
pub(super) fn check(program: &OsStr) -> io::Result<()> {
    let runs = |path: &Path| {
        if path.is_dir() {
            return Err(Errno::ACCESS.into());
        }
        access(path, Access::EXEC_OK).map_err(io::Error::from)
    };
    if program.as_encoded_bytes().contains(&b'/') {
        return runs(Path::new(program));
    }
    let mut found = Err(Errno::NOENT.into());
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        match runs(&directory.join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found = Err(error),
            Err(_) => {}
        }
    }
    found
}

#[cfg(not(unix))]
pub(super) fn check(_: &OsStr) -> io::Result<()> {
    Ok(())
}

/// Variables of a command's environment.
pub(super) type Variables = Vec<(&'static str, String)>;

/// A running command. If this is dropped before the command has ended, the command is killed with
/// its process group.
pub(super) struct Running {
    child: Child,
    #[cfg(unix)]
    ends: tokio::signal::unix::Signal,
}

impl Running {
    /// Starts it and returns its standard input and output.
    pub(super) fn start(
        program: &OsString,
        arguments: &[OsString],
        variables: Variables,
        stderr: PipeWriter,
    ) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true);
        // A command is not the service that the supervisor watches.
        for name in [
            "NOTIFY_SOCKET",
            "WATCHDOG_PID",
            "WATCHDOG_USEC",
            "LISTEN_PID",
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
        ] {
            command.env_remove(name);
        }
        // A process group of its own, since Ctrl-C at a terminal is for the server, which then
        // waits for the command.
        #[cfg(unix)]
        command.process_group(0);
        // Before the start, so that the end cannot be missed.
        #[cfg(unix)]
        let ends = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        let mut running = Self {
            child: command.spawn()?,
            #[cfg(unix)]
            ends,
        };
        match (running.child.stdin.take(), running.child.stdout.take()) {
            (Some(to), Some(from)) => Ok((running, to, from)),
            _ => Err(io::Error::other("a pipe of the command is missing")),
        }
    }

    /// Waits until the command has ended, and leaves it as a zombie, so that it keeps its id.
    #[cfg(unix)]
    pub(super) async fn exited(&mut self) -> io::Result<()> {
        let Some(id) = self.id() else { return Ok(()) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(id), options)?.is_none() {
            if self.ends.recv().await.is_none() {
                return Err(io::Error::other("the runtime shuts down"));
            }
        }
        Ok(())
    }

    #[cfg(not(unix))]
    pub(super) async fn exited(&mut self) -> io::Result<()> {
        self.child.wait().await.map(drop)
    }

    /// Waits for the command, which has ended, and returns its exit status. If `kill`, kills the
    /// rest of its process group first.
    pub(super) fn end(&mut self, kill: bool) -> impl Future<Output = io::Result<ExitStatus>> {
        if kill {
            self.kill_group();
        }
        self.child.wait()
    }

    #[cfg(unix)]
    fn id(&self) -> Option<Pid> {
        // None once it has been waited for.
        self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
    }

    #[cfg(unix)]
    fn kill_group(&self) {
        if let Some(group) = self.id() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    #[cfg(not(unix))]
    fn kill_group(&self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `end` there is no id, and this does nothing.
        self.kill_group();
    }
}
