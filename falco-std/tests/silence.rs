//! How pings and closing end if the server is lost or silent. The file of the same name in
//! falco-tokio has the same tests.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, millis};
use falco_std::{Client, Error, Fate, Server};

/// What a client sends for its handshake: the hello and its first PING.
const HANDSHAKE: usize = 74 + 33;

/// Passes on what `from` sends until its end.
fn carry(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// Passes on what `client` sends for its handshake, and what the server replies, until the client
/// sends more.
fn shake_hands(client: &mut TcpStream, server: &mut TcpStream) {
    carry(server, client);
    let (mut sent, mut bytes) = (0, [0; 1024]);
    loop {
        let count = client.read(&mut bytes).unwrap();
        sent += count;
        if sent > HANDSHAKE {
            return;
        }
        server.write_all(bytes.get(..count).unwrap()).unwrap();
    }
}

/// A proxy that ends the first connection when the client sends something after its handshake.
fn ends_the_first(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        shake_hands(&mut client, &mut TcpStream::connect(server).unwrap());
        client.shutdown(Shutdown::Both).unwrap();
        let (client, _) = listener.accept().unwrap();
        let server = TcpStream::connect(server).unwrap();
        carry(&client, &server);
        carry(&server, &client);
    });
    address
}

/// A proxy that passes on nothing of the client after the handshake, and stays.
fn falls_silent(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(server).unwrap();
        shake_hands(&mut client, &mut server);
        // Until the client ends.
        let _ = io::copy(&mut client, &mut io::sink());
    });
    address
}

#[test]
fn a_ping_of_a_lost_connection_goes_to_the_next() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let front = ends_the_first(server.address);
        let client = Client::builder(key()).connect(front).unwrap();
        assert!(client.ping().unwrap().is_some());
        assert_eq!(client.stats().connected, 2);
        client.close();
        server.stop();
    });
}

#[test]
fn a_ping_without_an_answer_ends_with_its_time_and_was_not_processed() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let front = falls_silent(server.address);
        let client = Client::builder(key()).request_timeout(Some(millis(200)));
        let client = client.connect(front).unwrap();
        let error = client.ping().unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert_eq!(error.fate(), Fate::NotProcessed);
        drop(client);
        server.stop();
    });
}

#[test]
fn a_server_that_does_not_end_a_closed_connection_is_left_after_a_second() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let client = Client::builder(key()).connect(falls_silent(server.address)).unwrap();
        let began = Instant::now();
        client.close();
        let took = began.elapsed();
        assert!(took >= millis(900) && took < millis(10_000), "{took:?}");
        server.stop();
    });
}

#[test]
fn a_client_that_is_closed_waits_for_no_connection() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The handshake hangs.
        let client = Client::builder(key()).connect_lazy(address).unwrap();
        let own = client.clone();
        let asking = thread::spawn(move || own.request("waits"));
        let accepted = listener.accept().unwrap();
        let began = Instant::now();
        client.close();
        assert!(began.elapsed() < millis(1_000));
        let error = asking.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
        assert_eq!(error.fate(), Fate::NotProcessed);
        drop(accepted);
    });
}
