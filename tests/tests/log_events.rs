//! The tables of log events in `docs/services.md` and `docs/tool.md` against the events of
//! falco-tokio and of its tool: each event is in a row of its level, and each row has only events
//! that exist.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The level of an event, and its message.
type Events = BTreeSet<(String, String)>;

/// The macros that log, with their levels, and the functions of the tool that write a message. A
/// macro that is limited logs a warning if it is due.
const CALLS: [(&str, &str); 9] = [
    ("error(&", "ERROR"),
    ("warn(&", "WARN"),
    ("tell(&", "INFO"),
    ("warn_limited!(", "WARN"),
    ("error!(", "ERROR"),
    ("warn!(", "WARN"),
    ("info!(", "INFO"),
    ("debug!(", "DEBUG"),
    ("trace!(", "TRACE"),
];

/// The events that a source file logs, without its tests. The message is the last literal among
/// the arguments of a macro, and the first among those of a function. A function may take a message
/// that has no literal.
fn logged(code: &str) -> Events {
    let code = code.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut events = Events::new();
    for (name, level) in CALLS {
        for (at, _) in code.match_indices(name) {
            // Another macro, whose name ends like this.
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let (is_function, arguments) = (name.ends_with('&'), arguments(&code[at + name.len()..]));
            // The definition of a macro has no message of its own, and a list is no message.
            if arguments.contains('$') || (is_function && arguments.starts_with('[')) {
                continue;
            }
            let mut literals = arguments.split('"').skip(1).step_by(2);
            let message = if is_function {
                literals.next().or(Some("{message}"))
            } else {
                literals.last()
            };
            let message = message.unwrap_or_else(|| panic!("no message in {name}{arguments}"));
            // The functions themselves, and lines of commands.
            if !is_function && matches!(message, "{message}" | "{line}") {
                continue;
            }
            events.insert((level.to_owned(), message.to_owned()));
        }
    }
    events
}

/// The text up to the parenthesis that closes it.
fn arguments(code: &str) -> &str {
    let (mut depth, mut quoted) = (1, false);
    for (at, letter) in code.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[..at];
        }
    }
    panic!("the parenthesis is not closed: {code}");
}

/// The events in the table of a page, each between backticks in the second column.
fn documented(page: &str) -> Events {
    let mut events = Events::new();
    for line in page.lines() {
        let mut cells = line.split(" | ");
        let level = cells.next().and_then(|cell| cell.strip_prefix("| "));
        let Some(level) = level.filter(|level| CALLS.iter().any(|(_, other)| other == level)) else {
            continue;
        };
        let messages = cells
            .next()
            .into_iter()
            .flat_map(|cell| cell.split('`').skip(1).step_by(2));
        for message in messages {
            let event = (level.to_owned(), message.to_owned());
            assert!(events.insert(event), "{message} has two rows");
        }
    }
    events
}

/// The sources in a directory, without those of the tool below it.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("src/bin") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
}

fn compare(directory: &str, page: &str, at_least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    sources(&root.join(directory), &mut found);
    let logged: Events = found.iter().flat_map(|code| logged(code)).collect();
    assert!(logged.len() > at_least, "{logged:?}");
    let documented = documented(&fs::read_to_string(root.join(page)).unwrap());
    let missing: Vec<_> = logged.difference(&documented).collect();
    let wrong: Vec<_> = documented.difference(&logged).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "{page}: no row for {missing:#?}; no event for {wrong:#?}"
    );
}

#[test]
fn the_page_has_each_log_event_at_its_level_and_no_other() {
    compare("falco-tokio/src", "docs/services.md", 20);
}

#[test]
fn the_page_of_the_tool_has_each_of_its_log_events_and_no_other() {
    compare("falco-tokio/src/bin/falco", "docs/tool.md", 30);
}

#[test]
fn events_are_found_in_code() {
    let code = r#"
        debug!(%error, at = name("x"), "one (or two)");
        tracing::warn!(
            left_out, "three"
        );
        warn_limited!(warnings.failed, %error, "four");
        warn!(left_out, $($fields)+)
        warn_span!("no event");
        info!(target: TOLD, "{message}");
        log::tell(&format_args!("five {}", counted(5, "line")));
        self::error(&message);
        supervisor::tell(&["no event"]);
    "#;
    let events = [
        ("DEBUG", "one (or two)"),
        ("WARN", "three"),
        ("WARN", "four"),
        ("INFO", "five {}"),
        ("ERROR", "{message}"),
    ];
    let events = events.map(|(level, message)| (level.to_owned(), message.to_owned()));
    assert_eq!(logged(code), Events::from(events));
}
