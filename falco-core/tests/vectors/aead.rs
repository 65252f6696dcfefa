//! The AEAD compared with another implementation of AES-256-GCM.
use crate::provider::{LEAVES_REFUSED_TEXT, Provider};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use falco_core::crypto::{Aead, Crypto};
use proptest::prelude::*;

/// The ciphertext and the tag of the crate aes-gcm for `text`.
fn sealed(key: [u8; 32], nonce: [u8; 12], associated: &[u8], text: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let mut bytes = text.to_vec();
    let tag = Aes256Gcm::new(&key.into())
        .encrypt_inout_detached(&nonce.into(), associated, bytes.as_mut_slice().into())
        .expect("it is short enough");
    (bytes, tag.into())
}

/// Seals `text` with its first `prefix` bytes in place, compares it, opens it, and checks that one
/// changed bit makes opening fail.
fn compare(key: [u8; 32], nonce: [u8; 12], associated: &[u8], text: &[u8], prefix: usize, bit: usize) {
    let ours = Provider.aead(&key);
    let (theirs, their_tag) = sealed(key, nonce, associated, text);

    let mut out = vec![0xEE; text.len()];
    out[..prefix].copy_from_slice(&text[..prefix]);
    let tag = ours
        .seal(&nonce, associated, &mut out, &text[prefix..])
        .expect("short enough");
    assert_eq!(
        (&out, tag),
        (&theirs, their_tag),
        "{} bytes, {prefix} in place",
        text.len()
    );
    let mut joined = vec![0xEE; text.len() + 16];
    joined[..prefix].copy_from_slice(&text[..prefix]);
    ours.seal_with_tag(&nonce, associated, &mut joined, &text[prefix..])
        .expect("short enough");
    assert_eq!(joined, [&out[..], &tag].concat(), "with its tag");

    let mut changed = [&out[..], &tag].concat();
    changed[bit % (8 * (text.len() + 16)) / 8] ^= 1 << (bit % 8);
    let (changed, changed_tag) = changed.split_last_chunk_mut().expect("a tag");
    let before = changed.to_vec();
    ours.open(&nonce, associated, changed, changed_tag)
        .expect_err("it was changed");
    assert!(
        changed == before || !LEAVES_REFUSED_TEXT,
        "a refused text is left as it was"
    );

    ours.open(&nonce, associated, &mut out, &tag).expect("it was sealed so");
    assert_eq!(out, text);
}

#[test]
fn texts_of_every_length_up_to_some_batches_and_with_any_prefix_are_sealed_as_aes_gcm_does() {
    let text: Vec<u8> = (0..600).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
    for length in 0..=text.len() {
        let prefixes = [
            0,
            1,
            7,
            15,
            16,
            17,
            111,
            112,
            113,
            128,
            240,
            241,
            length.saturating_sub(1),
            length,
        ];
        for prefix in prefixes.into_iter().filter(|prefix| *prefix <= length) {
            compare([7; 32], [9; 12], &[], &text[..length], prefix, length + prefix);
        }
    }
}

#[test]
fn a_body_longer_than_the_output_is_refused() {
    Provider
        .aead(&[1; 32])
        .seal(&[0; 12], &[], &mut [0; 3], &[0; 4])
        .expect_err("there is no room");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_is_sealed_as_aes_gcm_does(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        associated in proptest::collection::vec(any::<u8>(), 0..40),
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            proptest::collection::vec(any::<u8>(), 0..20_000),
        ],
        prefix in any::<prop::sample::Index>(),
        bit in any::<usize>(),
    ) {
        let prefix = prefix.index(text.len() + 1);
        compare(key, nonce, &associated, &text, prefix, bit);
        compare(key, nonce, &[], &text, prefix, bit);
    }
}
