//! The text of keys, as different systems write it: with spaces and line ends around it, with a
//! byte order mark, or in UTF-16, as PowerShell does. Each line has a key and, after it, a label;
//! or it says that a key is revoked. An error describes the shape of a text that is no key, and
//! repeats nothing of it.

use falco_tokio::Key;
use zeroize::Zeroizing;

use crate::values::counted;

/// A text of this many bytes or more, white space included, is not read as keys.
pub(super) const LONGEST: usize = 1 << 20;
/// Characters of the longest label.
pub(crate) const LONGEST_LABEL: usize = 64;

/// A key, and the label that names its holder.
#[derive(Debug)]
pub(crate) struct LabeledKey {
    pub(crate) key: Key,
    pub(crate) label: Option<String>,
}

/// What the files of a server say.
#[derive(Debug, Default)]
pub(crate) struct KeyText {
    pub(crate) keys: Vec<LabeledKey>,
    /// The ids of keys that are revoked, as text: the keys themselves may be unknown.
    pub(crate) revoked: Vec<String>,
}

/// What one line says.
enum Line {
    Key(LabeledKey),
    Revoked(String),
}

/// The only key in a text, or a description of the text.
pub(super) fn parse(text: &[u8]) -> Result<LabeledKey, String> {
    let KeyText { mut keys, revoked } = parse_all(text)?;
    if !revoked.is_empty() {
        return Err("it has a revoked key; only `falco serve` takes such a line".to_owned());
    }
    match keys.pop() {
        Some(only) if keys.is_empty() => Ok(only),
        _ => Err(format!(
            "it has more than one key ({}); only `falco serve` takes several",
            keys.len() + 1
        )),
    }
}

/// The keys in a text, one a line. Empty lines and those that begin with # are skipped. There is at
/// least one key, or one that is revoked.
pub(super) fn parse_all(text: &[u8]) -> Result<KeyText, String> {
    if text.len() >= LONGEST {
        return Err(format!("it has {LONGEST} bytes or more; {WANTED}"));
    }
    let narrow = match text {
        [0xef, 0xbb, 0xbf, rest @ ..] => Zeroizing::new(rest.to_vec()),
        [0xff, 0xfe, rest @ ..] => narrowed(rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => narrowed(rest, u16::from_be_bytes)?,
        text => Zeroizing::new(text.to_vec()),
    };
    let lines = narrow.trim_ascii().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = || {
        lines
            .clone()
            .zip(1..)
            .filter(|(line, _)| !matches!(line, [] | [b'#', ..]))
    };
    let several = lines().nth(1).is_some();
    let mut found = KeyText::default();
    for (line, number) in lines() {
        let parsed = parse_line(line).map_err(|error| {
            if several {
                format!("line {number}: {error}")
            } else {
                error
            }
        });
        match parsed? {
            Line::Key(key) => found.keys.push(key),
            Line::Revoked(id) => found.revoked.push(id),
        }
    }
    let KeyText { keys, revoked } = &found;
    if keys.is_empty() && revoked.is_empty() {
        return Err(describe(&[]).unwrap_or_default());
    }
    let mut ids: Vec<_> = keys.iter().map(|labeled| labeled.key.id()).collect();
    ids.sort_unstable();
    let twice = ids.windows(2).find(|pair| matches!(pair, [one, other] if one == other));
    match twice.and_then(<[_]>::first) {
        Some(twice) => Err(format!("key {twice} is listed twice")),
        None => Ok(found),
    }
}

fn parse_line(line: &[u8]) -> Result<Line, String> {
    match line.strip_prefix(REVOKED) {
        Some([space, rest @ ..]) if space.is_ascii_whitespace() => parse_revoked(rest.trim_ascii()).map(Line::Revoked),
        _ => parse_key(line).map(Line::Key),
    }
}

/// Parses what follows `revoked`: the id of a key, or the line that the key had. Returns the id.
fn parse_revoked(line: &[u8]) -> Result<String, String> {
    let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    if word.len() == 16 && word.iter().all(u8::is_ascii_hexdigit) {
        return Ok(String::from_utf8_lossy(word).to_lowercase());
    }
    let no_id = "after the word `revoked`, write the id of a key (16 hexadecimal digits) or the key";
    let key = parse_key(line).map_err(|_| no_id.to_owned())?;
    Ok(key.key.id().to_string())
}

fn parse_key(line: &[u8]) -> Result<LabeledKey, String> {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let has_label = word.len() == 64 && word.iter().all(u8::is_ascii_hexdigit);
    let digits = if has_label { word } else { line };
    let key = Key::from_hex(digits).map_err(|error| describe(line).unwrap_or_else(|| error.to_string()))?;
    let label = match rest.trim_ascii() {
        [] => None,
        label => Some(parse_label(label)?),
    };
    Ok(LabeledKey { key, label })
}

/// Parses a label. The error says why the text is not one.
pub(crate) fn parse_label(text: &[u8]) -> Result<String, String> {
    let label = str::from_utf8(text)
        .map_err(|_| "the label is not UTF-8".to_owned())?
        .trim();
    if super::looks_like_key(label.as_ref()) {
        return Err(
            "the label looks like a key: write one key a line, and replace a key that others may have seen".to_owned(),
        );
    }
    match label.chars().count() {
        1..=LONGEST_LABEL if !label.chars().any(char::is_control) => Ok(label.to_owned()),
        1..=LONGEST_LABEL => Err("the label has control characters".to_owned()),
        _ => Err(format!("a label has 1 to {LONGEST_LABEL} characters")),
    }
}

/// The word in front of the id of a revoked key.
const REVOKED: &[u8] = b"revoked";
const WANTED: &str = "a key is 64 hexadecimal digits, as `falco keygen` makes them";

/// Converts UTF-16 to ASCII. Other characters become one that is no digit.
fn narrowed(text: &[u8], unit: fn([u8; 2]) -> u16) -> Result<Zeroizing<Vec<u8>>, String> {
    let (pairs, rest) = text.as_chunks();
    if !rest.is_empty() {
        return Err(format!(
            "it is UTF-16 that ends within a character, and may have been cut off; {WANTED}"
        ));
    }
    let narrow = |pair: &[u8; 2]| u8::try_from(unit(*pair)).unwrap_or(b'?');
    let mut ascii = Zeroizing::new(Vec::with_capacity(pairs.len()));
    ascii.extend(pairs.iter().map(narrow));
    Ok(ascii)
}

/// Describes a text that is no key. `None` if it is 64 digits.
fn describe(text: &[u8]) -> Option<String> {
    let are_digits = text.iter().all(u8::is_ascii_hexdigit);
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let what = match text {
        [] => "it is empty".to_owned(),
        _ if are_digits && length == 64 => return None,
        _ if are_digits => format!("it has {}", counted(length, "hexadecimal digit")),
        _ if text.contains(&0) => "it is binary, or UTF-16 without a byte order mark".to_owned(),
        _ if !text.is_ascii() => {
            let bytes = counted(length, "byte");
            format!("it has characters that are not ASCII, or is binary ({bytes})")
        }
        [b'"' | b'\'', ..] => "it is in quotation marks: remove them".to_owned(),
        [b'0', b'x' | b'X', ..] => "it begins with 0x: remove that".to_owned(),
        [b'-', b'-', ..] => "it is a key of another kind (PEM)".to_owned(),
        _ if text.iter().any(u8::is_ascii_whitespace) => "it has more than one word".to_owned(),
        _ if text.contains(&b'=') && length != 44 => {
            "it has a name before the key, or something else with an equals sign".to_owned()
        }
        _ if length == 43 || length == 44 => "it looks like base64".to_owned(),
        _ => format!(
            "it has {}, not all of them hexadecimal digits",
            counted(length, "character")
        ),
    };
    Some(format!("{what}; {WANTED}"))
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
            let key = parse(&text).expect("it is a key");
            let mut digits = [0; 64];
            assert_eq!(key.key.write_hex(&mut digits), DIGITS);
        }
    }

    #[test]
    fn a_list_has_a_key_and_a_label_on_each_line() {
        let text = format!(
            "\u{feff}# clients\r\n\r\n{DIGITS}  gateway 7 \r\n{}\r\n",
            "1".repeat(64)
        );
        for text in [text.clone().into_bytes(), utf16(&text, u16::to_le_bytes)] {
            let labels: Vec<_> = parse_all(&text)
                .expect("it has keys")
                .keys
                .into_iter()
                .map(|key| key.label)
                .collect();
            assert_eq!(labels, [Some("gateway 7".to_owned()), None]);
        }
        let umlaut = parse(format!("{DIGITS} Z\u{fc}rich").as_bytes()).expect("a label is UTF-8");
        assert_eq!(umlaut.label.as_deref(), Some("Z\u{fc}rich"));
    }

    #[test]
    fn a_revoked_key_is_named_by_its_id_or_by_its_line() {
        let id = Key::from_hex(DIGITS.as_bytes()).expect("it is a key").id().to_string();
        let other = "1".repeat(64);
        for revoked in [
            id.clone(),
            id.to_uppercase(),
            format!("{id} lost"),
            format!("{DIGITS} gateway 7"),
        ] {
            let found = parse_all(format!("{other}\nrevoked  {revoked}\n").as_bytes()).expect("it has a key");
            assert_eq!((found.keys.len(), &found.revoked[..]), (1, &[id.clone()][..]));
        }
        let only = parse_all(format!("revoked {id}").as_bytes()).expect("no key is needed");
        assert!(only.keys.is_empty() && only.revoked == [id]);
    }

    #[test]
    fn an_error_describes_the_text_and_repeats_nothing_of_it() {
        let half = &DIGITS[..32];
        let mut cut = utf16(&format!("\u{feff}{DIGITS}"), u16::to_le_bytes);
        cut.pop();
        for (text, word) in [
            ("".into(), "it is empty"),
            (" \r\n".into(), "it is empty"),
            (vec![0xef, 0xbb, 0xbf], "it is empty"),
            (half.into(), "32 hexadecimal digits"),
            ("a".into(), "1 hexadecimal digit;"),
            (format!("{DIGITS}{DIGITS}").into(), "128 hexadecimal digits"),
            (format!("{half}{}", "g".repeat(32)).into(), "64 characters, not all"),
            (format!("\"{DIGITS}\"").into(), "quotation marks"),
            (format!("0x{DIGITS}").into(), "0x"),
            (format!("FALCO_KEY={DIGITS}").into(), "a name before"),
            (format!("{DIGITS}\n{DIGITS}\n").into(), "is listed twice"),
            (format!("{DIGITS}\n{}", "1".repeat(64)).into(), "more than one key (2)"),
            (format!("{half}{}=", "Z".repeat(11)).into(), "base64"),
            (format!("-----BEGIN {half}").into(), "PEM"),
            (format!("{DIGITS} {DIGITS}").into(), "the label looks like a key"),
            (format!("{DIGITS} a\tb").into(), "control characters"),
            (format!("{DIGITS} {}", "l".repeat(65)).into(), "1 to 64 characters"),
            (format!("# two\n{DIGITS} one\n\n{half}\n").into(), "line 4: it has 32"),
            (
                format!("{DIGITS} one\n{}", DIGITS.to_uppercase()).into(),
                "is listed twice",
            ),
            (format!("{DIGITS}\nrevoked a315").into(), "line 2: after the word"),
            ("revoked".into(), "not all of them hexadecimal digits"),
            (format!("revoked {DIGITS}").into(), "only `falco serve`"),
            (utf16(DIGITS, u16::to_le_bytes), "without a byte order mark"),
            (utf16(&format!("\u{feff}{half}\u{3c0}"), u16::to_le_bytes), "not all"),
            (cut, "ends within a character"),
            (vec![0xa3; 32], "not ASCII, or is binary (32 bytes)"),
            ("0".repeat(64).into(), "zero"),
            (vec![b'a'; LONGEST], "1048576 bytes or more"),
        ] {
            let error = parse(&text).expect_err("it is no key");
            assert!(error.contains(word), "{word}: {error}");
            assert!(!error.contains(&half[..4]), "{error}");
        }
    }
}
