//! How each half of an open request ends: dropped, failed, finished early, or with its connection.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic_in_result_fn,
    clippy::unnecessary_wraps,
    reason = "a test may panic"
)]

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;

use common::streaming::{Streaming, server};
use common::{bounded, key, millis};
use falco_std::{Client, Error, Fate, Refusal, RequestError, StreamRequest};

#[test]
fn a_client_that_drops_a_half_cancels_its_request_and_no_other() {
    bounded(|| {
        let (to, ends) = mpsc::channel();
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            request.answer.send("begun")?;
            let end = loop {
                match request.body.next() {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break format!("{error:?}"),
                    None => break "whole".to_owned(),
                }
            };
            let failed = request.answer.send("more").is_err();
            to.send((end, failed, request.is_cancelled()))?;
            request.answer.finish()?;
            Ok(())
        });
        let client = server.client();
        let mut other = client.open("other").unwrap();
        assert_eq!(other.next().unwrap().unwrap(), b"begun");
        let cancelled = ("Cancelled".to_owned(), true, true);
        for drop_reader in [true, false] {
            let mut call = client.open("x").unwrap();
            assert_eq!(call.next().unwrap().unwrap(), b"begun");
            let (sending, mut receiving) = call.split();
            if drop_reader {
                drop(receiving);
                assert_eq!(ends.recv().unwrap(), cancelled);
                drop(sending);
            } else {
                drop(sending);
                assert_eq!(ends.recv().unwrap(), cancelled);
                // It is never taken for a whole answer.
                for _ in 0..2 {
                    assert!(receiving.read(&mut [0]).is_err());
                }
                assert!(receiving.next().unwrap().is_err());
            }
        }
        other.finish().unwrap();
        assert_eq!(other.next().unwrap().unwrap(), b"more");
        assert!(other.next().is_none());
        assert_eq!(ends.recv().unwrap(), ("whole".to_owned(), false, false));
        drop(other);
        assert_eq!(client.stats().outstanding, 0);
        server.stop();
    });
}

#[test]
fn dropping_a_half_wakes_the_thread_that_waits_in_the_other() {
    bounded(|| {
        let server = Streaming::start(server(), |mut request: StreamRequest| {
            while request.body.next().is_some_and(|next| next.is_ok()) {}
            Ok(())
        });
        let client = server.client();
        let (sending, mut receiving) = client.open("x").unwrap().split();
        let waiting = thread::spawn(move || receiving.next().unwrap());
        thread::sleep(millis(50));
        drop(sending);
        assert!(matches!(waiting.join().unwrap(), Err(Error::Stopped)));
        server.stop();
    });
}

#[test]
fn a_handler_that_fails_panics_refuses_or_forgets_to_finish_cuts_its_answer_off() {
    bounded(|| {
        let server = Streaming::start(server(), |mut request: StreamRequest| {
            let how = request.body.next().unwrap()?;
            request.answer.send("begun")?;
            // A failure also cuts off what was not sent yet.
            thread::sleep(millis(50));
            match &how[..] {
                b"fail" => Err("failed".into()),
                b"panic" => panic!("this test panics"),
                b"refuse" => Err(Refusal::Busy.into()),
                b"drop" => {
                    drop(request.answer);
                    thread::sleep(millis(20));
                    Ok(())
                }
                _ => Ok(()),
            }
        });
        let client = server.client();
        for how in ["fail", "panic", "refuse", "drop", "forget"] {
            let mut call = client.open(how).unwrap();
            assert_eq!(call.next().unwrap().unwrap(), b"begun");
            let end = call.next().unwrap().unwrap_err();
            // What has begun may have been processed, whatever the handler says.
            assert!(
                matches!(end, Error::Request(RequestError::Refused(Refusal::Failed))),
                "{how}: {end:?}"
            );
            assert_eq!(end.fate(), Fate::MaybeProcessed);
            assert!(call.next().is_none());
            assert!(call.send("late").is_err());
        }
        server.await_counts((5, 0, 5));
        server.stop();
    });
}

#[test]
fn an_answer_that_is_finished_ends_its_request() {
    bounded(|| {
        let server = Streaming::start(server(), |mut request: StreamRequest| {
            request.answer.send("enough")?;
            request.answer.finish()?;
            Ok(())
        });
        let client = server.client();
        let mut call = client.open("x").unwrap();
        assert_eq!(call.next().unwrap().unwrap(), b"enough");
        assert!(call.next().is_none());
        let stopped = loop {
            if let Err(error) = call.send(vec![7; 16 << 10]) {
                break error;
            }
        };
        assert!(matches!(stopped, Error::Stopped));
        let error = call.sending().write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        server.await_counts((1, 1, 0));
        server.stop();
    });
}

#[test]
fn the_rest_of_an_answer_is_sent_after_its_handler_has_returned() {
    bounded(|| {
        let (to, returned) = mpsc::channel();
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            // More than a window, which the client reads later.
            for _ in 0..6 {
                request.answer.send(vec![7; 12 << 10])?;
            }
            request.answer.finish()?;
            to.send(())?;
            Ok(())
        });
        let client = server.client_of(Client::builder(key()).stream_window(16 << 10));
        let call = client.open("x").unwrap();
        returned.recv().unwrap();
        thread::sleep(millis(100));
        assert_eq!(call.collect(1 << 20).unwrap().len(), 72 << 10);
        // Dropping the reader at this point cancels the request, which then completes.
        let call = client.open("x").unwrap();
        returned.recv().unwrap();
        thread::sleep(millis(100));
        drop(call);
        assert_eq!(client.request("whole").unwrap(), b"whole");
        // `collect` obeys the limit of its caller.
        let told = client.open("x").unwrap().collect(50_000).unwrap_err();
        assert!(
            matches!(told, Error::Request(RequestError::TooLarge { limit: 50_000, .. })),
            "{told:?}"
        );
        server.stop();
    });
}

#[test]
fn a_connection_that_is_lost_cuts_both_bodies_off() {
    bounded(|| {
        let (to, ends) = mpsc::channel();
        let server = Streaming::start(server(), move |mut request: StreamRequest| {
            request.answer.send("begun")?;
            let end = request.body.next();
            to.send(format!("{end:?}"))?;
            Ok(())
        });
        let stream = TcpStream::connect(server.address).unwrap();
        let cut = stream.try_clone().unwrap();
        let client = Client::builder(key()).over(stream).unwrap();
        let (mut sending, mut receiving) = client.open("").unwrap().split();
        assert_eq!(receiving.next().unwrap().unwrap(), b"begun");
        let waiting = thread::spawn(move || receiving.next().unwrap().unwrap_err());
        thread::sleep(millis(50));
        cut.shutdown(Shutdown::Both).unwrap();
        assert_eq!(waiting.join().unwrap().fate(), Fate::MaybeProcessed);
        assert!(sending.send("x").is_err());
        let end = ends.recv().unwrap();
        assert!(end.starts_with("Some(Err("), "{end}");
        server.stop();
    });
}
