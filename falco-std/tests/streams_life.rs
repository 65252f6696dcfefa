//! How open requests begin, are counted, and learn that their connection drains.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic_in_result_fn,
    reason = "a test may panic"
)]

mod common;

use std::thread;

use common::streaming::{Streaming, WINDOW, echo, server};
use common::{bounded, key, millis};
use falco_std::{Client, ClientStats, Error, Fate, Refusal, RequestError, StreamRequest};

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
fn an_open_request_that_finds_no_worker_in_time_is_refused() {
    bounded(|| {
        let builder = server().workers(1).queue_timeout(millis(100));
        let server = Streaming::start(builder, echo);
        let client = server.client();
        let mut first = client.open("first").unwrap();
        assert_eq!(first.next().unwrap().unwrap(), b"first");
        let mut second = client.open("second").unwrap();
        let told = second.next().unwrap().unwrap_err();
        assert!(
            matches!(told, Error::Request(RequestError::Refused(Refusal::Failed))),
            "{told:?}"
        );
        assert_eq!(server.handle.stats().busy, 1);
        first.finish().unwrap();
        assert!(first.next().is_none());
        server.stop();
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
