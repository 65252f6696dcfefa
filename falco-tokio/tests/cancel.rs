//! A request may be dropped at any point. No other request gets its answer or loses its own, and no
//! state of it is left.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::Poll;
use core::time::Duration;
use std::sync::Arc;

use common::{Running, key};
use falco_tokio::{Client, Fate, OnCancel, Request, Server, Settings};
use tokio::sync::Semaphore;

/// Polls `future` up to `polls` times, with time between for everything else to go on; says whether
/// it was done.
async fn poll_at_most<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    None
}

/// Answers with what it was sent, after a while that depends on it.
async fn slow_echo(request: Request) -> Result<bytes::Bytes, falco_tokio::HandlerError> {
    let number = u64::from(request.body()[0]);
    if number % 3 > 0 {
        tokio::time::sleep(Duration::from_micros(number * 17)).await;
    }
    Ok(request.into_body())
}

fn body(number: usize, length: usize) -> Vec<u8> {
    (0..=length)
        .map(|at| u8::try_from((number + at * 7) % 251).unwrap())
        .collect()
}

/// While 100 tasks make requests, others are dropped after 0, 1, 2, ... polls.
async fn drop_at_every_point(client: Client, server: Running) {
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let mut others = Vec::new();
    for number in 0..100 {
        let (client, stop, answered) = (client.clone(), Arc::clone(&stop), Arc::clone(&answered));
        others.push(tokio::spawn(async move {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                let sent = body(number, round % 300);
                assert_eq!(client.request(sent.clone()).await.unwrap(), sent, "{number}, {round}");
                answered.fetch_add(1, Ordering::Relaxed);
                round += 1;
            }
        }));
    }
    // Small ones and ones that go in parts; until one was done before it was dropped, each twice.
    for length in [10, 300_000] {
        let mut done = 0;
        let mut dropped = 0;
        for polls in 0..2000 {
            let sent = body(7, length);
            match poll_at_most(client.request(sent.clone()), polls).await {
                Some(answer) => {
                    assert_eq!(answer.unwrap(), sent);
                    done += 1;
                }
                None => dropped += 1,
            }
            if done == 2 {
                break;
            }
        }
        assert!(
            done == 2 && dropped > 1,
            "{length} bytes: {done} done, {dropped} dropped"
        );
    }
    let before = answered.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    stop.store(true, Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > before, "the others went on");
    // Neither side has state of what was dropped: no place is taken, no byte is held.
    assert_eq!(client.stats().outstanding, 0);
    let whole = body(1, 300_000);
    for _ in 0..3 {
        assert_eq!(client.request(whole.clone()).await.unwrap(), whole);
    }
    assert_eq!(server.handle.stats().connections, 1);
    drop(client);
    let report = server.stop().await;
    assert_eq!((report.cut_connections, report.cut_requests), (0, 0));
    let stats = report.stats;
    assert_eq!(
        stats.requests,
        stats.answers + stats.refusals + stats.cancelled,
        "{stats:?}"
    );
    assert_eq!(stats.established, 1);
}

/// What a request counts besides its body.
const PER_REQUEST: usize = 1 << 10;

/// Room for the requests under way, and none to leak.
const HELD: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_noise_wire() {
    let server = Running::start(Server::builder(key(1)).max_held(HELD), slow_echo).await;
    let client = Client::builder(key(1))
        .max_outstanding(150)
        .connect(server.address)
        .await;
    drop_at_every_point(client.unwrap(), server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_classic_wire() {
    let server = Running::start(Server::classic(key(1)).max_held(HELD), slow_echo).await;
    let client = Client::classic(key(1))
        .max_outstanding(150)
        .connect(server.address)
        .await;
    drop_at_every_point(client.unwrap(), server).await;
}

/// Counts its own end.
struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn the_handler_of_a_dropped_request_is_dropped_or_learns_that() {
    for on_cancel in [OnCancel::Drop, OnCancel::Signal] {
        let (told, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (own_told, own_ended) = (Arc::clone(&told), Arc::clone(&ended));
        let handler = move |request: Request| {
            let (told, ends) = (Arc::clone(&own_told), Ends(Arc::clone(&own_ended)));
            async move {
                request.cancelled().await;
                assert!(request.is_cancelled());
                told.fetch_add(1, Ordering::SeqCst);
                drop(ends);
                Ok("late")
            }
        };
        let server = Running::start(Server::builder(key(1)).on_cancel(on_cancel), handler).await;
        let client = server.client().await;
        let limit = Duration::from_millis(30);
        let error = client.request_within("wait", limit).await.unwrap_err();
        assert_eq!(error.fate(), Fate::MaybeProcessed);
        // A client that is gone cancels what it has under way.
        let other = server.client().await;
        let waiting = tokio::spawn({
            let other = other.clone();
            async move { other.request_within("wait", Duration::from_secs(5)).await }
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        tokio::time::timeout(Duration::from_secs(5), async {
            while ended.load(Ordering::SeqCst) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        let expected = if on_cancel == OnCancel::Signal { 2 } else { 0 };
        assert_eq!(told.load(Ordering::SeqCst), expected, "{on_cancel:?}");
        drop((client, other));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_request_that_waits_for_a_place_is_dropped_like_any_other() {
    let server = Running::start(Server::builder(key(1)), slow_echo).await;
    let settings = Settings::new();
    let client = Client::builder(key(1)).settings(settings).max_outstanding(1);
    let client = client.connect(server.address).await.unwrap();
    let mut first = pin!(client.request(vec![100; 10]));
    assert!(poll_at_most(first.as_mut(), 1).await.is_none());
    assert!(poll_at_most(client.request("second"), 3).await.is_none());
    let error = client.request_within("third", Duration::ZERO).await.unwrap_err();
    assert_eq!(error.fate(), Fate::NotProcessed);
    first.await.unwrap();
    assert_eq!(client.request(vec![0]).await.unwrap(), vec![0]);
    assert_eq!(client.stats().outstanding, 0);
}

/// Handlers that run on after their requests and connections have ended, and how many of them.
fn running_on(release: &Arc<Semaphore>) -> (Arc<AtomicUsize>, impl falco_tokio::Handler) {
    let running = Arc::new(AtomicUsize::new(0));
    let (counter, release) = (Arc::clone(&running), Arc::clone(release));
    let handler = move |request: Request| {
        let (counter, release) = (Arc::clone(&counter), Arc::clone(&release));
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            let permit = release.acquire().await;
            counter.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
            Ok(request.into_body())
        }
    };
    (running, handler)
}

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("it is to happen soon");
}

/// A client, and what ends its stream at once.
async fn cuttable(server: &Running) -> (Client, std::net::TcpStream) {
    let stream = std::net::TcpStream::connect(server.address).unwrap();
    let cut = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    (Client::builder(key(1)).over(stream).await.unwrap(), cut)
}

/// Sends 16 requests of 1,000 bytes on a connection of its own, and ends it.
async fn ask_and_leave(server: &Running, running: &AtomicUsize, expected: usize) {
    let (client, stream) = cuttable(server).await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        requests.spawn(async move { client.request(vec![7; 1_000]).await });
    }
    until(|| running.load(Ordering::SeqCst) == expected).await;
    stream.shutdown(std::net::Shutdown::Both).unwrap();
}

/// Places and bytes are taken as long as the handlers run, so that a client that comes again and
/// again gets no more of them than one that stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_run_on_keep_the_place_and_the_bytes_of_their_connection() {
    let release = Arc::new(Semaphore::new(0));
    let (running, handler) = running_on(&release);
    let builder = Server::builder(key(1))
        .on_cancel(OnCancel::Signal)
        .max_connections(3)
        .max_held(40_000 + 33 * PER_REQUEST)
        .max_in_flight(16);
    let server = Running::start(builder, handler).await;
    for round in 1..=2 {
        ask_and_leave(&server, &running, 16 * round).await;
        until(|| server.handle.stats().connections == 0).await;
    }
    // 32,000 of 40,000 bytes are held, and what 32 of 33 requests count besides.
    let third = Client::builder(key(1)).connect(server.address).await.unwrap();
    let busy = third.request(vec![7; 9_000]).await.unwrap_err();
    assert!(busy.to_string().contains("busy"), "{busy}");
    let asking = third.clone();
    let waiting = tokio::spawn(async move { asking.request(vec![7; 1_000]).await });
    until(|| running.load(Ordering::SeqCst) == 33).await;
    // And all three places are taken, two of them by handlers alone.
    let fourth = Client::builder(key(1)).connect(server.address).await;
    // A refused handshake, or a reset.
    fourth.unwrap_err();
    assert_eq!(server.handle.stats().rejected, 1);
    assert_eq!(running.load(Ordering::SeqCst), 33);

    release.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(waiting.await.unwrap().unwrap(), vec![7; 1_000]);
    until(|| running.load(Ordering::SeqCst) == 0).await;
    // The last of a handler to go are its bytes and its place.
    let free = async {
        while third.request(vec![7; 9_000]).await.is_err() {}
        let mut others = Vec::new();
        while others.len() < 2 {
            others.extend(Client::builder(key(1)).connect(server.address).await.ok());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free)
        .await
        .expect("nothing is taken any more");
    server.stop().await;
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A handler that computes cannot be dropped before it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_computes_keeps_its_place_until_it_is_dropped() {
    let stop = Arc::new(AtomicBool::new(false));
    let computing = Arc::new(AtomicUsize::new(0));
    let (own_stop, counter) = (Arc::clone(&stop), Arc::clone(&computing));
    let handler = move |request: Request| {
        let (stop, counter) = (Arc::clone(&own_stop), Arc::clone(&counter));
        async move {
            tokio::task::yield_now().await;
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::task::block_in_place(|| {
                while !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            counter.fetch_sub(1, Ordering::SeqCst);
            Ok(request.into_body())
        }
    };
    // A runtime waits for its blocking threads, also when this test fails.
    let _stop = SetOnDrop(Arc::clone(&stop));
    let server = Running::start(Server::builder(key(1)).max_connections(1), handler).await;
    let (client, stream) = cuttable(&server).await;
    let request = tokio::spawn(async move { client.request("x").await });
    until(|| computing.load(Ordering::SeqCst) == 1).await;
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    request.await.unwrap().unwrap_err();
    until(|| server.handle.stats().connections == 0).await;
    let another = Client::builder(key(1)).connect(server.address).await;
    // A refused handshake, or a reset.
    another.unwrap_err();
    stop.store(true, Ordering::SeqCst);
    until(|| computing.load(Ordering::SeqCst) == 0).await;
    let place = async { while Client::builder(key(1)).connect(server.address).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), place)
        .await
        .expect("its place is free");
    server.stop().await;
}

/// Body bytes that say when they are dropped.
struct Dropped {
    _set: SetOnDrop,
}

impl AsRef<[u8]> for Dropped {
    fn as_ref(&self) -> &[u8] {
        &[7; 10]
    }
}

/// Nobody takes it, and another handler of the connection may run for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_after_the_end_of_its_connection_is_dropped_though_others_run_on() {
    let dropped = Arc::new(AtomicBool::new(false));
    let release = Arc::new(Semaphore::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    let (flag, gate, counter) = (Arc::clone(&dropped), Arc::clone(&release), Arc::clone(&begun));
    let handler = move |request: Request| {
        let (flag, gate) = (Arc::clone(&flag), Arc::clone(&gate));
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if request.body() == "for ever" {
                core::future::pending::<()>().await;
            }
            let _permit = gate.acquire().await;
            Ok(bytes::Bytes::from_owner(Dropped { _set: SetOnDrop(flag) }))
        }
    };
    let server = Running::start(Server::builder(key(1)).on_cancel(OnCancel::Signal), handler).await;
    let client = server.client().await;
    for body in ["for ever", "answer"] {
        let client = client.clone();
        tokio::spawn(async move { client.request(body).await });
    }
    until(|| begun.load(Ordering::SeqCst) == 2).await;
    server.handle.shutdown_within(Duration::ZERO);
    until(|| server.handle.stats().connections == 0).await;
    release.add_permits(1);
    until(|| dropped.load(Ordering::SeqCst)).await;
    // The shutdown does not wait for the handler that runs on.
    server.stop().await;
}

/// Otherwise a client could have each of its frames wake a thousand tasks.
#[tokio::test]
async fn a_cancel_wakes_the_handler_of_its_request_and_no_other() {
    const WAITING: usize = 100;
    const CANCELLED: usize = 10;
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polls);
    let builder = Server::builder(key(1)).on_cancel(OnCancel::Signal);
    let server = Running::start(builder, move |request: Request| {
        let polls = Arc::clone(&counted);
        async move {
            let mut cancelled = pin!(request.cancelled());
            poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                cancelled.as_mut().poll(cx)
            })
            .await;
            Ok("nobody waits for this")
        }
    })
    .await;
    let client = server.client().await;
    let mut asking: Vec<_> = (0..WAITING)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.request("until it is cancelled").await })
        })
        .collect();
    let count = |expected: usize, found: u64| usize::try_from(found).unwrap() == expected;
    while !count(WAITING, server.handle.stats().requests) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = polls.load(Ordering::Relaxed);
    for asking in asking.drain(..CANCELLED) {
        asking.abort();
    }
    let ended = || {
        let stats = server.handle.stats();
        stats.cancelled + stats.answers
    };
    while !count(CANCELLED, ended()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(polls.load(Ordering::Relaxed) - before, CANCELLED);
    // The end of the connection wakes all.
    assert!(server.handle.revoke_key(key(1).id()));
    while polls.load(Ordering::Relaxed) - before < WAITING {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for asking in asking {
        asking.await.unwrap().unwrap_err();
    }
    server.stop().await;
}
