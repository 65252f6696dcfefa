//! What is traced names keys by their ids and holds no secret and no message.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{Running, key};
use falco_tokio::{Client, Request, Server};
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn traces_say_what_happened_and_nothing_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

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

    let traced = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
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
