//! The AEAD of a connection in a hardware engine of the chip, through the seam
//! `falco_core::crypto`. `Chip` and `Loaded` are what firmware writes. A mock in `peripheral`
//! stands for the engine, with software for its silicon. It fails where something is not as it
//! prints.
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

/// How often the engine is asked whether it is done before it counts as broken.
const PATIENCE: usize = 10_000;

/// The engine as cryptography for connections. It is lent: the peripheral is owned by whoever owns
/// the chip, lives longer than keys and connections, and is shared by them all.
///
/// A `RefCell` is enough where all of them are driven by one executor or one loop, as no call of
/// the seam lasts beyond its return. Where an interrupt uses the engine too, it has to be a mutex
/// of critical sections.
#[derive(Clone, Copy)]
struct Chip<'p>(&'p RefCell<Engine>);

/// One key: where it stands in the engine. Nothing of it is in memory.
struct Loaded<'p> {
    /// None where all slots were taken. `aead` cannot fail, so the key fails at its first use, and
    /// ends its connection and no other.
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

/// The key goes with its handle: a connection that was dropped leaves none behind.
impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        if let (Some(slot), Ok(mut engine)) = (self.slot, self.engine.try_borrow_mut()) {
            engine.wipe(slot);
        }
    }
}

impl Loaded<'_> {
    /// One job from beginning to end. The seam is not async, so this waits for as long as a record
    /// takes, and everything on its executor with it. The wait has an end, since silicon may hang.
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

/// The contract. A nonce comes from the connection, and never twice with one key, so it is taken as
/// it is: 12 bytes, the counter of GCM after it begins at 2. A failure of `seal` ends the
/// connection as `KeyExhausted`, one of `open` as `Tampered`, or in the handshake as with a wrong
/// key: `Unauthenticated`, `Refused`.
impl Aead for Loaded<'_> {
    /// `out` is one text: its front stands there in plain, and its last `body.len()` bytes are for
    /// `body`. All of it is sealed in one pass under one tag. An engine whose DMA takes a list of
    /// pieces reads the body where it lies; this one is given one piece, so the body is copied.
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let front = out.len().checked_sub(body.len()).ok_or(AeadError::new())?;
        let place = out.get_mut(front..).ok_or(AeadError::new())?;
        place.copy_from_slice(body);
        self.run(Job::Seal, nonce, associated, out)
    }

    /// The tag is compared before anybody sees what was decrypted, in constant time: how many bytes
    /// of it were right is nobody's to learn. On failure the text is as it came.
    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        let computed = self.run(Job::Open, nonce, associated, text)?;
        if computed.ct_eq(tag).into() {
            return Ok(());
        }
        // Turned back. An engine that can hash without decrypting compares first instead.
        if self.run(Job::Seal, nonce, associated, text).is_err() {
            text.fill(0);
        }
        Err(AeadError::new())
    }
}

/// What the engine does not do is handed on.
impl NoiseCrypto for Chip<'_> {
    fn x25519_public(&self, private: &[u8; 32]) -> [u8; 32] {
        RustCrypto.x25519_public(private)
    }

    fn x25519(&self, private: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
        RustCrypto.x25519(private, public)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.hmac_sha256(key, parts)
    }
}

/// The engine against software, to be run on the device first: lengths around a block, a front
/// before the body, associated data, and a wrong tag.
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

/// What a serial port does.
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

/// Bytes of a client's connection beside its buffers.
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
    // Two keys on each side for the handshake and two for the connection, of which all but those of
    // the connection were gone at once.
    assert_eq!(
        (counts.loaded, counts.wiped, counts.most, engine.borrow().held()),
        (8, 8, 4, 0)
    );
    // What the one side sealed the other opened.
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

/// A client and a server over one engine, and so many requests.
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
