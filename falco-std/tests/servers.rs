//! Clients of several servers: where their connections go when a server fails, and when it is back.

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use common::{Blackhole, Running, bounded, echo, key, millis, other_key};
use falco_std::{Client, ClientBuilder, Error, Fate, Server};

/// A server that answers with its own name.
fn named(name: &'static str, address: Option<SocketAddr>) -> Running {
    let any = "127.0.0.1:0".parse().expect("an address");
    let handler = move |_| Ok(name.as_bytes().to_vec());
    Running::at(Server::builder(key()), address.unwrap_or(any), handler)
}

fn builder() -> ClientBuilder {
    Client::builder(key()).backoff(millis(20), millis(100))
}

/// The servers that answer the clients.
fn answering<'c>(clients: impl IntoIterator<Item = &'c Client>) -> HashSet<String> {
    let answer = |client: &Client| client.request("who are you").expect("a server is there");
    let name = |client| String::from_utf8(answer(client)).expect("it is a name");
    clients.into_iter().map(name).collect()
}

/// The address of a proxy that connects to a server after this time.
fn delayed(server: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for near in listener.incoming() {
            thread::spawn(move || {
                thread::sleep(delay);
                let (mut near, mut far) = (near?, TcpStream::connect(server)?);
                let (mut back, mut forth) = (far.try_clone()?, near.try_clone()?);
                thread::spawn(move || {
                    let _ = io::copy(&mut back, &mut forth);
                    forth.shutdown(Shutdown::Write)
                });
                io::copy(&mut near, &mut far)?;
                far.shutdown(Shutdown::Write)
            });
        }
    });
    address
}

/// The address of a proxy that connects to a server, and the streams of its clients.
fn cuttable(server: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
    let open = Arc::clone(&streams);
    thread::spawn(move || {
        for near in listener.incoming() {
            let (mut near, mut far) = (near?, TcpStream::connect(server)?);
            open.lock().expect("nothing panics").push(near.try_clone()?);
            let (mut back, mut forth) = (far.try_clone()?, near.try_clone()?);
            thread::spawn(move || io::copy(&mut back, &mut forth));
            thread::spawn(move || {
                let _ = io::copy(&mut near, &mut far);
                far.shutdown(Shutdown::Write)
            });
        }
        io::Result::Ok(())
    });
    (address, streams)
}

fn names<const N: usize>(names: [&str; N]) -> HashSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn connections_are_spread_leave_a_dead_server_and_return_to_it() {
    bounded(|| {
        let (one, two) = (named("one", None), named("two", None));
        let builder = builder();
        let connect = |()| builder.clone().connect_any([one.address, two.address]);
        let clients = [(); 4].map(connect).map(|client| client.expect("both are there"));
        for pair in clients.chunks(2) {
            assert_eq!(answering(pair), names(["one", "two"]), "they take turns");
        }
        let address = two.address;
        two.stop();
        let begun = Instant::now();
        assert_eq!(answering(&clients), names(["one"]));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let two = named("two", Some(address));
        // Their connections stay where they are as long as they last.
        assert_eq!(answering(&clients), names(["one"]));
        one.stop();
        assert_eq!(answering(&clients), names(["two"]));
        assert!(clients.iter().all(Client::is_connected));
        two.stop();
    });
}

#[test]
fn connections_return_to_their_own_servers_when_they_have_reached_their_age() {
    bounded(|| {
        let age = |name: &'static str, address| {
            let builder = Server::builder(key()).max_connection_age(millis(300));
            Running::at(builder, address, move |_| Ok(name.as_bytes().to_vec()))
        };
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let (one, two) = (age("one", any), age("two", any));
        let builder = builder();
        let connect = |()| builder.clone().connect_any([one.address, two.address]);
        let clients = [(); 2].map(connect).map(|client| client.expect("both are there"));
        let address = two.address;
        two.stop();
        assert_eq!(answering(&clients), names(["one"]));
        let two = age("two", address);
        let begun = Instant::now();
        while answering(&clients).len() < 2 {
            assert!(begun.elapsed() < Duration::from_secs(10), "they are spread again");
            thread::sleep(millis(20));
        }
        drop(clients);
        one.stop();
        two.stop();
    });
}

#[test]
fn a_server_that_hangs_is_skipped_and_so_is_one_with_another_key() {
    bounded(|| {
        // It accepts connections and says nothing; and one that does not even accept them.
        let hangs = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hole = Blackhole::new();
        let stranger = Running::start(Server::builder(other_key()), echo);
        let good = named("good", None);
        let hanging = hangs.local_addr().expect("it is bound");
        let servers = [hanging, hole.address, stranger.address, good.address];
        let builder = builder().handshake_timeout(millis(300)).connect_timeout(millis(300));
        // Each of them is the first for one of the clients.
        for _ in servers {
            let client = builder.clone().connect_any(servers).expect("one is good");
            let begun = Instant::now();
            for _ in 0..20 {
                assert_eq!(answering([&client]), names(["good"]));
            }
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        good.stop();
        stranger.stop();
    });
}

/// The time limits are those by default, 5 s each. What has begun at a server that hangs counts as
/// an attempt, and the server is not tried again for a while.
#[test]
fn beside_a_server_that_hangs_the_next_one_is_tried_after_a_moment() {
    bounded(|| {
        let hangs = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let hole = Blackhole::new();
        let good = named("good", None);
        let servers = [hangs.local_addr().expect("it is bound"), hole.address, good.address];
        let builder = builder();
        let mut attempts = Vec::new();
        // Each of them is the first for one of the clients.
        for _ in servers {
            let begun = Instant::now();
            let client = builder.clone().connect_any(servers).expect("one is good");
            let took = begun.elapsed();
            assert_eq!(answering([&client]), names(["good"]));
            let tried = client.stats().attempts;
            let least = millis(250 * (tried - 1));
            assert!((least..millis(4_000)).contains(&took), "{tried}: {took:?}");
            attempts.push(tried);
        }
        attempts.sort_unstable();
        // One more if the last one takes long on a busy machine, and one for each server at most.
        let mut tried = attempts.iter().zip([1, 2, 3]);
        assert!(tried.all(|(made, least)| (least..=3).contains(made)), "{attempts:?}");
        good.stop();
    });
}

/// The slow server completes its handshake after the client has taken the other one.
#[test]
fn an_abandoned_attempt_that_succeeds_later_replaces_no_connection() {
    bounded(|| {
        let (slow, fast) = (named("slow", None), named("fast", None));
        let servers = [delayed(slow.address, millis(1_000)), fast.address];
        let builder = builder();
        // Each of them is the first for one of the clients.
        for _ in servers {
            let client = builder.clone().connect_any(servers).expect("both are there");
            let begun = Instant::now();
            while begun.elapsed() < millis(1_500) {
                assert_eq!(answering([&client]), names(["fast"]));
                thread::sleep(millis(5));
            }
        }
        let alone = builder.connect_any(&servers[..1]).expect("it is slow");
        assert_eq!(answering([&alone]), names(["slow"]));
        drop(alone);
        slow.stop();
        fast.stop();
    });
}

#[test]
fn servers_that_are_restarted_in_turn_under_load_fail_no_request() {
    bounded(|| {
        let start = |address| {
            Running::at(Server::builder(key()), address, |request| {
                thread::sleep(millis(1));
                echo(request)
            })
        };
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut servers = vec![start(any), start(any)];
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let builder = builder();
        let connect = |()| builder.clone().connect_any(addresses.clone());
        let clients = [(); 2].map(connect).map(|client| client.expect("both are there"));
        let load = clients.iter().cycle().take(8).map(|client| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.request("x").expect("no request fails");
                    count += 1;
                }
                count
            })
        });
        let load: Vec<_> = load.collect();
        for round in 0..4 {
            thread::sleep(millis(200));
            let old = servers.remove(0);
            let address = old.address;
            old.stop();
            thread::sleep(millis(50 * round));
            servers.push(start(address));
        }
        stop.store(true, Ordering::Relaxed);
        let answered: u32 = load
            .into_iter()
            .map(|task| task.join().expect("no request fails"))
            .sum();
        assert!(answered > 200, "{answered}");
        drop(clients);
        for server in servers {
            server.stop();
        }
    });
}

/// A server closes a connection that has reached its age, and then the stream is cut while a
/// request is in flight.
#[test]
fn a_server_whose_connection_was_cut_while_it_drained_is_tried_at_once() {
    bounded(|| {
        let old = Server::builder(key()).max_connection_age(millis(300));
        let one = Running::start(old, |request| {
            if request.body() == b"wait" {
                thread::sleep(millis(1_000));
            }
            Ok(b"one".to_vec())
        });
        let two = named("two", None);
        let (proxy, streams) = cuttable(one.address);
        // A server in back-off is skipped for at least ten seconds.
        let (limit, pause) = (Duration::from_secs(5), Duration::from_secs(20));
        let builder = Client::builder(key())
            .backoff(pause, pause)
            .request_timeout(Some(limit));
        let connect = |()| builder.clone().connect_any([proxy, two.address]);
        let clients = [(); 2].map(connect).map(|client| client.expect("both are there"));
        let at_one = |client: &Client| client.request("who are you").expect("a server is there") == b"one";
        let client = clients.iter().find(|client| at_one(client)).expect("they take turns");
        let waits = thread::spawn({
            let client = client.clone();
            move || client.request("wait")
        });
        let begun = Instant::now();
        while client.is_connected() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the server closes the connection"
            );
            thread::sleep(millis(5));
        }
        for stream in streams.lock().expect("nothing panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let cut = waits.join().expect("it does not panic");
        assert_eq!(cut.map_err(|error| error.fate()), Err(Fate::MaybeProcessed));
        assert!(at_one(client));
        drop(clients);
        one.stop();
        two.stop();
    });
}

#[test]
fn without_any_server_requests_fail_as_not_processed() {
    bounded(|| {
        let none: [&str; 0] = [];
        assert!(matches!(builder().connect_any(none), Err(Error::Io { .. })));
        let dead = ["127.0.0.1:1", "127.0.0.1:2"];
        builder().connect_any(dead).expect_err("nobody is there");
        // The next attempts are not made while the test looks.
        let minute = Duration::from_secs(60);
        let client = builder()
            .fail_fast(true)
            .backoff(minute, minute)
            .connect_any_lazy(dead)
            .expect("it connects later");
        assert!(!client.is_connected());
        let error = client.request("x").expect_err("nobody is there");
        assert_eq!(error.fate(), Fate::NotProcessed);
        // Both were tried before the request failed.
        assert_eq!(client.stats().attempts, 2);
    });
}
