//! The requests of the tests, and how they check the answers.

use std::collections::BTreeSet;

use falco_core::testing::ClientLog;

use super::bodies::{body, transform};
use super::ours::OurClient;

/// A hundred sizes, no two alike: mostly small, some to be cut, and those about the largest that
/// one frame holds, 65,512.
pub(crate) fn sizes() -> Vec<usize> {
    let size = |at: usize| match (at, at % 10) {
        (9, _) => 65_512,
        (19, _) => 65_513,
        (49, _) => (1 << 20) - 1,
        (99, _) => 1 << 20,
        (_, 8) => 16_384 + 500 * at,
        (_, 9) => 70_000 + 3_000 * at,
        (_, 6 | 7) => 1_000 + 37 * at,
        _ => 7 * at,
    };
    (0..100).map(size).collect()
}

pub(crate) fn listed(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Sends requests of these sizes at once and checks each answer against its own request.
pub(crate) fn exchange(client: &mut OurClient, sizes: &[usize]) {
    client.log.clear();
    for size in sizes {
        client.request(body(*size)).expect("within the limit");
    }
    client.run_until(|client| client.log.iter().filter(|told| answered(told).is_some()).count() == sizes.len());
    let mut asked = BTreeSet::new();
    for (number, answer) in client.log.iter().filter_map(answered) {
        let request = client.asked(number);
        assert!(
            *answer == transform(request),
            "to request {number} of {} bytes",
            request.len()
        );
        asked.insert(request.len());
    }
    assert_eq!(asked, sizes.iter().copied().collect());
}

fn answered(told: &ClientLog) -> Option<(u32, &Vec<u8>)> {
    match told {
        ClientLog::Answer(number, body) => Some((*number, body)),
        ClientLog::Established
        | ClientLog::Refused(..)
        | ClientLog::Pong(_)
        | ClientLog::Closing(_)
        | ClientLog::Ended(_) => None,
    }
}

/// The line that begins with `word`, as numbers.
pub(crate) fn numbers(lines: &[String], word: &str) -> Vec<u64> {
    let line = lines.iter().find_map(|line| line.strip_prefix(word));
    let line = line.unwrap_or_else(|| panic!("no line {word:?} in {lines:?}"));
    line.split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect()
}

pub(crate) fn count(lines: &[String], line: &str) -> usize {
    lines.iter().filter(|said| *said == line).count()
}
