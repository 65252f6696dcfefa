//! The pieces in which a client receives the bytes of a target, and why there are none.

use core::fmt;
use std::io;

use bytes::Bytes;

use super::pump::HEADER;
use super::{CONNECTED, REFUSED};
use crate::stream::RecvStream;

/// The longest reason that is read.
const LONGEST_REASON: usize = 1 << 10;

/// The pieces of an answer.
pub(super) struct Pieces<'r> {
    from: &'r mut RecvStream,
    /// Bytes that have arrived and are not returned.
    rest: Bytes,
    /// Bytes of the current piece that are not returned.
    left: usize,
}

impl<'r> Pieces<'r> {
    pub(super) fn new(from: &'r mut RecvStream) -> Self {
        Self {
            from,
            rest: Bytes::new(),
            left: 0,
        }
    }

    /// Reads until `count` bytes are there.
    async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.rest.len() < count {
            let Some(bytes) = self.from.next().await else {
                return Err(cut_off());
            };
            let bytes = bytes.map_err(io::Error::other)?;
            if self.rest.is_empty() {
                self.rest = bytes;
            } else {
                self.rest = Bytes::from([&self.rest[..], &bytes[..]].concat());
            }
        }
        Ok(())
    }

    /// Waits until the server has connected to the target.
    pub(super) async fn connected(&mut self) -> io::Result<()> {
        self.fill(1).await?;
        let status = self.rest.split_to(1);
        match status.first() {
            Some(&CONNECTED) => return Ok(()),
            Some(&REFUSED) => {}
            _ => {
                let text = "this server carries no connections";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        let mut reason = self.rest.to_vec();
        while reason.len() < LONGEST_REASON
            && let Some(Ok(bytes)) = self.from.next().await
        {
            reason.extend_from_slice(&bytes);
        }
        reason.truncate(LONGEST_REASON);
        let reason = Reason(String::from_utf8_lossy(&reason).into_owned());
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, reason))
    }

    /// The next bytes of the target; `None` where they end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            self.fill(HEADER).await?;
            let header = self.rest.split_to(HEADER);
            let length = header.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
            self.left = usize::try_from(length).unwrap_or(usize::MAX);
            if self.left == 0 {
                return Ok(None);
            }
        }
        self.fill(1).await?;
        let bytes = self.rest.split_to(self.rest.len().min(self.left));
        self.left -= bytes.len();
        Ok(Some(bytes))
    }

    /// Waits until the answer has ended.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        match self.from.next().await {
            None if self.rest.is_empty() => Ok(()),
            Some(Err(error)) => Err(io::Error::other(error)),
            None | Some(Ok(_)) => Err(cut_off()),
        }
    }
}

/// The server has reported that the connection to its target has failed.
fn cut_off() -> io::Error {
    let text = "the server has lost its connection to the target";
    io::Error::new(io::ErrorKind::ConnectionReset, text)
}

/// Why a server has not connected to a target.
#[derive(Debug)]
struct Reason(String);

impl fmt::Display for Reason {
    /// The text of the server, without control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused: {}", self.0.escape_debug())
    }
}

impl core::error::Error for Reason {}
