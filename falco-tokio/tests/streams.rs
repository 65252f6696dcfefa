//! Open requests and answers: bodies of any length, both ways at once.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;

use allocation_counter::measure;
use bytes::Bytes;
use common::key;
use common::streaming::{Streaming, WINDOW, echo, server, soon};
use falco_tokio::{Client, Error, Fate, Refusal, RequestError, StreamRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn both_bodies_travel_at_the_same_time() {
    let server = Streaming::start(server(), echo).await;
    let client = server.client().await;
    let mut call = client.open("first").await.unwrap();
    assert_eq!(call.next().await.unwrap().unwrap(), "first");
    for round in 0..100 {
        let text = format!("round {round}");
        call.send(text.clone()).await.unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), text);
    }
    // Other requests go on meanwhile.
    assert_eq!(client.request("whole").await.unwrap(), "whole");
    call.finish().unwrap();
    assert!(call.next().await.is_none() && call.next().await.is_none());
    assert!(matches!(call.send("late").await, Err(Error::Stopped)));
    let stats = server.stop().await.stats;
    assert_eq!((stats.requests, stats.answers, stats.refusals), (2, 2, 0));
}

#[tokio::test]
async fn a_long_body_arrives_byte_for_byte_through_readers_and_writers() {
    const LENGTH: usize = 20_000_000;
    let server = Streaming::start(server(), |request: StreamRequest| async move {
        let StreamRequest {
            mut body, mut answer, ..
        } = request;
        tokio::io::copy(&mut body, &mut answer).await?;
        answer.shutdown().await?;
        Ok(())
    })
    .await;
    let client = server.client().await;
    let (mut sending, mut receiving) = client.open("").await.unwrap().split();
    let byte = |at: usize| (at % 251).to_le_bytes()[0];
    let writing = tokio::spawn(async move {
        let mut at = 0;
        for length in [1, 7, 100, 70_000, 1_000_000].into_iter().cycle() {
            let length = length.min(LENGTH - at);
            let piece: Vec<u8> = (at..at + length).map(byte).collect();
            sending.write_all(&piece).await.unwrap();
            at += length;
            if at == LENGTH {
                break;
            }
        }
        sending.shutdown().await.unwrap();
    });
    let mut whole = Vec::new();
    receiving.read_to_end(&mut whole).await.unwrap();
    writing.await.unwrap();
    assert_eq!(whole.len(), LENGTH);
    assert!(whole.iter().enumerate().all(|(at, found)| *found == byte(at)));
    server.stop().await;
}

#[tokio::test]
async fn a_server_without_a_handler_for_them_and_one_with_a_window_of_0_take_none() {
    let plain = common::Running::echo(server()).await;
    let closed = Streaming::start(server().streams(0, 10), echo).await;
    let none = Streaming::start(server().streams(WINDOW, 0), echo).await;
    for address in [plain.address, closed.address, none.address] {
        let client = Client::builder(key(1)).connect(address).await.unwrap();
        let told = match client.open("x").await {
            Err(error) => error,
            Ok(mut call) => soon(call.next()).await.unwrap().unwrap_err(),
        };
        assert!(matches!(told, Error::Request(RequestError::NoOpenBodies)), "{told:?}");
        assert_eq!(told.fate(), Fate::NotProcessed);
        assert_eq!(client.request("whole").await.unwrap(), "whole");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_bounds_what_is_buffered_and_holds_up_no_other() {
    let taken = Arc::new(AtomicUsize::new(0));
    let (go, wait) = oneshot::channel::<()>();
    let wait = Arc::new(tokio::sync::Mutex::new(Some(wait)));
    let counted = Arc::clone(&taken);
    let server = Streaming::start(server(), move |mut request: StreamRequest| {
        let (wait, counted) = (Arc::clone(&wait), Arc::clone(&counted));
        async move {
            let first = request.body.next().await.unwrap()?;
            if first == "stuck" {
                let wait = wait.lock().await.take().unwrap();
                wait.await?;
            }
            while let Some(bytes) = request.body.next().await {
                counted.fetch_add(bytes?.len(), Ordering::Relaxed);
            }
            request.answer.finish()?;
            Ok(())
        }
    })
    .await;
    let client = server.client().await;
    let mut stuck = client.open("stuck").await.unwrap();
    let chunk = Bytes::from(vec![7; 16 << 10]);
    let mut sent = 0;
    while timeout(Duration::from_millis(200), stuck.send(chunk.clone()))
        .await
        .is_ok()
    {
        sent += chunk.len();
        assert!(sent < 1 << 20, "nothing bounds it");
    }
    // The window, what the connection has queued, and what waits for it.
    assert!((64 << 10..=(64 << 10) + (144 << 10)).contains(&sent), "{sent}");
    // Another stream and requests are not held up.
    let mut other = client.open("other").await.unwrap();
    for _ in 0..100 {
        soon(other.send(chunk.clone())).await.unwrap();
    }
    other.finish().unwrap();
    assert!(soon(other.next()).await.is_none());
    assert_eq!(taken.load(Ordering::Relaxed), 100 * chunk.len());
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    // It goes on when its reader does.
    go.send(()).unwrap();
    stuck.finish().unwrap();
    assert!(soon(stuck.next()).await.is_none());
    assert_eq!(taken.load(Ordering::Relaxed), 100 * chunk.len() + sent);
    server.stop().await;
}

#[tokio::test]
async fn a_client_without_a_window_gets_the_answer_as_a_whole() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        let pieces: usize = str::from_utf8(&request.body.next().await.unwrap()?)?.parse()?;
        for _ in 0..pieces {
            request.answer.send(vec![7; 1000]).await?;
        }
        request.answer.finish()?;
        Ok(())
    })
    .await;
    let builder = Client::builder(key(1)).stream_window(0).max_message(100_000);
    let client = server.client_of(builder).await;
    let call = client.open("100").await.unwrap();
    assert_eq!(soon(call.collect(1 << 20)).await.unwrap().len(), 100_000);
    let call = client.open("101").await.unwrap();
    let told = soon(call.collect(1 << 20)).await.unwrap_err();
    assert!(
        matches!(told, Error::Request(RequestError::Refused(Refusal::AnswerTooLarge))),
        "{told:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_whole_request_may_be_answered_piece_by_piece() {
    let server = server().bind("127.0.0.1:0").await.unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.handle());
    let streams = |request: StreamRequest| async move {
        let StreamRequest { body, mut answer, .. } = request;
        let text = body.collect(1 << 10).await?;
        let count: usize = str::from_utf8(&text)?.parse()?;
        for _ in 0..count {
            answer.send(vec![7; 10_000]).await?;
        }
        // Otherwise the answer is cut off.
        if count.is_multiple_of(2) {
            answer.finish()?;
        }
        Ok(())
    };
    let serving = tokio::spawn(server.serve_all_streams(streams));
    for window in [16 << 10, 0] {
        let builder = Client::builder(key(1)).stream_window(window).max_message(400_000);
        let client = builder.connect(address).await.unwrap();
        for count in [0, 2, 40] {
            let answer = soon(client.request(count.to_string())).await.unwrap();
            assert_eq!(answer, vec![7; count * 10_000]);
        }
        let mut call = client.open("4").await.unwrap();
        call.finish().unwrap();
        assert_eq!(soon(call.collect(1 << 20)).await.unwrap().len(), 40_000);
        // Over the largest message, and without its end.
        for (count, refusal) in [(42, Refusal::AnswerTooLarge), (3, Refusal::Failed)] {
            let error = soon(client.request(count.to_string())).await.unwrap_err();
            assert!(
                matches!(error, Error::Request(RequestError::Refused(told)) if told == refusal),
                "{window} {count}: {error:?}"
            );
        }
        assert_eq!(soon(client.request("2")).await.unwrap().len(), 20_000);
        client.close().await;
    }
    handle.shutdown_within(Duration::from_secs(5));
    let report = serving.await.unwrap().unwrap();
    assert_eq!((report.cut_requests, report.stats.requests), (0, 14));
}

#[tokio::test]
async fn a_future_that_is_dropped_loses_nothing() {
    let server = Streaming::start(server(), echo).await;
    let client = server.client().await;
    let mut call = client.open("").await.unwrap();
    for round in 0..50 {
        let text = format!("{round}");
        {
            // Polled once, and dropped.
            let mut next = Box::pin(call.next());
            let polled = core::future::poll_fn(|cx| core::task::Poll::Ready(Pin::new(&mut next).poll(cx))).await;
            assert!(polled.is_pending());
        }
        call.send(text.clone()).await.unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), text);
    }
    drop(call);
    server.stop().await;
}

/// A long chunk of a caller.
const LONG: usize = 5_000_000;

#[test]
fn many_short_pieces_and_one_long_one_take_no_more_memory_than_the_window() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    // Both sides run on this thread.
    let memory = measure(|| runtime.block_on(short_pieces_and_a_long_one()));
    let held = usize::try_from(memory.bytes_max).unwrap() - LONG;
    // For each body a window, which is 256 KiB at the client, and 128 KiB on their way; a piece of
    // the long chunk; and what both connections and this test take.
    assert!(
        held < (64 << 10) + (256 << 10) + 2 * (128 << 10) + (320 << 10),
        "{held}"
    );
}

async fn short_pieces_and_a_long_one() {
    const SHORT: usize = 600_000;
    let server = Streaming::start(server(), echo).await;
    let client = server.client().await;
    let (mut sending, mut receiving) = client.open("").await.unwrap().split();
    let writing = tokio::spawn(async move {
        for _ in 0..SHORT {
            sending.send(Bytes::from_static(b"x")).await.unwrap();
        }
        sending.send(vec![b'y'; LONG]).await.unwrap();
        sending.finish().unwrap();
    });
    // All buffers are full, of short pieces first, and then of the long one.
    sleep(Duration::from_millis(500)).await;
    assert!(!writing.is_finished());
    let mut at = 0;
    while let Some(bytes) = timeout(Duration::from_secs(60), receiving.next()).await.unwrap() {
        for byte in bytes.unwrap() {
            assert_eq!(byte, if at < SHORT { b'x' } else { b'y' }, "at {at}");
            at += 1;
        }
        if at == SHORT {
            sleep(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(at, SHORT + LONG);
    writing.await.unwrap();
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    server.stop().await;
}
