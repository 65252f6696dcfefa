//! How requests with open bodies end in the mux.

use core::time::Duration;
use std::collections::VecDeque;

use crate::duo::{BUDGET, Duo, Event, joined, opened, settings};
use falco_core::mux::{Call, Halves, OpenCall, StreamError};
use falco_core::{CloseReason, ConnectionError, Fate, NoAnswer, Refusal, Settings};

const KIB: usize = 1024;

#[test]
fn a_whole_answer_may_end_an_open_request_and_its_writer_learns_that() {
    let mut duo = opened();
    duo.client.write(1, vec![1; 70 * KIB]).unwrap();
    assert!(!duo.client.may_write(1));
    assert_eq!(joined(&duo.settle().0, 1).0.len(), 64 * KIB);
    duo.server.answer(duo.id(1), b"enough".to_vec()).unwrap();
    assert_eq!(duo.settle().1, [Event::Whole(1, b"enough".to_vec())]);
    assert_eq!(duo.client.poll_writable(), Some(1));
    assert_eq!(duo.client.write(1, vec![0]), Err(StreamError::Ended));
    assert_eq!((duo.client.outstanding(), duo.server.unanswered()), (0, 0));
    // In parts, too.
    let mut duo = opened();
    duo.output = 300;
    duo.server.answer(duo.id(1), vec![8; 5_000]).unwrap();
    assert_eq!(duo.settle().1, [Event::Whole(1, vec![8; 5_000])]);
}

#[test]
fn a_cancelled_handler_cannot_write_and_one_that_has_finished_is_not_cancelled() {
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.server.write(id, vec![1; 70 * KIB]).unwrap();
    assert!(!duo.server.may_write(id));
    duo.settle();
    assert_eq!(duo.client.cancel_open(1), Some((1, Fate::MaybeProcessed)));
    assert_eq!(duo.client.write(1, vec![1]), Err(StreamError::Ended));
    assert_eq!(duo.settle(), (vec![Event::Cancelled(1)], vec![]));
    // Its write fails, also one that waits for credit.
    assert_eq!(duo.server.poll_writable(), Some(id));
    assert_eq!(duo.server.write(id, vec![1]), Err(StreamError::Ended));
    assert_eq!(duo.server.finish_answer(id), Err(StreamError::Ended));
    assert_eq!((duo.client.connection().in_flight(), duo.server.unanswered()), (1, 1));
    let _ = duo.server.complete(id, Err(NoAnswer::Dropped), true);
    duo.settle();
    assert_eq!((duo.client.connection().in_flight(), duo.server.unanswered()), (0, 0));
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
    assert_eq!((duo.client.connection().in_flight(), duo.server.unanswered()), (0, 0));
}

#[test]
fn a_handler_that_fails_in_the_middle_cuts_off_its_answer() {
    for (error, refusal) in [
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
        let _ = duo.server.complete(id, Err(NoAnswer::Failed(&error)), false);
        assert_eq!(duo.settle().1, [Event::Refused(1, refusal)]);
        // One that has not answered cannot say that it has not processed an open request.
        let mut duo = opened();
        let _ = duo.server.complete(duo.id(1), Err(NoAnswer::Failed(&error)), false);
        assert_eq!(duo.settle().1, [Event::Refused(1, refusal)]);
    }
    // A whole answer after an open one has begun is an error of the handler.
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.settle();
    let _ = duo.server.complete(id, Ok(b"whole".to_vec()), false);
    assert_eq!(duo.settle().1, [Event::Refused(1, Refusal::Failed)]);
    assert_eq!(duo.server.unanswered(), 0);
}

#[test]
fn a_handler_that_drops_its_request_does_not_hold_up_the_client() {
    let mut duo = opened();
    duo.server.discard(duo.id(1));
    let mut sent = 0;
    while sent < 1 << 20 {
        assert!(duo.client.may_write(1));
        duo.client.write(1, vec![7; 30_000]).unwrap();
        sent += 30_000;
        assert_eq!(duo.settle(), (vec![], vec![]));
    }
    duo.client.finish_body(1).unwrap();
    assert_eq!(duo.settle(), (vec![], vec![]));
    duo.server.answer(duo.id(1), b"done".to_vec()).unwrap();
    assert_eq!(duo.settle().1, [Event::Whole(1, b"done".to_vec())]);
}

#[test]
fn each_open_request_that_has_begun_is_reported_once() {
    let mut duo = Duo::new(&settings(), &Settings::new().with_streams(64, 2));
    (1..=4).for_each(|ticket| duo.open(ticket));
    assert_eq!(duo.client.poll_begun(), None);
    let unbegun = |duo: &Duo| duo.client.unbegun_open().map(|(ticket, _)| ticket).collect::<Vec<_>>();
    assert_eq!(unbegun(&duo), [1, 2, 3, 4]);
    duo.send();
    assert_eq!((duo.client.poll_begun(), duo.client.poll_begun()), (Some(1), Some(2)));
    assert_eq!(duo.client.poll_begun(), None);
    assert_eq!(unbegun(&duo), [3, 4]);
    // One that is cancelled while it waits has never begun, and the next has its place.
    assert_eq!(duo.client.cancel_open(3), Some((3, Fate::NotProcessed)));
    duo.settle();
    assert_eq!(duo.client.poll_begun(), None);
    duo.server.answer(duo.id(1), vec![]).unwrap();
    duo.settle();
    assert_eq!((duo.client.poll_begun(), unbegun(&duo)), (Some(4), vec![]));
    // Nobody asks about one that has completed.
    duo.open(5);
    duo.server.answer(duo.id(2), vec![]).unwrap();
    duo.settle();
    duo.server.answer(duo.id(4), vec![]).unwrap();
    duo.settle();
    assert_eq!((duo.client.cancel_open(5), duo.client.poll_begun()), (None, None));
}

#[test]
fn an_open_request_that_has_begun_is_not_sent_again_and_another_keeps_its_body() {
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
    let expected = [(2, Fate::NotProcessed, true), (1, Fate::MaybeProcessed, false)];
    assert_eq!(ends, expected);
    let other = duo.client.finish();
    let ends: Vec<_> = other.iter().map(|end| (end.call.ticket, end.fate, end.retry)).collect();
    assert_eq!(ends, [(3, Fate::MaybeProcessed, false)]);

    // On another connection.
    let mut second = Duo::new(&settings(), &settings());
    for end in unfinished.into_iter().filter(|end| end.retry) {
        assert!(second.client.open(end.call).is_ok());
    }
    second.client.write(2, b" and more".to_vec()).unwrap();
    assert_eq!(second.settle().0, [Event::Opened(1, b"body and more".to_vec())]);

    // A server that closes: what has not begun moves, the others go on.
    let mut duo = Duo::new(&settings(), &Settings::new().with_streams(64, 1));
    (1..=2).for_each(|ticket| duo.open(ticket));
    duo.settle();
    duo.server.close(duo.now, CloseReason::ShuttingDown);
    duo.settle();
    assert_eq!(duo.client.poll_closing().map(|calls| calls.len()), Some(0));
    let moved: Vec<_> = duo.client.take_unbegun_open().iter().map(|call| call.ticket).collect();
    assert_eq!((moved, duo.client.outstanding()), (vec![2], 1));
    assert!(matches!(duo.client.open(OpenCall::new(4, 4)), Err((_, None))));
    duo.client.write(1, b"more".to_vec()).unwrap();
    assert_eq!(duo.settle().0, [Event::Part(1, b"more".to_vec())]);
    duo.server.answer(duo.id(1), vec![]).unwrap();
    assert_eq!(duo.settle().1, [Event::Whole(1, vec![])]);
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
    assert!(!duo.server.may_write(two));
    duo.settle();
    duo.server.end_of_stream(duo.now, &[]).unwrap();
    assert_eq!(duo.serve(), [Event::Cancelled(1)]);
    let _ = duo.server.complete(one, Err(NoAnswer::Dropped), true);
    duo.answer();
    assert_eq!(duo.server.poll_writable(), Some(two));
    assert_eq!(duo.server.write(two, vec![1]), Err(StreamError::Ended));
    while duo.answer() > 0 {}
    assert_eq!(
        (duo.server.unanswered(), duo.server.connection().end()),
        (0, Some(ConnectionError::Closed))
    );
}

#[test]
fn a_writer_behind_an_answer_that_was_cut_off_learns_it_before_the_connection_ends() {
    let mut duo = opened();
    let request = Call::new(2, b"tail".to_vec(), 2).streaming();
    assert!(duo.client.request(request).is_ok());
    duo.settle();
    duo.client.close(duo.now, CloseReason::Done);
    duo.settle();
    let two = duo.id(2);
    let mut halves: Halves<StreamError> = duo.server.begin_whole(two).unwrap();
    let mut outgoing = VecDeque::from([vec![1; 70 * KIB], vec![2]]);
    for chunk in &outgoing {
        halves.send(chunk.len());
    }
    duo.server.pump(two, &mut halves, || outgoing.pop_front());
    duo.settle();
    assert_eq!((outgoing.len(), halves.may_send()), (1, Ok(true)));
    duo.server.end_of_stream(duo.now, &[]).unwrap();
    duo.answer();
    assert_eq!(duo.server.poll_writable(), Some(two));
    duo.server.pump(two, &mut halves, || outgoing.pop_front());
    assert_eq!(halves.may_send(), Err(StreamError::Ended));
    assert!(halves.drops_output() && halves.input_end().is_some());
    assert_eq!((duo.server.unanswered(), duo.server.connection().end()), (1, None));
}

#[test]
fn a_client_that_closes_waits_for_its_open_requests() {
    let mut duo = opened();
    duo.client.close(duo.now, CloseReason::Done);
    duo.settle();
    duo.pass(Duration::from_secs(5));
    assert_eq!((duo.client.end(), duo.client.closes_at()), (None, None));
    duo.client.write(1, b"more".to_vec()).unwrap();
    assert_eq!(duo.settle().0, [Event::Part(1, b"more".to_vec())]);
    // Nobody waits for the answer any more.
    assert!(duo.client.cancel_open(1).is_some());
    duo.settle();
    assert!(duo.client.closes_at().is_some());
}

#[test]
fn the_windows_of_open_requests_count_as_bytes_in_flight_until_they_complete() {
    // Room for two windows and a little.
    let client = Settings::new().with_max_message(1_000).with_max_held(140_000);
    let mut duo = Duo::new(&client, &settings());
    (1..=2).for_each(|ticket| duo.open(ticket));
    duo.settle();
    (10..=30).for_each(|ticket| duo.request(ticket, &[7; 900]));
    let begun = duo.settle().0.len();
    assert!(begun > 0 && begun < 21, "{begun} requests begin");
    for number in 1..=2 {
        duo.server.answer(duo.id(number), vec![]).unwrap();
    }
    assert_eq!(duo.settle().0.len(), 21 - begun, "the others begin");
}

#[test]
fn a_handler_whose_finished_answer_is_refused_does_not_wait_for_more_to_read() {
    let mut duo = Duo::new(&Settings::new().with_max_message(100), &settings());
    duo.open(1);
    duo.settle();
    let id = duo.id(1);
    let mut halves = duo.server.begin_handler::<StreamError>(id).unwrap();
    halves.send(101);
    halves.finish().unwrap();
    let mut chunk = Some(vec![7; 101]);
    duo.server.pump(id, &mut halves, || chunk.take());
    assert_eq!(halves.input_end(), Some(Err(StreamError::Ended)));
}

#[test]
fn a_connection_drains_or_has_ended_when_it_is_closing() {
    let mut duo = opened();
    assert!(!duo.server.is_closing());
    duo.server.close(duo.now, CloseReason::ShuttingDown);
    assert!(duo.server.is_closing());
    let _ = duo.server.complete(duo.id(1), Err(NoAnswer::Panicked), false);
    duo.settle();
    assert!(duo.server.connection().end().is_some() && duo.server.is_closing());
}
