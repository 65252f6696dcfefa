//! Traces have the ids of keys, and no secret and no message.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::log::Log;
use common::{Running, key};
use falco_tokio::{Client, Request, Server};
use tracing_subscriber::fmt::format::FmtSpan;

#[tokio::test]
async fn traces_say_what_happened_and_nothing_secret() {
    let (log, _guard) = Log::capture(tracing::Level::TRACE, FmtSpan::FULL);

    let body = "a body that nobody else may read";
    let server = Running::start(
        Server::builder(key(0x5a)).classic(key(0x5b)),
        |request: Request| async move {
            assert!(!format!("{request:?}").contains("nobody"));
            if request.body() == "fail" {
                Err("out of luck".into())
            } else {
                Ok(request.into_body())
            }
        },
    )
    .await;
    let client = Client::builder(key(0x5a)).connect(server.address).await.unwrap();
    let classic = Client::classic(key(0x5b)).connect(server.address).await.unwrap();
    assert!(Client::builder(key(0x5c)).connect(server.address).await.is_err());
    assert_eq!(client.request(body).await.unwrap(), body);
    assert_eq!(classic.request(body).await.unwrap(), body);
    assert!(client.request("fail").await.is_err());
    server.handle.add_key(key(0x5d)).unwrap();
    server.handle.retire_key(key(0x5a).id());
    let debugged = format!(
        "{client:?} {server:?} {:?}",
        Client::builder(key(0x5a)),
        server = server.handle
    );
    client.close().await;
    server.stop().await;

    let traced = log.text();
    for expected in [
        "established",
        "the handler failed",
        "out of luck",
        "KeyRetired",
        &key(0x5a).id().to_string(),
    ] {
        assert!(traced.contains(expected), "{expected} is not in:\n{traced}");
    }
    for text in [traced, debugged] {
        for secret in [
            "nobody else",
            "5a5a5a5a",
            "5b5b5b5b",
            "5c5c5c5c",
            "90, 90, 90",
            "91, 91, 91",
        ] {
            assert!(!text.contains(secret), "{secret} is in:\n{text}");
        }
    }
}
