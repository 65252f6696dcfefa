//! A command as the handler of an open request: its standard input is the body of the request, its
//! standard output that of the answer, both as they come.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;

use falco_tokio::{HandlerError, RecvStream, SendStream, StreamRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep};

use super::Exec;
use super::running::Running;

impl Exec {
    /// Runs the command for an open request. If this future is dropped, the command is killed.
    pub(crate) async fn stream(&self, request: StreamRequest) -> Result<(), HandlerError> {
        let variables = self.variables(request.peer(), request.key_id(), request.key_label());
        let _place = self.places.acquire().await?;
        let StreamRequest { body, answer, .. } = request;
        let started = self
            .stderr
            .writer()
            .and_then(|stderr| Running::start(&self.program, &self.arguments, variables, stderr));
        let (mut running, to, from) = started.map_err(|error| self.not_started(&error))?;
        let activity = Activity::new();
        let limit = self.limits.time;
        tokio::select! {
            ended = talk(&mut running, (to, body), (from, answer), &activity) => ended?,
            () = activity.silent_for(limit) => {
                let program = self.program.display();
                return Err(format!("{program}: nothing read or written for {limit:?} (--exec-timeout), and was killed").into());
            }
        }
        Ok(())
    }
}

/// Hands bytes on in both directions until the command has ended.
async fn talk(
    running: &mut Running,
    (to, body): (ChildStdin, RecvStream),
    (from, mut answer): (ChildStdout, SendStream),
    activity: &Activity,
) -> Result<(), HandlerError> {
    {
        let mut feeding = core::pin::pin!(feed(to, body, activity));
        let mut reading = core::pin::pin!(read(from, &mut answer, activity));
        tokio::select! {
            read = &mut reading => read?,
            fed = &mut feeding => {
                fed?;
                reading.await?;
            }
        }
    }
    running.exited().await?;
    let status = running.end(true).await?;
    if !status.success() {
        return Err(format!("the command has failed: {status}").into());
    }
    Ok(answer.finish()?)
}

/// Writes the body and closes the pipe. A command need not read it.
async fn feed(mut to: ChildStdin, mut body: RecvStream, activity: &Activity) -> Result<(), HandlerError> {
    while let Some(bytes) = body.next().await {
        match to.write_all(&bytes?).await {
            Ok(()) => activity.note(),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn read(mut from: ChildStdout, answer: &mut SendStream, activity: &Activity) -> Result<(), HandlerError> {
    loop {
        let mut chunk = Vec::with_capacity(64 << 10);
        if from.read_buf(&mut chunk).await? == 0 {
            return Ok(());
        }
        activity.note();
        answer.send(chunk).await?;
        activity.note();
    }
}

/// When bytes were last read or written.
struct Activity {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn note(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until nothing has been read or written for this long.
    async fn silent_for(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let silent = self.began.elapsed().saturating_sub(last);
            match limit.checked_sub(silent).filter(|left| !left.is_zero()) {
                Some(left) => sleep(left).await,
                None => return,
            }
        }
    }
}
