//! The peak of a server's memory, beside the bound that `docs/limits.md` names, whatever clients
//! do. Each test runs in a process of its own. The file of the same name in falco-tokio has the
//! same tests.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../../falco-tokio/tests/common/peak.rs"]
mod peak;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use common::{bounded, key, millis};
use falco_std::{HandlerError, Request, Server, ServerBuilder};
use peak::{BOUND, MIB, Target, alone, listener};

/// What a process may take besides: the allocator and the stacks keep memory for each thread.
const BESIDES: usize = 8 * MIB;

/// The server runs until the process ends.
fn start(
    builder: ServerBuilder,
    handler: impl Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
) -> Target {
    let server = builder.from_listener(listener()).unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || server.serve(handler));
    Target {
        address,
        key: key(),
        besides: BESIDES,
    }
}

#[test]
fn classic_answers_that_lie_in_the_output_are_bounded() {
    const WORKERS: usize = 2;
    if alone("classic_answers_that_lie_in_the_output_are_bounded") {
        bounded(|| {
            let builder = Server::classic(key()).max_held(BOUND).workers(WORKERS);
            let mut target = start(builder, |_| Ok(vec![7; MIB]));
            target.besides += WORKERS * MIB;
            target.sealed_answers();
        });
    }
}

#[test]
fn unused_memory_of_answers_is_freed() {
    const WORKERS: usize = 2;
    if alone("unused_memory_of_answers_is_freed") {
        bounded(|| {
            let builder = Server::builder(key()).max_answers(2 * BOUND).workers(WORKERS);
            let mut target = start(builder.queue_timeout(millis(60_000)), |_| {
                let mut answer = vec![7; MIB];
                answer.truncate(64 << 10);
                Ok(answer)
            });
            target.besides += WORKERS * MIB;
            target.answers_with_unused_memory();
        });
    }
}

#[test]
fn an_input_buffer_does_not_stay_large_after_a_long_message() {
    if alone("an_input_buffer_does_not_stay_large_after_a_long_message") {
        bounded(|| start(Server::classic(key()), |_| Ok(vec![7])).long_requests());
    }
}

#[test]
fn requests_of_handlers_that_run_on_are_bounded() {
    if alone("requests_of_handlers_that_run_on_are_bounded") {
        bounded(|| {
            let target = start(Server::builder(key()).max_held(BOUND), |request| {
                thread::sleep(millis(60_000));
                Ok(request.into_body())
            });
            target.cancelled_requests();
        });
    }
}

#[test]
fn short_requests_are_bounded() {
    if alone("short_requests_are_bounded") {
        bounded(|| {
            let builder = Server::builder(key()).max_held(BOUND).queue_timeout(millis(60_000));
            let target = start(builder, |request| {
                thread::sleep(millis(60_000));
                Ok(request.into_body())
            });
            target.short_requests();
        });
    }
}

#[test]
fn classic_messages_that_have_arrived_in_part_are_bounded() {
    if alone("classic_messages_that_have_arrived_in_part_are_bounded") {
        bounded(|| {
            let builder = Server::classic(key()).max_held(BOUND);
            start(builder, |_| Ok(vec![7])).messages_in_part();
        });
    }
}

#[test]
fn messages_in_parts_are_bounded_by_what_is_reserved() {
    if alone("messages_in_parts_are_bounded_by_what_is_reserved") {
        bounded(|| {
            let builder = Server::builder(key()).max_held(64 * MIB);
            start(builder, |_| Ok(vec![7])).messages_in_parts();
        });
    }
}

/// The default number of workers.
const WORKERS: usize = 64;

/// All workers at once. Their answers may have `most` bytes.
fn wait_for_each_other(builder: ServerBuilder, clients: (usize, usize), most: usize) {
    let (together, answered) = (Barrier::new(WORKERS), Arc::new(AtomicUsize::new(0)));
    let (counter, one) = (Arc::clone(&answered), Mutex::new(()));
    let target = start(builder.max_held(BOUND), move |_| {
        together.wait();
        // One after the other, so that the answers in memory are those that the server keeps.
        let _one = one.lock();
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(vec![7; MIB])
    });
    target.waiting_handlers(clients, (WORKERS, &answered), most);
}

#[test]
fn handlers_that_wait_for_each_other_on_one_connection_exceed_the_bound_by_their_answers() {
    if alone("handlers_that_wait_for_each_other_on_one_connection_exceed_the_bound_by_their_answers") {
        bounded(|| wait_for_each_other(Server::builder(key()), (1, 128), BOUND + WORKERS * MIB));
    }
}

#[test]
fn handlers_that_wait_for_each_other_on_many_connections_exceed_the_bound_by_their_answers() {
    if alone("handlers_that_wait_for_each_other_on_many_connections_exceed_the_bound_by_their_answers") {
        bounded(|| wait_for_each_other(Server::builder(key()), (32, 4), BOUND + WORKERS * MIB));
    }
}

#[test]
fn answers_of_handlers_that_wait_for_each_other_do_not_exceed_what_answers_may_have() {
    if alone("answers_of_handlers_that_wait_for_each_other_do_not_exceed_what_answers_may_have") {
        bounded(|| {
            let builder = Server::builder(key()).max_answers(2 * BOUND);
            wait_for_each_other(builder, (4, WORKERS / 4), 2 * BOUND);
        });
    }
}
