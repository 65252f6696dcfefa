//! How open requests begin, are counted, and learn that their connection drains.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic_in_result_fn,
    reason = "a test may panic"
)]

mod common;

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;

use common::streaming::{Streaming, WINDOW, echo, server};
use common::{bounded, key, millis};
use falco_std::{
    Call, Client, ClientStats, ConnectionError, Error, Fate, HandlerError, Refusal, Request, RequestError,
    StreamRequest,
};

#[test]
fn an_open_request_over_the_servers_limit_waits_for_a_place_until_its_time_limit() {
    bounded(|| {
        let server = Streaming::start(server().streams(WINDOW, 1), echo);
        // Without a time limit it waits until there is a place. Another client has its own.
        let patient = server.client_of(Client::builder(key()).request_timeout(None));
        let hasty = server.client_of(Client::builder(key()).request_timeout(Some(millis(100))));
        let mut first = patient.open("first").unwrap();
        let mut other = hasty.open("other").unwrap();
        assert_eq!(first.next().unwrap().unwrap(), b"first");
        assert_eq!(other.next().unwrap().unwrap(), b"other");
        let opener = patient.clone();
        let waiting = thread::spawn(move || opener.open("second"));
        let told = hasty.open("late").unwrap_err();
        assert!(matches!(told, Error::TimedOut { .. }), "{told:?}");
        assert_eq!(told.fate(), Fate::NotProcessed);
        assert!(!waiting.is_finished());
        // It holds up no other request.
        assert_eq!(patient.request("whole").unwrap(), b"whole");
        first.finish().unwrap();
        assert!(first.next().is_none());
        let mut second = waiting.join().unwrap().unwrap();
        assert_eq!(second.next().unwrap().unwrap(), b"second");
        // The limit is for its beginning alone.
        thread::sleep(millis(200));
        for mut call in [second, other] {
            call.finish().unwrap();
            assert!(call.next().is_none());
        }
        assert_eq!(hasty.request("whole").unwrap(), b"whole");
        server.await_counts((5, 5, 0));
        server.stop();
    });
}

#[test]
fn open_requests_are_counted_as_others_are() {
    bounded(|| {
        let server = Streaming::start(server(), |mut request: StreamRequest| {
            let first = request.body.next().unwrap()?;
            request.answer.send(first.clone())?;
            if first == b"fails" {
                thread::sleep(millis(100));
                return Err("it fails".into());
            }
            request.answer.finish()?;
            Ok(())
        });
        let client = server.client();
        let counted = |stats: ClientStats| (stats.requests, stats.answers, stats.errors, stats.outstanding);
        let call = client.open("answered").unwrap();
        assert_eq!(client.stats().outstanding, 1);
        assert_eq!(call.collect(100).unwrap(), b"answered");
        assert_eq!(counted(client.stats()), (1, 1, 0, 0));
        let call = client.open("fails").unwrap();
        assert!(call.collect(100).is_err());
        assert_eq!(counted(client.stats()), (2, 1, 1, 0));
        // One that is dropped has neither outcome.
        drop(client.open("fails").unwrap());
        assert_eq!(client.request("whole").unwrap(), b"whole");
        assert_eq!(counted(client.stats()), (4, 2, 1, 0));
        server.stop();

        let plain = Streaming::start(common::streaming::server().streams(0, 0), echo);
        let client = plain.client();
        let told = client.open("").unwrap_err();
        assert!(matches!(told, Error::Request(RequestError::NoOpenBodies)), "{told:?}");
        assert_eq!(counted(client.stats()), (1, 0, 1, 0));
        client.close();
        assert!(matches!(client.open(""), Err(Error::Closed)));
        assert_eq!(counted(client.stats()), (2, 0, 2, 0));
        plain.stop();
    });
}

#[test]
fn a_handler_that_returns_a_refusal_after_its_answer_counts_as_one_that_refused() {
    bounded(|| {
        let server = Streaming::start(server(), |mut request: StreamRequest| {
            let first = request.body.next().unwrap()?;
            request.answer.send("no")?;
            request.answer.finish()?;
            if first == b"refused" {
                return Err(Refusal::Failed.into());
            }
            Err("it fails after its answer".into())
        });
        let client = server.client();
        for first in ["refused", "answered"] {
            assert_eq!(client.open(first).unwrap().collect(100).unwrap(), b"no");
        }
        server.await_counts((2, 1, 1));
        assert_eq!(server.stop().stats.failed, 1);
    });
}

#[test]
fn a_connection_over_any_stream_carries_open_requests() {
    bounded(|| {
        let server = server().unbound().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let serving = thread::spawn(move || server.serve_connection_streams(far, common::echo, echo));
        let client = Client::builder(key()).over(near).unwrap();
        let mut call = client.open("one ").unwrap();
        call.send("two").unwrap();
        call.finish().unwrap();
        assert_eq!(call.collect(100).unwrap(), b"one two");
        assert_eq!(client.request("whole").unwrap(), b"whole");
        client.close();
        assert_eq!(serving.join().unwrap().unwrap(), ConnectionError::Closed);
    });
}

#[test]
fn one_handler_answers_all_requests_of_a_connection_over_any_stream() {
    bounded(|| {
        let server = server().unbound().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let serving = thread::spawn(move || server.serve_connection_all_streams(far, echo));
        let client = Client::builder(key()).over(near).unwrap();
        let mut call = client.open("open").unwrap();
        call.finish().unwrap();
        assert_eq!(call.collect(100).unwrap(), b"open");
        assert_eq!(client.request("whole").unwrap(), b"whole");
        client.close();
        assert_eq!(serving.join().unwrap().unwrap(), ConnectionError::Closed);
    });
}

/// A handler of a subscription, which sends a last message when its connection drains.
fn subscription(mut request: StreamRequest) -> Result<(), HandlerError> {
    assert!(!request.is_closing());
    request.answer.send("begun")?;
    while !request.is_closing() {
        thread::sleep(millis(5));
    }
    request.answer.send("farewell")?;
    Ok(request.answer.finish()?)
}

/// Opens a subscription.
fn subscribe(client: &Client) -> Call {
    let mut call = client.open("").unwrap();
    assert_eq!(call.next().unwrap().unwrap(), b"begun");
    call
}

fn ends_well(mut call: Call) {
    assert_eq!(call.next().unwrap().unwrap(), b"farewell");
    assert!(call.next().is_none());
}

#[test]
fn handlers_of_streams_learn_that_their_server_shuts_down() {
    bounded(|| {
        let server = Streaming::start(server(), subscription);
        let client = server.client();
        let calls = [subscribe(&client), subscribe(&client)];
        server.handle.shutdown_within(millis(60_000));
        calls.into_iter().for_each(ends_well);
        let report = server.serving.join().unwrap();
        assert_eq!((report.cut_requests, report.stats.answers), (0, 2));
    });
}

#[test]
fn the_report_of_a_shutdown_counts_answers_whose_handlers_have_not_returned() {
    bounded(|| {
        let (returns, returned) = mpsc::channel::<()>();
        let returned = Mutex::new(returned);
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            request.answer.send("answer")?;
            request.answer.finish()?;
            let _ = returned.lock().unwrap().recv();
            Ok(())
        });
        let client = server.client();
        let mut call = client.open("").unwrap();
        call.finish().unwrap();
        assert_eq!(call.collect(100).unwrap(), b"answer");
        client.close();
        server.handle.shutdown_within(millis(60_000));
        let report = server.serving.join().unwrap();
        assert_eq!((report.cut_requests, report.stats.answers), (0, 1));
        drop(returns);
    });
}

#[test]
fn handlers_of_streams_learn_that_their_connection_is_old_or_its_key_retired() {
    bounded(|| {
        let old = Streaming::start(server().max_connection_age(millis(200)), subscription);
        let client = old.client();
        ends_well(subscribe(&client));
        old.stop();

        let retiring = Streaming::start(server().key(common::other_key()), subscription);
        let first = retiring.client();
        let second = retiring.client_of(Client::builder(common::other_key()));
        let (retired, stays) = (subscribe(&first), subscribe(&second));
        retiring.handle.retire_key(key().id());
        ends_well(retired);
        // The other key is not retired.
        retiring.await_counts((2, 1, 0));
        drop(stays);
        retiring.stop();
    });
}

#[test]
fn handlers_of_streams_learn_that_their_client_closes_or_is_gone() {
    bounded(|| {
        let server = Streaming::start(server(), subscription);
        let client = server.client();
        let call = subscribe(&client);
        let closing = thread::spawn(move || client.close());
        ends_well(call);
        closing.join().unwrap();
        server.stop();

        let (to, told) = mpsc::channel();
        let lost = Streaming::start(common::streaming::server(), move |mut request: StreamRequest| {
            request.answer.send("begun")?;
            while !request.is_closing() {
                thread::sleep(millis(5));
            }
            to.send(()).unwrap();
            drop(request);
            Ok(())
        });
        let socket = TcpStream::connect(lost.address).unwrap();
        let client = Client::builder(key()).over(socket.try_clone().unwrap()).unwrap();
        let call = subscribe(&client);
        socket.shutdown(Shutdown::Both).unwrap();
        told.recv().unwrap();
        drop(call);
        lost.stop();
    });
}

/// The answer cannot be completed, because no more credit comes.
#[test]
fn a_writer_without_credit_learns_that_its_client_has_ended_its_stream() {
    bounded(|| {
        let (to, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let ended = Mutex::new(ended);
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            request.answer.send("begun")?;
            if request.body.next().is_some_and(|first| first.unwrap() == b"stays") {
                while !request.is_closing() {
                    thread::sleep(millis(5));
                }
                to.send(None).unwrap();
                ended.lock().unwrap().recv().unwrap();
                request.answer.finish()?;
                return Ok(());
            }
            loop {
                if let Err(error) = request.answer.send(vec![0; 64 << 10]) {
                    to.send(Some(error)).unwrap();
                    return Ok(());
                }
            }
        });
        let socket = TcpStream::connect(server.address).unwrap();
        let client = Client::builder(key()).over(socket.try_clone().unwrap()).unwrap();
        let mut calls = Vec::new();
        for first in ["stays", "writes"] {
            let mut call = client.open(first).unwrap();
            call.finish().unwrap();
            assert_eq!(call.next().unwrap().unwrap(), b"begun");
            calls.push(call);
        }
        let closing = thread::spawn(move || client.close());
        assert!(told.recv().unwrap().is_none());
        socket.shutdown(Shutdown::Write).unwrap();
        let why = told.recv_timeout(millis(5000)).unwrap().unwrap();
        assert!(matches!(why, Error::Stopped), "{why:?}");
        assert_eq!(server.handle.stats().connections, 1);
        end.send(()).unwrap();
        drop(calls);
        closing.join().unwrap();
        server.stop();
    });
}

#[test]
fn an_open_request_that_finds_no_worker_in_time_is_refused() {
    bounded(|| {
        let builder = server().workers(1).queue_timeout(millis(100));
        let server = builder.bind("127.0.0.1:0").unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let slow = |request: Request| {
            thread::sleep(millis(600));
            Ok(request.into_body())
        };
        let serving = thread::spawn(move || server.serve_streams(slow, echo).unwrap());
        let client = Client::builder(key()).connect(address).unwrap();
        let own = client.clone();
        let whole = thread::spawn(move || own.request("whole").unwrap());
        thread::sleep(millis(100));
        let mut call = client.open("first").unwrap();
        let told = call.next().unwrap().unwrap_err();
        assert!(
            matches!(told, Error::Request(RequestError::Refused(Refusal::Busy))),
            "{told:?}"
        );
        assert_eq!((told.fate(), handle.stats().busy), (Fate::NotProcessed, 1));
        assert_eq!(whole.join().unwrap(), b"whole");
        handle.shutdown();
        serving.join().unwrap();
    });
}

#[test]
fn streams_drain_with_their_server_and_a_new_one_goes_to_the_next_connection() {
    bounded(|| {
        let server = Streaming::start(server().max_connection_age(millis(100)), echo);
        let client = server.client();
        let mut old = client.open("old").unwrap();
        assert_eq!(old.next().unwrap().unwrap(), b"old");
        thread::sleep(millis(300));
        let mut new = client.open("new").unwrap();
        assert_eq!(new.next().unwrap().unwrap(), b"new");
        for call in [&mut old, &mut new] {
            call.send("still").unwrap();
            assert_eq!(call.next().unwrap().unwrap(), b"still");
            call.finish().unwrap();
            assert!(call.next().is_none());
        }
        assert_eq!(client.stats().connected, 2);
        server.stop();
    });
}

#[test]
fn a_call_outlives_the_client_that_has_begun_it() {
    bounded(|| {
        let server = Streaming::start(server(), echo);
        let mut call = server.client().open("first").unwrap();
        assert_eq!(call.next().unwrap().unwrap(), b"first");
        call.send("more").unwrap();
        assert_eq!(call.next().unwrap().unwrap(), b"more");
        drop(call);
        server.stop();
    });
}
