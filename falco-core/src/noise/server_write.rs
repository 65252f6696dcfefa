//! What a server sends: its welcome, pending output, answers, and the CLOSE after the last of them.

use super::base::Phase;
use super::key::{NoiseServer, Ring};
use super::layout::WELCOME_LENGTH;
use super::link::{Link, close};
use super::record::Direction;
use super::server::{Handshake, Requests, ServerSession};
use super::table::{RequestTable, State};
use super::write::{nothing_written, write_each, write_message};
use super::writer::Writer;
use crate::crypto::{Crypto, NoiseCrypto};
use crate::error::{ConnectionError, OutputTooSmall, SealError};
use crate::outgoing::OutgoingAnswer;
use crate::wipe::with_stack_wiped;

impl<T: RequestTable, C: NoiseCrypto> ServerSession<T, C> {
    #[inline]
    pub(super) fn write<'m, R: Ring, X: AsRef<[u8]>>(
        &mut self,
        server: &NoiseServer<T, R, C, X>,
        messages: impl Iterator<Item = (&'m mut OutgoingAnswer, &'m [u8])>,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let crypto = &server.crypto;
        if let Some(end) = self.base.life.end() {
            return self.base.write_pending_close(crypto, end, out);
        }
        if !self.base.is_first_ping_done() {
            return with_stack_wiped(|| self.write_welcome(server, out));
        }
        let Some(link) = self.base.phase.link_mut() else {
            return Ok(0);
        };
        let given = out.len();
        let mut writer = Writer::new(out, link.their_max_record);
        let pending = link.is_pending();
        #[cfg(feature = "streams")]
        let pending = pending || self.requests.streams.is_pending();
        let mut left = pending;
        let mut error = None;
        if pending {
            link.write_pending(&mut writer);
            #[cfg(feature = "streams")]
            self.requests
                .streams
                .write_credits(&mut self.requests.table, &mut writer);
            link.write_close(&mut writer);
            let still = link.is_pending();
            #[cfg(feature = "streams")]
            let still = still || self.requests.streams.is_pending();
            left = still;
        }
        if !left {
            let serial = self.base.serial;
            error = write_each(messages, |(message, body)| {
                self.requests
                    .write_answer(crypto, link, serial, message, body, &mut writer)
            });
        }
        if !link.finish_last(crypto, &mut writer) {
            return Err(self.base.fail(ConnectionError::KeyExhausted).into());
        }
        let mut written = writer.finished();
        if self.is_drained() {
            written += self.write_last_close(crypto, out.get_mut(written..).unwrap_or_default());
        }
        if written > 0 {
            return Ok(written);
        }
        nothing_written(error, pending, given)
    }

    fn write_welcome<R: Ring, X: AsRef<[u8]>>(
        &mut self,
        server: &NoiseServer<T, R, C, X>,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let Phase::Handshake(Handshake::Welcome(welcome)) = &self.base.phase else {
            return Ok(0);
        };
        let given = out.len();
        let place = out.first_chunk_mut().ok_or(OutputTooSmall {
            needed: WELCOME_LENGTH,
            given,
        })?;
        *place = welcome.bytes;
        let direction = |key: &[u8; 32]| Direction::new(&server.crypto, key, server.rekey_period);
        let (send, recv) = (
            direction(&welcome.keys.from_server),
            direction(&welcome.keys.from_client),
        );
        let link = Link::new(
            send,
            recv,
            welcome.keys.hash,
            self.base.theirs.max_record,
            self.base.ours.max_record,
        );
        self.base.phase = Phase::Transport(link);
        Ok(WELCOME_LENGTH)
    }

    /// Ends the connection after its last answer: with a CLOSE, if none was sent before.
    fn write_last_close(&mut self, crypto: &C, out: &mut [u8]) -> usize {
        let Some(link) = self.base.phase.link_mut() else {
            return 0;
        };
        link.queue_close(close::DONE, self.requests.begun);
        let mut writer = Writer::new(out, link.their_max_record);
        link.write_close(&mut writer);
        if !link.finish_last(crypto, &mut writer) {
            self.base.fail(ConnectionError::KeyExhausted);
            return 0;
        }
        if link.close_sent() {
            self.base.life.fail(ConnectionError::Closed);
        }
        writer.finished()
    }
}

impl<T: RequestTable> Requests<T> {
    /// Writes the next frame of an answer, in a new record if the open one is full. `false` if the
    /// output is full.
    #[inline]
    fn write_answer<'m, C: Crypto>(
        &mut self,
        crypto: &C,
        link: &mut Link<C::Aead>,
        serial: u32,
        message: &mut OutgoingAnswer,
        body: &'m [u8],
        writer: &mut Writer<'_, 'm>,
    ) -> Result<bool, SealError> {
        if message.is_done() {
            return Ok(true);
        }
        #[cfg(feature = "streams")]
        if message.is_open() {
            let rest = message.rest(serial, body)?;
            return self.write_open_answer(crypto, link, message, rest, writer);
        }
        message.check(serial, body)?;
        let id = message.id().number();
        // An answer begins only once. A second answer to the same request finds it in another
        // state.
        let expected = if message.sealed() == 0 {
            State::Waiting
        } else {
            State::Answering
        };
        let Some(place) = self.table.find(id) else {
            return Err(SealError::NotWaiting(message.id()));
        };
        let Some(slot) = self.table.get_mut(place).filter(|slot| slot.state == expected) else {
            return Err(SealError::NotWaiting(message.id()));
        };
        let Some(sealed) = write_message(crypto, link, id, message.sealed(), body, writer)? else {
            return Ok(false);
        };
        slot.state = State::Answering;
        message.seal_part(sealed);
        if message.is_done() {
            self.complete_at(place);
        }
        Ok(true)
    }
}
