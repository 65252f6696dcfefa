//! No `Debug` and no error shows bytes of a secret.

use std::rc::Rc;

use crate::common::shows::{printed, shows};
use crate::common::{Script, ends_with, ms, pending_output};
use falco_core::testing::{CountingRng, Pair, replay_cache};
use falco_core::{ClassicKey, ClientConnection, EntropyError, FixedReplayCache, Key, ServerConnection, Settings};

const TEXT: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";

fn secret() -> [u8; 32] {
    core::array::from_fn(|at| u8::from_str_radix(&TEXT[2 * at..2 * at + 2], 16).unwrap())
}

#[test]
fn without_entropy_there_is_no_connection() {
    // A client uses 128 bytes for its hello, 12 for a nonce, 4 for a serial number; a server the
    // last two.
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
    let mut fresh = crate::common::client(&ours, &Settings::new(), 5);
    let mut text = printed(&fresh);
    pending_output(&mut fresh, ms(0));
    text += &printed(&fresh);
    text += &printed(&crate::common::server(&theirs, &Settings::new(), 5));
    let mut both = ends_with(&ours, &theirs, &Settings::new(), 6);
    let request = both.request(b"?");
    let (id, _) = both.receive_request(&request);
    text += &printed(&both.server.answer(id, 1).unwrap());
    text += &printed(&(&both.client, &both.server, id));
    text += &printed(&Pair::new(&*ours, &*theirs, &Settings::new(), 7).unwrap());
    text += &printed(&(secret_key(), Key::from_hex(&TEXT.as_bytes()[1..])));
    assert!(!shows(&text, &secret()), "{text}");
}

#[test]
fn nothing_of_the_secret_of_a_replay_cache_is_printed() {
    // The three words of its hash key. The lowest bit of two of them is set.
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
fn nothing_of_the_random_text_of_a_hello_is_printed() {
    let key = Rc::new(ClassicKey::new(secret_key(), replay_cache(9)));
    let random: Vec<u8> = secret().repeat(4);
    let mut entropy = Script([random.as_slice(), &[1; 16]].concat());
    let client = ClientConnection::new(key, &Settings::new(), ms(0), &mut entropy).unwrap();
    assert!(!shows(&printed(&client), &random), "{client:?}");
}

#[test]
fn two_connections_with_one_generator_have_different_nonces() {
    let key = crate::common::handle();
    let mut rng = CountingRng::new(1);
    let mut hello = || {
        let mut client = ClientConnection::new(Rc::clone(&key), &Settings::new(), ms(0), &mut rng).unwrap();
        pending_output(&mut client, ms(0))
    };
    let (first, second) = (hello(), hello());
    assert_ne!(first[1..13], second[1..13]);
    assert_ne!(first[13..], second[13..]);
}
