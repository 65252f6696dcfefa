//! How each half of an open request ends: dropped, failed, finished early, or with its connection.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::time::Duration;

use bytes::Bytes;
use common::key;
use common::streaming::{Streaming, receive, server, soon};
use falco_tokio::{Client, Error, Fate, OnCancel, Refusal, RequestError, StreamRequest};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::sleep;

#[tokio::test]
async fn a_client_that_drops_a_half_cancels_its_request_and_no_other() {
    let (to, mut ends) = mpsc::unbounded_channel();
    let server = Streaming::start(
        server().on_cancel(OnCancel::Signal),
        move |mut request: StreamRequest| {
            let to = to.clone();
            async move {
                request.answer.send("begun").await?;
                let end = loop {
                    match request.body.next().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break format!("{error:?}"),
                        None => break "whole".to_owned(),
                    }
                };
                let failed = request.answer.send("more").await.is_err();
                to.send((end, failed, request.is_cancelled()))?;
                request.answer.finish()?;
                Ok(())
            }
        },
    )
    .await;
    let client = server.client().await;
    let mut other = client.open("other").await.unwrap();
    assert_eq!(soon(other.next()).await.unwrap().unwrap(), "begun");
    for drop_reader in [true, false] {
        let mut call = client.open("x").await.unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), "begun");
        let (sending, mut receiving) = call.split();
        if drop_reader {
            drop(receiving);
            let cancelled = ("Cancelled".to_owned(), true, true);
            assert_eq!(receive(&mut ends).await, cancelled);
            drop(sending);
        } else {
            drop(sending);
            let cancelled = ("Cancelled".to_owned(), true, true);
            assert_eq!(receive(&mut ends).await, cancelled);
            assert!(
                soon(receiving.next()).await.unwrap().is_err(),
                "never taken for a whole answer"
            );
        }
    }
    other.finish().unwrap();
    assert_eq!(soon(other.next()).await.unwrap().unwrap(), "more");
    assert!(soon(other.next()).await.is_none());
    assert_eq!(receive(&mut ends).await, ("whole".to_owned(), false, false));
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_fails_panics_refuses_or_forgets_to_finish_cuts_its_answer_off() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        let how = request.body.next().await.unwrap()?;
        request.answer.send("begun").await?;
        // A failure also cuts off what was not sent yet.
        sleep(Duration::from_millis(50)).await;
        match &how[..] {
            b"fail" => Err("failed".into()),
            b"panic" => panic!("this test panics"),
            b"refuse" => Err(Refusal::Busy.into()),
            b"drop" => {
                drop(request.answer);
                sleep(Duration::from_millis(20)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    })
    .await;
    let client = server.client().await;
    for how in ["fail", "panic", "refuse", "drop", "forget"] {
        let mut call = client.open(how).await.unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), "begun");
        let end = soon(call.next()).await.unwrap().unwrap_err();
        // What has begun may have been processed, whatever the handler says.
        assert!(
            matches!(end, Error::Request(RequestError::Refused(Refusal::Failed))),
            "{how}: {end:?}"
        );
        assert_eq!(end.fate(), Fate::MaybeProcessed);
        assert!(soon(call.next()).await.is_none());
        assert!(call.send("late").await.is_err());
    }
    let stats = server.stop().await.stats;
    assert_eq!((stats.requests, stats.answers), (5, 0));
    assert_eq!((stats.refusals, stats.failed), (5, 5));
}

#[tokio::test]
async fn an_answer_that_is_finished_ends_its_request() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        request.answer.send("enough").await?;
        request.answer.finish()?;
        Ok(())
    })
    .await;
    let client = server.client().await;
    let mut call = client.open("x").await.unwrap();
    assert_eq!(soon(call.next()).await.unwrap().unwrap(), "enough");
    assert!(soon(call.next()).await.is_none());
    let chunk = Bytes::from(vec![7; 16 << 10]);
    let stopped = loop {
        if let Err(error) = soon(call.send(chunk.clone())).await {
            break error;
        }
    };
    assert!(matches!(stopped, Error::Stopped));
    // Nothing more of it was needed, which is no error.
    call.finish().unwrap();
    assert_eq!(server.stop().await.stats.answers, 1);
}

#[tokio::test]
async fn the_rest_of_an_answer_is_sent_after_its_handler_has_returned() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        // More than a window, which the client reads later.
        for _ in 0..10 {
            request.answer.send(vec![7; 12 << 10]).await?;
        }
        request.answer.finish()?;
        Ok(())
    })
    .await;
    let client = server.client_of(Client::builder(key(1)).stream_window(16 << 10)).await;
    let call = client.open("x").await.unwrap();
    sleep(Duration::from_millis(200)).await;
    let whole = soon(call.collect(1 << 20)).await.unwrap();
    assert_eq!(whole.len(), 120 << 10);
    // One whose reader is dropped then is cancelled, and completes.
    let call = client.open("x").await.unwrap();
    sleep(Duration::from_millis(200)).await;
    drop(call);
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_lost_cuts_both_bodies_off() {
    let (to, mut ends) = mpsc::unbounded_channel();
    let server = Streaming::start(
        server().on_cancel(OnCancel::Signal),
        move |mut request: StreamRequest| {
            let to = to.clone();
            async move {
                request.answer.send("begun").await?;
                let end = request.body.next().await;
                to.send(format!("{end:?}"))?;
                Ok(())
            }
        },
    )
    .await;
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut proxied = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let proxy = tokio::spawn(async move {
        let mut far = far;
        let _ = tokio::io::copy_bidirectional(&mut far, &mut proxied).await;
    });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let mut call = client.open("").await.unwrap();
    assert_eq!(soon(call.next()).await.unwrap().unwrap(), "begun");
    proxy.abort();
    let end = soon(call.next()).await.unwrap().unwrap_err();
    assert_eq!(end.fate(), Fate::MaybeProcessed);
    assert!(soon(call.send("x")).await.is_err());
    let end = receive(&mut ends).await;
    assert!(end.starts_with("Some(Err("), "{end}");
}
#[tokio::test]
async fn a_reader_that_returns_an_error_never_returns_an_end_after_it() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        request.answer.send("begun").await?;
        sleep(Duration::from_millis(50)).await;
        Err("failed".into())
    })
    .await;
    let client = server.client().await;
    let mut call = client.open("x").await.unwrap();
    let mut byte = [0];
    for expected in b"begun" {
        // One byte at a time.
        assert_eq!(soon(call.read(&mut byte)).await.unwrap(), 1);
        assert_eq!(byte[0], *expected);
    }
    for _ in 0..3 {
        assert!(soon(call.read(&mut byte)).await.is_err());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_handler_that_reads_on_after_its_answer_is_not_left_waiting() {
    let (to, mut ends) = mpsc::unbounded_channel();
    let server = Streaming::start(server(), move |mut request: StreamRequest| {
        let to = to.clone();
        async move {
            request.answer.send("enough").await?;
            request.answer.finish()?;
            while let Some(Ok(_)) = request.body.next().await {}
            to.send(())?;
            Err("what it returns after that is only logged".into())
        }
    })
    .await;
    let client = server.client().await;
    let call = client.open("x").await.unwrap();
    let (sending, receiving) = call.split();
    assert_eq!(soon(receiving.collect(100)).await.unwrap(), "enough");
    receive(&mut ends).await;
    drop(sending);
    let stats = server.stop().await.stats;
    assert_eq!((stats.requests, stats.answers, stats.failed), (1, 1, 0));
}
