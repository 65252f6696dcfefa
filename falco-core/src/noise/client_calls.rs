//! The calls of a client that need no key: requests, pings, cancellation, and what it knows of the
//! server.

use super::client::ClientSession;
use super::link::{Link, OwnClose};
use super::table::{Cancel, RequestTable, State};
use super::write::check_length;
use crate::crypto::NoiseCrypto;
use crate::error::{ConnectionError, Error, Misuse};
use crate::message::{Fate, PingId, RequestId};
use crate::outgoing::OutgoingRequest;
use crate::session;

impl<T: RequestTable, C: NoiseCrypto> session::Client for ClientSession<T, C> {
    fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error> {
        self.open_for_new()?;
        check_length(length, self.base.send_limit())?;
        Ok(OutgoingRequest::new(self.base.serial, length))
    }

    #[cfg(feature = "streams")]
    fn open_request(&mut self) -> Result<OutgoingRequest, Error> {
        self.open_request_now()
    }

    #[cfg(feature = "streams")]
    fn peer_max_open(&self) -> u16 {
        self.requests.streams.max_open
    }

    fn ping(&mut self) -> Result<PingId, Error> {
        if let Some(end) = self.base.life.end() {
            return Err(end.into());
        }
        // During the handshake: the first PING, which follows the welcome.
        Ok(PingId(self.base.phase.link_mut().map_or(1, Link::queue_ping)))
    }

    fn cancel(&mut self, id: RequestId) -> Result<(), Error> {
        if let Some(end) = self.base.life.end() {
            return Err(end.into());
        }
        if !id.is_of(self.base.serial) {
            return Err(Misuse::Foreign.into());
        }
        let slot = super::table::find(&mut self.requests.table, id.number());
        if let Some(slot) = slot.filter(|slot| slot.cancel == Cancel::No && slot.state != State::Lost) {
            slot.cancel = Cancel::Pending;
            self.requests.cancels += 1;
            #[cfg(feature = "streams")]
            self.requests.streams.forget_credit(slot);
        }
        Ok(())
    }

    fn answers_pings(&self) -> bool {
        true
    }

    fn is_confirmed(&self) -> bool {
        self.base.phase.link().is_some_and(Link::has_opened)
    }

    fn has_closed(&self) -> bool {
        let link = self.base.phase.link();
        link.is_some_and(|link| link.own_close != OwnClose::None)
    }

    fn fate(&self) -> Fate {
        let ended = self.base.life.end() == Some(ConnectionError::Truncated);
        let unheard = ended && !self.cut && !self.is_confirmed();
        if unheard || !self.is_established() {
            Fate::NotProcessed
        } else {
            Fate::MaybeProcessed
        }
    }

    fn max_in_flight(&self) -> usize {
        self.requests.max_in_flight.into()
    }

    fn peer_max_message(&self) -> u32 {
        self.base.theirs.max_message
    }
}

impl<T: RequestTable, C: NoiseCrypto> ClientSession<T, C> {
    pub(super) fn open_for_new(&self) -> Result<(), Error> {
        if let Some(end) = self.base.life.end() {
            return Err(end.into());
        }
        if self.base.is_closing() {
            return Err(Error::Closing);
        }
        Ok(())
    }
}
