//! The wire that this image speaks, and how much memory it needs.

use core::time::Duration;

use falco_core::{ClientConnection, ServerConnection, Settings};
#[cfg(feature = "noise")]
use falco_core::{RustCrypto, crypto::Crypto};
use falco_embedded::{BufferedClient, BufferedServer};

use crate::board::{Entropy, Factory};

/// The largest record that is read, in bytes. It determines the size of the buffers.
pub(crate) const MAX_RECORD: u16 = 512;
/// The largest message, in bytes. Those that do not fit a record are sent in parts.
#[cfg(feature = "noise")]
pub(crate) const MAX_MESSAGE: usize = 1024;
/// On the classic wire the buffer holds a message as a whole.
#[cfg(feature = "classic")]
pub(crate) const MAX_MESSAGE: usize = BUFFER - falco_core::BufferSizes::classic_request(0);
/// Room for one record with its length, or for one classic message with its header.
pub(crate) const BUFFER: usize = 514;

/// The limits of this device, with a lifetime short enough to run out during the test.
pub(crate) fn settings() -> Option<Settings> {
    Settings::new()
        .with_max_message(u32::try_from(MAX_MESSAGE).ok()?)
        .with_max_record(MAX_RECORD)
        .ok()?
        .with_max_in_flight(1)
        .ok()?
        .with_lifetime(Duration::from_millis(1500))
        .ok()?
        .with_handshake_timeout(Duration::from_secs(2))
        .ok()
        .map(|settings| settings.with_keep_alive(false))
}

#[cfg(feature = "noise")]
mod spoken {
    use falco_core::RustCrypto;
    use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};

    use super::{Entropy, Factory};

    /// The host uses an empty one, too.
    const CONTEXT: &[u8] = b"";

    pub(crate) type ClientKey = NoiseClient<FixedTable<1>, RustCrypto>;
    pub(crate) type ServerKey = NoiseServer<FixedTable<1>, KeyRing<[Option<NoiseSecret>; 1]>, RustCrypto>;

    /// A key of this wire remembers nothing.
    pub(crate) struct Cache;

    #[expect(clippy::unnecessary_wraps, reason = "on the other wire it may fail")]
    pub(crate) const fn cache(_: &Entropy) -> Option<Cache> {
        Some(Cache)
    }

    pub(crate) fn client_key(factory: &Factory, difference: u8, _: &'static Cache) -> Option<ClientKey> {
        NoiseClient::new(factory.key(difference)?, CONTEXT, RustCrypto).ok()
    }

    pub(crate) fn server_key(factory: &Factory, _: &'static Cache, mut entropy: &Entropy) -> Option<ServerKey> {
        let secret = NoiseSecret::derive(factory.key(0)?, &RustCrypto);
        let ring = KeyRing::new([Some(secret)], &mut entropy).ok()?;
        NoiseServer::new(ring, CONTEXT, RustCrypto).ok()
    }
}

#[cfg(feature = "classic")]
mod spoken {
    use falco_core::{ClassicKey, FixedReplayCache};

    use super::{Entropy, Factory};

    /// How many nonces are remembered, with 20 bytes each. A request and its answer have one each.
    const REMEMBERED: usize = 64;

    pub(crate) type Cache = FixedReplayCache<REMEMBERED>;
    /// The key refers to its cache, so that less is moved on the stack when either is made.
    pub(crate) type ClientKey = ClassicKey<&'static Cache>;
    pub(crate) type ServerKey = ClientKey;

    #[inline]
    pub(crate) fn cache(mut entropy: &Entropy) -> Option<Cache> {
        FixedReplayCache::new(&mut entropy).ok()
    }

    pub(crate) fn client_key(factory: &Factory, difference: u8, cache: &'static Cache) -> Option<ClientKey> {
        Some(ClassicKey::new(factory.key(difference)?, cache))
    }

    pub(crate) fn server_key(factory: &Factory, cache: &'static Cache, _: &Entropy) -> Option<ServerKey> {
        client_key(factory, 0, cache)
    }
}

pub(crate) use spoken::{Cache, ClientKey, ServerKey, cache, client_key, server_key};

/// Bytes of a connection without buffers: the larger of a client and a server.
pub(crate) const CONNECTION: usize = larger(
    size_of::<ClientConnection<&ClientKey>>(),
    size_of::<ServerConnection<&ServerKey>>(),
);

/// The same for a buffered connection, whose buffers have size 0 here.
pub(crate) const BUFFERED: usize = larger(
    size_of::<BufferedClient<&ClientKey, ([u8; 0], [u8; 0])>>(),
    size_of::<BufferedServer<&ServerKey, ([u8; 0], [u8; 0]), ([u8; 0], [u8; 0])>>(),
);

// It contains the key schedules of both directions.
#[cfg(feature = "noise")]
const _: () = assert!(CONNECTION > 2 * size_of::<<RustCrypto as Crypto>::Aead>());

const fn larger(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}
