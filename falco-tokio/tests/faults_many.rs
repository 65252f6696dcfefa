//! Very many requests that are cancelled at once: each costs the same, and others do not wait for
//! them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::time::Instant;

use common::{Running, key};
use falco_tokio::{Client, Error, Request, Server, Settings};
use tokio::task::JoinSet;

/// How long it takes until `count` requests have failed whose time runs out together, and how long
/// a request takes meanwhile that is answered at once.
async fn give_up(client: &Client, count: usize) -> (Duration, Duration) {
    let limit = Duration::from_millis(20) * u32::try_from(count / 1_000).unwrap();
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        asking.spawn(async move { client.request_within("never", limit).await });
    }
    tokio::time::sleep(limit.saturating_sub(began.elapsed())).await;
    let began = Instant::now();
    assert_eq!(client.request("now").await.unwrap(), "now");
    let meanwhile = began.elapsed();
    for end in asking.join_all().await {
        assert!(matches!(end, Err(Error::TimedOut { .. })), "{end:?}");
    }
    (began.elapsed(), meanwhile)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_up_fifty_thousand_requests_takes_no_longer_for_each_than_giving_up_a_few() {
    let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
    let handler = |request: Request| async move {
        if request.body() == "never" {
            core::future::pending::<()>().await;
        }
        Ok(request.into_body())
    };
    let server = Running::start(Server::builder(key(1)).settings(settings), handler).await;
    let client = Client::builder(key(1)).settings(settings).max_outstanding(100_000);
    let client = client.connect(server.address).await.unwrap();
    give_up(&client, 1_000).await;
    let (few, meanwhile_few) = give_up(&client, 5_000).await;
    let (many, meanwhile) = give_up(&client, 50_000).await;
    assert!(
        meanwhile < Duration::from_secs(1),
        "a request that could be answered at once took {meanwhile:?}"
    );
    println!("5,000 took {few:?} ({meanwhile_few:?}), 50,000 took {many:?} ({meanwhile:?})");
    assert!(
        many < few.max(Duration::from_millis(100)) * 40,
        "ten times as many: {many:?} after {few:?}"
    );
    server.stop().await;
}
