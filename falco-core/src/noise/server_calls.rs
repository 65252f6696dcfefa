//! The calls of a server that need no key: answers and refusals.

use super::server::ServerSession;
use super::table::{RequestTable, State};
use super::write::check_length;
use crate::crypto::NoiseCrypto;
#[cfg(feature = "streams")]
use crate::error::Error;
use crate::error::{Misuse, ReplyError};
use crate::message::{KeyId, Refusal, RequestId};
use crate::outgoing::OutgoingAnswer;
use crate::session;

impl<T: RequestTable, C: NoiseCrypto> session::Server for ServerSession<T, C> {
    fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError> {
        // A partially received request cannot be answered yet, and an answer begins only once.
        if self.waiting(id)? != State::Waiting {
            return Err(ReplyError::NotWaiting(id));
        }
        check_length(length, self.base.send_limit())?;
        Ok(OutgoingAnswer::new(id, length))
    }

    fn refuses(&self) -> bool {
        true
    }

    fn key_id(&self) -> Option<KeyId> {
        self.key_id.filter(|_| self.is_established())
    }

    #[cfg(feature = "streams")]
    fn open_answer(&mut self, id: RequestId) -> Result<OutgoingAnswer, ReplyError> {
        self.open_answer_now(id)
    }

    #[cfg(feature = "streams")]
    fn discard(&mut self, id: RequestId) -> Result<(), Error> {
        self.discard_body(id)
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Result<(), ReplyError> {
        self.waiting(id)?;
        #[cfg(feature = "streams")]
        let refusal = self.refusal_of_open(id, refusal);
        let Some(link) = self.base.phase.link_mut().filter(|link| link.can_refuse()) else {
            return Err(ReplyError::TransmitFirst);
        };
        link.queue_refusal(id.number(), super::refusal_code(refusal));
        self.requests.complete(id.number());
        Ok(())
    }
}

impl<T: RequestTable, C: NoiseCrypto> ServerSession<T, C> {
    /// The state of the request `id`, if it is in flight.
    #[inline]
    pub(super) fn waiting(&self, id: RequestId) -> Result<State, ReplyError> {
        if let Some(end) = self.base.life.end() {
            return Err(end.into());
        }
        if !id.is_of(self.base.serial) {
            return Err(Misuse::Foreign.into());
        }
        let table = &self.requests.table;
        let slot = table.find(id.number()).and_then(|place| table.get(place));
        slot.map(|slot| slot.state)
            .filter(|state| *state != State::Lost)
            .ok_or(ReplyError::NotWaiting(id))
    }
}
