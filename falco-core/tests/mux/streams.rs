//! Open bodies in the mux: who may write, what is held, and how bodies are collected.

use crate::duo::{BUDGET, Duo, Event, joined, opened, settings};
use falco_core::mux::{Call, OpenCall, StreamError};
use falco_core::{Fate, NoAnswer, Refusal, RequestError, Settings};

const KIB: usize = 1024;

#[test]
fn a_request_and_its_answer_are_streams_at_the_same_time() {
    let mut duo = opened();
    duo.server.open_answer(duo.id(1)).unwrap();
    assert_eq!(
        duo.settle().1,
        [Event::Opened(1, vec![])],
        "an answer begins without bytes"
    );
    let (mut sent, mut got) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let chunk: Vec<u8> = (0..10_000_usize).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let id = duo.id(1);
    while sent.0.len() < 500_000 {
        while duo.client.may_write(1) {
            duo.client.write(1, chunk.clone()).unwrap();
            sent.0.extend_from_slice(&chunk);
        }
        while duo.server.may_write(id) {
            duo.server.write(id, chunk.clone()).unwrap();
            sent.1.extend_from_slice(&chunk);
        }
        let events = duo.settle();
        let (up, down) = (joined(&events.0, 1).0, joined(&events.1, 1).0);
        assert!(
            up.len() <= 64 * KIB && down.len() <= 64 * KIB,
            "no more than the window"
        );
        duo.server.credit(id, up.len(), true);
        duo.client.credit(1, down.len(), true);
        got.0.extend(up);
        got.1.extend(down);
        let events = duo.settle();
        let (up, down) = (joined(&events.0, 1).0, joined(&events.1, 1).0);
        duo.server.credit(id, up.len(), true);
        duo.client.credit(1, down.len(), true);
        got.0.extend(up);
        got.1.extend(down);
        assert_eq!(duo.client.poll_writable(), Some(1));
        assert_eq!(duo.server.poll_writable(), Some(id));
    }
    duo.client.finish_body(1).unwrap();
    duo.server.finish_answer(id).unwrap();
    assert_eq!(duo.client.write(1, vec![0]), Err(StreamError::Ended));
    for _ in 0..3 {
        let events = duo.settle();
        let (up, down) = (joined(&events.0, 1), joined(&events.1, 1));
        duo.server.credit(id, up.0.len(), true);
        duo.client.credit(1, down.0.len(), true);
        got.0.extend(up.0);
        got.1.extend(down.0);
    }
    assert!(got.0 == sent.0 && got.1 == sent.1, "the bytes that were sent");
    assert_eq!((duo.client.outstanding(), duo.server.unanswered()), (0, 0));
    assert_eq!((duo.budget.left(), duo.budget.answers()), (BUDGET, 0));
    assert_eq!(duo.server.write(id, vec![0]), Err(StreamError::Ended));
}

#[test]
fn an_open_request_reserves_its_window_or_is_busy() {
    // The shared bound has room for 16 windows of 64 KiB. A quarter is left to whole requests.
    let server = Settings::new().with_streams(64, 100);
    let mut duo = Duo::new(&settings(), &server);
    (1..=20).for_each(|ticket| duo.open(ticket));
    let (at_server, at_client) = duo.settle();
    assert_eq!(
        (at_server.len(), duo.server.unanswered(), duo.budget.left()),
        (12, 12, 256 * KIB)
    );
    let busy: Vec<_> = (13..=20).map(|ticket| Event::Refused(ticket, Refusal::Busy)).collect();
    assert_eq!((at_client, duo.server.take_busy()), (busy, 8));
    duo.request(30, &vec![7; 50_000]);
    assert_eq!(duo.settle().0.len(), 1);
    duo.server.answer(duo.id(21), vec![]).unwrap();
    duo.settle();
    // It stays reserved after END, until the request has completed.
    duo.client.finish_body(1).unwrap();
    assert_eq!(duo.settle().0, [Event::Ended(1)]);
    assert_eq!(duo.budget.left(), 256 * KIB);
    duo.server.answer(duo.id(1), vec![]).unwrap();
    duo.settle();
    assert_eq!(duo.budget.left(), 320 * KIB);
    // The handler keeps it as long as it has the body.
    let held = duo.server.take_held(duo.id(2));
    duo.server.refuse(duo.id(2), Refusal::Failed);
    duo.settle();
    assert_eq!(duo.budget.left(), 320 * KIB);
    drop(held);
    assert_eq!(duo.budget.left(), 384 * KIB);
    // A connection's own bound.
    let server = server
        .with_max_message(100)
        .with_max_held(u32::try_from(130 * KIB).unwrap());
    let mut duo = Duo::new(&settings(), &server);
    (1..=3).for_each(|ticket| duo.open(ticket));
    assert_eq!(duo.settle().1, [Event::Refused(3, Refusal::Busy)]);
    assert_eq!(duo.budget.left(), BUDGET - 128 * KIB);
}

#[test]
fn a_server_whose_caller_does_not_handle_streams_refuses_them_as_too_large() {
    let mut duo = Duo::start(&settings(), &settings());
    let serving = falco_core::ServerConnection::new(
        crate::duo::keys().1,
        &settings(),
        duo.now,
        &mut falco_core::testing::CountingRng::new(2),
    );
    duo.server = falco_core::mux::ServerMux::new(serving.unwrap(), duo.budget.clone(), &settings());
    duo.settle();
    duo.open(1);
    duo.client.write(1, b"body".to_vec()).unwrap();
    assert_eq!(duo.settle(), (vec![], vec![Event::Refused(1, Refusal::TooLarge)]));
    assert_eq!(duo.budget.left(), BUDGET);
}

#[test]
fn open_requests_begin_as_the_server_takes_them_and_fail_if_it_takes_none() {
    let mut duo = Duo::start(&settings(), &Settings::new().with_streams(64, 2));
    for ticket in 1..=4 {
        duo.open(ticket);
        duo.client.write(ticket, vec![7; 3]).unwrap();
        duo.client.finish_body(ticket).unwrap();
    }
    let (at_server, _) = duo.settle();
    let first = |number| [Event::Opened(number, vec![7; 3]), Event::Ended(number)];
    assert_eq!(
        at_server,
        [first(1), first(2)].into_iter().flatten().collect::<Vec<_>>()
    );
    assert!(duo.client.has_unbegun());
    duo.request(9, b"small");
    assert_eq!(
        duo.settle().0,
        [Event::Whole(3, b"small".to_vec())],
        "it holds up no other"
    );
    // One that waits is cancelled, and one that runs is answered.
    assert_eq!(duo.client.cancel_open(3), Some((3, Fate::NotProcessed)));
    duo.server.answer(duo.id(1), b"I".to_vec()).unwrap();
    let (at_server, at_client) = duo.settle();
    assert_eq!(at_client, [Event::Whole(1, b"I".to_vec())]);
    assert_eq!(at_server, first(4));
    assert!(!duo.client.has_unbegun());

    let mut duo = Duo::start(&settings(), &Settings::new());
    duo.open(1);
    duo.settle();
    assert_eq!((duo.failed.clone(), duo.client.outstanding()), (vec![1], 0));
    let rejected = duo.client.open(OpenCall::new(2, 2));
    assert!(matches!(rejected, Err((_, Some(_)))));
}

#[test]
fn a_caller_that_wants_a_whole_answer_gets_an_open_one_collected() {
    let client = settings().with_max_message(100_000);
    let mut duo = Duo::new(&client, &settings());
    duo.request(1, b"?");
    duo.settle();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    let mut at_client = Vec::new();
    for _ in 0..10 {
        assert!(duo.server.may_write(id), "it is given credit as it arrives");
        duo.server.write(id, vec![3; 10_000]).unwrap();
        at_client.extend(duo.settle().1);
    }
    assert_eq!(at_client, []);
    duo.server.finish_answer(id).unwrap();
    assert_eq!(duo.settle().1, [Event::Whole(1, vec![3; 100_000])]);
    assert_eq!((duo.client.outstanding(), duo.server.unanswered()), (0, 0));

    // Over the largest message, it is cancelled.
    duo.request(2, b"?");
    duo.settle();
    let id = duo.id(2);
    duo.server.open_answer(id).unwrap();
    duo.server.write(id, vec![3; 60_000]).unwrap();
    assert_eq!(duo.settle().1, []);
    duo.server.write(id, vec![3; 40_001]).unwrap();
    let (at_server, at_client) = duo.settle();
    assert_eq!(at_client, [Event::CallRefused(2, Refusal::AnswerTooLarge, false)]);
    assert_eq!(at_server, [Event::Cancelled(2)]);
    assert_eq!(duo.server.write(id, vec![3]), Err(StreamError::Ended));
    assert_eq!(duo.client.outstanding(), 0);
    let _ = duo.server.complete(id, Err(NoAnswer::Dropped), true);
    assert_eq!(duo.settle().1, []);
    assert_eq!((duo.client.connection().in_flight(), duo.server.unanswered()), (0, 0));
}

#[test]
fn a_request_with_a_length_may_have_its_answer_in_pieces() {
    let mut duo = Duo::new(&settings(), &settings());
    assert!(
        duo.client
            .request(Call::new(5, b"tail".to_vec(), 5).streaming())
            .is_ok()
    );
    duo.settle();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.server.write(id, b"line 1".to_vec()).unwrap();
    assert_eq!(duo.settle().1, [Event::Opened(5, b"line 1".to_vec())]);
    assert_eq!(duo.client.stream_waiter(5), Some(&mut 5));
    duo.client.credit(5, 6, true);
    duo.server.write(id, b"line 2".to_vec()).unwrap();
    duo.server.finish_answer(id).unwrap();
    assert_eq!(duo.settle().1, [Event::Part(5, b"line 2".to_vec()), Event::Ended(5)]);
    assert_eq!((duo.client.outstanding(), duo.client.stream_waiter(5)), (0, None));
    // A refusal in the middle is never repeated.
    assert!(
        duo.client
            .request(Call::new(6, b"tail".to_vec(), 6).streaming())
            .is_ok()
    );
    duo.settle();
    duo.server.open_answer(duo.id(2)).unwrap();
    duo.settle();
    duo.server.refuse(duo.id(2), Refusal::NotProcessed);
    assert_eq!(duo.settle().1, [Event::CallRefused(6, Refusal::Failed, false)]);
    // Cancelled by its ticket, as any request.
    assert!(
        duo.client
            .request(Call::new(7, b"tail".to_vec(), 7).streaming())
            .is_ok()
    );
    duo.settle();
    duo.server.open_answer(duo.id(3)).unwrap();
    duo.server.write(duo.id(3), b"line".to_vec()).unwrap();
    duo.settle();
    let (call, fate) = duo.client.cancel(7).unwrap();
    assert_eq!((call.body, fate), (b"tail".to_vec(), Fate::MaybeProcessed));
    assert_eq!(duo.settle(), (vec![Event::Cancelled(3)], vec![]));
}

#[test]
fn a_client_without_a_window_gets_an_open_answer_whole_or_a_refusal() {
    let client = Settings::new().with_max_message(100_000);
    for (length, fits) in [(100_000, true), (100_001, false)] {
        let mut duo = Duo::new(&client, &settings());
        duo.request(1, b"?");
        // It may still send open requests.
        duo.open(2);
        duo.client.finish_body(2).unwrap();
        duo.settle();
        for number in [1, 2] {
            let id = duo.id(number);
            duo.server.open_answer(id).unwrap();
            assert_eq!(duo.server.open_answer(id), Err(StreamError::Ended));
            for _ in 0..10 {
                assert!(duo.server.may_write(id));
                duo.server.write(id, vec![7; 10_000]).unwrap();
            }
            assert_eq!(duo.settle().1, []);
            if fits {
                duo.server.finish_answer(id).unwrap();
                assert_eq!(duo.settle().1, [Event::Whole(number, vec![7; length])]);
            } else {
                let (length, limit) = (100_001, 100_000);
                assert_eq!(
                    duo.server.write(id, vec![7]),
                    Err(StreamError::Request(RequestError::TooLarge { length, limit }))
                );
                assert_eq!(duo.server.finish_answer(id), Err(StreamError::Ended));
                let events = duo.settle().1;
                let refusal = Refusal::AnswerTooLarge;
                let expected = if number == 1 {
                    Event::CallRefused(1, refusal, false)
                } else {
                    Event::Refused(2, refusal)
                };
                assert_eq!(events, [expected]);
            }
        }
        assert_eq!(
            (duo.server.unanswered(), duo.budget.answers(), duo.budget.left()),
            (0, 0, BUDGET)
        );
    }
}

#[test]
fn an_open_request_reaches_no_handler_while_the_client_does_not_take_its_answers() {
    let server = settings()
        .with_max_message(100)
        .with_max_held(u32::try_from(200 * KIB).unwrap());
    let mut duo = Duo::new(&settings(), &server);
    duo.request(9, b"large");
    duo.settle();
    duo.server.answer(duo.id(1), vec![7; 100]).unwrap();
    duo.settle();
    // More than the connection may hold is queued.
    duo.request(10, b"?");
    assert!(duo.client.request(Call::new(11, b"?".to_vec(), 11).streaming()).is_ok());
    duo.settle();
    duo.server.open_answer(duo.id(3)).unwrap();
    for _ in 0..10 {
        duo.server.write(duo.id(3), vec![7; 30 * KIB]).unwrap();
    }
    assert!(!duo.server.may_handle());
    duo.open(1);
    duo.client.write(1, b"ear".to_vec()).unwrap();
    duo.open(2);
    duo.client.finish_body(2).unwrap();
    duo.open(3);
    duo.send();
    duo.client.write(1, b"ly".to_vec()).unwrap();
    duo.send();
    assert_eq!((duo.serve(), duo.server.has_request()), (vec![], false));
    assert_eq!(duo.budget.left(), BUDGET - 3 * 64 * KIB - 2 - 2 * KIB);
    assert_eq!(duo.client.cancel_open(3), Some((3, Fate::MaybeProcessed)));
    duo.client.finish_body(1).unwrap();
    duo.send();
    assert_eq!(duo.serve(), []);
    assert_eq!(
        duo.budget.left(),
        BUDGET - 2 * 64 * KIB - 2 - 2 * KIB,
        "one is cancelled before its handler runs"
    );
    // The client takes what its window allows. What waits for credit still counts, and the credit
    // is read.
    while duo.answer() > 0 {}
    assert!(!duo.server.may_handle() && !duo.server.has_request() && duo.server.may_read());
    duo.hear();
    duo.client.credit(11, 64 * KIB, true);
    duo.send();
    assert_eq!(duo.serve(), []);
    while duo.answer() > 0 {}
    assert!(duo.server.may_handle() && duo.server.has_request());
    let expected = [
        Event::Opened(4, b"early".to_vec()),
        Event::Ended(4),
        Event::Opened(5, vec![]),
        Event::Ended(5),
    ];
    assert_eq!((duo.serve(), duo.server.has_request()), (expected.into(), false));
    let events = duo.settle();
    assert!(
        events.1.iter().all(|event| !matches!(event, Event::Refused(..))),
        "{:?}",
        events.1.len()
    );
    // Nor is what was queued for one that was refused.
    for number in [4, 5] {
        let id = duo.id(number);
        duo.server.open_answer(id).unwrap();
        duo.server.write(id, vec![7; 150 * KIB]).unwrap();
    }
    assert!(!duo.server.may_handle());
    duo.server.refuse(duo.id(4), Refusal::Failed);
    duo.server.refuse(duo.id(5), Refusal::Failed);
    assert!(duo.server.may_handle());
    duo.settle();
    duo.open(12);
    assert_eq!(duo.settle().0, [Event::Opened(7, vec![])]);
}

/// More is queued than the connection may hold, and all of it waits for credit. However many other
/// requests the client sends meanwhile, its credit is read.
#[test]
fn credit_is_read_however_many_requests_are_deferred() {
    let server = settings()
        .with_max_message(50_000)
        .with_max_held(u32::try_from(400 * KIB).unwrap());
    let mut duo = Duo::new(&settings(), &server);
    duo.open(1);
    duo.settle();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    for _ in 0..20 {
        duo.server.write(id, vec![7; 30 * KIB]).unwrap();
    }
    duo.settle();
    assert!(!duo.server.may_handle());
    for ticket in 2..=5 {
        duo.request(ticket, &vec![1; 40_000]);
    }
    // Two are deferred. The others are refused, so that the memory for them is bounded, and wait at
    // the client.
    assert_eq!(duo.settle(), (vec![], vec![]));
    assert_eq!((duo.server.unanswered(), duo.client.outstanding()), (3, 5));
    assert!(duo.server.may_read() && !duo.server.has_request());
    let mut count = 0;
    for _ in 0..10 {
        duo.client.credit(1, 64 * KIB, true);
        for event in duo.settle().0 {
            let Event::Whole(number, _) = event else {
                panic!("{event:?}")
            };
            duo.server.answer(duo.id(number), vec![]).unwrap();
            count += 1;
        }
    }
    duo.settle();
    assert_eq!((count, duo.server.unanswered(), duo.client.outstanding()), (4, 1, 1));
}

#[test]
fn answers_that_are_collected_are_bounded_by_what_the_connection_may_hold() {
    let server = settings().with_max_message(1 << 20).with_max_held(1 << 20);
    let mut duo = Duo::new(&Settings::new(), &server);
    for number in 1..=4 {
        duo.open(number);
    }
    duo.settle();
    for number in 1..=4 {
        let id = duo.id(number);
        duo.server.open_answer(id).unwrap();
        assert!(duo.server.may_write(id));
        duo.server.write(id, vec![1; 250 * KIB]).unwrap();
    }
    // What grows by doubling counts with its capacity.
    let fifth = duo.server.write(duo.id(1), vec![1; 10 * KIB]);
    let too_large = matches!(fifth, Err(StreamError::Request(RequestError::TooLarge { .. })));
    assert!(too_large, "{fifth:?}");
    // The others go on.
    let third = duo.id(3);
    duo.server.write(third, vec![1; 200 * KIB]).unwrap();
    assert_eq!(duo.settle().1, [Event::Refused(1, Refusal::AnswerTooLarge)]);
    for number in 2..=4 {
        duo.server.finish_answer(duo.id(number)).unwrap();
    }
    let mut lengths: Vec<_> = duo.settle().1.iter().map(length).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [250 * KIB, 250 * KIB, 450 * KIB]);
    assert_eq!(duo.budget.answers(), 0);
}

fn length(event: &Event) -> usize {
    match event {
        Event::Whole(_, body) => body.len(),
        other => panic!("{other:?}"),
    }
}
