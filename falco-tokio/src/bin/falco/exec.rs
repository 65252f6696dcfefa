//! A command as a handler: it reads the message from its standard input, and what it writes to its
//! standard output is the answer. A request ends with its command, or at its limit. If processes
//! that the command has started still hold its streams, the request ends [`GRACE`] after the
//! command. `talk` moves the bytes.

mod activity;
mod running;
mod stderr;
mod talk;

use core::future::Future;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::io;

use falco_tokio::{HandlerError, KeyId, RecvStream, Refusal, StreamRequest};
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{sleep, timeout};

use self::activity::Activity;
use self::running::{Running, Variables};
use self::stderr::Stderr;
use self::talk::{Output, talk};
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
    /// Bytes of an answer to a whole request that wait until the command has ended.
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
    pub(crate) async fn serve(&self, request: StreamRequest) -> Result<(), HandlerError> {
        let key = request.key_id();
        let variables = self.variables(request.peer(), key, request.key_label());
        let whole = request.is_whole();
        let places = async {
            // Clients keep the commands of streams as long as they like, so these get a part.
            let part = if whole {
                None
            } else {
                Some(self.stream_places.take(key).await?)
            };
            Ok((part, self.places.take(key).await?))
        };
        let _places = self.in_time(places).await?;
        let StreamRequest { body, answer, .. } = request;
        let hold = whole.then_some(self.limits.answer);
        let activity = Activity::new();
        let program = self.program.display();
        // A command that is dropped is killed.
        tokio::select! {
            ended = self.run(variables, body, Output { answer, hold }, &activity) => ended,
            () = sleep(self.limits.time), if whole => {
                Err(format!("{program}: killed: still running after {:?} (--exec-timeout)", self.limits.time).into())
            }
            limit = activity.silent_for(self.limits.silence), if !whole => {
                Err(format!("{program}: killed: nothing read or written for {limit:?} (--idle-timeout)").into())
            }
        }
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

    async fn run(
        &self,
        variables: Variables,
        body: RecvStream,
        output: Output,
        activity: &Activity,
    ) -> Result<(), HandlerError> {
        let started = self
            .stderr
            .writer()
            .and_then(|stderr| Running::start(&self.program, &self.arguments, variables, stderr));
        let (running, to, from) = started.map_err(|error| self.not_started(&error))?;
        // The command is killed before its input is closed, so that it never takes a body that was
        // cut off for whole: what is declared last is dropped first.
        let mut to = Some(to);
        let mut running = running;
        let status = talk(&mut running, (&mut to, body), (from, output), activity).await?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{}: {status}", self.program.display()).into())
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
}
