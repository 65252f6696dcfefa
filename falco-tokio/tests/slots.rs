//! What a client does with its connections when keys change, servers end and restart, and attempts
//! fail.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::io;

use common::{Running, key};
use falco_tokio::{Client, Error, Fate, Request, Server, Settings};
use tokio::io::duplex;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

async fn poll_once<F: Future + Unpin>(future: &mut F) {
    let _ = poll_fn(|cx| Poll::Ready(core::pin::Pin::new(&mut *future).poll(cx))).await;
}

#[tokio::test]
async fn a_request_whose_time_runs_out_as_the_key_changes_ends_all_the_same() {
    let never = |_: Request| core::future::pending::<Result<Vec<u8>, falco_tokio::HandlerError>>();
    let one = Settings::new().with_max_in_flight(1).unwrap();
    let server = Running::start(Server::builder(key(1)).key(key(2)).settings(one), never).await;
    let address = server.address;
    let slowly = move || async move {
        sleep(Duration::from_millis(100)).await;
        TcpStream::connect(address).await
    };
    let client = Client::builder(key(1)).connect_with(slowly).await.unwrap();
    let mut first = pin!(client.request("begun"));
    let mut second = pin!(client.request_within("not begun", Duration::from_millis(50)));
    poll_once(&mut first).await;
    poll_once(&mut second).await;
    sleep(Duration::from_millis(10)).await;
    // The time limit of the second request passes meanwhile. The connection processes the new key
    // and then that limit in one poll.
    client.set_key(key(2)).await.unwrap();
    let error = timeout(Duration::from_secs(5), second)
        .await
        .expect("it has an end")
        .unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(error.fate(), Fate::NotProcessed);
}

#[tokio::test]
async fn a_ping_that_was_given_up_makes_no_more_attempts() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let client = Client::builder(key(1))
        .request_timeout(Some(Duration::from_millis(50)))
        .backoff(Duration::from_millis(5), Duration::from_millis(5));
    let client = client.connect_lazy(nobody).unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    sleep(Duration::from_millis(20)).await;
    let attempts = client.stats().attempts;
    assert!(attempts > 1, "{attempts}");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(client.stats().attempts, attempts);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_connection_at_once_is_not_asked_again_and_again() {
    let (attempts, took) = ask_in_turn(false).await;
    assert!(took > Duration::from_secs(5), "{attempts} in {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_each_connection_after_an_answer_is_asked_again_at_once() {
    let (attempts, took) = ask_in_turn(true).await;
    assert!(
        attempts <= 21 && took < Duration::from_secs(1),
        "{attempts} in {took:?}"
    );
}

/// Twenty requests to a server that closes each connection in good order, or ends it without a
/// word; how many attempts at one there were, and how long it took.
async fn ask_in_turn(answers: bool) -> (u64, Duration) {
    let dial = move || async move {
        let (near, far) = duplex(1 << 16);
        let server = Server::builder(key(1)).unbound().map_err(io::Error::other)?;
        let handle = server.handle();
        tokio::spawn(async move {
            let handler = move |request: Request| async move {
                if !answers {
                    core::future::pending::<()>().await;
                }
                Ok(request.into_body())
            };
            let serving = server.serve_connection(far, handler);
            let closing = async {
                while handle.stats().established == 0 {
                    tokio::task::yield_now().await;
                }
                handle.shutdown();
            };
            if answers {
                _ = tokio::join!(serving, closing).0;
            } else {
                tokio::select! {
                    _ = serving => {}
                    () = closing => {}
                }
            }
        });
        Ok::<_, io::Error>(near)
    };
    let client = Client::builder(key(1)).connect_with(dial).await.unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        let _ = client.request("anything").await;
    }
    (client.stats().attempts, start.elapsed())
}

#[tokio::test]
async fn connections_that_failed_come_back_though_one_is_enough() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = Client::builder(key(1))
        .connections(3)
        .fail_fast(true)
        .backoff(Duration::from_millis(10), Duration::from_millis(20))
        .connect_lazy(address)
        .unwrap();
    // Each of the three has tried.
    for _ in 0..6 {
        let error = client.request("nobody").await.unwrap_err();
        assert_eq!(error.fate(), Fate::NotProcessed);
    }
    let server = Server::builder(key(1)).bind(address).await.unwrap();
    let handle = server.handle();
    tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) }));
    let all = async {
        while handle.stats().connections < 3 {
            let _ = client.request("somebody").await;
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), all).await.expect("all three come back");
}

#[tokio::test]
async fn an_invalid_address_is_an_error_at_once() {
    let client = Client::builder(key(1)).connect_lazy("a name without a port").unwrap();
    let error = timeout(Duration::from_secs(5), client.request("hello")).await;
    let error = error.expect("no other attempt is waited for").unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput),
        "{error}"
    );
}
