//! Keys that are added, replaced and retired on both sides while connections are open.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::time::Duration;

use common::{Running, key};
use falco_tokio::{Client, ConnectionError, Error, Fate, Request, Server, SettingsError, SetupError};

#[tokio::test]
async fn a_client_moves_to_a_new_key_before_the_old_one_is_retired() {
    let handler = |request: Request| async move {
        let seen = request.key_id().unwrap().to_string();
        if request.body() == "slow" {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(seen)
    };
    let (old, new) = (key(1).id().to_string(), key(2).id().to_string());
    let server = Running::start(Server::builder(key(1)), handler).await;
    let client = Client::builder(key(1))
        .connections(2)
        .connect(server.address)
        .await
        .unwrap();
    // A key that the server does not have yet changes nothing.
    assert!(client.set_key(key(2)).await.unwrap_err().is_refused());
    assert_eq!(client.request("one").await.unwrap(), old);

    server.handle.add_key(key(2)).unwrap();
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.request("slow").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.set_key(key(2)).await.unwrap();
    for _ in 0..4 {
        assert_eq!(client.request("two").await.unwrap(), new);
    }
    assert!(server.handle.retire_key(key(1).id()));
    assert!(!server.handle.retire_key(key(1).id()));
    assert_eq!(slow.await.unwrap().unwrap(), old, "what had begun got its answer");
    assert_eq!(client.request("three").await.unwrap(), new);
    assert!(
        Client::builder(key(1))
            .connect(server.address)
            .await
            .unwrap_err()
            .is_refused()
    );
}

#[tokio::test]
async fn a_client_with_a_retired_key_fails_at_once_and_is_not_admitted_again() {
    let server = Running::echo(Server::builder(key(1)).key(key(2))).await;
    let client = server.client().await;
    assert_eq!(client.request("before").await.unwrap(), "before");
    server.handle.retire_key(key(1).id());
    let refused = loop {
        match client.request("after").await {
            // It may still have been on its way when the key was retired.
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(refused.is_refused(), "{refused}");
    assert_eq!(refused.fate(), Fate::NotProcessed);
    // When the key is accepted again, the same client continues after its back-off.
    server.handle.add_key(key(1)).unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    while client.request("again").await.is_err() {
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn settings_that_exclude_each_other_are_an_error_when_they_are_used() {
    let twice = Server::builder(key(1)).key(key(1)).unbound().unwrap_err();
    assert!(matches!(twice, Error::Setup(SetupError::DuplicateKey(id)) if id == key(1).id()));
    let both = Server::builder(key(1)).classic(key(1)).unbound().unwrap_err();
    assert!(matches!(both, Error::Setup(SetupError::KeyOnBothWires(_))));
    let short = Client::builder(key(1))
        .lifetime(Duration::from_millis(999))
        .connect_lazy("127.0.0.1:1");
    assert!(matches!(short, Err(Error::Settings(SettingsError::Lifetime(_)))));
    let none = Server::builder(key(1)).max_in_flight(0).unbound();
    assert!(matches!(none, Err(Error::Settings(SettingsError::MaxInFlight))));
}

#[tokio::test]
async fn both_wires_on_one_port_each_under_its_key() {
    let server = Running::start(Server::builder(key(1)).classic(key(2)), |request: Request| async move {
        Ok(request.key_id().map_or("classic".to_owned(), |id| id.to_string()))
    })
    .await;
    let noise = server.client().await;
    let classic = Client::classic(key(2)).connect(server.address).await.unwrap();
    assert_eq!(noise.request("x").await.unwrap(), key(1).id().to_string());
    assert_eq!(classic.request("x").await.unwrap(), "classic");
    for wrong in [Client::builder(key(2)), Client::classic(key(1))] {
        let refused = wrong.connect(server.address).await.unwrap_err();
        assert!(
            matches!(
                refused,
                Error::Connection {
                    end: ConnectionError::Refused,
                    ..
                }
            ),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_drains_past_a_time_limit_does_not_hold_up_the_next() {
    const LIMIT: Duration = Duration::from_millis(500);
    let asked = std::sync::Arc::new(tokio::sync::Notify::new());
    let handler = move |request: Request| {
        let asked = std::sync::Arc::clone(&asked);
        async move {
            match &request.body()[..] {
                b"waits" => asked.notified().await,
                b"asks" => asked.notify_one(),
                _ => {}
            }
            Ok(request.into_body())
        }
    };
    let server = Running::start(Server::builder(key(1)), handler).await;
    server.handle.add_key(key(2)).unwrap();
    let client = Client::builder(key(1)).request_timeout(Some(LIMIT));
    let client = client.connect(server.address).await.unwrap();
    // Its limit would pass while the next one is in flight.
    client.request("first").await.unwrap();
    tokio::time::sleep(LIMIT * 3 / 5).await;
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.request("waits").await }
    });
    tokio::time::sleep(LIMIT / 10).await;
    client.set_key(key(2)).await.unwrap();
    tokio::time::sleep(LIMIT * 2 / 5).await;
    client.request("asks").await.unwrap();
    assert_eq!(waits.await.unwrap().unwrap(), "waits");
}

#[tokio::test]
async fn handlers_see_the_label_of_a_key() {
    let handler = |request: Request| async move { Ok(request.key_label().unwrap_or("none").to_owned()) };
    let builder = Server::builder(key(1)).labeled_key("two", key(2));
    let server = Running::start(builder, handler).await;
    let label = async |number| {
        let client = Client::builder(key(number)).connect(server.address).await.unwrap();
        let label = client.request("x").await.unwrap();
        client.close().await;
        label
    };
    assert_eq!((label(1).await, label(2).await), ("none".into(), "two".into()));
    server.handle.add_labeled_key("three", key(3)).unwrap();
    assert_eq!(label(3).await, "three");
    // Established connections keep their label.
    let before = Client::builder(key(3)).connect(server.address).await.unwrap();
    assert_eq!(before.request("x").await.unwrap(), "three");
    assert!(server.handle.set_key_label(key(3).id(), Some("drei")));
    assert!(!server.handle.set_key_label(key(4).id(), Some("four")));
    assert_eq!(
        (label(3).await, before.request("x").await.unwrap()),
        ("drei".into(), "three".into())
    );
    assert!(server.handle.set_key_label(key(3).id(), None));
    assert_eq!(label(3).await, "none");
    let alone = Request::new("x").with_key_label("four");
    assert_eq!(alone.key_label(), Some("four"));
}
