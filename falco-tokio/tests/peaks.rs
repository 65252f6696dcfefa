//! The peak of a server's memory, beside the bound that `docs/limits.md` names, whatever clients
//! do. Each test runs in a process of its own. The file of the same name in falco-std has the same
//! tests.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;

use common::key;
use common::peak::{BOUND, MIB, Target, alone, listener};
use falco_tokio::{Handler, HandlerError, OnCancel, Request, Server, ServerBuilder, StreamRequest};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Barrier;

/// What a process may take besides: the allocator keeps memory for each thread.
const BESIDES: usize = 4 * MIB;

/// The server runs until the runtime is dropped.
fn start(builder: ServerBuilder, handler: impl Handler) -> (Target, Runtime) {
    serve(builder, |server| async move { server.serve(handler).await })
}

/// The same for open requests.
fn start_open<F>(
    builder: ServerBuilder,
    streams: impl Fn(StreamRequest) -> F + Send + Sync + 'static,
) -> (Target, Runtime)
where
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let handler = |_: Request| async { Ok("!") };
    serve(builder, move |server| async move {
        server.serve_streams(handler, streams).await
    })
}

fn serve<F: Future<Output: Send> + Send + 'static>(
    builder: ServerBuilder,
    serve: impl FnOnce(Server) -> F,
) -> (Target, Runtime) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let address = runtime.block_on(async {
        let listener = listener();
        listener.set_nonblocking(true).unwrap();
        let server = builder.from_listener(listener.try_into().unwrap()).unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(serve(server));
        address
    });
    let target = Target {
        address,
        key: key(1),
        besides: BESIDES,
    };
    (target, runtime)
}

#[test]
fn classic_answers_that_lie_in_the_output_are_bounded() {
    if alone("classic_answers_that_lie_in_the_output_are_bounded") {
        let builder = Server::classic(key(1)).max_held(BOUND);
        let (target, runtime) = start(builder, |_: Request| async { Ok(vec![7; MIB]) });
        target.sealed_answers();
        drop(runtime);
    }
}

#[test]
fn unused_memory_of_answers_is_freed() {
    if alone("unused_memory_of_answers_is_freed") {
        let builder = Server::builder(key(1)).max_answers(2 * BOUND);
        let (target, runtime) = start(builder, |_: Request| async {
            let mut answer = vec![7; MIB];
            answer.truncate(64 << 10);
            Ok(answer)
        });
        target.answers_with_unused_memory();
        drop(runtime);
    }
}

#[test]
fn whole_open_answers_are_bounded() {
    if alone("whole_open_answers_are_bounded") {
        let builder = Server::builder(key(1)).streams(1024, 1).max_answers(2 * BOUND);
        let (target, runtime) = start_open(builder, |mut request: StreamRequest| async move {
            request.answer.send(vec![7; MIB]).await?;
            Ok(request.answer.finish()?)
        });
        target.open_requests((100, 1), 0, (2 * BOUND, 2 * MIB), |_| {});
        drop(runtime);
    }
}

#[test]
fn open_answers_that_are_written_piece_by_piece_are_bounded() {
    const CHUNK: usize = 16 << 10;
    if alone("open_answers_that_are_written_piece_by_piece_are_bounded") {
        let builder = Server::builder(key(1)).streams(1024, 32).max_answers(2 * BOUND);
        let (target, runtime) = start_open(builder, |mut request: StreamRequest| async move {
            for _ in 0..MIB / CHUNK {
                request.answer.send(vec![7; CHUNK]).await?;
            }
            Ok(request.answer.finish()?)
        });
        // Up to 64 KiB of each handler, and its chunk.
        target.open_requests((8, 32), 0, (2 * BOUND, 8 * 32 * ((64 << 10) + CHUNK)), |_| {});
        drop(runtime);
    }
}

#[test]
fn open_requests_that_nobody_reads_are_bounded() {
    const WINDOW: usize = 256 << 10;
    if alone("open_requests_that_nobody_reads_are_bounded") {
        let builder = Server::builder(key(1)).max_held(BOUND);
        let (target, runtime) = start_open(builder, |request: StreamRequest| async move {
            core::future::pending::<()>().await;
            drop(request);
            Ok(())
        });
        // 72 KiB more than each of the windows that have room.
        let windows = BOUND / 4 * 3 / WINDOW;
        target.open_requests((8, 32), WINDOW, (BOUND, windows * (72 << 10)), |_| {});
        runtime.shutdown_background();
    }
}

#[test]
fn an_input_buffer_does_not_stay_large_after_a_long_message() {
    if alone("an_input_buffer_does_not_stay_large_after_a_long_message") {
        let (target, runtime) = start(Server::classic(key(1)), |_: Request| async { Ok("!") });
        target.long_requests();
        drop(runtime);
    }
}

#[test]
fn requests_of_handlers_that_run_on_are_bounded() {
    if alone("requests_of_handlers_that_run_on_are_bounded") {
        let builder = Server::builder(key(1)).max_held(BOUND).on_cancel(OnCancel::Signal);
        let (target, runtime) = start(builder, |request: Request| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(request.into_body())
        });
        target.cancelled_requests();
        runtime.shutdown_background();
    }
}

#[test]
fn short_requests_are_bounded() {
    if alone("short_requests_are_bounded") {
        let (target, runtime) = start(Server::builder(key(1)).max_held(BOUND), |request: Request| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(request.into_body())
        });
        target.short_requests();
        runtime.shutdown_background();
    }
}

#[test]
fn classic_messages_that_have_arrived_in_part_are_bounded() {
    if alone("classic_messages_that_have_arrived_in_part_are_bounded") {
        let builder = Server::classic(key(1)).max_held(BOUND);
        let (target, runtime) = start(builder, |_: Request| async { Ok("!") });
        target.messages_in_part();
        drop(runtime);
    }
}

#[test]
fn messages_in_parts_are_bounded_by_what_is_reserved() {
    if alone("messages_in_parts_are_bounded_by_what_is_reserved") {
        let builder = Server::builder(key(1)).max_held(64 * MIB);
        let (target, runtime) = start(builder, |_: Request| async { Ok("!") });
        target.messages_in_parts();
        drop(runtime);
    }
}

const ANSWER: usize = 64 << 10;

/// `requests` of each of `clients` at once, with the default limit of requests in flight. Their
/// answers may have `most` bytes.
fn wait_for_each_other(builder: ServerBuilder, (clients, requests): (usize, usize), most: usize) {
    let all = clients * requests;
    let (together, answered) = (Arc::new(Barrier::new(all)), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&answered);
    let (target, runtime) = start(builder.max_held(BOUND), move |_: Request| {
        let (together, counter) = (Arc::clone(&together), Arc::clone(&counter));
        async move {
            together.wait().await;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(vec![7; ANSWER])
        }
    });
    target.waiting_handlers((clients, requests), (all, &answered), most);
    drop(runtime);
}

#[test]
fn handlers_that_wait_for_each_other_on_one_connection_exceed_the_bound_by_their_answers() {
    if alone("handlers_that_wait_for_each_other_on_one_connection_exceed_the_bound_by_their_answers") {
        wait_for_each_other(Server::builder(key(1)), (1, 1024), BOUND + 1024 * ANSWER);
    }
}

#[test]
fn handlers_that_wait_for_each_other_on_many_connections_exceed_the_bound_by_their_answers() {
    if alone("handlers_that_wait_for_each_other_on_many_connections_exceed_the_bound_by_their_answers") {
        wait_for_each_other(Server::builder(key(1)), (50, 20), BOUND + 1000 * ANSWER);
    }
}

#[test]
fn answers_of_handlers_that_wait_for_each_other_do_not_exceed_what_answers_may_have() {
    if alone("answers_of_handlers_that_wait_for_each_other_do_not_exceed_what_answers_may_have") {
        let builder = Server::builder(key(1)).max_answers(2 * BOUND);
        wait_for_each_other(builder, (4, 256), 2 * BOUND);
    }
}
