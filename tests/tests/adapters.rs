//! `docs/adapters.md` against the public APIs of falco-std and falco-tokio, as they are committed
//! in `api/`: the page has each difference with its reason.

#[path = "adapters/api.rs"]
mod api;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use api::{Items, items};

/// What is wrong with a page, in words.
fn check(page: &str, std: &Items, tokio: &Items) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows = BTreeMap::new();
    for (name, row) in page.lines().filter_map(row) {
        if rows.insert(name, row).is_some() {
            wrong.push(format!("{name} has two rows"));
        }
    }
    let mut names: Vec<_> = std.keys().chain(tokio.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let has = (std.get(name), tokio.get(name));
        let alike = matches!(has, (Some(one), Some(other)) if one == other);
        let expected = [has.0.is_some(), has.1.is_some()].map(|has| if has { "yes" } else { "no" });
        let Some((columns, reason)) = rows.remove(name.as_str()) else {
            wrong.push(format!("a row is missing: | `{name}` | {} | |", expected.join(" | ")));
            continue;
        };
        if columns != expected {
            wrong.push(format!("{name}: {columns:?} is to be {expected:?}"));
        }
        match (alike, reason.is_empty()) {
            (false, true) => wrong.push(format!("{name}: the reason is missing for {has:?}")),
            (true, false) => wrong.push(format!("{name} is the same in both and needs no reason")),
            (true, true) | (false, false) => {}
        }
    }
    wrong.extend(rows.keys().map(|name| format!("{name} is in neither")));
    wrong
}

/// The name in a row of the table, its two columns, and the reason.
fn row(line: &str) -> Option<(&str, ([&str; 2], &str))> {
    let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
    match cells[..] {
        [name, std, tokio, reason, ""] => Some((name.strip_suffix('`')?, ([std, tokio], reason))),
        _ => panic!("this row has not four columns: {line}"),
    }
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_says_what_each_adapter_has_and_why_the_other_has_not() {
    let std = items(&read("api/falco-std.txt"), "falco_std");
    let tokio = items(&read("api/falco-tokio.txt"), "falco_tokio");
    assert!(std.len() > 80 && tokio.len() > 80, "{} and {}", std.len(), tokio.len());
    let wrong = check(&read("docs/adapters.md"), &std, &tokio);
    assert!(wrong.is_empty(), "docs/adapters.md:\n{}", wrong.join("\n"));
}

const STD: &str = "\
#[non_exhaustive] pub enum falco_std::Error
pub falco_std::Error::Closed
pub falco_std::Error::Io
pub falco_std::Error::Io::source: std::io::error::Error
impl falco_std::Client
pub fn falco_std::Client::request(&self, impl core::convert::AsRef<[u8]>) -> core::result::Result<alloc::vec::Vec<u8>, falco_std::Error>
pub const fn falco_std::Client::limit(self, core::time::Duration) -> Self
pub fn falco_std::Client::only_here(&self)
impl core::clone::Clone for falco_std::Client
pub fn falco_std::Client::clone(&self) -> falco_std::Client
";
const TOKIO: &str = "\
#[non_exhaustive] pub enum falco_tokio::Error
pub falco_tokio::Error::Closed
pub falco_tokio::Error::Io
pub falco_tokio::Error::Io::source: std::io::error::Error
impl falco_tokio::Client
pub async fn falco_tokio::Client::request(&self, impl core::convert::Into<bytes::bytes::Bytes>) -> core::result::Result<bytes::bytes::Bytes, falco_tokio::Error>
pub fn falco_tokio::Client::limit(self, u64) -> Self
impl core::clone::Clone for falco_tokio::Client
pub fn falco_tokio::Client::clone(&self) -> falco_tokio::Client
";
const PAGE: &str = "\
| item | falco-std | falco-tokio | why |
|---|---|---|---|
| `Client: Clone` | yes | yes | |
| `Client::request` | yes | yes | |
| `Client::limit` | yes | yes | another clock |
| `Client::only_here` | yes | no | threads |
| `Error::Closed` | yes | yes | |
| `Error::Io` | yes | yes | |
";

fn check_with(from: &str, to: &str) -> Vec<String> {
    assert!(PAGE.contains(from), "{from}");
    check(
        &PAGE.replace(from, to),
        &items(STD, "falco_std"),
        &items(TOKIO, "falco_tokio"),
    )
}

#[test]
fn a_page_that_is_right_passes() {
    assert_eq!(check_with("", ""), [""; 0]);
}

#[test]
fn each_fault_is_reported() {
    for (from, to, told) in [
        (
            "| `Error::Closed` | yes | yes | |\n",
            "",
            "a row is missing: | `Error::Closed` | yes | yes | |",
        ),
        ("| `Error::Io` ", "| `Error::Gone` ", "Error::Gone is in neither"),
        ("| yes | no | threads", "| yes | yes | threads", "is to be"),
        ("| yes | no | threads", "| yes | no | ", "the reason is missing"),
        ("| another clock |", "| |", "the reason is missing"),
        (
            "request` | yes | yes | |",
            "request` | yes | yes | because |",
            "needs no reason",
        ),
        (
            "| `Error::Io`",
            "| `Error::Closed` | yes | yes | |\n| `Error::Io`",
            "Error::Closed has two rows",
        ),
    ] {
        let wrong = check_with(from, to);
        assert!(wrong.iter().any(|line| line.contains(told)), "{told}: {wrong:?}");
    }
}

#[test]
fn types_in_variants_and_signatures_count_and_names_of_crates_do_not() {
    let (std, tokio) = (items(STD, "falco_std"), items(TOKIO, "falco_tokio"));
    assert_eq!(std.get("Error::Io"), tokio.get("Error::Io"));
    assert_eq!(std.get("Client::request"), tokio.get("Client::request"));
    assert_ne!(std.get("Client::limit"), tokio.get("Client::limit"));
    let other = items(
        &TOKIO.replace("source: std::io::error::Error", "source: u8"),
        "falco_tokio",
    );
    assert_ne!(std.get("Error::Io"), other.get("Error::Io"));
}
