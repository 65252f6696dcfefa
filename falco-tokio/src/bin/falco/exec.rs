//! A command as a handler: it reads the message from its standard input, and what it writes to its
//! standard output is the answer. A request ends with its command, or at the time limit. If
//! processes that the command has started still hold its streams, the request ends at most
//! [`GRACE`] after the command.

mod running;
mod stderr;
mod stream;

use core::future::Future;
use core::net::SocketAddr;
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::io;

use bytes::Bytes;
use falco_tokio::{HandlerError, KeyId, Refusal, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::oneshot::error::RecvError;
use tokio::time::timeout;

use self::running::{Running, Variables};
use self::stderr::Stderr;
use crate::failure::Failure;
use crate::places::Places;

/// After a command has ended: how long to keep reading what it has written, and how long processes
/// that it has left may hold its standard input and output before they are killed.
const GRACE: Duration = Duration::from_millis(250);
/// The least room for a read.
const ROOM: usize = 8 << 10;

/// What a command may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of an answer.
    pub(crate) answer: u32,
    /// How many commands run at once.
    pub(crate) commands: u16,
    /// How long the command of a whole request runs.
    pub(crate) time: Duration,
    /// How long the command of an open request may neither be read from nor written to.
    pub(crate) silence: Option<Duration>,
}

/// Fails if a program cannot be run, as far as that is known without running it.
pub(crate) fn check(program: &OsStr) -> Result<(), Failure> {
    running::check(program).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::NotFound {
            "install it, or give its path"
        } else {
            "it has to be a program that this user may run"
        };
        Failure::usage(format_args!("--exec: {}: {error}: {hint}", program.display()))
    })
}

/// What is run for each request.
pub(crate) struct Exec {
    program: OsString,
    arguments: Vec<OsString>,
    limits: Limits,
    places: Places,
    /// For the commands of open requests, which take one of `places` besides.
    stream_places: Places,
    requests: AtomicU64,
    stderr: Stderr,
}

impl Exec {
    /// None if no command is given.
    pub(crate) fn new(command: &[OsString], limits: Limits) -> io::Result<Option<Self>> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(None);
        };
        Ok(Some(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            limits,
            places: Places::new(usize::from(limits.commands)),
            stream_places: Places::new(usize::from(limits.commands.div_ceil(2))),
            requests: AtomicU64::new(0),
            stderr: Stderr::new()?,
        }))
    }

    /// The server has several keys, and one of them is not to take all places.
    pub(crate) fn share_by_key(&self) {
        self.places.share_by_key();
        self.stream_places.share_by_key();
    }

    /// Runs the command for a request. If this future is dropped, the command is killed.
    pub(crate) async fn answer(&self, request: Request) -> Result<Bytes, HandlerError> {
        let key = request.key_id();
        let variables = self.variables(request.peer(), key, request.key_label());
        let message = request.into_body();
        let _place = self.in_time(self.places.take(key)).await?;
        let limit = self.limits.time;
        // A command that takes longer is dropped, which kills it.
        timeout(limit, self.run(message, variables)).await.unwrap_or_else(|_| {
            let program = self.program.display();
            Err(format!("{program}: killed: still running after {limit:?} (--exec-timeout)").into())
        })
    }

    /// A place, for which a request waits at most until the command of a whole request that began
    /// before it was killed.
    async fn in_time<T>(&self, place: impl Future<Output = Result<T, RecvError>>) -> Result<T, HandlerError> {
        if let Ok(place) = timeout(self.limits.time.saturating_add(GRACE), place).await {
            return Ok(place?);
        }
        let program = self.program.display();
        tracing::warn!(%program, "a request was refused as busy: it has waited for a place as long as a command may run (--max-commands, --exec-timeout)");
        Err(Refusal::Busy.into())
    }

    async fn run(&self, message: Bytes, variables: Variables) -> Result<Bytes, HandlerError> {
        let started = self
            .stderr
            .writer()
            .and_then(|stderr| Running::start(&self.program, &self.arguments, variables, stderr));
        let (mut running, to, from) = started.map_err(|error| self.not_started(&error))?;
        let mut answer = Vec::new();
        let is_held = {
            // If `feed` or `read` fails, the other one is dropped, because it might wait forever
            // for a command that neither reads nor ends.
            let mut talk = pin!(async { tokio::try_join!(feed(to, &message), self.read(from, &mut answer)) });
            tokio::select! {
                talked = &mut talk => {
                    talked?;
                    running.exited().await?;
                    false
                }
                exited = running.exited() => {
                    exited?;
                    match timeout(GRACE, talk).await {
                        Ok(talked) => {
                            talked?;
                            false
                        }
                        Err(_) => true,
                    }
                }
            }
        };
        // Only the exit status of the command counts, even if a process that it has started still
        // holds its streams.
        let status = running.end(is_held).await?;
        if status.success() {
            Ok(answer.into())
        } else {
            Err(format!("{}: {status}", self.program.display()).into())
        }
    }

    /// The error of a request whose command could not be started.
    fn not_started(&self, error: &io::Error) -> HandlerError {
        let program = self.program.display();
        if running::is_shortage(error) {
            tracing::warn!(%error, %program, "no command can be started now, and the request is refused as busy: raise the system's limits");
            return Refusal::Busy.into();
        }
        tracing::warn!(%error, %program, "the command cannot be started, and the request is refused as not processed");
        Refusal::NotProcessed.into()
    }

    /// What the command learns about its request. A variable of the server with such a name is not
    /// passed on.
    fn variables(&self, peer: Option<SocketAddr>, key: Option<KeyId>, label: Option<&str>) -> Variables {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        vec![
            ("FALCO_REQUEST", number.to_string()),
            ("FALCO_PEER", peer.map(|peer| peer.to_string()).unwrap_or_default()),
            ("FALCO_KEY_ID", key.map(|id| id.to_string()).unwrap_or_default()),
            ("FALCO_KEY_LABEL", label.unwrap_or_default().to_owned()),
        ]
    }

    /// Waits until no command runs. A command whose request was cut off is killed when the task of
    /// the request is dropped, and the process must not end before that. Then waits until the log
    /// has what commands have written to standard error.
    pub(crate) async fn idle(&self) {
        // A place is free again when its command has ended or was killed.
        self.places.idle().await;
        self.stderr.end().await;
    }

    /// Reads all that the command writes, up to the limit.
    async fn read(&self, mut from: ChildStdout, answer: &mut Vec<u8>) -> Result<(), HandlerError> {
        let limit = self.limits.answer;
        loop {
            answer.reserve(ROOM);
            if from.read_buf(answer).await? == 0 {
                return Ok(());
            }
            if u32::try_from(answer.len()).map_or(true, |length| length > limit) {
                tracing::warn!(
                    limit,
                    "the command was killed: it wrote more than --max-message, and the request is refused"
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
