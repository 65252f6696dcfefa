//! What falco-tokio and falco-std both promise. The file of the same name in falco-std has the same
//! tests without `await`. `docs/adapters.md` compares all methods.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use common::{Running, key};
use falco_tokio::{
    Client, EntropyError, Error, Fate, HandlerError, Key, Refusal, Request, RequestError, Server, ServerBuilder,
    Settings, SettingsError, SetupError,
};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The result of a request of three bytes.
async fn three(client: &Client) -> Result<usize, RequestError> {
    match client.request("abc").await {
        Ok(answer) => Ok(answer.len()),
        Err(Error::Request(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn settings_that_come_later_undo_no_single_value() {
    let too_large = Err(RequestError::Refused(Refusal::TooLarge));
    for builder in [
        Server::builder(key(1)).max_message(2).settings(Settings::new()),
        Server::builder(key(1)).settings(Settings::new()).max_message(2),
    ] {
        let server = Running::echo(builder).await;
        let client = server.client().await;
        let sent = three(&client).await;
        let limit = RequestError::TooLarge { length: 3, limit: 2 };
        assert!(sent == too_large || sent == Err(limit), "{sent:?}");
        server.stop().await;
    }
    let server = Running::echo(Server::builder(key(1))).await;
    for builder in [
        Client::builder(key(1)).max_message(2).settings(Settings::new()),
        Client::builder(key(1)).settings(Settings::new()).max_message(2),
    ] {
        let client = builder.connect(server.address).await.unwrap();
        let limit = RequestError::TooLarge { length: 3, limit: 2 };
        assert_eq!(three(&client).await, Err(limit));
        assert_eq!(client.request("ab").await.unwrap(), "ab");
    }
    assert_eq!(server.stop().await.stats.requests, 2);
}

#[tokio::test]
async fn a_setting_out_of_its_range_is_an_error_when_the_builder_is_used() {
    let short = Duration::from_millis(1);
    let failed = Client::builder(key(1)).lifetime(short).connect("127.0.0.1:1").await;
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
}

#[tokio::test]
async fn clones_of_a_builder_make_clients_under_one_key() {
    let server = Running::echo(Server::classic(key(1))).await;
    let builder = Client::classic(key(1));
    let (one, other) = (builder.clone(), builder);
    for builder in [one, other] {
        let client = builder.connect(server.address).await.unwrap();
        assert_eq!(client.request("x").await.unwrap(), "x");
    }
    assert_eq!(server.stop().await.stats.established, 2);
}

#[tokio::test]
async fn the_key_changes_and_no_request_fails_by_it() {
    let handler = |request: Request| async move { Ok(request.key_id().unwrap().to_string()) };
    let server = Running::start(Server::builder(key(1)).key(key(2)), handler).await;
    let client = server.client().await;
    let clone = client.clone();
    assert_eq!(client.request("").await.unwrap(), key(1).id().to_string());
    let unknown = client.set_key(key(3)).await.unwrap_err();
    assert!(unknown.is_refused(), "{unknown}");
    assert_eq!(client.request("").await.unwrap(), key(1).id().to_string());
    client.set_key(key(2)).await.unwrap();
    assert!(server.handle.retire_key(key(1).id()));
    for client in [&client, &clone] {
        assert_eq!(client.request("").await.unwrap(), key(2).id().to_string());
    }
    let stats = client.stats();
    assert_eq!((stats.connected, stats.requests, stats.errors), (2, 4, 0));
    let report = server.stop().await;
    assert_eq!((report.stats.established, report.stats.answers), (2, 4));
}

#[tokio::test]
async fn it_is_enough_that_one_of_several_servers_accepts_the_new_key() {
    let named = async |builder: ServerBuilder, name: &'static str| {
        Running::start(builder, move |_: Request| async move { Ok(name) }).await
    };
    let one = named(Server::builder(key(1)), "one").await;
    let two = named(Server::builder(key(1)).key(key(2)), "two").await;
    let alone = Client::builder(key(1)).connect_any([one.address]).await.unwrap();
    let both = Client::builder(key(1))
        .connect_any([one.address, two.address])
        .await
        .unwrap();
    // The only server of the one client does not have it, and that of the other may be asked first.
    assert!(alone.set_key(key(2)).await.unwrap_err().is_refused());
    both.set_key(key(2)).await.unwrap();
    assert_eq!(both.request("who").await.unwrap(), "two");
    // The first is dead, or accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = silent.local_addr().unwrap();
    for first in ["127.0.0.1:1".to_owned(), hangs.to_string()] {
        let second = two.address.to_string();
        for servers in [[first.clone(), second.clone()], [second, first]] {
            let client = Client::builder(key(1)).connect_any_lazy(servers).unwrap();
            let begun = Instant::now();
            client.set_key(key(2)).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
            assert_eq!(client.request("who").await.unwrap(), "two");
        }
    }
}

#[tokio::test]
async fn a_client_that_fails_fast_goes_on_connecting_although_nothing_waits() {
    for fails_fast in [true, false] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let client = Client::builder(key(1))
            .fail_fast(fails_fast)
            .backoff(Duration::from_millis(10), Duration::from_millis(20))
            .connect_lazy(address)
            .unwrap();
        let limit = Duration::from_millis(if fails_fast { 5_000 } else { 50 });
        let error = client.request_within("x", limit).await.unwrap_err();
        assert_eq!(error.fate(), Fate::NotProcessed);
        // An attempt that has begun goes on, and may find the server that follows.
        let attempts = client.stats().attempts;
        let server = Running::echo_at(Server::builder(key(1)), address).await;
        let (begun, wait) = (
            Instant::now(),
            Duration::from_millis(if fails_fast { 5_000 } else { 200 }),
        );
        while !(fails_fast && client.is_connected()) && begun.elapsed() < wait {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if fails_fast {
            assert!(client.is_connected());
        } else {
            assert_eq!(client.stats().attempts, attempts, "no other one begins");
        }
        assert_eq!(client.request("x").await.unwrap(), "x");
        assert_eq!(server.stop().await.stats.requests, 1);
    }
}

#[tokio::test]
async fn the_key_of_a_classic_client_changes_too() {
    let server = Running::echo(Server::classic(key(1))).await;
    let client = Client::classic(key(1)).connect(server.address).await.unwrap();
    assert_eq!(client.request("one").await.unwrap(), "one");
    client.set_key(key(1)).await.unwrap();
    assert_eq!(client.request("two").await.unwrap(), "two");
    assert!(client.set_key(key(2)).await.unwrap_err().is_refused());
    assert_eq!(client.request("three").await.unwrap(), "three");
    assert_eq!(client.stats().connected, 2);
    client.close().await;
    assert_eq!(server.stop().await.stats.answers, 3);
}

#[tokio::test]
async fn a_ping_has_an_answer_on_the_noise_wire_only() {
    for (server, client, answers) in [
        (Server::builder(key(1)), Client::builder(key(1)), true),
        (Server::classic(key(1)), Client::classic(key(1)), false),
    ] {
        let server = Running::echo(server).await;
        let client = client.connect(server.address).await.unwrap();
        for _ in 0..2 {
            assert_eq!(client.ping().await.unwrap().is_some(), answers);
        }
        assert_eq!(client.request("x").await.unwrap(), "x");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_handler_chooses_how_its_request_is_refused() {
    let handler = |request: Request| async move {
        let refusal: HandlerError = match &request.body()[..] {
            b"busy" => Refusal::Busy.into(),
            b"not processed" => Refusal::NotProcessed.into(),
            _ => "the client does not see this".into(),
        };
        Err::<Vec<u8>, _>(refusal)
    };
    let server = Running::start(Server::builder(key(1)), handler).await;
    let client = server.client().await;
    for (body, refusal) in [
        ("busy", Refusal::Busy),
        ("not processed", Refusal::NotProcessed),
        ("else", Refusal::Failed),
    ] {
        match client.request(body).await {
            Err(Error::Request(RequestError::Refused(told))) => assert_eq!(told, refusal),
            other => panic!("{other:?}"),
        }
    }
    let stats = server.stop().await.stats;
    assert_eq!((stats.answers, stats.failed), (0, 1));
    // One that was not processed is sent again, as often as a lost connection would have it.
    assert_eq!((stats.requests, stats.refusals), (5, 5));
}

#[tokio::test]
async fn both_sides_count_what_they_did() {
    let server = Running::echo(Server::builder(key(1)).max_message(10)).await;
    let client = server.client().await;
    client.request("one").await.unwrap();
    client.request("two").await.unwrap();
    client.request("longer than ten bytes").await.unwrap_err();
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
    let stranger = Client::builder(key(2)).connect(server.address).await.unwrap_err();
    assert!(stranger.is_refused());
    while server.handle.stats().unauthenticated == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.close().await;
    let report = server.stop().await;
    assert_eq!((report.cut_connections, report.cut_requests), (0, 0));
    assert_eq!((report.stats.accepted, report.stats.connections), (2, 0));
}

#[tokio::test]
async fn listeners_may_be_bound_by_others() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder(key(1)).from_listener(listener).unwrap();
    assert_eq!(server.local_addr().unwrap(), address);
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) }));
    let client = Client::builder(key(1)).connect(address).await.unwrap();
    assert_eq!(client.request("x").await.unwrap(), "x");
    handle.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().stats.answers, 1);
}

#[cfg(unix)]
#[tokio::test]
async fn unix_listeners_may_be_bound_by_others() {
    let path = std::env::temp_dir().join(format!("falco-tokio-contract-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let server = Server::builder(key(1)).from_unix_listener(listener).unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) }));
    let client = Client::builder(key(1)).connect_unix(&path).await.unwrap();
    assert_eq!(client.request("x").await.unwrap(), "x");
    handle.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().stats.answers, 1);
    std::fs::remove_file(path).unwrap();
}

/// How many bytes were drawn from a source.
#[derive(Default)]
struct Drawn(Arc<AtomicUsize>);

impl Drawn {
    /// A source that counts up.
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

#[tokio::test]
async fn random_numbers_come_from_the_source_that_the_builder_has() {
    let none = |_: &mut [u8]| Err(EntropyError::new());
    let failed = Server::builder(key(1)).entropy(none).unbound().unwrap_err();
    assert!(matches!(failed, Error::Setup(SetupError::Entropy)), "{failed}");
    let (by_server, by_client) = (Drawn::default(), Drawn::default());
    let server = Running::echo(Server::builder(key(1)).entropy(by_server.source())).await;
    let failed = Client::builder(key(1)).entropy(none).connect(server.address).await;
    let failed = failed.unwrap_err();
    assert!(matches!(failed, Error::Entropy(_)), "{failed}");
    let before = by_server.count();
    assert!(before > 0, "for the key ring");
    let client = Client::builder(key(1)).entropy(by_client.source());
    let client = client.connect(server.address).await.unwrap();
    assert_eq!(client.request("x").await.unwrap(), "x");
    assert!(by_server.count() > before && by_client.count() > 0, "for the handshake");
    server.stop().await;
}

#[tokio::test]
async fn a_request_is_made_without_a_connection() {
    let peer = "192.0.2.1:7".parse().unwrap();
    let id = Key::from_bytes([9; 32]).unwrap().id();
    let request = Request::new(b"body".to_vec());
    assert_eq!((request.peer(), request.key_id()), (None, None));
    let request = request.with_peer(peer).with_key_id(id);
    assert_eq!((request.peer(), request.key_id()), (Some(peer), Some(id)));
    assert!(!request.is_cancelled());
    let waited = tokio::time::timeout(Duration::from_millis(1), request.cancelled()).await;
    assert!(waited.is_err());
    assert_eq!(request.body(), "body");
    assert_eq!(request.into_body(), "body");
}

#[tokio::test]
async fn setters_of_a_request_change_what_it_returns_and_not_its_connection() {
    let handler = |request: Request| async move {
        let id = request.key_id();
        let request = request.with_peer(([192, 0, 2, 1], 7).into());
        assert_eq!(request.key_id(), id);
        Ok(request.peer().unwrap().to_string())
    };
    let server = Running::start(Server::builder(key(1)), handler).await;
    assert_eq!(server.client().await.request("").await.unwrap(), "192.0.2.1:7");
    server.stop().await;
}

#[tokio::test]
async fn an_error_from_before_is_not_the_reason_of_a_later_request() {
    let server = Running::echo(Server::builder(key(1))).await;
    let (address, dialed) = (server.address, AtomicUsize::new(0));
    let dial = move || {
        let number = dialed.fetch_add(1, Ordering::Relaxed);
        async move {
            match number {
                0 => TcpStream::connect(address).await,
                1 => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => core::future::pending().await,
            }
        }
    };
    let (brief, limit) = (Duration::from_millis(1), Duration::from_millis(200));
    let client = Client::builder(key(1)).backoff(brief, brief);
    let client = client.connect_with(dial).await.unwrap();
    server.stop().await;
    let error = client.request_within("first", limit).await.unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused));
    assert_eq!(error.fate(), Fate::NotProcessed);
    // The attempt that hangs has not failed yet.
    let error = client.request_within("second", limit).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert_eq!(error.fate(), Fate::NotProcessed);
}
