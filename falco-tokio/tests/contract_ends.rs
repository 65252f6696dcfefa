//! What falco-std and falco-tokio both promise about the end of a client, of a connection and of a
//! server. The file of the same name in falco-std has the same tests without `await`.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod common;

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use common::streaming::soon;
use common::{Running, key};
use falco_tokio::{Client, ConnectionError, Error, Fate, OnCancel, Request, Server, StreamRequest};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

#[tokio::test]
async fn a_client_that_was_closed_is_closed_for_all_its_clones_and_says_so() {
    let server = Running::echo(Server::builder(key(1))).await;
    let client = server.client().await;
    let clone = client.clone();
    assert_eq!(clone.request("before").await.unwrap(), "before");
    client.close().await;
    for client in [&client, &clone] {
        for failed in [
            client.request("after").await.map(drop),
            client.request_within("after", Duration::from_secs(1)).await.map(drop),
            client.ping().await.map(drop),
            client.set_key(key(1)).await,
        ] {
            let error = failed.unwrap_err();
            assert!(matches!(error, Error::Closed), "{error:?}");
            assert_eq!(error.fate(), Fate::NotProcessed);
        }
    }
    clone.close().await;
    assert_eq!(server.stop().await.stats.requests, 1);
}

#[tokio::test]
async fn a_request_that_has_begun_gets_its_answer_though_the_client_is_closed() {
    let slow = |request: Request| async move {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(request.into_body())
    };
    let server = Running::start(Server::builder(key(1)), slow).await;
    let client = server.client().await;
    let clone = client.clone();
    let waiting = tokio::spawn(async move { clone.request("slow").await });
    while server.handle.stats().requests == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.close().await;
    assert_eq!(waiting.await.unwrap().unwrap(), "slow");
    let report = server.stop().await;
    assert_eq!((report.cut_connections, report.stats.answers), (0, 1));
}

#[tokio::test]
async fn a_connection_ends_when_the_last_clone_is_dropped() {
    let server = Running::echo(Server::builder(key(1))).await;
    let first = server.client().await;
    let second = first.clone();
    drop(first);
    assert_eq!(second.request("still there").await.unwrap(), "still there");
    assert_eq!(server.handle.stats().connections, 1);
    drop(second);
    while server.handle.stats().connections > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_wait_behind_others_get_their_answers_though_the_client_is_closed() {
    let slow = |request: Request| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(request.into_body())
    };
    for (server, client) in [
        (Server::builder(key(1)).max_in_flight(1), Client::builder(key(1))),
        (Server::classic(key(1)), Client::classic(key(1))),
    ] {
        let server = Running::start(server, slow).await;
        let client = client.connect(server.address).await.unwrap();
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.request("x").await })
            })
            .collect();
        while client.stats().outstanding < 4 || server.handle.stats().requests == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The last of them may be about to be handed over.
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.close().await;
        for request in waiting {
            assert_eq!(request.await.unwrap().unwrap(), "x");
        }
        let report = server.stop().await;
        assert_eq!((report.stats.answers, report.stats.established), (4, 1));
    }
}

#[tokio::test]
async fn a_shutdown_counts_half_open_connections_as_unauthenticated() {
    let server = Running::echo(Server::builder(key(1))).await;
    let silent = [(); 2].map(|()| std::net::TcpStream::connect(server.address).unwrap());
    while server.handle.stats().half_open < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let report = server.stop().await;
    assert_eq!((report.stats.unauthenticated, report.cut_connections), (2, 0));
    drop(silent);
}

#[tokio::test]
async fn a_shutdown_with_a_limit_says_what_it_cut() {
    let handler = |_: Request| async move { Ok(core::future::pending::<Vec<u8>>().await) };
    let server = Running::start(Server::builder(key(1)), handler).await;
    let client = server.client().await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.request("never").await })
        })
        .collect();
    while server.handle.stats().requests < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.handle.shutdown_within(Duration::from_millis(50));
    let report = server.task.await.unwrap();
    assert_eq!((report.cut_connections, report.cut_requests), (1, 3));
    assert_eq!((report.stats.requests, report.stats.cancelled), (3, 3));
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap_err().fate(), Fate::MaybeProcessed);
    }
}

/// The server reads less than the client has sent. Even so, the stream ends without a reset, so a
/// client knows that nothing was processed.
#[tokio::test]
async fn a_client_without_the_key_is_not_reset() {
    let noise = Running::echo(Server::builder(key(1))).await;
    let classic = Running::echo(Server::classic(key(1))).await;
    for address in [noise.address, classic.address] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[0x4e; 1_000]).await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(received.is_empty());
        // Where the end has arrived first, a reset shows only here.
        assert!(stream.take_error().unwrap().is_none());
    }
    let error = Client::classic(key(1)).connect(noise.address).await.unwrap_err();
    assert!(error.is_refused(), "{error:?}");
}

/// A stream that is reset when its peer ends it.
struct Reset(TcpStream);

impl AsyncRead for Reset {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        if buf.filled().len() == before && buf.remaining() > 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Reset {
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
async fn the_handler_of_an_open_request_receives_the_error_of_a_stream_that_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let guest = listener.accept().await.unwrap().0;
    let (to, mut ends) = mpsc::unbounded_channel();
    let server = Server::builder(key(1)).streams(64 << 10, 4);
    let server = server.on_cancel(OnCancel::Signal).unbound().unwrap();
    let echo = |request: Request| async move { Ok(request.into_body()) };
    let serving = tokio::spawn(async move {
        let streams = move |mut request: StreamRequest| {
            let to = to.clone();
            async move {
                request.answer.send("begun").await?;
                to.send(request.body.next().await.unwrap().unwrap_err())?;
                to.send(request.answer.send("late").await.unwrap_err())?;
                Ok(())
            }
        };
        server.serve_connection_streams(Reset(guest), echo, streams).await
    });
    // Its stream ends without a CLOSE.
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let proxy = tokio::spawn(async move {
        let mut stream = stream;
        let _ = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
    });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let mut call = client.open("").await.unwrap();
    assert_eq!(call.next().await.unwrap().unwrap(), "begun");
    proxy.abort();
    for half in ["body", "answer"] {
        let end = soon(ends.recv()).await.unwrap();
        let reset = matches!(&end, Error::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionReset);
        assert!(reset && end.fate() == Fate::MaybeProcessed, "{half}: {end:?}");
    }
    assert!(soon(serving).await.unwrap().is_err());
}

/// Both ends of a connection whose client has sent part of a classic hello.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(&[0; 10]).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// Reads the end of the stream, which is no reset.
async fn assert_ended(mut client: TcpStream) {
    assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
    assert!(client.take_error().unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_shuts_down_closes_guests_without_a_handshake() {
    let echo = |request: Request| async move { Ok(request.into_body()) };
    let server = Arc::new(Server::classic(key(1)).unbound().unwrap());
    let handle = server.handle();
    let ((before, stream), own) = (pair().await, Arc::clone(&server));
    let serving = tokio::spawn(async move { own.serve_connection(stream, echo).await });
    while handle.stats().connections == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.shutdown();
    assert_eq!(serving.await.unwrap().unwrap(), ConnectionError::Closed);
    assert_ended(before).await;
    // One that arrives later, when the runtime has noticed its bytes.
    let (after, stream) = pair().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let ended = server.serve_connection(stream, echo).await;
    assert_eq!(ended.unwrap(), ConnectionError::Closed);
    assert_ended(after).await;
    assert_eq!(handle.stats().connections, 0);
}
