//! The classic wire, which the published falcotcp 0.1.x peers speak. Use it to talk to those peers,
//! and for nothing else.
//!
//! # What it protects, and what it does not
//!
//! A server knows that its client has the key, or replays a hello of somebody who had it. Bodies
//! are encrypted, and a modified body is detected. The design of the wire leaves these gaps:
//!
//! - The client has **no proof of the server** until it decrypts an answer: anybody can send 0xFF.
//! - There is **no forward secrecy**: the shared key itself encrypts, and anyone who learns it can
//!   read all recorded traffic.
//! - There is **no protection from replay after a restart**, nor from replay of a message whose
//!   nonce the [replay cache](crate::ReplayCache) no longer has.
//! - Messages can be **deleted and reordered** in transit, and an answer can be moved to another
//!   request.
//! - Anybody in between can **forge pings** and **the end** of the stream.
//!
//! # The exchange
//!
//! ```text
//! client                                                        server
//!   | 0x00 | nonce 12 | 128 random bytes, sealed | tag 16  ------> |  proves the key
//!   | <------------------------------------------------------ 0xFF |  else shut down, no byte sent
//!   |                                                              |
//!   | 0x01 | u64 n | nonce 12 | request, sealed | tag 16   ------> |  n = 28 + body
//!   | <------- u64 n | nonce 12 | answer, sealed | tag 16          |  in the order of the requests
//!   |                                                              |
//!   | 0x02                                                 ------> |  a ping; no answer
//! ```
//!
//! Integers are big-endian. There is no associated data. The first nonce of a connection is 12
//! random bytes, and each seal adds 1 to it. A [`ClassicKey`](crate::ClassicKey) seals 2^32 times,
//! then refuses.
//!
//! # What each side does with received bytes
//!
//! | server is | hello | message | ping | anything else |
//! |---|---|---|---|---|
//! | awaiting the hello | `Established` | `UnknownWire` | `UnknownWire` | `UnknownWire` |
//! | established | `UnknownType` | `Request` | `Ping` | `UnknownType` |
//! | at its in-flight limit | as established | `AnswerFirst` | `Ping` | as established |
//! | draining | `AnswerFirst` | `AnswerFirst` | `AnswerFirst` | `AnswerFirst` |
//!
//! The table is for a hello or message that decrypts and was not seen before. A hello that does not
//! decrypt is `Unauthenticated`, and such a message `Tampered`. One that was seen before is
//! `Replayed`. A message with n under 28 or over the limit is `FrameLength`.
//!
//! | client is | 0xFF | answer | eight zeros | anything else |
//! |---|---|---|---|---|
//! | awaiting the accept | `Established` | `Refused` | `Refused` | `Refused` |
//! | waiting for answers | by its length | `Answer` | `Refused` for a request | `FrameLength` |
//! | established, idle | by its length | `UnexpectedAnswer` | skipped | `FrameLength` |
//!
//! An answer that does not open is `Tampered`; one that was seen before, or that this side has
//! sealed itself, is `Replayed`. Eight zeros refuse the oldest request; the next answer is then
//! `AnswersOutOfStep`.
//!
//! Eight zeros are a length of 0. The published Python server sends it for a request that it could
//! not serve, and also without a request when a connection was idle for some seconds. While a
//! request is in flight, the client cannot distinguish the two, and could match the next answer to
//! the wrong request. So the connection ends.
//!
//! # Time
//!
//! Nothing moves the deadline of the handshake. After it, a server's idle timeout (`lifetime`)
//! restarts with each ping that arrives and with each answer that it seals. It is paused while an
//! answer is due. A client's idle timeout restarts with each request or ping that it seals and with
//! each answer that it opens. It runs while the client waits for an answer: on this wire there is
//! no other way to detect that the server is gone. A frame that arrived in part does not count. So
//! an answer has to arrive within a lifetime: on a slow link it must not be too large.
//!
//! # Replay
//!
//! The key's [`ReplayCache`](crate::ReplayCache) remembers the nonce of each hello and message that
//! was opened or sealed, and a text with a remembered nonce is refused. So texts that are replayed,
//! moved to another connection or reflected are detected, among the connections of one
//! [`ClassicKey`](crate::ClassicKey) and as far back as the cache reaches. Nonces of texts that do
//! not open are not remembered, so that an unauthenticated client cannot evict others.

mod client;
mod layout;
pub(crate) mod sealing;
mod server;

use crate::error::{OutputTooSmall, SealError};

pub(crate) use layout::HELLO_LENGTH;
#[cfg(feature = "testing")]
pub(crate) use layout::answer_size;
pub(crate) use layout::request_size;

/// Writes pending output, then seals one message after the other into `out`. Returns an error only
/// if nothing was written before it, so that no sealed byte is lost.
fn seal_each<'m, S, M: 'm>(
    session: &mut S,
    messages: impl IntoIterator<Item = (&'m mut M, &'m [u8])>,
    out: &mut [u8],
    mut transmit: impl FnMut(&mut S, &mut [u8]) -> Result<usize, OutputTooSmall>,
    mut seal: impl FnMut(&mut S, &mut M, &[u8], &mut [u8]) -> Result<Option<usize>, SealError>,
) -> Result<usize, SealError> {
    let mut written = 0;
    loop {
        match transmit(session, out.get_mut(written..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(sent) => written += sent,
            Err(_) if written > 0 => return Ok(written),
            Err(misuse) => return Err(misuse.into()),
        }
    }
    for (message, body) in messages {
        match seal(session, message, body, out.get_mut(written..).unwrap_or_default()) {
            Ok(sealed) => written += sealed.unwrap_or(0),
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
