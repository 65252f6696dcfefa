//! Floods of unauthenticated connections, and of handshakes that never complete.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;

use common::key;
use common::raw::RawPeer;
use common::scene::Scene;
use falco_tokio::{Client, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FLOOD: usize = 500;
const HALF_OPEN: u64 = 200;
const MAX_HALF_OPEN: u64 = 64;

fn impatient() -> Settings {
    Settings::new().with_handshake_timeout(Duration::from_secs(1)).unwrap()
}

/// A client connects and is served during the flood, although it may wait in the backlog for a
/// while.
async fn another_is_served(scene: &Scene) {
    let mut attempts = 0;
    let client = loop {
        match Client::builder(key(1)).connect(scene.address).await {
            Ok(client) => break client,
            Err(error) if attempts == 20 => panic!("{error}"),
            Err(_) => attempts += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(client.request("let me through").await.unwrap(), "let me through");
    client.close().await;
}

/// The system drops connections over its backlog, and a client or a flooding connection then hangs
/// for seconds.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_burst_waits_until_the_server_takes_it() {
    let server = Server::builder(key(1)).bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let mut burst = Vec::new();
    for number in 0..FLOOD {
        // Loopback takes no time; a lost first SYN is repeated after a second.
        let connected = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(900));
        burst.push(connected.unwrap_or_else(|error| panic!("connection {number}: {error}")));
    }
}

#[tokio::test]
async fn five_hundred_strangers_at_once() {
    let builder = Server::builder(key(1)).settings(impatient()).max_connections(100);
    let scene = Scene::echo(builder);
    for round in 0..3 {
        let mut strangers = tokio::task::JoinSet::new();
        for number in 0..FLOOD {
            let address = scene.address;
            strangers.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                match number % 3 {
                    // Bytes of neither wire, a hello under another key, and no bytes.
                    0 => drop(stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await),
                    1 => {
                        let mut hello = [0x5A; 74];
                        hello.split_at_mut(2).0.copy_from_slice(&[0x4E, 0x01]);
                        drop(stream.write_all(&hello).await);
                    }
                    _ => {}
                }
                // The server sends no byte, and ends the connection soon.
                let mut answer = Vec::new();
                let reading = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
                let read = reading.await.expect("a stranger is to be sent away");
                assert!(answer.is_empty(), "{read:?} {answer:?}");
            });
        }
        another_is_served(&scene).await;
        while let Some(stranger) = strangers.join_next().await {
            stranger.unwrap();
        }
        another_is_served(&scene).await;
        scene.until_connections(1).await;
        let stats = scene.handle.stats();
        println!("round {round}: {stats:?}");
    }
    let stats = scene.finish("a flood of connections").stats;
    assert_eq!((stats.established, stats.requests - stats.answers), (7, 0), "{stats:?}");
    assert!(stats.accepted >= 3 * u64::try_from(FLOOD).unwrap() + 7);
}

#[tokio::test]
async fn two_hundred_handshakes_that_never_end() {
    let max = usize::try_from(MAX_HALF_OPEN).unwrap();
    let builder = Server::builder(key(1)).settings(impatient()).max_half_open(max);
    let scene = Scene::echo(builder);
    let mut half_open = Vec::new();
    for number in 0..HALF_OPEN {
        let mut peer = RawPeer::new(scene.address).await;
        let hello = peer.pending_output();
        // Half a hello, or a whole one under the key or from a recording, and then nothing.
        let part = if number % 2 == 0 { hello.split_at(37).0 } else { &hello };
        peer.stream.write_all(part).await.unwrap();
        half_open.push(peer);
        let stats = scene.handle.stats();
        assert!(stats.half_open <= MAX_HALF_OPEN, "{stats:?}");
        if number % 20 == 0 {
            another_is_served(&scene).await;
        }
    }
    while scene.handle.stats().accepted < HALF_OPEN + scene.handle.stats().established {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    scene.until_connections(1).await;
    // Those that were late while others waited were dropped for them; the others had their whole
    // handshake timeout.
    let stats = scene.handle.stats();
    assert!(stats.half_open_dropped > 0, "{stats:?}");
    assert_eq!(stats.half_open_dropped + stats.unauthenticated, HALF_OPEN, "{stats:?}");
    drop(half_open);
    let report = scene.finish("half-open handshakes");
    assert_eq!(report.stats.established, 11);
    // They were dropped for others, or were late; no handshake in progress was cut off.
    assert_eq!((report.cut_connections, report.cut_requests), (0, 0), "{report:?}");
}
