//! What a client cannot make a server hold or run with open requests.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;

use common::log::Log;
use common::streaming::{Streaming, echo, receive, server, soon};
use common::{counted, key};
use falco_tokio::{Client, Error, Fate, OnCancel, Refusal, RequestError, Settings, StreamRequest};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

const MIB: u32 = 1 << 20;

/// The client gives no credit, and the handlers end at once: what they leave behind counts, so that
/// further requests wait.
#[tokio::test]
async fn answers_that_wait_for_credit_are_bounded() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let builder = server().settings(Settings::new().with_max_message(MIB).with_max_held(8 * MIB));
    let server = Streaming::start(builder.streams(1024, 1000), move |mut request: StreamRequest| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            request.answer.send(vec![7; 1 << 20]).await?;
            Ok(request.answer.finish()?)
        }
    })
    .await;
    let client = server.client_of(Client::builder(key(1)).stream_window(1024)).await;
    let mut calls = Vec::new();
    for _ in 0..30 {
        calls.push(soon(client.open("?")).await.unwrap());
        sleep(Duration::from_millis(2)).await;
    }
    sleep(Duration::from_millis(100)).await;
    let ran = handled.load(Ordering::Relaxed);
    assert!((8..=10).contains(&ran), "{ran} handlers have left 1 MiB each");
    // A client that reads is served.
    for call in calls {
        assert_eq!(soon(call.collect(2 << 20)).await.unwrap().len(), 1 << 20);
    }
    assert_eq!(handled.load(Ordering::Relaxed), 30);
    server.stop().await;
}

/// The client gives credit for all but the last KiB of each answer. No chunk stays in memory that
/// does not count.
#[tokio::test]
async fn answers_whose_last_bytes_wait_for_credit_are_bounded() {
    for waits in [false, true] {
        let in_memory = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&in_memory);
        let builder = server().settings(Settings::new().with_max_message(MIB).with_max_held(8 * MIB));
        let server = Streaming::start(builder.streams(1024, 1000), move |mut request: StreamRequest| {
            let (chunk, _) = counted::body(1 << 20, &count);
            async move {
                request.answer.send(chunk).await?;
                request.answer.finish()?;
                if waits {
                    // The connection has taken pieces of the chunk when the handler ends.
                    sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
        })
        .await;
        let client = Client::builder(key(1)).stream_window(1023 << 10);
        let client = server.client_of(client).await;
        let mut calls = Vec::new();
        for _ in 0..30 {
            calls.push(soon(client.open("?")).await.unwrap());
            sleep(Duration::from_millis(2)).await;
        }
        sleep(Duration::from_millis(500)).await;
        let bytes = in_memory.load(Ordering::SeqCst);
        assert!(bytes <= 10 << 20, "{bytes} bytes in chunks of 1 MiB");
        for call in calls {
            assert_eq!(soon(call.collect(2 << 20)).await.unwrap().len(), 1 << 20);
        }
        assert_eq!(in_memory.load(Ordering::Relaxed), 0);
        server.stop().await;
    }
}

#[tokio::test]
async fn handlers_that_run_on_after_their_answers_are_bounded() {
    let proceed = Arc::new(Notify::new());
    let waits = Arc::clone(&proceed);
    let server = Streaming::start(server().streams(1024, 4), move |mut request: StreamRequest| {
        let waits = Arc::clone(&waits);
        async move {
            request.answer.finish()?;
            waits.notified().await;
            Ok(())
        }
    })
    .await;
    let client = server.client().await;
    for _ in 0..8 {
        let mut call = soon(client.open("?")).await.unwrap();
        assert!(soon(call.next()).await.is_none(), "the answer is whole");
    }
    let mut next = soon(client.open("?")).await.unwrap();
    let refused = soon(next.next()).await.unwrap().unwrap_err();
    assert_eq!(refused.fate(), Fate::NotProcessed);
    assert!(
        matches!(refused, Error::Request(RequestError::Refused(Refusal::Busy))),
        "{refused}"
    );
    proceed.notify_waiters();
    sleep(Duration::from_millis(50)).await;
    let mut next = soon(client.open("?")).await.unwrap();
    assert!(soon(next.next()).await.is_none());
    proceed.notify_one();
    server.stop().await;
}

/// The client does not take the answer, and cancels while the handler, which has finished it, is
/// still there.
#[tokio::test]
async fn a_request_that_is_cancelled_after_its_answer_was_finished_frees_its_place() {
    for on_cancel in [OnCancel::Drop, OnCancel::Signal] {
        let builder = server().streams(16 << 10, 1).on_cancel(on_cancel);
        let server = Streaming::start(builder, |mut request: StreamRequest| async move {
            if request.body.next().await.transpose()?.as_deref() == Some(b"large") {
                for _ in 0..5 {
                    request.answer.send(vec![7; 12 << 10]).await?;
                }
                request.answer.finish()?;
                sleep(Duration::from_millis(300)).await;
                return Ok(());
            }
            Ok(request.answer.finish()?)
        })
        .await;
        let client = server.client_of(Client::builder(key(1)).stream_window(16 << 10)).await;
        let call = soon(client.open("large")).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        drop(call);
        sleep(Duration::from_millis(400)).await;
        for _ in 0..3 {
            let mut next = soon(client.open("small")).await.unwrap();
            assert!(soon(next.next()).await.is_none());
        }
        assert_eq!(server.handle.stats().cancelled, 1);
        server.stop().await;
    }
}

/// The windows of open requests leave a part of what a connection may hold to other requests.
#[tokio::test]
async fn silent_streams_leave_their_connection_to_other_requests() {
    let builder = server().settings(Settings::new().with_max_message(MIB).with_max_held(8 * MIB));
    let server = Streaming::start(builder.streams(MIB, 256), echo).await;
    let hasty = Client::builder(key(1)).request_timeout(Some(Duration::from_millis(200)));
    let client = server.client_of(hasty).await;
    let mut calls = Vec::new();
    while let Ok(call) = client.open("?").await {
        calls.push(call);
    }
    assert_eq!(calls.len(), 6, "further ones wait");
    for _ in 0..3 {
        assert_eq!(client.request(vec![7; 1000]).await.unwrap(), vec![7; 1000]);
    }
    drop(calls);
    server.stop().await;
}

/// A client of one key opens all it can. A client of another key finds a window.
#[tokio::test]
async fn one_key_leaves_windows_to_another() {
    for later in [false, true] {
        let builder = server().max_held(8 << 20).streams(64 << 10, 500);
        let builder = if later { builder } else { builder.key(key(2)) };
        let server = Streaming::start(builder, echo).await;
        if later {
            server.handle.add_key(key(2)).unwrap();
        }
        let client = server.client().await;
        let (mut open, mut busy) = (Vec::new(), 0);
        for _ in 0..120 {
            let mut call = soon(client.open("?")).await.unwrap();
            match soon(call.next()).await.unwrap() {
                Ok(_) => open.push(call),
                Err(Error::Request(RequestError::Refused(Refusal::Busy))) => busy += 1,
                Err(other) => panic!("{other}"),
            }
        }
        // Of 96 windows, eight times as many as are left.
        assert_eq!((open.len(), busy), (85, 35));
        let other = server.client_of(Client::builder(key(2))).await;
        let mut call = soon(other.open("hello")).await.unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), "hello");
        drop((open, call));
        server.stop().await;
    }
}

/// A body that was cut off is never taken for whole, also by who asks again. The other half learns
/// that it was stopped.
#[tokio::test]
async fn an_error_is_returned_again_by_collect_and_dropping_a_half_stops_the_other() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        if request.body.next().await.transpose()?.as_deref() == Some(b"fail") {
            return Err("no".into());
        }
        request.answer.send("begun").await?;
        request.cancelled().await;
        Ok(())
    })
    .await;
    let client = server.client().await;
    let mut call = soon(client.open("fail")).await.unwrap();
    assert!(soon(call.next()).await.unwrap().is_err());
    soon(call.collect(10)).await.unwrap_err();
    let (sending, mut receiving) = soon(client.open("?")).await.unwrap().split();
    assert_eq!(soon(receiving.next()).await.unwrap().unwrap(), "begun");
    drop(sending);
    let told = soon(receiving.next()).await.unwrap().unwrap_err();
    assert!(matches!(told, Error::Stopped), "{told:?}");
    server.stop().await;
}

#[tokio::test]
async fn handlers_that_fail_after_their_answers_do_not_fill_the_log() {
    let (log, _guard) = Log::warnings();
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        request.answer.finish()?;
        Err("no".into())
    })
    .await;
    let client = server.client().await;
    for _ in 0..100 {
        let mut call = soon(client.open("?")).await.unwrap();
        assert!(soon(call.next()).await.is_none());
    }
    server.stop().await;
    let text = log.text();
    let each = text.lines().filter(|line| line.contains("had finished its answer"));
    let count = each.count();
    assert!((10..=50).contains(&count), "{count} lines: {text}");
}

/// Unsent bytes of ended handlers have no room: their answers are cut off, and clients learn why.
#[tokio::test]
async fn an_answer_without_room_is_cut_off() {
    let (log, _guard) = Log::warnings();
    let server = Streaming::start(
        server().streams(16 << 10, 2).max_answers(256 << 10),
        |mut request: StreamRequest| async move {
            request.answer.send(vec![7; 1 << 20]).await?;
            Ok(request.answer.finish()?)
        },
    )
    .await;
    let client = server.client().await;
    for _ in 0..20 {
        let mut call = soon(client.open("?")).await.unwrap();
        sleep(Duration::from_millis(10)).await;
        let end = loop {
            if let Err(end) = soon(call.next()).await.unwrap() {
                break end;
            }
        };
        assert!(
            matches!(end, Error::Request(RequestError::Refused(Refusal::AnswerTooLarge))),
            "{end}"
        );
    }
    server.stop().await;
    // The clients accept such answers.
    let text = log.text();
    assert!(!text.contains("larger than the client accepts"), "{text}");
    let (mut logged, mut left_out) = (0, 0);
    for line in text.lines().filter(|line| line.contains("dropped an answer: ")) {
        let (_, count) = line.split_once("left_out=").unwrap();
        left_out += count.split(' ').next().unwrap().parse::<u64>().unwrap();
        logged += u64::from(!line.contains("further warnings were left out"));
    }
    assert_eq!(logged + left_out, 20, "{text}");
}

/// Its request has ended, so nothing more of the body arrives.
#[tokio::test]
async fn a_handler_whose_answer_has_no_room_does_not_wait_for_more_to_read() {
    let (to, mut ends) = mpsc::unbounded_channel();
    let server = Streaming::start(server(), move |mut request: StreamRequest| {
        let to = to.clone();
        async move {
            request.answer.send(vec![7; 200_000]).await?;
            request.answer.finish()?;
            request.body.next().await.unwrap()?;
            to.send(format!("{:?}", request.body.next().await))?;
            Ok(())
        }
    })
    .await;
    let builder = Client::builder(key(1)).stream_window(0).max_message(100_000);
    let client = server.client_of(builder).await;
    let mut call = client.open("first").await.unwrap();
    assert_eq!(receive(&mut ends).await, "Some(Err(Stopped))");
    let end = soon(call.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(end, Error::Request(RequestError::Refused(Refusal::AnswerTooLarge))),
        "{end}"
    );
    server.stop().await;
}
