//! Requests whose answers are read while they arrive.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::future::pending;
use core::time::Duration;

use common::key;
use common::streaming::{receive, server, soon};
use falco_tokio::{Client, ClientBuilder, Error, Fate, HandlerError, OnCancel, Refusal, RequestError, StreamRequest};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// A server whose handler answers piece by piece, as the text of the request says: the number of
/// pieces, then `end`, `fail` or `wait`.
async fn serve(to: mpsc::UnboundedSender<&'static str>) -> (common::Running, ClientBuilder) {
    let server = server().on_cancel(OnCancel::Signal).bind("127.0.0.1:0").await.unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.handle());
    let handler = move |request: StreamRequest| {
        let to = to.clone();
        async move { answer(request, &to).await }
    };
    let task = tokio::spawn(async move { server.serve_all_streams(handler).await.unwrap() });
    let client = Client::builder(key(1)).max_message(1000);
    (common::Running { address, handle, task }, client)
}

async fn answer(mut request: StreamRequest, to: &mpsc::UnboundedSender<&'static str>) -> Result<(), HandlerError> {
    let text = request.body.next().await.unwrap()?;
    let (count, then) = str::from_utf8(&text)?.split_once(' ').unwrap();
    for _ in 0..count.parse()? {
        request.answer.send(vec![7; 10_000]).await?;
    }
    match then {
        "end" => Ok(request.answer.finish()?),
        "fail" => {
            // The client has what was sent.
            sleep(Duration::from_millis(50)).await;
            Err("failed".into())
        }
        _ => {
            request.cancelled().await;
            to.send("cancelled")?;
            Ok(())
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_longer_than_a_message_is_read_while_it_arrives() {
    let (to, _ends) = mpsc::unbounded_channel();
    let (server, client) = serve(to).await;
    let client = client.connect(server.address).await.unwrap();
    let mut answer = soon(client.request_stream("500 end")).await.unwrap();
    let mut whole = Vec::new();
    soon(answer.read_to_end(&mut whole)).await.unwrap();
    assert_eq!(whole, vec![7; 5_000_000]);
    assert!(answer.next().await.is_none());
    // Its place is free once it is dropped.
    drop(answer);
    assert_eq!(client.stats().outstanding, 0);
    assert!(
        soon(client.request_stream("0 end"))
            .await
            .unwrap()
            .next()
            .await
            .is_none()
    );
    let stats = server.stop().await.stats;
    assert_eq!((stats.requests, stats.answers, stats.cancelled), (2, 2, 0));
}

#[tokio::test]
async fn a_server_without_streams_answers_as_a_whole() {
    for streams in [false, true] {
        let builder = if streams {
            server()
        } else {
            falco_tokio::Server::builder(key(1))
        };
        let server = common::Running::echo(builder).await;
        let client = server.client().await;
        let mut answer = soon(client.request_stream("hello")).await.unwrap();
        assert_eq!(soon(answer.next()).await.unwrap().unwrap(), "hello");
        assert!(answer.next().await.is_none());
        server.stop().await;
    }
    // The classic wire, too.
    let server = common::Running::echo(falco_tokio::Server::classic(key(1))).await;
    let client = Client::classic(key(1)).connect(server.address).await.unwrap();
    let answer = soon(client.request_stream("hello")).await.unwrap();
    assert_eq!(soon(answer.collect(100)).await.unwrap(), "hello");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_dropped_or_not_awaited_cancels_its_request_and_no_other() {
    let (to, mut ends) = mpsc::unbounded_channel();
    let (server, client) = serve(to).await;
    let client = client.connect(server.address).await.unwrap();
    let mut other = soon(client.request_stream("1 wait")).await.unwrap();
    assert!(soon(other.next()).await.unwrap().is_ok());
    let mut begun = soon(client.request_stream("2 wait")).await.unwrap();
    assert!(soon(begun.next()).await.unwrap().is_ok());
    drop(begun);
    assert_eq!(receive(&mut ends).await, "cancelled");
    // Before the answer begins.
    {
        let waits = client.request_stream("0 wait");
        assert!(tokio::time::timeout(Duration::from_millis(100), waits).await.is_err());
    }
    assert_eq!(receive(&mut ends).await, "cancelled");
    assert_eq!((client.stats().outstanding, ends.len()), (1, 0));
    drop(other);
    assert_eq!(receive(&mut ends).await, "cancelled");
    assert_eq!(server.stop().await.stats.cancelled, 3);
}

#[tokio::test]
async fn the_time_limit_is_for_the_beginning_of_the_answer() {
    const LIMIT: Duration = Duration::from_millis(300);
    let (to, mut ends) = mpsc::unbounded_channel();
    let (server, client) = serve(to).await;
    let client = client.connect(server.address).await.unwrap();
    let began = Instant::now();
    let error = soon(client.request_stream_within("0 wait", LIMIT)).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert_eq!(error.fate(), Fate::MaybeProcessed);
    assert!(began.elapsed() >= LIMIT);
    assert_eq!(receive(&mut ends).await, "cancelled");
    let mut answer = soon(client.request_stream_within("1 wait", LIMIT)).await.unwrap();
    assert!(soon(answer.next()).await.unwrap().is_ok());
    sleep(2 * LIMIT).await;
    assert!(ends.is_empty());
    drop(answer);
    assert_eq!(receive(&mut ends).await, "cancelled");
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_never_looks_complete() {
    let (to, _ends) = mpsc::unbounded_channel();
    let (server, client) = serve(to).await;
    let client = client.connect(server.address).await.unwrap();
    let mut answer = soon(client.request_stream("1 fail")).await.unwrap();
    let told = loop {
        match soon(answer.next()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(told, Error::Request(RequestError::Refused(Refusal::Failed))),
        "{told:?}"
    );
    // Before its first piece, that is the error of the request.
    let told = soon(client.request_stream("0 fail")).await.unwrap_err();
    assert!(
        matches!(told, Error::Request(RequestError::Refused(Refusal::Failed))),
        "{told:?}"
    );
    let mut answer = soon(client.request_stream("1 wait")).await.unwrap();
    assert!(soon(answer.next()).await.unwrap().is_ok());
    server.task.abort();
    let _ = server.task.await;
    let told = soon(answer.next()).await.unwrap().unwrap_err();
    assert_eq!(told.fate(), Fate::MaybeProcessed);
}

#[tokio::test]
async fn a_request_that_waits_for_a_connection_has_a_time_limit_and_can_be_dropped() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(listener.accept().await);
            if kept.len() > 1000 {
                return pending::<()>().await;
            }
        }
    });
    let client = Client::builder(key(1)).connect_lazy(address).unwrap();
    {
        let waits = client.request_stream("x");
        assert!(tokio::time::timeout(Duration::from_millis(50), waits).await.is_err());
    }
    let told = soon(client.request_stream_within("x", Duration::from_millis(100)))
        .await
        .unwrap_err();
    assert_eq!(told.fate(), Fate::NotProcessed);
    assert_eq!(client.stats().outstanding, 0);
    silent.abort();
}
