//! AES-256 as the standard describes it (FIPS 197), for the round keys that an implementation keeps
//! in memory. It is slow, and only used on keys of tests.

use std::sync::LazyLock;

/// The 15 round keys of `key`.
pub(crate) fn round_keys(key: &[u8; 32]) -> [[u8; 16]; 15] {
    let mut words: Vec<[u8; 4]> = key.as_chunks().0.to_vec();
    let mut constant = 1;
    for at in 8..60 {
        let mut word = words[at - 1];
        if at % 8 == 0 {
            word.rotate_left(1);
            word = word.map(substitute);
            word[0] ^= constant;
            constant = double(constant);
        } else if at % 8 == 4 {
            word = word.map(substitute);
        }
        words.push(core::array::from_fn(|byte| word[byte] ^ words[at - 8][byte]));
    }
    core::array::from_fn(|round| core::array::from_fn(|byte| words[4 * round + byte / 4][byte % 4]))
}

/// One block, encrypted.
pub(crate) fn encrypt(key: &[u8; 32], block: [u8; 16]) -> [u8; 16] {
    let [first, rounds @ .., last] = round_keys(key);
    let mut state = xor(block, first);
    for round in rounds {
        state = xor(mixed(shifted(state.map(substitute))), round);
    }
    xor(shifted(state.map(substitute)), last)
}

fn xor(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|at| a[at] ^ b[at])
}

fn shifted(state: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|at| state[(at + 4 * (at % 4)) % 16])
}

fn mixed(state: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|at| {
        let of = |row: usize| state[at / 4 * 4 + (at + row) % 4];
        double(of(0)) ^ double(of(1)) ^ of(1) ^ of(2) ^ of(3)
    })
}

const fn double(byte: u8) -> u8 {
    (byte << 1) ^ if byte & 0x80 == 0 { 0 } else { 0x1B }
}

fn product(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b > 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    product
}

fn substitute(byte: u8) -> u8 {
    static TABLE: LazyLock<[u8; 256]> =
        LazyLock::new(|| core::array::from_fn(|byte| substituted(u8::try_from(byte).expect("it is small"))));
    TABLE[usize::from(byte)]
}

fn substituted(byte: u8) -> u8 {
    // The inverse is the 254th power.
    let inverse = (0..254).fold(1, |power, _| product(power, byte));
    let rotated = |by: u32| inverse.rotate_left(by);
    rotated(0) ^ rotated(1) ^ rotated(2) ^ rotated(3) ^ rotated(4) ^ 0x63
}

#[test]
fn it_agrees_with_the_example_of_the_standard() {
    let key = core::array::from_fn(|at| u8::try_from(at).unwrap());
    let block = core::array::from_fn(|at| u8::try_from(0x11 * at).unwrap());
    let expected = 0x8EA2_B7CA_5167_45BF_EAFC_4990_4B49_6089_u128;
    assert_eq!(encrypt(&key, block), expected.to_be_bytes());
}
