//! How open requests begin, are counted, and learn that their connection drains.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::pin;
use core::time::Duration;

use common::key;
use common::streaming::{Streaming, WINDOW, echo, receive, server, soon};
use falco_tokio::{
    Call, Client, ClientStats, ConnectionError, Error, Fate, HandlerError, OnCancel, Refusal, Request, RequestError,
    StreamRequest,
};
use tokio::time::{sleep, timeout};

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn an_open_request_over_the_servers_limit_waits_for_a_place_until_its_time_limit() {
    let server = Streaming::start(server().streams(WINDOW, 1), echo).await;
    // Without a time limit it waits until there is a place. Another client has its own.
    let patient = server.client_of(Client::builder(key(1)).request_timeout(None)).await;
    let hasty = server
        .client_of(Client::builder(key(1)).request_timeout(Some(SHORT)))
        .await;
    let mut first = patient.open("first").await.unwrap();
    let mut other = hasty.open("other").await.unwrap();
    assert_eq!(soon(first.next()).await.unwrap().unwrap(), "first");
    assert_eq!(soon(other.next()).await.unwrap().unwrap(), "other");
    let opener = patient.clone();
    let waiting = tokio::spawn(async move { opener.open("second").await });
    let told = soon(hasty.open("late")).await.unwrap_err();
    assert!(matches!(told, Error::TimedOut { limit: SHORT, .. }), "{told:?}");
    assert_eq!(told.fate(), Fate::NotProcessed);
    // Nor is one sent whose caller no longer waits.
    assert!(timeout(SHORT, patient.open("dropped")).await.is_err());
    assert!(!waiting.is_finished());
    // It holds up no other request.
    assert_eq!(soon(patient.request("whole")).await.unwrap(), "whole");
    first.finish().unwrap();
    assert!(soon(first.next()).await.is_none());
    let mut second = soon(waiting).await.unwrap().unwrap();
    assert_eq!(soon(second.next()).await.unwrap().unwrap(), "second");
    // The limit is for its beginning alone.
    sleep(2 * SHORT).await;
    for mut call in [second, other] {
        call.finish().unwrap();
        assert!(soon(call.next()).await.is_none());
    }
    assert_eq!(soon(hasty.request("whole")).await.unwrap(), "whole");
    let stats = server.stop().await.stats;
    assert_eq!((stats.requests, stats.answers, stats.cancelled), (5, 5, 0));
}

#[tokio::test]
async fn an_open_request_that_waits_for_a_connection_has_a_time_limit() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let builder = Client::builder(key(1)).request_timeout(Some(SHORT));
    let client = builder.connect_lazy(&address).unwrap();
    let told = soon(client.open("")).await.unwrap_err();
    assert!(matches!(told, Error::TimedOut { .. }), "{told:?}");
    assert_eq!(told.fate(), Fate::NotProcessed);
}

#[tokio::test]
async fn open_requests_are_counted_as_others_are() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        let first = request.body.next().await.unwrap()?;
        request.answer.send(first.clone()).await?;
        if first == "fails" {
            sleep(SHORT).await;
            return Err("it fails".into());
        }
        request.answer.finish()?;
        Ok(())
    })
    .await;
    let client = server.client().await;
    let counted = |stats: ClientStats| (stats.requests, stats.answers, stats.errors, stats.outstanding);
    let call = client.open("answered").await.unwrap();
    assert_eq!(counted(client.stats()), (1, 0, 0, 1));
    assert_eq!(soon(call.collect(100)).await.unwrap(), "answered");
    assert_eq!(counted(client.stats()), (1, 1, 0, 0));
    let call = client.open("fails").await.unwrap();
    assert!(soon(call.collect(100)).await.is_err());
    assert_eq!(counted(client.stats()), (2, 1, 1, 0));
    // One that is dropped has neither outcome.
    drop(client.open("fails").await.unwrap());
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    assert_eq!(counted(client.stats()), (4, 2, 1, 0));
    server.stop().await;

    let plain = common::Running::echo(common::streaming::server()).await;
    let client = plain.client().await;
    let told = soon(client.open("")).await.unwrap_err();
    assert!(matches!(told, Error::Request(RequestError::NoOpenBodies)), "{told:?}");
    assert_eq!(counted(client.stats()), (1, 0, 1, 0));
    client.close().await;
    assert!(matches!(client.open("").await, Err(Error::Closed)));
    assert_eq!(counted(client.stats()), (2, 0, 2, 0));
    plain.stop().await;
}

#[tokio::test]
async fn a_handler_that_returns_a_refusal_after_its_answer_counts_as_one_that_refused() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        let first = request.body.next().await.unwrap()?;
        request.answer.send("no").await?;
        request.answer.finish()?;
        if first == "refused" {
            return Err(Refusal::Failed.into());
        }
        Err("it fails after its answer".into())
    })
    .await;
    let client = server.client().await;
    for first in ["refused", "answered"] {
        let call = client.open(first).await.unwrap();
        assert_eq!(soon(call.collect(100)).await.unwrap(), "no");
    }
    let stats = server.stop().await.stats;
    assert_eq!(
        (stats.requests, stats.answers, stats.refusals, stats.failed),
        (2, 1, 1, 1)
    );
}

#[tokio::test]
async fn a_connection_over_any_stream_carries_open_requests() {
    let server = server().unbound().unwrap();
    let (near, far) = tokio::io::duplex(4096);
    let whole = |request: Request| async move { Ok(request.into_body()) };
    let serving = tokio::spawn(async move { server.serve_connection_streams(far, whole, echo).await });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let mut call = client.open("one ").await.unwrap();
    call.send("two").await.unwrap();
    call.finish().unwrap();
    assert_eq!(soon(call.collect(100)).await.unwrap(), "one two");
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    client.close().await;
    assert_eq!(soon(serving).await.unwrap().unwrap(), ConnectionError::Closed);
}

#[tokio::test]
async fn one_handler_answers_all_requests_of_a_connection_over_any_stream() {
    let server = server().unbound().unwrap();
    let (near, far) = tokio::io::duplex(4096);
    let serving = tokio::spawn(async move { server.serve_connection_all_streams(far, echo).await });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let mut call = client.open("open").await.unwrap();
    call.finish().unwrap();
    assert_eq!(soon(call.collect(100)).await.unwrap(), "open");
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    client.close().await;
    assert_eq!(soon(serving).await.unwrap().unwrap(), ConnectionError::Closed);
}

/// A handler of a subscription, which sends a last message when its connection drains.
async fn subscription(mut request: StreamRequest) -> Result<(), HandlerError> {
    let mut closing = pin!(request.closing());
    assert!(!request.is_closing());
    request.answer.send("begun").await?;
    tokio::select! {
        _ = request.body.next() => return Err("its connection is lost".into()),
        () = &mut closing => {}
    }
    assert!(request.is_closing());
    request.answer.send("farewell").await?;
    Ok(request.answer.finish()?)
}

/// Opens a subscription.
async fn subscribe(client: &Client) -> Call {
    let mut call = client.open("").await.unwrap();
    assert_eq!(soon(call.next()).await.unwrap().unwrap(), "begun");
    call
}

async fn ends_well(mut call: Call) {
    assert_eq!(soon(call.next()).await.unwrap().unwrap(), "farewell");
    assert!(soon(call.next()).await.is_none());
}

#[tokio::test]
async fn handlers_of_streams_learn_that_their_server_shuts_down() {
    let server = Streaming::start(server(), subscription).await;
    let client = server.client().await;
    let calls = [subscribe(&client).await, subscribe(&client).await];
    server.handle.shutdown_within(Duration::from_secs(60));
    for call in calls {
        ends_well(call).await;
    }
    let report = soon(server.task).await.unwrap();
    assert_eq!((report.cut_requests, report.stats.answers), (0, 2));
}

#[tokio::test]
async fn the_report_of_a_shutdown_counts_answers_whose_handlers_have_not_returned() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        request.answer.send("answer").await?;
        request.answer.finish()?;
        core::future::pending().await
    })
    .await;
    let client = server.client().await;
    let mut call = client.open("").await.unwrap();
    call.finish().unwrap();
    assert_eq!(soon(call.collect(100)).await.unwrap(), "answer");
    client.close().await;
    let report = server.stop().await;
    assert_eq!((report.cut_requests, report.stats.answers), (0, 1));
    assert_eq!(report.stats.cancelled, 0);
}

#[tokio::test]
async fn handlers_of_streams_learn_that_their_connection_is_old_or_its_key_retired() {
    let old = Streaming::start(server().max_connection_age(2 * SHORT), subscription).await;
    let client = old.client().await;
    ends_well(subscribe(&client).await).await;
    old.stop().await;

    let retiring = Streaming::start(server().key(key(2)), subscription).await;
    let (first, second) = (Client::builder(key(1)), Client::builder(key(2)));
    let (first, second) = (retiring.client_of(first).await, retiring.client_of(second).await);
    let (retired, mut stays) = (subscribe(&first).await, subscribe(&second).await);
    retiring.handle.retire_key(key(1).id());
    ends_well(retired).await;
    assert!(timeout(SHORT, stays.next()).await.is_err(), "its key is not retired");
    drop(stays);
    retiring.stop().await;
}

#[tokio::test]
async fn handlers_of_streams_learn_that_their_client_closes_or_is_gone() {
    let server = Streaming::start(server(), subscription).await;
    let client = server.client().await;
    let call = subscribe(&client).await;
    let closing = tokio::spawn(async move { client.close().await });
    ends_well(call).await;
    soon(closing).await.unwrap();

    let (to, mut told) = tokio::sync::mpsc::unbounded_channel();
    let signal = common::streaming::server().on_cancel(OnCancel::Signal);
    let lost = Streaming::start(signal, move |mut request: StreamRequest| {
        let to = to.clone();
        async move {
            request.answer.send("begun").await?;
            request.closing().await;
            to.send(request.is_closing())?;
            Ok(())
        }
    })
    .await;
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut proxied = tokio::net::TcpStream::connect(lost.address).await.unwrap();
    let proxy = tokio::spawn(async move {
        let mut far = far;
        let _ = tokio::io::copy_bidirectional(&mut far, &mut proxied).await;
    });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let call = subscribe(&client).await;
    proxy.abort();
    assert!(receive(&mut told).await);
    drop(call);
}

/// The answer cannot be completed, because no more credit comes.
#[tokio::test]
async fn a_writer_without_credit_learns_that_its_client_has_ended_its_stream() {
    let (to, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = tokio::sync::watch::channel(false);
    let server = Streaming::start(server(), move |mut request: StreamRequest| {
        let (to, mut ended) = (to.clone(), ended.clone());
        async move {
            request.answer.send("begun").await?;
            if request.body.next().await.is_some_and(|first| first.unwrap() == "stays") {
                request.closing().await;
                to.send(None)?;
                ended.wait_for(|ended| *ended).await?;
                request.answer.finish()?;
                return Ok(());
            }
            loop {
                if let Err(error) = request.answer.send(vec![0; 64 << 10]).await {
                    to.send(Some(error))?;
                    return Ok(());
                }
            }
        }
    })
    .await;
    let socket = std::net::TcpStream::connect(server.address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(socket.try_clone().unwrap()).unwrap();
    let client = Client::builder(key(1)).over(stream).await.unwrap();
    let mut calls = Vec::new();
    for first in ["stays", "writes"] {
        let mut call = client.open(first).await.unwrap();
        call.finish().unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), "begun");
        calls.push(call);
    }
    let closing = tokio::spawn(async move { client.close().await });
    assert!(receive(&mut told).await.is_none());
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let why = receive(&mut told).await.unwrap();
    assert!(matches!(why, Error::Stopped), "{why:?}");
    assert_eq!(server.handle.stats().connections, 1);
    end.send(true).unwrap();
    drop(calls);
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn streams_drain_with_their_server_and_a_new_one_goes_to_the_next_connection() {
    let server = Streaming::start(server().max_connection_age(Duration::from_millis(100)), echo).await;
    let client = server.client().await;
    let mut old = client.open("old").await.unwrap();
    assert_eq!(soon(old.next()).await.unwrap().unwrap(), "old");
    sleep(Duration::from_millis(300)).await;
    let mut new = client.open("new").await.unwrap();
    assert_eq!(soon(new.next()).await.unwrap().unwrap(), "new");
    for call in [&mut old, &mut new] {
        call.send("still").await.unwrap();
        assert_eq!(soon(call.next()).await.unwrap().unwrap(), "still");
        call.finish().unwrap();
        assert!(soon(call.next()).await.is_none());
    }
    assert_eq!(client.stats().connected, 2);
    server.stop().await;
}
