//! The files of a crate import each other in one direction, as CONTRIBUTING.md says: no chain of
//! imports leads back to the file where it began. A module and those inside it may know each other.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The path of a module without `crate`.
type Module = Vec<String>;

/// The files under a folder, by their modules.
fn files(root: &Path, at: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inside: Module = at.iter().chain([&name]).cloned().collect();
        if path.is_dir() {
            // The programs of a crate are crates of their own.
            if name != "bin" {
                files(&path, &inside, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_root = at.is_empty() && (name == "lib" || name == "main");
            let module = if is_root { Module::new() } else { inside };
            found.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// What is between the commas that are in no braces.
fn parts(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[from..]);
    parts
}

/// The paths of a tree such as `a::{b, c::d}`.
fn paths(before: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    match tree.split_once('{') {
        Some((prefix, list)) => {
            let list = list.strip_suffix('}').unwrap();
            let before = format!("{before}{prefix}");
            parts(list).into_iter().flat_map(|part| paths(&before, part)).collect()
        }
        None => vec![format!("{before}{tree}")],
    }
}

/// The paths that a file imports outside of its tests.
fn imports(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap().trim();
        if before.is_empty() || before == "pub" || (before.starts_with("pub(") && before.ends_with(')')) {
            let tree = code[at + 4..].split(';').next().unwrap();
            found.extend(paths("", tree));
        }
    }
    found
}

/// The file that a path in a module leads to, if it is in the crate.
fn file_of(path: &str, module: &Module, files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut names = path.split("::").peekable();
    let mut at = module.clone();
    match *names.peek()? {
        "crate" => at = Module::new(),
        "self" => {}
        "super" => {
            while names.next_if_eq(&"super").is_some() {
                at.pop();
            }
        }
        _ => return None,
    }
    for name in names.filter(|name| !["crate", "self"].contains(name)) {
        at.push(name.split(' ').next()?.to_owned());
        if !files.contains_key(&at) {
            at.pop();
            break;
        }
    }
    Some(at)
}

/// The first circle of imports, as the modules on it.
fn circle(files: &BTreeMap<Module, String>) -> Option<Vec<Module>> {
    let mut edges = BTreeMap::new();
    for (module, source) in files {
        let others = imports(source)
            .into_iter()
            .filter_map(|path| file_of(&path, module, files));
        let is_outside = |other: &Module| !other.starts_with(module) && !module.starts_with(other);
        let others: BTreeSet<_> = others.filter(is_outside).collect();
        edges.insert(module.clone(), others);
    }
    // What imports nothing that is left is on no circle.
    while let Some(end) = edges.iter().find(|(_, others)| others.is_empty()) {
        let end = end.0.clone();
        edges.remove(&end);
        for others in edges.values_mut() {
            others.remove(&end);
        }
    }
    let mut way = vec![edges.keys().next()?.clone()];
    loop {
        let next = edges.get(way.last().unwrap()).unwrap().first().unwrap();
        if let Some(from) = way.iter().position(|before| before == next) {
            return Some(way.split_off(from));
        }
        way.push(next.clone());
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let crates = [
        "falco-core/src",
        "falco-tokio/src",
        "falco-tokio/src/bin/falco",
        "falco-std/src",
        "falco-embedded/src",
    ];
    for name in crates {
        let mut found = BTreeMap::new();
        files(&root.join(name), &Module::new(), &mut found);
        assert!(found.len() > 10, "these are not all files of {name}");
        assert_eq!(circle(&found), None, "{name}");
    }
}

#[test]
fn circles_are_found() {
    let files = |files: &[(&str, &str)]| {
        let module = |name: &str| {
            name.split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()
        };
        files
            .iter()
            .map(|(name, source)| (module(name), (*source).to_owned()))
            .collect::<BTreeMap<Module, _>>()
    };
    let one_way = [
        ("", ""),
        ("a", "use super::b::{B, c::{self, C}};"),
        ("b", "mod c;"),
        ("b::c", "use super::B;"),
    ];
    assert_eq!(circle(&files(&one_way)), None);
    let back = ("b::c", "// Why.\npub(super) use crate::a::A;");
    assert_eq!(
        circle(&files(&[one_way[0], one_way[1], one_way[2], back]))
            .unwrap()
            .len(),
        2
    );
    let long = [
        ("a", "use super::b::B;"),
        ("b", "use super::c::C;"),
        ("c", "use super::{\n    a::A,\n};"),
    ];
    assert_eq!(circle(&files(&long)).unwrap().len(), 3);
    let test = ("c", "#[cfg(test)]\nmod tests {\n    use super::super::a::A;\n}");
    assert_eq!(circle(&files(&[long[0], long[1], test])), None);
}
