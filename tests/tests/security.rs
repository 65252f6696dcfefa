//! `SECURITY.md`: each link that is named after a test leads to a file which has that test.

use std::fs;
use std::path::Path;

/// The links of `page` whose text is the name of a function, with their files.
fn links(page: &str) -> Vec<(&str, &str)> {
    let named = |text: &str| text.contains('_') && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    page.split('[')
        .filter_map(|rest| {
            let (text, rest) = rest.split_once("](")?;
            let (file, _) = rest.split_once(')')?;
            named(text).then_some((text, file))
        })
        .collect()
}

/// What is wrong with the links of a page. `read` returns the text of a file.
fn check(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    links(page)
        .into_iter()
        .filter_map(|(name, file)| match read(file) {
            None => Some(format!("{name}: there is no file {file}")),
            Some(text) if text.contains(&format!("fn {name}(")) => None,
            Some(_) => Some(format!("{name} is not in {file}")),
        })
        .collect()
}

#[test]
fn each_promise_links_to_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("SECURITY.md")).expect("the page");
    assert!(links(&page).len() > 40, "{:?}", links(&page));
    let wrong = check(&page, |file| fs::read_to_string(root.join(file)).ok());
    assert!(wrong.is_empty(), "SECURITY.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_link_to_a_test_that_does_not_exist_is_reported() {
    let page = "[a_test](a.rs), [no_test](a.rs), [lost_test](b.rs), [prose](c.md)";
    let wrong = check(page, |file| (file == "a.rs").then(|| "fn a_test() {}".to_owned()));
    assert_eq!(wrong, ["no_test is not in a.rs", "lost_test: there is no file b.rs"]);
}
