//! Requests with a length whose handlers answer in pieces, and whose callers read in pieces.

use crate::duo::{Duo, Event, settings};
use falco_core::mux::{Call, Halves, StreamError};
use falco_core::{Fate, Refusal, RequestError, Settings};

type Half = Halves<StreamError>;

/// A request whose caller reads its answer in pieces, and the halves of its handler.
fn subscribed(duo: &mut Duo, ticket: u64) -> Half {
    let call = Call::new(ticket, b"tail".to_vec(), ticket).streaming();
    assert!(duo.client.request(call).is_ok());
    duo.settle();
    let mut halves: Half = duo.server.begin_whole(duo.id(ticket)).unwrap();
    assert!(halves.is_whole());
    assert!(halves.arrived(4));
    halves.end_input();
    halves
}

#[test]
fn an_answer_that_is_complete_before_it_begins_is_sent_with_its_length() {
    let mut duo = Duo::new(&settings(), &settings());
    for (ticket, length) in [(1, 1), (2, 1000), (3, 100_000)] {
        let mut halves = subscribed(&mut duo, ticket);
        assert!(halves.send(length));
        halves.finish().unwrap();
        assert!(halves.is_answer_whole());
        let mut chunk = Some(vec![7; length]);
        duo.server.pump(duo.ids[&ticket], &mut halves, || chunk.take());
        assert!(halves.is_answered());
        assert_eq!(duo.settle().1, [Event::Whole(ticket, vec![7; length])]);
        let handled = duo.server.handled(duo.ids[&ticket], &mut halves, Ok(()), || None);
        assert_eq!(handled, Ok(true));
    }
    // In two chunks it is open, and so is one that has begun or is empty.
    let mut halves = subscribed(&mut duo, 4);
    assert!(halves.send(1) && !halves.send(1));
    halves.finish().unwrap();
    let mut chunks = vec![vec![2], vec![1]];
    duo.server.pump(duo.ids[&4], &mut halves, || chunks.pop());
    let events = duo.settle().1;
    assert_eq!(events.first(), Some(&Event::Opened(4, vec![1, 2])), "{events:?}");
    assert_eq!(events.last(), Some(&Event::Ended(4)));
    let mut halves = subscribed(&mut duo, 5);
    halves.finish().unwrap();
    duo.server.pump(duo.ids[&5], &mut halves, || None);
    assert_eq!(duo.settle().1.last(), Some(&Event::Ended(5)));
}

#[test]
fn a_complete_answer_that_is_longer_than_a_message_is_open() {
    let client = settings().with_max_message(1000);
    let mut duo = Duo::new(&client, &settings());
    let answer = |duo: &mut Duo, number: u64, halves: &mut Half, length: usize| {
        assert!(halves.send(length));
        halves.finish().unwrap();
        let mut chunk = Some(vec![7; length]);
        duo.server.pump(duo.ids[&number], halves, || chunk.take());
        let handled = duo.server.handled(duo.ids[&number], halves, Ok(()), || None);
        assert_eq!(handled, Ok(true));
        duo.settle().1
    };
    // To a caller that reads in pieces, and to one that collects.
    let mut halves = subscribed(&mut duo, 1);
    let whole = answer(&mut duo, 1, &mut halves, 1000);
    assert_eq!(whole, [Event::Whole(1, vec![7; 1000])]);
    let mut halves = subscribed(&mut duo, 2);
    let events = answer(&mut duo, 2, &mut halves, 1001);
    assert_eq!(events, [Event::Opened(2, vec![7; 1001]), Event::Ended(2)]);
    duo.request(3, b"tail");
    duo.settle();
    let mut halves: Half = duo.server.begin_whole(duo.id(3)).unwrap();
    let events = answer(&mut duo, 3, &mut halves, 1001);
    assert_eq!(events, [Event::CallRefused(3, Refusal::AnswerTooLarge, false)]);
}

/// The handler has not returned when the connection finds that out.
#[test]
fn a_complete_answer_for_a_client_without_streams_is_refused_if_it_is_too_large() {
    let client = Settings::new().with_max_message(1000);
    let mut duo = Duo::new(&client, &settings());
    let mut halves = subscribed(&mut duo, 1);
    assert!(halves.send(1001));
    halves.finish().unwrap();
    let mut chunk = Some(vec![7; 1001]);
    duo.server.pump(duo.ids[&1], &mut halves, || chunk.take());
    let too_large = RequestError::TooLarge {
        length: 1001,
        limit: 1000,
    };
    assert_eq!(halves.may_send(), Err(StreamError::Request(too_large)));
    let handled = duo.server.handled(duo.ids[&1], &mut halves, Ok(()), || None);
    assert_eq!(handled, Err(too_large));
    let events = duo.settle().1;
    assert!(
        matches!(events.as_slice(), [Event::CallRefused(1, _, false)]),
        "{events:?}"
    );
}

#[test]
fn a_complete_answer_to_a_request_that_has_completed_is_no_answer() {
    let mut duo = Duo::new(&settings(), &settings());
    let mut halves = subscribed(&mut duo, 1);
    duo.server.refuse(duo.id(1), Refusal::Failed);
    duo.settle();
    assert!(halves.send(4));
    halves.finish().unwrap();
    let mut chunk = Some(b"line".to_vec());
    duo.server.pump(duo.ids[&1], &mut halves, || chunk.take());
    assert!(!halves.is_answered());
    let handled = duo.server.handled(duo.ids[&1], &mut halves, Ok(()), || None);
    assert_eq!(handled, Ok(false));
}

#[test]
fn a_caller_that_drops_its_half_cancels_the_request_before_and_after_the_answer_begins() {
    let mut duo = Duo::new(&settings(), &settings());
    for begins in [false, true] {
        let ticket = 1 + u64::from(begins);
        let mut answer = subscribed(&mut duo, ticket);
        let mut reader = Half::of_reader(64);
        assert_eq!(reader.begun(), None);
        if begins {
            assert!(answer.send(4));
            let mut chunk = Some(b"line".to_vec());
            duo.server.pump(duo.ids[&ticket], &mut answer, || chunk.take());
            assert_eq!(duo.settle().1, [Event::Opened(ticket, b"line".to_vec())]);
            reader.begin();
            assert!(reader.arrived(4));
        }
        assert!(reader.drop_reader());
        let waiter = duo.client.pump(ticket, &mut reader, || None);
        assert_eq!(waiter, Some(ticket));
        assert_eq!(duo.settle(), (vec![Event::Cancelled(ticket)], vec![]));
    }
    // While it is queued, nothing of it is sent.
    let call = Call::new(3, b"tail".to_vec(), 3).streaming();
    assert!(duo.client.request(call).is_ok());
    let mut reader = Half::of_reader(64);
    assert!(reader.drop_reader());
    assert_eq!(duo.client.pump(3, &mut reader, || None), Some(3));
    assert_eq!(duo.settle(), (vec![], vec![]));
    assert_eq!(duo.client.cancel(3).map(|(_, fate)| fate), None::<Fate>);
}
