//! Answers that are queued count, and while they are too many no request reaches a handler.

use falco_core::mux::{Budget, ServerMux, ServerStep, SharedBudget};
use falco_core::testing::{CountingRng, RecvBytes, classic_key, raw_frame};
use falco_core::{ClientConnection, Instant, Received, Refusal, RequestError, ServerConnection, Settings};

use crate::served::{BEGIN, CANCEL, Keys, MESSAGE, PART, PING, PONG, REFUSE, Served, keys};

const MESSAGE_LIMIT: u32 = 100_000;
const HELD: u32 = 200_000;
const ALL: usize = 1 << 20;
/// What a request counts besides its body.
const PER_REQUEST: usize = 1 << 10;

fn settings() -> Settings {
    Settings::new()
        .with_max_message(MESSAGE_LIMIT)
        .with_max_held(HELD)
        .with_max_in_flight(u16::MAX)
        .unwrap()
}

fn budget() -> SharedBudget {
    SharedBudget::new(ALL)
}

/// The requests `numbers`, of one byte each.
fn asked(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let frames = numbers.into_iter().map(|number| raw_frame(MESSAGE, number, b"?"));
    frames.collect::<Vec<_>>().concat()
}

/// A connection whose queue has 300,000 bytes of answers, which is too much. `budget` counts them.
fn over<G: Budget>(keys: &Keys, budget: G) -> Served<'_, G> {
    let mut served = Served::new(keys, &settings(), budget);
    for number in served.receive(&asked(1..=3)) {
        served.answer(number, 100_000);
    }
    served
}

#[test]
fn answers_count_whole_until_they_are_sealed_whole() {
    let (keys, budget) = (keys(), budget());
    let mut served = Served::new(&keys, &settings(), budget.clone());
    let lengths = [70_000, 80_000, 90_000];
    for (number, length) in served.receive(&asked(1..=3)).into_iter().zip(lengths) {
        served.answer(number, length);
    }
    assert_eq!(budget.answers(), 240_000);
    // In turns, so that parts of all three are sealed before the first is complete.
    let mut left = lengths;
    while budget.answers() > 0 {
        for (kind, number, length) in served.sealed(served.mux.seal_size()) {
            let body = length - if kind == BEGIN { 4 } else { 0 };
            left[usize::try_from(number).unwrap() - 1] -= body;
        }
        let whole = lengths.iter().zip(left).filter(|(_, left)| *left > 0);
        assert_eq!(
            budget.answers(),
            whole.map(|(length, _)| length).sum::<usize>(),
            "{left:?}"
        );
    }
    assert_eq!((left, budget.left()), ([0; 3], ALL));
}

#[test]
fn small_answers_that_are_sealed_at_once_do_not_touch_the_shared_count() {
    let (keys, budget) = (keys(), budget());
    let mut served = Served::new(&keys, &settings(), budget.clone());
    for number in 1..=100 {
        assert_eq!(served.receive(&asked([number])), [number]);
        served.answer(number, 16_000);
        assert_eq!(budget.answers(), 0);
        served.drain();
    }
    // Together they count, also those of a client that takes none of them.
    for number in served.receive(&asked(101..=200)) {
        served.answer(number, 1_000);
    }
    assert!((83_000..=100_000).contains(&budget.answers()), "{}", budget.answers());
    served.drain();
    assert_eq!(budget.answers(), 0);
}

#[test]
fn while_too_many_bytes_of_answers_are_queued_no_request_reaches_a_handler() {
    let (keys, budget) = (keys(), budget());
    let mut served = over(&keys, budget.clone());
    assert!(!served.mux.may_handle() && served.mux.may_read() && !served.mux.has_request());
    let parts = [raw_frame(BEGIN, 4, &[0, 0, 0, 2, b'a']), raw_frame(PART, 4, b"b")].concat();
    assert_eq!(served.receive(&parts), []);
    assert_eq!(served.receive(&asked(5..=20)), []);
    assert_eq!((served.mux.unanswered(), served.mux.next_request()), (20, None));
    assert_eq!(
        budget.left(),
        ALL - 3 - 2 - 16 - 20 * PER_REQUEST,
        "they hold their bytes"
    );
    while !served.mux.may_handle() {
        assert_eq!(served.requests(), []);
        served.seal(50_000);
    }
    // In their order, and before one that arrives now.
    assert!(served.mux.has_request());
    let (id, body) = served.mux.next_request().unwrap();
    assert_eq!((id.number(), &*body), (4, &b"ab"[..]));
    assert_eq!(served.receive(&asked([21])), (5..=21).collect::<Vec<_>>());
}

#[test]
fn pings_and_cancels_are_read_while_requests_are_deferred() {
    let keys = keys();
    let mut served = over(&keys, ());
    assert_eq!(served.receive(&asked(4..=6)), []);
    let frames = [raw_frame(PING, 0, b"eight by"), raw_frame(CANCEL, 5, &[])].concat();
    assert_eq!(served.receive(&frames), []);
    let sealed = served.sealed(1_000);
    assert_eq!(sealed[..2], [(PONG, 0, 8), (REFUSE, 5, 1)], "{sealed:?}");
    served.drain();
    assert_eq!(served.requests(), [4, 6], "the cancelled one never reaches a handler");
}

#[test]
fn at_most_one_message_is_read_from_a_client_that_takes_no_answers() {
    let (keys, budget) = (keys(), budget());
    let mut served = over(&keys, budget.clone());
    let large = |number| raw_frame(MESSAGE, number, &vec![7; 40_000]);
    assert_eq!(served.receive(&large(4)), []);
    assert_eq!(served.receive(&large(5)), []);
    assert!(served.mux.may_read(), "80,000 bytes are deferred");
    assert_eq!(served.receive(&large(6)), []);
    assert!(!served.mux.may_read(), "120,000 bytes are deferred");
    // This one stays in the stream: it is not refused.
    assert_eq!(served.receive(&large(7)), []);
    assert!(matches!(
        served.mux.recv_bytes(served.now, &mut []),
        Ok((_, ServerStep::TransmitFirst))
    ));
    assert_eq!(budget.left(), ALL - 120_003 - 6 * PER_REQUEST);
    served.drain();
    assert_eq!(served.requests(), [4, 5, 6, 7]);
}

#[test]
fn a_connection_whose_client_takes_its_answers_is_served_though_all_connections_are_over() {
    let (keys, budget) = (keys(), SharedBudget::new(250_000));
    let mut greedy = over(&keys, budget.clone());
    let mut honest = Served::new(&keys, &settings(), budget.clone());
    for number in 1..=100 {
        // Its queue is empty.
        assert_eq!(honest.receive(&asked([number])), [number]);
        honest.answer(number, 50_000);
        assert!(!honest.mux.may_handle(), "now it waits for its own client");
        honest.drain();
    }
    // Those of the other one are deferred, though it has no more than one connection may have.
    while !greedy.mux.may_handle() {
        greedy.seal(70_000);
    }
    assert!(budget.answers() <= 250_000, "{}", budget.answers());
    drop(greedy);
    assert_eq!(budget.answers(), 0);
    assert_eq!(honest.receive(&asked([101])), [101]);
    honest.answer(101, 50_000);
    assert!(honest.mux.may_handle(), "alone it may have more");
}

#[test]
fn at_its_end_a_connection_gives_the_bytes_of_all_requests_and_answers_back() {
    let (keys, budget) = (keys(), budget());
    for keeps in [false, true] {
        let mut served = over(&keys, budget.clone());
        assert_eq!(served.receive(&asked(4..=20)), []);
        assert_eq!(
            (budget.left(), budget.answers()),
            (ALL - 20 - 20 * PER_REQUEST, 300_000)
        );
        if keeps {
            served.mux.finish();
            assert_eq!((budget.left(), budget.answers()), (ALL, 0));
            assert_eq!(served.mux.next_request(), None);
        }
        drop(served);
        assert_eq!((budget.left(), budget.answers()), (ALL, 0));
    }
}

#[test]
fn an_answer_that_is_refused_after_all_counts_no_longer() {
    let (keys, budget) = (keys(), budget());
    let mut served = over(&keys, budget.clone());
    assert_eq!(served.receive(&asked([4])), []);
    served.seal(1_000);
    for number in [1, 2] {
        served.mux.refuse(served.ids[&number], Refusal::Failed);
    }
    assert_eq!(budget.answers(), 100_000);
    assert_eq!(served.requests(), [4]);
}

/// On the classic wire a refusal ends the connection. So what may not be handled is not read.
#[test]
fn on_the_classic_wire_requests_stay_in_the_stream() {
    let (own, theirs, now) = (classic_key(7), classic_key(7), Instant::ZERO);
    let machine = ServerConnection::new(&own, &settings(), now, &mut CountingRng::new(1)).unwrap();
    let budget = budget();
    let mut mux = ServerMux::<_, Vec<u8>, _>::new(machine, budget.clone(), &settings());
    let mut client = ClientConnection::new(&theirs, &settings(), now, &mut CountingRng::new(2)).unwrap();
    let mut out = vec![0; 200_000];
    let hello = client.poll_transmit(now, &mut out).unwrap();
    assert!(matches!(
        mux.recv_bytes(now, &mut out[..hello]),
        Ok((_, ServerStep::Established))
    ));
    let accept = mux.seal(now, &mut out).unwrap();
    mux.flushed();
    assert!(matches!(
        client.recv_bytes(now, &mut out[..accept]),
        Ok((_, Received::Event(_)))
    ));
    let mut unread = Vec::new();
    for _ in 0..5 {
        let mut request = client.request(1).unwrap();
        let count = client.seal(now, [(&mut request, &b"?"[..])], &mut out).unwrap();
        unread.extend_from_slice(&out[..count]);
    }
    let mut answered = 0;
    loop {
        let (consumed, step) = mux.recv_bytes(now, &mut unread).unwrap();
        match step {
            ServerStep::Request { id, .. } => {
                assert!(consumed > 0, "none is deferred");
                unread.drain(..consumed);
                mux.answer(id, vec![7; 100_000]).unwrap();
                answered += 1;
            }
            ServerStep::TransmitFirst => {
                assert!(budget.answers() > 200_000);
                assert!(!mux.may_read() && mux.seal(now, &mut out).unwrap() > 100_000);
            }
            ServerStep::NeedMore { .. } => break,
            step @ (ServerStep::AnswerFirst
            | ServerStep::Skip
            | ServerStep::Hello { .. }
            | ServerStep::Established
            | ServerStep::Cancelled { .. }
            | ServerStep::Closing { .. }
            | _) => panic!("{step:?}"),
        }
    }
    assert_eq!((answered, mux.unanswered(), budget.answers()), (5, 0, 100_036));
}

/// A client that takes no answers cancels as many requests as it has answers. That takes little
/// time for each, whatever their number.
#[test]
fn many_cancellations_beside_many_queued_answers_take_little_time() {
    let keys = keys();
    let each = |count: u32| {
        let mut served = Served::new(&keys, &settings(), ());
        // As many as fit into a record.
        let records = |from: u32, to: u32| (from..=to).step_by(2_000).map(move |from| from..=to.min(from + 1_999));
        for numbers in records(1, count) {
            for number in served.receive(&asked(numbers)) {
                served.answer(number, 10);
            }
        }
        // One more makes it too many, so what follows is deferred.
        for number in served.receive(&asked(count + 1..=count + 3)) {
            served.answer(number, 100_000);
        }
        for numbers in records(count + 4, 2 * count) {
            assert_eq!(served.receive(&asked(numbers)), []);
        }
        let mut cancel = |numbers: core::ops::RangeInclusive<u32>| {
            let cancels: Vec<_> = numbers.map(|number| raw_frame(CANCEL, number, &[])).collect();
            let began = std::time::Instant::now();
            assert_eq!(served.receive(&cancels.concat()), []);
            began.elapsed() / u32::try_from(cancels.len()).unwrap()
        };
        // As few are timed for either count, so that other work on the machine interrupts neither
        // more often.
        let took = cancel(count + 4..=count + 903);
        for numbers in records(count + 904, 2 * count) {
            cancel(numbers);
        }
        assert_eq!(served.mux.unanswered(), usize::try_from(count).unwrap() + 3);
        took
    };
    // Other work on the machine may make one of several rounds slow.
    let (mut few, mut many) = (each(1_000), each(16_000));
    for _ in 0..4 {
        few = few.min(each(1_000));
        many = many.min(each(16_000));
    }
    assert!(many < 4 * few, "{few:?} each beside 1,000, {many:?} beside 16,000");
}

/// Handlers that have started before the bound was reached answer when it is. The last answers are
/// dropped, and their requests refused: what is queued never exceeds what answers may have.
#[test]
fn answers_of_handlers_that_run_already_are_bounded() {
    let (keys, budget) = (keys(), SharedBudget::with_max_answers(ALL, 500_000));
    let mut served = Served::new(&keys, &settings(), budget.clone());
    let running = served.receive(&asked(1..=100));
    assert_eq!(running.len(), 100, "all at once");
    let mut queued = 0;
    for number in running {
        let (id, result) = (served.ids[&number], Ok(vec![7; 100_000]));
        match served.mux.complete(id, result, false) {
            Ok(true) => queued += 1,
            dropped => assert_eq!(dropped, Err(RequestError::Refused(Refusal::AnswerTooLarge))),
        }
        assert!(budget.answers() <= 500_000, "{}", budget.answers());
    }
    // The connection has no more than is left for others.
    assert_eq!((queued, budget.answers(), served.mux.unanswered()), (2, 200_000, 2));
    let mut refused = 0;
    loop {
        let frames = served.sealed(70_000);
        if frames.is_empty() {
            break;
        }
        refused += frames.iter().filter(|frame| frame.0 == REFUSE).count();
    }
    assert_eq!(refused, 98);
    assert_eq!((budget.answers(), budget.left()), (0, ALL));
}

/// However many connections take all they can, another one has room for an answer. Few bytes of a
/// connection have room in any case.
#[test]
fn greedy_connections_leave_room_for_the_answers_of_another() {
    const MAX: usize = 4_000_000;
    let (keys, budget) = (keys(), SharedBudget::with_max_answers(ALL, MAX));
    let mut greedy: Vec<_> = (0..20)
        .map(|_| {
            let mut served = Served::new(&keys, &settings(), budget.clone());
            let all = served.receive(&asked(1..=200));
            (served, all)
        })
        .collect();
    for (served, all) in &mut greedy {
        for number in all.drain(..) {
            let _ = served.mux.complete(served.ids[&number], Ok(vec![7; 50_000]), false);
        }
        assert!(budget.answers() < MAX, "{}", budget.answers());
    }
    let mut honest = Served::new(&keys, &settings(), budget.clone());
    assert_eq!(honest.receive(&asked(1..=300)).len(), 300);
    let small = (1..=300).map(|number| honest.mux.complete(honest.ids[&number], Ok(vec![7; 50]), false));
    assert!(small.into_iter().all(|queued| queued == Ok(true)));
    honest.drain();
    for number in 301..=320 {
        assert_eq!(honest.receive(&asked([number])), [number]);
        honest.answer(number, 20_000);
        honest.drain();
    }
    drop(greedy);
    assert_eq!(budget.answers(), 0);
}

/// The answer of a handler on another task counts before its connection takes it.
#[test]
fn an_answer_on_its_way_to_its_connection_counts() {
    let (keys, budget) = (keys(), SharedBudget::with_max_answers(ALL, 400_000));
    let mut served = Served::new(&keys, &settings(), budget.clone());
    let running = served.receive(&asked(1..=3));
    let mut held: Vec<_> = running
        .iter()
        .map(|number| served.mux.take_held(served.ids[number]))
        .collect();
    let lengths = [90_000, 90_000, 150_000].into_iter();
    let has_room: Vec<_> = held
        .iter_mut()
        .zip(lengths)
        .map(|(held, length)| held.hold_answer(length, 0))
        .collect();
    assert_eq!((has_room, budget.answers()), (vec![true, true, false], 180_000));
    for (number, held) in running.into_iter().zip(held).take(2) {
        drop(held);
        served.answer(number, 90_000);
    }
    assert_eq!(budget.answers(), 180_000);
    served.drain();
    assert_eq!(budget.answers(), 0);
}

/// All but the first few bytes of the answers that wait for one connection count, and what all of
/// them have decides whether there is room.
#[test]
fn answers_on_their_way_to_one_connection_count_together() {
    let (keys, budget) = (keys(), SharedBudget::with_max_answers(ALL, 400_000));
    let mut served = Served::new(&keys, &settings(), budget.clone());
    let running = served.receive(&asked(1..=100));
    let mut held: Vec<_> = running
        .iter()
        .map(|number| served.mux.take_held(served.ids[number]))
        .collect();
    let (mut waiting, mut without_room) = (0, 0);
    for held in &mut held {
        if held.hold_answer(10_000, waiting) {
            waiting += 10_000;
        } else {
            without_room += 1;
        }
    }
    assert_eq!((waiting, budget.answers(), without_room), (200_000, 190_000, 80));
    drop(held);
    assert_eq!(budget.answers(), 0);
}
