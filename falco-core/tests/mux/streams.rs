//! Open bodies in the mux: who may write, what is held, and what becomes of them.

use core::time::Duration;

use crate::duo::{BUDGET, Duo, Told, settings};
use falco_core::mux::{Call, NoAnswer, OpenCall, OpenRejected, Retry, StreamError};
use falco_core::{CloseReason, ConnectionError, Fate, Refusal, Settings};

const KIB: usize = 1024;

/// The bytes of the parts of `number`, and whether it has ended.
fn joined(told: &[Told], number: u64) -> (Vec<u8>, bool) {
    let (mut bytes, mut ended) = (Vec::new(), false);
    for told in told {
        match told {
            Told::Opened(of, part) | Told::Part(of, part) if *of == number => bytes.extend_from_slice(part),
            Told::Ended(of) => ended |= *of == number,
            _ => {}
        }
    }
    (bytes, ended)
}

/// An open request that has begun, and is open at the server.
fn opened() -> Duo {
    let mut duo = Duo::new(&settings(), &settings());
    duo.open(1);
    assert_eq!(duo.settle(), (vec![Told::Opened(1, vec![])], vec![]));
    duo
}

#[test]
fn a_request_and_its_answer_are_streams_at_the_same_time() {
    let mut duo = opened();
    duo.server.open_answer(duo.id(1)).unwrap();
    assert_eq!(
        duo.settle().1,
        [Told::Opened(1, vec![])],
        "an answer begins without bytes"
    );
    let (mut sent, mut got) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let chunk: Vec<u8> = (0..10_000_usize).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let id = duo.id(1);
    while sent.0.len() < 500_000 {
        while duo.client.wants(1) {
            duo.client.write(1, chunk.clone()).unwrap();
            sent.0.extend_from_slice(&chunk);
        }
        while duo.server.wants(id) {
            duo.server.write(id, chunk.clone()).unwrap();
            sent.1.extend_from_slice(&chunk);
        }
        let told = duo.settle();
        let (up, down) = (joined(&told.0, 1).0, joined(&told.1, 1).0);
        assert!(
            up.len() <= 64 * KIB && down.len() <= 64 * KIB,
            "no more than the window"
        );
        duo.server.credit(id, up.len(), true);
        duo.client.credit(1, down.len(), true);
        got.0.extend(up);
        got.1.extend(down);
        let told = duo.settle();
        let (up, down) = (joined(&told.0, 1).0, joined(&told.1, 1).0);
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
        let told = duo.settle();
        let (up, down) = (joined(&told.0, 1), joined(&told.1, 1));
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
fn short_chunks_share_frames_and_long_ones_are_sent_as_they_are() {
    let mut duo = opened();
    for at in 0..200_u8 {
        assert!(duo.client.wants(1));
        duo.client.write(1, vec![at; 100]).unwrap();
    }
    duo.client.write(1, vec![9; 30_000]).unwrap();
    duo.client.write(1, vec![]).unwrap();
    let told = duo.settle().0;
    let lengths = told.iter().map(|told| match told {
        Told::Part(1, body) => body.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(lengths.collect::<Vec<_>>(), [20_000, 30_000]);
    let expected: Vec<u8> = (0..200).flat_map(|at| [at; 100]).chain(vec![9; 30_000]).collect();
    assert!(joined(&told, 1).0 == expected);
}

#[test]
fn what_is_queued_is_bounded_and_counts_towards_the_shared_bound() {
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    let mut queued = 0;
    while duo.server.wants(id) {
        duo.server.write(id, vec![1; 20 * KIB]).unwrap();
        queued += 20 * KIB;
    }
    assert_eq!(queued, 80 * KIB, "64 KiB and the chunk that is over it");
    assert_eq!(duo.budget.answers(), 80 * KIB);
    duo.settle();
    // The count may be wrong by 16 KiB.
    assert!(duo.budget.answers() <= 32 * KIB, "the window is sent");
    assert!(!duo.server.wants(id), "without credit one chunk may wait");
    assert!(duo.server.may_handle() && duo.server.may_read());
    duo.client.credit(1, 64 * KIB, true);
    duo.settle();
    assert_eq!((duo.budget.answers(), duo.server.poll_writable()), (0, Some(id)));
    assert_eq!(duo.server.poll_writable(), None);
    duo.server.write(id, vec![1; 100 * KIB]).unwrap();
    duo.server.refuse(id, Refusal::Failed);
    assert_eq!((duo.budget.answers(), duo.budget.left()), (0, BUDGET));
    assert_eq!(duo.settle().1.last(), Some(&Told::Refused(1, Refusal::Failed)));
}

#[test]
fn a_stream_goes_on_beside_a_large_message() {
    for upwards in [true, false] {
        let mut duo = Duo::new(&settings(), &settings());
        duo.output = 65_537;
        duo.open(1);
        duo.settle();
        if upwards {
            duo.request(2, &vec![7; 4 << 20]);
        } else {
            duo.request(2, b"large");
            duo.settle();
            duo.server.answer(duo.id(2), vec![7; 4 << 20]).unwrap();
            duo.server.open_answer(duo.id(1)).unwrap();
        }
        let (mut got, id) = (0, duo.id(1));
        for _ in 0..40 {
            if upwards && duo.client.wants(1) {
                duo.client.write(1, vec![7; 30_000]).unwrap();
            } else if !upwards && duo.server.wants(id) {
                duo.server.write(id, vec![7; 30_000]).unwrap();
            }
            let told = if upwards {
                duo.send();
                duo.serve()
            } else {
                duo.answer();
                duo.hear()
            };
            let bytes = joined(&told, 1).0.len();
            got += bytes;
            if upwards {
                duo.server.credit(id, bytes, true);
                duo.answer();
                duo.hear();
            } else {
                duo.client.credit(1, bytes, true);
                duo.send();
                duo.serve();
            }
        }
        assert!(got >= 15 * 30_000, "{got} bytes in 40 records");
    }
}

#[test]
fn with_a_large_window_no_more_is_queued() {
    let large = Settings::new().with_streams(1_000, 8);
    let mut duo = Duo::new(&large, &large);
    duo.open(1);
    duo.settle();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    let mut queued = (0, 0);
    while duo.server.wants(id) {
        duo.server.write(id, vec![1; 10 * KIB]).unwrap();
        queued.0 += 10;
    }
    while duo.client.wants(1) {
        duo.client.write(1, vec![1; 10 * KIB]).unwrap();
        queued.1 += 10;
    }
    assert_eq!(queued, (70, 70));
}

#[test]
fn an_open_request_reserves_its_window_or_is_busy() {
    // The shared bound has room for 16 windows of 64 KiB.
    let server = Settings::new().with_streams(64, 100);
    let mut duo = Duo::new(&settings(), &server);
    (1..=20).for_each(|ticket| duo.open(ticket));
    let (at_server, at_client) = duo.settle();
    assert_eq!(
        (at_server.len(), duo.server.unanswered(), duo.budget.left()),
        (16, 16, 0)
    );
    let busy: Vec<_> = (17..=20).map(|ticket| Told::Refused(ticket, Refusal::Busy)).collect();
    assert_eq!((at_client, duo.server.take_busy()), (busy, 4));
    // It stays reserved after END, until the request has completed.
    duo.client.finish_body(1).unwrap();
    assert_eq!(duo.settle().0, [Told::Ended(1)]);
    assert_eq!(duo.budget.left(), 0);
    duo.server.answer(duo.id(1), vec![]).unwrap();
    duo.settle();
    assert_eq!(duo.budget.left(), 64 * KIB);
    // The handler keeps it as long as it has the body.
    let held = duo.server.take_held(duo.id(2));
    duo.server.refuse(duo.id(2), Refusal::Failed);
    duo.settle();
    assert_eq!(duo.budget.left(), 64 * KIB);
    drop(held);
    assert_eq!(duo.budget.left(), 128 * KIB);
    // A connection's own bound.
    let server = server
        .with_max_message(100)
        .with_max_held(u32::try_from(130 * KIB).unwrap());
    let mut duo = Duo::new(&settings(), &server);
    (1..=3).for_each(|ticket| duo.open(ticket));
    assert_eq!(duo.settle().1, [Told::Refused(3, Refusal::Busy)]);
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
    assert_eq!(duo.settle(), (vec![], vec![Told::Refused(1, Refusal::TooLarge)]));
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
    let first = |number| [Told::Opened(number, vec![7; 3]), Told::Ended(number)];
    assert_eq!(
        at_server,
        [first(1), first(2)].into_iter().flatten().collect::<Vec<_>>()
    );
    assert!(duo.client.has_unbegun());
    duo.request(9, b"small");
    assert_eq!(
        duo.settle().0,
        [Told::Whole(3, b"small".to_vec())],
        "it holds up no other"
    );
    // One that waits is cancelled, and one that runs is answered.
    assert_eq!(duo.client.cancel_open(3), Some((3, Fate::NotProcessed)));
    duo.server.answer(duo.id(1), b"I".to_vec()).unwrap();
    let (at_server, at_client) = duo.settle();
    assert_eq!(at_client, [Told::Whole(1, b"I".to_vec())]);
    assert_eq!(at_server, first(4));
    assert!(!duo.client.has_unbegun());

    let mut duo = Duo::start(&settings(), &Settings::new());
    duo.open(1);
    duo.settle();
    assert_eq!((duo.failed.clone(), duo.client.outstanding()), (vec![1], 0));
    let rejected = duo.client.open(OpenCall::new(2, 2));
    assert!(matches!(rejected, Err(OpenRejected::Failed(..))));
}

#[test]
fn open_requests_that_wait_for_a_place_hold_up_no_stream() {
    let client = settings().with_max_in_flight(4).unwrap();
    let mut duo = Duo::new(&client, &Settings::new().with_streams(1, 1_000));
    duo.open(1);
    duo.settle();
    (2..=4).for_each(|ticket| duo.request(ticket, b"?"));
    // They are accepted together with the requests, before any of these has begun.
    (10..=200).for_each(|ticket| duo.open(ticket));
    duo.settle();
    for at in 0..10_u8 {
        duo.client.write(1, vec![at; 10]).unwrap();
        assert_eq!(duo.settle().0, [Told::Part(1, vec![at; 10])]);
    }
    assert_eq!((duo.client.machine().in_flight(), duo.client.outstanding()), (4, 195));
    for number in 1..=191_u64 {
        duo.server.answer(duo.id(number), vec![]).unwrap();
        assert_eq!(duo.settle().0.len(), 1, "the next begins");
    }
}

#[test]
fn a_whole_answer_may_end_an_open_request_and_its_writer_is_told() {
    let mut duo = opened();
    duo.client.write(1, vec![1; 70 * KIB]).unwrap();
    assert!(!duo.client.wants(1));
    assert_eq!(joined(&duo.settle().0, 1).0.len(), 64 * KIB);
    duo.server.answer(duo.id(1), b"enough".to_vec()).unwrap();
    assert_eq!(duo.settle().1, [Told::Whole(1, b"enough".to_vec())]);
    assert_eq!(duo.client.poll_writable(), Some(1));
    assert_eq!(duo.client.write(1, vec![0]), Err(StreamError::Ended));
    assert_eq!((duo.client.outstanding(), duo.server.unanswered()), (0, 0));
    // In parts, too.
    let mut duo = opened();
    duo.output = 300;
    duo.server.answer(duo.id(1), vec![8; 5_000]).unwrap();
    assert_eq!(duo.settle().1, [Told::Whole(1, vec![8; 5_000])]);
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
        assert!(duo.server.wants(id), "it is given credit as it arrives");
        duo.server.write(id, vec![3; 10_000]).unwrap();
        at_client.extend(duo.settle().1);
    }
    assert_eq!(at_client, []);
    duo.server.finish_answer(id).unwrap();
    assert_eq!(duo.settle().1, [Told::Whole(1, vec![3; 100_000])]);
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
    assert_eq!(at_client, [Told::CallRefused(2, Refusal::AnswerTooLarge, false)]);
    assert_eq!(at_server, [Told::Cancelled(2)]);
    assert_eq!(duo.server.write(id, vec![3]), Err(StreamError::Ended));
    assert_eq!(duo.client.outstanding(), 0);
    duo.server.complete(id, Err(NoAnswer::Dropped), true);
    assert_eq!(duo.settle().1, []);
    assert_eq!((duo.client.machine().in_flight(), duo.server.unanswered()), (0, 0));
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
    assert_eq!(duo.settle().1, [Told::Opened(5, b"line 1".to_vec())]);
    assert_eq!(duo.client.stream_waiter(5), Some(&mut 5));
    duo.client.credit(5, 6, true);
    duo.server.write(id, b"line 2".to_vec()).unwrap();
    duo.server.finish_answer(id).unwrap();
    assert_eq!(duo.settle().1, [Told::Part(5, b"line 2".to_vec()), Told::Ended(5)]);
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
    assert_eq!(duo.settle().1, [Told::CallRefused(6, Refusal::Failed, false)]);
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
    assert_eq!(duo.settle(), (vec![Told::Cancelled(3)], vec![]));
}

#[test]
fn a_client_without_a_window_gets_an_open_answer_whole_or_a_refusal() {
    let client = Settings::new().with_max_message(1_000);
    for (length, fits) in [(1_000, true), (1_001, false)] {
        let mut duo = Duo::new(&client, &settings());
        duo.request(1, b"?");
        // It may send open requests all the same.
        duo.open(2);
        duo.client.finish_body(2).unwrap();
        duo.settle();
        for number in [1, 2] {
            let id = duo.id(number);
            duo.server.open_answer(id).unwrap();
            assert_eq!(duo.server.open_answer(id), Err(StreamError::Ended));
            for _ in 0..10 {
                assert!(duo.server.wants(id));
                duo.server.write(id, vec![7; 100]).unwrap();
            }
            assert_eq!(duo.settle().1, []);
            if fits {
                duo.server.finish_answer(id).unwrap();
                assert_eq!(duo.settle().1, [Told::Whole(number, vec![7; length])]);
            } else {
                let limit = 1_000;
                assert_eq!(duo.server.write(id, vec![7]), Err(StreamError::TooLarge { limit }));
                assert_eq!(duo.server.finish_answer(id), Err(StreamError::Ended));
                let told = duo.settle().1;
                let refusal = Refusal::AnswerTooLarge;
                let expected = if number == 1 {
                    Told::CallRefused(1, refusal, false)
                } else {
                    Told::Refused(2, refusal)
                };
                assert_eq!(told, [expected]);
            }
        }
        assert_eq!(
            (duo.server.unanswered(), duo.budget.answers(), duo.budget.left()),
            (0, 0, BUDGET)
        );
    }
}

#[test]
fn a_cancelled_handler_can_write_no_more_and_one_that_has_finished_is_not_told() {
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.server.write(id, vec![1; 70 * KIB]).unwrap();
    assert!(!duo.server.wants(id));
    duo.settle();
    assert_eq!(duo.client.cancel_open(1), Some((1, Fate::MaybeProcessed)));
    assert_eq!(duo.client.write(1, vec![1]), Err(StreamError::Ended));
    assert_eq!(duo.settle(), (vec![Told::Cancelled(1)], vec![]));
    // Its write fails, also one that waits for credit.
    assert_eq!(duo.server.poll_writable(), Some(id));
    assert_eq!(duo.server.write(id, vec![1]), Err(StreamError::Ended));
    assert_eq!(duo.server.finish_answer(id), Err(StreamError::Ended));
    assert_eq!((duo.client.machine().in_flight(), duo.server.unanswered()), (1, 1));
    duo.server.complete(id, Err(NoAnswer::Dropped), true);
    duo.settle();
    assert_eq!((duo.client.machine().in_flight(), duo.server.unanswered()), (0, 0));
    assert_eq!((duo.budget.left(), duo.budget.answers()), (BUDGET, 0));

    // The handler has finished, and its last bytes wait for credit.
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.server.write(id, vec![1; 70 * KIB]).unwrap();
    duo.server.finish_answer(id).unwrap();
    duo.settle();
    duo.client.cancel_open(1).unwrap();
    assert_eq!(duo.settle(), (vec![], vec![]));
    assert_eq!((duo.client.machine().in_flight(), duo.server.unanswered()), (0, 0));
}

#[test]
fn a_handler_that_fails_in_the_middle_cuts_off_its_answer() {
    for (error, told) in [
        (Refusal::Failed, Refusal::Failed),
        (Refusal::Busy, Refusal::Failed),
        (Refusal::Cancelled, Refusal::Cancelled),
    ] {
        let mut duo = opened();
        let id = duo.id(1);
        duo.server.open_answer(id).unwrap();
        duo.server.write(id, b"part".to_vec()).unwrap();
        duo.settle();
        duo.server.write(id, b"not sent".to_vec()).unwrap();
        duo.server.complete(id, Err(NoAnswer::Failed(&error)), false);
        assert_eq!(duo.settle().1, [Told::Refused(1, told)]);
        // One that has not answered cannot say that it has not processed an open request.
        let mut duo = opened();
        duo.server.complete(duo.id(1), Err(NoAnswer::Failed(&error)), false);
        assert_eq!(duo.settle().1, [Told::Refused(1, told)]);
    }
    // A whole answer after an open one has begun is an error of the handler.
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.settle();
    duo.server.complete(id, Ok(b"whole".to_vec()), false);
    assert_eq!(duo.settle().1, [Told::Refused(1, Refusal::Failed)]);
    assert_eq!(duo.server.unanswered(), 0);
}

#[test]
fn a_handler_that_drops_its_request_does_not_hold_up_the_client() {
    let mut duo = opened();
    duo.server.discard(duo.id(1));
    let mut sent = 0;
    while sent < 1 << 20 {
        assert!(duo.client.wants(1));
        duo.client.write(1, vec![7; 30_000]).unwrap();
        sent += 30_000;
        assert_eq!(duo.settle(), (vec![], vec![]));
    }
    duo.client.finish_body(1).unwrap();
    assert_eq!(duo.settle(), (vec![], vec![]));
    duo.server.answer(duo.id(1), b"done".to_vec()).unwrap();
    assert_eq!(duo.settle().1, [Told::Whole(1, b"done".to_vec())]);
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
    duo.server.write(duo.id(3), vec![7; 300 * KIB]).unwrap();
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
    assert_eq!(duo.budget.left(), BUDGET - 3 * 64 * KIB - 2);
    assert_eq!(duo.client.cancel_open(3), Some((3, Fate::MaybeProcessed)));
    duo.client.finish_body(1).unwrap();
    duo.send();
    assert_eq!(duo.serve(), []);
    assert_eq!(
        duo.budget.left(),
        BUDGET - 2 * 64 * KIB - 2,
        "one is cancelled before its handler runs"
    );
    // The client takes what its window allows. What waits for credit is no reason to wait.
    while duo.answer() > 0 {}
    assert!(duo.server.may_handle() && duo.server.has_request());
    let expected = [
        Told::Opened(4, b"early".to_vec()),
        Told::Ended(4),
        Told::Opened(5, vec![]),
        Told::Ended(5),
    ];
    assert_eq!((duo.serve(), duo.server.has_request()), (expected.into(), false));
    let told = duo.settle();
    assert!(
        told.1.iter().all(|told| !matches!(told, Told::Refused(..))),
        "{:?}",
        told.1.len()
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
    assert_eq!(duo.settle().0, [Told::Opened(7, vec![])]);
}

#[test]
fn what_waits_for_credit_stops_no_reading_and_has_no_deadline() {
    let lifetime = Duration::from_secs(3);
    let settings = settings().with_lifetime(lifetime).unwrap().with_max_held(1);
    let mut duo = Duo::new(&settings, &settings.with_max_held(1 << 20));
    for ticket in 1..=2 {
        duo.open(ticket);
        duo.client.write(ticket, vec![1; 70 * KIB]).unwrap();
    }
    duo.settle();
    for number in 1..=2 {
        let id = duo.id(number);
        duo.server.open_answer(id).unwrap();
        duo.server.write(id, vec![1; 2 << 20]).unwrap();
    }
    duo.settle();
    for ticket in 3..40 {
        duo.pass(Duration::from_millis(900));
        duo.settle();
        assert!(duo.server.may_read() && duo.server.may_handle());
        duo.request(ticket, b"small");
        let number = u64::from(u32::try_from(ticket).unwrap());
        assert_eq!(duo.settle().0, [Told::Whole(number, b"small".to_vec())]);
        duo.server.answer(duo.id(number), b"answer".to_vec()).unwrap();
        assert_eq!(duo.settle().1, [Told::Whole(ticket, b"answer".to_vec())]);
    }
    assert_eq!((duo.client.end(), duo.server.machine().end()), (None, None));
}

#[test]
fn one_that_has_begun_is_never_sent_again_and_one_that_has_not_keeps_its_body() {
    let mut duo = Duo::new(&settings(), &Settings::new().with_streams(64, 1));
    for ticket in 1..=2 {
        duo.open(ticket);
        duo.client.write(ticket, b"body".to_vec()).unwrap();
    }
    assert!(
        duo.client
            .request(Call::new(3, b"tail".to_vec(), 3).streaming())
            .is_ok()
    );
    duo.settle();
    duo.server.open_answer(duo.id(2)).unwrap();
    duo.settle();
    assert_eq!(duo.client.end_of_stream(duo.now, &[]), ConnectionError::Truncated);
    let unfinished = duo.client.finish_open();
    let ends: Vec<_> = unfinished
        .iter()
        .map(|end| (end.call.ticket, end.fate, end.retry))
        .collect();
    let expected = [
        (2, Fate::NotProcessed, Retry::Again),
        (1, Fate::MaybeProcessed, Retry::Fail),
    ];
    assert_eq!(ends, expected);
    let other = duo.client.finish();
    let ends: Vec<_> = other.iter().map(|end| (end.call.ticket, end.fate, end.retry)).collect();
    assert_eq!(ends, [(3, Fate::MaybeProcessed, Retry::Fail)]);

    // On another connection.
    let mut second = Duo::new(&settings(), &settings());
    for end in unfinished.into_iter().filter(|end| end.retry == Retry::Again) {
        assert!(second.client.open(end.call).is_ok());
    }
    second.client.write(2, b" and more".to_vec()).unwrap();
    assert_eq!(second.settle().0, [Told::Opened(1, b"body and more".to_vec())]);

    // A server that closes: what has not begun moves, the others go on.
    let mut duo = Duo::new(&settings(), &Settings::new().with_streams(64, 1));
    (1..=2).for_each(|ticket| duo.open(ticket));
    duo.settle();
    duo.server.close(duo.now, CloseReason::ShuttingDown);
    duo.settle();
    assert_eq!(duo.client.poll_closing().map(|calls| calls.len()), Some(0));
    let moved: Vec<_> = duo.client.take_unbegun_open().iter().map(|call| call.ticket).collect();
    assert_eq!((moved, duo.client.outstanding()), (vec![2], 1));
    assert!(matches!(
        duo.client.open(OpenCall::new(4, 4)),
        Err(OpenRejected::Closed(_))
    ));
    duo.client.write(1, b"more".to_vec()).unwrap();
    assert_eq!(duo.settle().0, [Told::Part(1, b"more".to_vec())]);
    duo.server.answer(duo.id(1), vec![]).unwrap();
    assert_eq!(duo.settle().1, [Told::Whole(1, vec![])]);
    assert_eq!(duo.client.end(), Some(ConnectionError::Closed));
}

#[test]
fn at_the_end_of_the_clients_sending_half_an_answer_that_needs_credit_is_cut_off() {
    let mut duo = opened();
    assert!(
        duo.client
            .request(Call::new(2, b"tail".to_vec(), 2).streaming())
            .is_ok()
    );
    duo.settle();
    duo.client.close(duo.now, CloseReason::Done);
    duo.settle();
    let (one, two) = (duo.id(1), duo.id(2));
    duo.server.open_answer(two).unwrap();
    duo.server.write(two, vec![1; 70 * KIB]).unwrap();
    assert!(!duo.server.wants(two));
    duo.settle();
    duo.server.end_of_stream(duo.now, &[]).unwrap();
    assert_eq!(duo.serve(), [Told::Cancelled(1)]);
    duo.server.complete(one, Err(NoAnswer::Dropped), true);
    duo.answer();
    assert_eq!(duo.server.poll_writable(), Some(two));
    assert_eq!(duo.server.write(two, vec![1]), Err(StreamError::Ended));
    while duo.answer() > 0 {}
    assert_eq!(
        (duo.server.unanswered(), duo.server.machine().end()),
        (0, Some(ConnectionError::Closed))
    );
}

#[test]
fn a_small_request_waits_for_at_most_two_records_of_eight_streams_at_full_speed() {
    for upwards in [true, false] {
        let mut duo = Duo::new(&settings(), &settings());
        // The longest record.
        duo.output = 65_537;
        (1..=8).for_each(|ticket| duo.open(ticket));
        duo.settle();
        for number in 1..=8 {
            duo.server.open_answer(duo.id(number)).unwrap();
        }
        duo.settle();
        let (mut asked, mut waited, mut records) = (0, Vec::new(), 0);
        let mut moved = [0_usize; 9];
        for round in 0..400_u64 {
            for number in 1..=8_u64 {
                let id = duo.id(number);
                while upwards && duo.client.wants(number) {
                    duo.client.write(number, vec![7; 20_000]).unwrap();
                }
                while !upwards && duo.server.wants(id) {
                    duo.server.write(id, vec![7; 20_000]).unwrap();
                }
            }
            if round % 10 == 3 {
                asked = records;
                duo.request(100 + round, b"small");
                if !upwards {
                    // Its answer is what waits.
                    while duo.send() > 0 {}
                    let told = duo.serve();
                    assert_eq!(told.len(), 1);
                    let id = *duo.ids.values().next_back().unwrap();
                    duo.server.answer(id, b"small".to_vec()).unwrap();
                }
            }
            // One record.
            let sealed = if upwards { duo.send() } else { duo.answer() };
            records += 1;
            assert!(sealed > 0 && sealed <= 65_537, "{sealed} bytes in round {round}");
            let told = if upwards { duo.serve() } else { duo.hear() };
            for told in &told {
                match told {
                    Told::Part(number, body) => {
                        let number = *number;
                        moved[usize::try_from(number).unwrap()] += body.len();
                        // Nobody reads the eighth.
                        if number < 8 && upwards {
                            duo.server.credit(duo.id(number), body.len(), true);
                        } else if number < 8 {
                            duo.client.credit(number, body.len(), true);
                        }
                    }
                    Told::Whole(..) => waited.push(records - asked),
                    other => panic!("{other:?}"),
                }
            }
            // The credit arrives.
            if upwards {
                while duo.answer() > 0 {}
                duo.hear();
            } else {
                while duo.send() > 0 {}
                duo.serve();
            }
        }
        assert_eq!(
            (waited.len(), waited.iter().max()),
            (40, waited.iter().max().filter(|most| **most <= 2))
        );
        assert_eq!(moved[8], 64 * KIB, "the one that nobody reads has its window");
        let (least, most) = (moved[1..8].iter().min().unwrap(), moved[1..8].iter().max().unwrap());
        assert!(
            *least > 1 << 20 && most - least < 200_000,
            "all others go on: {moved:?}"
        );
    }
}
