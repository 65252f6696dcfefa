//! The pages of the repository: each link leads to a file that exists, and its anchor to a heading
//! in it. A link that is named after a test leads to a file with that test. A list of contents has
//! all sections.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The lines of a page that are not in a block of code.
fn prose(page: &str) -> String {
    let mut code = false;
    let mut lines = String::new();
    for line in page.lines() {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        if !code && !fence {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

/// The anchors of the headings of a level or of all levels, as GitHub makes them.
fn anchors(prose: &str, level: Option<usize>) -> BTreeSet<String> {
    let mut counts = BTreeMap::new();
    let headings = prose.lines().filter_map(|line| {
        let text = line.trim_start_matches('#');
        let depth = line.len() - text.len();
        let is_heading = depth > 0 && text.starts_with(' ') && level.is_none_or(|level| level == depth);
        is_heading.then(|| text.trim().to_lowercase())
    });
    headings
        .map(|heading| {
            let letters = heading.chars().filter_map(|letter| match letter {
                ' ' => Some('-'),
                '-' | '_' => Some(letter),
                _ => letter.is_alphanumeric().then_some(letter),
            });
            let anchor: String = letters.collect();
            let count = counts.entry(anchor.clone()).or_insert(0);
            *count += 1;
            match *count {
                1 => anchor,
                more => format!("{anchor}-{}", more - 1),
            }
        })
        .collect()
}

/// The texts of links with their destinations, also of those that name a reference.
fn links(prose: &str) -> Vec<(String, String)> {
    let reference = |line: &str| {
        let (name, to) = line.strip_prefix('[')?.split_once("]: ")?;
        Some((name.to_owned(), to.trim().to_owned()))
    };
    let references: BTreeMap<_, _> = prose.lines().filter_map(reference).collect();
    let mut found = Vec::new();
    for (at, _) in prose.match_indices(']') {
        let text = prose[..at].rsplit('[').next().unwrap_or_default().to_owned();
        let rest = &prose[at + 1..];
        if let Some((to, _)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            found.push((text, to.to_owned()));
        } else if let Some((name, _)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let to = references.get(name);
            found.push((text, to.cloned().unwrap_or_else(|| format!("no reference {name}"))));
        }
    }
    found
}

fn has_ending(path: &str, ending: &str) -> bool {
    Path::new(path).extension().is_some_and(|other| other == ending)
}

/// Whether the text of a link is the name of a test.
fn names_a_test(text: &str) -> bool {
    let letters = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
    text.matches('_').count() > 1 && text.chars().all(letters)
}

/// What is wrong with a page. `read` returns the text of a file or directory beside it.
fn check(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let prose = prose(page);
    let mut wrong = Vec::new();
    for (text, to) in links(&prose) {
        if to.starts_with("http") {
            continue;
        }
        let (path, anchor) = to.split_once('#').unwrap_or((&to, ""));
        let there = if path.is_empty() {
            Some(page.to_owned())
        } else {
            read(path)
        };
        let Some(there) = there else {
            wrong.push(format!("{to}: there is no such file"));
            continue;
        };
        if !anchor.is_empty() && !anchors(&self::prose(&there), None).contains(anchor) {
            wrong.push(format!("{to}: there is no such heading"));
        }
        let name = text.trim_matches('`');
        if has_ending(path, "rs") && names_a_test(name) && !there.contains(&format!("fn {name}(")) {
            wrong.push(format!("{name} is not in {path}"));
        }
    }
    let items = prose
        .lines()
        .filter_map(|line| line.strip_prefix("- [")?.strip_suffix(')'));
    let contents: BTreeSet<_> = items
        .filter_map(|item| item.split_once("](#"))
        .map(|(_, to)| to)
        .collect();
    if contents.len() > 2 {
        let sections = anchors(&prose, Some(2));
        let missing = sections.iter().filter(|section| !contents.contains(section.as_str()));
        wrong.extend(missing.map(|section| format!("the contents do not have {section}")));
    }
    wrong
}

/// All pages below a directory.
fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            pages(&path, found);
        } else if has_ending(&name, "md") {
            found.push(path);
        }
    }
}

#[test]
fn all_links_lead_to_files_headings_and_tests_that_there_are() {
    let mut found = Vec::new();
    pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut found);
    assert!(found.len() > 20, "{found:?}");
    let mut wrong = Vec::new();
    for page in found {
        let directory = page.parent().unwrap();
        let read = |path: &str| {
            let path = directory.join(path);
            let directory = path.is_dir().then(String::new);
            directory.or_else(|| fs::read_to_string(path).ok())
        };
        let faults = check(&fs::read_to_string(&page).unwrap(), read);
        wrong.extend(faults.into_iter().map(|fault| format!("{}: {fault}", page.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_fault_is_reported() {
    let read = |path: &str| match path {
        "a.rs" => Some("fn this_is_a_test() {}".to_owned()),
        "b.md" => Some("# One\n## One\n## `Two` and three, or 4\n".to_owned()),
        _ => None,
    };
    for good in [
        "[`this_is_a_test`](a.rs) [b](b.md#one-1) [c](b.md#two-and-three-or-4) [x](https://example.org/y)",
        "[`this_is_a_test`][a]\n\n[a]: a.rs\n",
        "```\n[x](y)\n```\n",
    ] {
        assert_eq!(check(good, read), [""; 0], "{good}");
    }
    for (bad, told) in [
        ("[x](c.md)", "c.md: there is no such file"),
        ("[x](b.md#two)", "b.md#two: there is no such heading"),
        ("[x](#two)\n# One\n", "#two: there is no such heading"),
        ("[x][b]", "no reference b: there is no such file"),
        ("[this_is_no_test](a.rs)", "this_is_no_test is not in a.rs"),
        ("[`this_is_no_test`][a]\n[a]: a.rs", "this_is_no_test is not in a.rs"),
        (
            "- [A](#a)\n- [B](#b)\n- [C](#c)\n## A\n## B\n## C\n## D\n",
            "the contents do not have d",
        ),
    ] {
        assert_eq!(check(bad, read), [told], "{bad}");
    }
}
