//! Requests whose answers are read while they arrive.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::Read;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use common::streaming::server;
use common::{bounded, key};
use falco_std::{
    Client, ClientBuilder, Error, Fate, Handle, HandlerError, Refusal, Report, Request, RequestError, Server,
    StreamRequest,
};

struct Serving {
    address: SocketAddr,
    handle: Handle,
    thread: JoinHandle<Report>,
    /// What handlers report.
    ends: mpsc::Receiver<String>,
}

impl Serving {
    /// A server whose handler answers piece by piece, as the text of the request says: the number
    /// of pieces, then `end`, `fail` or `wait`.
    fn start() -> Self {
        let (to, ends) = mpsc::channel();
        let server = server().bind("127.0.0.1:0").unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let handler = move |request: StreamRequest| answer(request, &to);
        let thread = thread::spawn(move || server.serve_all_streams(handler).unwrap());
        Self {
            address,
            handle,
            thread,
            ends,
        }
    }

    fn client(&self) -> Client {
        let client: ClientBuilder = Client::builder(key()).max_message(1000);
        client.connect(self.address).unwrap()
    }

    fn end(&self) -> String {
        self.ends.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn stop(self) -> Report {
        self.handle.shutdown();
        self.thread.join().unwrap()
    }
}

fn answer(mut request: StreamRequest, to: &mpsc::Sender<String>) -> Result<(), HandlerError> {
    assert!(request.is_whole());
    let text = request.body.next().unwrap()?;
    let (count, then) = str::from_utf8(&text)?.split_once(' ').unwrap();
    for _ in 0..count.parse()? {
        let sent = request.answer.send(vec![7; 10_000]);
        // One that waits may be cancelled between two pieces.
        if then != "wait" {
            sent?;
        }
    }
    match then {
        "end" => Ok(request.answer.finish()?),
        "fail" => {
            // The client has what was sent.
            thread::sleep(Duration::from_millis(50));
            Err("failed".into())
        }
        _ => {
            while !request.is_cancelled() {
                thread::sleep(Duration::from_millis(1));
            }
            to.send("cancelled".to_owned())?;
            Ok(())
        }
    }
}

#[test]
fn an_answer_that_is_longer_than_a_message_is_read_while_it_arrives() {
    bounded(|| {
        let server = Serving::start();
        let client = server.client();
        let mut answer = client.request_stream("500 end").unwrap();
        let mut whole = Vec::new();
        answer.read_to_end(&mut whole).unwrap();
        assert_eq!(whole, vec![7; 5_000_000]);
        assert!(answer.next().is_none());
        assert_eq!(client.stats().outstanding, 1);
        drop(answer);
        assert_eq!(client.stats().outstanding, 0);
        assert!(client.request_stream("0 end").unwrap().next().is_none());
        let stats = server.stop().stats;
        assert_eq!((stats.requests, stats.answers, stats.cancelled), (2, 2, 0));
        assert_eq!(client.stats().answers, 2);
    });
}

#[test]
fn a_server_without_streams_answers_as_a_whole() {
    bounded(|| {
        for (server, client) in [
            (server(), Client::builder(key())),
            (Server::builder(key()), Client::builder(key())),
            (Server::classic(key()), Client::classic(key())),
        ] {
            let server = server.bind("127.0.0.1:0").unwrap();
            let (address, handle) = (server.local_addr().unwrap(), server.handle());
            let serving = thread::spawn(move || server.serve(|request: Request| Ok(request.into_body())));
            let client = client.connect(address).unwrap();
            let mut answer = client.request_stream("hello").unwrap();
            assert_eq!(answer.next().unwrap().unwrap(), b"hello");
            assert!(answer.next().is_none());
            let stats = client.stats();
            assert_eq!((stats.requests, stats.answers, stats.errors), (1, 1, 0));
            client.close();
            handle.shutdown();
            serving.join().unwrap().unwrap();
        }
    });
}

#[test]
fn an_answer_that_is_dropped_cancels_its_request_and_no_other() {
    bounded(|| {
        let server = Serving::start();
        let client = server.client();
        let mut other = client.request_stream("1 wait").unwrap();
        assert!(other.next().unwrap().is_ok());
        let mut begun = client.request_stream("2 wait").unwrap();
        assert!(begun.next().unwrap().is_ok());
        drop(begun);
        assert_eq!(server.end(), "cancelled");
        assert!(server.ends.try_recv().is_err());
        drop(other);
        assert_eq!(server.end(), "cancelled");
        assert_eq!(server.stop().stats.cancelled, 2);
    });
}

#[test]
fn the_time_limit_is_for_the_beginning_of_the_answer() {
    const LIMIT: Duration = Duration::from_millis(300);
    bounded(|| {
        let server = Serving::start();
        let client = server.client();
        let began = Instant::now();
        let error = client.request_stream_within("0 wait", LIMIT).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert_eq!(error.fate(), Fate::MaybeProcessed);
        assert!(began.elapsed() >= LIMIT);
        assert_eq!(server.end(), "cancelled");
        let mut answer = client.request_stream_within("1 wait", LIMIT).unwrap();
        assert!(answer.next().unwrap().is_ok());
        thread::sleep(2 * LIMIT);
        assert!(server.ends.try_recv().is_err());
        drop(answer);
        assert_eq!(server.end(), "cancelled");
        server.stop();
    });
}

#[test]
fn an_answer_that_is_cut_off_never_looks_complete() {
    bounded(|| {
        let server = Serving::start();
        let client = server.client();
        let failed = |told: &Error| matches!(told, Error::Request(RequestError::Refused(Refusal::Failed)));
        let mut answer = client.request_stream("1 fail").unwrap();
        let told = loop {
            match answer.next().unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(failed(&told), "{told:?}");
        // Before its first piece, that is the error of the request.
        let told = client.request_stream("0 fail").unwrap_err();
        assert!(failed(&told), "{told:?}");
        assert_eq!(client.stats().errors, 2);
        server.stop();
    });
}
