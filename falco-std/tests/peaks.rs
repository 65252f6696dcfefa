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
use falco_std::{HandlerError, Request, Server, ServerBuilder, StreamRequest};
use peak::{BOUND, MIB, Target, alone, listener};

/// What a process may take besides: the allocator and the stacks keep memory for each thread.
const BESIDES: usize = 8 * MIB;

/// The server runs until the process ends.
fn start(
    builder: ServerBuilder,
    handler: impl Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
) -> Target {
    serve(builder, |server| server.serve(handler))
}

/// The same for open requests.
fn start_open(
    builder: ServerBuilder,
    streams: impl Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
) -> Target {
    serve(builder, |server| server.serve_streams(|_| Ok(vec![7]), streams))
}

fn serve<T: Send + 'static>(builder: ServerBuilder, serve: impl FnOnce(Server) -> T + Send + 'static) -> Target {
    let server = builder.from_listener(listener()).unwrap();
    let address = server.local_addr().unwrap();
    thread::spawn(move || serve(server));
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
fn whole_open_answers_are_bounded() {
    if alone("whole_open_answers_are_bounded") {
        bounded(|| {
            let builder = Server::builder(key())
                .streams(1024, 1)
                .max_answers(2 * BOUND)
                .workers(WORKERS);
            let ended = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&ended);
            let target = start_open(builder, move |mut request| {
                request.answer.send(vec![7; MIB])?;
                request.answer.finish()?;
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
            // Chunks of handlers that are running do not count, so one runs after the other.
            target.open_requests((100, 1), 0, (2 * BOUND, 2 * MIB), |begun| {
                while ended.load(Ordering::SeqCst) < begun {
                    thread::sleep(millis(1));
                }
            });
        });
    }
}

#[test]
fn open_answers_that_are_written_piece_by_piece_are_bounded() {
    const CHUNK: usize = 16 << 10;
    if alone("open_answers_that_are_written_piece_by_piece_are_bounded") {
        bounded(|| {
            let builder = Server::builder(key())
                .streams(1024, 32)
                .max_answers(2 * BOUND)
                .workers(512);
            let target = start_open(builder, |mut request| {
                for _ in 0..MIB / CHUNK {
                    request.answer.send(vec![7; CHUNK])?;
                }
                Ok(request.answer.finish()?)
            });
            // Up to 64 KiB of each handler, and its chunk.
            target.open_requests((8, 32), 0, (2 * BOUND, 8 * 32 * ((64 << 10) + CHUNK)), |_| {});
        });
    }
}

#[test]
fn open_requests_that_nobody_reads_are_bounded() {
    const WINDOW: usize = 256 << 10;
    if alone("open_requests_that_nobody_reads_are_bounded") {
        bounded(|| {
            let builder = Server::builder(key()).max_held(BOUND).workers(512);
            let target = start_open(builder, |request| {
                thread::sleep(millis(60_000));
                drop(request);
                Ok(())
            });
            // 72 KiB more than each of the windows that have room.
            let windows = BOUND / 4 * 3 / WINDOW;
            target.open_requests((8, 32), WINDOW, (BOUND, windows * (72 << 10)), |_| {});
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
