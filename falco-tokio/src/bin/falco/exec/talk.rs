//! Moves bytes between a command and the bodies of its request, as they arrive. The standard input
//! is the body of the request, and the standard output is that of the answer.

use core::pin::pin;
use core::sync::atomic::Ordering;
use std::io;
use std::process::ExitStatus;

use bytes::BytesMut;
use falco_tokio::{HandlerError, RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

use super::activity::Activity;
use super::running::Running;
use super::{GRACE, ROOM};

/// The answer. `hold` is set if the request arrived as a whole. Up to so many bytes of the answer
/// are then held back until the command has succeeded. If it fails before it has written more, the
/// client receives no part of the answer, and learns only that the command failed.
pub(super) struct Output {
    pub(super) answer: SendStream,
    pub(super) hold: Option<u32>,
}

/// Passes bytes on in both directions until the command has ended, and at most [`GRACE`] longer if
/// processes that it has started still hold its streams. All that the command has written is sent,
/// however slowly the client reads. If the command has succeeded, the answer is finished.
pub(super) async fn talk(
    running: &mut Running,
    (to, body): (&mut Option<ChildStdin>, RecvStream),
    (from, mut output): (ChildStdout, Output),
    activity: &Activity,
) -> Result<ExitStatus, HandlerError> {
    let is_whole = output.hold.is_some();
    let mut rest = BytesMut::new();
    let (mut is_fed, mut is_read, mut has_exited) = (false, false, false);
    {
        let mut feeding = pin!(feed(to, body, activity));
        let mut reading = pin!(read(from, &mut output, &mut rest, activity));
        // If the client is still sending the request, the rest of it is not needed.
        while !(has_exited && is_read && (is_fed || !is_whole)) {
            tokio::select! {
                fed = &mut feeding, if !is_fed => {
                    fed?;
                    is_fed = true;
                }
                read = &mut reading, if !is_read => {
                    read?;
                    is_read = true;
                }
                exited = running.exited(), if !has_exited => {
                    exited?;
                    has_exited = true;
                }
                () = activity.nothing_to_read_for(GRACE, is_whole), if has_exited => break,
            }
        }
    }
    let is_held = !is_read || (is_whole && !is_fed);
    let status = running.end(is_held || !is_whole).await?;
    // Only the exit status of the command counts, even if a process that it has started still held
    // its streams.
    if status.success() {
        output.answer.finish_with(rest).await?;
    }
    Ok(status)
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

/// Reads what the command writes and sends it, except for the bytes in `rest`, which are held back.
async fn read(
    mut from: ChildStdout,
    output: &mut Output,
    rest: &mut BytesMut,
    activity: &Activity,
) -> Result<(), HandlerError> {
    loop {
        // Bytes that are sent share their memory with those that are read next. So a command that
        // writes single bytes takes little memory.
        if rest.capacity() - rest.len() < ROOM {
            rest.reserve(64 << 10);
        }
        activity.reads.store(true, Ordering::Relaxed);
        if from.read_buf(rest).await? == 0 {
            return Ok(());
        }
        activity.reads.store(false, Ordering::Relaxed);
        activity.note();
        let hold = output.hold.unwrap_or(0);
        if u32::try_from(rest.len()).is_ok_and(|length| length <= hold) {
            continue;
        }
        output.hold = output.hold.and(Some(0));
        output.answer.send(rest.split().freeze()).await?;
        activity.note();
    }
}
