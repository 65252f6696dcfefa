//! Arbitrary bytes in every state of both roles: each gets its typed error, nothing is sent, and
//! nothing panics.

use crate::common::verdict::{NOW, Verdict, check, judge_length, settings};
use crate::common::{client, ends_with, handle_with, pending_output};
use falco_core::testing::NoSecurity;
use falco_core::{CloseReason, ConnectionError};

/// A state by name, and the expected verdict on arbitrary bytes in it.
type State = (&'static str, fn(&[u8]) -> Verdict);

const SERVER_STATES: [State; 5] = [
    ("awaiting the hello", |junk| match junk.first() {
        Some(&first) if first != 0 => Verdict::End(ConnectionError::UnknownWire { first }),
        _ if junk.len() < 157 => Verdict::NeedMore(157),
        _ => Verdict::End(ConnectionError::Unauthenticated),
    }),
    ("established", |junk| server_frames(junk, false)),
    ("one request unanswered", |junk| server_frames(junk, false)),
    ("all requests unanswered", |junk| server_frames(junk, true)),
    ("closing", |_| Verdict::AnswerFirst),
];

fn server_frames(mut junk: &[u8], full: bool) -> Verdict {
    while let [2, rest @ ..] = junk {
        junk = rest;
    }
    match junk.first() {
        None => Verdict::NeedMore(1),
        Some(1) => match judge_length(junk, 1) {
            Ok(_) if full => Verdict::AnswerFirst,
            Ok(total) if junk.len() < total => Verdict::NeedMore(total),
            Ok(_) => Verdict::End(ConnectionError::Tampered),
            Err(verdict) => verdict,
        },
        Some(&found) => Verdict::End(ConnectionError::UnknownType { found }),
    }
}

const CLIENT_STATES: [State; 4] = [
    ("the hello pending", |_| Verdict::TransmitFirst),
    ("awaiting the accept", |junk| match junk {
        [] => Verdict::NeedMore(1),
        // Bytes after the accept are judged in the next state.
        [0xFF, rest @ ..] => client_frames(rest, false),
        _ => Verdict::End(ConnectionError::Refused),
    }),
    ("established", |junk| client_frames(junk, false)),
    ("one answer awaited", |junk| client_frames(junk, true)),
];

fn client_frames(mut junk: &[u8], waiting: bool) -> Verdict {
    while let [0, 0, 0, 0, 0, 0, 0, 0, rest @ ..] = junk {
        if waiting {
            return Verdict::End(ConnectionError::AnswersOutOfStep);
        }
        junk = rest;
    }
    match judge_length(junk, 0) {
        Ok(_) if !waiting => Verdict::End(ConnectionError::UnexpectedAnswer),
        Ok(total) if junk.len() < total => Verdict::NeedMore(total),
        Ok(_) => Verdict::End(ConnectionError::Tampered),
        Err(verdict) => verdict,
    }
}

/// Arbitrary bytes of every length up to 200 after every first byte. After first bytes with a
/// meaning also zeros and plausible lengths.
fn junk(mut check: impl FnMut(&[u8])) {
    check(&[]);
    let noise: Vec<u8> = (0..200_u32)
        .map(|at| u8::try_from((at * at * 181 + at * 31 + 7) % 251).unwrap())
        .collect();
    let mut late = noise.clone();
    late[..8].copy_from_slice(&150_u64.to_be_bytes());
    let mut early = noise.clone();
    early[..7].copy_from_slice(&[0, 0, 0, 0, 0, 0, 90]);
    let mut behind = |first: u8, rest: &[u8]| {
        let bytes = [&[first], rest].concat();
        (1..=bytes.len()).for_each(|length| check(&bytes[..length]));
    };
    (0..=255).for_each(|first| behind(first, &noise));
    // Bytes after a ping or an accept are judged again.
    for second in 0..=255 {
        let rest = [&[second], &noise[..20]].concat();
        behind(2, &rest);
        behind(0xFF, &rest);
    }
    for rest in [vec![0; 200], late, early] {
        for first in [0, 1, 2, 0xFF] {
            behind(first, &rest);
        }
    }
}

#[test]
fn arbitrary_bytes_in_every_state_of_a_server_get_their_error_and_no_reply() {
    let (ours, theirs) = (handle_with::<NoSecurity>(0), handle_with::<NoSecurity>(0));
    for (state, (name, expected)) in SERVER_STATES.into_iter().enumerate() {
        let enter = || {
            let mut both = ends_with(&ours, &theirs, &settings(), 1);
            let requests = if state < 4 { state.saturating_sub(1) } else { 1 };
            for _ in 0..requests {
                let request = both.request(b"?");
                both.receive_request(&request);
            }
            if state == 4 {
                both.server.close(NOW, CloseReason::Done);
            }
            if state == 0 {
                crate::common::server(&theirs, &settings(), 1)
            } else {
                both.server
            }
        };
        let mut machine = enter();
        junk(|junk| {
            assert!(pending_output(&mut machine, NOW).is_empty(), "silence");
            if check(name, junk, &mut machine, &expected(junk)) {
                machine = enter();
            }
        });
    }
}

#[test]
fn arbitrary_bytes_in_every_state_of_a_client_get_their_error_and_no_reply() {
    let (ours, theirs) = (handle_with::<NoSecurity>(0), handle_with::<NoSecurity>(0));
    for (state, (name, expected)) in CLIENT_STATES.into_iter().enumerate() {
        let enter = || {
            let mut fresh = client(&ours, &settings(), 1);
            if state == 1 {
                pending_output(&mut fresh, NOW);
            }
            if state < 2 {
                return fresh;
            }
            let mut both = ends_with(&ours, &theirs, &settings(), 1);
            if state == 3 {
                both.request(b"?");
            }
            both.client
        };
        let mut machine = enter();
        junk(|junk| {
            let ended = check(name, junk, &mut machine, &expected(junk));
            // An accept changes the state as well.
            if ended || state == 1 {
                machine = enter();
            }
        });
    }
}
