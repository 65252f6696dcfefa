//! Messages and answers that are too long for memory: they are sent and written as they arrive.

use std::fs::File;
use std::io::{self, ErrorKind, Read, stdin};
use std::thread;

use bytes::Bytes;
use falco_core::mux::LONGEST_PART;
use falco_tokio::{Client, Error, RecvStream, SendStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::block_in_place;

use crate::failure::{Code, Failure};
use crate::output;

/// Bytes of one read.
const CHUNK: usize = LONGEST_PART;

/// What is read from standard input or a file, on a thread of its own.
pub(super) struct Input(Receiver<io::Result<Bytes>>);

impl Input {
    /// Reads the file, or standard input if there is none, after `first`, which was read from it.
    pub(super) fn start(first: Vec<u8>, file: Option<File>) -> io::Result<Self> {
        let (to, chunks) = channel(2);
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            if !first.is_empty() && to.blocking_send(Ok(first.into())).is_err() {
                return;
            }
            let mut from: Box<dyn Read> = match file {
                Some(file) => Box::new(file),
                None => Box::new(stdin()),
            };
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = match from.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(count) => {
                        chunk.truncate(count);
                        Ok(chunk.into())
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                if to.blocking_send(read).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(chunks))
    }

    /// A message that is known.
    pub(super) fn known(message: Vec<u8>) -> Self {
        let (to, chunks) = channel(1);
        // There is room for it.
        let _ = to.try_send(Ok(message.into()));
        Self(chunks)
    }
}

/// Sends the input as an open request, and writes the answer as it arrives.
pub(super) async fn run(client: &Client, input: Input) -> Result<(), Failure> {
    let failed = |error: &Error| super::failure(error, None);
    let (sending, receiving) = client.open("").await.map_err(|error| failed(&error))?.split();
    let mut sending = core::pin::pin!(send(sending, input));
    let mut receiving = core::pin::pin!(receive(receiving));
    tokio::select! {
        received = &mut receiving => received,
        sent = &mut sending => {
            sent?;
            receiving.await
        }
    }
}

async fn send(mut to: SendStream, mut input: Input) -> Result<(), Failure> {
    while let Some(read) = input.0.recv().await {
        let chunk =
            read.map_err(|error| Failure::new(Code::Failed, format_args!("cannot read the message: {error}")))?;
        if to.send(chunk).await.is_err() {
            // The other half says why, or the answer is complete.
            return core::future::pending().await;
        }
    }
    let _ = to.finish();
    core::future::pending().await
}

/// Writes the answer as it arrives.
pub(super) async fn receive(mut from: RecvStream) -> Result<(), Failure> {
    while let Some(bytes) = from.next().await {
        let bytes = bytes.map_err(|error| super::failure(&error, None))?;
        // The reader of standard output may be slow.
        block_in_place(|| output::put(&bytes))?;
    }
    Ok(())
}
