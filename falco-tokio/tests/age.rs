//! Connections that drain because they are old.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;

use common::{Running, key};
use falco_tokio::{Client, Request, Server};
use tokio::task::JoinSet;

#[tokio::test]
async fn clients_move_to_new_connections_and_no_request_fails() {
    let builder = Server::builder(key(1)).max_connection_age(Duration::from_millis(100));
    let server = Running::start(builder, |request: Request| async move {
        tokio::time::sleep(Duration::from_millis(3)).await;
        Ok(request.into_body())
    })
    .await;
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let client = server.client().await;
        clients.spawn(async move {
            let begun = tokio::time::Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                assert_eq!(client.request("x").await.unwrap(), "x");
            }
        });
    }
    clients.join_all().await;
    let established = server.stop().await.stats.established;
    // At most one each 90 ms, and not many fewer.
    assert!((16..=48).contains(&established), "{established}");
}

#[tokio::test]
async fn the_classic_wire_keeps_its_connections() {
    let builder = Server::classic(key(1)).max_connection_age(Duration::from_millis(10));
    let server = Running::echo(builder).await;
    let client = Client::classic(key(1)).connect(server.address).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(client.request("x").await.unwrap(), "x");
    }
    assert_eq!(server.stop().await.stats.established, 1);
}
