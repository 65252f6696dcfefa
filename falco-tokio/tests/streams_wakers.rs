//! Wakers that drop halves of open requests when they are woken, replaced or dropped. A lock that
//! was held then would be taken twice.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Wake;
use std::thread;

use common::streaming::{Streaming, server, soon};
use falco_tokio::{Client, RecvStream, SendStream, StreamRequest};

/// Drops something when it is woken, or with the last of its clones.
struct Drops<T>(Mutex<Option<T>>);

impl<T: Send> Wake for Drops<T> {
    fn wake(self: Arc<Self>) {
        let what = self.0.lock().unwrap().take();
        drop(what);
    }
}

fn waker_with(what: impl Send + 'static) -> Waker {
    Arc::new(Drops(Mutex::new(Some(what)))).into()
}

/// What happens to a waker.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Woken,
    Replaced,
    Dropped,
}

/// Polls a future with a waker that owns `what`, and ends that waker. `wake` has the future woken.
async fn waits(future: impl Future, what: impl Send + 'static, end: End, wake: impl FnOnce()) {
    let mut future = pin!(future);
    let waker = waker_with(what);
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    match end {
        End::Woken => {
            wake();
            soon(future).await;
        }
        End::Replaced => {
            let replaced = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(replaced, Poll::Pending));
        }
        End::Dropped => {}
    }
}

/// Runs a test that hangs if it fails.
fn bounded<F: Future<Output = ()>>(run: impl FnOnce() -> F + Send + 'static) {
    let (to, ended) = mpsc::channel();
    thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(run());
        to.send(()).unwrap();
    });
    ended
        .recv_timeout(Duration::from_secs(20))
        .expect("a lock is taken twice");
}

/// An open request, of which the answer has begun.
async fn open(client: &Client) -> (SendStream, RecvStream) {
    let (sending, mut receiving) = client.open("x").await.unwrap().split();
    assert_eq!(soon(receiving.next()).await.unwrap().unwrap(), "begun");
    (sending, receiving)
}

const ENDS: [End; 3] = [End::Woken, End::Replaced, End::Dropped];

/// A server whose handlers answer with the rest when they are notified, and the notification.
async fn start() -> (Streaming, Arc<tokio::sync::Notify>) {
    let go = Arc::new(tokio::sync::Notify::new());
    let own = Arc::clone(&go);
    let server = Streaming::start(server(), move |mut request: StreamRequest| {
        let go = Arc::clone(&own);
        async move {
            request.answer.send("begun").await?;
            go.notified().await;
            request.answer.send("more").await?;
            while request.body.next().await.is_some() {}
            request.answer.finish()?;
            Ok(())
        }
    })
    .await;
    (server, go)
}

#[test]
fn a_waker_of_a_reader_may_own_the_writer() {
    bounded(async || {
        let (server, go) = start().await;
        let client = server.client().await;
        for end in ENDS {
            let (sending, mut receiving) = open(&client).await;
            waits(receiving.next(), sending, end, || go.notify_one()).await;
            drop(receiving);
        }
    });
}

#[test]
fn a_waker_of_a_writer_may_own_the_reader() {
    bounded(async || {
        let (server, go) = start().await;
        let client = server.client().await;
        for end in ENDS {
            let (mut sending, receiving) = open(&client).await;
            while tokio::time::timeout(Duration::from_millis(100), sending.send(vec![7; 1 << 16]))
                .await
                .is_ok()
            {}
            waits(sending.send("more"), receiving, end, || go.notify_one()).await;
            drop(sending);
        }
    });
}

#[test]
fn a_waker_of_a_request_may_own_an_open_one() {
    bounded(async || {
        let (server, _) = start().await;
        let client = server.client().await;
        for end in ENDS {
            let halves = open(&client).await;
            waits(client.request("whole"), halves, end, || ()).await;
            let halves = open(&client).await;
            waits(client.open("another"), halves, end, || ()).await;
            assert_eq!(soon(client.request("x")).await.unwrap(), "x");
        }
    });
}
