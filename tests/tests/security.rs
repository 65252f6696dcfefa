//! `SECURITY.md` and the pages of `docs/`: each link that is named after a test leads to a file
//! which has that test, and the test runs. Each promise of `SECURITY.md` has such a link.

use std::fs;
use std::path::Path;

/// The name of a function, if the text of a link is one.
fn name(text: &str) -> Option<&str> {
    let name = text.trim_matches('`');
    let is_name = name.contains('_') && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    is_name.then_some(name)
}

/// The links of `page` whose text is the name of a function, with their targets.
fn links(page: &str) -> Vec<(&str, &str)> {
    page.match_indices('[')
        .filter_map(|(at, _)| {
            let (text, rest) = page.get(at + 1..)?.split_once(']')?;
            let target = if let Some(rest) = rest.strip_prefix('(') {
                rest.split_once(')')?.0
            } else {
                let (label, _) = rest.strip_prefix('[')?.split_once(']')?;
                let start = format!("[{label}]: ");
                page.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or(label)
            };
            Some((name(text)?, target))
        })
        .collect()
}

/// Whether `text` has a test of this name that runs.
fn has_test(text: &str, name: &str) -> bool {
    let function = format!("fn {name}(");
    text.match_indices(&function).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let (above, line) = before.rsplit_once('\n').unwrap_or(("", before));
        matches!(line.trim(), "" | "async" | "pub" | "pub async") && is_test(&attributes(above))
    })
}

/// The attributes at the end of `above`, without comments. They end where an item or a block does.
fn attributes(above: &str) -> String {
    let lines = above.lines().rev().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with("//"));
    let own = lines.take_while(|line| !line.is_empty() && !line.ends_with(['}', ';', '{']));
    own.collect::<Vec<_>>().join("\n")
}

/// Whether a function with these attributes is a test that runs.
fn is_test(attributes: &str) -> bool {
    let is_test = attributes.contains("#[test]") || attributes.contains("#[tokio::test");
    // Also as part of `cfg_attr`, except where CI runs. What `cfg(any())` is on is never compiled.
    let attributes = attributes.replace("#[cfg_attr(not(target_os = \"linux\"), ignore", "");
    let mut words = attributes.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    is_test && !words.any(|word| word == "ignore") && !attributes.contains("cfg(any())")
}

/// Promises without a test, with the reason. Their rows name it, and what checks them instead.
const WITHOUT: [(&str, &str); 1] = [(
    "The firmware image has no reachable panic",
    "no test of Cargo, because it needs a cross compiler",
)];

/// The rows of the tables of promises, without those that link to a test.
fn untested(page: &str) -> Vec<&str> {
    let mut lines = page.lines();
    let mut found = Vec::new();
    while lines.any(|line| line == "| promise | tests |") {
        let rows = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        found.extend(rows.filter(|row| {
            let tests = row.trim_end_matches([' ', '|']).rsplit_once(" | ");
            tests.is_none_or(|(_, tests)| links(tests).is_empty())
        }));
    }
    found
}

#[test]
fn each_promise_has_a_test_or_a_reason_why_it_has_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("the page");
    let untested = untested(&page);
    let is_of = |row: &str, promise: &str| row.strip_prefix("| ").is_some_and(|row| row.starts_with(promise));
    for row in &untested {
        let reason = WITHOUT.iter().find(|(promise, _)| is_of(row, promise));
        let (_, reason) = reason.unwrap_or_else(|| panic!("no link to a test: {row}"));
        assert!(row.contains(reason), "the row does not say why it has no test: {row}");
    }
    assert_eq!(untested.len(), WITHOUT.len(), "an exception has no row: {untested:#?}");
}

#[test]
fn a_promise_without_a_link_to_a_test_is_found() {
    let page = "| promise | tests |\n|---|---|\n| one | [a_test](a.rs) |\n| two | [a page](a.md) |\n\n\
        | other | table |\n|---|---|\n| x | y |\n\n\
        | promise | tests |\n|---|---|\n| three [a_test](a.rs) | `a_test` |\n| four | text, [`a_test`](a.rs) |";
    assert_eq!(
        untested(page),
        ["| two | [a page](a.md) |", "| three [a_test](a.rs) | `a_test` |"]
    );
}

/// What is wrong with the links of a page. `read` returns the text of a file.
fn check(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    links(page)
        .into_iter()
        .filter_map(|(name, file)| match read(file) {
            None => Some(format!("{name}: there is no file {file}")),
            Some(text) if has_test(&text, name) => None,
            Some(_) => Some(format!("{name} is no test in {file}, or it does not run")),
        })
        .collect()
}

#[test]
fn each_promise_links_to_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = fs::read_dir(root.join("docs")).expect("the pages");
    let docs = docs.map(|page| page.expect("a page").path());
    let docs = docs.filter(|page| page.extension().is_some_and(|end| end == "md"));
    let (mut checked, mut wrong) = (0, Vec::new());
    for path in docs.chain([root.join("SECURITY.md")]) {
        let page = fs::read_to_string(&path).expect("the page");
        let directory = path.parent().expect("it is in one");
        checked += links(&page).len();
        let found = check(&page, |file| fs::read_to_string(directory.join(file)).ok());
        wrong.extend(found.into_iter().map(|wrong| format!("{}: {wrong}", path.display())));
    }
    assert!(checked > 150, "{checked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_link_to_a_test_that_does_not_exist_or_run_is_reported() {
    let page = "[a_test](a.rs), [no_test](a.rs), [lost_test](b.rs), [prose](c.md), [`an_async_test`][a],\n\
        [helper_of_tests][a], [slow_test][a], [in the other crate][a], [unknown_test][nowhere],\n\
        [second_of_its_name][a], [maybe_slow_test][a], [long_slow_test][a], [commented_test][a],\n\
        [never_compiled][a], [named_alike][a], [linux_test][a]\n\n[a]: a.rs\n";
    let file = "#[test]\n/// Text.\nfn a_test() {}\n\nfn helper_of_tests() {}\n\n#[tokio::test(start_paused = true)]\n\
        async fn an_async_test() {}\n\n#[test]\n#[ignore = \"slow\"]\nfn slow_test() {}\n\n\
        fn second_of_its_name() {}\n\n#[test]\nfn second_of_its_name() {}\n\n\
        #[cfg_attr(debug_assertions, ignore)]\n#[test]\nfn maybe_slow_test() {}\n\n\
        #[test]\n#[cfg_attr(\n    debug_assertions,\n    ignore = \"slow\"\n)]\nfn long_slow_test() {}\n\n\
        #[test]\n// fn commented_test() {}\nfn other() {}\n\n\
        #[cfg_attr(not(target_os = \"linux\"), ignore = \"reads /proc\")]\n#[test]\nfn linux_test() {}\n\n\
        #[cfg(any())]\n#[test]\nfn never_compiled() {}\n\n\
        #[test]\nfn named_alike_too() { named_alike() }\nfn named_alike() {}\n";
    let wrong = check(page, |name| (name == "a.rs").then(|| file.to_owned()));
    let no_test = |name: &str| format!("{name} is no test in a.rs, or it does not run");
    let lost = |name: &str, file: &str| format!("{name}: there is no file {file}");
    assert_eq!(
        wrong,
        [
            no_test("no_test"),
            lost("lost_test", "b.rs"),
            no_test("helper_of_tests"),
            no_test("slow_test"),
            lost("unknown_test", "nowhere"),
            no_test("maybe_slow_test"),
            no_test("long_slow_test"),
            no_test("commented_test"),
            no_test("never_compiled"),
            no_test("named_alike"),
        ]
    );
}
