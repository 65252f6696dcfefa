//! The two messages of `NNpsk0`, for each side (Noise specification, revision 34, sections 5.3, 7.4
//! and 9). Their payloads are opaque here.
//!
//! Each step wipes the stack that it used. The result of a step is in the stack frame of its
//! caller. That caller has its own stack wiped in turn, after it has moved the secrets to their
//! final place.

use zeroize::Zeroizing;

use super::symmetric::{HandshakeFailed, OneTimeKey, SymmetricState};
use crate::crypto::{NoiseCrypto, TAG_LENGTH};
use crate::wipe::with_stack_wiped;

/// Bytes of an X25519 key.
const DH: usize = 32;
/// Bytes of a handshake message besides its payload.
pub(super) const MESSAGE_OVERHEAD: usize = DH + TAG_LENGTH;

/// The result of the handshake.
pub(super) struct Outcome {
    /// The key of records from the client.
    pub(super) from_client: OneTimeKey,
    /// The key of records from the server.
    pub(super) from_server: OneTimeKey,
    /// The handshake hash, the same on both sides and different for each handshake.
    pub(super) hash: [u8; 32],
}

impl Outcome {
    fn of<C: NoiseCrypto>(crypto: &C, state: &SymmetricState) -> Self {
        let (from_client, from_server) = state.split(crypto);
        Self {
            from_client,
            from_server,
            hash: *state.hash(),
        }
    }
}

/// A client that has written the first message.
pub(super) struct Initiator<K> {
    state: SymmetricState,
    ephemeral: K,
}

impl<K> Initiator<K> {
    /// Writes the first message, with `payload`, into `out`.
    pub(super) fn write<C: NoiseCrypto<PrivateKey = K>>(
        crypto: &C,
        prologue: [&[u8]; 4],
        psk: &[u8; 32],
        ephemeral: &[u8; DH],
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<Self, HandshakeFailed> {
        let mut state = SymmetricState::new(crypto, prologue);
        let ephemeral = crypto.private_key(ephemeral);
        with_stack_wiped(|| {
            state.mix_key_and_hash(crypto, psk);
            let (public, sealed) = out.split_first_chunk_mut::<DH>().ok_or(HandshakeFailed)?;
            *public = crypto.x25519_public(&ephemeral);
            state.mix_hash(crypto, public);
            let key = state.mix_key(crypto, public);
            state.encrypt_and_hash(crypto, &key, payload, sealed)
        })?;
        Ok(Self { state, ephemeral })
    }

    /// Reads the second message and returns its payload. Call it once.
    pub(super) fn read<'m, C: NoiseCrypto<PrivateKey = K>>(
        &mut self,
        crypto: &C,
        message: &'m mut [u8],
    ) -> Result<(&'m [u8], Outcome), HandshakeFailed> {
        with_stack_wiped(|| {
            let (public, sealed) = message.split_first_chunk_mut::<DH>().ok_or(HandshakeFailed)?;
            let key = second_key(crypto, &mut self.state, &self.ephemeral, public, public)?;
            let payload = self.state.decrypt_and_hash(crypto, &key, sealed)?;
            Ok((payload, Outcome::of(crypto, &self.state)))
        })
    }
}

/// A server that has read the first message.
pub(super) struct Responder {
    state: SymmetricState,
    theirs: [u8; DH],
}

impl Responder {
    /// Reads the first message and returns its payload.
    pub(super) fn read<'m, C: NoiseCrypto>(
        crypto: &C,
        prologue: [&[u8]; 4],
        psk: &[u8; 32],
        message: &'m mut [u8],
    ) -> Result<(&'m [u8], Self), HandshakeFailed> {
        let mut state = SymmetricState::new(crypto, prologue);
        let (public, sealed) = message.split_first_chunk_mut::<DH>().ok_or(HandshakeFailed)?;
        let payload = with_stack_wiped(|| {
            state.mix_key_and_hash(crypto, psk);
            state.mix_hash(crypto, public);
            let key = state.mix_key(crypto, public);
            state.decrypt_and_hash(crypto, &key, sealed)
        })?;
        Ok((payload, Self { state, theirs: *public }))
    }

    /// Writes the second message, with `payload`, into `out`.
    pub(super) fn write<C: NoiseCrypto>(
        mut self,
        crypto: &C,
        ephemeral: &[u8; DH],
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<Outcome, HandshakeFailed> {
        with_stack_wiped(|| {
            let (public, sealed) = out.split_first_chunk_mut::<DH>().ok_or(HandshakeFailed)?;
            let ephemeral = crypto.private_key(ephemeral);
            *public = crypto.x25519_public(&ephemeral);
            let key = second_key(crypto, &mut self.state, &ephemeral, public, &self.theirs)?;
            self.state.encrypt_and_hash(crypto, &key, payload, sealed)?;
            Ok(Outcome::of(crypto, &self.state))
        })
    }
}

/// Mixes in the server's ephemeral key and the shared secret, and returns the key of the second
/// payload.
fn second_key<C: NoiseCrypto>(
    crypto: &C,
    state: &mut SymmetricState,
    ours: &C::PrivateKey,
    servers: &[u8; DH],
    theirs: &[u8; DH],
) -> Result<OneTimeKey, HandshakeFailed> {
    state.mix_hash(crypto, servers);
    state.mix_chaining_key(crypto, servers);
    let shared = Zeroizing::new(crypto.x25519(ours, theirs));
    // With a public key of low order the shared secret is zero, which is not secret.
    if shared.iter().fold(0, |all, byte| all | byte) == 0 {
        return Err(HandshakeFailed);
    }
    Ok(state.mix_key(crypto, &shared))
}
