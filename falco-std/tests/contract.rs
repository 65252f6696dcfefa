//! What falco-std and falco-tokio both promise. The file of the same name in falco-tokio has the
//! same tests with `await`. `docs/adapters.md` compares all methods.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use common::{Running, bounded};
use falco_std::{
    Client, EntropyError, Error, Fate, HandlerError, Key, Refusal, Request, RequestError, Server, ServerBuilder,
    Settings, SettingsError, SetupError,
};

fn key(number: u8) -> Key {
    Key::from_bytes([number; 32]).unwrap()
}

/// A server that returns each body.
fn echo(builder: ServerBuilder) -> Running {
    Running::start(builder, common::echo)
}

fn client(server: &Running) -> Client {
    Client::builder(key(1)).connect(server.address).unwrap()
}

/// The result of a request of three bytes.
fn three(client: &Client) -> Result<usize, RequestError> {
    match client.request("abc") {
        Ok(answer) => Ok(answer.len()),
        Err(Error::Request(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn settings_that_come_later_undo_no_single_value() {
    bounded(|| {
        let too_large = Err(RequestError::Refused(Refusal::TooLarge));
        for builder in [
            Server::builder(key(1)).max_message(2).settings(Settings::new()),
            Server::builder(key(1)).settings(Settings::new()).max_message(2),
        ] {
            let server = echo(builder);
            let client = client(&server);
            let sent = three(&client);
            let limit = RequestError::TooLarge { length: 3, limit: 2 };
            assert!(sent == too_large || sent == Err(limit), "{sent:?}");
            server.stop();
        }
        let server = echo(Server::builder(key(1)));
        for builder in [
            Client::builder(key(1)).max_message(2).settings(Settings::new()),
            Client::builder(key(1)).settings(Settings::new()).max_message(2),
        ] {
            let client = builder.connect(server.address).unwrap();
            let limit = RequestError::TooLarge { length: 3, limit: 2 };
            assert_eq!(three(&client), Err(limit));
            assert_eq!(client.request("ab").unwrap(), b"ab");
        }
        assert_eq!(server.stop().stats.requests, 2);
    });
}

#[test]
fn a_setting_out_of_its_range_is_an_error_when_the_builder_is_used() {
    bounded(|| {
        let short = Duration::from_millis(1);
        let failed = Client::builder(key(1)).lifetime(short).connect("127.0.0.1:1");
        assert!(matches!(failed.unwrap_err(), Error::Settings(SettingsError::Lifetime(given)) if given == short));
        let failed = Client::builder(key(1))
            .handshake_timeout(Duration::ZERO)
            .connect_lazy("127.0.0.1:1");
        assert!(matches!(
            failed.unwrap_err(),
            Error::Settings(SettingsError::HandshakeTimeout(_))
        ));
        for builder in [
            Server::builder(key(1)).max_in_flight(0),
            Server::builder(key(1)).lifetime(short),
            Server::builder(key(1)).handshake_timeout(Duration::ZERO),
        ] {
            let failed = builder.settings(Settings::new()).unbound().unwrap_err();
            assert!(matches!(failed, Error::Settings(_)), "{failed}");
            assert_eq!(failed.fate(), Fate::NotProcessed);
        }
    });
}

#[test]
fn clones_of_a_builder_make_clients_under_one_key() {
    bounded(|| {
        let server = echo(Server::classic(key(1)));
        let builder = Client::classic(key(1));
        let (one, other) = (builder.clone(), builder);
        for builder in [one, other] {
            let client = builder.connect(server.address).unwrap();
            assert_eq!(client.request("x").unwrap(), b"x");
        }
        assert_eq!(server.stop().stats.established, 2);
    });
}

#[test]
fn the_key_changes_and_no_request_fails_by_it() {
    bounded(|| {
        let handler = |request: Request| Ok(request.key_id().unwrap().to_string().into_bytes());
        let server = Running::start(Server::builder(key(1)).key(key(2)), handler);
        let client = client(&server);
        let clone = client.clone();
        assert_eq!(client.request("").unwrap(), key(1).id().to_string().into_bytes());
        let unknown = client.set_key(key(3)).unwrap_err();
        assert!(unknown.is_refused(), "{unknown}");
        assert_eq!(client.request("").unwrap(), key(1).id().to_string().into_bytes());
        client.set_key(key(2)).unwrap();
        assert!(server.handle.retire_key(key(1).id()));
        for client in [&client, &clone] {
            assert_eq!(client.request("").unwrap(), key(2).id().to_string().into_bytes());
        }
        let stats = client.stats();
        assert_eq!((stats.connected, stats.requests, stats.errors), (2, 4, 0));
        let report = server.stop();
        assert_eq!((report.stats.established, report.stats.answers), (2, 4));
    });
}

#[test]
fn it_is_enough_that_one_of_several_servers_accepts_the_new_key() {
    bounded(|| {
        let named = |builder: ServerBuilder, name: &'static str| {
            Running::start(builder, move |_: Request| Ok(name.as_bytes().to_vec()))
        };
        let one = named(Server::builder(key(1)), "one");
        let two = named(Server::builder(key(1)).key(key(2)), "two");
        let alone = Client::builder(key(1)).connect_any([one.address]).unwrap();
        let both = Client::builder(key(1)).connect_any([one.address, two.address]).unwrap();
        // The only server of the one client does not have it, and that of the other may be asked
        // first.
        assert!(alone.set_key(key(2)).unwrap_err().is_refused());
        both.set_key(key(2)).unwrap();
        assert_eq!(both.request("who").unwrap(), b"two");
        // The first is dead, or accepts connections and says nothing.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let hangs = silent.local_addr().unwrap();
        for first in ["127.0.0.1:1".to_owned(), hangs.to_string()] {
            let second = two.address.to_string();
            let builder = Client::builder(key(1));
            // Clients of clones of a builder take turns with their homes.
            for _ in 0..2 {
                let servers = [first.clone(), second.clone()];
                let client = builder.clone().connect_any_lazy(servers).unwrap();
                let begun = Instant::now();
                client.set_key(key(2)).unwrap();
                assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
                assert_eq!(client.request("who").unwrap(), b"two");
            }
        }
    });
}

#[test]
fn a_client_that_fails_fast_goes_on_connecting_although_nothing_waits() {
    bounded(|| {
        for fails_fast in [true, false] {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let client = Client::builder(key(1))
                .fail_fast(fails_fast)
                .backoff(Duration::from_millis(10), Duration::from_millis(20))
                .connect_lazy(address)
                .unwrap();
            let limit = Duration::from_millis(if fails_fast { 5_000 } else { 50 });
            let error = client.request_within("x", limit).unwrap_err();
            assert_eq!(error.fate(), Fate::NotProcessed);
            // An attempt that has begun goes on, and may find the server that follows.
            let attempts = client.stats().attempts;
            let server = Running::at(Server::builder(key(1)), address, common::echo);
            let (begun, wait) = (
                Instant::now(),
                Duration::from_millis(if fails_fast { 5_000 } else { 200 }),
            );
            while !(fails_fast && client.is_connected()) && begun.elapsed() < wait {
                thread::sleep(Duration::from_millis(1));
            }
            if fails_fast {
                assert!(client.is_connected());
            } else {
                assert_eq!(client.stats().attempts, attempts, "no other one begins");
            }
            assert_eq!(client.request("x").unwrap(), b"x");
            assert_eq!(server.stop().stats.requests, 1);
        }
    });
}

#[test]
fn the_key_of_a_classic_client_changes_too() {
    bounded(|| {
        let server = echo(Server::classic(key(1)));
        let client = Client::classic(key(1)).connect(server.address).unwrap();
        assert_eq!(client.request("one").unwrap(), b"one");
        client.set_key(key(1)).unwrap();
        assert_eq!(client.request("two").unwrap(), b"two");
        assert!(client.set_key(key(2)).unwrap_err().is_refused());
        assert_eq!(client.request("three").unwrap(), b"three");
        assert_eq!(client.stats().connected, 2);
        client.close();
        assert_eq!(server.stop().stats.answers, 3);
    });
}

#[test]
fn a_ping_has_an_answer_on_the_noise_wire_only() {
    bounded(|| {
        for (server, client, answers) in [
            (Server::builder(key(1)), Client::builder(key(1)), true),
            (Server::classic(key(1)), Client::classic(key(1)), false),
        ] {
            let server = echo(server);
            let client = client.connect(server.address).unwrap();
            for _ in 0..2 {
                assert_eq!(client.ping().unwrap().is_some(), answers);
            }
            assert_eq!(client.request("x").unwrap(), b"x");
            server.stop();
        }
    });
}

#[test]
fn a_handler_chooses_how_its_request_is_refused() {
    bounded(|| {
        let handler = |request: Request| {
            let refusal: HandlerError = match request.body() {
                b"busy" => Refusal::Busy.into(),
                b"not processed" => Refusal::NotProcessed.into(),
                _ => "the client does not see this".into(),
            };
            Err::<Vec<u8>, _>(refusal)
        };
        let server = Running::start(Server::builder(key(1)), handler);
        let client = client(&server);
        for (body, refusal) in [
            ("busy", Refusal::Busy),
            ("not processed", Refusal::NotProcessed),
            ("else", Refusal::Failed),
        ] {
            match client.request(body) {
                Err(Error::Request(RequestError::Refused(told))) => assert_eq!(told, refusal),
                other => panic!("{other:?}"),
            }
        }
        let stats = server.stop().stats;
        assert_eq!((stats.answers, stats.failed), (0, 1));
        // One that was not processed is sent as often as after lost connections.
        assert_eq!((stats.requests, stats.refusals), (5, 5));
    });
}

#[test]
fn both_sides_count_what_they_did() {
    bounded(|| {
        let server = echo(Server::builder(key(1)).max_message(10));
        let client = client(&server);
        client.request("one").unwrap();
        client.request("two").unwrap();
        client.request("longer than ten bytes").unwrap_err();
        let stats = client.stats();
        assert_eq!((stats.outstanding, stats.attempts, stats.connected), (0, 1, 1));
        assert_eq!((stats.requests, stats.answers, stats.errors), (3, 2, 1));
        let stats = server.handle.stats();
        assert_eq!((stats.connections, stats.half_open), (1, 0));
        assert_eq!((stats.accepted, stats.established, stats.rejected), (1, 1, 0));
        assert_eq!(
            (stats.requests, stats.answers, stats.refusals, stats.failed),
            (2, 2, 0, 0)
        );
        assert_eq!((stats.unauthenticated, stats.cancelled, stats.accept_errors), (0, 0, 0));
        let stranger = Client::builder(key(2)).connect(server.address).unwrap_err();
        assert!(stranger.is_refused());
        while server.handle.stats().unauthenticated == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        client.close();
        let report = server.stop();
        assert_eq!((report.cut_connections, report.cut_requests), (0, 0));
        assert_eq!((report.stats.accepted, report.stats.connections), (2, 0));
    });
}

#[test]
fn listeners_may_be_bound_by_others() {
    bounded(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder(key(1)).from_listener(listener).unwrap();
        assert_eq!(server.local_addr().unwrap(), address);
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve(common::echo));
        let client = Client::builder(key(1)).connect(address).unwrap();
        assert_eq!(client.request("x").unwrap(), b"x");
        handle.shutdown();
        let stats = serving.join().unwrap().unwrap().stats;
        assert_eq!((stats.answers, stats.accept_errors), (1, 0), "it waits in accept");
    });
}

#[cfg(unix)]
#[test]
fn unix_listeners_may_be_bound_by_others() {
    bounded(|| {
        let path = std::env::temp_dir().join(format!("falco-std-contract-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = Server::builder(key(1)).from_unix_listener(listener).unwrap();
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve(common::echo));
        let client = Client::builder(key(1)).connect_unix(&path).unwrap();
        assert_eq!(client.request("x").unwrap(), b"x");
        handle.shutdown();
        assert_eq!(serving.join().unwrap().unwrap().stats.answers, 1);
        std::fs::remove_file(path).unwrap();
    });
}

/// Counts the bytes that were drawn from a source.
#[derive(Default)]
struct Drawn(Arc<AtomicUsize>);

impl Drawn {
    /// A source of ascending numbers.
    fn source(&self) -> impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static {
        let drawn = Arc::clone(&self.0);
        move |bytes| {
            for byte in bytes {
                *byte = drawn.fetch_add(1, Ordering::SeqCst).to_le_bytes()[0];
            }
            Ok(())
        }
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn random_numbers_come_from_the_source_that_the_builder_has() {
    bounded(|| {
        let none = |_: &mut [u8]| Err(EntropyError::new());
        let failed = Server::builder(key(1)).entropy(none).unbound().unwrap_err();
        assert!(matches!(failed, Error::Setup(SetupError::Entropy)), "{failed}");
        let (by_server, by_client) = (Drawn::default(), Drawn::default());
        let server = echo(Server::builder(key(1)).entropy(by_server.source()));
        let failed = Client::builder(key(1)).entropy(none).connect(server.address);
        let failed = failed.unwrap_err();
        assert!(matches!(failed, Error::Entropy(_)), "{failed}");
        let before = by_server.count();
        assert!(before > 0, "for the key ring");
        let client = Client::builder(key(1)).entropy(by_client.source());
        let client = client.connect(server.address).unwrap();
        assert_eq!(client.request("x").unwrap(), b"x");
        assert!(by_server.count() > before && by_client.count() > 0, "for the handshake");
        server.stop();
    });
}

#[test]
fn a_request_is_made_without_a_connection() {
    bounded(|| {
        let peer = "192.0.2.1:7".parse().unwrap();
        let id = Key::from_bytes([9; 32]).unwrap().id();
        let request = Request::new(b"body".to_vec());
        assert_eq!((request.peer(), request.key_id()), (None, None));
        let request = request.with_peer(peer).with_key_id(id);
        assert_eq!((request.peer(), request.key_id()), (Some(peer), Some(id)));
        assert!(!request.is_cancelled());
        assert_eq!(request.body(), b"body");
        assert_eq!(request.into_body(), b"body");
    });
}

#[test]
fn setters_of_a_request_change_what_it_returns_and_not_its_connection() {
    bounded(|| {
        let handler = |request: Request| {
            let id = request.key_id();
            let request = request.with_peer(([192, 0, 2, 1], 7).into());
            assert_eq!(request.key_id(), id);
            Ok(request.peer().unwrap().to_string().into_bytes())
        };
        let server = Running::start(Server::builder(key(1)), handler);
        assert_eq!(client(&server).request("").unwrap(), b"192.0.2.1:7");
        server.stop();
    });
}

#[test]
fn an_error_from_before_is_not_the_reason_of_a_later_request() {
    bounded(|| {
        let server = echo(Server::builder(key(1)));
        let (address, dialed) = (server.address, AtomicUsize::new(0));
        let dial = move || match dialed.fetch_add(1, Ordering::Relaxed) {
            0 => TcpStream::connect(address),
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => {
                thread::sleep(Duration::from_secs(2));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        let (brief, limit) = (Duration::from_millis(1), Duration::from_millis(200));
        let client = Client::builder(key(1)).backoff(brief, brief);
        let client = client.connect_with(dial).unwrap();
        server.stop();
        let error = client.request_within("first", limit).unwrap_err();
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused));
        assert_eq!(error.fate(), Fate::NotProcessed);
        // The attempt that hangs has not failed yet.
        let error = client.request_within("second", limit).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert_eq!(error.fate(), Fate::NotProcessed);
    });
}
