//! `falco keygen`: makes a key, on standard output or in a file that only its owner can read.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use falco_tokio::generate_key;
use zeroize::Zeroizing;

use crate::failure::{Code, Failure};
use crate::{key, log, output};

/// Makes a key: 64 hexadecimal digits from the operating system's random numbers.
///
/// Both sides of a connection have the same key, and everyone who has it can pose as either side.
/// Copy it only to the other side, over an encrypted channel. A password is not a key.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Creates this file, which only its owner may read, instead of printing the key. A file that
    /// exists is not changed
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Writes a label after the key. It names the holder of the key in the logs of `falco serve`,
    /// and is not secret
    #[arg(long, short, value_name = "TEXT", value_parser = label)]
    label: Option<String>,
}

fn label(text: &str) -> Result<String, String> {
    key::parse_label(text.as_bytes())
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco keygen --out falco.key           a new file of mode 0600; its key id on standard error
  falco keygen --label gateway-7 --out gateway-7.key
  falco keygen | ssh gateway 'umask 077; cat > falco.key'";

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let key = generate_key().map_err(|error| Failure::new(Code::Failed, error))?;
    let mut digits = Zeroizing::new([0; 64]);
    key.write_hex(&mut digits);
    let label = args.label.as_deref().unwrap_or_default();
    let mut text = Zeroizing::new(Vec::with_capacity(digits.len() + label.len() + 2));
    text.extend_from_slice(digits.as_slice());
    if !label.is_empty() {
        text.push(b' ');
        text.extend_from_slice(label.as_bytes());
    }
    text.push(b'\n');
    let Some(path) = &args.out else {
        return output::put(&text);
    };
    key::check_is_no_key(path, "--out")?;
    create(path, &text).map_err(|error| {
        let name = path.display();
        Failure::new(
            Code::Failed,
            if error.kind() == ErrorKind::AlreadyExists {
                format!("{name} exists already and was not changed: name another file, or remove it if nothing needs its key")
            } else {
                format!("cannot create {name}: {error}")
            },
        )
    })?;
    log::tell(&format_args!(
        "wrote a new key to {}; its key id is {}",
        path.display(),
        key.id()
    ));
    Ok(())
}

/// Creates a file, and removes it if it cannot be written in full.
fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}
