//! A client of several servers: where its connections go when one of them fails, and when it is
//! back.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashSet;
use std::sync::Arc;

use common::{Running, key};
use falco_tokio::{Client, ClientBuilder, Error, Fate, Request, Server};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// A server that answers with its own name.
async fn named(name: &'static str, address: Option<SocketAddr>) -> Running {
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

/// A listener with a full backlog: the system drops attempts to connect.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _full: Vec<std::net::TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        let full = core::iter::from_fn(connect).collect();
        Self {
            address,
            _listener: listener,
            _full: full,
        }
    }
}

/// The address of a proxy that connects to a server after this time.
async fn delayed(server: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                sleep(delay).await;
                let mut far = TcpStream::connect(server).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    address
}

/// The address of a proxy that connects to a server. It cuts the streams of its clients whenever
/// the value that is returned changes.
async fn cuttable(server: SocketAddr) -> (SocketAddr, watch::Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, to_cut) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut to_cut = to_cut.clone();
            to_cut.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = to_cut.changed() => {}
                }
            });
        }
    });
    (address, cut)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_connected_says_so() {
    let one = named("one", None).await;
    for _ in 0..300 {
        let client = builder().connect(one.address).await.unwrap();
        assert!(client.is_connected());
        client.close().await;
    }
    one.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_skipped_and_so_is_one_with_another_key() {
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

/// The second connection of the client cannot be made: one server hangs, and the other has no place
/// for it.
#[tokio::test]
async fn no_request_waits_for_a_connection_while_there_is_another() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = Running::echo(Server::builder(key(1)).max_connections(1)).await;
    let servers = [good.address, hangs.local_addr().unwrap()];
    let client = builder().connections(2).connect_any(servers).await.unwrap();
    for _ in 0..10 {
        client.request_within("x", Duration::from_secs(3)).await.unwrap();
    }
    client.ping().await.unwrap();
    // It was begun nevertheless.
    let attempted = tokio::time::timeout(Duration::from_secs(10), hangs.accept()).await;
    attempted.expect("the other server is tried").unwrap();
    good.stop().await;
}

/// The time limits are those by default, 5 s each. What has begun at a server that hangs counts as
/// an attempt, and the server is not tried again for a while.
#[tokio::test]
async fn beside_a_server_that_hangs_the_next_one_is_tried_after_a_moment() {
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hole = BlackHole::new();
    let good = named("good", None).await;
    let mut servers = [hangs.local_addr().unwrap(), hole.address, good.address];
    // Each of them is the first for one of the clients.
    for tried in [3, 2, 1] {
        let begun = Instant::now();
        let client = builder().connect_any(servers).await.unwrap();
        let took = begun.elapsed();
        let least = Duration::from_millis(250) * (tried - 1);
        assert!((least..Duration::from_secs(4)).contains(&took), "{tried}: {took:?}");
        // One more if the last one takes long on a busy machine, and one for each server at most.
        assert!((tried.into()..=3).contains(&client.stats().attempts), "{tried}");
        assert_eq!(client.request("who are you").await.unwrap(), "good");
        servers.rotate_left(1);
    }
    good.stop().await;
}

/// A server that takes longer than the delay is abandoned for a faster one, and the connection
/// returns to it later. Without another server it has all its time.
#[tokio::test]
async fn a_server_that_is_only_slow_is_returned_to() {
    let (slow, fast) = (named("slow", None).await, named("fast", None).await);
    let proxy = delayed(slow.address, Duration::from_secs(1)).await;
    let alone = builder().connect_any([proxy]).await.unwrap();
    assert_eq!(alone.request("who are you").await.unwrap(), "slow");
    let client = builder().connect_any([proxy, fast.address]).await.unwrap();
    assert_eq!(client.request("who are you").await.unwrap(), "fast");
    until("it is back", async || answering(&client).await.contains("slow")).await;
    slow.stop().await;
    fast.stop().await;
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

/// A server closes a connection that has reached its age, and then the stream is cut while a
/// request is in flight.
#[tokio::test]
async fn a_server_whose_connection_was_cut_while_it_drained_is_tried_at_once() {
    let handler = |name: &'static str| {
        move |request: Request| async move {
            if request.body() == "wait" {
                sleep(Duration::from_secs(60)).await;
            }
            Ok(name)
        }
    };
    let old = Server::builder(key(1)).max_connection_age(Duration::from_millis(200));
    let (one, two) = (
        Running::start(old, handler("one")).await,
        Running::start(Server::builder(key(1)), handler("two")).await,
    );
    let (proxy, cut) = cuttable(one.address).await;
    // A server in back-off is skipped for at least ten seconds.
    let pause = Duration::from_secs(20);
    let client = Client::builder(key(1)).backoff(pause, pause);
    let client = client.connect_any([proxy, two.address]).await.unwrap();
    until("both serve", async || answering(&client).await.len() == 2).await;
    let wait = || {
        let client = client.clone();
        tokio::spawn(async move { client.request_within("wait", Duration::from_secs(60)).await })
    };
    let mut waiting = [wait(), wait()];
    // One of them is on a connection that its server has closed by then.
    sleep(Duration::from_secs(1)).await;
    cut.send_modify(|cut| *cut += 1);
    let [first, second] = &mut waiting;
    let lost = tokio::select! { lost = first => lost, lost = second => lost };
    assert_eq!(lost.unwrap().unwrap_err().fate(), Fate::MaybeProcessed);
    let begun = Instant::now();
    until("the server is used", async || answering(&client).await.contains("one")).await;
    assert!(begun.elapsed() < pause / 4, "{:?}", begun.elapsed());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(client);
    one.stop().await;
    two.stop().await;
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
