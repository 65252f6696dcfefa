//! Random callers, handlers and links: each waiter is given back once, what is reported of its
//! request is true, and no state is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod admission;
mod age;
mod answer_turns;
mod bounds;
mod closing;
mod connect_attempts;
mod decisions;
mod deferred;
mod duo;
mod greeting;
mod halves;
mod handled;
mod held_back;
mod hello;
mod pings;
mod printed;
mod requests;
mod retries;
mod scene;
mod served;
mod servers;
mod shares;
mod streams;
mod streams_ends;
mod streams_memory;
mod streams_random;
mod streams_turns;
mod times;
mod whole_answers;
mod world;

use core::time::Duration;

use falco_core::testing::{classic_key, noise_client, noise_server};
use falco_core::{ClientKeyRef, ServerKeyRef, Settings};
use proptest::collection::vec;
use proptest::prelude::*;

use world::World;

#[derive(Clone, Debug)]
enum Op {
    Request(usize),
    Cancel(usize),
    Answer(usize, usize),
    Refuse(usize),
    RefuseAnswered(usize),
    Ping,
    CloseClient,
    CloseServer,
    TakeUnbegun,
    Cut(usize, usize),
    Pass(u64),
    WriteClient(usize),
    WriteServer(usize),
    ReadClient(usize),
    ReadServer(usize),
    Settle,
}

#[derive(Clone, Debug)]
struct Plan {
    in_flight: u16,
    max_message: u32,
    max_record: u16,
    budget: usize,
    max_held: u32,
    stops: bool,
    /// Whether the handshake completes before anything else.
    established: bool,
    ops: Vec<Op>,
}

/// The largest answer that the client reads.
const MAX_ANSWER: usize = 150_000;

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..40_usize, 2 => 0..3_000_usize, 2 => 0..200_000_usize]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = any::<usize>;
    let bytes = || prop_oneof![0..300_usize, 0..100_000_usize];
    prop_oneof![
        10 => size().prop_map(Op::Request),
        4 => pick().prop_map(Op::Cancel),
        6 => (pick(), size()).prop_map(|(pick, size)| Op::Answer(pick, size)),
        1 => pick().prop_map(|pick| Op::Answer(pick, MAX_ANSWER + 1)),
        2 => pick().prop_map(Op::Refuse),
        2 => pick().prop_map(Op::RefuseAnswered),
        1 => Just(Op::Ping),
        1 => Just(Op::CloseClient),
        1 => Just(Op::CloseServer),
        2 => Just(Op::TakeUnbegun),
        1 => (bytes(), bytes()).prop_map(|(to_server, to_client)| Op::Cut(to_server, to_client)),
        1 => (0..40_000_u64).prop_map(Op::Pass),
        6 => bytes().prop_map(Op::WriteClient),
        6 => bytes().prop_map(Op::WriteServer),
        6 => bytes().prop_map(Op::ReadClient),
        6 => bytes().prop_map(Op::ReadServer),
        4 => Just(Op::Settle),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let limits = (
        1..5_u16,
        50_000..200_000_u32,
        prop_oneof![64..2_000_u16, Just(u16::MAX)],
    );
    let budget = prop_oneof![2_000..300_000_usize, Just(1 << 20)];
    let held = prop_oneof![Just(100_000), Just(64 << 20)];
    (limits, (budget, held), any::<[bool; 2]>(), vec(op(), 0..50)).prop_map(
        |((in_flight, max_message, max_record), (budget, max_held), [stops, established], ops)| Plan {
            in_flight,
            max_message,
            max_record,
            budget,
            max_held,
            stops,
            established,
            ops,
        },
    )
}

fn run<C: ClientKeyRef, S: ServerKeyRef>(keys: (C, S), plan: &Plan, tells: bool) {
    let settings = Settings::new().with_max_record(plan.max_record).unwrap();
    let own = settings.with_max_message(u32::try_from(MAX_ANSWER).unwrap());
    let theirs = settings
        .with_max_message(plan.max_message)
        .with_max_in_flight(plan.in_flight);
    let bounds = (plan.budget, plan.max_held);
    let mut world = World::new(keys, (&own, &theirs.unwrap()), bounds, plan.stops && tells);
    if plan.established {
        world.settle();
    }
    for op in &plan.ops {
        match *op {
            Op::Request(size) => world.request(size),
            Op::Cancel(pick) => world.cancel(pick),
            Op::Answer(pick, size) => world.answer(pick, size),
            Op::Refuse(pick) => world.refuse(pick),
            Op::RefuseAnswered(pick) => world.refuse_answered(pick),
            Op::Ping => world.ping(),
            Op::CloseClient => world.close_client(),
            Op::CloseServer => world.close_server(),
            Op::TakeUnbegun => world.take_unbegun(),
            Op::Cut(to_server, to_client) => world.cut(to_server, to_client),
            Op::Pass(millis) => world.pass(Duration::from_millis(millis)),
            Op::WriteClient(size) => _ = world.write_client(size),
            Op::WriteServer(size) => _ = world.write_server(size),
            Op::ReadClient(count) => _ = world.read_client(count),
            Op::ReadServer(count) => _ = world.read_server(count),
            Op::Settle => world.settle(),
        }
    }
    world.finish(plan.budget);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn on_the_noise_wire_each_request_ends_once_and_correctly(plan in plan()) {
        run((&noise_client(7), &noise_server(7)), &plan, true);
    }

    #[test]
    fn on_the_classic_wire_each_request_ends_once_and_correctly(plan in plan()) {
        run((&classic_key(7), &classic_key(7)), &plan, false);
    }
}

fn go_together<C: ClientKeyRef, S: ServerKeyRef>(keys: (C, S)) {
    let settings = Settings::new();
    let mut world = World::new(keys, (&settings, &settings), (1 << 20, 100_000), false);
    world.settle();
    for size in 0..10 {
        world.request(size);
    }
    world.seal_client();
    assert!(!world.has_unsent(), "one output holds them all");
    world.finish(1 << 20);
}

#[test]
fn an_output_of_the_size_that_is_asked_for_holds_all_small_requests() {
    go_together((&noise_client(7), &noise_server(7)));
    go_together((&classic_key(7), &classic_key(7)));
}

fn refuse_what_is_answered<C: ClientKeyRef, S: ServerKeyRef>(keys: (C, S)) {
    let settings = Settings::new();
    let mut world = World::new(keys, (&settings, &settings), (1 << 20, 100_000), false);
    world.settle();
    world.request(3);
    world.settle();
    world.answer(0, 500_000);
    assert!(!world.may_handle(), "so much waits to be sent");
    world.refuse_answered(0);
    assert!(world.may_handle(), "nothing of it is sent any more");
    world.finish(1 << 20);
}

#[test]
fn nothing_of_an_answer_that_is_refused_stays_queued() {
    refuse_what_is_answered((&noise_client(7), &noise_server(7)));
    refuse_what_is_answered((&classic_key(7), &classic_key(7)));
}
