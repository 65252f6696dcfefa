//! Requests and answers over real sockets, on both wires: many at once, of all sizes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::time::Duration;

use common::{Running, key};
use falco_tokio::{Client, ConnectionError, Error, Fate, Refusal, Request, RequestError, Server, Settings};

fn body(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + seed) % 251).unwrap())
        .collect()
}

#[tokio::test]
async fn sizes_from_nothing_to_the_limit_come_back() {
    for classic in [false, true] {
        let (server, client) = if classic {
            (Server::classic(key(1)), Client::classic(key(1)))
        } else {
            (Server::builder(key(1)), Client::builder(key(1)))
        };
        let server = Running::echo(server).await;
        let client = client.connect(server.address).await.unwrap();
        for length in [0, 1, 100, 65_000, 65_536, 200_000, 1 << 20, 16 << 20] {
            let sent = body(length, 7);
            let answer = client.request(sent.clone()).await.unwrap();
            assert!(answer == sent, "classic {classic}, {length} bytes");
        }
        let ping = client.ping().await.unwrap();
        assert_eq!(ping.is_none(), classic);
        client.close().await;
        let report = server.stop().await;
        assert_eq!((report.cut_connections, report.cut_requests), (0, 0));
        assert_eq!((report.stats.requests, report.stats.answers), (8, 8));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_one_connection_and_get_their_own_answers() {
    let handler = |request: Request| async move {
        let number = usize::from(request.body()[0]);
        tokio::time::sleep(Duration::from_millis(u64::try_from(number % 7).unwrap())).await;
        Ok(request.into_body())
    };
    let server = Running::start(Server::builder(key(1)), handler).await;
    let client = server.client().await;
    let mut tasks = Vec::new();
    for number in 0..400 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..5 {
                let mut sent = vec![u8::try_from(number % 256).unwrap()];
                sent.extend(body((number * 37 + round) % 5000, number));
                assert_eq!(client.request(sent.clone()).await.unwrap(), sent);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(server.handle.stats().connections, 1);
    drop(client);
    assert_eq!(server.stop().await.stats.answers, 2000);
}

#[tokio::test]
async fn a_wrong_key_is_an_error_at_once() {
    let server = Running::echo(Server::builder(key(1))).await;
    let error = Client::builder(key(2)).connect(server.address).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
    let other = Client::builder(key(1)).context("other").connect(server.address).await;
    assert!(other.unwrap_err().is_refused());
    assert_eq!(server.stop().await.stats.unauthenticated, 2);
}

#[tokio::test]
async fn errors_report_the_fate_of_the_request() {
    let handler = |request: Request| async move {
        match &request.body()[..] {
            b"fail" => Err("no".into()),
            b"panic" => panic!("deliberately"),
            b"busy" => Err(Refusal::Busy.into()),
            b"large" => Ok(vec![0; 5000]),
            _ => Ok(request.into_body().to_vec()),
        }
    };
    let settings = Settings::new().with_max_message(4096);
    let server = Running::start(Server::builder(key(1)).settings(settings), handler).await;
    let client = Client::builder(key(1))
        .settings(settings)
        .connect(server.address)
        .await
        .unwrap();
    let refused = |error: Error| {
        let Error::Request(RequestError::Refused(refusal)) = error else {
            panic!("{error}");
        };
        refusal
    };
    assert_eq!(refused(client.request("fail").await.unwrap_err()), Refusal::Failed);
    assert_eq!(refused(client.request("panic").await.unwrap_err()), Refusal::Failed);
    assert_eq!(refused(client.request("busy").await.unwrap_err()), Refusal::Busy);
    assert_eq!(
        refused(client.request("large").await.unwrap_err()),
        Refusal::AnswerTooLarge
    );
    let too_large = client.request(vec![0; 4097]).await.unwrap_err();
    assert_eq!(
        too_large.to_string(),
        "a message of 4097 bytes is over the limit of 4096 bytes"
    );
    assert_eq!(too_large.fate(), Fate::NotProcessed);
    assert_eq!(client.request("fine").await.unwrap(), "fine");
    client.close().await;
    let closed = client.request("late").await.unwrap_err();
    assert!(matches!(closed, Error::Closed));
    let stats = server.stop().await.stats;
    assert_eq!((stats.failed, stats.refusals, stats.answers), (2, 4, 1));
}

#[tokio::test]
async fn a_time_limit_says_what_may_have_become_of_the_request() {
    let handler = |request: Request| async move {
        if request.body() == "slow" {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Ok(request.into_body())
    };
    let server = Running::start(Server::builder(key(1)), handler).await;
    let client = server.client().await;
    let limit = Duration::from_millis(50);
    let error = client.request_within("slow", limit).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(error.fate(), Fate::MaybeProcessed);
    // The connection lives on, and the handler was dropped.
    assert_eq!(client.request("quick").await.unwrap(), "quick");
    assert_eq!(server.handle.stats().cancelled, 1);
    assert_eq!(server.handle.stats().connections, 1);
}

#[cfg(unix)]
#[tokio::test]
async fn a_server_serves_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("falco-tokio-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let server = Server::builder(key(1)).bind_unix(&path).unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) }));
    let client = Client::builder(key(1)).connect_unix(&path).await.unwrap();
    assert_eq!(client.request("unix").await.unwrap(), "unix");
    client.close().await;
    handle.shutdown();
    serving.await.unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn a_server_serves_any_stream() {
    let (near, far) = tokio::io::duplex(64);
    let server = Server::builder(key(1)).unbound().unwrap();
    let serving = tokio::spawn(async move {
        server
            .serve_connection(far, |request: Request| async move { Ok(request.into_body()) })
            .await
    });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    assert_eq!(client.request(body(100_000, 3)).await.unwrap(), body(100_000, 3));
    client.close().await;
    assert_eq!(serving.await.unwrap().unwrap(), ConnectionError::Closed);
}
