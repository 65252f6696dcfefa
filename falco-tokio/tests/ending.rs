//! How connections end: answers arrive, however slow the link is, and closing returns when the
//! connection has ended.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::io;

use common::key;
use falco_tokio::{Client, ClientBuilder, Error, Request, Server, ServerBuilder, Settings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex, split};
use tokio::time::{Instant, sleep, timeout};

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, pause: Duration) {
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..count]).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
    let _ = to.shutdown().await;
}

/// A stream whose other end is `far`, over a link that carries a KiB in each `pause` towards this
/// side.
fn slow_link(far: DuplexStream, pause: Duration) -> DuplexStream {
    let (near, middle) = duplex(1024);
    let ((from_far, to_far), (from_near, to_near)) = (split(far), split(middle));
    tokio::spawn(carry(from_far, to_near, pause));
    tokio::spawn(carry(from_near, to_far, Duration::ZERO));
    near
}

async fn an_answer_outlasts_the_end(server: ServerBuilder, client: ClientBuilder) {
    let server = server.unbound().unwrap();
    let handle = server.handle();
    let (far, end) = duplex(1024);
    let serving = tokio::spawn(async move {
        let handler = |_: Request| async move {
            sleep(Duration::from_secs(1)).await;
            Ok(vec![7; 90_000])
        };
        server.serve_connection(end, handler).await
    });
    let client = client.over(slow_link(far, Duration::from_millis(100))).await.unwrap();
    let asked = client.request("a long answer");
    let (answer, ()) = tokio::join!(asked, async {
        sleep(Duration::from_millis(500)).await;
        handle.shutdown();
    });
    assert_eq!(answer.unwrap().len(), 90_000);
    serving.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_lets_a_slow_client_take_its_last_answer() {
    an_answer_outlasts_the_end(Server::builder(key(1)), Client::builder(key(1))).await;
    an_answer_outlasts_the_end(Server::classic(key(1)), Client::classic(key(1))).await;
}

/// A stream that gives the other side, on another thread, time to answer before it says that there
/// is nothing to read: what is asked is answered before the asking task rests.
struct Prompt(DuplexStream);

impl AsyncRead for Prompt {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // What arrives meanwhile wakes no task.
        if Pin::new(&mut self.0)
            .poll_read(&mut Context::from_waker(Waker::noop()), buf)
            .is_pending()
        {
            std::thread::sleep(Duration::from_millis(20));
            return Pin::new(&mut self.0).poll_read(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_client_closes_at_once_after_requests_that_are_answered_at_once() {
    let (near, far) = duplex(1 << 16);
    let one = Settings::new().with_max_in_flight(1).unwrap();
    let server = Server::builder(key(1)).settings(one).unbound().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let echo = |request: Request| async move { Ok(request.into_body()) };
        runtime.unwrap().block_on(server.serve_connection(far, echo))
    });
    let client = Client::builder(key(1)).over(Prompt(near)).await.unwrap();
    let mut asked: Vec<_> = (0..3).map(|_| Box::pin(client.request("at once"))).collect();
    for asked in &mut asked {
        let _ = poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx))).await;
    }
    timeout(Duration::from_secs(5), client.close())
        .await
        .expect("nothing is left to wait for");
    for asked in asked {
        assert_eq!(asked.await.unwrap(), "at once");
    }
}

#[tokio::test]
async fn a_client_that_closes_waits_for_no_connection_that_nobody_wants() {
    // It takes connections and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::builder(key(1))
        .connect_lazy(mute.local_addr().unwrap())
        .unwrap();
    let mut ping = Box::pin(client.ping());
    let _ = poll_fn(|cx| Poll::Ready(ping.as_mut().poll(cx))).await;
    sleep(Duration::from_millis(50)).await;
    timeout(Duration::from_secs(2), client.close())
        .await
        .expect("the handshake has 5 s");
    assert!(matches!(ping.await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn all_who_close_a_client_wait_for_its_end() {
    let (near, far) = duplex(1 << 16);
    let server = Server::builder(key(1)).unbound().unwrap();
    let handler = |_: Request| async move {
        sleep(Duration::from_secs(3)).await;
        Ok("at last")
    };
    tokio::spawn(async move { server.serve_connection(far, handler).await });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let start = Instant::now();
    let (answer, first, second) = tokio::join!(
        client.request("slow"),
        async {
            client.close().await;
            start.elapsed()
        },
        async {
            client.close().await;
            start.elapsed()
        },
    );
    assert_eq!(answer.unwrap(), "at last");
    assert!(
        first >= Duration::from_secs(3) && second == first,
        "{first:?}, {second:?}"
    );
    assert!(matches!(client.request("late").await, Err(Error::Closed)));
    client.close().await;
}

#[tokio::test]
async fn an_answer_that_has_arrived_is_returned_although_writing_fails() {
    let (near, far) = duplex(1 << 16);
    let server = Server::builder(key(1)).unbound().unwrap();
    let mut serving = Box::pin(server.serve_connection(far, |request: Request| async move { Ok(request.into_body()) }));
    let client = tokio::select! {
        client = Client::builder(key(1)).over(near) => client.unwrap(),
        end = &mut serving => panic!("{end:?}"),
    };
    let mut first = Box::pin(client.request("answered"));
    let _ = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
    while server.handle().stats().answers == 0 {
        tokio::task::yield_now().await;
        let _ = poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx))).await;
    }
    // It is gone with the answer on its way; and before that is read, there is something to be
    // written.
    drop(serving);
    let mut second = Box::pin(client.request("lost"));
    let _ = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
    assert_eq!(first.await.unwrap(), "answered");
    assert!(second.await.is_err());
}
