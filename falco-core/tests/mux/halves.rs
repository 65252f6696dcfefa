//! The halves of open requests: what a caller and a handler do with their bodies, and what the
//! connection makes of that.

use std::collections::VecDeque;

use crate::duo::{BUDGET, Duo, Event, joined, opened, settings};
use falco_core::mux::{Halves, LONGEST_PART, StreamError};
use falco_core::{ConnectionError, Fate, LostRequest, NoAnswer, Refusal, RequestError, Settings};

const KIB: usize = 1024;

/// The error of a half.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Stream(StreamError),
    Lost,
}

const ENDED: Why = Why::Stream(StreamError::Ended);
const CANCELLED: Why = Why::Stream(StreamError::Cancelled);

impl From<StreamError> for Why {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// The halves of a request with the bytes that wait between them and the connection.
struct Pipe {
    halves: Halves<Why>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Pipe {
    fn of_client() -> Self {
        Self::new(Halves::of_client(64))
    }

    fn new(halves: Halves<Why>) -> Self {
        let outgoing = VecDeque::new();
        Self { halves, outgoing }
    }

    /// A handler begins.
    fn handler(duo: &mut Duo, number: u64) -> Option<Self> {
        let id = duo.id(number);
        duo.server.begin_handler(id).map(Self::new)
    }

    /// Returns whether the connection is to be notified.
    fn send(&mut self, chunk: Vec<u8>) -> bool {
        assert_eq!(self.halves.may_send(), Ok(true));
        let tells = self.halves.send(chunk.len());
        self.outgoing.push_back(chunk);
        tells
    }

    fn serve(&mut self, duo: &mut Duo, number: u64) {
        duo.server
            .pump(duo.ids[&number], &mut self.halves, || self.outgoing.pop_front());
    }

    fn handled(&mut self, duo: &mut Duo, result: Result<(), NoAnswer<'_>>) -> Result<bool, RequestError> {
        let (id, next) = (duo.id(1), || self.outgoing.pop_front());
        duo.server.handled(id, &mut self.halves, result, next)
    }

    /// Returns the waiter of a request that is cancelled.
    fn call(&mut self, duo: &mut Duo) -> Option<u64> {
        duo.client.pump(1, &mut self.halves, || self.outgoing.pop_front())
    }
}

/// A handler of an open request.
fn handling() -> (Duo, Pipe) {
    let mut duo = opened();
    let pipe = Pipe::handler(&mut duo, 1).unwrap();
    (duo, pipe)
}

fn is_idle(duo: &Duo) -> bool {
    duo.server.unanswered() == 0 && duo.budget.left() == BUDGET && duo.budget.answers() == 0
}

#[test]
fn an_answer_begins_with_its_first_bytes_or_its_end() {
    for bytes in [0, 5] {
        let (mut duo, mut pipe) = handling();
        pipe.serve(&mut duo, 1);
        assert_eq!(duo.settle().1, [], "there is nothing yet");
        if bytes > 0 {
            assert!(pipe.send(vec![7; bytes]));
        }
        assert_eq!(pipe.halves.finish(), Ok(bytes == 0), "the connection is notified once");
        pipe.serve(&mut duo, 1);
        assert_eq!(joined(&duo.settle().1, 1), (vec![7; bytes], true));
        assert!(pipe.halves.is_answered());
        // The request ends with its answer.
        assert_eq!(pipe.halves.input_end(), Some(Err(ENDED)));
        assert_eq!(pipe.handled(&mut duo, Ok(())), Ok(true));
        assert!(is_idle(&duo));
    }
}

#[test]
fn twice_as_many_handlers_run_as_requests_may_be_open() {
    let mut duo = Duo::new(&settings(), &settings());
    let mut running = Vec::new();
    // Each handler runs on after its answer.
    for ticket in 1..=16 {
        duo.open(ticket);
        duo.settle();
        let mut pipe = Pipe::handler(&mut duo, ticket).unwrap();
        pipe.halves.finish().unwrap();
        pipe.serve(&mut duo, ticket);
        assert_eq!(joined(&duo.settle().1, ticket), (vec![], true));
        running.push(pipe);
    }
    duo.open(17);
    duo.settle();
    assert!(Pipe::handler(&mut duo, 17).is_none());
    assert_eq!(duo.settle().1, [Event::Refused(17, Refusal::Busy)]);
    assert_eq!(duo.server.take_busy(), 1);
    assert_eq!(running[0].handled(&mut duo, Ok(())), Ok(true));
    duo.open(18);
    duo.settle();
    assert!(Pipe::handler(&mut duo, 18).is_some());
    // A caller without room for the handler gives the place back.
    let id = duo.id(18);
    duo.server.refuse_unhandled(id);
    assert_eq!(duo.settle().1, [Event::Refused(18, Refusal::Busy)]);
    duo.open(19);
    duo.settle();
    assert!(Pipe::handler(&mut duo, 19).is_some());
}

/// Places of these handlers are not those of open requests.
#[test]
fn a_handler_of_a_whole_request_may_answer_in_pieces_and_twice_as_many_run_as_are_in_flight() {
    let server = settings().with_max_in_flight(4).unwrap();
    let mut duo = Duo::new(&settings().with_max_message(100_000), &server);
    let mut running = Vec::new();
    for ticket in 1..=8 {
        duo.request(ticket, b"whole");
        duo.settle();
        let mut pipe = Pipe::new(duo.server.begin_whole(duo.id(ticket)).unwrap());
        assert!(pipe.halves.arrived(5));
        pipe.halves.end_input();
        assert!(!pipe.halves.take(5), "no credit is due");
        // More than the window: the client gives credit as it collects.
        for _ in 0..10 {
            pipe.send(vec![7; 10_000]);
            pipe.serve(&mut duo, ticket);
            assert_eq!(duo.settle().1, []);
        }
        pipe.halves.finish().unwrap();
        pipe.serve(&mut duo, ticket);
        assert_eq!(duo.settle().1, [Event::Whole(ticket, vec![7; 100_000])]);
        // The handler runs on after its answer.
        running.push(pipe);
    }
    duo.request(9, b"whole");
    duo.settle();
    assert!(duo.server.begin_whole::<Why>(duo.id(9)).is_none());
    assert_eq!(duo.settle().1, [Event::CallRefused(9, Refusal::Busy, false)]);
    assert_eq!(duo.server.take_busy(), 1);
    duo.open(10);
    duo.settle();
    assert!(Pipe::handler(&mut duo, 10).is_some(), "an open one has its own places");
    assert_eq!(running[0].handled(&mut duo, Ok(())), Ok(true));
    duo.request(11, b"whole");
    duo.settle();
    assert!(duo.server.begin_whole::<Why>(duo.id(11)).is_some());
}

/// Each CREDIT costs its sender a record and the peer a read, so a reader sends few. But it does
/// not wait for half of a large window, so that the writer always has most of it.
#[test]
fn a_reader_of_a_large_window_gives_credit_for_64_kib_at_a_time() {
    for window in [256, 4096] {
        let mut halves = Halves::<Why>::of_client(window);
        assert!(halves.arrived(128 * KIB));
        assert!(!halves.take(LONGEST_PART));
        assert!(!halves.take(64 * KIB - LONGEST_PART - 1));
        assert!(halves.take(1), "of {window} KiB");
    }
}

#[test]
fn a_reader_gives_credit_for_a_quarter_of_the_window_at_a_time() {
    let (mut duo, mut pipe) = handling();
    assert!(pipe.halves.arrived(40 * KIB));
    assert!(!pipe.halves.take(16 * KIB - 1));
    assert!(pipe.halves.take(1));
    assert!(!pipe.halves.take(1), "the connection was notified");
    pipe.serve(&mut duo, 1);
    assert!(!pipe.halves.take(1));
    // A reader that waits notifies once, and again after the connection has done its work.
    assert!(pipe.halves.wait());
    assert!(!pipe.halves.wait());
    pipe.serve(&mut duo, 1);
    assert!(!pipe.halves.wait(), "it knows");
    // The client may fill half the window again, and does not wait for the rest.
    duo.client.write(1, vec![7; 64 * KIB]).unwrap();
    let (bytes, _) = joined(&duo.settle().0, 1);
    assert_eq!(bytes.len(), 64 * KIB);
    pipe.halves.arrived(bytes.len());
    assert!(pipe.halves.take(bytes.len()));
    pipe.serve(&mut duo, 1);
    duo.settle();
    assert!(duo.client.may_write(1));
}

#[test]
fn a_handler_that_drops_its_reader_does_not_hold_up_the_client() {
    let (mut duo, mut pipe) = handling();
    assert!(pipe.halves.drop_reader());
    assert!(!pipe.halves.arrived(1), "nobody reads it");
    pipe.serve(&mut duo, 1);
    for _ in 0..4 {
        duo.client.write(1, vec![7; 64 * KIB]).unwrap();
        assert_eq!(duo.settle(), (vec![], vec![]));
    }
    // After a whole body there is nothing to drop.
    let (_, mut pipe) = handling();
    pipe.halves.end_input();
    assert!(!pipe.halves.drop_reader());
    assert!(!pipe.halves.is_given_up());
}

#[test]
fn a_writer_waits_for_room_and_a_finished_or_dropped_one_sends_nothing() {
    let (mut duo, mut pipe) = handling();
    assert!(pipe.send(vec![7; 64 * KIB]));
    assert_eq!(pipe.halves.may_send(), Ok(false));
    pipe.serve(&mut duo, 1);
    assert_eq!(pipe.halves.may_send(), Ok(true));
    // The connection has all that the client takes.
    assert!(pipe.send(vec![7; 64 * KIB]));
    pipe.serve(&mut duo, 1);
    assert_eq!(pipe.halves.may_send(), Ok(false));
    duo.settle();
    assert_eq!(pipe.halves.finish(), Ok(true));
    assert_eq!(pipe.halves.may_send(), Err(ENDED));
    assert!(!pipe.halves.drop_writer(), "it has finished");
    assert_eq!(pipe.halves.finish(), Ok(false), "repeated calls do nothing");
    // What a handler leaves behind counts towards the bounds on answers.
    assert_eq!(pipe.handled(&mut duo, Ok(())), Ok(true));
    assert!(pipe.outgoing.is_empty());
    assert_eq!(duo.budget.answers(), 64 * KIB);
}

#[test]
fn a_handler_that_has_not_finished_its_answer_has_failed() {
    let results = [
        Ok(()),
        Err(NoAnswer::Panicked),
        // An open request that has reached its handler may have been processed. The server counts
        // and logs what the client is told.
        Err(NoAnswer::Failed(&Refusal::TooLarge)),
        Err(NoAnswer::Failed(&Refusal::NotProcessed)),
    ];
    for result in results {
        let (mut duo, mut pipe) = handling();
        pipe.send(vec![7; 10]);
        assert_eq!(
            pipe.handled(&mut duo, result),
            Err(RequestError::Refused(Refusal::Failed))
        );
        assert_eq!(pipe.halves.may_send(), Err(ENDED));
        assert_eq!(pipe.halves.input_end(), Some(Err(ENDED)));
        assert!(pipe.halves.drops_output());
        assert_eq!(duo.settle().1, [Event::Refused(1, Refusal::Failed)]);
        assert!(is_idle(&duo));
    }
    // A finished answer is whole, whatever the handler returns. With a refusal the handler says
    // what it counts as.
    let failed = Err(RequestError::Refused(Refusal::Failed));
    let answered = [
        (NoAnswer::Panicked, Ok(true)),
        (NoAnswer::Failed(&core::fmt::Error), Ok(true)),
        (NoAnswer::Failed(&Refusal::Failed), failed),
        (NoAnswer::Failed(&Refusal::Busy), failed),
    ];
    for (failure, expected) in answered {
        let (mut duo, mut pipe) = handling();
        pipe.send(vec![7; 10]);
        pipe.halves.finish().unwrap();
        assert_eq!(pipe.handled(&mut duo, Err(failure)), expected, "{failure:?}");
        assert_eq!(joined(&duo.settle().1, 1), (vec![7; 10], true));
        assert!(is_idle(&duo));
    }
}

#[test]
fn the_handler_of_a_cancelled_request_learns_that_and_answers_nothing() {
    for (finishes, begins) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut duo, mut pipe) = handling();
        pipe.send(vec![7; 10]);
        if begins {
            pipe.serve(&mut duo, 1);
        }
        duo.settle();
        duo.client.cancel_open(1).unwrap();
        assert_eq!(duo.settle().0, [Event::Cancelled(1)]);
        if finishes {
            pipe.halves.finish().unwrap();
        }
        pipe.halves.cancel();
        assert_eq!(pipe.halves.input_end(), Some(Err(CANCELLED)));
        assert_eq!(pipe.halves.may_send(), Err(if finishes { ENDED } else { CANCELLED }));
        pipe.outgoing.clear();
        pipe.serve(&mut duo, 1);
        assert!(!pipe.halves.is_answered());
        assert_eq!(pipe.handled(&mut duo, Ok(())), Ok(false));
        duo.settle();
        assert!(is_idle(&duo) && duo.client.connection().in_flight() == 0);
    }
}

#[test]
fn an_answer_that_is_too_large_is_not_answered() {
    let client = Settings::new().with_max_message(100);
    let mut duo = Duo::new(&client, &settings());
    duo.open(1);
    duo.settle();
    let mut pipe = Pipe::handler(&mut duo, 1).unwrap();
    pipe.send(vec![7; 101]);
    pipe.halves.finish().unwrap();
    // The connection has not looked before the handler has ended.
    let (length, limit) = (101, 100);
    let error = RequestError::TooLarge { length, limit };
    assert_eq!(pipe.handled(&mut duo, Ok(())), Err(error));
    assert_eq!(pipe.halves.may_send(), Err(Why::Stream(StreamError::Request(error))));
    assert_eq!(pipe.halves.input_end(), Some(Err(ENDED)));
    assert_eq!(duo.settle().1, [Event::Refused(1, Refusal::AnswerTooLarge)]);
    assert!(is_idle(&duo));
}

#[test]
fn a_caller_that_drops_a_half_cancels_unless_the_body_is_complete() {
    for drops in [Halves::drop_reader, Halves::drop_writer] {
        let (mut duo, mut pipe) = (opened(), Pipe::of_client());
        assert!(drops(&mut pipe.halves));
        assert!(pipe.halves.is_given_up());
        assert_eq!(pipe.call(&mut duo), Some(1));
        assert_eq!(duo.settle().0, [Event::Cancelled(1)]);
        assert_eq!(pipe.halves.input_end(), Some(Err(ENDED)));
    }
    let (mut duo, mut pipe) = (opened(), Pipe::of_client());
    pipe.send(vec![7; 10]);
    assert_eq!(pipe.halves.finish(), Ok(false));
    assert!(!pipe.halves.drop_writer());
    assert_eq!(pipe.call(&mut duo), None);
    assert_eq!(joined(&duo.settle().0, 1), (vec![7; 10], true));
}

#[test]
fn a_half_notifies_again_after_its_request_was_with_no_connection() {
    let mut halves = Halves::<Why>::of_client(64);
    assert!(halves.send(1));
    assert!(!halves.send(1));
    assert!(!halves.is_given_up());
    assert!(halves.drop_writer());
    assert!(halves.is_given_up());
}

#[test]
fn after_its_answer_a_caller_needs_nothing_more_of_its_own_body() {
    let mut pipe = Pipe::of_client();
    assert_eq!(pipe.halves.begun(), None);
    pipe.halves.begin();
    assert_eq!(pipe.halves.begun(), Some(Ok(())));
    pipe.send(vec![7; 10]);
    pipe.halves.complete();
    assert!(pipe.halves.drops_output());
    assert_eq!(pipe.halves.may_send(), Err(ENDED));
    assert_eq!(pipe.halves.finish(), Ok(false));
    // Neither does the end of the connection change that.
    pipe.halves.fail(Why::Lost);
    assert_eq!(
        (pipe.halves.finish(), pipe.halves.input_end()),
        (Ok(false), Some(Ok(())))
    );
    assert!(!pipe.halves.drop_reader() && !pipe.halves.is_given_up());
    // A handler whose answer was dropped has not sent it.
    let (_, mut pipe) = handling();
    pipe.halves.end_input();
    pipe.halves.fail(ENDED);
    assert_eq!(pipe.halves.finish(), Err(ENDED));
}

#[test]
fn a_failure_ends_both_bodies_but_not_one_that_has_ended() {
    let mut halves = Halves::<Why>::of_client(64);
    halves.fail(Why::Lost);
    assert_eq!(halves.begun(), Some(Err(Why::Lost)));
    assert_eq!(halves.may_send(), Err(Why::Lost));
    assert_eq!(halves.finish(), Err(Why::Lost));
    halves.fail(ENDED);
    assert_eq!(halves.input_end(), Some(Err(Why::Lost)));
    assert!(!halves.arrived(1));
    // Its own body was finished. The answer tells whether it has arrived.
    let mut halves = Halves::<Why>::of_client(64);
    halves.finish().unwrap();
    halves.fail(Why::Lost);
    assert_eq!(halves.finish(), Ok(false));
    assert_eq!(halves.may_send(), Err(ENDED));
    assert_eq!(halves.input_end(), Some(Err(Why::Lost)));
}

/// An adapter counts the unsent bytes of a handler that has ended before the connection takes them.
/// Without room they are dropped, and the answer is not taken for whole, although a part of it was
/// accepted.
#[test]
fn an_answer_whose_rest_has_no_room_is_cut_off() {
    let (mut duo, mut pipe) = handling();
    pipe.send(vec![7; 60 * KIB]);
    pipe.serve(&mut duo, 1);
    duo.send();
    duo.answer();
    pipe.send(vec![7; 100 * KIB]);
    assert!(pipe.halves.finish().is_ok());
    assert_eq!(pipe.halves.handler_ended(), 100 * KIB);
    pipe.halves.drop_unsent();
    assert!(pipe.halves.drops_output());
    pipe.outgoing.clear();
    // The connection was notified of what was sent before.
    pipe.serve(&mut duo, 1);
    assert_eq!(pipe.halves.handler_ended(), 0);
    let handled = pipe.handled(&mut duo, Err(NoAnswer::NoRoom));
    assert_eq!(handled, Err(RequestError::Refused(Refusal::AnswerTooLarge)));
    let (_, events) = duo.settle();
    assert!(!joined(&events, 1).1, "{events:?}");
    assert!(
        events.contains(&Event::Refused(1, Refusal::AnswerTooLarge)),
        "{events:?}"
    );
    assert!(is_idle(&duo));
}

/// The same if nothing of the answer was accepted, and if its writer did not finish it.
#[test]
fn an_answer_that_is_dropped_does_not_begin() {
    for finishes in [true, false] {
        let (mut duo, mut pipe) = handling();
        pipe.send(vec![7; 100 * KIB]);
        if finishes {
            assert!(pipe.halves.finish().is_ok());
            assert_eq!(pipe.halves.handler_ended(), 100 * KIB);
            pipe.halves.drop_unsent();
        } else {
            assert_eq!(pipe.halves.handler_ended(), 0, "it is not sent");
        }
        assert!(pipe.halves.drops_output());
        pipe.outgoing.clear();
        pipe.serve(&mut duo, 1);
        assert_eq!(duo.settle().1, []);
        let failure = if finishes { NoAnswer::NoRoom } else { NoAnswer::Dropped };
        let refusal = if finishes {
            Refusal::AnswerTooLarge
        } else {
            Refusal::Failed
        };
        assert_eq!(
            pipe.handled(&mut duo, Err(failure)),
            Err(RequestError::Refused(refusal))
        );
        assert_eq!(duo.settle().1, [Event::Refused(1, refusal)]);
        assert!(is_idle(&duo));
    }
}

#[test]
fn a_request_whose_connection_is_gone_may_have_been_processed() {
    let dropped = LostRequest::DROPPED;
    assert_eq!(
        (dropped.end, dropped.fate),
        (ConnectionError::Closed, Fate::MaybeProcessed)
    );
    for lost in [dropped, LostRequest::after(ConnectionError::Expired)] {
        assert_eq!(lost.fate, Fate::MaybeProcessed);
        let why = Why::Stream(StreamError::Lost(lost));
        let mut halves = Halves::<Why>::of_client(64);
        halves.lose(lost);
        assert_eq!(halves.input_end(), Some(Err(why.clone())));
        assert_eq!(halves.may_send(), Err(why));
        // One that has completed has lost nothing.
        let mut halves = Halves::<Why>::of_client(64);
        halves.complete();
        halves.lose(lost);
        assert_eq!(halves.input_end(), Some(Ok(())));
        assert_eq!(halves.may_send(), Err(ENDED));
    }
}
