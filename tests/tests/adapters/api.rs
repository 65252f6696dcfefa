//! The items of a public API that users of an adapter call by name, out of what `cargo public-api`
//! prints: methods, variants and fields of the types below, traits that these have, free functions.

use std::collections::BTreeMap;

/// Items by name, with what else there is to say of them: the signature, without what the adapters
/// differ in by nature.
pub(crate) type Items = BTreeMap<String, String>;

/// The types that both adapters have for the same purpose.
const TYPES: [&str; 14] = [
    "Call",
    "Client",
    "ClientBuilder",
    "ClientStats",
    "Error",
    "Handle",
    "RecvStream",
    "Report",
    "Request",
    "SendStream",
    "Server",
    "ServerBuilder",
    "ServerStats",
    "StreamRequest",
];
/// Traits of which nothing is said, as all these types have them that can, or are plain data.
const TRAITS: [&str; 9] = [
    "Copy",
    "Debug",
    "Default",
    "Display",
    "Eq",
    "Error",
    "From",
    "PartialEq",
    "StructuralPartialEq",
];

pub(crate) fn items(api: &str, name: &str) -> Items {
    let mut items = Items::new();
    let mut of_type = false;
    for line in api.lines() {
        let line = line.strip_prefix("#[non_exhaustive] ").unwrap_or(line);
        if let Some(header) = line.strip_prefix("impl") {
            let implemented = header.split_once(" for ");
            of_type = implemented.is_none();
            if let Some((of, whom)) = implemented {
                add_trait(&mut items, of, whom, name);
            }
            continue;
        }
        let Some(item) = line.strip_prefix("pub ") else {
            continue;
        };
        let item = ["const ", "async "]
            .iter()
            .fold(item, |item, word| item.strip_prefix(word).unwrap_or(item));
        let is_function = item.starts_with("fn ");
        let item = item.strip_prefix("fn ").unwrap_or(item);
        let Some(path) = item.strip_prefix(name).and_then(|path| path.strip_prefix("::")) else {
            // The header of a type, after which come its fields and variants.
            of_type |= item.starts_with("struct ") || item.starts_with("enum ");
            continue;
        };
        let end = path.find(['(', '<', ' ']).unwrap_or(path.len());
        let (path, signature) = path.split_at(end);
        // A method of a type with parameters, none of which is compared.
        if signature.split('(').next().is_some_and(|head| head.contains(">::")) {
            continue;
        }
        add(&mut items, path.trim_end_matches(':'), signature, is_function, of_type);
    }
    items
}

/// Adds a method, a variant, a field or a free function.
fn add(items: &mut Items, path: &str, signature: &str, is_function: bool, of_type: bool) {
    let signature = normalized(signature);
    match path.split("::").collect::<Vec<_>>()[..] {
        [_] if is_function => _ = items.insert(path.to_owned(), signature),
        [of, _] if TYPES.contains(&of) && of_type => _ = items.insert(path.to_owned(), signature),
        // The field of a variant: a part of that.
        [of, variant, field] if TYPES.contains(&of) => {
            let fields = items.entry(format!("{of}::{variant}")).or_default();
            *fields += field;
            *fields += &signature;
        }
        _ => {}
    }
}

fn add_trait(items: &mut Items, of: &str, whom: &str, name: &str) {
    let whom = whom.strip_prefix(name).and_then(|whom| whom.strip_prefix("::"));
    let of = of
        .split('<')
        .next()
        .and_then(|of| of.rsplit(':').next())
        .unwrap_or_default();
    if let Some(whom) = whom.filter(|whom| TYPES.contains(whom) && !TRAITS.contains(&of.trim())) {
        let plain = whom.ends_with("Stats") || whom == "Report";
        if !plain {
            items.insert(format!("{whom}: {}", of.trim()), String::new());
        }
    }
}

/// A signature without paths, and with one word for all types that bodies are passed in.
fn normalized(signature: &str) -> String {
    without_paths(signature)
        .replace("impl Into<Bytes>", "BODY")
        .replace("impl AsRef<[u8]>", "BODY")
        .replace("impl Into<Vec<u8>>", "BODY")
        .replace("&[u8]", "&BODY")
        .replace("Vec<u8>", "BODY")
        .replace("Bytes", "BODY")
}

/// `core::result::Result<falco_std::Client>` becomes `Result<Client>`.
fn without_paths(text: &str) -> String {
    let mut short = String::new();
    for (at, part) in text.split("::").enumerate() {
        if at > 0 {
            let word = short.trim_end_matches(|letter: char| letter.is_alphanumeric() || letter == '_');
            short.truncate(word.len());
        }
        short.push_str(part);
    }
    short
}
