//! The peer of a noise connection, for tests: it can send any hello, any welcome and any plaintext
//! in a record. It was written from the Noise specification, independently of the rest of this
//! crate, which it tests.

use std::vec::Vec;

use crate::crypto::{Aead, NoiseCrypto, TAG_LENGTH};

const NAME: &[u8; 32] = b"Noise_NNpsk0_25519_AESGCM_SHA256";

/// A frame of the noise wire, valid or not. A body of more than 65535 bytes has a wrong length.
#[must_use]
pub fn raw_frame(kind: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[kind][..], &id.to_be_bytes(), &length, body].concat()
}

/// Everything that one side puts into a handshake. Any of it may be wrong.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs, reason = "tests write its fields")]
pub struct RawHandshake<C> {
    /// The cryptography.
    pub crypto: C,
    /// The pre-shared key.
    pub psk: [u8; 32],
    /// The clear part of the hello, as this side sends it.
    pub clear: [u8; 10],
    /// The context.
    pub context: Vec<u8>,
    /// The settings that this side announces.
    pub settings: [u8; 16],
    /// The ephemeral private key.
    pub private: [u8; 32],
    /// The ephemeral public key, if it is not that of the private key.
    pub public: Option<[u8; 32]>,
}

/// The symmetric state: chaining key, hash and the present cipher key.
struct State {
    chaining: [u8; 32],
    hash: [u8; 32],
    key: [u8; 32],
}

impl<C: NoiseCrypto> RawHandshake<C> {
    /// A correct side with a key of 32 times `byte` and the default settings.
    #[must_use]
    pub fn new(crypto: C, byte: u8) -> Self {
        let secret = [byte; 32];
        let id = crypto.hmac_sha256(&secret, &[b"FalcoTCP-noise/1 key id"]);
        let mut clear = [0x4E, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        clear.iter_mut().skip(2).zip(id).for_each(|(to, from)| *to = from);
        Self {
            psk: crypto.hmac_sha256(&secret, &[b"FalcoTCP-noise/1 psk"]),
            clear,
            context: Vec::new(),
            settings: raw_settings(u16::MAX, 1024, 16 << 20, 60_000),
            private: [byte ^ 0x5A; 32],
            public: None,
            crypto,
        }
    }

    fn hkdf(&self, chaining: &[u8; 32], input: &[u8]) -> [[u8; 32]; 3] {
        let key = self.crypto.hmac_sha256(chaining, &[input]);
        let one = self.crypto.hmac_sha256(&key, &[&[1]]);
        let two = self.crypto.hmac_sha256(&key, &[&one, &[2]]);
        [one, two, self.crypto.hmac_sha256(&key, &[&two, &[3]])]
    }

    fn mix_hash(&self, state: &mut State, data: &[u8]) {
        state.hash = self.crypto.sha256(&[&state.hash, data]);
    }

    fn mix_key(&self, state: &mut State, input: &[u8]) {
        [state.chaining, state.key, _] = self.hkdf(&state.chaining, input);
    }

    /// The state before the payload of the first message, whose public key is `first`.
    fn begin(&self, clear: &[u8], first: &[u8]) -> State {
        let mut state = State {
            chaining: *NAME,
            hash: *NAME,
            key: [0; 32],
        };
        let length = u16::try_from(self.context.len()).unwrap_or(u16::MAX).to_be_bytes();
        self.mix_hash(
            &mut state,
            &[b"FalcoTCP-noise/1", clear, &length, &self.context].concat(),
        );
        let [chaining, mixed, _] = self.hkdf(&state.chaining, &self.psk);
        state.chaining = chaining;
        self.mix_hash(&mut state, &mixed);
        self.mix_hash(&mut state, first);
        self.mix_key(&mut state, first);
        state
    }

    fn seal(&self, state: &mut State, payload: &[u8]) -> Vec<u8> {
        let mut sealed = payload.to_vec();
        let aead = self.crypto.aead(&state.key);
        if let Ok(tag) = aead.seal(&[0; 12], &state.hash, &mut sealed, payload) {
            sealed.extend(tag);
        }
        self.mix_hash(state, &sealed);
        sealed
    }

    fn open(&self, state: &mut State, sealed: &[u8]) -> Option<[u8; 16]> {
        let (text, tag) = sealed.split_last_chunk::<TAG_LENGTH>()?;
        let mut text = text.to_vec();
        let aead = self.crypto.aead(&state.key);
        aead.open(&[0; 12], &state.hash, &mut text, tag).ok()?;
        self.mix_hash(state, sealed);
        text.try_into().ok()
    }

    fn public(&self) -> [u8; 32] {
        let private = self.crypto.private_key(&self.private);
        self.public.unwrap_or_else(|| self.crypto.x25519_public(&private))
    }

    fn said(&self) -> (Vec<u8>, State) {
        let public = self.public();
        let mut state = self.begin(&self.clear, &public);
        let sealed = self.seal(&mut state, &self.settings);
        ([&self.clear[..], &public, &sealed].concat(), state)
    }

    /// The hello.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        self.said().0
    }

    /// Reads the welcome that answers the hello.
    #[must_use]
    pub fn client(&self, welcome: &[u8]) -> Option<RawPeer<C>>
    where
        C: Clone,
    {
        let (public, sealed) = welcome.split_first_chunk::<32>()?;
        let mut state = self.said().1;
        self.second(&mut state, public, public);
        let theirs = self.open(&mut state, sealed)?;
        let [ours, other, _] = self.hkdf(&state.chaining, &[]);
        Some(RawPeer::new(self.crypto.clone(), &ours, &other, theirs))
    }

    /// Reads a hello and answers it with a welcome.
    #[must_use]
    pub fn server(&self, hello: &[u8]) -> Option<(Vec<u8>, RawPeer<C>)>
    where
        C: Clone,
    {
        let (clear, message) = hello.split_first_chunk::<10>()?;
        let (first, sealed) = message.split_first_chunk::<32>()?;
        let mut state = self.begin(clear, first);
        let theirs = self.open(&mut state, sealed)?;
        let public = self.public();
        self.second(&mut state, &public, first);
        let welcome = [&public[..], &self.seal(&mut state, &self.settings)].concat();
        let [other, ours, _] = self.hkdf(&state.chaining, &[]);
        Some((welcome, RawPeer::new(self.crypto.clone(), &ours, &other, theirs)))
    }

    fn second(&self, state: &mut State, servers: &[u8; 32], theirs: &[u8; 32]) {
        self.mix_hash(state, servers);
        self.mix_key(state, servers);
        let shared = self.crypto.x25519(&self.crypto.private_key(&self.private), theirs);
        self.mix_key(state, &shared);
    }
}

/// Settings as they are sent in a handshake.
#[must_use]
pub fn raw_settings(max_record: u16, max_in_flight: u16, max_message: u32, lifetime: u32) -> [u8; 16] {
    let mut settings = [0; 16];
    let all = max_record.to_be_bytes().into_iter().chain(max_in_flight.to_be_bytes());
    let all = all.chain(max_message.to_be_bytes()).chain(lifetime.to_be_bytes());
    settings.iter_mut().zip(all).for_each(|(to, from)| *to = from);
    settings
}

/// These settings with a window of `kib` KiB and `max_open` requests that may begin open.
#[must_use]
pub fn raw_streams(mut settings: [u8; 16], kib: u16, max_open: u16) -> [u8; 16] {
    let all = kib.to_be_bytes().into_iter().chain(max_open.to_be_bytes());
    settings.iter_mut().skip(12).zip(all).for_each(|(to, from)| *to = from);
    settings
}

/// One side of a connection after the handshake. A test chooses what it sends.
#[derive(Debug)]
pub struct RawPeer<C> {
    crypto: C,
    send: ([u8; 32], u64),
    recv: ([u8; 32], u64),
    /// The settings that the other side announced.
    theirs: [u8; 16],
    period: u64,
}

impl<C: NoiseCrypto> RawPeer<C> {
    fn new(crypto: C, send: &[u8; 32], recv: &[u8; 32], theirs: [u8; 16]) -> Self {
        Self {
            crypto,
            send: (*send, 0),
            recv: (*recv, 0),
            theirs,
            period: 1 << 20,
        }
    }

    /// The settings that the other side announced.
    #[must_use]
    pub const fn theirs(&self) -> &[u8; 16] {
        &self.theirs
    }

    /// Replaces keys after this many records instead of 2^20.
    pub const fn set_rekey_period(&mut self, records: u64) {
        self.period = records;
    }

    /// A record with these frames, which may be anything.
    #[must_use]
    pub fn seal(&mut self, frames: &[u8]) -> Vec<u8> {
        let length = u16::try_from(frames.len() + TAG_LENGTH).unwrap_or(u16::MAX);
        let mut record = length.to_be_bytes().to_vec();
        let mut text = frames.to_vec();
        let aead = self.crypto.aead(&self.send.0);
        let tag = aead.seal(&nonce(self.send.1), &[], &mut text, frames);
        record.extend(text);
        record.extend(tag.unwrap_or_default());
        Self::count(&self.crypto, &mut self.send, self.period);
        record
    }

    /// Removes the record at the front of `bytes` and returns its frames. `None` if it is not
    /// complete or does not authenticate.
    pub fn open(&mut self, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let sealed = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
        let (text, tag) = sealed.split_last_chunk::<TAG_LENGTH>()?;
        let mut text = text.to_vec();
        let aead = self.crypto.aead(&self.recv.0);
        aead.open(&nonce(self.recv.1), &[], &mut text, tag).ok()?;
        bytes.drain(..2 + text.len() + TAG_LENGTH);
        Self::count(&self.crypto, &mut self.recv, self.period);
        Some(text)
    }

    fn count(crypto: &C, (key, counter): &mut ([u8; 32], u64), period: u64) {
        *counter += 1;
        if counter.is_multiple_of(period) {
            let mut next = [0; 32];
            // The tag is not part of the key.
            let _ = crypto.aead(key).seal(&nonce(u64::MAX), &[], &mut next, &[]);
            *key = next;
        }
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    let counter = counter.to_be_bytes();
    nonce.iter_mut().skip(4).zip(counter).for_each(|(to, from)| *to = from);
    nonce
}
