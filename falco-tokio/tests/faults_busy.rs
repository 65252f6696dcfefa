//! A client that always has work, and requests that are returned to it: it meets its deadlines, and
//! no request is forgotten.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;

use common::{Running, key};
use falco_tokio::{Client, Refusal, Request, Server, Settings};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// A client that uploads without a pause still sends pings, and its connection lasts longer than a
/// lifetime.
#[tokio::test]
async fn an_upload_without_a_pause_lasts_longer_than_a_lifetime() {
    let settings = Settings::new()
        .with_max_message(1 << 30)
        .with_max_held(1 << 30)
        .with_lifetime(Duration::from_secs(1))
        .unwrap();
    let server = Running::start(
        Server::builder(key(1)).settings(settings),
        |request: Request| async move { Ok(request.body().len().to_string()) },
    )
    .await;
    let client = Client::builder(key(1))
        .settings(settings)
        .connect(server.address)
        .await
        .unwrap();
    let began = Instant::now();
    // As many as last for three lifetimes, on this runtime's one thread.
    let body = bytes::Bytes::from(vec![7; 256 << 20]);
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.request(body.clone()).await.unwrap(), (256 << 20).to_string());
    }
    server.stop().await;
}

/// A request that the server refuses as not processed is sent again at once.
#[tokio::test]
async fn a_request_that_is_refused_unprocessed_is_sent_again_at_once() {
    let refused = Arc::new(AtomicBool::new(false));
    let handler = move |request: Request| {
        let refused = Arc::clone(&refused);
        async move {
            sleep(Duration::from_millis(5)).await;
            if refused.swap(true, Ordering::Relaxed) {
                Ok(request.into_body())
            } else {
                Err(Refusal::NotProcessed.into())
            }
        }
    };
    let server = Running::start(Server::builder(key(1)), handler).await;
    let client = server.client().await;
    // Nothing else is about to wake the client.
    sleep(Duration::from_millis(1_500)).await;
    let began = Instant::now();
    assert_eq!(client.request("again").await.unwrap(), "again");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    server.stop().await;
}

/// A retired old key does not mean that the new one is refused.
#[tokio::test]
async fn a_client_with_a_new_key_waits_for_its_server_though_the_old_one_is_retired() {
    let server = Running::echo(Server::builder(key(1))).await;
    let client = Client::builder(key(1)).backoff(Duration::from_millis(10), Duration::from_millis(50));
    let client = client.connect(server.address).await.unwrap();
    let address = server.address;
    server.handle.add_key(key(2)).unwrap();
    client.set_key(key(2)).await.unwrap();
    server.handle.retire_key(key(1).id());
    sleep(Duration::from_millis(50)).await;
    server.stop().await;
    // In its place something that takes hellos and ends.
    let listener = TcpListener::bind(address).await.unwrap();
    let ending = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 100]).await;
        }
    });
    let asking = tokio::spawn(async move { client.request("still there?").await });
    sleep(Duration::from_millis(500)).await;
    assert!(!asking.is_finished(), "it waits");
    ending.abort();
    let _ = ending.await;
    let server = Running::echo_at(Server::builder(key(2)), address).await;
    assert_eq!(asking.await.unwrap().unwrap(), "still there?");
    server.stop().await;
}
