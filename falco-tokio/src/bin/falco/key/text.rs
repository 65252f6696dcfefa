//! The text of a key, as different systems write it: with spaces and line ends around it, with a
//! byte order mark, or in UTF-16, as PowerShell does. An error describes the shape of a text that
//! is no key, and repeats nothing of it.

use falco_tokio::Key;
use zeroize::Zeroizing;

use crate::values::counted;

/// A text of this many bytes or more, white space included, is not read as a key.
pub(super) const LONGEST: usize = 1024;

/// The key in a text, or a description of the text.
pub(super) fn parse(text: &[u8]) -> Result<Key, String> {
    if text.len() >= LONGEST {
        return Err(format!("this is {LONGEST} bytes or more, {WANTED}"));
    }
    let ascii = match text {
        [0xef, 0xbb, 0xbf, rest @ ..] => Zeroizing::new(rest.to_vec()),
        [0xff, 0xfe, rest @ ..] => narrowed(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => narrowed(rest, u16::from_be_bytes)?,
        text => Zeroizing::new(text.to_vec()),
    };
    let ascii = ascii.trim_ascii();
    Key::from_hex(ascii).map_err(|error| describe(ascii).unwrap_or_else(|| error.to_string()))
}

const WANTED: &str = "and a key is 64 hexadecimal digits, as `falco keygen` makes them";

/// Converts UTF-16 to ASCII. Other characters become one that is no digit.
fn narrowed(text: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Zeroizing<Vec<u8>>, String> {
    let (pairs, rest) = text.as_chunks();
    if !rest.is_empty() {
        return Err(format!(
            "this is UTF-16 that ends within a character: it may have been cut off, {WANTED}"
        ));
    }
    let narrow = |pair: &[u8; 2]| u8::try_from(unit(*pair)).unwrap_or(b'?');
    let mut ascii = Zeroizing::new(Vec::with_capacity(pairs.len()));
    ascii.extend(pairs.iter().map(narrow));
    Ok(ascii)
}

/// Describes a text that is no key; none if it is 64 digits.
fn describe(text: &[u8]) -> Option<String> {
    let are_digits = text.iter().all(u8::is_ascii_hexdigit);
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let what = match text {
        [] => "there is nothing in it".to_owned(),
        _ if are_digits && length == 64 => return None,
        _ if are_digits => format!("this has {}", counted(length, "hexadecimal digit")),
        _ if text.contains(&0) => "this is binary, or UTF-16 without a byte order mark".to_owned(),
        _ if !text.is_ascii() => {
            let bytes = counted(length, "byte");
            format!("this has characters that are not ASCII, or is binary ({bytes})")
        }
        [b'"' | b'\'', ..] => "this is in quotation marks: remove them".to_owned(),
        [b'0', b'x' | b'X', ..] => "this begins with 0x: remove that".to_owned(),
        [b'-', b'-', ..] => "this is a key of another kind (PEM)".to_owned(),
        _ if text.iter().any(u8::is_ascii_whitespace) => "this is more than one word or line".to_owned(),
        _ if text.contains(&b'=') && length != 44 => {
            "this has a name before the key, or something else with an equals sign".to_owned()
        }
        _ if length == 43 || length == 44 => "this looks like base64".to_owned(),
        _ => format!(
            "this has {}, not all of them hexadecimal digits",
            counted(length, "character")
        ),
    };
    Some(format!("{what}, {WANTED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";

    fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(unit).collect()
    }

    #[test]
    fn a_key_is_read_as_different_systems_write_it() {
        let line = format!("{DIGITS}\r\n");
        let marked = format!("\u{feff}{line}");
        for text in [
            DIGITS.into(),
            line.clone().into_bytes(),
            format!("  {}\t\n\n", DIGITS.to_uppercase()).into_bytes(),
            marked.clone().into_bytes(),
            utf16(&marked, u16::to_le_bytes),
            utf16(&marked, u16::to_be_bytes),
        ] {
            let key = parse(&text).expect("this is a key");
            let mut digits = [0; 64];
            assert_eq!(key.write_hex(&mut digits), DIGITS);
        }
    }

    #[test]
    fn an_error_describes_the_text_and_repeats_nothing_of_it() {
        let half = &DIGITS[..32];
        let mut cut = utf16(&format!("\u{feff}{DIGITS}"), u16::to_le_bytes);
        cut.pop();
        for (text, word) in [
            ("".into(), "nothing in it"),
            (" \r\n".into(), "nothing in it"),
            (vec![0xef, 0xbb, 0xbf], "nothing in it"),
            (half.into(), "32 hexadecimal digits"),
            ("a".into(), "1 hexadecimal digit,"),
            (format!("{DIGITS}{DIGITS}").into(), "128 hexadecimal digits"),
            (format!("{half}{}", "g".repeat(32)).into(), "64 characters, not all"),
            (format!("\"{DIGITS}\"").into(), "quotation marks"),
            (format!("0x{DIGITS}").into(), "0x"),
            (format!("FALCO_KEY={DIGITS}").into(), "a name before"),
            (format!("{DIGITS}\n{DIGITS}\n").into(), "more than one"),
            (format!("{half}{}=", "Z".repeat(11)).into(), "base64"),
            (format!("-----BEGIN {half}").into(), "PEM"),
            (utf16(DIGITS, u16::to_le_bytes), "without a byte order mark"),
            (utf16(&format!("\u{feff}{half}\u{3c0}"), u16::to_le_bytes), "not all"),
            (cut, "ends within a character"),
            (vec![0xa3; 32], "not ASCII, or is binary (32 bytes)"),
            ("0".repeat(64).into(), "zero"),
            (vec![b'a'; LONGEST], "1024 bytes or more"),
        ] {
            let told = parse(&text).expect_err("this is no key");
            assert!(told.contains(word), "{word}: {told}");
            assert!(!told.contains(&half[..4]), "{told}");
        }
    }
}
