//! The interface to cryptography: what every implementation must do, and that the default one is
//! AES-256-GCM.
use crate::provider::{LEAVES_REFUSED_TEXT, Provider};
use falco_core::crypto::{Aead, AeadError, Crypto};
use falco_core::testing::NoSecurity;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Test case 16 of "The Galois/Counter Mode of Operation" (`McGrew` and Viega), with associated
/// data.
#[test]
fn the_default_is_aes_256_gcm() {
    let key = unhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
        .try_into()
        .unwrap();
    let nonce = unhex("cafebabefacedbaddecaf888").try_into().unwrap();
    let associated = unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let text = unhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let sealed = unhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    );
    let aead = of::<Provider>().aead(&key);
    let mut out = vec![0; text.len()];
    let tag = aead.seal(&nonce, &associated, &mut out, &text).unwrap();
    assert_eq!(
        (out.as_slice(), tag.as_slice()),
        (sealed.as_slice(), unhex("76fc6ece0f4e1768cddf8853bb2d551b").as_slice())
    );
    aead.open(&nonce, &associated, &mut out, &tag).unwrap();
    assert_eq!(out, text);
}

fn of<C: Crypto + Default>() -> C {
    C::default()
}

fn keeps_the_contract(crypto: &impl Crypto, leaves_refused_text: bool) {
    let aead = crypto.aead(&[7; 32]);
    let (nonce, associated, text) = ([3; 12], b"associated", b"a text that lies in two places");
    let mut whole = *text;
    let tag = aead.seal(&nonce, associated, &mut whole, text).unwrap();
    for split in 0..=text.len() {
        // Bytes before the body are sealed in place, and the body is read from its own place.
        let mut out = [0xEE; 30];
        out[..split].copy_from_slice(&text[..split]);
        assert_eq!(
            aead.seal(&nonce, associated, &mut out, &text[split..]),
            Ok(tag),
            "split at {split}"
        );
        assert_eq!(out, whole);
        assert_eq!(aead.open(&nonce, associated, &mut out, &tag), Ok(()));
        assert_eq!(&out, text);
    }
    assert_eq!(
        aead.seal(&nonce, associated, &mut [0; 29], text),
        Err(AeadError::new()),
        "no room for the body"
    );
    let mut nothing = [];
    let empty = aead.seal(&nonce, associated, &mut nothing, &[]).unwrap();
    assert_eq!(aead.open(&nonce, associated, &mut nothing, &empty), Ok(()));

    let mut other = [7; 32];
    other[31] = 8;
    // Another tag, nonce, key or associated data, or one changed bit of the text: it is refused,
    // and the text stays as it was, or nobody may read it.
    let refused = |aead: &dyn Fn(&mut [u8]) -> Result<(), AeadError>, text: &[u8]| {
        let mut bytes = text.to_vec();
        assert_eq!(aead(&mut bytes), Err(AeadError::new()));
        assert!(bytes == text || !leaves_refused_text);
    };
    for bit in 0..128 {
        let mut wrong = tag;
        wrong[bit / 8] ^= 1 << (bit % 8);
        refused(&|text| aead.open(&nonce, associated, text, &wrong), &whole);
    }
    refused(&|text| aead.open(&[4; 12], associated, text, &tag), &whole);
    refused(&|text| aead.open(&nonce, b"Associated", text, &tag), &whole);
    refused(&|text| crypto.aead(&other).open(&nonce, associated, text, &tag), &whole);
    for bit in 0..whole.len() * 8 {
        let mut wrong = whole;
        wrong[bit / 8] ^= 1 << (bit % 8);
        refused(&|text| aead.open(&nonce, associated, text, &tag), &wrong);
    }
}

#[test]
fn the_default_keeps_the_contract_of_the_interface() {
    keeps_the_contract(&of::<Provider>(), LEAVES_REFUSED_TEXT);
}

#[test]
fn the_one_without_security_keeps_it_too() {
    keeps_the_contract(&of::<NoSecurity>(), true);
}
