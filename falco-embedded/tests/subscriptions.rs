//! Subscriptions, under both drivers and in a super-loop: pieces in a window, silence, ends, and
//! what a truncated answer is. The service is the core's own server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use common::{Came, Service, World, beside, settings, turn};
use falco_core::{ConnectionError, Settings};

/// The window of the device, and the memory of a subscription.
const WINDOW: usize = 1024;

fn device() -> Settings {
    settings().with_streams(1, 0)
}

/// A service that takes open requests, 2 KiB of each at once.
fn service() -> Settings {
    settings().with_streams(2, 4)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..=250).cycle().take(count).collect()
}

#[test]
fn the_whole_request_arrives_and_the_answer_comes_in_pieces() {
    // The last is larger than the window of the service.
    for length in [0, 1, 400, 5000] {
        let serves = async |service: &mut Service<'_>, _: &World| {
            service.until(1, Came::Opened).await;
            service.open();
            service.until(1, Came::Ended).await;
            assert_eq!(service.body, bytes(length));
            service.send(b"one");
            turn_often(service).await;
            service.send(b"two");
            service.finish();
            service.ended().await;
            assert_eq!(service.end, Some(ConnectionError::Closed));
        };
        beside(&device(), &service(), serves, async |client, _| {
            let (body, mut memory) = (bytes(length), [0; WINDOW]);
            let mut subscription = client.subscribe(&body, &mut memory).await.unwrap();
            let mut whole = Vec::new();
            while let Some(piece) = subscription.next().await.unwrap() {
                assert!(!piece.is_empty());
                whole.extend(piece);
            }
            assert_eq!(whole, b"onetwo");
            // The end stays the end.
            assert_eq!(subscription.next().await, Ok(None));
            drop(subscription);
            client.close().await.unwrap();
        });
    }
}

/// Gives the client time to take what was sent.
async fn turn_often(service: &mut Service<'_>) {
    for _ in 0..20 {
        service.exchange();
        turn(service.world()).await;
    }
}
