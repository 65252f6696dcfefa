//! A command as the handler of an open request: its standard input is the body of the request, its
//! standard output that of the answer, both as they come.

use core::future::pending;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io;

use bytes::BytesMut;
use falco_tokio::{HandlerError, RecvStream, SendStream, StreamRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep};

use super::running::Running;
use super::{Exec, GRACE, ROOM};

impl Exec {
    /// Runs the command for an open request. If this future is dropped, the command is killed.
    pub(crate) async fn stream(&self, request: StreamRequest) -> Result<(), HandlerError> {
        let key = request.key_id();
        let variables = self.variables(request.peer(), key, request.key_label());
        // Clients keep such commands as long as they like, so they get a part of the places.
        let places = async { Ok((self.stream_places.take(key).await?, self.places.take(key).await?)) };
        let _places = self.in_time(places).await?;
        let StreamRequest { body, answer, .. } = request;
        let started = self
            .stderr
            .writer()
            .and_then(|stderr| Running::start(&self.program, &self.arguments, variables, stderr));
        let (running, to, from) = started.map_err(|error| self.not_started(&error))?;
        // The command is killed before its input is closed, so that it never takes a body that was
        // cut off for whole: what is declared last is dropped first.
        let mut to = Some(to);
        let mut running = running;
        let activity = Activity::new();
        tokio::select! {
            ended = talk(&mut running, (&mut to, body), (from, answer), &activity) => ended,
            limit = activity.silent_for(self.limits.silence) => {
                let program = self.program.display();
                Err(format!("{program}: killed: nothing read or written for {limit:?} (--idle-timeout)").into())
            }
        }
    }
}

/// Hands bytes on in both directions until the command has ended, and at most [`GRACE`] longer if
/// processes that it has left hold its standard output.
async fn talk(
    running: &mut Running,
    (to, body): (&mut Option<ChildStdin>, RecvStream),
    (from, mut answer): (ChildStdout, SendStream),
    activity: &Activity,
) -> Result<(), HandlerError> {
    {
        let talking = async {
            let mut feeding = core::pin::pin!(feed(to, body, activity));
            let mut reading = core::pin::pin!(read(from, &mut answer, activity));
            tokio::select! {
                read = &mut reading => read,
                fed = &mut feeding => {
                    fed?;
                    reading.await
                }
            }
        };
        let mut talking = core::pin::pin!(talking);
        let has_exited = tokio::select! {
            talked = &mut talking => {
                talked?;
                false
            }
            exited = running.exited() => {
                exited?;
                true
            }
        };
        if has_exited {
            // What it has written is sent, however slowly the client reads.
            tokio::select! {
                talked = talking => talked?,
                () = activity.nothing_to_read_for(GRACE) => {}
            }
        } else {
            running.exited().await?;
        }
    }
    let status = running.end(true).await?;
    if !status.success() {
        return Err(format!("the command has failed: {status}").into());
    }
    Ok(answer.finish()?)
}

/// Writes the body and closes the pipe. A command need not read it.
async fn feed(place: &mut Option<ChildStdin>, mut body: RecvStream, activity: &Activity) -> Result<(), HandlerError> {
    while let (Some(to), Some(bytes)) = (place.as_mut(), body.next().await) {
        match to.write_all(&bytes?).await {
            Ok(()) => activity.note(),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    *place = None;
    Ok(())
}

async fn read(mut from: ChildStdout, answer: &mut SendStream, activity: &Activity) -> Result<(), HandlerError> {
    let mut buffer = BytesMut::new();
    loop {
        // What is sent shares its memory with what is read next, so that a command which writes
        // single bytes takes little.
        if buffer.capacity() < ROOM {
            buffer.reserve(64 << 10);
        }
        activity.reads.store(true, Ordering::Relaxed);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        activity.reads.store(false, Ordering::Relaxed);
        activity.note();
        answer.send(buffer.split().freeze()).await?;
        activity.note();
    }
}

/// When bytes were last read or written.
struct Activity {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// The output of the command is being read: nothing of it waits to be sent.
    reads: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            reads: AtomicBool::new(false),
        }
    }

    fn note(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until the output of the command was being read for this long and nothing came.
    async fn nothing_to_read_for(&self, limit: Duration) {
        loop {
            let before = self.last.load(Ordering::Relaxed);
            let waited = self.reads.load(Ordering::Relaxed);
            sleep(limit).await;
            let unchanged = self.last.load(Ordering::Relaxed) == before;
            if waited && unchanged && self.reads.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Waits until nothing has been read or written for this long, and returns the limit. Without
    /// one it waits forever.
    async fn silent_for(&self, limit: Option<Duration>) -> Duration {
        let Some(limit) = limit else {
            return pending().await;
        };
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let silent = self.began.elapsed().saturating_sub(last);
            match limit.checked_sub(silent).filter(|left| !left.is_zero()) {
                Some(left) => sleep(left).await,
                None => return limit,
            }
        }
    }
}
