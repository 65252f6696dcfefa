//! What open bodies take of memory, and what bounds it.

use crate::duo::{BUDGET, Duo, Event, joined, settings};
use falco_core::mux::{SharedBudget, StreamError};
use falco_core::{Refusal, RequestError, Settings};

const NO_ROOM: StreamError = StreamError::Request(RequestError::Refused(Refusal::AnswerTooLarge));
const KIB: usize = 1024;

/// What handlers leave behind when they end is bounded, too: what has no room is dropped, and the
/// answer is cut off.
#[test]
fn open_answers_do_not_exceed_what_answers_may_have() {
    for streams in [64, 0] {
        let budget = SharedBudget::with_max_answers(BUDGET, 300 * KIB);
        let client = Settings::new().with_streams(streams, 8);
        let mut duo = Duo::with_budget(&client, &settings(), budget.clone());
        duo.settle();
        (1..=4).for_each(|ticket| duo.open(ticket));
        duo.settle();
        let mut written = Vec::new();
        for number in 1..=4 {
            duo.server.open_answer(duo.id(number)).unwrap();
            written.push(duo.server.write(duo.id(number), vec![7; 60 * KIB]));
            assert!(budget.answers() <= 300 * KIB, "{}", budget.answers());
        }
        let no_room = Err(NO_ROOM);
        assert_eq!(written, [Ok(()), Ok(()), no_room, no_room]);
        let (_, events) = duo.settle();
        for ticket in [3, 4] {
            assert!(
                events.contains(&Event::Refused(ticket, Refusal::AnswerTooLarge)),
                "{events:?}"
            );
        }
    }
}

/// One key takes all windows that it can get, also by more connections. A client of another key
/// still opens requests, and all is given back however requests end.
#[test]
fn one_key_leaves_windows_to_another() {
    let budget = SharedBudget::new(4 * BUDGET);
    budget.share_by_key();
    let server = Settings::new().with_streams(64, 100);
    let connect = |key| {
        let mut duo = Duo::with_key(key, &settings(), &server, budget.clone());
        duo.settle();
        duo
    };
    let opened = |duo: &mut Duo| {
        (1..=100).for_each(|ticket| duo.open(ticket));
        let (at_server, _) = duo.settle();
        at_server
            .iter()
            .filter(|event| matches!(event, Event::Opened(..)))
            .count()
    };
    let mut greedy = [connect(7), connect(7), connect(7)];
    // There are 48 windows.
    assert_eq!(greedy.each_mut().map(opened), [42, 0, 0]);
    let mut other = connect(8);
    assert_eq!(opened(&mut other), 5, "eight times the one that is left, and no more");
    // Some complete, some are held by handlers whose connection has ended, others end with it.
    let [mut first, ..] = greedy;
    for number in 1..=10 {
        first.server.answer(first.id(number), vec![]).unwrap();
        first.settle();
    }
    let held: Vec<_> = (11..=20)
        .map(|number| first.server.take_held(first.id(number)))
        .collect();
    first.server.refuse(first.id(11), Refusal::Failed);
    first.settle();
    drop(first);
    assert_eq!(budget.left(), 4 * BUDGET - (10 + 5) * 64 * KIB);
    drop(held);
    let mut again = connect(7);
    assert_eq!(opened(&mut again), 38, "as if it had taken nothing before");
    drop((again, other));
    assert_eq!(budget.left(), 4 * BUDGET);
}

/// A chunk stays in memory until its last byte is sealed, and counts until then.
#[test]
fn a_chunk_of_an_open_answer_counts_whole_until_all_of_it_is_sealed() {
    // The client gives credit for all but a KiB.
    let client = Settings::new().with_streams(1023, 8);
    let server = settings().with_max_held(8 << 20);
    let mut duo = Duo::with_budget(&client, &server, SharedBudget::new(8 << 20));
    duo.settle();
    for number in 1..=8 {
        duo.open(number);
        duo.settle();
        assert!(duo.server.may_handle(), "{number}");
        let id = duo.id(number);
        duo.server.open_answer(id).unwrap();
        duo.server.write(id, vec![7; 1 << 20]).unwrap();
        duo.server.finish_answer(id).unwrap();
        duo.settle();
        let counted = duo.budget.answers();
        let memory = usize::try_from(number).unwrap() << 20;
        assert!(counted.abs_diff(memory) <= 16 * KIB, "{counted} of {memory}");
    }
    for number in 1..=8 {
        duo.client.credit(number, 64 * KIB, true);
    }
    duo.settle();
    assert_eq!(duo.budget.answers(), 0);
}

/// What a buffer of joined pieces grows by needs room as other bytes do.
#[test]
fn joined_pieces_do_not_exceed_what_answers_may_have() {
    let budget = SharedBudget::with_max_answers(BUDGET, 200 * KIB);
    let mut duo = Duo::with_budget(&settings(), &settings(), budget.clone());
    duo.settle();
    (1..=3).for_each(|ticket| duo.open(ticket));
    duo.settle();
    for number in 1..=3 {
        let id = duo.id(number);
        duo.server.open_answer(id).unwrap();
        for _ in 0..8 {
            duo.server.write(id, vec![7; 4 * KIB]).unwrap();
        }
    }
    let before = budget.answers();
    assert!(before.abs_diff(96 * KIB) <= 16 * KIB, "{before}");
    // The buffer would double.
    assert_eq!(duo.server.write(duo.id(1), vec![7]), Err(NO_ROOM));
    assert!(budget.answers() <= before, "{}", budget.answers());
}

/// Of short pieces that are joined, what is reserved for them counts.
#[test]
fn joined_pieces_of_an_open_answer_count_with_their_memory() {
    let client = Settings::new().with_streams(32, 8);
    let mut duo = Duo::new(&client, &settings());
    duo.open(1);
    duo.settle();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    duo.server.write(id, vec![7; 32 * KIB]).unwrap();
    duo.settle();
    assert_eq!(duo.budget.answers(), 0, "the window of the client");
    // The buffer doubles, and has grown to all that is joined.
    for _ in 0..9 {
        duo.server.write(id, vec![7; 4 * KIB]).unwrap();
    }
    let counted = duo.budget.answers();
    assert!(counted.abs_diff(64 * KIB) <= 16 * KIB, "{counted}");
    let mut untaken = 32 * KIB;
    let mut take = |duo: &mut Duo, most: usize| {
        let taken = untaken.min(most);
        duo.client.credit(1, taken, true);
        untaken = untaken - taken + joined(&duo.settle().1, 1).0.len();
        untaken
    };
    while take(&mut duo, usize::MAX) > 0 {}
    assert_eq!(duo.budget.answers(), 0);
    // Pieces behind one that is sealed in part.
    for _ in 0..30 {
        duo.server.write(id, vec![7; 7 * KIB]).unwrap();
        take(&mut duo, 3 * KIB);
    }
    assert!(duo.budget.answers() > 64 * KIB);
    while take(&mut duo, usize::MAX) > 0 {}
    assert_eq!(duo.budget.answers(), 0);
}
