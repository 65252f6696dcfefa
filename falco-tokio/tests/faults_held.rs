//! A client and a server of this crate do not refuse each other by their defaults: what the server
//! will not hold, the client holds back.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;

use common::{Running, key};
use falco_tokio::{Client, Error, Refusal, Request, RequestError, Server, Settings};
use tokio::task::JoinSet;
use tokio::time::sleep;

const MIB: usize = 1 << 20;

async fn echoes(client: Client, count: usize, length: usize) {
    let mut asking = JoinSet::new();
    for _ in 0..count {
        let client = client.clone();
        asking.spawn(async move { client.request(vec![7; length]).await });
    }
    let ends = asking.join_all().await;
    let failed: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
    assert!(ends.iter().flatten().all(|answer| answer.len() == length));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_echoes_of_a_megabyte_on_one_connection_with_defaults() {
    let server = Running::echo(Server::builder(key(1))).await;
    echoes(server.client().await, 200, MIB).await;
    assert_eq!(server.stop().await.stats.refusals, 0);
}

/// What a server refuses as busy because it holds less than clients expect, they send again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_holds_less_than_its_clients_expect() {
    let settings = Settings::new().with_max_message(2 << 20).with_max_held(4 << 20);
    let server = Running::echo(Server::builder(key(1)).settings(settings)).await;
    echoes(server.client().await, 100, MIB).await;
    // Two limits that fit together from the beginning.
    let client = Client::builder(key(1))
        .settings(settings)
        .connect(server.address)
        .await
        .unwrap();
    echoes(client, 100, MIB).await;
    server.stop().await;
}

/// What all connections together may hold is one bound, which no client can know: what is over it
/// is refused before a handler sees it, and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_the_bound_of_all_connections_are_refused_as_busy_and_counted() {
    let server = Running::start(
        Server::builder(key(1)).max_held(1_000_000),
        |request: Request| async move {
            sleep(Duration::from_millis(300)).await;
            Ok(request.into_body())
        },
    )
    .await;
    let mut requests = JoinSet::new();
    for _ in 0..3 {
        let client = Client::builder(key(1)).connect(server.address).await.unwrap();
        requests.spawn(async move { client.request(vec![7; 600_000]).await });
    }
    let (mut answered, mut busy) = (0, 0);
    while let Some(end) = requests.join_next().await {
        match end.unwrap() {
            Ok(_) => answered += 1,
            Err(Error::Request(RequestError::Refused(Refusal::Busy))) => busy += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(busy > 0 && answered + busy == 3, "{answered} answered, {busy} busy");
    assert_eq!(server.handle.stats().busy, busy);
}

/// Nor can a client know how many others there are. Clients with much in flight have less of it
/// when the server is busy, until all of them fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_have_more_in_flight_than_all_connections_may_hold_get_all_their_answers() {
    let server = Running::echo(Server::builder(key(1)).max_held(16 * MIB)).await;
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        let client = server.client().await;
        clients.spawn(async move { echoes(client, 10, MIB).await });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let stats = server.stop().await.stats;
    assert_eq!(stats.answers, 100);
    assert!(stats.busy > 0, "100 MiB do not fit into 16 at once");
}

/// A client of one key sends as much as the server holds, and its handlers do not end. A client of
/// another key is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_key_leave_room_to_another() {
    let builder = Server::builder(key(1)).key(key(2)).max_held(MIB);
    let server = Running::start(builder, |request: Request| async move {
        if request.body().len() == 20_000 {
            core::future::pending::<()>().await;
        }
        Ok(request.into_body())
    })
    .await;
    let mut greedy = JoinSet::new();
    for _ in 0..2 {
        let client = server.client().await;
        for _ in 0..60 {
            let client = client.clone();
            greedy.spawn(async move { client.request(vec![7; 20_000]).await });
        }
    }
    while server.handle.stats().busy == 0 {
        sleep(Duration::from_millis(2)).await;
    }
    let other = Client::builder(key(2)).connect(server.address).await.unwrap();
    let answer = other.request_within(vec![7; 60_000], Duration::from_secs(10)).await;
    assert_eq!(answer.unwrap().len(), 60_000);
    greedy.shutdown().await;
    server.stop().await;
}
