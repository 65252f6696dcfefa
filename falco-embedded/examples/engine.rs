//! A hardware engine as the AEAD of connections, through the interface `falco_core::crypto`.
//! Firmware writes `Chip` and `Loaded`. Here a mock in `peripheral` replaces the engine. The
//! example fails if what it prints is not true.
//!
//! ```sh
//! cargo run -p falco-embedded --example engine
//! ```

use core::cell::RefCell;
use core::convert::Infallible;
use core::error::Error;

use falco_embedded::falco_core::crypto::{Aead, AeadError, Crypto, NoiseCrypto, Nonce, Tag};
use falco_embedded::falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_embedded::falco_core::{
    ClientConnection, ConnectionError, Instant, Key, KeyRef, Role, RustCrypto, Settings, StorageFull,
};
use falco_embedded::{BufferedClient, BufferedConnection, BufferedServer};
use getrandom::SysRng;
use subtle::ConstantTimeEq;

#[path = "engine/peripheral.rs"]
mod peripheral;

use peripheral::{Counts, Engine, Job};

/// How often the engine is polled before it counts as broken.
const PATIENCE: usize = 10_000;

/// The engine as cryptography for connections. It borrows the peripheral, which outlives all keys
/// and connections and is shared by them.
///
/// A `RefCell` is enough if one executor or one loop drives all of them, because no borrow outlives
/// a call. If an interrupt uses the engine too, use a mutex with critical sections.
#[derive(Clone, Copy)]
struct Chip<'p>(&'p RefCell<Engine>);

/// One key, in a slot of the engine and not in memory.
struct Loaded<'p> {
    /// `None` if all slots were taken. `aead` cannot fail, so the key fails at its first use, which
    /// ends its connection only.
    slot: Option<usize>,
    engine: &'p RefCell<Engine>,
}

impl<'p> Crypto for Chip<'p> {
    type Aead = Loaded<'p>;

    /// Called for each key of a handshake, for both directions of a connection, and for their next
    /// keys after 2^20 records. The caller wipes `key`.
    fn aead(&self, key: &[u8; 32]) -> Loaded<'p> {
        let slot = self.0.try_borrow_mut().ok().and_then(|mut engine| engine.load(key));
        Loaded { slot, engine: self.0 }
    }
}

/// Frees the slot, so that a dropped connection leaves no key behind.
impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        if let (Some(slot), Ok(mut engine)) = (self.slot, self.engine.try_borrow_mut()) {
            engine.wipe(slot);
        }
    }
}

impl Loaded<'_> {
    /// Does one job and waits for it. The interface is not async, so this blocks the executor for
    /// as long as a record takes. The wait is bounded, because an engine may hang.
    fn run(&self, job: Job, nonce: &Nonce, associated: &[u8], text: &mut [u8]) -> Result<Tag, AeadError> {
        let slot = self.slot.ok_or(AeadError::new())?;
        let mut engine = self.engine.try_borrow_mut().map_err(|_| AeadError::new())?;
        let started = engine.start(slot, job, nonce, associated, text);
        started.ok_or(AeadError::new())?;
        if let Some(tag) = (0..PATIENCE).find_map(|_| engine.poll()) {
            return Ok(tag);
        }
        engine.reset();
        Err(AeadError::new())
    }
}

/// The connection provides the nonces, and none twice with one key. A nonce has 12 bytes; the
/// counter of GCM after it begins at 2. If `seal` fails, the connection ends with `KeyExhausted`.
/// If `open` fails, it ends with `Tampered`, and during the handshake with `Unauthenticated` or
/// `Refused`.
impl Aead for Loaded<'_> {
    /// `out` is one text: its front is there in plain, and its last `body.len()` bytes are for
    /// `body`. All of it is encrypted under one tag. An engine with scatter-gather DMA can read the
    /// body in place. This one needs a contiguous text, so the body is copied.
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let front = out.len().checked_sub(body.len()).ok_or(AeadError::new())?;
        let place = out.get_mut(front..).ok_or(AeadError::new())?;
        place.copy_from_slice(body);
        self.run(Job::Seal, nonce, associated, out)
    }

    /// The tag is compared before the plaintext is used, and in constant time, so that a peer
    /// cannot measure how many bytes were right. On failure the text is unchanged.
    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        let computed = self.run(Job::Open, nonce, associated, text)?;
        if computed.ct_eq(tag).into() {
            return Ok(());
        }
        // Encrypted again. An engine that can hash without decrypting compares first instead.
        if self.run(Job::Seal, nonce, associated, text).is_err() {
            text.fill(0);
        }
        Err(AeadError::new())
    }
}

/// What the engine does not support is done in software.
impl NoiseCrypto for Chip<'_> {
    type PrivateKey = <RustCrypto as NoiseCrypto>::PrivateKey;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        RustCrypto.private_key(bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        RustCrypto.x25519_public(private)
    }

    fn x25519(&self, private: &Self::PrivateKey, public: &[u8; 32]) -> [u8; 32] {
        RustCrypto.x25519(private, public)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.hmac_sha256(key, parts)
    }
}

/// Compares the engine with software: lengths around a block, a front before the body, associated
/// data, and a wrong tag. Run this on the device first.
fn check(chip: &impl Crypto) -> Result<(), AeadError> {
    let (engine, software) = (chip.aead(&[7; 32]), RustCrypto.aead(&[7; 32]));
    let (nonce, with) = ([9; 12], b"associated");
    for length in [0, 1, 15, 16, 17, 112, 113, 512] {
        let (mut buffer, body) = ([3; 520], [5; 512]);
        let body = body.get(..length).ok_or(AeadError::new())?;
        let text = buffer.get_mut(..7 + length).ok_or(AeadError::new())?;
        let tag = engine.seal(&nonce, with, text, body)?;
        let mut sealed = [0; 520];
        let sealed = sealed.get_mut(..text.len()).ok_or(AeadError::new())?;
        sealed.copy_from_slice(text);
        let wrong = tag.map(|byte| byte ^ 1);
        assert!(engine.open(&nonce, with, text, &wrong).is_err() && text == sealed);
        engine.open(&nonce, with, text, &tag)?;
        software.open(&nonce, with, sealed, &tag)?;
        assert!(text == sealed && text.starts_with(&[3; 7]) && text.ends_with(body));
    }
    Ok(())
}

/// Moves bytes from one side to the other.
fn carry<A: Role, B: Role, G: KeyRef<A>, H: KeyRef<B>>(
    from: &mut BufferedConnection<A, G, ([u8; 514], [u8; 514])>,
    to: &mut BufferedConnection<B, H, ([u8; 514], [u8; 514])>,
) -> Result<(), StorageFull> {
    let (space, unsent) = (to.space()?, from.unsent());
    let count = space.len().min(unsent.len());
    space.iter_mut().zip(unsent).for_each(|(to, from)| *to = *from);
    to.filled(count);
    from.sent(Instant::ZERO, count);
    Ok(())
}

/// Bytes of a client's connection without its buffers.
const fn connection<C: NoiseCrypto>() -> usize {
    size_of::<ClientConnection<&NoiseClient<FixedTable<1>, C>>>()
}

fn main() -> Result<(), Box<dyn Error>> {
    let engine = RefCell::new(Engine::default());
    check(&Chip(&engine))?;
    println!("the engine seals and opens as the software does");

    engine.borrow_mut().counts = Counts::default();
    messages(Chip(&engine), 10)?;
    let counts = engine.borrow().counts;
    println!(
        "keys: {} loaded, {} wiped, {} at once at most",
        counts.loaded, counts.wiped, counts.most
    );
    println!("jobs: {} sealed, {} opened", counts.sealed, counts.opened);
    // Two keys on each side for the handshake and two for the connection. Those of the handshake
    // were wiped at once.
    assert_eq!(
        (counts.loaded, counts.wiped, counts.most, engine.borrow().held()),
        (8, 8, 4, 0)
    );
    // What one side sealed, the other opened.
    assert_eq!(counts.sealed, counts.opened);

    let others: Vec<_> = (0..peripheral::SLOTS).map(|_| Chip(&engine).aead(&[1; 32])).collect();
    let refused = messages(Chip(&engine), 0)
        .err()
        .ok_or("an engine without a free slot was used")?;
    assert_eq!(
        refused.downcast_ref(),
        Some(&falco_embedded::Error::<Infallible>::Connection(
            ConnectionError::KeyExhausted
        ))
    );
    println!("without a free slot: {refused}");
    drop(others);

    let (hardware, software) = (connection::<Chip<'_>>(), connection::<RustCrypto>());
    println!("a connection is {hardware} bytes with its keys in the engine, and {software} with schedules in memory");
    assert!(hardware < software);
    Ok(())
}

/// A client and a server over one engine, with so many requests.
fn messages(chip: Chip<'_>, count: u8) -> Result<(), Box<dyn Error>> {
    let (settings, now) = (
        Settings::new().with_max_record(512)?.with_max_message(512),
        Instant::ZERO,
    );
    let key = NoiseClient::<FixedTable<1>, _>::new(Key::from_bytes([7; 32])?, &b""[..], chip)?;
    let mut client = BufferedClient::start(&key, &settings, now, &mut SysRng, ([0; 514], [0; 514]))?;
    let secret = NoiseSecret::derive(Key::from_bytes([7; 32])?, &chip);
    let ring = KeyRing::new([Some(secret)], &mut SysRng)?;
    let key = NoiseServer::<FixedTable<1>, _, _>::new(ring, &b""[..], chip)?;
    let memory = (([0; 514], [0; 514]), ([0; 512], [0; 512]));
    let mut server = BufferedServer::start(&key, &settings, now, &mut SysRng, memory.0, memory.1)?;
    for number in 0..=count {
        let body = [number; 500];
        let body = body.get(..usize::from(number) * 50).unwrap_or_default();
        let mut ask = client.request(body, [0; 512])?;
        let length = loop {
            let _ = client.step(now, Some(&mut ask))?;
            if let Some(length) = ask.answered()? {
                break length;
            }
            let _ = server.step(now)?;
            if let Some((request, answer)) = server.request() {
                let length = request.len();
                answer.iter_mut().zip(request).for_each(|(to, from)| *to = *from);
                server.answer(length);
            }
            carry(client.connection_mut(), server.connection_mut())?;
            carry(server.connection_mut(), client.connection_mut())?;
        };
        assert_eq!(ask.into_parts().1.get(..length), Some(body));
    }
    Ok(())
}
