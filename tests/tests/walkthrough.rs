//! "One request, followed through the code" in `CONTRIBUTING.md`: each function that it names
//! exists, in one of the files that the text before its table names, and no way has more hops than
//! the page promises.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

/// The most hops of one way.
const MAX_HOPS: usize = 12;

/// A source file by its path below `src` of its crate.
struct Source {
    path: String,
    text: String,
}

/// The files under a folder. `at` is the path of the folder below `root`.
fn sources(root: &Path, at: &str, found: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(at)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        if root.join(&path).is_dir() {
            sources(root, &path, found);
        } else {
            let text = fs::read_to_string(root.join(&path)).unwrap();
            found.push(Source { path, text });
        }
    }
}

/// The texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The type or module, if it has one, and the name of a function. `None` for other code.
fn function(code: &str) -> Option<(Option<&str>, &str)> {
    let (owner, name) = match code.rsplit_once("::") {
        Some((path, name)) => (path.rsplit("::").next(), name),
        None => (None, code),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit());
    is_name.then_some((owner, name))
}

/// Whether code is the path of a file of an adapter.
fn is_file(code: &str) -> bool {
    Path::new(code).extension().is_some_and(|extension| extension == "rs") && !code.starts_with("tests/")
}

/// Whether a line defines the function.
fn defines(line: &str, name: &str) -> bool {
    let rest = line.split_once(&format!("fn {name}")).map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.starts_with(['(', '<']))
}

/// What follows the generic parameters of an `impl`.
fn behind_parameters(rest: &str) -> &str {
    let mut depth = 0;
    for (at, letter) in rest.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if !rest[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return rest[at..].trim_start_matches('>');
        }
    }
    ""
}

/// The trait, or the type and its trait, whose items follow a line.
fn owners(line: &str) -> impl Iterator<Item = &str> {
    let line = line
        .strip_prefix("pub ")
        .or(line.strip_prefix("pub(crate) "))
        .unwrap_or(line);
    let of_impl = line.strip_prefix("impl").map(behind_parameters);
    let rest = of_impl.or(line.strip_prefix("trait ")).unwrap_or_default();
    rest.split(" for ").map(|path| {
        let path = path.trim_start().split(['<', ' ', '{']).next().unwrap();
        path.trim_end_matches(':').rsplit("::").next().unwrap()
    })
}

/// Whether a file defines the function of a type or a module, or outside of any.
fn has(source: &Source, owner: Option<&str>, name: &str) -> bool {
    let lines = source.text.lines().take_while(|line| *line != "#[cfg(test)]");
    match owner {
        Some(owner) if owner.starts_with(|c: char| c.is_ascii_uppercase()) => {
            let mut inside = false;
            lines.into_iter().any(|line| {
                match line.chars().next() {
                    Some('}') => inside = false,
                    Some(first) if first.is_ascii_alphabetic() => inside |= owners(line).any(|other| other == owner),
                    _ => {}
                }
                inside && defines(line, name)
            })
        }
        module => {
            let of_module = module.is_none_or(|module| {
                let stem = source.path.strip_suffix(".rs").unwrap();
                stem == module || stem.ends_with(&format!("/{module}"))
            });
            let mut lines = lines.filter(|line| !line.starts_with([' ', '}']));
            of_module && lines.any(|line| defines(line, name))
        }
    }
}

/// What is wrong with the section.
fn check(section: &str, adapter: &[Source], core: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for paragraph in section.split("\n\n") {
        let is_table = paragraph.starts_with('|');
        let mut hops = 0;
        if !is_table {
            files = quoted(paragraph).filter(|code| is_file(code)).collect();
            for file in &files {
                if !adapter.iter().any(|source| source.path == *file) {
                    wrong.push(format!("there is no {file}"));
                }
            }
        }
        for line in paragraph.lines() {
            let mut cells = line.split('|').skip(1);
            let numbered = is_table && cells.next().is_some_and(|cell| cell.trim().parse() == Ok(hops + 1));
            hops += usize::from(numbered);
            let hop = if numbered { cells.next().unwrap() } else { "" };
            for code in quoted(line) {
                let Some((owner, name)) = function(code) else {
                    continue;
                };
                let is_hop = quoted(hop).any(|other| other == code);
                let in_files = |source: &&Source| files.contains(&&*source.path);
                let exists = adapter.iter().filter(in_files).any(|source| has(source, owner, name))
                    || (!is_hop && adapter.iter().chain(core).any(|source| has(source, owner, name)));
                if !exists {
                    wrong.push(format!("there is no function {code}"));
                }
            }
        }
        if hops > MAX_HOPS {
            wrong.push(format!(
                "a way has {hops} hops, which ends in {}",
                paragraph.lines().last().unwrap()
            ));
        }
    }
    wrong
}

fn section(page: &str) -> &str {
    let (_, section) = page
        .split_once("\n## One request, followed through the code\n")
        .unwrap();
    section.split("\n## ").next().unwrap()
}

#[test]
fn each_function_on_the_way_of_a_request_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let of = |name: &str| {
        let mut found = Vec::new();
        sources(&root.join(name).join("src"), "", &mut found);
        found
    };
    let page = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let section = section(&page);
    let functions = quoted(section).filter(|code| function(code).is_some()).count();
    assert!(functions > 100, "{functions} functions");
    let wrong = check(section, &of("falco-tokio"), &of("falco-core"));
    assert!(wrong.is_empty(), "CONTRIBUTING.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_function_that_does_not_exist_is_reported() {
    let source = |path: &str, text: &str| Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let adapter = [
        source(
            "a.rs",
            "impl<H: Other> Future for A<H>\nwhere\n    H: B,\n{\n    fn poll(self) {\n    }\n}\nfn free() {}\n",
        ),
        source("b.rs", "impl B {\n    pub(super) fn run<T>() {}\n}\n"),
    ];
    let core = [source(
        "c.rs",
        "pub trait C: Sized {\n    fn open(&self);\n}\nimpl c::D for A {}\n",
    )];
    for good in [
        "In `a.rs`:\n\n| 1 | `A::poll` | calls `free`, `a::free`, `B::run` and `C::open` |",
        "`x::A::poll` → `C::open` in `B`, with `Error::Closed`",
    ] {
        assert_eq!(check(good, &adapter, &core), [""; 0], "{good}");
    }
    for (bad, reported) in [
        ("`A::run`", "there is no function A::run"),
        ("`Other::poll`", "there is no function Other::poll"),
        ("`H::poll`", "there is no function H::poll"),
        ("`poll`", "there is no function poll"),
        ("`b::free`", "there is no function b::free"),
        ("`B::ru`", "there is no function B::ru"),
        ("`a.rs`, `d.rs`:", "there is no d.rs"),
        ("In `a.rs`:\n\n| 1 | `B::run` | |", "there is no function B::run"),
        ("In `a.rs`:\n\n| 1 | `C::open` | |", "there is no function C::open"),
    ] {
        assert_eq!(check(bad, &adapter, &core), [reported], "{bad}");
    }
    let long: Vec<_> = (1..=MAX_HOPS + 1).map(|hop| format!("| {hop} | `A` | |\n")).collect();
    assert_eq!(check(&long.concat(), &adapter, &core).len(), 1);
}
