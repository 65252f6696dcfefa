//! The classic wire: what the published falcotcp 0.1.x peers speak. Turn it on to talk to those
//! peers, and for nothing else.
//!
//! # What it gives, and what it cannot
//!
//! A server knows that its client has the key, or once had a recording of one who had. Bodies are
//! encrypted, and a changed body is noticed. What the wire cannot give, no code can:
//!
//! - it does **not prove the server** to the client: whoever answers 0xFF is taken for it until an
//!   answer has to decrypt;
//! - it has **no forward secrecy**: the shared key itself encrypts, and whoever learns it reads all
//!   recorded traffic;
//! - it has **no protection from replay after a restart**, or of what the
//!   [replay cache](crate::ReplayCache) has forgotten;
//! - messages can be **deleted and reordered** on their way, and an answer moved to another
//!   request;
//! - **pings are forged** by anyone on the way, and so is **the end** of the stream.
//!
//! # The exchange
//!
//! ```text
//! client                                                        server
//!   | 0x00 | nonce 12 | 128 random bytes, sealed | tag 16  ------> |  opens: the client has the key
//!   | <------------------------------------------------------ 0xFF |  does not open: shut down, not a byte
//!   |                                                              |
//!   | 0x01 | u64 n | nonce 12 | request, sealed | tag 16   ------> |  n = 28 + body
//!   | <------- u64 n | nonce 12 | answer, sealed | tag 16          |  in the order of the requests
//!   |                                                              |
//!   | 0x02                                                 ------> |  a ping; no answer
//! ```
//!
//! Integers are big-endian. There is no associated data. Nonces are 12 bytes drawn at random for
//! each connection and counted up by one for each seal. A [`ClassicKey`] seals 2^32 times, then
//! refuses.
//!
//! # What a side does with what comes
//!
//! | server is | hello | message | ping | anything else |
//! |---|---|---|---|---|
//! | awaiting the hello | opens: `Established`, owes 0xFF; does not: `Unauthenticated`; seen before: `Replayed` | `UnknownWire` | `UnknownWire` | `UnknownWire` |
//! | established | `UnknownType` | opens: `Request`; does not: `Tampered`; seen before: `Replayed`; n under 28 or over the limit: `FrameLength` | `Ping` | `UnknownType` |
//! | at its limit in flight | as established | `AnswerFirst` | `Ping` | as established |
//! | draining | `AnswerFirst` | `AnswerFirst` | `AnswerFirst` | `AnswerFirst` |
//!
//! | client is | 0xFF | answer | eight zeros | anything else |
//! |---|---|---|---|---|
//! | awaiting the accept | `Established` | `Refused` | `Refused` | `Refused` |
//! | waiting for answers | by its length | opens: `Answer`; does not: `Tampered`; seen before, or its own: `Replayed` | `Refused` for the oldest request, then `AnswersOutOfStep` | `FrameLength` |
//! | waiting for nothing | by its length | `UnexpectedAnswer` | skipped | `FrameLength` |
//!
//! Eight zeros are a length of 0, which the published Python server sends for a request that it
//! could not serve, and also unasked when a connection has been idle for some seconds. With a
//! request under way the two look alike; whichever it was, going on could give one request's answer
//! to the next. So it ends the connection.
//!
//! # Time
//!
//! The handshake has its deadline, which nothing moves. After it, a server's lifetime counts from
//! the last whole authentic message, the last ping and the last answer that it sealed, and stands
//! still while it owes an answer. A client's counts from the last request or ping that it sealed
//! and from the last answer that it opened, and runs while it waits: on this wire nothing else
//! would tell it that its server is gone. An unfinished frame counts for nothing.
//!
//! # Replay
//!
//! Every nonce that opened a hello or a message, and every nonce that sealed one, is remembered in
//! the key's [`ReplayCache`](crate::ReplayCache), and refused when it comes again: that stops replay, moving
//! a message to another connection, and reflection, among the connections of one [`ClassicKey`] and
//! within the reach of its replay cache. Nonces of texts that do not open are not remembered, so a stranger
//! cannot push real ones out.

mod client;
mod layout;
mod sealing;
mod server;

use crate::error::{OutputTooSmall, SealError};

pub use layout::{ANSWER_OVERHEAD, HELLO_LENGTH, REQUEST_OVERHEAD, answer_size, request_size};
pub use sealing::ClassicKey;

/// Seals one message after the other into `out`, what is owed before them. Trouble is told only
/// where nothing was written before it: nothing that was sealed may be lost.
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
