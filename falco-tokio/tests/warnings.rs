//! Warnings that clients can cause do not fill the log of a server, from however many connections:
//! a limited number in a second is logged, and the others are counted.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Instant;

use common::log::Log;
use common::{Running, key};
use falco_tokio::{Client, Refusal, Request, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CLIENTS: u64 = 50;
const REQUESTS: u64 = 20;

/// Each of many connections sends requests that the server answers as `handler` says. Returns the
/// lines of its log with `message`, and how many seconds it took.
async fn log_of<F>(handler: F, message: &str) -> (Vec<String>, u64)
where
    F: Fn() -> Result<Vec<u8>, falco_tokio::HandlerError> + Send + Sync + 'static,
{
    let (log, _guard) = Log::warnings();
    let began = Instant::now();
    let server = Running::start(Server::builder(key(1)), move |_: Request| {
        let answer = handler();
        async move { answer }
    })
    .await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let settings = Settings::new().with_max_message(100);
        let builder = Client::builder(key(1)).settings(settings);
        let client = builder.connect(server.address).await.unwrap();
        clients.spawn(async move {
            for _ in 0..REQUESTS {
                client.request("?").await.unwrap_err();
            }
        });
    }
    clients.join_all().await;
    let stats = server.stop().await.stats;
    assert_eq!(stats.refusals, CLIENTS * REQUESTS);
    let seconds = began.elapsed().as_secs() + 1;
    let text = log.text();
    let lines = text.lines().filter(|line| line.contains(message));
    (lines.map(str::to_owned).collect(), seconds)
}

fn assert_limited((lines, seconds): (Vec<String>, u64)) {
    let (mut logged, mut left_out) = (0, 0);
    for line in &lines {
        let (_, count) = line.split_once("left_out=").unwrap();
        let count = count.split_whitespace().next().unwrap();
        left_out += count.parse::<u64>().unwrap();
        logged += u64::from(!line.contains("further warnings were left out"));
    }
    assert!(
        (10..=10 * seconds).contains(&logged),
        "{logged} in {seconds} s: {lines:?}"
    );
    assert_eq!(logged + left_out, CLIENTS * REQUESTS, "{lines:?}");
}

#[tokio::test]
async fn handlers_that_fail_do_not_fill_the_log() {
    assert_limited(log_of(|| Err("no".into()), "the handler failed").await);
}

#[tokio::test]
async fn handlers_that_panic_do_not_fill_the_log() {
    assert_limited(log_of(|| panic!("the test wants this panic"), "the handler panicked").await);
}

#[tokio::test]
async fn answers_that_are_too_large_do_not_fill_the_log() {
    let message = "the answer is larger than the client accepts";
    assert_limited(log_of(|| Ok(vec![7; 101]), message).await);
}

/// The server has dropped no answer, and a handler that chooses says itself what has failed.
#[tokio::test]
async fn a_refusal_that_a_handler_chooses_is_no_warning() {
    for refusal in [Refusal::AnswerTooLarge, Refusal::Busy, Refusal::Failed] {
        let (lines, _) = log_of(move || Err(refusal.into()), "").await;
        assert!(lines.is_empty(), "{lines:?}");
    }
}

#[tokio::test]
async fn other_protocols_are_in_the_log_and_do_not_fill_it() {
    for first in [
        "GET / HTTP/1.1\r\n\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "N\u{9}",
    ] {
        let (log, _guard) = Log::warnings();
        let server = Running::echo(Server::builder(key(1))).await;
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(first.as_bytes()).await.unwrap();
            // It may be reset.
            assert!(stream.read_u8().await.is_err());
        }
        server.stop().await;
        let text = log.text();
        let lines: Vec<_> = text.lines().filter(|line| line.contains("another protocol")).collect();
        // The first names its peer, and the end of the server counts the others.
        assert!(
            matches!(lines[..], [line, rest] if line.contains("peer=127.0.0.1:") && rest.ends_with("left_out=19")),
            "{text}"
        );
    }
}
