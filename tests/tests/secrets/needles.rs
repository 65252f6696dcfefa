//! What must not be found: the secrets of keys and of connections, computed from what both sides
//! drew and from the bytes of the handshake.

use falco_core::RustCrypto;
use falco_core::crypto::NoiseCrypto;

use super::aes;
use super::draws::{Who, draw};

/// Draws of either side among which its ephemeral secrets are.
const DRAWS: u64 = 64;
/// Records after which a key is replaced here.
pub(crate) const PERIOD: u64 = 8;
/// Keys that a direction has at most, one after the other.
pub(crate) const GENERATIONS: usize = 8;

/// What a secret is, which decides where it may be at what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The bytes of key `number`, or of the schedule that the classic wire encrypts with.
    Key(u64),
    /// What the noise wire derives from key `number`.
    Psk(u64),
    /// A secret of the handshake of a connection: an ephemeral key, a result of Diffie-Hellman, a
    /// state in between.
    Handshake(usize),
    /// A key that encrypts the records of connection `0`, in one direction and generation.
    Records(usize, Direction, usize),
}

/// Which part of a secret a needle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// All of it, or half of something that is not expanded.
    Whole,
    /// A round key. The first two are the key itself.
    Round(usize),
    /// The key of the hash, from which the cipher's key does not follow.
    Hash,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    FromClient,
    FromServer,
}

/// 16 bytes that must not be found.
#[derive(Debug)]
pub(crate) struct Needle {
    pub(crate) bytes: [u8; 16],
    pub(crate) kind: Kind,
    pub(crate) part: Part,
    /// The name of the secret, and of what the needle is of it.
    pub(crate) secret: String,
    pub(crate) what: String,
}

/// The first two messages of a connection on the noise wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshake {
    pub(crate) hello: Vec<u8>,
    pub(crate) welcome: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Needles(pub(crate) Vec<Needle>);

impl Needles {
    fn add(&mut self, kind: Kind, part: Part, secret: &str, what: &str, bytes: [u8; 16]) {
        self.0.push(Needle {
            bytes,
            kind,
            part,
            secret: secret.to_owned(),
            what: format!("{what}{secret}"),
        });
    }

    /// Both halves of something that is not expanded.
    fn halves(&mut self, kind: Kind, secret: &str, bytes: &[u8; 32]) {
        let (halves, _) = bytes.as_chunks();
        for (half, what) in halves.iter().zip(["first half of ", "second half of "]) {
            self.add(kind, Part::Whole, secret, what, *half);
        }
    }

    /// A key of AES-256-GCM, with what an implementation expands it to.
    fn cipher(&mut self, kind: Kind, secret: &str, key: &[u8; 32]) {
        for (round, bytes) in aes::round_keys(key).into_iter().enumerate() {
            self.add(
                kind,
                Part::Round(round),
                secret,
                &format!("round key {round} of "),
                bytes,
            );
        }
        let hash = aes::encrypt(key, [0; 16]);
        self.add(kind, Part::Hash, secret, "hash key of ", hash);
        self.add(
            kind,
            Part::Hash,
            secret,
            "hash key, as POLYVAL has it, of ",
            polyval(hash),
        );
    }

    /// The secrets of key `number`, wherever it is used.
    pub(crate) fn of_key(&mut self, number: u64, classic: bool) {
        let key = secret_of(number);
        let what = format!("key {number}");
        if classic {
            self.cipher(Kind::Key(number), &what, &key);
            return;
        }
        self.halves(Kind::Key(number), &what, &key);
        self.halves(Kind::Psk(number), &format!("the pre-shared key of {what}"), &psk(&key));
    }

    /// The secrets of a client whose hello under key `number` has no answer.
    pub(crate) fn of_hello(&mut self, number: u64, hello: &[u8]) {
        let (clear, hello) = hello.split_at(10);
        let (to_server, _) = hello.split_at(32);
        let client = private_of(Who::Client, to_server);
        let mut noise = Noise {
            needles: self,
            kind: Kind::Handshake(0),
            name: "the refused handshake".to_owned(),
            chaining_key: *PROTOCOL,
            hash: RustCrypto.sha256(&[PROTOCOL, b"FalcoTCP-noise/1", clear, &[0, 0]]),
        };
        noise.keep("the client's ephemeral key", &client);
        noise.mix_psk(&psk(&secret_of(number)));
        noise.mix_hash(to_server);
        let key = noise.mix_key("first", to_server.try_into().expect("32 bytes"));
        noise.one_time("the key of the hello", &key);
    }

    /// The secrets of connection `at`, made under key `number`.
    pub(crate) fn of_connection(&mut self, at: usize, number: u64, handshake: &Handshake) {
        let (clear, hello) = handshake.hello.split_at(10);
        let (to_server, first) = hello.split_at(32);
        let (to_client, second) = handshake.welcome.split_at(32);
        let (client, server) = (private_of(Who::Client, to_server), private_of(Who::Server, to_client));
        let mut noise = Noise {
            needles: self,
            kind: Kind::Handshake(at),
            name: format!("connection {at}"),
            chaining_key: *PROTOCOL,
            hash: RustCrypto.sha256(&[PROTOCOL, b"FalcoTCP-noise/1", clear, &[0, 0]]),
        };
        noise.keep("the client's ephemeral key", &client);
        noise.keep("the server's ephemeral key", &server);
        noise.mix_psk(&psk(&secret_of(number)));
        noise.mix_hash(to_server);
        let key = noise.mix_key("first", to_server.try_into().expect("32 bytes"));
        noise.one_time("the key of the hello", &key);
        noise.mix_hash(first);
        noise.mix_hash(to_client);
        noise.mix_key("second", to_client.try_into().expect("32 bytes"));
        let shared = RustCrypto.x25519(
            &RustCrypto.private_key(&client),
            to_client.try_into().expect("32 bytes"),
        );
        noise.keep("the shared secret", &shared);
        let key = noise.mix_key("third", &shared);
        noise.one_time("the key of the welcome", &key);
        noise.mix_hash(second);
        let (temporary, from_client, from_server) = noise.expand(&[]);
        noise.keep("what both keys come from", &temporary);
        for (direction, mut key) in [
            (Direction::FromClient, from_client),
            (Direction::FromServer, from_server),
        ] {
            for generation in 0..GENERATIONS {
                let what = format!("key {generation} {direction:?} of connection {at}");
                self.cipher(Kind::Records(at, direction, generation), &what, &key);
                key = rekeyed(&key);
            }
        }
    }
}

const PROTOCOL: &[u8; 32] = b"Noise_NNpsk0_25519_AESGCM_SHA256";

/// The symmetric state of a handshake, which keeps all that it passes through.
struct Noise<'n> {
    needles: &'n mut Needles,
    kind: Kind,
    name: String,
    chaining_key: [u8; 32],
    hash: [u8; 32],
}

impl Noise<'_> {
    fn keep(&mut self, what: &str, secret: &[u8; 32]) {
        let what = format!("{what} of {}", self.name);
        self.needles.halves(self.kind, &what, secret);
    }

    fn one_time(&mut self, what: &str, key: &[u8; 32]) {
        let what = format!("{what} of {}", self.name);
        self.needles.cipher(self.kind, &what, key);
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = RustCrypto.sha256(&[&self.hash, data]);
    }

    fn expand(&self, input: &[&[u8]]) -> ([u8; 32], [u8; 32], [u8; 32]) {
        let temporary = RustCrypto.hmac_sha256(&self.chaining_key, input);
        let first = RustCrypto.hmac_sha256(&temporary, &[&[1]]);
        let second = RustCrypto.hmac_sha256(&temporary, &[&first, &[2]]);
        (temporary, first, second)
    }

    fn mix_key(&mut self, which: &str, input: &[u8; 32]) -> [u8; 32] {
        let (temporary, first, second) = self.expand(&[input]);
        self.keep(&format!("temporary key of the {which} mix"), &temporary);
        self.keep(&format!("chaining key of the {which} mix"), &first);
        self.chaining_key = first;
        second
    }

    fn mix_psk(&mut self, psk: &[u8; 32]) {
        let hashed = self.mix_key("pre-shared key's", psk);
        self.keep("what of the pre-shared key is hashed", &hashed);
        self.mix_hash(&hashed);
    }
}

fn secret_of(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    draw(Who::Keys, number, &mut key);
    key
}

fn psk(key: &[u8; 32]) -> [u8; 32] {
    RustCrypto.hmac_sha256(key, &[b"FalcoTCP-noise/1 psk"])
}

/// The ephemeral secret of `public`.
fn private_of(who: Who, public: &[u8]) -> [u8; 32] {
    let drawn = |number| {
        let mut private = [0; 32];
        draw(who, number, &mut private);
        private
    };
    let found = (0..DRAWS)
        .map(drawn)
        .find(|private| RustCrypto.x25519_public(&RustCrypto.private_key(private)) == public);
    found.unwrap_or_else(|| panic!("the {who:?} drew its ephemeral key within the first {DRAWS} draws"))
}

/// REKEY of Noise: the first 32 bytes of what zeros become under the largest nonce.
fn rekeyed(key: &[u8; 32]) -> [u8; 32] {
    let block = |counter: u32| {
        let mut block = [0; 16];
        block[4..12].fill(0xFF);
        block[12..].copy_from_slice(&counter.to_be_bytes());
        aes::encrypt(key, block)
    };
    let halves = [block(2), block(3)];
    halves.as_flattened().try_into().expect("32 bytes")
}

/// The hash key of GCM as an implementation of POLYVAL takes it (RFC 8452, appendix A).
fn polyval(hash_key: [u8; 16]) -> [u8; 16] {
    let number = u128::from_be_bytes(hash_key);
    let carry = number >> 127;
    let reduced = (number << 1) ^ carry ^ (carry << 127) ^ (carry << 126) ^ (carry << 121);
    reduced.to_le_bytes()
}
