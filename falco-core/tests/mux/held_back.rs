//! Which requests begin: as many, and as many bytes of them, as the server accepts. And the fate of
//! requests without an answer.

use core::time::Duration;
use std::time::Instant as Clock;

use falco_core::mux::{Attempts, Call, ClientMux, ClientStep};
use falco_core::testing::{CountingRng, RawHandshake, RecvBytes, noise_client, raw_frame, raw_settings};
use falco_core::{ClientConnection, Fate, Refusal, RustCrypto, Settings};

use crate::scene::{End, NOW, Scene};

#[test]
fn at_most_max_held_bytes_are_in_flight_and_a_larger_request_is_sent_alone() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 700);
    for (ticket, length) in [(1, 300), (2, 300), (3, 200), (4, 0), (5, 1_000), (6, 1)] {
        scene.request(ticket, length);
    }
    assert_eq!(
        scene.begun(),
        [1, 2],
        "the third would be over the bound, and nothing overtakes it"
    );
    assert!(scene.mux.has_unbegun());
    scene.hear(&raw_frame(1, 2, b"two"));
    assert_eq!(scene.begun(), [3, 4]);
    // A cancelled request counts until it completes: the server may still hold it.
    assert!(matches!(
        scene.mux.cancel(1),
        Some((Call { waiter: 1, .. }, Fate::MaybeProcessed))
    ));
    assert!(matches!(
        scene.mux.cancel(3),
        Some((Call { waiter: 3, .. }, Fate::MaybeProcessed))
    ));
    assert_eq!(scene.begun(), [0; 0]);
    scene.hear(&[raw_frame(4, 1, &[4]), raw_frame(4, 3, &[4])].concat());
    assert_eq!(scene.begun(), [5], "the empty one that is under way takes no room");
    scene.hear(&raw_frame(1, 4, b""));
    assert_eq!(scene.begun(), [0; 0], "alone");
    scene.hear(&raw_frame(1, 5, b""));
    assert_eq!(scene.begun(), [6]);
    scene.hear(&raw_frame(1, 6, b""));
    assert!(!scene.mux.has_unbegun() && !scene.mux.has_unsent());
    assert_eq!(scene.mux.outstanding(), 0);
}

#[test]
fn a_server_that_is_busy_while_it_holds_more_than_it_must_gets_less_from_then_on() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    for ticket in 1..=5 {
        scene.request(ticket, 400);
    }
    assert_eq!(scene.begun(), [1, 2, 3, 4, 5]);
    let busy = scene.hear(&[raw_frame(4, 4, &[1]), raw_frame(4, 5, &[1])].concat());
    assert!(
        busy.is_empty(),
        "1,600 bytes and more were under way, of 1,000 that it must hold: they are sent again"
    );
    assert_eq!(scene.mux.outstanding(), 5);
    // They are sent again once no more than 1,000 bytes are in flight with them.
    assert_eq!(scene.begun(), [0; 0]);
    scene.hear(&[raw_frame(1, 1, b""), raw_frame(1, 2, b"")].concat());
    assert_eq!(scene.begun(), [6]);
    let busy = scene.hear(&raw_frame(4, 6, &[1]));
    assert!(
        matches!(&busy[..], [End::Refused(call, Refusal::Busy, false)] if call.waiter == 4),
        "800 bytes are no reason: {busy:?}"
    );
}

#[test]
fn a_large_request_alone_is_sent_again_while_the_window_is_smaller_than_it_was() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    // With the whole window in use nothing of this client is in the way.
    scene.request(1, 1_000);
    assert_eq!(scene.begun(), [1]);
    let busy = scene.hear(&raw_frame(4, 1, &[1]));
    assert!(matches!(&busy[..], [End::Refused(_, Refusal::Busy, false)]), "{busy:?}");
    scene.request(2, 1_000);
    scene.request(3, 1_000);
    assert_eq!(scene.begun(), [2, 3]);
    assert!(scene.hear(&raw_frame(4, 3, &[1])).is_empty());
    scene.hear(&raw_frame(1, 2, b""));
    // Other clients have fewer bytes in flight soon. This is not waited for without a bound.
    for id in 4..4 + Attempts::MAX_BUSY - 1 {
        assert_eq!(scene.begun(), [id]);
        let busy = scene.hear(&raw_frame(4, id, &[1]));
        assert!(busy.is_empty(), "{id}: {busy:?}");
    }
    assert_eq!(scene.begun(), [4 + Attempts::MAX_BUSY - 1]);
    let busy = scene.hear(&raw_frame(4, 4 + Attempts::MAX_BUSY - 1, &[1]));
    assert!(
        matches!(&busy[..], [End::Refused(call, Refusal::Busy, false)] if call.waiter == 3),
        "{busy:?}"
    );
}

#[test]
fn bytes_of_requests_that_have_not_begun_are_no_reason_for_a_server_to_be_busy() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 400);
    assert_eq!(scene.begun(), [1]);
    // They may begin, and nothing of them is sealed yet.
    for ticket in 2..=5 {
        scene.request(ticket, 400);
    }
    let busy = scene.hear(&raw_frame(4, 1, &[1]));
    assert!(
        matches!(&busy[..], [End::Refused(call, Refusal::Busy, false)] if call.waiter == 1),
        "400 bytes were in flight: {busy:?}"
    );
    assert_eq!(scene.begun(), [2, 3, 4, 5], "the window is as large as before");
}

#[test]
fn after_answers_more_bytes_may_be_in_flight_again_up_to_max_held() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 2_000);
    for ticket in 1..=5 {
        scene.request(ticket, 400);
    }
    assert_eq!(scene.begun(), [1, 2, 3, 4, 5]);
    let busy = scene.hear(&raw_frame(4, 5, &[1]));
    assert!(busy.is_empty(), "{busy:?}");
    // Half as many bytes, and at least one message. Answers to earlier requests do not change that.
    scene.hear(&[1, 2, 3, 4].map(|id| raw_frame(1, id, b"")).concat());
    assert!(scene.mux.cancel(5).is_some(), "it would be sent again");
    let mut most = Vec::new();
    for _ in 0..6 {
        for ticket in 0..6 {
            scene.request(100 + ticket, 400);
        }
        let mut begun = scene.begun();
        most.push(begun.len());
        while !begun.is_empty() {
            for id in begun {
                scene.hear(&raw_frame(1, id, b""));
            }
            begun = scene.begun();
        }
    }
    assert_eq!(most.first(), Some(&2), "800 of 1,000 bytes");
    assert_eq!(most.last(), Some(&5), "all of the 2,000 that `max_held` allows");
    assert!(most.is_sorted(), "{most:?}");
}

#[test]
fn a_request_larger_than_the_window_is_sent_beside_a_small_one() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 700);
    scene.request(1, 10);
    scene.request(2, 900);
    scene.request(3, 10);
    assert_eq!(scene.begun(), [1, 2], "the small one may be in flight for long");
    scene.hear(&raw_frame(1, 2, b""));
    assert_eq!(scene.begun(), [3]);
}

#[test]
fn a_request_that_fails_makes_room_for_the_next_at_once() {
    let keys = noise_client(7);
    let machine = ClientConnection::new(&keys, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
    let mut mux = ClientMux::<_, _, _, ()>::new(machine, &Settings::new());
    let mut out = [0; 200];
    let hello = mux.seal(NOW, &mut out, |_, _| {}).unwrap();
    // Accepted before the server has said that it reads 1,000 bytes, one request at a time.
    for (ticket, length) in [(1, 10), (2, 1_001), (3, 1_001), (4, 10)] {
        assert!(mux.request(Call::new(ticket, vec![1; length], ticket)).is_ok());
    }
    let mut raw = RawHandshake::new(RustCrypto, 7);
    raw.settings = raw_settings(u16::MAX, 1, 1_000, 60_000);
    let (mut welcome, mut server) = raw.server(&out[..hello]).unwrap();
    mux.recv_bytes(NOW, &mut welcome).unwrap();
    let mut failed = Vec::new();
    mux.seal(NOW, &mut out, |ticket, _| failed.push(ticket)).unwrap();
    let mut answer = server.seal(&raw_frame(1, 1, b""));
    let answer = mux.recv_bytes(NOW, &mut answer);
    assert!(
        matches!(answer, Ok((_, ClientStep::Answer { waiter: 1, .. }))),
        "{answer:?}"
    );
    // If `seal` returned 0 here, client and server would wait for each other.
    let sealed = mux.seal(NOW, &mut out, |ticket, _| failed.push(ticket)).unwrap();
    assert_eq!(failed, [2, 3]);
    assert_eq!((sealed, mux.has_unbegun()), (18 + 7 + 10, false));
}

#[test]
fn a_stream_that_ends_before_any_record_of_the_server_has_processed_nothing() {
    let keys = noise_client(7);
    for (heard, fate) in [(false, Fate::NotProcessed), (true, Fate::MaybeProcessed)] {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.request(1, 10);
        assert_eq!(scene.begun(), [1]);
        if heard {
            // Any record of the server.
            scene.hear(&raw_frame(200, 0, b""));
        }
        assert_eq!(scene.mux.connection().is_confirmed(), heard);
        scene.mux.end_of_stream(NOW, &[]);
        let left = scene.mux.finish();
        assert_eq!(left[0].fate, fate);
    }
    // A part of a record is enough: the server has sent something.
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 10);
    assert_eq!(scene.begun(), [1]);
    scene.mux.end_of_stream(NOW, &[0]);
    assert_eq!(scene.mux.finish()[0].fate, Fate::MaybeProcessed);
    // A stream that breaks may have lost what the server sent.
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 10);
    assert_eq!(scene.begun(), [1]);
    assert_eq!(scene.mux.finish()[0].fate, Fate::MaybeProcessed);
}

#[test]
fn a_request_that_is_answered_before_all_of_it_was_sent_is_over() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 900);
    // One record does not hold the whole request.
    let mut out = vec![0; 400];
    let sealed = scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap();
    let mut sent = out[..sealed].to_vec();
    while !sent.is_empty() {
        scene.server.open(&mut sent).unwrap();
    }
    assert!(scene.mux.has_unsent());
    let answer = scene.hear(&raw_frame(1, 1, b"early"));
    assert!(matches!(answer[..], [End::Answered(1)]), "{answer:?}");
    assert!(!scene.mux.has_unsent() && !scene.mux.has_unbegun());
    scene.request(2, 10);
    assert_eq!(scene.begun(), [2]);
    assert_eq!(scene.mux.outstanding(), 1);
}

#[test]
fn giving_up_a_request_costs_no_more_however_many_wait() {
    let keys = noise_client(7);
    let time = |count: u64| {
        let mut scene = Scene::new(&keys, 1 << 20);
        let began = Clock::now();
        for ticket in 0..count {
            scene.request(ticket, 10);
        }
        // In an order in which none is the first or the last of those that remain.
        let order = (0..count).map(|n| (n * 7_919 + count / 2) % count);
        order.for_each(|ticket| assert!(scene.mux.cancel(ticket).is_some()));
        assert_eq!((scene.mux.outstanding(), scene.mux.has_unsent()), (0, false));
        began.elapsed()
    };
    time(1_000);
    // The same work on both sides, so that a busy machine disturbs both alike. New memory costs
    // something. A cost that grows with the number of requests would be some hundred times as much.
    let least = |rounds: u32, count| {
        (0..5)
            .map(|_| (0..rounds).map(|_| time(count)).sum::<Duration>())
            .min()
            .unwrap()
    };
    let (few, many) = (least(32, 2_000), least(1, 64_000));
    assert!(
        many < few * 40,
        "64,000 that wait at once took {many:?}, 2,000 at a time {few:?}"
    );
}
