//! A connection of a client, of either kind: shared by threads on the noise wire, used by one after
//! another elsewhere.

use core::time::Duration;
use std::sync::Arc;

use falco_core::keys::{ClientKeys, Entropy};
use falco_core::mux::Attempts;
use falco_core::{Fate, Settings};

use super::limit::Limit;
use super::link::{Link, Request};
use super::outcome::Outcome;
use super::reader::Reader;
use super::serial::Serial;
use super::state::Past;
use super::turn::{Turn, Waited};
use crate::clock::Clock;
use crate::error::Error;
use crate::line::handles;
use crate::stream::BoxedStream;

pub(super) enum Connection {
    /// Requests go at once, each is answered as it comes.
    Shared(Link),
    /// Requests go one after another.
    Serial {
        turn: Turn,
        /// Whether the wire answers pings.
        answered: bool,
    },
}

impl Connection {
    /// Shakes hands over a stream that is connected. The reader, where there is one, is to be run
    /// on a thread of its own.
    pub(super) fn open(
        stream: BoxedStream,
        key: Arc<ClientKeys>,
        settings: &Settings,
        entropy: &Entropy,
    ) -> Result<(Self, Option<Reader>), Error> {
        let clock = Clock::new();
        let one_by_one = |serial, answered| {
            let turn = Turn::new(Box::new(serial));
            (Self::Serial { turn, answered }, None)
        };
        if !key.speaks_noise() {
            return Ok(one_by_one(Serial::open(stream, key, settings, entropy, clock)?, false));
        }
        let io = |error| Error::io("connecting", error, Fate::NotProcessed);
        let ([reader, writer, ender], splits) = handles(stream).map_err(io)?;
        let serial = Serial::open(reader, key, settings, entropy, clock)?;
        if !splits {
            return Ok(one_by_one(serial, true));
        }
        let (state, pipe) = serial.into_parts();
        let (link, reader) = Link::new(state, pipe, [writer, ender], clock).map_err(io)?;
        Ok((Self::Shared(link), Some(reader)))
    }

    pub(super) fn request(&self, body: &[u8], attempts: Attempts, limit: Option<Limit>) -> Outcome<Vec<u8>> {
        match self {
            Self::Shared(link) => link.call(Request::Body(body), attempts, limit, |answer, _| answer),
            Self::Serial { turn, .. } => {
                Self::in_turn(turn, attempts, limit, |serial| serial.request(body, attempts, limit))
            }
        }
    }

    pub(super) fn ping(&self, attempts: Attempts, limit: Option<Limit>) -> Outcome<Option<Duration>> {
        match self {
            Self::Shared(link) => link.call(Request::Ping, attempts, limit, |_, took| Some(took)),
            Self::Serial { turn, answered } => {
                Self::in_turn(turn, attempts, limit, |serial| serial.ping(*answered, attempts, limit))
            }
        }
    }

    fn in_turn<T>(
        turn: &Turn,
        attempts: Attempts,
        limit: Option<Limit>,
        call: impl FnOnce(&mut Serial) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut hand = match turn.take(limit) {
            Waited::Yours(hand) => hand,
            Waited::Gone => return Outcome::Retry(attempts, None),
            Waited::TooLong(limit) => {
                return Outcome::Failed(limit.error("waiting for the connection", Fate::NotProcessed));
            }
        };
        let Some(serial) = hand.serial() else {
            return Outcome::Retry(attempts, None);
        };
        if let Err(ended) = serial.catch_up() {
            serial.abort();
            return Outcome::Retry(attempts, Some(ended));
        }
        let outcome = call(serial);
        let is_in_order = match &outcome {
            Outcome::Done(_) => true,
            Outcome::Failed(error) | Outcome::Retry(_, Some(error)) => matches!(error, Error::Request(_)),
            Outcome::Retry(_, None) => false,
        };
        // After any other failure it is not known how far each side has come.
        if is_in_order {
            hand.keep();
        } else {
            serial.abort();
        }
        outcome
    }

    /// Whether a request may still go on it, as far as can be told without looking.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Shared(link) => link.is_open(),
            Self::Serial { turn, .. } => turn.past().is_none(),
        }
    }

    /// What it has seen, once it has ended.
    pub(super) fn past(&self) -> Past {
        match self {
            Self::Shared(link) => link.past(),
            Self::Serial { turn, .. } => turn.past().unwrap_or_default(),
        }
    }

    /// Takes nothing new; what has begun still gets its end, and nobody waits for that.
    pub(super) fn retire(&self) {
        match self {
            Self::Shared(link) => link.retire(),
            // It ends when nobody uses it any more.
            Self::Serial { .. } => {}
        }
    }

    /// Ends in good order, once all that was submitted has completed.
    pub(super) fn close(&self) {
        match self {
            Self::Shared(link) => link.close(),
            Self::Serial { turn, .. } => {
                if let Waited::Yours(hand) = turn.take_last()
                    && let Some(mut serial) = hand.into_serial()
                {
                    serial.close();
                }
            }
        }
    }

    /// Ends at once, if no thread is using it.
    pub(super) fn abandon(&self) {
        if let Self::Shared(link) = self {
            link.abort();
        }
    }
}
