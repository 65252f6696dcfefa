//! How long a server takes to refuse a hello with a key id that it does not know, beside one with
//! an id that it knows and a wrong key, as distributions: `key_id_timing [ROUNDS]`, with 100,000
//! hellos of each kind by default. The ring holds 64 keys, and the known id is the first of them,
//! the last, or none.
//!
//! The sorts are interleaved in random order. One of them stands twice: how far its two
//! distributions lie apart is what chance does, and no other two should lie further apart than that
//! by much.

use core::hint::black_box;
use std::sync::RwLock;
use std::time::Instant;

use falco_core::noise::{HeapTable, KeyRing, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, RawHandshake, key};
use falco_core::{ConnectionError, RustCrypto, ServerConnection, Settings, Unread};

type Ring = RwLock<KeyRing<Vec<Option<NoiseSecret>>>>;
type Keys = NoiseServer<HeapTable, Ring, RustCrypto>;

const KEYS: u8 = 64;
const SORTS: [&str; 4] = [
    "first id, wrong key",
    "last id, wrong key",
    "unknown id",
    "unknown id, again",
];

/// A hello under `wrong`, with the key id of `named`.
fn hello(named: u8, wrong: u8) -> Vec<u8> {
    let mut handshake = RawHandshake::new(RustCrypto, wrong);
    handshake.clear = RawHandshake::new(RustCrypto, named).clear;
    handshake.hello()
}

/// Nanoseconds that a server takes over this hello.
fn refuse(keys: &Keys, hello: &[u8], seed: u64) -> u64 {
    let now = falco_core::Instant::ZERO;
    let mut server =
        ServerConnection::new(keys, &Settings::new(), now, &mut CountingRng::new(seed)).expect("it counts");
    let mut unread = hello.to_vec();
    let start = Instant::now();
    let received = black_box(server.recv(now, Unread::new(black_box(&mut unread), &mut 0)));
    let took = start.elapsed();
    assert_eq!(received, Err(ConnectionError::Unauthenticated));
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn main() {
    let rounds: usize = std::env::args()
        .nth(1)
        .map_or(100_000, |word| word.parse().expect("a number of rounds"));
    let places = (1..=KEYS).map(|byte| Some(NoiseSecret::derive(key(byte), &RustCrypto)));
    let ring = KeyRing::new(places.collect(), &mut CountingRng::new(0)).expect("no two are alike");
    let keys = Keys::new(RwLock::new(ring), &[][..], RustCrypto).expect("an empty context is not too long");
    let hellos = [hello(1, 200), hello(KEYS, 200), hello(201, 200), hello(202, 200)];
    let mut times = [const { Vec::new() }; SORTS.len()];
    // Xorshift: the order must not be predictable for a cache or a clock.
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    while times.iter().any(|times| times.len() < rounds) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let [.., chance] = (random >> 32).to_be_bytes();
        let sort = usize::from(chance) % SORTS.len();
        if let (Some(times), Some(hello)) = (times.get_mut(sort), hellos.get(sort)) {
            let took = refuse(&keys, hello, random);
            if times.len() < rounds {
                times.push(took);
            }
        }
    }
    println!("nanoseconds to refuse a hello; {rounds} of each sort, {KEYS} keys in the ring");
    println!(
        "{:22}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "", "1 %", "25 %", "50 %", "75 %", "99 %"
    );
    let percentiles = times.map(|mut times| {
        times.sort_unstable();
        [1, 25, 50, 75, 99].map(|percent| times.get(times.len() * percent / 100).copied().unwrap_or(0))
    });
    let row = |name: &str, row: [i64; 5]| {
        print!("{name:22}");
        for value in row {
            print!("{value:>8}");
        }
        println!();
    };
    let signed = percentiles.map(|row| row.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
    for (name, values) in SORTS.iter().zip(signed) {
        row(name, values);
    }
    let [first, last, unknown, again] = signed;
    println!("differences");
    for (name, one, other) in [
        ("chance alone", again, unknown),
        ("unknown - first id", unknown, first),
        ("unknown - last id", unknown, last),
    ] {
        let mut difference = one;
        difference.iter_mut().zip(other).for_each(|(one, other)| *one -= other);
        row(name, difference);
    }
}
