//! Keys as text and from a generator: what is accepted, and the errors.

use falco_core::{Key, KeyError};

use crate::common::Script;

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
    // A character that is no digit, in each place.
    for at in 0..64 {
        for wrong in [b'g', b' ', b'/', b':', b'@', b'`', 0xC3] {
            let mut text = *TEXT.as_bytes().first_chunk::<64>().unwrap();
            text[at] = wrong;
            // White space at the ends does not count.
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
