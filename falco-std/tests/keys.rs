//! Which clients a server accepts, by wire, key and context, and keys that are added and retired
//! while requests are in flight.

mod common;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, millis, other_key};
use falco_std::{Client, ConnectionError, Error, Fate, Key, Request, Server, Settings, SetupError};

fn refused(result: Result<Client, Error>) {
    let error = result.expect_err("it is refused");
    assert!(
        matches!(
            error,
            Error::Connection {
                end: ConnectionError::Refused,
                fate: Fate::NotProcessed
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_wrong_key_a_wrong_context_and_a_wrong_wire_are_refused() {
    bounded(|| {
        let noise = Running::start(Server::builder(key()).context("orders"), echo);
        refused(Client::builder(other_key()).context("orders").connect(noise.address));
        refused(Client::builder(key()).context("stock").connect(noise.address));
        refused(Client::builder(key()).connect(noise.address));
        refused(Client::classic(key()).connect(noise.address));
        let client = Client::builder(key()).context("orders").connect(noise.address);
        assert_eq!(
            client.expect("it is right").request("hello").expect("an answer"),
            b"hello"
        );
        let report = noise.stop();
        assert_eq!((report.stats.accepted, report.stats.established), (5, 1));

        let classic = Running::start(Server::classic(key()), echo);
        refused(Client::builder(key()).connect(classic.address));
        assert_eq!(classic.stop().stats.established, 0);
    });
}

#[test]
fn a_refused_client_receives_not_one_byte() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(millis(300))
            .expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings), echo);
        let mut version_2 = vec![0x4E; 74];
        if let Some(version) = version_2.get_mut(1) {
            *version = 2;
        }
        for hello in [
            vec![0; 157],
            vec![0x4E; 74],
            version_2,
            vec![0x4E, 0x01, 7, 7],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            stream.set_read_timeout(Some(millis(3_000))).expect("it is a socket");
            stream.write_all(&hello).expect("the server reads");
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            assert!(answer.is_empty());
        }
        assert_eq!(server.stop().stats.established, 0);
    });
}

#[test]
fn a_replayed_hello_receives_a_welcome_and_nothing_more() {
    bounded(|| {
        let handled = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&handled);
        let settings = Settings::new()
            .with_handshake_timeout(millis(400))
            .expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings), move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        // A proxy that records what a client sends.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (tapped, real) = (listener.local_addr().expect("it is bound"), server.address);
        let tap = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client comes");
            let mut server = TcpStream::connect(real).expect("it listens");
            let (mut back, mut to_client) = (
                server.try_clone().expect("it is a socket"),
                client.try_clone().expect("it is a socket"),
            );
            thread::spawn(move || std::io::copy(&mut back, &mut to_client));
            let (mut recorded, mut chunk) = (Vec::new(), [0; 4_096]);
            while let Ok(count @ 1..) = client.read(&mut chunk) {
                let bytes = chunk.get(..count).expect("as many were read");
                recorded.extend_from_slice(bytes);
                server.write_all(bytes).expect("the server reads");
            }
            recorded
        });
        let client = Client::builder(key()).connect(tapped).expect("the server accepts it");
        assert_eq!(client.request("once").expect("an answer"), b"once");
        drop(client);
        let recorded = tap.join().expect("it records");
        assert_eq!(handled.load(Ordering::SeqCst), 1);
        // The whole recording, then its hello alone.
        for length in [recorded.len(), 74] {
            let start = Instant::now();
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            stream.set_read_timeout(Some(millis(3_000))).expect("it is a socket");
            stream
                .write_all(recorded.get(..length).expect("so much was recorded"))
                .expect("the server reads");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.len() <= 64, "a welcome at the most: {} bytes", answer.len());
            assert!(start.elapsed() < millis(1_500), "gone at the handshake's deadline");
        }
        let report = server.stop();
        assert_eq!((report.stats.established, handled.load(Ordering::SeqCst)), (1, 1));
    });
}

#[test]
fn both_wires_on_one_port_each_under_its_own_key() {
    bounded(|| {
        let server = Running::start(Server::builder(key()).classic(other_key()), echo);
        let noise = Client::builder(key()).connect(server.address).expect("it is taken");
        let classic = Client::classic(other_key())
            .connect(server.address)
            .expect("it is taken");
        for round in 0..20 {
            let text = format!("{round}");
            assert_eq!(noise.request(&text).expect("an answer"), text.as_bytes());
            assert_eq!(classic.request(&text).expect("an answer"), text.as_bytes());
        }
        assert_eq!(classic.ping().expect("it goes"), None);
        assert!(noise.ping().expect("it goes").is_some());
        refused(Client::classic(key()).connect(server.address));
        refused(Client::builder(other_key()).connect(server.address));
        drop((noise, classic));
        assert_eq!(server.stop().stats.established, 2);
    });
}

#[test]
fn conflicting_keys_fail_when_the_server_is_built() {
    let setup = |result: Result<Server, Error>| {
        let error = result.expect_err("it is refused");
        let Error::Setup(setup) = error else {
            panic!("{error:?}");
        };
        setup
    };
    let same = setup(Server::builder(key()).classic(key()).unbound());
    assert!(matches!(same, SetupError::KeyOnBothWires(_)), "{same:?}");
    let same = setup(Server::classic(key()).key(other_key()).key(key()).unbound());
    assert!(matches!(same, SetupError::KeyOnBothWires(_)), "{same:?}");
    let twice = setup(Server::builder(key()).key(key()).unbound());
    assert!(matches!(twice, SetupError::DuplicateKey(_)), "{twice:?}");
    let long = setup(Server::builder(key()).context(vec![0; 65_536]).unbound());
    assert!(matches!(long, SetupError::Context(_)), "{long:?}");

    let server = Server::builder(key())
        .classic(other_key())
        .unbound()
        .expect("it is right");
    let handle = server.handle();
    assert!(matches!(
        handle.add_key(other_key()),
        Err(SetupError::KeyOnBothWires(_))
    ));
    assert!(matches!(handle.add_key(key()), Err(SetupError::DuplicateKey(_))));
    let alone = Server::classic(key()).unbound().expect("it is right").handle();
    assert_eq!(alone.add_key(other_key()), Err(SetupError::NoRing));
}

#[test]
fn adding_and_retiring_keys_under_load_loses_no_accepted_request() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Running::start(Server::builder(key()), move |request| {
            thread::sleep(millis(2));
            counter.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let third = || Key::from_bytes([9; 32]).expect("it is not zero");
        refused(Client::builder(third()).connect(server.address));
        let id = server.handle.add_key(third()).expect("it is new");
        assert_eq!(id, third().id());
        let (old, kept) = (
            Arc::new(Client::builder(third()).connect(server.address).expect("it was added")),
            Arc::new(Client::builder(key()).connect(server.address).expect("it is there")),
        );
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (client, of_old) = if number % 2 == 0 { (&old, true) } else { (&kept, false) };
                let (client, stop) = (Arc::clone(client), Arc::clone(&stop));
                thread::spawn(move || {
                    let mut answered = 0_usize;
                    while !stop.load(Ordering::SeqCst) {
                        match client.request(format!("{number}")) {
                            Ok(answer) => {
                                assert_eq!(answer, format!("{number}").as_bytes());
                                answered += 1;
                            }
                            Err(error) => {
                                assert!(of_old, "the other key is in service: {error:?}");
                                assert_eq!(error.fate(), Fate::NotProcessed, "{error:?}");
                                return answered;
                            }
                        }
                    }
                    assert!(!of_old, "its key was retired");
                    answered
                })
            })
            .collect();
        thread::sleep(millis(200));
        assert!(server.handle.retire_key(id));
        assert!(!server.handle.retire_key(id), "once");
        refused(Client::builder(third()).connect(server.address));
        thread::sleep(millis(300));
        stop.store(true, Ordering::SeqCst);
        let answered: usize = threads
            .into_iter()
            .map(|thread| thread.join().expect("it is as told"))
            .sum();
        assert!(answered > 50, "{answered}");
        assert_eq!(ran.load(Ordering::SeqCst), answered, "what ran was answered");
        assert_eq!(kept.request("still").expect("an answer"), b"still");
        let report = server.stop();
        assert_eq!(report.cut_connections, 0);
    });
}

#[test]
fn a_client_backs_off_a_server_without_its_key_and_reconnects_later() {
    bounded(|| {
        let server = Running::start(Server::builder(key()).key(other_key()), echo);
        let client = Client::builder(other_key())
            .connect(server.address)
            .expect("it is there");
        assert_eq!(client.request("one").expect("an answer"), b"one");
        let id = other_key().id();
        assert!(server.handle.retire_key(id));
        thread::sleep(millis(100));
        let start = Instant::now();
        let error = client.request("two").expect_err("its key is retired");
        assert!(start.elapsed() < Duration::from_secs(2), "a wrong key is final");
        assert_eq!(error.fate(), Fate::NotProcessed);
        assert_eq!(server.handle.add_key(other_key()), Ok(id));
        assert_eq!(client.request("three").expect("an answer"), b"three");
        server.stop();
    });
}

#[test]
fn handlers_see_the_label_of_a_key() {
    bounded(|| {
        let handler = |request: Request| Ok(request.key_label().unwrap_or("none").as_bytes().to_vec());
        let builder = Server::builder(key()).labeled_key("other", other_key());
        let server = Running::start(builder, handler);
        let client = |key| Client::builder(key).connect(server.address).expect("it is taken");
        let label = |client: &Client| String::from_utf8(client.request("x").expect("an answer")).expect("a label");
        let third = || Key::from_bytes([9; 32]).expect("it is not zero");
        assert_eq!(label(&client(key())), "none");
        assert_eq!(label(&client(other_key())), "other");
        server.handle.add_labeled_key("third", third()).expect("it is new");
        let before = client(third());
        assert_eq!(label(&before), "third");
        assert!(server.handle.set_key_label(third().id(), Some("drei")));
        assert_eq!(
            (label(&client(third())), label(&before)),
            ("drei".to_owned(), "third".to_owned())
        );
        assert!(server.handle.set_key_label(third().id(), None));
        assert_eq!(label(&client(third())), "none");
        assert_eq!(Request::new("x").with_key_label("four").key_label(), Some("four"));
        drop(before);
        server.stop();
    });
}
