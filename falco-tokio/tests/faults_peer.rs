//! Peers that have the key misbehave in several ways, while a well-behaved client is served as
//! usual.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::time::Duration;
use std::time::Instant;

use common::key;
use common::raw::RawPeer;
use common::scene::Scene;
use falco_tokio::{Client, Refusal, Server, ServerBuilder, Settings};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;

const PEERS: usize = 20;
const LARGE: usize = 1 << 20;
/// How long peers connect and disconnect.
const WHILE: Duration = Duration::from_millis(1500);

fn brief() -> Settings {
    Settings::new().with_lifetime(Duration::from_secs(1)).unwrap()
}

/// With room for two large requests and a short one, which count 1 KiB each besides their bodies,
/// and no more: what a peer has held and not given back is missed.
fn narrow() -> ServerBuilder {
    Server::builder(key(1))
        .settings(brief())
        .max_held(2 * LARGE + 3 * 1024 + 1000)
}

/// Peers, each with half of a large message sent.
async fn half_sent(scene: &Scene, peers: usize) -> Vec<RawPeer> {
    let mut all = Vec::new();
    for _ in 0..peers {
        let mut peer = RawPeer::connect(scene.address).await;
        let part = peer.sealed_part(vec![7; LARGE], LARGE / 2);
        peer.stream.write_all(&part).await.unwrap();
        all.push(peer);
    }
    all
}

/// A request that takes all the room is answered.
async fn nothing_is_held(scene: &Scene) {
    let client = Client::builder(key(1)).connect(scene.address).await.unwrap();
    let body = vec![9; 2 * LARGE];
    assert!(client.request(body.clone()).await.unwrap() == body);
    client.close().await;
}

#[tokio::test]
async fn peers_that_go_in_the_middle_of_a_message() {
    let scene = Scene::echo(narrow());
    let since = Instant::now();
    let rounds = (0..100).take_while(|round| *round < 2 || since.elapsed() < WHILE);
    for round in rounds {
        for mut peer in half_sent(&scene, PEERS).await {
            // And in the middle of a record.
            let rest = peer.pending_output();
            peer.stream.write_all(rest.split_at(1000).0).await.unwrap();
            // With a reset, or with a FIN.
            if round % 2 == 0 {
                SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        scene.until_connections(1).await;
        nothing_is_held(&scene).await;
    }
    scene.finish("departures");
}

#[tokio::test]
async fn peers_that_fall_silent_in_the_middle_of_a_message() {
    let scene = Scene::echo(narrow());
    let peers = half_sent(&scene, PEERS).await;
    scene.until_connections(1 + u64::try_from(PEERS).unwrap()).await;
    // Nothing reports their end; the idle timeout detects it.
    scene.until_connections(1).await;
    nothing_is_held(&scene).await;
    drop(peers);
    scene.finish("silence");
}

#[tokio::test]
async fn peers_that_stall_in_the_middle_of_a_message_and_live_on() {
    let scene = Scene::echo(narrow());
    // If the pause is shorter than a lifetime, the message continues and is answered.
    let mut peer = half_sent(&scene, 1).await.pop().unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let rest = peer.pending_output();
    peer.stream.write_all(&rest).await.unwrap();
    assert!(peer.answer().await.unwrap().unwrap() == vec![7; LARGE]);
    drop(peer);

    // After a longer pause the server gives up the message, however often the peer pings. The
    // connection stays open.
    let mut peer = half_sent(&scene, 1).await.pop().unwrap();
    let mut refused = None;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        refused = refused.or(peer.ping().await);
    }
    assert_eq!(refused, Some(Refusal::NotProcessed));
    let small = peer.sealed(b"still here".to_vec());
    peer.stream.write_all(&small).await.unwrap();
    assert_eq!(peer.answer().await.unwrap().unwrap(), b"still here");
    // At the end of the test, because the connection of the peer may end while this waits.
    nothing_is_held(&scene).await;
    scene.finish("stalls");
}

#[tokio::test]
async fn peers_that_send_one_byte_at_a_time_are_served() {
    let scene = Scene::echo(Server::builder(key(1)));
    let mut peers = tokio::task::JoinSet::new();
    for number in 0..PEERS {
        let address = scene.address;
        peers.spawn(async move {
            let mut peer = RawPeer::new(address).await;
            peer.stream.set_nodelay(true).unwrap();
            let hello = peer.pending_output();
            dribble(&mut peer, &hello).await;
            peer.established().await;
            for request in 0..5 {
                let body = format!("dribbled by {number}: {request}").into_bytes();
                let request = peer.sealed(body.clone());
                dribble(&mut peer, &request).await;
                assert_eq!(peer.answer().await.unwrap().unwrap(), body);
            }
        });
    }
    while let Some(served) = peers.join_next().await {
        served.unwrap();
    }
    let report = scene.finish("dribbles");
    assert_eq!(report.stats.unauthenticated, 0);
}

async fn dribble(peer: &mut RawPeer, bytes: &[u8]) {
    for byte in bytes {
        peer.stream.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
