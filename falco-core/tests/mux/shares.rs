//! What the clients of one key leave to those of another.

use crate::duo::{BUDGET, Duo, Event, settings};
use falco_core::Settings;
use falco_core::mux::SharedBudget;

const KIB: usize = 1024;

fn connect(key: u8, budget: &SharedBudget) -> Duo {
    let server = Settings::new().with_streams(64, 100);
    let mut duo = Duo::with_key(key, &settings(), &server, budget.clone());
    duo.settle();
    duo
}

fn shared() -> SharedBudget {
    let budget = SharedBudget::new(BUDGET);
    budget.share_by_key();
    budget
}

/// Of 100 requests with 20 KiB each, which of them reach a handler.
fn requested(duo: &mut Duo) -> usize {
    for ticket in 1..=100 {
        duo.request(ticket, &vec![7; 20 * KIB]);
    }
    let (at_server, _) = duo.settle();
    at_server
        .iter()
        .filter(|event| matches!(event, Event::Whole(..)))
        .count()
}

#[test]
fn requests_of_one_key_leave_room_to_another() {
    let budget = shared();
    let mut greedy = [connect(7, &budget), connect(7, &budget)];
    let [first, second] = greedy.each_mut().map(requested);
    // Each counts 21 KiB, of 1 MiB.
    assert_eq!((first, second), (43, 0));
    assert!(budget.left() >= BUDGET / 9, "{}", budget.left());
    // A request and a window of another key.
    let mut other = connect(8, &budget);
    other.request(1, b"?");
    other.open(2);
    let (at_server, _) = other.settle();
    assert_eq!(at_server, [Event::Whole(1, b"?".to_vec()), Event::Opened(2, vec![])]);
    // All is given back, also by handlers that run on, and the key may take as much again.
    let held = greedy[0].server.take_held(greedy[0].id(1));
    drop(greedy);
    assert_eq!(budget.left(), BUDGET - 21 * KIB - (1 + KIB) - 64 * KIB);
    drop((other, held));
    assert_eq!(budget.left(), BUDGET);
    assert_eq!(requested(&mut connect(7, &budget)), 43);
}

#[test]
fn messages_in_parts_of_one_key_leave_room_to_another() {
    let budget = shared();
    // Each sends its first parts, and no more.
    let mut greedy: Vec<_> = (0..8).map(|_| connect(7, &budget)).collect();
    for (number, duo) in greedy.iter_mut().enumerate() {
        let (length, sent) = if number < 3 {
            (300 * KIB, 250 * KIB)
        } else {
            (100 * KIB, 1)
        };
        duo.request(1, &vec![7; length]);
        while duo.to_server.len() < sent && duo.send() > 0 {}
        duo.serve();
    }
    assert!(budget.left() < BUDGET / 8, "{}", budget.left());
    let mut other = connect(8, &budget);
    other.request(1, &vec![7; 60 * KIB]);
    assert!(matches!(other.settle().0[..], [Event::Whole(1, _)]));
}

/// Windows and whole requests of a key count together, so that it does not take a part of the one
/// and then as much of the other.
#[test]
fn windows_and_requests_of_one_key_leave_room_to_another() {
    let budget = shared();
    let mut greedy = connect(7, &budget);
    (1..=100).for_each(|ticket| greedy.open(ticket));
    let (at_server, _) = greedy.settle();
    // Of twelve windows, eight times as many as are left.
    assert_eq!(at_server.len(), 10);
    assert!(requested(&mut connect(7, &budget)) > 0);
    assert!(budget.left() >= BUDGET / 9, "{}", budget.left());
    let mut other = connect(8, &budget);
    other.request(1, &vec![7; 50 * KIB]);
    other.open(2);
    assert_eq!(other.settle().0.len(), 2);
}

#[test]
fn answers_of_one_key_leave_room_to_another() {
    const MAX: usize = 4_000_000;
    let budget = SharedBudget::with_max_answers(100 * BUDGET, MAX);
    budget.share_by_key();
    // Of a connection that reads nothing, what is queued.
    let queued = |duo: &mut Duo| {
        (1..=100).for_each(|ticket| duo.request(ticket, b"?"));
        while duo.send() > 0 {}
        duo.serve();
        (1..=100)
            .map(|number| duo.server.complete(duo.id(number), Ok(vec![7; 50_000]), false))
            .filter(|queued| *queued == Ok(true))
            .count()
    };
    let mut greedy: Vec<_> = (0..20).map(|_| connect(7, &budget)).collect();
    for duo in &mut greedy {
        queued(duo);
    }
    let left = MAX - budget.answers();
    assert!((MAX / 9..MAX / 9 + 50_000).contains(&left), "{left}");
    let mut other = connect(8, &budget);
    other.request(1, b"?");
    other.settle();
    let id = other.id(1);
    assert_eq!(other.server.complete(id, Ok(vec![7; left / 2]), false), Ok(true));
    drop((greedy, other));
    assert_eq!(budget.answers(), 0);
}

/// A server of one key divides nothing.
#[test]
fn the_only_key_may_take_all() {
    let budget = SharedBudget::with_max_answers(BUDGET, BUDGET);
    let mut only = connect(7, &budget);
    assert_eq!(requested(&mut only), 48);
    assert!(budget.left() < 21 * KIB, "{}", budget.left());
    for number in 1..=2 {
        let queued = only.server.complete(only.id(number), Ok(vec![7; BUDGET / 4]), false);
        assert_eq!(queued, Ok(true));
    }
}
