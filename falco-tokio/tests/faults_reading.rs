//! Peers that send and never read: what a server does for them is bounded, and their connections
//! end at the write deadline.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use common::key;
use common::raw::RawPeer;
use common::scene::Scene;
use common::usage::Usage;
use falco_tokio::{Request, Server, Settings};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;

const PEERS: u64 = 10;
/// Bytes of a request, and of its answer.
const LARGE: usize = 60_000;
/// So many bytes of answers may be queued for one peer, and then no request of it is handled. So
/// many bytes of requests are still read, and then reading stops.
const MAX_MESSAGE: u32 = 256 << 10;
/// What the system holds of a connection that is not read, on both sides, is a few MiB at the most;
/// so many answers are enough to fill it. A peer may ask 1024 times.
const ENOUGH: u64 = 200;

#[tokio::test]
async fn peers_that_do_not_read_are_not_read_and_cost_little() {
    let begun = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&begun);
    let handler = move |request: Request| {
        // The client that behaves sends small requests.
        counted.fetch_add(u64::from(request.body().len() == LARGE), Ordering::Relaxed);
        async move { Ok(request.into_body()) }
    };
    let settings = Settings::new()
        .with_max_message(MAX_MESSAGE)
        .with_max_held(MAX_MESSAGE)
        .with_lifetime(Duration::from_secs(2))
        .unwrap();
    let scene = Scene::start(Server::builder(key(1)).settings(settings), handler);
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let peer = RawPeer::new(scene.address).await;
        // Of what the system holds for them the peers have little.
        SockRef::from(&peer.stream).set_recv_buffer_size(8192).unwrap();
        peers.push(peer);
    }
    let before = Usage::now().bytes;
    // One body for all requests, which the peers keep until they are answered.
    let body = Bytes::from(vec![5; LARGE]);
    let mut asking = tokio::task::JoinSet::new();
    for mut peer in peers {
        let body = body.clone();
        asking.spawn(async move {
            let hello = peer.pending_output();
            peer.stream.write_all(&hello).await.unwrap();
            peer.established().await;
            // Sends requests until the server has ended the connection.
            for asked in 0..1024 {
                let request = peer.sealed(body.clone());
                let writing = tokio::time::timeout(Duration::from_millis(500), peer.stream.write_all(&request)).await;
                if writing.is_err() {
                    return (peer, asked);
                }
            }
            panic!("the server is to stop reading, and to be there still");
        });
    }
    let mut silent = Vec::new();
    while let Some(stopped) = asking.join_next().await {
        silent.push(stopped.unwrap());
    }
    let (asked, begun) = (
        silent.iter().map(|(_, asked)| asked).sum::<u64>(),
        begun.load(Ordering::Relaxed),
    );
    let grown = Usage::now().bytes.saturating_sub(before);
    println!(
        "{PEERS} peers that never read asked {asked} times; {begun} requests were handled, in {} KiB",
        grown >> 10
    );
    assert!(begun < ENOUGH * PEERS, "{begun} begun");
    // The peers' own memory is in it: requests that they have sealed.
    assert!(grown < PEERS * u64::from(3 * MAX_MESSAGE) + (16 << 20), "{grown} bytes");
    // A write that makes no progress for a lifetime ends the connection.
    scene.until_connections(1).await;
    drop(silent);
    scene.finish("peers that never read");
}
