//! What happens when something around it ends: the runtime of a client or a server, or a handler
//! that panics at any point.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

use bytes::Bytes;
use common::{Running, key};
use falco_tokio::{
    Client, Error, Fate, Handle, Handler, HandlerError, Refusal, Request, RequestError, Server, ServerBuilder,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn what_is_shared_is_for_all_threads() {
    const fn shared<T: Send + Sync + 'static>() {}
    const fn sent<T: Send>(_: &T) {}
    shared::<(Client, Handle, Request, Error, Server, ServerBuilder)>();
    let client: fn(&Client) = |client| {
        sent(&client.request("a body"));
        sent(&client.ping());
        sent(&client.set_key(key(1)));
        sent(&client.close());
    };
    let _ = client;
}

#[test]
fn a_client_that_outlives_its_runtime_ends_all_requests() {
    let (serving, asking, own) = (
        runtime(),
        runtime(),
        Builder::new_current_thread().enable_all().build().unwrap(),
    );
    let never = |_: Request| core::future::pending::<Result<Bytes, HandlerError>>();
    let server = serving.block_on(Running::start(Server::builder(key(1)), never));
    let client = asking
        .block_on(Client::builder(key(1)).connect(server.address))
        .unwrap();
    let rest = async {
        let mut under_way = Box::pin(client.request_within("under way", Duration::from_secs(60)));
        let _ = poll_fn(|cx| Poll::Ready(under_way.as_mut().poll(cx))).await;
        while server.handle.stats().requests == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        asking.shutdown_background();
        let error = under_way.await.unwrap_err();
        assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
        // Its tasks may still be going.
        while let Err(error) = client.request_within("late", Duration::from_millis(100)).await {
            if matches!(error, Error::Closed) {
                break;
            }
        }
        assert!(matches!(client.ping().await, Err(Error::Closed)));
        client.close().await;
    };
    own.block_on(async { timeout(Duration::from_secs(20), rest).await })
        .expect("nobody waits for what is gone");
    // The server's goes with a handler that runs.
    serving.shutdown_background();
}

/// Panics at the place that its number says.
struct Panicking(u8);

impl Future for Panicking {
    type Output = Result<PanickingBody, HandlerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0 -= 1;
        match self.0 {
            0 => panic!("when it is polled"),
            10 => Poll::Ready(Ok(PanickingBody)),
            20 => Poll::Ready(Err("it fails, and panics when it is dropped".into())),
            _ => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Drop for Panicking {
    fn drop(&mut self) {
        assert_ne!(self.0, 20, "when it is dropped");
    }
}

struct PanickingBody;

impl From<PanickingBody> for Bytes {
    fn from(_: PanickingBody) -> Self {
        panic!("when its body is made");
    }
}

async fn each_panic_costs_its_request(builder: ServerBuilder, handler: impl Handler) {
    let server = Running::start(builder, handler).await;
    let client = server.client().await;
    for place in [0, 1, 3, 11, 13, 21, 23] {
        let error = timeout(Duration::from_secs(10), client.request(vec![place]))
            .await
            .unwrap()
            .unwrap_err();
        let failed = matches!(error, Error::Request(RequestError::Refused(Refusal::Failed)));
        assert!(failed, "{place}: {error}");
    }
    assert_eq!(client.stats().connected, 1);
    client.close().await;
    let report = server.stop().await;
    assert_eq!((report.stats.failed, report.cut_connections), (7, 0));
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_request_wherever_it_panics() {
    let handler = |request: Request| {
        let place = request.body()[0];
        assert_ne!(place, 0, "before there is a future");
        Panicking(place)
    };
    each_panic_costs_its_request(Server::builder(key(1)), handler).await;
    each_panic_costs_its_request(Server::builder(key(1)).spawn_handlers(true), handler).await;
}
