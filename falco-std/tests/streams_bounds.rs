//! What a client cannot make a server hold or run with open requests.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::sleep;

use common::streaming::{Streaming, server};
use common::{bounded, key, other_key};
use falco_std::{Client, Error, Fate, Refusal, RequestError, Settings, StreamRequest};

const MIB: u32 = 1 << 20;

/// The client gives no credit, and the handlers end at once: what they leave behind counts, so that
/// further requests wait.
#[test]
fn answers_that_wait_for_credit_are_bounded() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let builder = server().settings(Settings::new().with_max_message(MIB).with_max_held(8 * MIB));
    let server = Streaming::start(builder.streams(1024, 1000), move |mut request: StreamRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        request.answer.send(vec![7; 1 << 20])?;
        Ok(request.answer.finish()?)
    });
    let client = server.client_of(Client::builder(key()).stream_window(1024));
    let mut calls = Vec::new();
    for _ in 0..30 {
        calls.push(client.open("?").unwrap());
        sleep(Duration::from_millis(3));
    }
    sleep(Duration::from_millis(100));
    let ran = handled.load(Ordering::Relaxed);
    assert!((8..=10).contains(&ran), "{ran} handlers have left 1 MiB each");
    // A client that reads is served.
    for call in calls {
        assert_eq!(call.collect(2 << 20).unwrap().len(), 1 << 20);
    }
    assert_eq!(handled.load(Ordering::Relaxed), 30);
    server.stop();
}

/// Handlers of open requests wait for their clients. However many there are, other requests find
/// workers, from the same client and from others.
#[test]
fn handlers_of_open_requests_leave_workers_to_other_requests() {
    let server = Streaming::start(server().workers(6), |mut request: StreamRequest| {
        while let Some(bytes) = request.body.next() {
            request.answer.send(bytes?)?;
        }
        Ok(request.answer.finish()?)
    });
    let client = server.client();
    let mut silent: Vec<_> = (0..3).map(|_| client.open("?").unwrap()).collect();
    for call in &mut silent {
        assert_eq!(call.next().unwrap().unwrap(), b"?");
    }
    // Its own client would wait until there is a place.
    let other = server.client();
    let mut fourth = other.open("?").unwrap();
    let refused = fourth.next().unwrap().unwrap_err();
    assert_eq!(refused.fate(), Fate::NotProcessed);
    assert!(
        matches!(refused, Error::Request(RequestError::Refused(Refusal::Busy))),
        "{refused}"
    );
    assert_eq!(server.handle.stats().busy, 1);
    for client in [&client, &other] {
        assert_eq!(client.request("whole").unwrap(), b"whole");
    }
    // The place of a handler is free once it has returned.
    let mut first = silent.remove(0);
    first.finish().unwrap();
    assert_eq!(first.collect(10).unwrap(), b"");
    sleep(Duration::from_millis(50));
    let mut next = other.open("next").unwrap();
    next.finish().unwrap();
    assert_eq!(next.collect(10).unwrap(), b"next");
    drop(silent);
    server.stop();
}

#[test]
fn handlers_that_run_on_after_their_answers_are_bounded() {
    let (proceed, waits) = mpsc::channel::<()>();
    let waits = Mutex::new(waits);
    let server = Streaming::start(
        server().workers(40).streams(64 << 10, 2),
        move |mut request: StreamRequest| {
            request.answer.finish()?;
            let _ = waits.lock().unwrap().recv();
            Ok(())
        },
    );
    let client = server.client();
    for _ in 0..4 {
        let mut call = client.open("?").unwrap();
        assert!(call.next().is_none(), "the answer is whole");
    }
    let refused = client.open("?").unwrap().next().unwrap().unwrap_err();
    assert!(
        matches!(refused, Error::Request(RequestError::Refused(Refusal::Busy))),
        "{refused}"
    );
    assert_eq!(server.handle.stats().busy, 1);
    proceed.send(()).unwrap();
    sleep(Duration::from_millis(50));
    assert!(client.open("?").unwrap().next().is_none());
    drop(proceed);
    server.stop();
}

/// Clients of one key take all places and windows that they can. A client of another key finds one.
#[test]
fn one_key_leaves_places_and_windows_to_another() {
    // Four places and 96 windows; 32 places and 6 windows.
    for (workers, window, most) in [(8, 64 << 10, 3), (64, MIB, 5)] {
        for later in [false, true] {
            let builder = server().workers(workers).max_held(8 << 20).streams(window, 32);
            let builder = if later { builder } else { builder.key(other_key()) };
            let server = Streaming::start(builder, |mut request: StreamRequest| {
                while let Some(bytes) = request.body.next() {
                    request.answer.send(bytes?)?;
                }
                Ok(request.answer.finish()?)
            });
            if later {
                server.handle.add_key(other_key()).unwrap();
            }
            let (clients, mut open) = ([server.client(), server.client()], Vec::new());
            for client in clients.iter().cycle().take(8) {
                let mut call = client.open("?").unwrap();
                match call.next().unwrap() {
                    Ok(_) => open.push(call),
                    Err(Error::Request(RequestError::Refused(Refusal::Busy))) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            assert_eq!(open.len(), most);
            let other = server.client_of(Client::builder(other_key()));
            let mut call = other.open("hello").unwrap();
            assert_eq!(call.next().unwrap().unwrap(), b"hello");
            drop((open, call));
            server.stop();
        }
    }
}

/// The client does not take the answer, and cancels while the handler, which has finished it, still
/// runs.
#[test]
fn a_request_that_is_cancelled_after_its_answer_was_finished_frees_its_place() {
    let server = Streaming::start(server().streams(16 << 10, 1), |mut request: StreamRequest| {
        if request.body.next().transpose()?.as_deref() == Some(b"large") {
            for _ in 0..5 {
                request.answer.send(vec![7; 12 << 10])?;
            }
            request.answer.finish()?;
            sleep(Duration::from_millis(300));
            return Ok(());
        }
        Ok(request.answer.finish()?)
    });
    let client = server.client_of(Client::builder(key()).stream_window(16 << 10));
    let call = client.open("large").unwrap();
    sleep(Duration::from_millis(100));
    drop(call);
    sleep(Duration::from_millis(400));
    for _ in 0..3 {
        let mut next = client.open("small").unwrap();
        assert!(next.next().is_none());
    }
    assert_eq!(server.handle.stats().cancelled, 1);
    server.stop();
}

/// As in falco-tokio: an answer that was finished is whole whatever follows, and the request ends
/// with it.
#[test]
fn a_finished_answer_ends_its_request_for_both_sides() {
    let (to, told) = mpsc::channel();
    let to = Mutex::new(to);
    let server = Streaming::start(server().streams(16 << 10, 4), move |mut request: StreamRequest| {
        assert_eq!(request.body.next().transpose()?.as_deref(), Some(&b"first"[..]));
        // More than the client takes before it reads.
        request.answer.send(vec![7; 100_000])?;
        request.answer.finish()?;
        to.lock()
            .unwrap()
            .send(request.body.next().map(|next| next.is_err()))
            .unwrap();
        Err("after the answer".into())
    });
    let client = server.client_of(Client::builder(key()).stream_window(16 << 10));
    let (mut sending, receiving) = client.open("first").unwrap().split();
    assert_eq!(receiving.collect(1 << 20).unwrap().len(), 100_000);
    let patience = Duration::from_secs(10);
    assert_eq!(
        told.recv_timeout(patience).unwrap(),
        Some(true),
        "nothing more of it arrives"
    );
    sending.finish().unwrap();
    server.stop();
}

/// What a handler writes at once does not fill what the connection may hold.
#[test]
fn a_long_chunk_that_nobody_reads_holds_up_no_other_request() {
    let builder = server().settings(Settings::new().with_max_message(MIB).with_max_held(8 * MIB));
    let server = Streaming::start(builder, |mut request: StreamRequest| {
        request.answer.send(vec![7; 20 << 20])?;
        request.answer.send("more")?;
        Ok(request.answer.finish()?)
    });
    let client = server.client();
    let call = client.open("?").unwrap();
    sleep(Duration::from_millis(100));
    let whole = client.request_within("whole", Duration::from_secs(5));
    assert_eq!(whole.unwrap(), b"whole");
    drop(call);
    server.stop();
}

/// The windows of open requests leave a part of what a connection may hold to other requests.
#[test]
fn silent_streams_leave_their_connection_to_other_requests() {
    let builder = server().settings(Settings::new().with_max_message(MIB).with_max_held(8 * MIB));
    let server = Streaming::start(builder.streams(MIB, 256), common::streaming::echo);
    let client = server.client_of(Client::builder(key()).request_timeout(Some(Duration::from_millis(200))));
    let calls: Vec<_> = (0..10).map_while(|_| client.open("?").ok()).collect();
    assert_eq!(calls.len(), 6, "further ones wait");
    for _ in 0..3 {
        assert_eq!(client.request([7; 1000]).unwrap(), [7; 1000]);
    }
    drop(calls);
    server.stop();
}

/// A body that was cut off is never reported as complete, not even by a later call.
#[test]
fn an_error_is_returned_again_by_collect() {
    let server = Streaming::start(server(), |_: StreamRequest| Err("no".into()));
    let client = server.client();
    let mut call = client.open("?").unwrap();
    assert!(call.next().unwrap().is_err());
    assert!(call.collect(10).is_err());
    server.stop();
}

/// Unsent bytes of ended handlers have no room: their answers are cut off, and clients learn why.
#[test]
fn an_answer_without_room_is_cut_off() {
    let server = Streaming::start(
        server().streams(16 << 10, 2).max_answers(256 << 10),
        |mut request: StreamRequest| {
            request.answer.send(vec![7; 1 << 20])?;
            Ok(request.answer.finish()?)
        },
    );
    let client = server.client();
    for _ in 0..20 {
        let mut call = client.open("?").unwrap();
        sleep(Duration::from_millis(10));
        let end = loop {
            if let Err(end) = call.next().unwrap() {
                break end;
            }
        };
        assert!(
            matches!(end, Error::Request(RequestError::Refused(Refusal::AnswerTooLarge))),
            "{end}"
        );
    }
    server.stop();
}

/// Its request has ended, so nothing more of the body arrives.
#[test]
fn a_handler_whose_answer_has_no_room_does_not_wait_for_more_to_read() {
    bounded(|| {
        let (to, ends) = mpsc::channel();
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            request.answer.send(vec![7; 200_000])?;
            // It may have been refused by now.
            let _ = request.answer.finish();
            request.body.next().unwrap()?;
            to.send(format!("{:?}", request.body.next()))?;
            Ok(())
        });
        let builder = Client::builder(key()).stream_window(0).max_message(100_000);
        let mut call = server.client_of(builder).open("first").unwrap();
        assert_eq!(ends.recv().unwrap(), "Some(Err(Stopped))");
        let end = call.next().unwrap().unwrap_err();
        assert!(
            matches!(end, Error::Request(RequestError::Refused(Refusal::AnswerTooLarge))),
            "{end}"
        );
        server.stop();
    });
}
