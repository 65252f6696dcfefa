//! Deadlines, to the millisecond, on Tokio's paused clock, which advances to the next deadline when
//! all tasks wait.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use common::key;
use falco_tokio::{Client, ConnectionError, Error, Fate, Request, Server, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

type Serving = JoinHandle<io::Result<ConnectionError>>;

fn serve(server: Server, stream: DuplexStream) -> Serving {
    let handler = |request: Request| async move {
        if request.body() == "slow" {
            sleep(Duration::from_secs(3600)).await;
        }
        Ok(request.into_body())
    };
    tokio::spawn(async move { server.serve_connection(stream, handler).await })
}

async fn pair(server: Server, client: falco_tokio::ClientBuilder) -> (Serving, Client) {
    let (near, far) = duplex(1 << 16);
    let serving = serve(server, far);
    (serving, client.over(near).await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_client_keeps_its_connection_for_as_long_as_it_likes() {
    let (serving, client) = pair(Server::builder(key(1)).unbound().unwrap(), Client::builder(key(1))).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(client.request("still here").await.unwrap(), "still here");
    assert_eq!(client.stats().connected, 1);
    client.close().await;
    assert_eq!(serving.await.unwrap().unwrap(), ConnectionError::Closed);
}

#[tokio::test(start_paused = true)]
async fn without_pings_a_connection_lives_a_lifetime_from_its_last_message() {
    let quiet = Client::builder(key(1)).settings(Settings::new().with_keep_alive(false));
    let (serving, client) = pair(Server::builder(key(1)).unbound().unwrap(), quiet).await;
    sleep(Duration::from_secs(50)).await;
    client.request("anew").await.unwrap();
    let start = Instant::now();
    let end = serving.await.unwrap().unwrap();
    assert!(
        matches!(end, ConnectionError::Expired | ConnectionError::PeerExpired),
        "{end}"
    );
    // Its end waits a second at most for the other side, which has the same deadline.
    let lived = start.elapsed();
    assert!((60_000..=61_001).contains(&lived.as_millis()), "{lived:?}");
    assert!(client.request("too late").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_nothing_or_little_is_closed_after_five_seconds_without_a_byte() {
    for said in [0, 1, 73] {
        let (mut near, far) = duplex(1 << 16);
        let serving = serve(Server::builder(key(1)).unbound().unwrap(), far);
        let start = Instant::now();
        let mut hello = [0; 73];
        hello[..2].copy_from_slice(&[0x4e, 0x01]);
        for byte in &hello[..said] {
            near.write_all(&[*byte]).await.unwrap();
            sleep(Duration::from_millis(50)).await;
        }
        let mut heard = Vec::new();
        near.read_to_end(&mut heard).await.unwrap();
        assert!(heard.is_empty());
        assert_eq!(start.elapsed().as_millis(), 5000, "{said} bytes");
        assert_eq!(serving.await.unwrap().unwrap(), ConnectionError::HandshakeTimeout);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_after_five_seconds() {
    let (near, _far) = duplex(1 << 16);
    let start = Instant::now();
    let error = Client::builder(key(1)).over(near).await.unwrap_err();
    let timed_out = ConnectionError::HandshakeTimeout;
    assert!(
        matches!(error, Error::Connection { end, .. } if end == timed_out),
        "{error}"
    );
    assert_eq!(start.elapsed().as_millis(), 5000);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_thirty_seconds_by_default() {
    let (_serving, client) = pair(Server::builder(key(1)).unbound().unwrap(), Client::builder(key(1))).await;
    let start = Instant::now();
    let error = client.request("slow").await.unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { limit, .. } if limit == Duration::from_secs(30)),
        "{error}"
    );
    assert_eq!(
        (error.fate(), start.elapsed().as_millis()),
        (Fate::MaybeProcessed, 30_000)
    );

    let patient = Client::builder(key(1)).request_timeout(None);
    let (_serving, client) = pair(Server::builder(key(1)).unbound().unwrap(), patient).await;
    let start = Instant::now();
    assert_eq!(client.request("slow").await.unwrap(), "slow");
    assert_eq!(start.elapsed().as_secs(), 3600);
}

/// Carries bytes until `dead`, and from then on takes them and lets them vanish.
async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, dead: Instant) {
    let mut bytes = vec![0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if Instant::now() < dead && to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    core::future::pending::<()>().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_vanishes_is_found_dead_by_its_silence() {
    let (near, client_side) = duplex(1 << 16);
    let (server_side, far) = duplex(1 << 16);
    let _serving = serve(Server::builder(key(1)).unbound().unwrap(), far);
    // A link that fails after half a minute: it loses all bytes and reports no end.
    let dead = Instant::now() + Duration::from_secs(30);
    let (from_client, to_client) = tokio::io::split(client_side);
    let (from_server, to_server) = tokio::io::split(server_side);
    tokio::spawn(carry(from_client, to_server, dead));
    tokio::spawn(carry(from_server, to_client, dead));
    let client = Client::builder(key(1)).request_timeout(None).over(near).await.unwrap();
    let start = Instant::now();
    let error = client.request("slow").await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Connection {
                end: ConnectionError::PeerDead,
                ..
            }
        ),
        "{error}"
    );
    // The last byte that arrives is a pong of the first half minute; a ping a third of a lifetime
    // after it, and the verdict another third later.
    let lived = start.elapsed().as_secs();
    assert!((60..=61).contains(&lived), "{lived} s");
}

#[tokio::test(start_paused = true)]
async fn attempts_to_connect_come_with_pauses_that_grow_until_the_request_has_run_out_of_time() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&attempts);
    let builder = Client::builder(key(1)).backoff(Duration::from_millis(100), Duration::from_secs(2));
    let (stream, server_side) = duplex(1 << 16);
    let serving = serve(Server::builder(key(1)).unbound().unwrap(), server_side);
    let first = std::sync::Mutex::new(Some(stream));
    let client = builder
        .connect_with(move || {
            counting.fetch_add(1, Ordering::Relaxed);
            let stream = first.lock().unwrap().take();
            async move { stream.ok_or(io::ErrorKind::ConnectionRefused.into()) }
        })
        .await
        .unwrap();
    assert_eq!(client.request("x").await.unwrap(), "x");
    serving.abort();
    let start = Instant::now();
    let error = loop {
        match client.request("y").await {
            Ok(_) => sleep(Duration::from_millis(1)).await,
            Err(error) if error.fate() == Fate::MaybeProcessed => {}
            Err(error) => break error,
        }
    };
    // The error names what kept it from being sent, not only the time limit.
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused),
        "{error}"
    );
    assert!(
        (30_000..30_100).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    // Pauses of 1 s on average once they have grown: some thirty attempts, not thousands.
    let tried = attempts.load(Ordering::Relaxed);
    assert!((15..120).contains(&tried), "{tried}");
    assert_eq!(usize::try_from(client.stats().attempts).unwrap(), tried);
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_are_taken_as_they_are() {
    let server = Server::builder(key(1))
        .handshake_timeout(Duration::MAX)
        .unbound()
        .unwrap();
    let handle = server.handle();
    let client = Client::builder(key(1))
        .handshake_timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .backoff(Duration::MAX, Duration::MAX)
        .request_timeout(Some(Duration::MAX));
    let (serving, client) = pair(server, client).await;
    assert_eq!(client.request("slow").await.unwrap(), "slow");
    assert_eq!(client.request_within("quick", Duration::MAX).await.unwrap(), "quick");
    client.ping().await.unwrap();
    handle.shutdown_within(Duration::MAX);
    assert_eq!(serving.await.unwrap().unwrap(), ConnectionError::Closed);
    assert!(client.request("late").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_write_is_given_up_after_the_lifetime_that_both_sides_have_agreed_on() {
    use falco_core::noise::{FixedTable, NoiseClient};
    use falco_core::{ClientConnection, Received, RecvBuf, RustCrypto};

    let server = Server::builder(key(1)).unbound().unwrap();
    let (mut near, far) = duplex(1 << 12);
    let much = |_: Request| async move { Ok(vec![7; 1 << 20]) };
    let serving: Serving = tokio::spawn(async move { server.serve_connection(far, much).await });

    // A client that wants a lifetime of two seconds, and takes no byte of its answer while it keeps
    // on saying something.
    let client_key = NoiseClient::<FixedTable<4>, _>::new(key(1), &b""[..], RustCrypto).unwrap();
    let short = Settings::new().with_lifetime(Duration::from_secs(2)).unwrap();
    let start = Instant::now();
    // Its own clock stands still, so that it does not end by itself.
    let now = || falco_core::Instant::ZERO;
    let mut client = ClientConnection::new(&client_key, &short, now(), &mut getrandom::SysRng).unwrap();
    let (mut inbox, mut out) = (RecvBuf::new(Vec::new()), [0; 400]);
    let hello = client.poll_transmit(now(), &mut out).unwrap();
    near.write_all(&out[..hello]).await.unwrap();
    while !matches!(client.recv(now(), inbox.unread()), Ok(Received::Event(_))) {
        let count = near.read(inbox.space(64).unwrap()).await.unwrap();
        inbox.filled(count);
    }
    let (mut asked, mut large) = (client.request(1).unwrap(), client.request(1 << 20).unwrap());
    let body = vec![3; 1 << 20];
    let asking = client.seal(now(), [(&mut asked, &b"a"[..])], &mut out).unwrap();
    near.write_all(&out[..asking]).await.unwrap();
    let mut serving = serving;
    let mut ended = None;
    for _ in 0..100 {
        let part = client.seal(now(), [(&mut large, &body[..])], &mut out).unwrap();
        let _ = near.write_all(&out[..part]).await;
        if let Ok(end) = tokio::time::timeout(Duration::from_secs(1), &mut serving).await {
            ended = Some(end.unwrap());
            break;
        }
    }
    let took = start.elapsed();
    let ended = ended.expect("it ends");
    assert_eq!(ended.unwrap(), ConnectionError::Stalled);
    assert!((2_000..=3_000).contains(&took.as_millis()), "{took:?}");
}

/// Carries 7,000 bytes in 10 ms.
async fn carry_slowly(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
    let mut bytes = vec![0; 7_000];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        sleep(Duration::from_millis(10)).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// A client that takes bytes all the time is alive, whether it sends PINGs or not, and the server
/// reads its PINGs.
#[tokio::test(start_paused = true)]
async fn a_slow_download_of_a_hundred_answers_is_not_cut_off() {
    const SIZE: usize = 1 << 20;
    for keep_alive in [true, false] {
        let (near, client_side) = duplex(1 << 16);
        let (server_side, far) = duplex(1 << 16);
        let (from_client, to_client) = tokio::io::split(client_side);
        let (from_server, to_server) = tokio::io::split(server_side);
        tokio::spawn(carry_slowly(from_client, to_server));
        tokio::spawn(carry_slowly(from_server, to_client));
        let settings = Settings::new().with_max_message(1 << 20).with_max_held(2 << 20);
        let server = Server::builder(key(1)).settings(settings).unbound().unwrap();
        let handler = |_: Request| async move { Ok(vec![7; SIZE]) };
        let serving: Serving = tokio::spawn(async move { server.serve_connection(far, handler).await });
        let client = Client::builder(key(1))
            .settings(Settings::new().with_keep_alive(keep_alive))
            .request_timeout(None);
        let client = client.over(near).await.unwrap();
        let start = Instant::now();
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let client = client.clone();
            asking.spawn(async move { client.request("?").await });
        }
        for end in asking.join_all().await {
            let answer = end.unwrap_or_else(|error| panic!("{keep_alive}, after {:?}: {error}", start.elapsed()));
            assert_eq!(answer.len(), SIZE);
        }
        // More than two lifetimes.
        let took = start.elapsed().as_secs();
        assert!((140..200).contains(&took), "{took} s");
        client.close().await;
        serving.await.unwrap().unwrap();
    }
}

/// The PING of a client is behind more than the link carries until its PONG is due.
#[tokio::test(start_paused = true)]
async fn a_slow_upload_of_large_requests_is_not_cut_off() {
    const SIZE: usize = 4 << 20;
    // What this side takes waits for 24 s.
    let (near, client_side) = duplex(16 << 20);
    let (server_side, far) = duplex(1 << 16);
    let (from_client, to_client) = tokio::io::split(client_side);
    let (from_server, to_server) = tokio::io::split(server_side);
    tokio::spawn(carry_slowly(from_client, to_server));
    tokio::spawn(carry_slowly(from_server, to_client));
    let settings = Settings::new().with_max_message(4 << 20).with_max_held(64 << 20);
    let server = Server::builder(key(1)).settings(settings).unbound().unwrap();
    let handler = |request: Request| async move { Ok(request.into_body().slice(..1)) };
    let serving: Serving = tokio::spawn(async move { server.serve_connection(far, handler).await });
    let client = Client::builder(key(1)).settings(settings).request_timeout(None);
    let client = client.over(near).await.unwrap();
    let start = Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        asking.spawn(async move { client.request(vec![7; SIZE]).await });
    }
    for end in asking.join_all().await {
        let answer = end.unwrap_or_else(|error| panic!("after {:?}: {error}", start.elapsed()));
        assert_eq!(answer.len(), 1);
    }
    let took = start.elapsed().as_secs();
    assert!((90..120).contains(&took), "{took} s");
    client.close().await;
    serving.await.unwrap().unwrap();
}

/// What keeps a connection alive is still bounded: a write that makes no progress ends it.
#[tokio::test(start_paused = true)]
async fn a_client_that_pings_and_never_reads_is_gone_a_lifetime_after_its_stream_is_full() {
    use falco_core::noise::{FixedTable, NoiseClient};
    use falco_core::{ClientConnection, Received, RustCrypto, Unread};

    let settings = Settings::new().with_max_message(1 << 20).with_max_held(1 << 20);
    let server = Server::builder(key(1)).settings(settings).unbound().unwrap();
    let (mut near, far) = duplex(1 << 12);
    let handler = |_: Request| async move { Ok(vec![7; 1 << 20]) };
    let mut serving: Serving = tokio::spawn(async move { server.serve_connection(far, handler).await });
    let client_key = NoiseClient::<FixedTable<8>, _>::new(key(1), &b""[..], RustCrypto).unwrap();
    // Its own clock stands still, so that it does not end by itself.
    let now = falco_core::Instant::ZERO;
    let mut client = ClientConnection::new(&client_key, &Settings::new(), now, &mut getrandom::SysRng).unwrap();
    let mut out = [0; 400];
    let hello = client.poll_transmit(now, &mut out).unwrap();
    near.write_all(&out[..hello]).await.unwrap();
    let mut welcome = [0; 64];
    near.read_exact(&mut welcome).await.unwrap();
    assert!(matches!(
        client.recv(now, Unread::new(&mut welcome, &mut 0)),
        Ok(Received::Event(_))
    ));
    let mut asked: Vec<_> = (0..8).map(|_| client.request(1).unwrap()).collect();
    for request in &mut asked {
        let count = client.seal(now, [(request, &b"?"[..])], &mut out).unwrap();
        near.write_all(&out[..count]).await.unwrap();
    }
    let start = Instant::now();
    let end = loop {
        client.ping().unwrap();
        let count = client.poll_transmit(now, &mut out).unwrap();
        let _ = near.write_all(&out[..count]).await;
        if let Ok(end) = tokio::time::timeout(Duration::from_secs(5), &mut serving).await {
            break end.unwrap().unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(200));
    };
    let took = start.elapsed().as_secs();
    assert_eq!((end, took), (ConnectionError::Stalled, 60));
}

/// What was sealed lets a deferred request reach its handler, and nothing else wakes the connection
/// then: all is written, and the client waits for its answers.
#[tokio::test(start_paused = true)]
async fn deferred_requests_do_not_wait_for_the_next_ping() {
    const SIZE: usize = 6_000;
    let settings = Settings::new().with_max_message(10_000).with_max_held(10_000);
    let server = Server::builder(key(1)).settings(settings).unbound().unwrap();
    let (near, far) = duplex(1 << 16);
    let handler = |_: Request| async move { Ok(vec![7; SIZE]) };
    let serving: Serving = tokio::spawn(async move { server.serve_connection(far, handler).await });
    let client = Client::builder(key(1)).over(near).await.unwrap();
    let start = Instant::now();
    // Together in one record. The third finds 12,000 bytes in the queue.
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let client = client.clone();
        asking.spawn(async move { client.request("?").await });
    }
    for answer in asking.join_all().await {
        assert_eq!(answer.unwrap().len(), SIZE);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    client.close().await;
    serving.await.unwrap().unwrap();
}

/// A CLOSE that the stream has no room for. No answer is lost with it.
#[tokio::test(start_paused = true)]
async fn a_close_without_answers_has_a_second_to_be_written() {
    use falco_core::noise::{FixedTable, NoiseClient};
    use falco_core::{ClientConnection, RustCrypto, Unread};

    let server = Server::builder(key(1)).unbound().unwrap();
    let handle = server.handle();
    let (mut near, far) = duplex(40);
    let serving = serve(server, far);
    let client_key = NoiseClient::<FixedTable<1>, _>::new(key(1), &b""[..], RustCrypto).unwrap();
    let now = falco_core::Instant::ZERO;
    let mut client = ClientConnection::new(&client_key, &Settings::new(), now, &mut getrandom::SysRng).unwrap();
    let (mut out, mut welcome) = ([0; 100], [0; 64]);
    let hello = client.poll_transmit(now, &mut out).unwrap();
    near.write_all(&out[..hello]).await.unwrap();
    near.read_exact(&mut welcome).await.unwrap();
    client.recv(now, Unread::new(&mut welcome, &mut 0)).unwrap();
    // A PONG of 33 bytes is read, and another one stays in the stream.
    let ping = client.poll_transmit(now, &mut out).unwrap();
    near.write_all(&out[..ping]).await.unwrap();
    near.read_exact(&mut [0; 33]).await.unwrap();
    client.ping().unwrap();
    let ping = client.poll_transmit(now, &mut out).unwrap();
    near.write_all(&out[..ping]).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let start = Instant::now();
    handle.shutdown();
    assert_eq!(serving.await.unwrap().unwrap(), ConnectionError::Closed);
    assert_eq!(start.elapsed().as_millis(), 1_000);
}
