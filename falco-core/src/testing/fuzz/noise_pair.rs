//! A client and a server of the noise wire on a link that corrupts, drops and repeats bytes.

use core::time::Duration;
use std::vec::Vec;

use super::Input;
use super::noise_attacker::{no_security_client, no_security_server};
use crate::testing::{ClientLog, Pair, ServerLog, noise_client, noise_server};
use crate::{ClientKeyRef, ServerKeyRef, Settings};

/// Requests, pings and time on a link that the fuzzer controls. With real cryptography only bodies
/// that were sent may be received.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_pair_on_corrupting_link(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() & 1 == 1 {
        drive(&mut input, &noise_client(1), &noise_server(1), true);
    } else {
        drive(&mut input, &no_security_client(), &no_security_server(), false);
    }
}

/// The body of request `number`: some need many records.
fn body(number: u32) -> Vec<u8> {
    let byte = number.to_be_bytes().into_iter().next_back().unwrap_or(0);
    std::vec![byte; usize::from(byte % 4) * 90]
}

fn drive<A: ClientKeyRef, B: ServerKeyRef>(input: &mut Input<'_>, client: A, server: B, authentic: bool) {
    let settings = Settings::new()
        .with_keep_alive(false)
        .with_max_message(300)
        .with_max_record(64)
        .expect("64 is in range");
    let seed = input.byte().into();
    let script = input.take(48).to_vec();
    let mut pair = Pair::new(client, server, &settings, seed).expect("the generator does not fail");
    let mut at = 0;
    pair.link = std::boxed::Box::new(move |_, bytes| {
        let decision = script.get(at).copied().unwrap_or(0);
        let value = script.get(at + 1).copied().unwrap_or(0);
        at += 2;
        let place = usize::from(value) % bytes.len().max(1);
        match decision % 6 {
            1 => bytes
                .iter_mut()
                .skip(place)
                .take(1)
                .for_each(|byte| *byte ^= 1 << (decision >> 5)),
            2 => bytes.truncate(place),
            3 => bytes.extend_from_within(..),
            4 => bytes.insert(place, decision),
            _ => {}
        }
    });
    let mut asked = 0;
    while !input.is_done() {
        match input.byte() % 5 {
            0 => asked += u32::from(pair.request(&body(asked + 1)).is_ok()),
            1 => {
                let _ = pair.ping();
            }
            2 => pair
                .advance(Duration::from_millis(u64::from(input.byte()) * 100))
                .expect("the steps are enough"),
            3 if input.byte() < 16 => {
                let now = pair.now();
                pair.client().close(now, crate::CloseReason::Done);
            }
            _ => pair.settle().expect("the steps are enough"),
        }
    }
    pair.advance(Duration::from_secs(300)).expect("the steps are enough");
    let mut ended = Vec::new();
    for entry in &pair.client_log {
        let number = match entry {
            ClientLog::Answer(number, answer) => {
                assert!(
                    !authentic || *answer == body(*number),
                    "a body that was not sent has arrived"
                );
                *number
            }
            ClientLog::Refused(number, _) => *number,
            ClientLog::Established | ClientLog::Pong(_) | ClientLog::Closing(_) | ClientLog::Ended(_) => continue,
        };
        assert!(
            (1..=asked).contains(&number),
            "a request that was not sent has completed"
        );
        assert!(!ended.contains(&number), "a request completed twice");
        ended.push(number);
    }
    let mut last = 0;
    for entry in &pair.server_log {
        if let ServerLog::Request(number, asked) = entry {
            assert!(
                !authentic || *asked == body(*number),
                "a body that was not sent has arrived"
            );
            last = last.max(*number);
        }
    }
    assert!(!authentic || last <= asked, "a request that was not sent has arrived");
    assert!(
        matches!(pair.client_log.last(), Some(ClientLog::Ended(_))),
        "every connection ends"
    );
    assert!(
        matches!(pair.server_log.last(), Some(ServerLog::Ended(_))),
        "every connection ends"
    );
}
