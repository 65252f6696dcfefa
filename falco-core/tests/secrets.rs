//! Keys and what must not be seen: text forms, refusals, and that no `Debug` and no error shows a
//! byte of a secret.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;
#[path = "common/shows.rs"]
mod shows;

use std::rc::Rc;

use common::{Script, ends_with, ms, owed};
use falco_core::testing::{CountingRng, Pair, replay_cache};
use falco_core::{
    ClassicKey, ClientConnection, EntropyError, FixedReplayCache, Key, KeyError, ServerConnection, Settings,
};
use shows::{printed, shows};

const TEXT: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";

fn secret() -> [u8; 32] {
    core::array::from_fn(|at| u8::from_str_radix(&TEXT[2 * at..2 * at + 2], 16).unwrap())
}

fn text_of(key: &Key) -> String {
    key.write_hex(&mut [0; 64]).to_owned()
}

#[test]
fn a_key_is_read_from_64_digits_of_either_case_with_white_space_around() {
    let upper = TEXT.to_uppercase();
    let mixed = [&TEXT[..31], &upper[31..]].concat();
    for text in [TEXT, &upper, &mixed, &format!("{TEXT}\n"), &format!(" \t{upper}\r\n")] {
        assert_eq!(text_of(&text.parse().unwrap()), TEXT);
        assert_eq!(text_of(&Key::from_hex(text.as_bytes()).unwrap()), TEXT);
    }
    assert_eq!(text_of(&Key::from_bytes(secret()).unwrap()), TEXT);
}

#[test]
fn anything_but_64_digits_is_refused_with_their_count() {
    let long = format!("{TEXT}a");
    let cases = [("", 0), ("  \n", 0), ("a3", 2), (&TEXT[..63], 63), (&long, 65)];
    for (text, digits) in cases {
        assert_eq!(text.parse::<Key>().unwrap_err(), KeyError::Text { digits });
    }
    // A letter that is no digit, in each place.
    for at in 0..64 {
        for wrong in [b'g', b' ', b'/', b':', b'@', b'`', 0xC3] {
            let mut text = *TEXT.as_bytes().first_chunk::<64>().unwrap();
            text[at] = wrong;
            // White space at the ends is not of the text.
            let digits = if wrong == b' ' && (at == 0 || at == 63) { 63 } else { 64 };
            assert_eq!(Key::from_hex(&text).unwrap_err(), KeyError::Text { digits });
        }
    }
    let right_length = KeyError::Text { digits: 64 }.to_string();
    assert!(
        right_length.ends_with("other characters"),
        "its length is right: {right_length}"
    );
}

#[test]
fn a_key_of_zeros_is_refused_and_one_bit_makes_a_key() {
    assert_eq!(Key::from_bytes([0; 32]).unwrap_err(), KeyError::AllZero);
    assert_eq!("0".repeat(64).parse::<Key>().unwrap_err(), KeyError::AllZero);
    assert_eq!(Key::generate(&mut Script(vec![0; 32])).unwrap_err(), KeyError::AllZero);
    for bit in 0..256 {
        let mut bytes = [0; 32];
        bytes[bit / 8] = 1 << (bit % 8);
        assert!(Key::from_bytes(bytes).is_ok());
    }
}

#[test]
fn a_key_is_generated_from_32_bytes_of_the_callers_generator_and_not_without() {
    let mut entropy = Script([secret().as_slice(), &[9]].concat());
    assert_eq!(text_of(&Key::generate(&mut entropy).unwrap()), TEXT);
    assert_eq!(entropy.0, [9]);
    assert_eq!(Key::generate(&mut Script(vec![1; 31])).unwrap_err(), KeyError::Entropy);
}

#[test]
fn without_entropy_there_is_no_connection() {
    // A client draws 128 bytes for its hello, a nonce, a serial number; a server the last two.
    let key = Rc::new(ClassicKey::new(secret_key(), replay_cache(4)));
    for drawn in 0..=144 {
        let client = ClientConnection::new(Rc::clone(&key), &Settings::new(), ms(0), &mut Script(vec![1; drawn]));
        assert_eq!(client.is_ok(), drawn == 144, "{drawn} bytes of entropy");
        let server = ServerConnection::new(Rc::clone(&key), &Settings::new(), ms(0), &mut Script(vec![1; drawn]));
        assert_eq!(
            server.map(|_| ()).map_err(|EntropyError { .. }| ()).is_ok(),
            drawn >= 16
        );
    }
}

fn secret_key() -> Key {
    Key::from_bytes(secret()).unwrap()
}

#[test]
fn the_search_for_secrets_finds_one_that_is_shown() {
    assert!(shows(&printed(&secret()), &secret()));
    assert!(shows(TEXT, &secret()));
    assert!(shows(&printed(&Some(secret().to_vec())), &secret()));
    assert!(!shows(&printed(&[1_u8; 64]), &secret()));
}

#[test]
fn nothing_of_a_key_is_printed() {
    assert_eq!(format!("{:?}", secret_key()), "Key(..)");
    let (ours, theirs) = (
        Rc::new(ClassicKey::new(secret_key(), replay_cache(9))),
        Rc::new(ClassicKey::new(secret_key(), replay_cache(9))),
    );
    assert_eq!(format!("{ours:?}"), "ClassicKey(..)");
    let mut fresh = common::client(&ours, &Settings::new(), 5);
    let mut text = printed(&fresh);
    owed(&mut fresh, ms(0));
    text += &printed(&fresh);
    text += &printed(&common::server(&theirs, &Settings::new(), 5));
    let mut both = ends_with(&ours, &theirs, &Settings::new(), 6);
    let request = both.ask(b"?");
    let (id, _) = both.hear(&request);
    text += &printed(&both.server.answer(id, 1).unwrap());
    text += &printed(&(&both.client, &both.server, id));
    text += &printed(&Pair::new(&*ours, &*theirs, &Settings::new(), 7).unwrap());
    text += &printed(&(secret_key(), Key::from_hex(&TEXT.as_bytes()[1..])));
    assert!(!shows(&text, &secret()), "{text}");
}

#[test]
fn nothing_of_a_replay_caches_secret_is_printed() {
    // The three words that key its hash; of two the lowest bit is set.
    let drawn: Vec<u8> = secret()[..24].to_vec();
    let cache = FixedReplayCache::<2>::new(&mut Script(drawn.clone())).unwrap();
    let text = printed(&cache);
    for word in drawn.chunks(8) {
        let word = u64::from_be_bytes(word.try_into().unwrap());
        for word in [word, word | 1] {
            let shown = text.contains(&format!("{word}")) || text.contains(&format!("{word:x}"));
            assert!(!shown, "{text}");
        }
    }
    assert!(text.contains("filled:0,seals:0"), "its figures are");
}

#[test]
fn nothing_of_a_hellos_random_text_is_printed() {
    let key = Rc::new(ClassicKey::new(secret_key(), replay_cache(9)));
    let random: Vec<u8> = secret().repeat(4);
    let mut entropy = Script([random.as_slice(), &[1; 16]].concat());
    let client = ClientConnection::new(key, &Settings::new(), ms(0), &mut entropy).unwrap();
    assert!(!shows(&printed(&client), &random), "{client:?}");
}

#[test]
fn two_machines_under_one_generator_draw_different_nonces() {
    let key = common::handle();
    let mut rng = CountingRng::new(1);
    let mut hello = || {
        let mut client = ClientConnection::new(Rc::clone(&key), &Settings::new(), ms(0), &mut rng).unwrap();
        owed(&mut client, ms(0))
    };
    let (first, second) = (hello(), hello());
    assert_ne!(first[1..13], second[1..13]);
    assert_ne!(first[13..], second[13..]);
}
