//! A client of several servers: where its connections go when one of them fails, and when it is
//! back.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashSet;
use std::sync::Arc;

use common::{Running, key};
use falco_tokio::{Client, ClientBuilder, Error, Fate, Request, Server};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// A server that answers with its own name.
async fn named(name: &'static str, address: Option<core::net::SocketAddr>) -> Running {
    let handler = move |_: Request| async move { Ok(name) };
    let builder = Server::builder(key(1));
    match address {
        None => Running::start(builder, handler).await,
        Some(address) => {
            let server = builder.bind(address).await.unwrap();
            let handle = server.handle();
            let task = tokio::spawn(async move { server.serve(handler).await.unwrap() });
            Running { address, handle, task }
        }
    }
}

fn builder() -> ClientBuilder {
    Client::builder(key(1)).backoff(Duration::from_millis(20), Duration::from_millis(100))
}

/// The servers that answer some requests.
async fn answering(client: &Client) -> HashSet<String> {
    let mut names = HashSet::new();
    for _ in 0..40 {
        let answer = client.request("who are you").await.unwrap();
        names.insert(String::from_utf8(answer.to_vec()).unwrap());
        sleep(Duration::from_millis(1)).await;
    }
    names
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn connections_are_spread_leave_a_dead_server_and_return_to_it() {
    let (one, two) = (named("one", None).await, named("two", None).await);
    let client = builder().connect_any([one.address, two.address]).await.unwrap();
    assert!(client.is_connected());
    until("both serve", async || answering(&client).await.len() == 2).await;
    let address = two.address;
    two.stop().await;
    let begun = Instant::now();
    assert_eq!(answering(&client).await, HashSet::from(["one".to_owned()]));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let two = named("two", Some(address)).await;
    until("it is back", async || answering(&client).await.len() == 2).await;
    // The other one fails now.
    one.stop().await;
    assert_eq!(answering(&client).await, HashSet::from(["two".to_owned()]));
    two.stop().await;
    until("none is left", async || !client.is_connected()).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_passed_by_and_one_with_another_key_too() {
    // It accepts connections and says nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = Running::echo(Server::builder(key(9))).await;
    let good = named("good", None).await;
    let servers = [hangs.local_addr().unwrap(), stranger.address, good.address];
    let builder = builder().handshake_timeout(Duration::from_millis(300));
    let client = builder.connect_any(servers).await.unwrap();
    assert_eq!(answering(&client).await, HashSet::from(["good".to_owned()]));
    // A request goes to a connection that is established, if there is one.
    let begun = Instant::now();
    for _ in 0..100 {
        client.request("x").await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    good.stop().await;
}

#[tokio::test]
async fn servers_that_are_restarted_in_turn_under_load_fail_no_request() {
    let handler = |request: Request| async move {
        sleep(Duration::from_millis(1)).await;
        Ok(request.into_body())
    };
    let start = async |address| {
        let server = Server::builder(key(1)).bind(address).await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let task = tokio::spawn(async move { server.serve(handler).await.unwrap() });
        Running { address, handle, task }
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let mut servers: Vec<Running> = vec![start(any).await, start(any).await];
    let client = builder()
        .connect_any([servers[0].address, servers[1].address])
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..16)
        .map(|_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.request("x").await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..4 {
        sleep(Duration::from_millis(200)).await;
        let old = servers.remove(0);
        let address = old.address;
        old.stop().await;
        sleep(Duration::from_millis(50 * round)).await;
        servers.push(start(address).await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for task in load {
        answered += task.await.unwrap();
    }
    assert!(answered > 500, "{answered}");
}

#[tokio::test]
async fn without_any_server_requests_fail_as_not_processed() {
    let none: [&str; 0] = [];
    assert!(matches!(builder().connect_any(none).await, Err(Error::Io { .. })));
    let dead = ["127.0.0.1:1", "127.0.0.1:2"];
    assert!(builder().connect_any(dead).await.is_err());
    let client = builder().fail_fast(true).connect_any_lazy(dead).unwrap();
    assert!(!client.is_connected());
    let error = client.request("x").await.unwrap_err();
    assert_eq!(error.fate(), Fate::NotProcessed);
}
