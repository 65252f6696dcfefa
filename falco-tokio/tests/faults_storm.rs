//! Many clients whose server is killed and restarted: all reconnect at once, and only requests that
//! were in a handler fail.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::time::Instant;

use common::child::{self, Child, next_order, say};
use common::{key, scene};
use falco_tokio::{Client, Error, Fate, Request, Server};
use tokio::task::JoinSet;

const CLIENTS: usize = 4_000;
/// Of them, those whose requests are in a handler at the kill.
const AT_WORK: usize = 100;

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    let Some((_, address)) = child::role() else { return };
    raise_limit();
    let runtime = scene::runtime();
    let server = runtime.block_on(Server::builder(key(1)).bind(address)).unwrap();
    say(server.local_addr().unwrap());
    std::thread::spawn(|| while next_order().is_some() {});
    let handler = |request: Request| async move {
        if request.body() == "slow" {
            core::future::pending::<()>().await;
        }
        Ok(request.into_body())
    };
    runtime.block_on(server.serve(handler)).unwrap();
}

fn raise_limit() {
    let enough = u64::try_from(2 * CLIENTS + 500).unwrap();
    let now = rlimit::increase_nofile_limit(enough).unwrap();
    assert!(now >= enough, "{now} descriptors are too few for {CLIENTS} clients");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_comes_back_at_once_after_a_kill_and_loses_nothing() {
    raise_limit();
    let mut server = Child::spawn("server", "127.0.0.1:0");
    let address = server.line();
    let mut clients = Vec::new();
    while clients.len() < CLIENTS {
        let mut connecting = JoinSet::new();
        for _ in 0..CLIENTS / 20 {
            let address = address.clone();
            connecting.spawn(async move { Client::builder(key(1)).connect(address).await.unwrap() });
        }
        clients.extend(connecting.join_all().await);
    }
    let mut at_work = JoinSet::new();
    for client in clients.iter().take(AT_WORK) {
        let client = client.clone();
        at_work.spawn(async move { client.request("slow").await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    server.kill();
    let began = Instant::now();
    // Half of them send a request while there is no server, and half of them once it is restarted.
    let (early, late) = clients.split_at(CLIENTS / 2);
    let mut asking = JoinSet::new();
    let ask = |client: &Client| {
        let client = client.clone();
        async move { client.request("fast").await }
    };
    for client in early {
        asking.spawn(ask(client));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut server = Child::spawn("server", &address);
    assert_eq!(server.line(), address);
    for client in late {
        asking.spawn(ask(client));
    }
    let failed: Vec<Error> = asking.join_all().await.into_iter().filter_map(Result::err).collect();
    println!(
        "{CLIENTS} clients came back in {:?}; {} of their requests failed",
        began.elapsed(),
        failed.len()
    );
    assert!(failed.is_empty(), "{}: {:?}", failed.len(), failed.first());
    for end in at_work.join_all().await {
        assert_eq!(end.unwrap_err().fate(), Fate::MaybeProcessed, "it was in a handler");
    }
    server.kill();
}
