//! Lifetimes that pass, on either side. The client reconnects before it sends, and nothing is sent
//! twice.

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::sleep;

use common::{Running, bounded, client, echo, key, lifetime, millis};
use falco_std::{ConnectionError, Error, Fate, Request, Server};

/// An echo server with this lifetime, and the number of its requests.
fn counting(millis_of_life: u64) -> (Running, Arc<AtomicUsize>) {
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ran);
    let builder = Server::classic(key()).settings(lifetime(millis(millis_of_life)));
    let server = Running::start(builder, move |request: Request| {
        counter.fetch_add(1, Ordering::SeqCst);
        echo(request)
    });
    (server, ran)
}

#[test]
fn a_client_whose_lifetime_has_passed_reconnects() {
    bounded(|| {
        let (server, ran) = counting(60_000);
        let client = client()
            .settings(lifetime(millis(1_000)))
            .connect(server.address)
            .expect("the server accepts it");
        for round in 1..=3 {
            assert_eq!(client.request("once").expect("an answer"), b"once");
            assert_eq!(ran.load(Ordering::SeqCst), round, "each request ran once");
            sleep(millis(1_100));
        }
        let report = server.stop();
        assert_eq!((report.stats.accepted, report.stats.established), (3, 3));
    });
}

#[test]
fn a_client_whose_server_has_closed_reconnects() {
    bounded(|| {
        let (server, ran) = counting(1_000);
        let client = server.connect();
        for round in 1..=3 {
            assert_eq!(client.request("once").expect("an answer"), b"once");
            assert_eq!(ran.load(Ordering::SeqCst), round, "each request ran once");
            sleep(millis(1_200));
        }
        client.ping().expect("a ping goes on a new connection");
        assert_eq!(client.request("once").expect("an answer"), b"once");
        assert_eq!(server.stop().stats.accepted, 4);
    });
}

#[test]
fn pings_keep_a_connection_alive() {
    bounded(|| {
        let (server, _) = counting(1_000);
        let client = client()
            .settings(lifetime(millis(1_000)))
            .connect(server.address)
            .expect("the server accepts it");
        for _ in 0..5 {
            sleep(millis(400));
            client.ping().expect("the connection lives");
        }
        assert_eq!(client.request("still there").expect("an answer"), b"still there");
        assert_eq!(server.stop().stats.accepted, 1);
    });
}

#[test]
fn a_client_reconnects_to_a_restarted_server() {
    bounded(|| {
        let (server, _) = counting(60_000);
        let address = server.address;
        let client = client()
            .fail_fast(true)
            .connect(address)
            .expect("the server accepts it");
        assert_eq!(client.request("one").expect("an answer"), b"one");
        server.stop();
        let error = client.request("two").expect_err("nobody is there");
        assert_eq!(error.fate(), Fate::NotProcessed, "{error}");
        let again = Server::classic(key()).bind(address).expect("the address is free again");
        let handle = again.handle();
        let serving = std::thread::spawn(move || again.serve(echo).expect("it never fails"));
        // During the pause after the attempt that failed, requests fail at once.
        sleep(millis(100));
        assert_eq!(client.request("three").expect("an answer"), b"three");
        handle.shutdown();
        serving.join().expect("serve does not panic");
    });
}

#[test]
fn a_handler_may_be_slower_than_the_servers_lifetime() {
    bounded(|| {
        let builder = Server::classic(key()).settings(lifetime(millis(1_000)));
        let server = Running::start(builder, |request: Request| {
            sleep(millis(1_500));
            echo(request)
        });
        let patient = server.connect();
        assert_eq!(
            patient.request("worth waiting for").expect("an answer"),
            b"worth waiting for"
        );
        let hasty = client()
            .settings(lifetime(millis(1_000)))
            .connect(server.address)
            .expect("the server accepts it");
        let error = hasty
            .request("not worth it")
            .expect_err("the client's lifetime bounds the wait");
        assert!(
            matches!(
                error,
                Error::Connection {
                    end: ConnectionError::Expired,
                    fate: Fate::MaybeProcessed
                }
            ),
            "{error:?}"
        );
        server.stop();
    });
}
