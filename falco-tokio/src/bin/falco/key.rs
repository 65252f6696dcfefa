//! Where keys come from: a file, standard input, the environment; never an argument. No message
//! holds anything of one.

mod text;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, stdin};
use std::path::Path;

use falco_tokio::Key;
use zeroize::Zeroizing;

use crate::failure::{Code, Failure};
use crate::output;

/// The variable with the key.
pub(crate) const KEY_VARIABLE: &str = "FALCO_KEY";
/// The variable with the key of the classic wire, where there are two.
pub(crate) const CLASSIC_KEY_VARIABLE: &str = "FALCO_CLASSIC_KEY";

/// How the help of commands that take a key speaks of it.
pub(crate) const KEYS: &str = "\
Keys:
  A key is 64 hexadecimal digits, as `falco keygen` makes them. It comes from --key-file, where - is standard input, or
  else from the variable FALCO_KEY. Its text may be ASCII, or UTF-8 or UTF-16 with a byte order mark, on one line. On the
  classic wire FALCO_CLASSIC_KEY goes before FALCO_KEY: a key belongs to one wire. No option takes the key itself:
  arguments can be seen by everybody on the machine.";

/// The key that an option names, or else the first variable that is set.
pub(crate) fn find(file: Option<&Path>, option: &str, variables: &[&str]) -> Result<Key, Failure> {
    if let Some(path) = file {
        return read(path, option);
    }
    let set = variables
        .iter()
        .find_map(|name| std::env::var_os(name).map(|value| (name, value)));
    let Some((name, value)) = set else {
        let names = variables.join(" or ");
        return Err(Failure::new(
            Code::Key,
            format_args!("no key: name its file with {option} FILE, or set {names}; `falco keygen` makes one"),
        ));
    };
    let text = Zeroizing::new(value.into_encoded_bytes());
    parse(&text, name)
}

/// Another copy of a key.
pub(crate) fn copy(key: &Key) -> Result<Key, Failure> {
    let mut text = Zeroizing::new([0; 64]);
    key.write_hex(&mut text);
    parse(text.as_slice(), "the key")
}

/// An option that takes the name of a file was not given a key, which no message may repeat.
pub(crate) fn check_is_no_key(path: &Path, option: &str) -> Result<(), Failure> {
    if looks_like_key(path.as_os_str()) {
        return Err(Failure::usage(format_args!(
            "{option} takes the name of a file, and was given what looks like a key: others may have seen it"
        )));
    }
    Ok(())
}

/// Whether 64 hexadecimal digits stand in it.
pub(crate) fn looks_like_key(argument: &OsStr) -> bool {
    argument
        .as_encoded_bytes()
        .split(|byte| !byte.is_ascii_hexdigit())
        .any(|digits| digits.len() == 64)
}

/// Whether standard input is named.
pub(crate) fn is_standard_input(file: Option<&Path>) -> bool {
    file.is_some_and(|path| path == Path::new("-"))
}

/// Environment variables that no child may see.
pub(crate) fn variables() -> [OsString; 2] {
    [KEY_VARIABLE.into(), CLASSIC_KEY_VARIABLE.into()]
}

fn read(path: &Path, option: &str) -> Result<Key, Failure> {
    if is_standard_input(Some(path)) {
        output::ask("the key");
        let text = bounded(stdin().lock()).map_err(|error| unreadable("standard input", &error))?;
        return parse(&text, "standard input");
    }
    check_is_no_key(path, option)?;
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
    warn_if_others_can_read(&file, &name);
    let text = bounded(file).map_err(|error| unreadable(&name, &error))?;
    parse(&text, &name)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    let hint = if error.kind() == io::ErrorKind::NotFound {
        "; `falco keygen --out FILE` makes one, and both ends need the same"
    } else {
        ""
    };
    Failure::new(Code::Key, format_args!("cannot read a key from {name}: {error}{hint}"))
}

/// Reads to the end, in a buffer that is made once, so that nothing of a key stays behind where it
/// grew.
fn bounded(mut from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(vec![0; text::LONGEST]);
    let mut filled = 0;
    while let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(filled);
    Ok(text)
}

fn parse(text: &[u8], name: &str) -> Result<Key, Failure> {
    text::parse(text).map_err(|error| Failure::new(Code::Key, format_args!("no key in {name}: {error}")))
}

#[cfg(unix)]
fn warn_if_others_can_read(file: &File, name: &str) {
    use std::os::unix::fs::MetadataExt;

    let Ok(metadata) = file.metadata() else { return };
    let mode = metadata.mode() & 0o777;
    if metadata.is_file() && mode & 0o044 != 0 {
        crate::log::tell(&format_args!(
            "warning: others can read the key in {name} (mode {mode:04o}): chmod 600 {name}"
        ));
    }
}

#[cfg(not(unix))]
fn warn_if_others_can_read(_: &File, _: &str) {}
