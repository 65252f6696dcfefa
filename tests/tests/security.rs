//! `SECURITY.md` and the pages of `docs/`: each link that is named after a test leads to a file
//! which has that test, and the test runs.

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

/// Whether `text` has a test of this name that runs: its attributes are above it.
fn has_test(text: &str, name: &str) -> bool {
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else {
        return false;
    };
    let above = before.rsplit_once('\n').map_or("", |(above, _)| above);
    let attributes: Vec<_> = above
        .lines()
        .rev()
        .take_while(|line| line.trim_start().starts_with(['#', '/']))
        .collect();
    let any = |what: &str| attributes.iter().any(|line| line.contains(what));
    (any("#[test]") || any("#[tokio::test")) && !any("#[ignore")
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
        [helper_of_tests][a], [slow_test][a], [in the other crate][a], [unknown_test][nowhere]\n\n[a]: a.rs\n";
    let file = "#[test]\n/// Text.\nfn a_test() {}\n\nfn helper_of_tests() {}\n\n#[tokio::test(start_paused = true)]\n\
        async fn an_async_test() {}\n\n#[test]\n#[ignore = \"slow\"]\nfn slow_test() {}\n";
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
        ]
    );
}
