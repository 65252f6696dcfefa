//! A client on a runtime that runs only now and then: what happened meanwhile is unread in the
//! socket when it sends its next request.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::time::Duration;

use common::key;
use falco_tokio::{Client, Handle, Request, Server};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// An echo server on a runtime of its own, which runs all the time.
fn serve(on: &Runtime, address: SocketAddr) -> (SocketAddr, Handle, JoinHandle<()>) {
    let server = on.block_on(Server::builder(key(1)).bind(address)).unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.handle());
    let serving = on.spawn(async move {
        let echo = |request: Request| async move { Ok(request.into_body()) };
        server.serve(echo).await.unwrap();
    });
    (address, handle, serving)
}

/// One for servers, which runs all the time, and one for clients.
fn runtimes() -> (Runtime, Runtime) {
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    (servers, Builder::new_current_thread().enable_all().build().unwrap())
}

fn comes_back(ends: impl Fn(&Runtime, &Handle, JoinHandle<()>)) {
    let (servers, own) = runtimes();
    let (address, mut handle, mut serving) = serve(&servers, "127.0.0.1:0".parse().unwrap());
    let client = own.block_on(Client::builder(key(1)).connect(address)).unwrap();
    for round in 0..20 {
        // Nobody polls the client here.
        ends(&servers, &handle, serving);
        (_, handle, serving) = serve(&servers, address);
        std::thread::sleep(Duration::from_millis(5));
        let answer = own.block_on(client.request("still there?"));
        assert_eq!(
            answer.unwrap_or_else(|error| panic!("round {round}: {error}")),
            "still there?"
        );
    }
    drop(serving);
}

#[test]
fn a_server_that_ended_with_a_close() {
    comes_back(|on, handle, serving| {
        handle.shutdown_within(Duration::from_millis(20));
        on.block_on(serving).unwrap();
    });
}

#[test]
fn a_server_that_ended_without_a_close() {
    comes_back(|on, _, serving| {
        serving.abort();
        assert!(on.block_on(serving).is_err());
        // Its connections end in tasks of their own.
        std::thread::sleep(Duration::from_millis(20));
    });
}

/// The settings of the server, which it sends after its welcome, and the end of the stream arrive
/// together.
#[test]
fn a_server_that_ended_right_after_its_handshake() {
    let (servers, own) = runtimes();
    let (mut address, _, mut serving) = serve(&servers, "127.0.0.1:0".parse().unwrap());
    for round in 0..20 {
        let client = own.block_on(Client::builder(key(1)).connect(address)).unwrap();
        // Nobody polls the client here.
        std::thread::sleep(Duration::from_millis(5));
        serving.abort();
        assert!(servers.block_on(serving).is_err());
        std::thread::sleep(Duration::from_millis(20));
        (address, _, serving) = serve(&servers, address);
        let answer = own.block_on(client.request("still there?"));
        assert_eq!(
            answer.unwrap_or_else(|error| panic!("round {round}: {error}")),
            "still there?"
        );
    }
    drop(serving);
}
