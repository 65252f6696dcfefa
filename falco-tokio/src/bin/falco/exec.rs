//! A command as a handler: it gets a message on its standard input, and its standard output is the
//! answer. A request lasts as long as its command and at most [`MOMENT`] longer, whatever the
//! command has closed, left open or left running.

mod complaints;
mod running;

use core::pin::pin;
use core::time::Duration;
use std::ffi::OsString;
use std::io;

use bytes::Bytes;
use falco_tokio::{HandlerError, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::complaints::Complaints;
use self::running::Running;

/// How long what a command has written may take to be read once the command has ended, and how
/// long what it has left running may go on with its streams.
const MOMENT: Duration = Duration::from_millis(250);
/// The least room that a read is given.
const ROOM: usize = 8 << 10;

/// What is run for each request.
pub(crate) struct Exec {
    program: OsString,
    arguments: Vec<OsString>,
    /// The largest answer.
    max_answer: u32,
    places: Semaphore,
    /// How many places there are.
    most: u16,
    complaints: Complaints,
}

impl Exec {
    /// None where no command is given.
    pub(crate) fn new(command: &[OsString], max_answer: u32, max_commands: u16) -> io::Result<Option<Self>> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(None);
        };
        Ok(Some(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            max_answer,
            places: Semaphore::new(usize::from(max_commands)),
            most: max_commands,
            complaints: Complaints::new()?,
        }))
    }

    /// What the command makes of a message. When this future is dropped the command is killed.
    pub(crate) async fn answer(&self, message: Bytes) -> Result<Bytes, HandlerError> {
        let _place = self.places.acquire().await?;
        let started = self
            .complaints
            .writer()
            .and_then(|stderr| Running::start(&self.program, &self.arguments, stderr));
        let (mut running, to, from) = started.map_err(|error| self.not_started(&error))?;
        let mut answer = Vec::new();
        let is_held = {
            // Whichever goes wrong ends both: the other may wait for a command that does neither
            // read nor end.
            let mut talk = pin!(async { tokio::try_join!(feed(to, &message), self.read(from, &mut answer)) });
            tokio::select! {
                talked = &mut talk => {
                    talked?;
                    running.exited().await?;
                    false
                }
                exited = running.exited() => {
                    exited?;
                    match timeout(MOMENT, talk).await {
                        Ok(talked) => {
                            talked?;
                            false
                        }
                        Err(_) => true,
                    }
                }
            }
        };
        // Its own end decides, also where something that it has left behind holds its streams.
        let status = running.end(is_held).await?;
        if status.success() {
            Ok(answer.into())
        } else {
            Err(format!("{}: {status}", self.program.display()).into())
        }
    }

    /// What a request fails with whose command was not started.
    fn not_started(&self, error: &io::Error) -> HandlerError {
        let program = self.program.display();
        if running::is_shortage(error) {
            tracing::warn!(%error, %program, "no command can be started now");
            return Refusal::Busy.into();
        }
        format!("{program}: {error}").into()
    }

    /// Why the command cannot be run, as far as can be told before it is.
    pub(crate) fn check(&self) -> io::Result<()> {
        running::check(&self.program).map_err(|error| {
            let text = format!("{}: {error}", self.program.display());
            io::Error::new(error.kind(), text)
        })
    }

    /// Waits until no command runs: those whose requests were cut off are killed only when their
    /// tasks are dropped, which the end of the process would forestall. Then waits until what
    /// commands have written to standard error is in the log, but not for what they have left
    /// running.
    pub(crate) async fn idle(&self) {
        // A place is given back when its command is over or killed. The semaphore is never closed.
        let _ = self.places.acquire_many(self.most.into()).await;
        self.complaints.end().await;
    }

    /// All that the command writes, unless that is too much.
    async fn read(&self, mut from: ChildStdout, answer: &mut Vec<u8>) -> Result<(), HandlerError> {
        loop {
            answer.reserve(ROOM);
            if from.read_buf(answer).await? == 0 {
                return Ok(());
            }
            if u32::try_from(answer.len()).map_or(true, |length| length > self.max_answer) {
                tracing::warn!(
                    limit = self.max_answer,
                    "the command writes more than an answer may have"
                );
                return Err(Refusal::AnswerTooLarge.into());
            }
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
