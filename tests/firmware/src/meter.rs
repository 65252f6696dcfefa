//! Counts instructions: a client and a server complete a handshake in memory, and each step is
//! counted, with the share of each primitive. Primitives are counted in an implementation of
//! `Crypto`, which a hardware engine would replace.
//!
//! With `-icount shift=0` an instruction takes one nanosecond of QEMU's time, so that a tick of the
//! timer at 12.5 MHz is 80 instructions.

use core::cell::Cell;

use falco_core::crypto::{Aead, AeadError, Crypto, NoiseCrypto, Nonce, Tag};
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::{ClientConnection, Instant, Received, RustCrypto, ServerConnection, Unread};

use crate::board::{self, Clock, Entropy, Factory};
use crate::wire::settings;

/// Instructions in one tick.
const INSTRUCTIONS: u32 = 80;

/// Ticks that went into each primitive.
#[derive(Default)]
struct Ticks {
    x25519: Cell<u32>,
    sha256: Cell<u32>,
    aes_gcm: Cell<u32>,
}

/// The built-in cryptography, counted.
#[derive(Clone, Copy)]
struct Metered<'t>(&'t Ticks);

/// An AEAD, counted.
struct MeteredAead<'t>(<RustCrypto as Crypto>::Aead, &'t Ticks);

fn count<T>(sum: &Cell<u32>, work: impl FnOnce() -> T) -> T {
    let before = Clock::ticks();
    let done = work();
    sum.set(sum.get().wrapping_add(Clock::ticks_since(before)));
    done
}

impl<'t> Crypto for Metered<'t> {
    type Aead = MeteredAead<'t>;

    fn aead(&self, key: &[u8; 32]) -> MeteredAead<'t> {
        MeteredAead(count(&self.0.aes_gcm, || RustCrypto.aead(key)), self.0)
    }
}

impl NoiseCrypto for Metered<'_> {
    type PrivateKey = <RustCrypto as NoiseCrypto>::PrivateKey;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        RustCrypto.private_key(bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        count(&self.0.x25519, || RustCrypto.x25519_public(private))
    }

    fn x25519(&self, private: &Self::PrivateKey, public: &[u8; 32]) -> [u8; 32] {
        count(&self.0.x25519, || RustCrypto.x25519(private, public))
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        count(&self.0.sha256, || RustCrypto.sha256(parts))
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        count(&self.0.sha256, || RustCrypto.hmac_sha256(key, parts))
    }
}

impl Aead for MeteredAead<'_> {
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        count(&self.1.aes_gcm, || self.0.seal(nonce, associated, out, body))
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        count(&self.1.aes_gcm, || self.0.open(nonce, associated, text, tag))
    }
}

/// Does `work` and prints its instructions.
fn step<T>(ticks: &Ticks, names: [&str; 4], work: impl FnOnce() -> T) -> T {
    for sum in [&ticks.x25519, &ticks.sha256, &ticks.aes_gcm] {
        sum.set(0);
    }
    let whole = Cell::new(0);
    let done = count(&whole, work);
    let counted = [&whole, &ticks.x25519, &ticks.sha256, &ticks.aes_gcm];
    for (name, sum) in names.into_iter().zip(counted) {
        board::say(name, sum.get().wrapping_mul(INSTRUCTIONS).try_into().unwrap_or(0));
    }
    done
}

/// One handshake and one message of 64 bytes.
pub(crate) fn measure(factory: &Factory, mut entropy: &Entropy) -> Option<i32> {
    let ticks = Ticks::default();
    let crypto = Metered(&ticks);
    let (settings, now, mut bytes) = (settings()?, Instant::ZERO, [0; 256]);
    let client_key = NoiseClient::<FixedTable<1>, _, &[u8]>::new(factory.key(0)?, &[], crypto).ok()?;
    let ring = KeyRing::new([Some(NoiseSecret::derive(factory.key(0)?, &crypto))], &mut entropy).ok()?;
    let server_key = NoiseServer::<FixedTable<1>, _, _, &[u8]>::new(ring, &[], crypto).ok()?;
    let mut client = ClientConnection::new(&client_key, &settings, now, &mut entropy).ok()?;
    let mut server = ServerConnection::new(&server_key, &settings, now, &mut entropy).ok()?;

    let names = [
        "client_hello",
        "client_hello_x25519",
        "client_hello_sha256",
        "client_hello_aes_gcm",
    ];
    let hello = step(&ticks, names, || client.poll_transmit(now, &mut bytes)).ok()?;
    let names = ["server", "server_x25519", "server_sha256", "server_aes_gcm"];
    let welcome = step(&ticks, names, || {
        server.recv(now, Unread::new(bytes.get_mut(..hello)?, &mut 0)).ok()?;
        server.poll_transmit(now, &mut bytes).ok()
    })?;
    let names = [
        "client_welcome",
        "client_welcome_x25519",
        "client_welcome_sha256",
        "client_welcome_aes_gcm",
    ];
    step(&ticks, names, || {
        client
            .recv(now, Unread::new(bytes.get_mut(..welcome)?, &mut 0))
            .ok()
            .map(|_| ())
    })?;
    // The client's first PING and its answer are not counted. The server sends the answer before it
    // reads a request.
    let ping = client.poll_transmit(now, &mut bytes).ok()?;
    let heard = server.recv(now, Unread::new(bytes.get_mut(..ping)?, &mut 0)).ok()?;
    if !matches!(heard, Received::Event(_)) {
        return Some(40);
    }
    server.poll_transmit(now, &mut bytes).ok()?;
    let mut request = client.request(64).ok()?;
    let names = ["seal_64", "seal_64_x25519", "seal_64_sha256", "seal_64_aes_gcm"];
    let sealed = step(&ticks, names, || {
        client.seal(now, [(&mut request, &[7; 64][..])], &mut bytes)
    })
    .ok()?;
    let names = ["open_64", "open_64_x25519", "open_64_sha256", "open_64_aes_gcm"];
    // The record of the PING is consumed here too.
    let heard = step(&ticks, names, || {
        let heard = server.recv(now, Unread::new(bytes.get_mut(..sealed)?, &mut 0));
        Some(matches!(heard, Ok(Received::Event(_))))
    })?;
    Some(if heard { 0 } else { 41 })
}
