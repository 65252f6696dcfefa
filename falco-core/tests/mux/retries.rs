//! How often a request is sent again, over all connections that it is handed to.

use core::time::Duration;

use falco_core::mux::{Attempts, Backoff, Call, ClientStep, Unfinished};
use falco_core::testing::{RecvBytes, noise_client, raw_frame};
use falco_core::{CloseReason, Fate, Refusal};

use crate::scene::{End, NOW, Scene};

/// As a server writes them in REFUSE.
const BUSY: u8 = 1;
const NOT_PROCESSED: u8 = 5;

/// The only end that came: the request with the verdict.
fn refused(mut ends: Vec<End>) -> (Call<Vec<u8>, u64>, Refusal, bool) {
    match (ends.pop(), ends.is_empty()) {
        (Some(End::Refused(call, refusal, retry)), true) => (call, refusal, retry),
        other => panic!("{other:?}"),
    }
}

/// The only request that is left.
fn lost(mut unfinished: Vec<Unfinished<Call<Vec<u8>, u64>>>) -> Unfinished<Call<Vec<u8>, u64>> {
    assert_eq!(unfinished.len(), 1);
    unfinished.remove(0)
}

#[test]
fn a_request_that_servers_do_not_process_is_sent_on_so_many_connections_and_then_fails() {
    let keys = noise_client(7);
    let mut call = Call::new(1, vec![1; 10], 1);
    for tried in 1..=Attempts::MAX_TRIES {
        assert_eq!(call.attempts.has_been_sent(), tried > 1);
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.accept(call);
        assert_eq!(scene.begun(), [1]);
        let retry;
        // Refused on one connection and lost with another, which count alike.
        (call, retry) = if tried % 2 == 1 {
            let (call, refusal, retry) = refused(scene.hear(&raw_frame(4, 1, &[NOT_PROCESSED])));
            assert_eq!(refusal, Refusal::NotProcessed);
            (call, retry)
        } else {
            scene.mux.end_of_stream(NOW, &[]);
            let left = lost(scene.mux.finish());
            assert_eq!(left.fate, Fate::NotProcessed);
            (left.call, left.retry)
        };
        assert_eq!(
            (call.ticket, call.body.len(), call.waiter),
            (1, 10, 1),
            "it comes back whole"
        );
        assert_eq!(retry, tried < Attempts::MAX_TRIES, "after {tried}");
    }
}

#[test]
fn connections_on_which_nothing_of_a_request_was_sent_do_not_count() {
    let keys = noise_client(7);
    let mut call = Call::new(1, vec![1; 10], 1);
    for _ in 0..2 * Attempts::MAX_TRIES {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.accept(call);
        call = scene.mux.take_unbegun().pop().expect("nothing was sealed");
        scene.accept(call);
        let left = lost(scene.mux.finish());
        assert_eq!((left.fate, left.retry), (Fate::NotProcessed, true));
        scene.mux.close(NOW, CloseReason::Done);
        call = match scene.mux.request(left.call) {
            Err((call, None)) => call,
            other => panic!("{other:?}"),
        };
        assert!(!call.attempts.has_been_sent());
    }
}

#[test]
fn a_request_that_may_have_been_processed_or_was_refused_otherwise_is_sent_once() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 10);
    assert_eq!(scene.begun(), [1]);
    let left = lost(scene.mux.finish());
    assert_eq!((left.fate, left.retry), (Fate::MaybeProcessed, false));
    for code in [BUSY, 2, 3, 4, 6] {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.request(1, 10);
        assert_eq!(scene.begun(), [1]);
        let (_, refusal, retry) = refused(scene.hear(&raw_frame(4, 1, &[code])));
        assert!(!retry, "{refusal:?}");
    }
}

#[test]
fn a_server_that_stays_busy_is_asked_again_so_often_and_then_the_request_fails() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 2_000);
    scene.request(1, 400);
    let (mut own, mut ticket) = (scene.begun()[0], 1);
    for busy in 0..=Attempts::MAX_BUSY {
        // Each answer lets more bytes be in flight, until it is more than the server has to hold.
        let mut others = Vec::new();
        for _ in 0..100 {
            while scene.mux.outstanding() < 6 {
                ticket += 1;
                scene.request(ticket, 400);
            }
            others.extend(scene.begun());
            if others.len() >= 2 {
                break;
            }
            others.drain(..).for_each(|id| drop(scene.hear(&raw_frame(1, id, b""))));
        }
        assert!(others.len() >= 2, "1,200 bytes are in flight");
        let ends = scene.hear(&raw_frame(4, own, &[BUSY]));
        if busy == Attempts::MAX_BUSY {
            let (call, refusal, retry) = refused(ends);
            assert_eq!((call.waiter, refusal, retry), (1, Refusal::Busy, false));
            return;
        }
        assert!(ends.is_empty(), "it is held back: {ends:?}");
        others.drain(..).for_each(|id| drop(scene.hear(&raw_frame(1, id, b""))));
        // It begins before those that were accepted after it.
        let mut begun = scene.begun().into_iter();
        own = begun.next().unwrap();
        begun.for_each(|id| drop(scene.hear(&raw_frame(1, id, b""))));
    }
}

#[test]
fn a_request_that_is_held_back_for_a_busy_server_goes_elsewhere_when_that_closes() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    for ticket in 1..=4 {
        scene.request(ticket, 400);
    }
    assert_eq!(scene.begun(), [1, 2, 3, 4]);
    assert!(scene.hear(&raw_frame(4, 2, &[BUSY])).is_empty());
    assert!(scene.mux.has_unbegun());
    scene.mux.close(NOW, CloseReason::Done);
    // 1,200 bytes are still in flight, but nothing can begin here any more.
    let (call, _, retry) = refused(scene.hear(&raw_frame(4, 3, &[BUSY])));
    assert_eq!((call.waiter, retry), (3, true));
    assert!(!call.attempts.has_been_sent(), "this connection does not count");
    let unbegun = scene.mux.take_unbegun();
    assert_eq!(unbegun.iter().map(|call| call.waiter).collect::<Vec<_>>(), [2]);
    assert_eq!(scene.mux.outstanding(), 2);
}

#[test]
fn a_request_of_which_the_server_wants_no_more_was_not_sent_as_a_whole() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 900);
    let mut out = vec![0; 400];
    assert!(scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap() > 0);
    assert!(scene.mux.has_unsent());
    // The server closes and has opened none of it.
    let mut close = scene.server.seal(&raw_frame(8, 0, &[2]));
    let step = scene.mux.recv_bytes(NOW, &mut close);
    assert!(matches!(step, Ok((_, ClientStep::Closing { .. }))), "{step:?}");
    // The rest is dropped. Then the connection breaks before the refusal is read.
    while scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap() > 0 {}
    assert!(!scene.mux.has_unsent());
    let left = lost(scene.mux.finish());
    assert_eq!((left.fate, left.retry), (Fate::NotProcessed, true));
}

#[test]
fn a_request_that_the_stream_has_not_accepted_as_a_whole_was_not_processed() {
    let keys = noise_client(7);
    for given_up in [false, true] {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.request(1, 10);
        let mut out = vec![0; 100];
        assert!(scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap() > 0);
        scene.mux.writing_ended(false);
        if given_up {
            let (call, fate) = scene.mux.cancel(1).unwrap();
            assert_eq!((call.ticket, fate), (1, Fate::NotProcessed));
            continue;
        }
        let left = lost(scene.mux.finish());
        assert_eq!((left.fate, left.retry), (Fate::NotProcessed, true));
        assert!(left.call.attempts.has_been_sent(), "it counts");
    }
}

#[test]
fn a_request_that_the_stream_has_accepted_may_have_been_processed() {
    let keys = noise_client(7);
    // The adapter says so, or asks for more to write.
    for says in [false, true] {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.request(1, 10);
        let mut out = vec![0; 100];
        assert!(scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap() > 0);
        if says {
            scene.mux.writing_ended(true);
        } else {
            assert_eq!(scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")), Ok(0));
        }
        scene.mux.writing_ended(false);
        assert_eq!(lost(scene.mux.finish()).fate, Fate::MaybeProcessed, "{says}");
    }
    // Only a part of it was sealed.
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 900);
    assert!(
        scene
            .mux
            .seal(NOW, &mut [0; 400], |_, error| panic!("{error}"))
            .unwrap()
            > 0
    );
    scene.mux.writing_ended(true);
    assert_eq!(lost(scene.mux.finish()).fate, Fate::NotProcessed);
    let machine = scene.mux.connection();
    assert_eq!(machine.fate_of(false, true), Fate::NotProcessed);
    assert_eq!(machine.fate_of(true, true), Fate::MaybeProcessed);
}

#[test]
fn pauses_are_random_below_a_bound_that_doubles_up_to_the_most() {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
    assert_eq!(backoff, Backoff::default());
    for (failed, bound) in [
        (1, 50),
        (2, 100),
        (3, 200),
        (8, 6_400),
        (9, 10_000),
        (40, 10_000),
        (u32::MAX, 10_000),
    ] {
        // Each number below the one that is given may come, from none to the bound itself.
        let mut given = 0;
        let all = |below| {
            given = below;
            below - 1
        };
        assert_eq!(backoff.pause(failed, all), Duration::from_millis(bound), "{failed}");
        assert_eq!(given, bound * 1_000 + 1);
        assert_eq!(backoff.pause(failed, |_| 0), Duration::ZERO);
        assert_eq!(
            backoff.pause(failed, |below| below / 2),
            Duration::from_millis(bound) / 2
        );
    }
    let overflowing = Backoff::new(Duration::MAX, Duration::MAX);
    assert_eq!(
        overflowing.pause(2, |below| below - 1),
        Duration::from_micros(u64::MAX - 1)
    );
}
