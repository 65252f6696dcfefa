//! Handlers that fail, wrong keys, and answers that arrive too late do not affect other
//! connections.

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use common::{Running, bounded, client, echo, key, millis, other_key};
use falco_std::{Client, ConnectionError, Error, Fate, HandlerError, Request, Server, Settings};

/// Fails as the body says, and returns other bodies.
fn moody(request: Request) -> Result<Vec<u8>, HandlerError> {
    match request.body() {
        b"fail" => Err("as told".into()),
        b"panic" => panic!("as told; the test wants this panic"),
        b"too much" => Ok(vec![0; 101]),
        _ => Ok(request.into_body()),
    }
}

#[test]
fn a_failed_handler_ends_its_connection_and_no_other() {
    for told in ["fail", "panic", "too much"] {
        bounded(move || {
            let settings = Settings::new().with_max_message(100);
            // One worker, which must be free again afterwards.
            let server = Running::start(Server::classic(key()).settings(settings).workers(1), moody);
            let (unlucky, other) = (server.connect(), server.connect());
            assert_eq!(unlucky.request("before").expect("an answer"), b"before");
            let error = unlucky.request(told).expect_err("the handler fails");
            assert!(
                matches!(
                    error,
                    Error::Connection {
                        end: ConnectionError::ClosedByPeer,
                        fate: Fate::MaybeProcessed
                    }
                ),
                "{told}: {error:?}"
            );
            assert_eq!(other.request("the other").expect("an answer"), b"the other");
            assert_eq!(unlucky.request("after").expect("an answer"), b"after");
            let report = server.stop();
            assert_eq!(
                (report.stats.accepted, report.stats.refusals, report.cut_connections),
                (3, 1, 0),
                "{told}"
            );
            assert_eq!(report.stats.failed, u64::from(told != "too much"), "{told}");
        });
    }
}

#[test]
fn a_client_with_a_wrong_key_is_refused() {
    bounded(|| {
        let server = Running::echo();
        let error = Client::classic(other_key())
            .connect(server.address)
            .expect_err("it is the wrong key");
        assert!(
            matches!(
                error,
                Error::Connection {
                    end: ConnectionError::Refused,
                    fate: Fate::NotProcessed
                }
            ),
            "{error:?}"
        );
        assert_eq!(
            server.connect().request("the right one").expect("an answer"),
            b"the right one"
        );
        let report = server.stop();
        assert_eq!((report.stats.accepted, report.stats.established), (2, 1));
    });
}

#[test]
fn an_unauthenticated_client_receives_not_one_byte() {
    bounded(|| {
        let server = Running::echo();
        for hello in [
            vec![0; 157],
            vec![0x01; 100],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0x4E; 74],
        ] {
            let mut stream = TcpStream::connect(server.address).expect("it listens");
            stream.set_read_timeout(Some(millis(3_000))).expect("it is a socket");
            stream.write_all(&hello).expect("the server reads");
            let mut answer = Vec::new();
            // Also where the server has unread bytes, it sends no reset.
            stream.read_to_end(&mut answer).expect("an end of the stream");
            assert!(answer.is_empty());
        }
        assert_eq!(server.stop().stats.established, 0);
    });
}

#[test]
fn connecting_to_a_silent_server_and_to_no_server_fails() {
    bounded(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let settings = Settings::new()
            .with_handshake_timeout(millis(200))
            .expect("it is in range");
        let error = client()
            .settings(settings)
            .connect(address)
            .expect_err("nobody answers");
        assert!(
            matches!(
                error,
                Error::Connection {
                    end: ConnectionError::HandshakeTimeout,
                    fate: Fate::NotProcessed
                }
            ),
            "{error:?}"
        );
        drop(listener);
        let error = client().connect(address).expect_err("nobody listens");
        assert!(
            matches!(
                error,
                Error::Io {
                    fate: Fate::NotProcessed,
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

#[test]
fn no_request_receives_the_late_answer_of_another() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Running::start(Server::classic(key()), move |request: Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            if request.body() == b"slow" {
                thread::sleep(millis(600));
            }
            echo(request)
        });
        let client = client()
            .request_timeout(Some(millis(200)))
            .connect(server.address)
            .expect("the server accepts it");
        assert_eq!(client.request("quick").expect("an answer"), b"quick");
        let error = client.request("slow").expect_err("it is too slow");
        assert!(
            matches!(
                error,
                Error::TimedOut {
                    fate: Fate::MaybeProcessed,
                    ..
                }
            ),
            "{error:?}"
        );
        for _ in 0..10 {
            assert_eq!(client.request("quick again").expect("an answer"), b"quick again");
            thread::sleep(millis(80));
        }
        assert_eq!(ran.load(Ordering::SeqCst), 12, "nothing ran twice");
        assert_eq!(server.stop().stats.failed, 0);
    });
}

#[test]
fn debug_output_contains_no_secret() {
    let server = Server::classic(key());
    let client = client();
    let text = format!("{server:?} {client:?}");
    assert!(text.contains("Key(..)"), "{text}");
    assert!(!text.contains("7, 7"), "{text}");
    let bound = server.bind("127.0.0.1:0").expect("a free port");
    assert!(!format!("{bound:?}").contains("7, 7"));
}
