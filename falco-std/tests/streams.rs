//! Open requests and answers: bodies of any length, both ways at once.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic_in_result_fn,
    clippy::unnecessary_wraps,
    reason = "a test may panic"
)]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use common::streaming::{Streaming, WINDOW, echo, server};
use common::{bounded, key, millis};
use falco_std::{Call, Client, Error, Fate, Refusal, Request, RequestError, Server, StreamRequest};

#[test]
fn both_bodies_travel_at_the_same_time() {
    bounded(|| {
        let server = Streaming::start(server(), echo);
        let client = server.client();
        let mut call = client.open("first").unwrap();
        assert_eq!(call.next().unwrap().unwrap(), b"first");
        for round in 0..100 {
            let text = format!("round {round}");
            call.send(text.clone()).unwrap();
            assert_eq!(call.next().unwrap().unwrap(), text.as_bytes());
        }
        // Other requests go on meanwhile.
        assert_eq!(client.request("whole").unwrap(), b"whole");
        call.finish().unwrap();
        assert!(call.next().is_none() && call.next().is_none());
        assert!(matches!(call.send("late"), Err(Error::Stopped)));
        server.await_counts((2, 2, 0));
        server.stop();
    });
}

#[test]
fn a_long_body_arrives_byte_for_byte_through_readers_and_writers() {
    const LENGTH: usize = 20_000_000;
    bounded(|| {
        let server = Streaming::start(server(), |request: StreamRequest| {
            let StreamRequest {
                mut body, mut answer, ..
            } = request;
            io::copy(&mut body, &mut answer)?;
            answer.flush()?;
            answer.finish()?;
            Ok(())
        });
        let client = server.client();
        let (mut sending, mut receiving) = client.open("").unwrap().split();
        let byte = |at: usize| (at % 251).to_le_bytes()[0];
        let writing = thread::spawn(move || {
            let mut at = 0;
            for length in [1, 7, 100, 70_000, 1_000_000].into_iter().cycle() {
                let length = length.min(LENGTH - at);
                let piece: Vec<u8> = (at..at + length).map(byte).collect();
                sending.write_all(&piece).unwrap();
                at += length;
                if at == LENGTH {
                    break;
                }
            }
            sending.finish().unwrap();
        });
        let mut whole = Vec::new();
        receiving.read_to_end(&mut whole).unwrap();
        writing.join().unwrap();
        assert_eq!(whole.len(), LENGTH);
        assert!(whole.iter().enumerate().all(|(at, found)| *found == byte(at)));
        server.stop();
    });
}

#[test]
fn a_server_without_a_handler_for_them_and_one_with_a_window_of_0_take_none() {
    bounded(|| {
        let plain = common::Running::start(server(), common::echo);
        let closed = Streaming::start(server().streams(0, 10), echo);
        let none = Streaming::start(server().streams(WINDOW, 0), echo);
        for address in [plain.address, closed.address, none.address] {
            let client = Client::builder(key()).connect(address).unwrap();
            let told = client.open("x").unwrap_err();
            assert!(matches!(told, Error::Request(RequestError::NoOpenBodies)), "{told:?}");
            assert_eq!(told.fate(), Fate::NotProcessed);
            assert_eq!(client.request("whole").unwrap(), b"whole");
        }
    });
}

#[test]
fn a_reader_that_does_not_read_bounds_what_is_buffered_and_holds_up_no_other() {
    bounded(|| {
        let taken = Arc::new(AtomicUsize::new(0));
        let (go, wait) = mpsc::channel::<()>();
        let (wait, counted) = (Mutex::new(wait), Arc::clone(&taken));
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            let mut first = [0; 5];
            request.body.read_exact(&mut first)?;
            if &first == b"stuck" {
                wait.lock().unwrap().recv()?;
            }
            while let Some(bytes) = request.body.next() {
                counted.fetch_add(bytes?.len(), Ordering::Relaxed);
            }
            request.answer.finish()?;
            Ok(())
        });
        let client = server.client();
        let (mut sending, mut stuck) = client.open("stuck").unwrap().split();
        let chunk = vec![7; 16 << 10];
        let (sent, piece) = (Arc::new(AtomicUsize::new(0)), chunk.clone());
        let counted = Arc::clone(&sent);
        let writing = thread::spawn(move || {
            for _ in 0..64 {
                sending.write_all(&piece).unwrap();
                counted.fetch_add(piece.len(), Ordering::Relaxed);
            }
            sending.finish().unwrap();
        });
        thread::sleep(millis(500));
        // The window, what the connection has queued, and what waits for it.
        let queued = sent.load(Ordering::Relaxed);
        assert!((64 << 10..=(64 << 10) + (144 << 10)).contains(&queued), "{queued}");
        // Another stream and requests are not held up.
        let mut other = client.open("other").unwrap();
        for _ in 0..100 {
            other.send(chunk.clone()).unwrap();
        }
        other.finish().unwrap();
        assert!(other.next().is_none());
        assert_eq!(taken.load(Ordering::Relaxed), 100 * chunk.len());
        assert_eq!(client.request("whole").unwrap(), b"whole");
        assert_eq!(sent.load(Ordering::Relaxed), queued);
        // It goes on when its reader does.
        go.send(()).unwrap();
        writing.join().unwrap();
        assert!(stuck.next().is_none());
        assert_eq!(taken.load(Ordering::Relaxed), 164 * chunk.len());
        server.stop();
    });
}

#[test]
fn a_client_without_a_window_gets_the_answer_as_a_whole() {
    bounded(|| {
        let server = Streaming::start(server(), |mut request: StreamRequest| {
            let pieces: usize = str::from_utf8(&request.body.next().unwrap()?)?.parse()?;
            for _ in 0..pieces {
                request.answer.send(vec![7; 1000])?;
            }
            request.answer.finish()?;
            Ok(())
        });
        let builder = Client::builder(key()).stream_window(0).max_message(100_000);
        let client = server.client_of(builder);
        let call = client.open("100").unwrap();
        assert_eq!(call.collect(1 << 20).unwrap().len(), 100_000);
        let call = client.open("101").unwrap();
        let told = call.collect(1 << 20).unwrap_err();
        assert!(
            matches!(told, Error::Request(RequestError::Refused(Refusal::AnswerTooLarge))),
            "{told:?}"
        );
        server.stop();
    });
}

#[test]
fn a_whole_request_may_be_answered_piece_by_piece() {
    bounded(|| {
        let server = server().bind("127.0.0.1:0").unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let streams = |request: StreamRequest| {
            let StreamRequest { body, mut answer, .. } = request;
            let count: usize = str::from_utf8(&body.collect(1 << 10)?)?.parse()?;
            for _ in 0..count {
                answer.send(vec![7; 10_000])?;
            }
            // Otherwise the answer is cut off.
            if count.is_multiple_of(2) {
                answer.finish()?;
            }
            Ok(())
        };
        let serving = thread::spawn(move || server.serve_all_streams(streams).unwrap());
        for window in [16 << 10, 0] {
            let builder = Client::builder(key()).stream_window(window).max_message(400_000);
            let client = builder.connect(address).unwrap();
            for count in [0, 2, 40] {
                let answer = client.request(count.to_string()).unwrap();
                assert_eq!(answer, vec![7; count * 10_000]);
            }
            let mut call = client.open("4").unwrap();
            call.finish().unwrap();
            assert_eq!(call.collect(1 << 20).unwrap().len(), 40_000);
            // Over the largest message, and without its end.
            for (count, refusal) in [(42, Refusal::AnswerTooLarge), (3, Refusal::Failed)] {
                let error = client.request(count.to_string()).unwrap_err();
                assert!(
                    matches!(error, Error::Request(RequestError::Refused(told)) if told == refusal),
                    "{window} {count}: {error:?}"
                );
            }
            assert_eq!(client.request("2").unwrap().len(), 20_000);
            client.close();
        }
        handle.shutdown();
        let report = serving.join().unwrap();
        assert_eq!((report.cut_requests, report.stats.requests), (0, 14));
    });
}

#[test]
fn two_hundred_streams_share_a_connection_and_one_more_waits_for_a_place() {
    bounded(|| {
        let builder = server().streams(16 << 10, 200).workers(802);
        let server = Streaming::start(builder, echo);
        let builder = Client::builder(key()).stream_window(16 << 10);
        let client = server.client_of(builder.clone());
        let mut calls: Vec<Call> = (0..200)
            .map(|number| client.open(format!("{number}")).unwrap())
            .collect();
        let opener = client.clone();
        let waiting = thread::spawn(move || opener.open("waits").unwrap());
        for round in 0..3 {
            for (number, call) in calls.iter_mut().enumerate() {
                if round == 0 {
                    assert_eq!(call.next().unwrap().unwrap(), format!("{number}").as_bytes());
                }
                call.send(format!("{number} {round}")).unwrap();
            }
            for (number, call) in calls.iter_mut().enumerate() {
                assert_eq!(call.next().unwrap().unwrap(), format!("{number} {round}").as_bytes());
            }
        }
        assert!(!waiting.is_finished());
        assert_eq!(server.handle.stats().requests, 200);
        let mut first = calls.pop().unwrap();
        first.finish().unwrap();
        assert!(first.next().is_none());
        let mut waited = waiting.join().unwrap();
        assert_eq!(waited.next().unwrap().unwrap(), b"waits");
        // One that gets no place in time has not begun.
        let hasty = server.client_of(builder.request_timeout(Some(millis(100))));
        let full: Vec<Call> = (0..200).filter_map(|_| hasty.open("").ok()).collect();
        let told = hasty.open("").unwrap_err();
        assert!(matches!(told, Error::TimedOut { .. }), "{told:?}");
        assert_eq!(told.fate(), Fate::NotProcessed);
        drop(full);
        waited.finish().unwrap();
        assert!(waited.next().is_none());
        drop((calls, waited, first));
        assert_eq!(client.request("whole").unwrap(), b"whole");
        assert_eq!(client.stats().outstanding, 0);
        server.stop();
    });
}

#[test]
fn the_classic_wire_and_streams_that_do_not_split_have_none() {
    bounded(|| {
        let server = Streaming::start(server(), echo);
        let blocking = falco_std::Blocking(TcpStream::connect(server.address).unwrap());
        let client = Client::builder(key()).over(blocking).unwrap();
        let told = client.open("x").unwrap_err();
        assert!(
            matches!(&told, Error::Io { source, .. } if source.kind() == io::ErrorKind::Unsupported),
            "{told:?}"
        );
        assert_eq!(told.fate(), Fate::NotProcessed);
        assert_eq!(client.request("whole").unwrap(), b"whole");
        server.stop();

        let classic = Streaming::start(Server::classic(key()), echo);
        let client = Client::classic(key()).connect(classic.address).unwrap();
        assert!(matches!(client.open("x"), Err(Error::Io { .. })));
        assert_eq!(client.request("whole").unwrap(), b"whole");
        classic.stop();
    });
}

#[test]
fn short_parts_take_no_more_memory_than_long_ones() {
    bounded(|| {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            wait.lock().unwrap().recv()?;
            let mut chunks = 0;
            while let Some(bytes) = request.body.next() {
                chunks += 1;
                let _ = bytes?;
            }
            request.answer.send(format!("{chunks}"))?;
            request.answer.finish()?;
            Ok(())
        });
        let client = server.client();
        let mut call = client.open("").unwrap();
        for _ in 0..1000 {
            call.send("x").unwrap();
        }
        call.finish().unwrap();
        thread::sleep(millis(200));
        go.send(()).unwrap();
        assert_eq!(call.collect(100).unwrap(), b"1");
        server.stop();
    });
}

#[allow(
    dead_code,
    reason = "it is compiled: requests of handlers are usable in code of users"
)]
fn who(request: &StreamRequest) -> (Option<SocketAddr>, Option<falco_std::KeyId>, Option<&str>) {
    let _: fn(Request) -> Vec<u8> = Request::into_body;
    (request.peer(), request.key_id(), request.key_label())
}
