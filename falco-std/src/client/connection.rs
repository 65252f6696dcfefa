//! A connection of a client, of either kind: shared by threads on the noise wire, used by one after another elsewhere.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::keys::ClientKeys;
use falco_core::{ConnectionError, Fate, Settings};

use super::link::{Link, Request};
use super::serial::Serial;
use super::state::End;
use crate::clock::Clock;
use crate::error::Error;
use crate::line::handles;
use crate::stream::BoxedStream;

pub(super) enum Connection {
    /// Requests go at once, each is answered as it comes.
    Shared(Link),
    /// Requests go one after another. None once the connection has ended.
    Serial {
        serial: Mutex<Option<Box<Serial>>>,
        /// Whether the wire answers pings.
        answered: bool,
    },
}

/// What came of a request that was to go on a connection.
pub(super) enum Outcome<T> {
    Done(T),
    Failed(Error),
    /// The connection has ended or is ending, and nothing of the request was sent: it may go on another. With the reason, if there is one.
    NotBegun(Option<Error>),
}

impl<T> Outcome<T> {
    /// What `end` comes to; `done` makes something of an answer.
    pub(super) fn of(end: End, done: impl FnOnce(Vec<u8>) -> T) -> Self {
        match end {
            End::Answer(body) => Self::Done(done(body)),
            End::Failed(error) => Self::Failed(error),
            End::NotBegun => Self::NotBegun(None),
        }
    }
}

impl Connection {
    /// Shakes hands over a stream that is connected.
    pub(super) fn open(stream: BoxedStream, key: Arc<ClientKeys>, settings: &Settings) -> Result<Self, Error> {
        let clock = Clock::new();
        if key.as_noise().is_none() {
            let serial = Mutex::new(Some(Box::new(Serial::open(stream, key, settings, clock)?)));
            return Ok(Self::Serial {
                serial,
                answered: false,
            });
        }
        let io = |error| Error::io("connecting", error, Fate::NotProcessed);
        let ([reader, writer, ender], splits) = handles(stream).map_err(io)?;
        let serial = Serial::open(reader, key, settings, clock)?;
        if splits {
            let (state, pipe) = serial.into_parts();
            return Ok(Self::Shared(
                Link::start(state, pipe, [writer, ender], clock).map_err(io)?,
            ));
        }
        Ok(Self::Serial {
            serial: Mutex::new(Some(Box::new(serial))),
            answered: true,
        })
    }

    pub(super) fn request(&self, body: &[u8], limit: Option<Duration>) -> Outcome<Vec<u8>> {
        match self {
            Self::Shared(link) => link.call(Request::Body(body), limit, |answer, _| answer),
            Self::Serial { serial, .. } => Self::on_serial(serial, |serial| serial.request(body, limit)),
        }
    }

    pub(super) fn ping(&self, limit: Option<Duration>) -> Outcome<Option<Duration>> {
        match self {
            Self::Shared(link) => link.call(Request::Ping, limit, |_, took| Some(took)),
            Self::Serial { serial, answered } => Self::on_serial(serial, |serial| serial.ping(*answered)),
        }
    }

    fn on_serial<T>(place: &Mutex<Option<Box<Serial>>>, call: impl FnOnce(&mut Serial) -> Outcome<T>) -> Outcome<T> {
        let mut place = lock(place);
        // In a panic the connection is gone from its place: it is not known how far it has come.
        let Some(mut serial) = place.take() else {
            return Outcome::NotBegun(None);
        };
        if let Err(ended) = serial.catch_up() {
            serial.abort();
            return Outcome::NotBegun(Some(ended));
        }
        let outcome = call(&mut serial);
        // After any other failure it is not known how far each side has come.
        if matches!(outcome, Outcome::Done(_) | Outcome::Failed(Error::Request(_))) {
            *place = Some(serial);
        } else {
            serial.abort();
        }
        outcome
    }

    /// Whether a request may still go on it, as far as can be told without looking.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Shared(link) => link.is_open(),
            // Whoever has it at work is not disturbed.
            Self::Serial { serial, .. } => serial.try_lock().map_or(true, |place| place.is_some()),
        }
    }

    /// Ends in good order.
    pub(super) fn close(&self) {
        match self {
            Self::Shared(link) => link.close(),
            Self::Serial { serial, .. } => {
                if let Some(mut serial) = lock(serial).take() {
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

fn lock(place: &Mutex<Option<Box<Serial>>>) -> MutexGuard<'_, Option<Box<Serial>>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a caller is told of a connection that is over and cannot be made anew.
pub(super) fn over(reason: Option<Error>) -> Error {
    reason.unwrap_or(Error::Connection {
        end: ConnectionError::Closed,
        fate: Fate::NotProcessed,
    })
}
