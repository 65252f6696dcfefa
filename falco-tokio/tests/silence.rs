//! How pings and closing end if the server is lost or silent. The file of the same name in
//! falco-std has the same tests.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::time::Duration;

use common::{Running, key};
use falco_tokio::{Client, ClientBuilder, Error, Fate, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// What a client sends for its handshake: the hello and its first PING.
const HANDSHAKE: usize = 74 + 33;

/// Passes on what `client` sends for its handshake, and what the server replies, until the client
/// sends more.
async fn shake_hands(client: &mut TcpStream, server: &mut TcpStream) {
    let (mut sent, mut bytes, mut replies) = (0, [0; 1024], [0; 1024]);
    loop {
        tokio::select! {
            count = client.read(&mut bytes) => {
                let count = count.unwrap();
                sent += count;
                if sent > HANDSHAKE {
                    return;
                }
                server.write_all(bytes.get(..count).unwrap()).await.unwrap();
            }
            count = server.read(&mut replies) => {
                client.write_all(replies.get(..count.unwrap()).unwrap()).await.unwrap();
            }
        }
    }
}

/// A proxy that ends the first connection when the client sends something after its handshake.
async fn ends_the_first(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        shake_hands(&mut client, &mut TcpStream::connect(server).await.unwrap()).await;
        drop(client);
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        copy_bidirectional(&mut client, &mut server).await.unwrap();
    });
    address
}

/// A proxy that passes on nothing after the handshake, and stays.
async fn falls_silent(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        shake_hands(&mut client, &mut server).await;
        core::future::pending::<()>().await;
    });
    address
}

/// Connects, and waits until the first PING is sent. A ping of a caller before that would be the
/// first PING itself.
async fn connect(client: ClientBuilder, address: SocketAddr) -> Client {
    let client = client.connect(address).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    client
}

#[tokio::test]
async fn a_ping_of_a_lost_connection_goes_to_the_next() {
    let server = Running::echo(Server::builder(key(1))).await;
    let front = ends_the_first(server.address).await;
    let client = connect(Client::builder(key(1)), front).await;
    assert!(client.ping().await.unwrap().is_some());
    assert_eq!(client.stats().connected, 2);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_ping_without_an_answer_ends_with_its_time_and_was_not_processed() {
    let server = Running::echo(Server::builder(key(1))).await;
    let front = falls_silent(server.address).await;
    let limit = Duration::from_millis(200);
    let client = Client::builder(key(1)).request_timeout(Some(limit));
    let client = connect(client, front).await;
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert_eq!(error.fate(), Fate::NotProcessed);
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_does_not_end_a_closed_connection_is_left_after_a_second() {
    let server = Running::echo(Server::builder(key(1))).await;
    let client = Client::builder(key(1));
    let client = client.connect(falls_silent(server.address).await).await.unwrap();
    let began = Instant::now();
    timeout(Duration::from_secs(10), client.close()).await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_closed_waits_for_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // The handshake hangs.
    let client = Client::builder(key(1)).connect_lazy(address).unwrap();
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.request("waits").await }
    });
    let accepted = listener.accept().await.unwrap();
    timeout(Duration::from_secs(1), client.close()).await.unwrap();
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert_eq!(error.fate(), Fate::NotProcessed);
    drop(accepted);
}
