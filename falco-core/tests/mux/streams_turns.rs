//! Whose turn it is when there are many open bodies, and what is queued of each.

use core::time::Duration;

use crate::duo::{BUDGET, Duo, Event, joined, opened, settings};
use falco_core::mux::LONGEST_PART;
use falco_core::{Refusal, Settings};

const KIB: usize = 1024;

#[test]
fn short_chunks_share_frames_and_long_ones_are_sent_as_they_are() {
    let mut duo = opened();
    for at in 0..200_u8 {
        assert!(duo.client.may_write(1));
        duo.client.write(1, vec![at; 100]).unwrap();
    }
    duo.client.write(1, vec![9; 30_000]).unwrap();
    duo.client.write(1, vec![]).unwrap();
    let events = duo.settle().0;
    let lengths = events.iter().map(|event| match event {
        Event::Part(1, body) => body.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(lengths.collect::<Vec<_>>(), [20_000, 30_000]);
    let expected: Vec<u8> = (0..200).flat_map(|at| [at; 100]).chain(vec![9; 30_000]).collect();
    assert!(joined(&events, 1).0 == expected);
}

/// Two bytes of length, and 65,535 of the record.
#[test]
fn the_longest_part_fills_a_record_and_one_more_byte_takes_another() {
    let large = Settings::new().with_streams(256, 8);
    for (length, expected) in [(LONGEST_PART, &[65_537][..]), (LONGEST_PART + 1, &[65_537, 26])] {
        let mut duo = Duo::new(&large, &large);
        duo.output = 65_537;
        duo.open(1);
        duo.settle();
        duo.client.write(1, vec![7; length]).unwrap();
        let sealed: Vec<_> = core::iter::from_fn(|| Some(duo.send()).filter(|sealed| *sealed > 0)).collect();
        assert_eq!(sealed, expected);
    }
}

#[test]
fn what_is_queued_is_bounded_and_counts_towards_the_shared_bound() {
    let mut duo = opened();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    let mut queued = 0;
    while duo.server.may_write(id) {
        duo.server.write(id, vec![1; 20 * KIB]).unwrap();
        queued += 20 * KIB;
    }
    assert_eq!(queued, 80 * KIB, "64 KiB and the chunk that is over it");
    assert_eq!(duo.budget.answers(), 80 * KIB);
    duo.settle();
    // The count may be wrong by 16 KiB.
    assert!(duo.budget.answers() <= 32 * KIB, "the window is sent");
    assert!(!duo.server.may_write(id), "without credit one chunk may wait");
    assert!(duo.server.may_handle() && duo.server.may_read());
    duo.client.credit(1, 64 * KIB, true);
    duo.settle();
    assert_eq!((duo.budget.answers(), duo.server.poll_writable()), (0, Some(id)));
    assert_eq!(duo.server.poll_writable(), None);
    duo.server.write(id, vec![1; 100 * KIB]).unwrap();
    duo.server.refuse(id, Refusal::Failed);
    assert_eq!((duo.budget.answers(), duo.budget.left()), (0, BUDGET));
    assert_eq!(duo.settle().1.last(), Some(&Event::Refused(1, Refusal::Failed)));
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
            if upwards && duo.client.may_write(1) {
                duo.client.write(1, vec![7; 30_000]).unwrap();
            } else if !upwards && duo.server.may_write(id) {
                duo.server.write(id, vec![7; 30_000]).unwrap();
            }
            let events = if upwards {
                duo.send();
                duo.serve()
            } else {
                duo.answer();
                duo.hear()
            };
            let bytes = joined(&events, 1).0.len();
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
    let large = Settings::new().with_streams(700, 8);
    let mut duo = Duo::new(&large, &large);
    duo.open(1);
    duo.settle();
    let id = duo.id(1);
    duo.server.open_answer(id).unwrap();
    let mut queued = (0, 0);
    while duo.server.may_write(id) {
        duo.server.write(id, vec![1; 10 * KIB]).unwrap();
        queued.0 += 10;
    }
    while duo.client.may_write(1) {
        duo.client.write(1, vec![1; 10 * KIB]).unwrap();
        queued.1 += 10;
    }
    assert_eq!(queued, (70, 70));
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
        assert_eq!(duo.settle().0, [Event::Part(1, vec![at; 10])]);
    }
    assert_eq!(
        (duo.client.connection().in_flight(), duo.client.outstanding()),
        (4, 195)
    );
    for number in 1..=191_u64 {
        duo.server.answer(duo.id(number), vec![]).unwrap();
        assert_eq!(duo.settle().0.len(), 1, "the next begins");
    }
}

#[test]
fn a_body_that_waits_for_credit_does_not_stop_reading_and_has_no_deadline() {
    let lifetime = Duration::from_secs(3);
    let settings = settings().with_lifetime(lifetime).unwrap().with_max_held(8 << 20);
    let mut duo = Duo::new(&settings, &settings.with_max_held(1 << 20));
    for ticket in 1..=2 {
        duo.open(ticket);
        duo.client.write(ticket, vec![1; 70 * KIB]).unwrap();
    }
    duo.settle();
    for number in 1..=2 {
        let id = duo.id(number);
        duo.server.open_answer(id).unwrap();
        duo.server.write(id, vec![1; 300 * KIB]).unwrap();
    }
    duo.settle();
    for ticket in 3..40 {
        duo.pass(Duration::from_millis(900));
        duo.settle();
        assert!(duo.server.may_read() && duo.server.may_handle());
        duo.request(ticket, b"small");
        let number = u64::from(u32::try_from(ticket).unwrap());
        assert_eq!(duo.settle().0, [Event::Whole(number, b"small".to_vec())]);
        duo.server.answer(duo.id(number), b"answer".to_vec()).unwrap();
        assert_eq!(duo.settle().1, [Event::Whole(ticket, b"answer".to_vec())]);
    }
    assert_eq!((duo.client.end(), duo.server.connection().end()), (None, None));
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
                while upwards && duo.client.may_write(number) {
                    duo.client.write(number, vec![7; 20_000]).unwrap();
                }
                while !upwards && duo.server.may_write(id) {
                    duo.server.write(id, vec![7; 20_000]).unwrap();
                }
            }
            if round % 10 == 3 {
                asked = records;
                duo.request(100 + round, b"small");
                if !upwards {
                    // Its answer is what waits.
                    while duo.send() > 0 {}
                    let events = duo.serve();
                    assert_eq!(events.len(), 1);
                    let id = *duo.ids.values().next_back().unwrap();
                    duo.server.answer(id, b"small".to_vec()).unwrap();
                }
            }
            // One record.
            let sealed = if upwards { duo.send() } else { duo.answer() };
            records += 1;
            assert!(sealed > 0 && sealed <= 65_537, "{sealed} bytes in round {round}");
            let events = if upwards { duo.serve() } else { duo.hear() };
            for event in &events {
                match event {
                    Event::Part(number, body) => {
                        let number = *number;
                        moved[usize::try_from(number).unwrap()] += body.len();
                        // The eighth is not read.
                        if number < 8 && upwards {
                            duo.server.credit(duo.id(number), body.len(), true);
                        } else if number < 8 {
                            duo.client.credit(number, body.len(), true);
                        }
                    }
                    Event::Whole(..) => waited.push(records - asked),
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

#[test]
fn open_requests_begin_in_the_order_of_their_tickets_and_a_cancelled_one_takes_no_place() {
    let one = Settings::new().with_streams(64, 1);
    let mut duo = Duo::new(&one, &one);
    for ticket in [1, 5, 3, 4, 2] {
        duo.open(ticket);
    }
    for ticket in [3, 1] {
        assert!(duo.client.cancel_open(ticket).is_some());
    }
    // Request 1 was the only one with a turn, and it was cancelled before it began.
    let mut begun = Vec::new();
    for number in 1..=3 {
        duo.settle();
        let ticket = duo.client.poll_begun().unwrap();
        assert!(duo.client.poll_begun().is_none());
        assert!(duo.client.cancel_open(ticket).is_some());
        begun.push(ticket);
        duo.settle();
        duo.server.refuse(duo.id(number), Refusal::Cancelled);
        duo.settle();
    }
    assert_eq!(begun, [2, 4, 5]);
    assert!(!duo.client.has_unbegun());
}

/// How long it takes to cancel open requests that wait, and to add others.
fn cancel_and_open(duo: &mut Duo, waiting: &mut [u64]) -> Duration {
    let began = std::time::Instant::now();
    for at in 0..200 {
        let pick = at * 7_919 % waiting.len();
        assert!(duo.client.cancel_open(waiting[pick]).is_some());
        waiting[pick] += 100_000;
        duo.open(waiting[pick]);
    }
    began.elapsed()
}

#[test]
fn to_cancel_an_open_request_costs_the_same_however_many_wait() {
    let one = Settings::new().with_streams(64, 1);
    let mut sides = [8, 65_534].map(|count| {
        let mut duo = Duo::new(&one, &one);
        (0..=count).for_each(|ticket| duo.open(ticket));
        (duo, (1..=count).collect::<Vec<_>>(), Duration::MAX)
    });
    for _ in 0..20 {
        for (duo, waiting, best) in &mut sides {
            *best = (*best).min(cancel_and_open(duo, waiting));
        }
        let [few, many] = [sides[0].2, sides[1].2];
        println!("200 times with 8 and 65,534 that wait: {few:?}, {many:?}");
        if many < 16 * few {
            return;
        }
    }
    panic!("with many that wait they cost more");
}
