//! How open requests begin, are counted, and learn that their connection drains.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;

use common::streaming::{Streaming, echo, server, soon};
use tokio::time::sleep;

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
