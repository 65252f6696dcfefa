//! Keys as connections share them: expanded once, on the noise wire, the classic wire, or both. How they are used is the core's.

use core::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use falco_core::noise::{KeyId, KeyRing, NoiseClient, NoiseSecret, NoiseServer, RequestSlot, Ring};
use falco_core::{ClassicKey, EntropyError, Key, NonceLedger, NonceSlot, RustCrypto, Wires};
use getrandom::SysRng;

use crate::error::{Error, SetupError};

/// A classic key with the memory of its nonces, for threads to share.
type Classic = ClassicKey<Mutex<NonceLedger<Box<[NonceSlot]>>>>;
type Table = Vec<RequestSlot>;

/// What a client's connections share.
pub(crate) type ClientKeys = Wires<NoiseClient<Table, RustCrypto, Vec<u8>>, Classic>;
/// What a server's connections share.
pub(crate) type ServerKeys = Wires<NoiseServer<Table, ServerRing, RustCrypto, Vec<u8>>, Classic>;

/// How many keys a server's ring has places for, at the least.
const PLACES: usize = 64;

/// What an owner has set, until it is made into keys.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) noise: Vec<Key>,
    pub(crate) classic: Option<Key>,
    pub(crate) context: Vec<u8>,
    /// How many nonces the classic wire remembers.
    pub(crate) nonces: usize,
}

impl Secrets {
    /// The one key of a client.
    pub(crate) fn into_client(self) -> Result<ClientKeys, Error> {
        if let Some(key) = self.classic {
            return Ok(Wires::classic(classic(key, self.nonces)?));
        }
        let key = self.noise.into_iter().next().ok_or(SetupError::NoKey)?;
        let noise = NoiseClient::new(key, self.context, RustCrypto).map_err(SetupError::Context)?;
        Ok(Wires::noise(noise))
    }

    /// The keys of a server, and the id that its classic key would have on the noise wire: the ring never gets that one.
    pub(crate) fn into_server(self) -> Result<(ServerKeys, Option<KeyId>), Error> {
        let never = self.classic.as_ref().map(id_of);
        let noise = if self.noise.is_empty() {
            None
        } else {
            let mut places = Vec::new();
            places.resize_with(PLACES.max(self.noise.len()), || None);
            let ring = ServerRing(RwLock::new(
                KeyRing::new(places, &mut SysRng).map_err(SetupError::of_ring)?,
            ));
            for key in self.noise {
                ring.add(key, never)?;
            }
            Some(NoiseServer::new(ring, self.context, RustCrypto).map_err(SetupError::Context)?)
        };
        let classic = self.classic.map(|key| classic(key, self.nonces)).transpose()?;
        let wires = match (noise, classic) {
            (Some(noise), Some(classic)) => Wires::both(noise, classic),
            (Some(noise), None) => Wires::noise(noise),
            (None, Some(classic)) => Wires::classic(classic),
            (None, None) => return Err(SetupError::NoKey.into()),
        };
        Ok((wires, never))
    }
}

fn classic(key: Key, nonces: usize) -> Result<Classic, EntropyError> {
    let slots = vec![NonceSlot::EMPTY; nonces].into_boxed_slice();
    Ok(Classic::new(key, Mutex::new(NonceLedger::new(slots, &mut SysRng)?)))
}

/// The id that a key has on the noise wire. It says nothing of the secret.
pub(crate) fn id_of(key: &Key) -> KeyId {
    let mut text = [0; 64];
    key.write_hex(&mut text);
    let copy = Key::from_hex(&text).expect("the text form of a key is a key");
    text.fill(0);
    core::hint::black_box(&mut text);
    NoiseSecret::derive(copy, &RustCrypto).id()
}

/// The keys that a server takes on the noise wire, added and retired while it runs.
#[derive(Debug)]
pub(crate) struct ServerRing(RwLock<KeyRing<Vec<Option<NoiseSecret>>>>);

thread_local! {
    /// The key that the last hello on this thread named, if the ring had it.
    static SELECTED: Cell<Option<KeyId>> = const { Cell::new(None) };
}

impl ServerRing {
    /// Takes a key into service; never the one of the classic wire.
    pub(crate) fn add(&self, key: Key, never: Option<KeyId>) -> Result<KeyId, SetupError> {
        let secret = NoiseSecret::derive(key, &RustCrypto);
        if never == Some(secret.id()) {
            return Err(SetupError::KeyOnBothWires(secret.id()));
        }
        let mut ring = self.0.write().unwrap_or_else(PoisonError::into_inner);
        ring.add(secret).map_err(SetupError::of_ring)
    }

    /// Takes a key out of service; says whether it was in it.
    pub(crate) fn retire(&self, id: KeyId) -> bool {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retire(id)
    }

    /// Whether a key is in service.
    pub(crate) fn has(&self, id: KeyId) -> bool {
        let mut dropped = [0; 32];
        let known = self.0.select(id, &mut dropped);
        dropped.fill(0);
        core::hint::black_box(&mut dropped);
        known
    }

    /// The key that the last hello on this thread was opened with; told once.
    pub(crate) fn take_selected() -> Option<KeyId> {
        SELECTED.take()
    }
}

impl Ring for ServerRing {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        let known = self.0.select(id, psk);
        SELECTED.set(known.then_some(id));
        known
    }
}

/// Secrets that become a client's keys when they are first needed, so that all that is made from one builder shares them.
#[derive(Debug)]
pub(crate) struct KeySource(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Used up when `made` is there.
    fresh: Secrets,
    made: Option<Arc<ClientKeys>>,
}

impl KeySource {
    pub(crate) fn new(fresh: Secrets) -> Self {
        Self(Mutex::new(State { fresh, made: None }))
    }

    /// Changes what has not been made into keys yet.
    pub(crate) fn change(self, change: impl FnOnce(&mut Secrets)) -> Self {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).fresh);
        self
    }

    /// The shared keys; made at the first call.
    pub(crate) fn get(&self) -> Result<Arc<ClientKeys>, Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &state.made {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(core::mem::take(&mut state.fresh).into_client()?);
        state.made = Some(Arc::clone(&made));
        Ok(made)
    }
}
