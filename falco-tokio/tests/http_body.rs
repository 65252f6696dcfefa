//! Open bodies as bodies of the crate `http-body`, which services that speak HTTP pass on.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::streaming::{Streaming, echo, server, soon};
use falco_tokio::{Error, Refusal, RequestError, StreamRequest};
use http_body_util::BodyExt as _;

#[tokio::test]
async fn an_answer_is_read_as_a_body_of_http() {
    let server = Streaming::start(server(), echo).await;
    let client = server.client().await;
    let (mut sending, receiving) = client.open("first, ").await.unwrap().split();
    sending.send("second").await.unwrap();
    sending.finish().unwrap();
    let whole = soon(http_body_util::BodyExt::collect(receiving)).await.unwrap();
    assert_eq!(whole.to_bytes(), "first, second");
    server.stop().await;
}

#[tokio::test]
async fn a_body_of_http_that_was_cut_off_fails() {
    let server = Streaming::start(server(), |mut request: StreamRequest| async move {
        request.answer.send("begun").await?;
        let _ = request.body.next().await;
        Err("failed".into())
    })
    .await;
    let client = server.client().await;
    let (mut sending, mut receiving) = client.open("").await.unwrap().split();
    let first = soon(receiving.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "begun");
    sending.finish().unwrap();
    let told = soon(receiving.frame()).await.unwrap().unwrap_err();
    let failed = Error::Request(RequestError::Refused(Refusal::Failed));
    assert_eq!(format!("{told:?}"), format!("{failed:?}"));
    assert!(soon(receiving.frame()).await.is_none());
    server.stop().await;
}
