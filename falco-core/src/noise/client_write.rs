//! What a client sends: its hello, pending output, requests.

use super::base::Phase;
use super::client::{ClientSession, Handshake, Requests};
use super::handshake::Initiator;
use super::key::{NoiseClient, clear, prologue};
use super::layout::{CLEAR, FRAME_HEAD, HELLO_LENGTH, kind};
use super::link::{Link, OwnClose, close};
use super::table::{self, Cancel, RequestSlot, RequestTable, State};
use super::write::{check_length, nothing_written, write_each, write_message};
use super::writer::Writer;
use crate::crypto::{Crypto, NoiseCrypto};
use crate::error::{ConnectionError, OutputTooSmall, SealError};
use crate::outgoing::OutgoingRequest;
use crate::wipe::with_stack_wiped;

impl<T: RequestTable, C: NoiseCrypto> ClientSession<T, C> {
    #[inline]
    pub(super) fn write<'m, X: AsRef<[u8]>>(
        &mut self,
        client: &NoiseClient<T, C, X>,
        messages: impl Iterator<Item = (&'m mut OutgoingRequest, &'m [u8])>,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        if let Some(end) = self.base.life.end() {
            return self.write_pending_close(&client.crypto, end, out);
        }
        let limits = (self.base.serial, self.base.send_limit());
        let link = match &mut self.base.phase {
            Phase::Handshake(Handshake::Hello(_)) => return with_stack_wiped(|| self.write_hello(client, out)),
            Phase::Handshake(Handshake::Welcome(_)) => return Ok(0),
            Phase::Transport(link) => link,
        };
        let given = out.len();
        let mut writer = Writer::new(out, link.their_max_record);
        let mut pending = link.is_pending() || self.requests.is_pending();
        let (mut error, mut drains) = (None, false);
        if !link.first_ping_done {
            // The first record has the PING and nothing else, even if other frames are pending.
            link.write_ping(&mut writer);
            if writer.is_open() && link.finish(&client.crypto, &mut writer).is_ok() {
                link.first_ping_done = true;
            }
        }
        if link.first_ping_done {
            if pending {
                link.write_pending(&mut writer);
                self.requests.write_cancels(&mut writer);
                #[cfg(feature = "streams")]
                self.requests
                    .streams
                    .write_credits(&mut self.requests.table, &mut writer);
                link.write_close(&mut writer);
            }
            if !pending || !(link.is_pending() || self.requests.is_pending()) {
                error = write_each(messages, |(message, body)| {
                    self.requests
                        .write_request(&client.crypto, link, limits, message, body, &mut writer)
                });
            }
            if matches!(error, Some(SealError::Connection(ConnectionError::RequestIdsExhausted))) {
                // The requests in flight complete, and a later call writes what does not fit here.
                error = None;
                link.queue_close(close::DONE, self.requests.begun);
                link.write_close(&mut writer);
                pending |= link.is_pending();
                drains = true;
            }
        }
        if !link.finish_last(&client.crypto, &mut writer) {
            return Err(self.base.fail(ConnectionError::KeyExhausted).into());
        }
        let written = writer.finished();
        if drains {
            self.base.start_drain();
        }
        if written > 0 {
            self.note_sent();
            return Ok(written);
        }
        nothing_written(error, pending, given)
    }

    #[cold]
    fn write_pending_close(&mut self, crypto: &C, end: ConnectionError, out: &mut [u8]) -> Result<usize, SealError> {
        let written = self.base.write_pending_close(crypto, end, out)?;
        self.note_sent();
        Ok(written)
    }

    fn write_hello<X: AsRef<[u8]>>(
        &mut self,
        client: &NoiseClient<T, C, X>,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let given = out.len();
        let Some(hello) = out.first_chunk_mut::<HELLO_LENGTH>() else {
            return Err(OutputTooSmall {
                needed: HELLO_LENGTH,
                given,
            }
            .into());
        };
        let Phase::Handshake(Handshake::Hello(ephemeral)) = &mut self.base.phase else {
            return Ok(0);
        };
        let ephemeral = core::mem::take(ephemeral);
        let in_clear = clear(client.secret.id());
        let length = client.context_length();
        let prologue = prologue(&in_clear, &length, client.context.as_ref());
        let (place, message) = hello.split_at_mut(CLEAR);
        place.copy_from_slice(&in_clear);
        let settings = self.base.ours.encode();
        let wrote = Initiator::write(
            &client.crypto,
            prologue,
            client.secret.psk(),
            &ephemeral,
            &settings,
            message,
        );
        let initiator = wrote.map_err(|_| self.base.life.fail(ConnectionError::KeyExhausted))?;
        self.base.phase = Phase::Handshake(Handshake::Welcome(initiator));
        Ok(HELLO_LENGTH)
    }
}

impl<T: RequestTable> Requests<T> {
    /// Whether a frame of a request is pending.
    #[cfg_attr(not(target_os = "none"), inline)]
    fn is_pending(&self) -> bool {
        let cancels = self.cancels > 0;
        #[cfg(feature = "streams")]
        return cancels || self.streams.is_pending();
        #[cfg(not(feature = "streams"))]
        cancels
    }

    /// The most bytes that pending frames of requests take.
    #[inline]
    pub(super) fn pending_size(&self) -> usize {
        let cancels = self.cancels * FRAME_HEAD;
        #[cfg(feature = "streams")]
        return cancels + self.streams.pending_size();
        #[cfg(not(feature = "streams"))]
        cancels
    }

    fn write_cancels(&mut self, writer: &mut Writer<'_, '_>) {
        if self.cancels == 0 {
            return;
        }
        for slot in self.table.iter_mut().filter(|slot| slot.cancel == Cancel::Pending) {
            if !writer.frame(kind::CANCEL, slot.id, &[], &[]) {
                return;
            }
            slot.cancel = Cancel::Done;
            self.cancels -= 1;
        }
    }

    /// Writes the next frame of a request, in a new record if the open one is full. `false` if the
    /// output is full.
    #[inline]
    fn write_request<'m, C: Crypto>(
        &mut self,
        crypto: &C,
        link: &mut Link<C::Aead>,
        (serial, max_message): (u32, u32),
        message: &mut OutgoingRequest,
        body: &'m [u8],
        writer: &mut Writer<'_, 'm>,
    ) -> Result<bool, SealError> {
        if message.is_done() {
            return Ok(true);
        }
        #[cfg(feature = "streams")]
        if message.is_open() {
            let rest = message.rest(serial, body)?;
            return self.write_open_request(crypto, link, message, rest, writer);
        }
        message.check(serial, body)?;
        let begun = message.number() > 0;
        if !begun && (link.own_close != OwnClose::None || link.their_close.is_some()) {
            // The connection closes, so this request does not begin. Later ones that have begun
            // continue.
            return Ok(true);
        }
        let id = if begun {
            message.number()
        } else {
            self.begun.checked_add(1).ok_or(ConnectionError::RequestIdsExhausted)?
        };
        if begun {
            let slot = table::find(&mut self.table, id);
            if slot.is_none_or(|slot| slot.cancel != Cancel::No || slot.state == State::Lost) {
                // The request has completed or was cancelled, so the rest of it is not sent.
                message.stop();
                return Ok(true);
            }
        } else {
            if let Err(too_large) = check_length(body.len(), max_message) {
                // The limit was not known when the request was created.
                message.fail(too_large);
                return Ok(true);
            }
            if self.table.len() >= usize::from(self.max_in_flight) {
                return Ok(true);
            }
        }
        let Some(sealed) = write_message(crypto, link, id, message.sealed(), body, writer)? else {
            return Ok(false);
        };
        if !begun {
            // The table has room, because `max_in_flight` is at most its capacity.
            let _ = self.table.push(RequestSlot {
                id,
                ..RequestSlot::EMPTY
            });
            self.begun = id;
        }
        message.seal_part(id, sealed);
        Ok(true)
    }
}
