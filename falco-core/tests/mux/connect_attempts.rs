//! When a client makes its next attempt at a connection, and which attempts fail the requests that
//! wait.

use core::time::Duration;

use falco_core::mux::{Admitted, AttemptEnd, Backoff, ConnectAttempts, History, NextAttempt};
use falco_core::{ConnectionError, Instant};

const NOW: Instant = Instant::ZERO;
const REFUSED: AttemptEnd = AttemptEnd::Connection(ConnectionError::Refused);

fn ms(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn attempts(fail_fast: bool) -> ConnectAttempts<&'static str> {
    let mut attempts = ConnectAttempts::new(
        Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
        fail_fast,
    );
    attempts.set_waiting(NOW, true);
    attempts
}

/// The longest pause.
fn longest(bound: u64) -> u64 {
    bound - 1
}

fn fails(attempts: &mut ConnectAttempts<&'static str>, end: AttemptEnd, admitted: &Admitted) -> bool {
    !attempts.attempt_failed(end, "failed", admitted, NOW, longest)
}

fn let_in() -> Admitted {
    let admitted = Admitted::new();
    attempts(false).established(&admitted, NOW);
    admitted
}

fn history(served: bool, key_retired: bool) -> History {
    let mut history = History::default();
    history.served = served;
    history.key_retired = key_retired;
    history
}

#[test]
fn attempts_go_on_unless_no_other_can_succeed() {
    for (end, expected) in [
        (AttemptEnd::Unusable, true),
        (AttemptEnd::Connection(ConnectionError::KeyExhausted), true),
        (AttemptEnd::Stream, false),
        (AttemptEnd::Connection(ConnectionError::HandshakeTimeout), false),
        (REFUSED, false),
    ] {
        for admitted in [Admitted::new(), let_in()] {
            let mut usual = attempts(false);
            assert_eq!(fails(&mut usual, end, &admitted), expected, "{end:?}");
            assert_eq!(usual.is_worth_repeating(), !expected, "{end:?}");
            assert!(fails(&mut attempts(true), end, &admitted), "fail fast: {end:?}");
        }
    }
}

#[test]
fn refused_handshakes_in_a_row_fail_a_client_that_was_never_admitted() {
    let (mut known, mut unknown) = (attempts(false), attempts(false));
    let (let_in, never) = (let_in(), Admitted::new());
    for attempt in 1..=Admitted::MAX_REFUSED + 2 {
        assert_eq!(
            fails(&mut unknown, REFUSED, &never),
            attempt >= Admitted::MAX_REFUSED,
            "{attempt}"
        );
        assert!(!fails(&mut known, REFUSED, &let_in), "{attempt}");
        assert_eq!((known.failed(), unknown.failed()), (attempt, attempt));
    }
    // The server restarts: no stream can be opened, and the row begins again.
    assert!(!fails(&mut unknown, AttemptEnd::Stream, &never));
    assert!(!fails(&mut unknown, REFUSED, &never));
    // So does it with another key.
    for _ in 1..Admitted::MAX_REFUSED {
        fails(&mut unknown, REFUSED, &never);
    }
    unknown.key_changed();
    assert_eq!((unknown.failed(), unknown.why()), (0, None));
    assert!(!fails(&mut unknown, REFUSED, &never));
}

#[test]
fn a_client_whose_key_is_retired_is_no_longer_admitted() {
    let (admitted, mut attempts) = (Admitted::new(), attempts(false));
    attempts.established(&admitted, NOW);
    attempts.lost(history(true, true), Some("closed"), &admitted, NOW, longest);
    for attempt in 1..=Admitted::MAX_REFUSED {
        assert_eq!(
            fails(&mut attempts, REFUSED, &admitted),
            attempt == Admitted::MAX_REFUSED,
            "{attempt}"
        );
    }
    // A server that has the key admits it again.
    attempts.established(&admitted, NOW);
    attempts.lost(history(true, false), None, &admitted, NOW, longest);
    for attempt in 1..=Admitted::MAX_REFUSED {
        assert!(!fails(&mut attempts, REFUSED, &admitted), "{attempt}");
    }
}

#[test]
fn each_failure_has_a_pause_before_the_next_attempt() {
    let (admitted, mut attempts) = (let_in(), attempts(false));
    assert_eq!(attempts.next(NOW), NextAttempt::Now);
    for pause in [100, 200, 400] {
        fails(&mut attempts, AttemptEnd::Stream, &admitted);
        assert_eq!(attempts.retry_at(), Some(ms(pause)));
        assert_eq!(attempts.next(ms(pause - 1)), NextAttempt::At(ms(pause)));
        assert_eq!(attempts.next(ms(pause)), NextAttempt::Now);
    }
    attempts.established(&admitted, NOW);
    assert_eq!(attempts.next(NOW), NextAttempt::Now);
}

#[test]
fn a_connection_that_ends_within_a_second_and_serves_nothing_is_a_failed_attempt() {
    for (served, lived, failed) in [(false, 999, 2), (false, 1_000, 0), (true, 0, 0)] {
        let (admitted, mut attempts) = (let_in(), attempts(false));
        fails(&mut attempts, AttemptEnd::Stream, &admitted);
        attempts.established(&admitted, ms(500));
        let now = ms(500 + lived);
        attempts.lost(history(served, false), Some("ended"), &admitted, now, longest);
        assert_eq!(attempts.failed(), failed, "{served} {lived}");
        let next = if failed > 0 {
            NextAttempt::At(now + Duration::from_millis(200))
        } else {
            NextAttempt::Now
        };
        assert_eq!(attempts.next(now), next, "{served} {lived}");
        assert_eq!(attempts.why(), Some(&"ended"));
    }
}

#[test]
fn an_error_concerns_those_that_wait_and_those_that_come_before_the_next_attempt() {
    let (admitted, mut attempts) = (let_in(), attempts(false));
    fails(&mut attempts, AttemptEnd::Stream, &admitted);
    // It still waits, or another comes while the pause lasts.
    attempts.set_waiting(ms(100), true);
    assert_eq!(attempts.why(), Some(&"failed"));
    attempts.set_waiting(ms(50), false);
    attempts.set_waiting(ms(99), true);
    assert_eq!(attempts.why(), Some(&"failed"));
    attempts.set_waiting(ms(99), false);
    attempts.set_waiting(ms(100), true);
    assert_eq!(attempts.why(), None, "it is from before");
}

#[test]
fn without_another_stream_what_ended_the_last_is_the_reason() {
    let (admitted, mut attempts) = (let_in(), attempts(false));
    attempts.established(&admitted, NOW);
    attempts.spend();
    attempts.set_waiting(NOW, false);
    attempts.lost(history(true, false), Some("ended"), &admitted, NOW, longest);
    attempts.set_waiting(NOW, true);
    assert_eq!(
        (attempts.next(NOW), attempts.why()),
        (NextAttempt::Never, Some(&"ended"))
    );
    // It ended before the handshake completed.
    assert!(fails(&mut attempts, AttemptEnd::Stream, &admitted));
}

#[test]
fn a_client_that_is_closed_makes_no_attempt() {
    let mut attempts = attempts(false);
    attempts.close();
    assert_eq!(attempts.next(NOW), NextAttempt::Closed);
    attempts.spend();
    assert_eq!(attempts.next(NOW), NextAttempt::Closed);
}

#[test]
fn only_an_invalid_address_fails_every_attempt() {
    use std::io::{Error, ErrorKind};
    let end = |kind: ErrorKind| AttemptEnd::of_io(&Error::from(kind));
    assert_eq!(end(ErrorKind::InvalidInput), AttemptEnd::Unusable);
    for kind in [
        ErrorKind::ConnectionRefused,
        ErrorKind::NotFound,
        ErrorKind::TimedOut,
        ErrorKind::Other,
    ] {
        assert_eq!(end(kind), AttemptEnd::Stream, "{kind:?}");
    }
}

#[test]
fn with_fail_fast_requests_fail_at_once_during_the_pause() {
    let (mut attempts, admitted) = (ConnectAttempts::new(Backoff::default(), true), Admitted::new());
    attempts.set_waiting(NOW, true);
    assert_eq!(attempts.next(NOW), NextAttempt::Now);
    assert!(!attempts.attempt_failed(AttemptEnd::Stream, "refused", &admitted, NOW, |bound| bound - 1));
    attempts.set_waiting(NOW, false);
    // A request that comes during the pause fails with the reason, and one that comes later waits
    // for the next attempt.
    attempts.set_waiting(ms(10), true);
    let (next, why) = (attempts.next(ms(10)), attempts.why());
    assert_eq!((next, why), (NextAttempt::FailUntil(ms(50)), Some(&"refused")));
    attempts.set_waiting(ms(11), false);
    attempts.set_waiting(ms(50), true);
    assert_eq!((attempts.next(ms(50)), attempts.why()), (NextAttempt::Now, None));
}

/// Whether an attempt follows one that has failed although nothing waits.
#[test]
fn attempts_are_repeated_although_nothing_waits_if_requests_fail_fast_or_go_elsewhere() {
    for (fail_fast, several) in [(false, false), (true, false), (false, true), (true, true)] {
        let admitted = let_in();
        let mut own = attempts(fail_fast).one_of_several(several);
        assert!(own.is_wanted(), "something waits");
        own.set_waiting(NOW, false);
        assert!(!own.is_wanted(), "none has failed");
        let _ = own.attempt_failed(AttemptEnd::Stream, "failed", &admitted, NOW, longest);
        assert_eq!(own.is_wanted(), fail_fast || several);
        own.set_waiting(NOW, true);
        assert!(own.is_wanted());
        own.set_waiting(NOW, false);
        let _ = own.attempt_failed(AttemptEnd::Unusable, "failed", &admitted, NOW, longest);
        assert!(!own.is_wanted(), "the next one would fail too");
        own.set_waiting(NOW, true);
        assert!(own.is_wanted(), "whoever waits learns why");
    }
}
