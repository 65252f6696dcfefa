//! The noise wire, for all new deployments: a handshake `Noise_NNpsk0_25519_AESGCM_SHA256` (Noise
//! specification, revision 34) under the shared key, then records of frames for many requests at
//! once. This page is an overview. In the repository, `docs/protocol.md` specifies the wire and
//! `SECURITY.md` says what it promises.
//!
//! # What it protects
//!
//! - **Mutual authentication.** Both sides prove for each connection that they have the key. An
//!   attacker who replays a hello receives a welcome that it cannot read.
//! - **Forward secrecy.** Each connection has its own two keys, derived from ephemeral ones.
//!   Someone who learns the shared key later cannot decrypt recorded requests and answers, only
//!   the client's settings in the hello.
//! - **Integrity of the stream.** Records are counted. A record that is dropped, repeated, moved or
//!   reflected is detected, and so is a stream that was cut off instead of closed.
//! - **Many requests at once.** They are answered in any order, and a large message is cut into
//!   parts, so that it does not block small ones.
//!
//! The wire does not separate the holders of a key: each of them can pose as the server to the
//! others. The [context](NoiseClient::new) separates services that share a key.
//!
//! # The exchange
//!
//! ```text
//! client                                                                server
//!   | 0x4E 0x01 | key id 8 | e 32 | settings 16, sealed | tag 16   ------> |  proves the key
//!   | <------                   e 32 | settings 16, sealed | tag 16        |  proves the key
//!   | record: PING                                                 ------> |  no replay
//!   | <------                                                record: PONG  |
//!   | record: MESSAGE 1, MESSAGE 2, BEGIN 3                         ------> |
//!   | <------                                           record: MESSAGE 2  |  as they finish
//!   | record: PART 3, MESSAGE 4                                    ------> |
//!   | <------                                record: MESSAGE 1, MESSAGE 4  |
//! ```
//!
//! A hello or a welcome that opens proves that its sender has the key. If a hello does not open,
//! the server shuts the connection down and sends no byte.
//!
//! Integers are big-endian. A record is `u16 n`, then `n` bytes of one Noise transport message. It
//! contains one or more frames: `kind u8, id u32, m u16` and `m` bytes of body. A record costs 18
//! bytes, a frame 7. After 2^20 records, the key of a direction is replaced by Noise's REKEY.
//!
//! | kind | name | body | from | what it does |
//! |---|---|---|---|---|
//! | 1 | MESSAGE | the message | both | a request or an answer, whole |
//! | 2 | BEGIN | total u32, first part | both | the same, in parts |
//! | 3 | PART | next part | both | continues a BEGIN |
//! | 4 | REFUSE | code | server | the end of a request without an answer |
//! | 5 | CANCEL | none | client | the answer is not wanted |
//! | 6 | PING | 8 bytes | both | asks for a PONG |
//! | 7 | PONG | the same 8 bytes | both | answers a PING |
//! | 8 | CLOSE | code | both | 0 done, 1 idle, 2 shutting down, 3 key retired, 4 protocol error |
//!
//! With the feature `streams` there are two more: END (9) is the last frame of an open body, whose
//! BEGIN has the total 0xFFFFFFFF, and CREDIT (10) says how much more of one may be sent.
//!
//! All frames of a record are checked before one of them has a visible effect. A frame that breaks
//! the rules ends the connection with CLOSE 4, and its record causes no events. A record that does
//! not authenticate ends the connection without a CLOSE.
//!
//! # A request on the client's side
//!
//! ```text
//! sealed ---> Waiting ---- first part of the answer ----> Receiving ---- last part ----> Answer
//!               |  \                                         |
//!               |   +---- whole answer ----> Answer          |
//!               +---- REFUSE, or a CLOSE with a smaller id --+----> Refused
//! ```
//!
//! # A request on the server's side
//!
//! ```text
//! MESSAGE ---------------------------> Waiting ---- seal ----> Answering ---- last part ----> done
//! BEGIN ---> Receiving ---- last ------^   |                       |
//!               |                          +---- refuse -----------+----> REFUSE
//!               +---- CANCEL, silence for a lifetime, no room ----> REFUSE, Abandoned
//! ```

mod base;
mod client;
mod client_calls;
mod client_frames;
#[cfg(feature = "streams")]
mod client_streams;
mod client_write;
mod handshake;
mod key;
mod layout;
mod link;
mod record;
mod server;
mod server_calls;
mod server_frames;
#[cfg(feature = "streams")]
mod server_streams;
mod server_write;
#[cfg(feature = "streams")]
mod streams;
mod symmetric;
mod table;
#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]
mod vectors;
mod write;
mod writer;

pub use key::{KeyRing, NoiseClient, NoiseSecret, NoiseServer, Ring, RingError};
#[cfg(feature = "alloc")]
pub(crate) use layout::HELLO_LENGTH;
#[cfg(all(feature = "alloc", feature = "streams"))]
pub(crate) use layout::LONGEST_PART;
#[cfg(feature = "testing")]
pub(crate) use layout::WELCOME_LENGTH;
#[cfg(feature = "testing")]
pub(crate) use record::set_rekey_period;
pub use table::FixedTable;
#[cfg(feature = "alloc")]
pub use table::HeapTable;

use crate::error::ConnectionError;
use crate::message::Refusal;
use crate::time::Instant;
use link::close;

/// A frame broke the rules.
#[derive(Debug)]
struct Broken;

/// Marks that replace the kind of a checked frame. A mark says which event the frame becomes.
mod mark {
    pub(super) const SKIP: u8 = 0;
    pub(super) const WHOLE: u8 = 1;
    /// A BEGIN whose first part is the whole message.
    pub(super) const WHOLE_BEGUN: u8 = 2;
    pub(super) const BEGIN: u8 = 3;
    pub(super) const PART: u8 = 4;
    pub(super) const LAST_PART: u8 = 5;
    pub(super) const CANCELLED: u8 = 6;
    pub(super) const PING: u8 = 7;
    pub(super) const PONG: u8 = 8;
    pub(super) const CLOSING: u8 = 9;
    pub(super) const ENDED: u8 = 10;
    pub(super) const REFUSED: u8 = 11;
    pub(super) const BUSY: u8 = 12;
    pub(super) const TOO_LARGE: u8 = 13;
    pub(super) const ABANDONED_BUSY: u8 = 14;
    pub(super) const ABANDONED_CANCELLED: u8 = 15;
    /// A BEGIN of an open body.
    #[cfg(feature = "streams")]
    pub(super) const OPENED: u8 = 16;
    #[cfg(feature = "streams")]
    pub(super) const CREDITED: u8 = 17;
    /// A REFUSE that says *not processed*, although a handler has received the request.
    #[cfg(feature = "streams")]
    pub(super) const REFUSED_AFTER_ALL: u8 = 18;
}

/// Codes of REFUSE.
mod refusal {
    pub(super) const BUSY: u8 = 1;
    pub(super) const TOO_LARGE: u8 = 2;
    pub(super) const FAILED: u8 = 3;
    pub(super) const CANCELLED: u8 = 4;
    pub(super) const NOT_PROCESSED: u8 = 5;
    pub(super) const ANSWER_TOO_LARGE: u8 = 6;
}

const fn refusal_code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Busy => refusal::BUSY,
        Refusal::TooLarge => refusal::TOO_LARGE,
        Refusal::Failed => refusal::FAILED,
        Refusal::Cancelled => refusal::CANCELLED,
        Refusal::NotProcessed => refusal::NOT_PROCESSED,
        Refusal::AnswerTooLarge => refusal::ANSWER_TOO_LARGE,
    }
}

/// An unknown code means a failed handler.
const fn refusal_of(code: u8) -> Refusal {
    match code {
        refusal::BUSY => Refusal::Busy,
        refusal::TOO_LARGE => Refusal::TooLarge,
        refusal::CANCELLED => Refusal::Cancelled,
        refusal::NOT_PROCESSED => Refusal::NotProcessed,
        refusal::ANSWER_TOO_LARGE => Refusal::AnswerTooLarge,
        _ => Refusal::Failed,
    }
}

const fn refusal_of_mark(marked: u8) -> u8 {
    match marked {
        mark::TOO_LARGE => refusal::TOO_LARGE,
        mark::ABANDONED_CANCELLED => refusal::CANCELLED,
        _ => refusal::BUSY,
    }
}

/// The error for a CLOSE that ends the connection at once.
const fn ended(code: u8) -> ConnectionError {
    match code {
        close::IDLE => ConnectionError::PeerExpired,
        _ => ConnectionError::PeerReportsProtocolError,
    }
}

/// Milliseconds modulo 2^32, as in `RequestSlot::touched`.
fn millis(now: Instant) -> u32 {
    let [.., a, b, c, d] = now.as_millis().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}
