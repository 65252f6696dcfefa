//! The keys of a server: from a file, a directory, standard input or the environment. Those from a
//! file or a directory can be read again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Code, Failure, KEY_VARIABLE, KeyArgs, KeyText, LabeledKey, no_key, text, unreadable};

/// Where the keys of a server come from.
#[derive(Debug)]
pub(crate) struct KeyList {
    args: KeyArgs,
}

impl KeyList {
    pub(crate) const fn new(args: KeyArgs) -> Self {
        Self { args }
    }

    /// The keys that are not revoked, and those that are; at least one of either.
    pub(crate) fn read(&self) -> Result<KeyText, Failure> {
        let mut found = match self.args.key_file.as_deref() {
            None => {
                let (key, label) = (self.args.find(&[KEY_VARIABLE])?, None);
                KeyText {
                    keys: vec![LabeledKey { key, label }],
                    revoked: Vec::new(),
                }
            }
            Some(path) if path.is_dir() => self.read_directory(path)?,
            Some(path) => self.read_file(path)?,
        };
        let revoked = &found.revoked;
        found
            .keys
            .retain(|labeled| !revoked.contains(&labeled.key.id().to_string()));
        Ok(found)
    }

    /// The keys as they are now, or why they cannot be read again.
    pub(crate) fn read_again(&self) -> Result<KeyText, Failure> {
        self.args.check_can_change()?;
        self.read()
    }

    fn read_file(&self, path: &Path) -> Result<KeyText, Failure> {
        let (text, name) = self.args.text(path, "--key-file")?;
        text::parse_all(&text).map_err(|error| no_key(&name, &error))
    }

    fn read_directory(&self, directory: &Path) -> Result<KeyText, Failure> {
        let name = directory.display().to_string();
        let mut keys: Vec<(LabeledKey, PathBuf)> = Vec::new();
        let mut revoked = Vec::new();
        for path in files(directory).map_err(|error| unreadable(&name, &error))? {
            let found = self.read_file(&path)?;
            revoked.extend(found.revoked);
            for mut labeled in found.keys {
                labeled.label = labeled.label.or_else(|| label_of(&path));
                keys.push((labeled, path.clone()));
            }
        }
        keys.sort_by_key(|(labeled, _)| labeled.key.id());
        for pair in keys.windows(2) {
            if let [(one, first), (other, second)] = pair
                && one.key.id() == other.key.id()
            {
                let (id, first, second) = (one.key.id(), first.display(), second.display());
                let error = format!("key {id} is in {first} and in {second}");
                return Err(Failure::new(Code::Key, error));
            }
        }
        if keys.is_empty() && revoked.is_empty() {
            return Err(no_key(&name, "the directory has no files"));
        }
        let keys = keys.into_iter().map(|(labeled, _)| labeled).collect();
        Ok(KeyText { keys, revoked })
    }
}

/// The files of a directory in the order of their names. Names that begin with a dot, such as those
/// that editors and Kubernetes use, or end with ~ are left out.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let path = entry.path();
        if !name.starts_with(b".") && !name.ends_with(b"~") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The label that a file's name gives to a key.
fn label_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.as_encoded_bytes();
    text::parse_label(stem).ok()
}
