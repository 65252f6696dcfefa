//! The keys of the noise wire of a running server: their labels, and what changes when they are
//! read again.

use core::fmt;
use std::collections::HashMap;

use falco_tokio::{Handle, KeyId, Server, ServerBuilder};

use crate::failure::{Code, Failure};
use crate::key::{KeyList, LabeledKey};
use crate::log;
use crate::values::counted;

/// The keys that the server has.
#[derive(Debug)]
pub(super) struct Keys {
    list: KeyList,
    labels: HashMap<KeyId, Option<String>>,
    /// Keys that were retired. Their connections may still drain.
    retired: HashMap<KeyId, Option<String>>,
}

impl Keys {
    /// Reads the keys, and makes the builder of a server that has them.
    pub(super) fn read(list: KeyList) -> Result<(Self, ServerBuilder), Failure> {
        let mut labels = HashMap::new();
        let mut builder: Option<ServerBuilder> = None;
        for LabeledKey { key, label } in list.read()?.keys {
            labels.insert(key.id(), label);
            builder = Some(match builder {
                None => Server::builder(key),
                Some(builder) => builder.key(key),
            });
        }
        let builder = builder.ok_or_else(|| Failure::new(Code::Key, "all keys are revoked: a server needs one"))?;
        let retired = HashMap::new();
        Ok((Self { list, labels, retired }, builder))
    }

    /// Sets the labels, before the server accepts connections.
    pub(super) fn set_labels(&self, handle: &Handle) {
        for (id, label) in &self.labels {
            handle.set_key_label(*id, label.as_deref());
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.labels.len()
    }

    /// Reads the keys again: adds new ones to the server, revokes those that are marked so, and
    /// retires those that are gone. Reports what has changed. If the keys cannot be read, the
    /// server keeps those that it has, and a warning says so.
    pub(super) fn reload(&mut self, handle: &Handle) {
        let read = match self.list.read_again() {
            Ok(read) => read,
            Err(failure) => {
                let count = u64::try_from(self.labels.len()).unwrap_or(u64::MAX);
                let keys = counted(count, "key");
                return log::warn(&format_args!("{}; the server keeps its {keys}", failure.message()));
            }
        };
        let mut before = core::mem::take(&mut self.labels);
        let mut changes = Vec::new();
        let mut all_added = true;
        for keys in [&mut before, &mut self.retired] {
            let is_revoked = |id: &KeyId, _: &mut _| read.revoked.contains(&id.to_string());
            for (id, label) in keys.extract_if(is_revoked) {
                handle.revoke_key(id);
                changes.push(format!("revoked {}", Named(id, label.as_deref())));
            }
        }
        for LabeledKey { key, label } in read.keys {
            let id = key.id();
            match before.get(&id) {
                Some(old) if *old == label => {}
                Some(_) => {
                    handle.set_key_label(id, label.as_deref());
                    changes.push(format!("renamed {}", Named(id, label.as_deref())));
                }
                None => {
                    let added = match &label {
                        Some(label) => handle.add_labeled_key(label.as_str(), key),
                        None => handle.add_key(key),
                    };
                    let name = Named(id, label.as_deref());
                    match added {
                        Ok(_) => {
                            self.retired.remove(&id);
                            changes.push(format!("added {name}"));
                        }
                        Err(error) => {
                            all_added = false;
                            changes.push(format!("did not add {name} ({error})"));
                            continue;
                        }
                    }
                }
            }
            self.labels.insert(id, label);
        }
        for (id, label) in before {
            if !self.labels.contains_key(&id) && handle.retire_key(id) {
                changes.push(format!("retired {}", Named(id, label.as_deref())));
                self.retired.insert(id, label);
            }
        }
        let count = u64::try_from(self.labels.len()).unwrap_or(u64::MAX);
        let changes = if changes.is_empty() {
            "nothing has changed".to_owned()
        } else {
            changes.join(", ")
        };
        let keys = counted(count, "key");
        if all_added {
            log::tell(&format_args!("read the keys again: {changes}; {keys}"));
        } else {
            log::warn(&format_args!("read the keys again: {changes}; {keys}"));
        }
    }
}

/// A key as messages name it.
struct Named<'k>(KeyId, Option<&'k str>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(label) => write!(f, "{} ({label})", self.0),
            None => self.0.fmt(f),
        }
    }
}
