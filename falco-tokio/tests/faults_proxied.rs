//! A proxy in front of a server that restarts: it accepts and ends connections, or answers for the
//! server. The client must not conclude that its key is wrong.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use std::sync::Arc;

use common::{Running, key};
use falco_core::mux::Admitted;
use falco_tokio::{Client, ConnectionError, Error, Fate, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const FORWARDS: u8 = 0;
const ENDS: u8 = 1;
const ANSWERS: u8 = 2;
const RESETS: u8 = 3;

/// Forwards to a server, or does what a proxy does that has none.
async fn proxy(server: SocketAddr) -> (SocketAddr, Arc<AtomicU8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, mode) = (listener.local_addr().unwrap(), Arc::new(AtomicU8::new(FORWARDS)));
    let own = Arc::clone(&mode);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mode = Arc::clone(&own);
            tokio::spawn(async move {
                if mode.load(Ordering::Relaxed) == RESETS {
                    // What has arrived stays unread.
                    client.readable().await.unwrap();
                    return;
                }
                match mode.load(Ordering::Relaxed) {
                    ENDS => drop(client.read(&mut [0; 100]).await),
                    ANSWERS => {
                        let _ = client.read(&mut [0; 100]).await;
                        let _ = client
                            .write_all(
                                b"HTTP/1.0 503 Service Unavailable\r\n\r\n<html>No server is available</html>\r\n",
                            )
                            .await;
                    }
                    _ => {
                        let Ok(mut server) = TcpStream::connect(server).await else {
                            return;
                        };
                        // Until the backend ends.
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            () = async { while mode.load(Ordering::Relaxed) == FORWARDS { sleep(Duration::from_millis(1)).await } } => {}
                        }
                    }
                }
            });
        }
    });
    (address, mode)
}

#[tokio::test]
async fn a_client_that_was_admitted_waits_for_a_proxy_whose_server_restarts() {
    for without in [ENDS, ANSWERS, RESETS] {
        let server = Running::echo(Server::builder(key(1))).await;
        let (address, mode) = proxy(server.address).await;
        let client = Client::builder(key(1)).backoff(Duration::from_millis(10), Duration::from_millis(200));
        let client = client.connect(address).await.unwrap();
        assert_eq!(client.request("before").await.unwrap(), "before");
        mode.store(without, Ordering::Relaxed);
        // A request that the proxy has just forwarded may be processed.
        sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        let mut asking = JoinSet::new();
        // Some connect later than others.
        for number in 0..200_u64 {
            let client = client.clone();
            asking.spawn(async move {
                sleep(Duration::from_millis(10 * number)).await;
                client.request(number.to_string()).await
            });
        }
        sleep(Duration::from_millis(1_500)).await;
        let attempts = client.stats().attempts;
        assert!(attempts > 3, "{attempts}");
        mode.store(FORWARDS, Ordering::Relaxed);
        let failed: Vec<_> = asking.join_all().await.into_iter().filter_map(Result::err).collect();
        assert!(
            failed.is_empty(),
            "{} failed: {}",
            failed.len(),
            failed.first().unwrap()
        );
        println!(
            "{without}: {attempts} attempts, all answered after {:?}",
            began.elapsed()
        );
        // A request has its own time limit, and fails with the reason.
        mode.store(without, Ordering::Relaxed);
        sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        let error = client
            .request_within("in vain", Duration::from_millis(400))
            .await
            .unwrap_err();
        assert!(began.elapsed() >= Duration::from_millis(400), "{error}");
        assert_eq!(error.fate(), Fate::NotProcessed);
        if without == RESETS {
            assert!(error.to_string().contains("handshake"), "{error}");
        } else {
            assert!(error.is_refused() && error.to_string().contains("starting"), "{error}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_was_never_admitted_fails_at_once_with_what_may_be_wrong() {
    let server = Running::echo(Server::builder(key(1))).await;
    let (address, mode) = proxy(server.address).await;
    mode.store(ENDS, Ordering::Relaxed);
    let began = Instant::now();
    let refused = Client::builder(key(1)).connect(address).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::Connection {
                end: ConnectionError::Refused,
                ..
            }
        ),
        "{refused}"
    );
    // One that connects when it is needed hears it with its first request, after several attempts,
    // and with each that waits for another attempt.
    let builder = Client::builder(key(1)).backoff(Duration::from_millis(10), Duration::from_millis(20));
    let client = builder.connect_lazy(address).unwrap();
    for _ in 0..3 {
        let refused = client.request("anybody?").await.unwrap_err();
        assert!(refused.is_refused(), "{refused}");
    }
    let attempts = u64::from(Admitted::MAX_REFUSED) + 2;
    assert_eq!(
        client.stats().attempts,
        attempts,
        "each further one waited for an attempt of its own"
    );
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // Nothing was decided by that.
    mode.store(FORWARDS, Ordering::Relaxed);
    assert_eq!(client.request("anybody?").await.unwrap(), "anybody?");
    server.stop().await;
}
