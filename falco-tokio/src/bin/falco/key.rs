//! Where keys come from: a file, standard input or the environment, and never an argument. No
//! message has any part of a key.

mod list;
mod text;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, stdin};
use std::path::{Path, PathBuf};

use falco_tokio::Key;
use zeroize::Zeroizing;

pub(crate) use self::list::KeyList;
pub(crate) use self::text::{KeyText, LabeledKey, parse_label};
use crate::failure::{Code, Failure};
use crate::output;

/// The variable with the key.
pub(crate) const KEY_VARIABLE: &str = "FALCO_KEY";
/// The variable with the key of the classic wire, which has precedence there.
pub(crate) const CLASSIC_KEY_VARIABLE: &str = "FALCO_CLASSIC_KEY";

/// What the help of commands that take a key says about keys.
pub(crate) const KEYS: &str = "\
Keys:
  A key is 64 hexadecimal digits, as `falco keygen` makes them. It comes from --key-file, where - is standard input, or
  else from the variable FALCO_KEY. On the classic wire, FALCO_CLASSIC_KEY has precedence over FALCO_KEY, because a key
  is for one wire. No option takes the key itself: all users of a machine can see the arguments of a process.
  Prefer a file: child processes inherit the environment, and the configuration of a container shows it. The file must
  be readable by its owner alone (chmod 600), unless it belongs to another user, such as root, who hands it to a
  service. Its text is one line, in ASCII, or in UTF-8 or UTF-16 with a byte order mark. After the key, the line may
  have a label, which names the holder.
  `falco serve` takes a file with several such lines, where empty lines and lines that begin with # are skipped. Or a
  directory of key files; a key without a label then has the name of its file. On SIGHUP it reads them again. A line that
  begins with `revoked`, before the id of a key or the key, has it cut off the connections of that key at once.";

/// The options for the key, the same in all commands that need one.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct KeyArgs {
    /// The file with the key; - is standard input
    #[arg(long, short, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Accepts a key file that other users may read or write
    #[arg(long)]
    allow_readable_key_file: bool,
}

impl KeyArgs {
    /// The key from --key-file, or else from the first variable that is set.
    pub(crate) fn find(&self, variables: &[&str]) -> Result<Key, Failure> {
        self.find_in(self.key_file.as_deref(), "--key-file", variables)
    }

    /// The key from the file that an option names, or else from the first variable that is set.
    pub(crate) fn find_in(&self, file: Option<&Path>, option: &str, variables: &[&str]) -> Result<Key, Failure> {
        if let Some(path) = file {
            return self.read(path, option);
        }
        let set = variables
            .iter()
            .find_map(|name| std::env::var_os(name).map(|value| (name, value)));
        let Some((name, value)) = set else {
            let names = variables.join(" or ");
            return Err(Failure::new(
                Code::Key,
                format_args!(
                    "there is no key: name its file with {option} FILE, or set {names}; `falco keygen --out FILE` makes a key"
                ),
            ));
        };
        let text = Zeroizing::new(value.into_encoded_bytes());
        parse(&text, name)
    }

    /// Fails if what is read again cannot differ from what was read before.
    pub(crate) fn check_can_change(&self) -> Result<(), Failure> {
        let why = match self.key_file.as_deref() {
            None => "the environment of a process does not change",
            Some(path) if is_standard_input(Some(path)) => "standard input was read to its end",
            Some(_) => return Ok(()),
        };
        let message = format_args!("the keys cannot be read again: {why}; use --key-file");
        Err(Failure::new(Code::Key, message))
    }

    fn read(&self, path: &Path, option: &str) -> Result<Key, Failure> {
        let (text, name) = self.text(path, option)?;
        parse(&text, &name)
    }

    /// The text in a file or on standard input, and what messages call it.
    fn text(&self, path: &Path, option: &str) -> Result<(Zeroizing<Vec<u8>>, String), Failure> {
        if is_standard_input(Some(path)) {
            output::ask("the key");
            let name = "standard input".to_owned();
            let text = bounded(stdin().lock()).map_err(|error| unreadable(&name, &error))?;
            return Ok((text, name));
        }
        check_is_no_key(path, option)?;
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
        if !self.allow_readable_key_file {
            check_permissions(&file, &name)?;
        }
        let text = bounded(file).map_err(|error| unreadable(&name, &error))?;
        Ok((text, name))
    }
}

/// Keeps other processes of this user from reading the memory, the environment and the descriptors
/// of this process, and keeps the key out of core dumps. Commands of `--exec` are such processes.
/// Only Linux has this. The superuser can still read them.
#[cfg(target_os = "linux")]
pub(crate) fn deny_inspection() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};

    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn deny_inspection() -> io::Result<()> {
    Ok(())
}

/// Fails if a key is in the environment. Commands of `--exec` could read it there: from their own
/// environment, or from that of the server (`/proc/PPID/environ`, `ps e`). Linux hides the latter
/// from all but the superuser; other systems do not.
pub(crate) fn check_not_in_environment() -> Result<(), Failure> {
    let set = variables().into_iter().find(|name| std::env::var_os(name).is_some());
    set.map_or(Ok(()), |name| {
        Err(Failure::usage(format_args!(
            "the variable {name} is set, and a command of --exec may be able to read it from the environment of the server: unset it, and name the file of the key with --key-file"
        )))
    })
}

/// Another copy of a key.
pub(crate) fn copy(key: &Key) -> Result<Key, Failure> {
    let mut text = Zeroizing::new([0; 64]);
    key.write_hex(&mut text);
    parse(text.as_slice(), "the key")
}

/// Fails if an option that takes the name of a file was given a key, which no message may repeat.
pub(crate) fn check_is_no_key(path: &Path, option: &str) -> Result<(), Failure> {
    if looks_like_key(path.as_os_str()) {
        return Err(Failure::usage(format_args!(
            "{option} takes the name of a file, and this looks like a key: put the key into a file, and replace it, since other users may have seen it"
        )));
    }
    Ok(())
}

/// Whether it contains exactly 64 hexadecimal digits in a row.
pub(crate) fn looks_like_key(argument: &OsStr) -> bool {
    argument
        .as_encoded_bytes()
        .split(|byte| !byte.is_ascii_hexdigit())
        .any(|digits| digits.len() == 64)
}

/// Whether a file is standard input.
pub(crate) fn is_standard_input(file: Option<&Path>) -> bool {
    file.is_some_and(|path| path == Path::new("-"))
}

/// The environment variables that can have keys.
pub(crate) const fn variables() -> [&'static str; 2] {
    [KEY_VARIABLE, CLASSIC_KEY_VARIABLE]
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    let hint = if error.kind() == io::ErrorKind::NotFound {
        "; `falco keygen --out FILE` makes one, and both sides need the same"
    } else {
        ""
    };
    Failure::new(Code::Key, format_args!("cannot read a key from {name}: {error}{hint}"))
}

/// Reads to the end into a buffer that never grows, since growing would leave a copy of the key in
/// freed memory.
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
    text::parse(text)
        .map(|labeled| labeled.key)
        .map_err(|error| no_key(name, &error))
}

fn no_key(name: &str, error: &str) -> Failure {
    Failure::new(Code::Key, format_args!("no key in {name}: {error}"))
}

/// As OpenSSH does: a file of this user must not be accessible to other users. The permissions of a
/// file of another user are that user's decision: this is how root hands a key to a service.
#[cfg(unix)]
fn check_permissions(file: &File, name: &str) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt;

    let found = file.metadata().map_err(|error| unreadable(name, &error))?;
    let mode = found.mode() & 0o777;
    // A pipe, such as one of a shell's <(...), has no permissions of its own.
    if !found.is_file() || mode | 0o700 == 0o700 {
        return Ok(());
    }
    if found.uid() == rustix::process::geteuid().as_raw() {
        return Err(Failure::new(
            Code::Key,
            format_args!(
                "other users may read or write the key in {name} (mode {mode:04o}), so it is not used: chmod 600 {name}, and make a new key if others may have read it; --allow-readable-key-file accepts the file as it is"
            ),
        ));
    }
    if mode | 0o770 != 0o770 {
        crate::log::warn(&format_args!(
            "warning: all users of this machine may read or write the key in {name} (mode {mode:04o})"
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "on Unix it can fail")]
fn check_permissions(_: &File, _: &str) -> Result<(), Failure> {
    Ok(())
}
