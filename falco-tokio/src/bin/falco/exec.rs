//! A command as a handler: it gets a message on its standard input, and its standard output is the answer.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use bytes::Bytes;
use falco_tokio::{HandlerError, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use crate::key;

/// What is run for each request.
pub(crate) struct Exec {
    program: OsString,
    arguments: Vec<OsString>,
    /// The largest answer.
    max_answer: u32,
    places: Semaphore,
    /// How many places there are.
    most: u16,
}

impl Exec {
    /// None where no command is given.
    pub(crate) fn new(command: &[OsString], max_answer: u32, max_commands: u16) -> Option<Self> {
        let (program, arguments) = command.split_first()?;
        Some(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            max_answer,
            places: Semaphore::new(usize::from(max_commands)),
            most: max_commands,
        })
    }

    /// What the command makes of a message. When this future is dropped the command is killed.
    pub(crate) async fn answer(&self, message: Bytes) -> Result<Bytes, HandlerError> {
        let _place = self.places.acquire().await?;
        let mut running = self.start()?;
        let (Some(to), Some(from)) = (running.child.stdin.take(), running.child.stdout.take()) else {
            return Err("a pipe of the command is missing".into());
        };
        // Whichever goes wrong ends both: the other may wait for a command that does neither read nor end.
        let ((), answer) = tokio::try_join!(feed(to, &message), self.read(from))?;
        let status = running.child.wait().await?;
        running.is_over = true;
        if status.success() {
            Ok(answer.into())
        } else {
            Err(format!("{}: {status}", self.program.display()).into())
        }
    }

    /// Waits until no command runs: those whose requests were cut off are killed only when their tasks are dropped, which the end of the process would forestall.
    pub(crate) async fn idle(&self) {
        // A place is given back when its command is over or killed. The semaphore is never closed.
        let _ = self.places.acquire_many(self.most.into()).await;
    }

    fn start(&self) -> Result<Running, HandlerError> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        for name in key::variables() {
            command.env_remove(name);
        }
        // A group of its own: Ctrl-C at a terminal is for the server, which lets it finish.
        #[cfg(unix)]
        command.process_group(0);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        Ok(Running { child, is_over: false })
    }

    /// All that the command writes, unless that is too much.
    async fn read(&self, from: ChildStdout) -> Result<Vec<u8>, HandlerError> {
        let mut answer = Vec::new();
        from.take(u64::from(self.max_answer) + 1)
            .read_to_end(&mut answer)
            .await?;
        if u32::try_from(answer.len()).is_ok_and(|length| length <= self.max_answer) {
            Ok(answer)
        } else {
            tracing::warn!(
                limit = self.max_answer,
                "the command writes more than an answer may have"
            );
            Err(Refusal::AnswerTooLarge.into())
        }
    }
}

/// Writes the message and closes the pipe. A command need not read it.
async fn feed(mut to: ChildStdin, message: &[u8]) -> Result<(), HandlerError> {
    match to.write_all(message).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A command that runs. Dropped before it is over, it is killed, and what it has started with it.
struct Running {
    child: Child,
    is_over: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its number is its own until it has been waited for, which has not been done.
        #[cfg(unix)]
        if let Some(group) = self.child.id().filter(|_| !self.is_over)
            && let Ok(Some(group)) = i32::try_from(group).map(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
