//! A client and a server of the classic wire on a link that corrupts, drops and repeats bytes.

use core::time::Duration;

use super::Input;
use crate::Settings;
use crate::testing::{ClientLog, NoSecurity, Pair, ServerLog, classic_key, classic_key_with};
use crate::{ClassicKey, ReplayCache, crypto::Crypto};

/// Requests, pings and time on a link that the fuzzer controls. With real cryptography only bodies
/// that were sent may be received.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn pair_on_corrupting_link(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() & 1 == 1 {
        let (client, server) = (classic_key(1), classic_key(1));
        drive(&mut input, &client, &server, true);
    } else {
        let (client, server) = (classic_key_with(1, &NoSecurity), classic_key_with(1, &NoSecurity));
        drive(&mut input, &client, &server, false);
    }
}

fn drive<L: ReplayCache, C: Crypto>(
    input: &mut Input<'_>,
    client: &ClassicKey<L, C>,
    server: &ClassicKey<L, C>,
    authentic: bool,
) {
    let settings = Settings::new().with_max_message(64);
    let seed = input.byte().into();
    let script = input.take(32).to_vec();
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
        match input.byte() % 4 {
            0 => asked += u32::from(pair.request(b"ask").is_ok()),
            1 => {
                let _ = pair.ping();
            }
            2 => pair
                .advance(Duration::from_millis(u64::from(input.byte()) * 100))
                .expect("the steps are enough"),
            _ => pair.settle().expect("the steps are enough"),
        }
    }
    pair.advance(Duration::from_secs(300)).expect("the steps are enough");
    let answers = pair.client_log.iter().filter_map(|entry| {
        if let ClientLog::Answer(number, body) = entry {
            Some((*number, body))
        } else {
            None
        }
    });
    for ((number, body), expected) in answers.zip(1..) {
        assert!(
            number == expected && number <= asked,
            "answers arrive in order, one for each request"
        );
        assert!(!authentic || body == b"ask", "a body that was not sent has arrived");
    }
    for entry in &pair.server_log {
        assert!(
            !authentic || !matches!(entry, ServerLog::Request(_, body) if body != b"ask"),
            "a body that was not sent has arrived"
        );
    }
    assert!(
        matches!(pair.client_log.last(), Some(ClientLog::Ended(_))),
        "every connection ends"
    );
    assert!(
        matches!(pair.server_log.last(), Some(ServerLog::Ended(_))),
        "every connection ends"
    );
}
