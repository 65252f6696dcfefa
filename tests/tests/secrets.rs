//! Secrets are in memory only where they are needed, and are gone from it when they are no longer
//! needed.
//!
//! Each test runs a server and a client in a process of their own, and looks for their secrets in
//! all of its writable memory: heap, stacks of living and of ended threads, statics. The keys and
//! the ephemeral secrets come from a generator that both processes compute, and the handshake
//! passes a relay, so that this process can compute every secret without having been told one.
#![cfg(target_os = "linux")]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

#[path = "secrets/aes.rs"]
mod aes;
#[path = "secrets/control.rs"]
mod control;
#[path = "secrets/draws.rs"]
mod draws;
#[path = "secrets/memory.rs"]
mod memory;
#[path = "secrets/needles.rs"]
mod needles;
#[path = "secrets/on_devices.rs"]
mod on_devices;
#[path = "secrets/on_std.rs"]
mod on_std;
#[path = "secrets/on_tokio.rs"]
mod on_tokio;
#[path = "secrets/relay.rs"]
mod relay;

use core::hint::black_box;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use control::{Control, Said, Scanned};
use draws::{Who, draw};
use memory::Found;
use needles::{Direction, GENERATIONS, Kind, Needles, PERIOD, Part};

/// Requests that are enough for two new keys in either direction.
const MANY: usize = 20;
const REKEYED: &str = "rekeyed";
/// Pieces of an open body, each in a record of its own, that are enough for two new keys.
const PIECES: usize = 20;
/// After so long what runs beside a scenario has ended, also on a busy machine.
const SETTLED: Duration = Duration::from_millis(300);

/// The process whose memory is searched. It does nothing if no test searches it.
#[test]
#[ignore = "the other tests run it"]
fn scanned() {
    let Some((mut control, scenario)) = Control::open() else {
        return;
    };
    falco_core::testing::set_rekey_period(PERIOD);
    match scenario.as_str() {
        "tokio noise" => on_tokio::noise(&mut control, false),
        "tokio revoked" => on_tokio::noise(&mut control, true),
        "tokio refused" => on_tokio::refused(&mut control),
        "tokio classic" => on_tokio::classic(&mut control),
        "tokio open" => on_tokio::open(&mut control),
        "std noise" => on_std::noise(&mut control, false),
        "std revoked" => on_std::noise(&mut control, true),
        "std refused" => on_std::refused(&mut control),
        "std classic" => on_std::classic(&mut control),
        "std open" => on_std::open(&mut control),
        "tokio replayed" => on_tokio::replayed(&mut control),
        "tokio dropped" => on_tokio::dropped(&mut control),
        "std replayed" => on_std::replayed(&mut control),
        "std dropped" => on_std::dropped(&mut control),
        "core" => on_devices::core(&mut control),
        "embedded" => on_devices::embedded(&mut control),
        "copies" => copies(&mut control),
        other => panic!("there is no scenario {other}"),
    }
}

/// A process with unneeded copies: on the heap, in freed memory, on the stack.
fn copies(control: &mut Control) {
    let copy = || {
        let mut bytes = [0; 32];
        draw(Who::Keys, 1, &mut bytes);
        bytes
    };
    let heap = black_box(Box::new(copy()));
    control.look("leaked");
    drop(heap);
    // One half, at an odd address, in the middle of memory that is freed.
    let mut half = vec![0; 4097];
    half[1001..1017].copy_from_slice(&copy()[16..]);
    drop(black_box(half));
    control.look("leaked");
}

/// How often a secret may be found at a stage. The server and the client are in one process, and
/// each has its own.
fn allowed(scenario: &str, stage: &str, kind: Kind) -> usize {
    let (stage, current) = match stage.split_once(' ') {
        Some((stage, connection)) => (stage, connection.parse().ok()),
        None => (stage, None),
    };
    match (stage, kind) {
        ("bound" | "live" | "rekeyed", Kind::Psk(1)) | ("replaced", Kind::Psk(2)) | ("classic", Kind::Key(1)) => 2,
        // A client that has no other key yet; a server whose client was refused and is gone; a
        // server that has one for the next client.
        ("retired" | "refused", Kind::Psk(1)) | ("bound" | "live" | "rekeyed" | "retired", Kind::Psk(2)) => 1,
        ("live" | "replaced", Kind::Records(connection, _, 0)) if Some(connection) == current => 2,
        ("rekeyed", Kind::Records(connection, _, 1..)) if Some(connection) == current => 2,
        // The client keeps a connection that has ended until a request needs another.
        ("retired", Kind::Records(0, _, 1..)) if scenario.starts_with("std ") => 1,
        _ => 0,
    }
}

/// Runs a scenario and returns what was found where it must not be, and what was not found although
/// a connection needs it. `classic`: key 1 encrypts itself.
fn leaks(scenario: &str, classic: bool) -> Vec<String> {
    let mut scanned = Scanned::start(scenario);
    let mut leaks = Vec::new();
    while let Said::Look(stage) = scanned.next() {
        let mut needles = Needles::default();
        needles.of_key(1, classic);
        needles.of_key(2, false);
        for hello in scanned.refused_hellos() {
            needles.of_hello(2, &hello);
        }
        for (at, handshake) in scanned.handshakes().iter().enumerate() {
            // The first connection is made under the first key, the next one under the second.
            needles.of_connection(at, u64::try_from(at + 1).unwrap(), handshake);
        }
        let (found, looked) = memory::search(scanned.process(), &needles.0);
        assert!(looked > 100_000, "only {looked} bytes were looked at");
        let places = places(&found);
        for ((kind, what), places) in &places {
            let whole = places.iter().filter(|place| place.part == Part::Whole).count();
            let allowed = allowed(scenario, &stage, *kind);
            if whole > allowed || allowed == 0 {
                leaks.push(format!("{stage}: {what}, {allowed} allowed: {places:x?}"));
            }
        }
        leaks.extend(missing(&stage, &places));
        scanned.go_on();
    }
    leaks
}

/// Where a needle was found.
#[derive(Debug)]
#[allow(dead_code, reason = "address and region are printed")]
struct Place {
    address: u64,
    region: String,
    /// [`Part::Whole`] also where a round key is beside the next one of the same key.
    part: Part,
}

/// What was found, by what it is.
fn places<'f>(found: &'f [Found<'_>]) -> BTreeMap<(Kind, &'f str), Vec<Place>> {
    let parts: BTreeSet<_> = found
        .iter()
        .map(|found| (&found.needle.secret, found.needle.part, found.address))
        .collect();
    let mut places: BTreeMap<_, Vec<Place>> = BTreeMap::new();
    for found in found {
        let (needle, address) = (found.needle, found.address);
        let is_there = |round, address| parts.contains(&(&needle.secret, Part::Round(round), address));
        let mut part = needle.part;
        if let Part::Round(round) = part
            && (is_there(round + 1, address + 16) || is_there(round.wrapping_sub(1), address - 16))
        {
            part = Part::Whole;
        }
        places
            .entry((needle.kind, needle.what.as_str()))
            .or_default()
            .push(Place {
                address,
                region: found.region.clone(),
                part,
            });
    }
    places
}

/// What a connection needs and what was not found: then the search looks for something else. Only
/// the layout for AES instructions has a key as it is.
fn missing(stage: &str, places: &BTreeMap<(Kind, &str), Vec<Place>>) -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let plain = std::is_x86_feature_detected!("aes") && std::env::var_os("FALCO_REQUIRE_SOFT_AES").is_none();
    #[cfg(not(target_arch = "x86_64"))]
    let plain = false;
    let found = |kind: Kind| {
        let mut places = places.iter().filter(|((found, _), _)| *found == kind);
        places.any(|(_, places)| places.iter().any(|place| place.part == Part::Whole))
    };
    let generations = |connection, way, from| {
        let generations = from..GENERATIONS;
        generations
            .filter(|number| found(Kind::Records(connection, way, *number)))
            .count()
    };
    let directions =
        |connection, from| [Direction::FromClient, Direction::FromServer].map(|way| generations(connection, way, from));
    let expected = match stage {
        "live 0" => found(Kind::Psk(1)) && (!plain || directions(0, 0) == [1, 1]),
        "rekeyed 0" => found(Kind::Psk(1)) && (!plain || directions(0, 1) == [1, 1]),
        "refused" => found(Kind::Psk(1)),
        "replaced 1" => found(Kind::Psk(2)) && (!plain || directions(1, 0) == [1, 1]),
        "classic" => !plain || found(Kind::Key(1)),
        _ => true,
    };
    if expected {
        Vec::new()
    } else {
        vec![format!(
            "{stage}: what is needed was not found, or more than one key of a direction"
        )]
    }
}

#[test]
fn falco_tokio_on_the_noise_wire() {
    assert_eq!(leaks("tokio noise", false), Vec::<String>::new());
}

#[test]
fn falco_tokio_on_the_classic_wire() {
    assert_eq!(leaks("tokio classic", true), Vec::<String>::new());
}

#[test]
fn falco_std_on_the_noise_wire() {
    assert_eq!(leaks("std noise", false), Vec::<String>::new());
}

#[test]
fn falco_std_on_the_classic_wire() {
    assert_eq!(leaks("std classic", true), Vec::<String>::new());
}

#[test]
fn falco_tokio_with_open_requests() {
    assert_eq!(leaks("tokio open", false), Vec::<String>::new());
}

#[test]
fn falco_std_with_open_requests() {
    assert_eq!(leaks("std open", false), Vec::<String>::new());
}

#[test]
fn falco_tokio_after_a_key_was_revoked() {
    assert_eq!(leaks("tokio revoked", false), Vec::<String>::new());
}

#[test]
fn falco_std_after_a_key_was_revoked() {
    assert_eq!(leaks("std revoked", false), Vec::<String>::new());
}

#[test]
fn falco_tokio_after_a_refused_handshake() {
    assert_eq!(leaks("tokio refused", false), Vec::<String>::new());
}

#[test]
fn falco_std_after_a_refused_handshake() {
    assert_eq!(leaks("std refused", false), Vec::<String>::new());
}

#[test]
fn falco_tokio_after_a_replayed_hello() {
    assert_eq!(leaks("tokio replayed", false), Vec::<String>::new());
}

#[test]
fn falco_std_after_a_replayed_hello() {
    assert_eq!(leaks("std replayed", false), Vec::<String>::new());
}

#[test]
fn falco_tokio_after_long_messages_and_a_cut() {
    assert_eq!(leaks("tokio dropped", false), Vec::<String>::new());
}

#[test]
fn falco_std_after_long_messages_and_a_cut() {
    assert_eq!(leaks("std dropped", false), Vec::<String>::new());
}

#[test]
fn the_core_alone() {
    assert_eq!(leaks("core", false), Vec::<String>::new());
}

#[test]
fn falco_embedded() {
    assert_eq!(leaks("embedded", false), Vec::<String>::new());
}

#[test]
fn a_copy_that_nobody_needs_is_found() {
    let found = leaks("copies", false);
    assert!(
        found.iter().any(|leak| leak.starts_with("leaked: first half of key 1")),
        "{found:?}"
    );
}
