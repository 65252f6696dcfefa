//! The noise wire against independent implementations of Noise: the crate snow, on threads of the
//! test, and the Python package noiseprotocol, as a child process. Each is a client of our server
//! and a server of our client; their halves of the wire are written from its description alone. See
//! `interop_noise/`.
//!
//! The Python package is installed into a virtual environment below the target directory, once.
//! Where Python is missing its tests say so and pass, unless `FALCO_REQUIRE_PEERS=1`.

#[path = "interop_noise/mod.rs"]
mod helpers;

use falco_core::testing::{ClientLog, ServerLog};
use falco_core::{CloseReason, ConnectionError, Error, Refusal, RequestError};
use helpers::bodies::{body, report, transform};
use helpers::check::{count, exchange, listed, numbers, sizes};
use helpers::ours::{OurClient, OurServer};
use helpers::peer::{Kind, Peer, test_with};
use helpers::{Options, WRONG_SECRET};

/// Each test, with either of the other implementations.
macro_rules! with_both {
    ($($run:ident: $snow:ident, $python:ident;)*) => {$(
        #[test]
        fn $snow() {
            test_with(Kind::Snow, $run);
        }

        #[test]
        fn $python() {
            test_with(Kind::Python, $run);
        }
    )*};
}

with_both! {
    our_client: our_client_and_a_server_on_snow, our_client_and_a_server_in_python;
    our_server: a_client_on_snow_and_our_server, a_client_in_python_and_our_server;
    our_client_rekeys: our_client_rekeys_with_a_server_on_snow, our_client_rekeys_with_a_server_in_python;
    our_server_rekeys: our_server_rekeys_with_a_client_on_snow, our_server_rekeys_with_a_client_in_python;
    our_client_keeps_limits: our_client_keeps_the_limits_of_a_server_on_snow, our_client_keeps_the_limits_of_a_server_in_python;
    our_server_keeps_limits: our_server_keeps_the_limits_of_a_client_on_snow, our_server_keeps_the_limits_of_a_client_in_python;
    our_client_refused: our_client_without_the_key_and_a_server_on_snow, our_client_without_the_key_and_a_server_in_python;
    our_server_refuses: a_client_on_snow_without_our_key, a_client_in_python_without_our_key;
}

fn our_client(kind: Kind) {
    let options = Options::new();
    let (peer, address) = Peer::serve(kind, &options);
    let mut client = OurClient::connect(address, &options);
    assert_eq!(client.log, [ClientLog::Established]);
    exchange(&mut client, &sizes());

    client.log.clear();
    client.machine().ping().expect("the connection lives");
    client.run_until(|client| client.log == [ClientLog::Pong(0)]);

    let refusals = [
        ("refuse 1", Refusal::Busy),
        ("refuse 2", Refusal::TooLarge),
        ("refuse 3", Refusal::Failed),
        ("refuse 5", Refusal::NotProcessed),
        ("refuse 6", Refusal::AnswerTooLarge),
        ("refuse 99", Refusal::Failed),
    ];
    for (text, refusal) in refusals {
        client.log.clear();
        client.request(text.into()).expect("within the limit");
        client.run_until(|client| !client.log.is_empty());
        assert!(
            matches!(*client.log, [ClientLog::Refused(_, told)] if told == refusal),
            "{text}: {:?}",
            client.log
        );
    }

    // One request that the server holds, one of which it has but the first frame.
    for request in [b"hold".to_vec(), body(1 << 20)] {
        client.log.clear();
        let whole = request.len() < 100;
        client.request(request).expect("within the limit");
        let number = if whole { client.send_whole() } else { client.begin() };
        client.machine().cancel(number).expect("the connection lives");
        client.run_until(|client| !client.log.is_empty());
        assert_eq!(client.log, [ClientLog::Refused(number.number(), Refusal::Cancelled)]);
    }
    exchange(&mut client, &[17]);

    client.log.clear();
    assert!(client.close(), "the server has ended too");
    assert_eq!(
        client.log,
        [
            ClientLog::Closing(CloseReason::Done),
            ClientLog::Ended(ConnectionError::Closed)
        ]
    );
    let lines = peer.finish();
    for line in ["established", "ponged", "closing 0", "end"] {
        assert_eq!(count(&lines, line), 1, "{line}: {lines:?}");
    }
    assert_eq!(count(&lines, "cancelled"), 2);
    for size in sizes() {
        assert_eq!(count(&lines, &report("handled", &body(size))), 1, "{size} bytes");
    }
    assert!(numbers(&lines, "between") > vec![5], "{lines:?}");
}

fn our_server(kind: Kind) {
    let options = Options::new();
    let server = OurServer::start(&options);
    let all = listed(&sizes());
    let steps = [
        &all,
        "ping",
        "ask=refuse 1",
        "ask=refuse 3",
        "ask=refuse 6",
        "cancel",
        "cut",
        "17",
        "close",
    ];
    let peer = Peer::call(kind, server.address, &options, &steps);
    let (lines, log) = (peer.finish(), server.log());

    let requests: Vec<Vec<u8>> = sizes().into_iter().map(body).collect();
    for (request, id) in requests.iter().zip(1..) {
        let line = report(&format!("answer {id}"), &transform(request));
        assert_eq!(count(&lines, &line), 1, "{} bytes: {lines:?}", request.len());
        let handled = ServerLog::Request(id, request.clone());
        assert_eq!(log.iter().filter(|told| **told == handled).count(), 1);
    }
    assert_eq!(
        count(&lines, &report("answer 106", &transform(&body(17)))),
        1,
        "{lines:?}"
    );
    let refused: Vec<&String> = lines.iter().filter(|line| line.starts_with("refused")).collect();
    assert_eq!(
        refused,
        ["refused 1", "refused 3", "refused 6", "refused 4", "refused 4"]
    );
    assert_eq!(
        (count(&lines, "ponged"), count(&lines, "closing 0")),
        (2, 1),
        "{lines:?}"
    );

    assert_eq!(log.first(), Some(&ServerLog::Established));
    for told in [
        ServerLog::Ping,
        ServerLog::Cancelled(104),
        ServerLog::Abandoned(105),
        ServerLog::Closing(CloseReason::Done),
    ] {
        assert_eq!(log.iter().filter(|found| **found == told).count(), 1, "{told:?}");
    }
    assert_eq!(log.last(), Some(&ServerLog::Ended(ConnectionError::Closed)));
}

/// With so few records to a key, each direction changes it many times while the other does too.
const PERIOD: u64 = 5;

fn with_period() -> Options {
    Options {
        rekey_period: PERIOD,
        ..Options::new()
    }
}

fn has_rekeyed(lines: &[String]) {
    let records = numbers(lines, "records");
    assert!(
        records.len() == 2 && records.iter().all(|count| *count > 20 * PERIOD),
        "{records:?}"
    );
}

fn our_client_rekeys(kind: Kind) {
    let (peer, address) = Peer::serve(kind, &with_period());
    // These requests wait for the handshake, and go with its last record in one write.
    let mut client = OurClient::start(address, &with_period());
    exchange(&mut client, &sizes());
    for size in 1..60 {
        exchange(&mut client, &[size]);
    }
    assert!(client.close(), "the server has ended too");
    assert_eq!(client.log.last(), Some(&ClientLog::Ended(ConnectionError::Closed)));
    has_rekeyed(&peer.finish());
}

fn our_server_rekeys(kind: Kind) {
    let server = OurServer::start(&with_period());
    let singles: Vec<String> = (1..60_usize).map(|size| size.to_string()).collect();
    let all = listed(&sizes());
    let mut steps = vec![all.as_str()];
    steps.extend(singles.iter().map(String::as_str));
    steps.push("close");
    let lines = Peer::call(kind, server.address, &with_period(), &steps).finish();
    let answers = lines.iter().filter(|line| line.starts_with("answer"));
    assert_eq!(answers.count(), 159, "{lines:?}");
    let bodies = sizes().into_iter().chain(1..60).map(body);
    for (body, id) in bodies.zip(1..) {
        assert_eq!(count(&lines, &report(&format!("answer {id}"), &transform(&body))), 1);
    }
    has_rekeyed(&lines);
    assert_eq!(server.log().last(), Some(&ServerLog::Ended(ConnectionError::Closed)));
}

/// What a microcontroller might read.
fn tiny() -> Options {
    Options {
        max_record: 256,
        max_in_flight: 2,
        max_message: 1024,
        context: "",
        ..Options::new()
    }
}

/// What talks to it, neither in any context.
fn roomy() -> Options {
    Options {
        context: "",
        ..Options::new()
    }
}

/// The peer checks each record's length and how many requests it has.
fn our_client_keeps_limits(kind: Kind) {
    let (peer, address) = Peer::serve(kind, &tiny());
    let mut client = OurClient::connect(address, &roomy());
    exchange(&mut client, &[0, 1, 233, 234, 500, 1023]);
    // Without a byte sent, and with both numbers.
    let refused = client.request(body(1025));
    let (length, limit) = (1025, 1024);
    assert!(
        matches!(refused, Err(Error::Request(RequestError::TooLarge { length: l, limit: m })) if (l, m) == (length, limit)),
        "{refused:?}"
    );
    assert!(client.close(), "the server has ended too");
    let lines = peer.finish();
    assert_eq!(lines.iter().filter(|line| line.starts_with("handled")).count(), 6);
}

/// The stranger checks each record's length. It asks four at a time in one record, so that all of
/// them are there to be answered at once.
fn our_server_keeps_limits(kind: Kind) {
    let server = OurServer::start(&roomy());
    let sizes = [0, 1, 233, 234, 5, 7, 500, 1022];
    let lines = Peer::call(kind, server.address, &tiny(), &[&listed(&sizes), "close"]).finish();
    for (size, id) in sizes.into_iter().zip(1..) {
        let line = report(&format!("answer {id}"), &transform(&body(size)));
        assert_eq!(count(&lines, &line), 1, "{lines:?}");
    }
    // No short one waited for a long one to end.
    assert_eq!(numbers(&lines, "between"), [4], "{lines:?}");
    assert_eq!(server.log().last(), Some(&ServerLog::Ended(ConnectionError::Closed)));
}

/// What a side may have that is not the other's: the key, the name of the key, the secret behind a
/// name, the context.
fn strangers() -> [Options; 3] {
    let wrong = Options {
        secret: WRONG_SECRET,
        named: WRONG_SECRET,
        ..Options::new()
    };
    let lying = Options {
        secret: WRONG_SECRET,
        ..Options::new()
    };
    let elsewhere = Options {
        context: "an interop tesu",
        ..Options::new()
    };
    [wrong, lying, elsewhere]
}

fn our_client_refused(kind: Kind) {
    for options in strangers() {
        let (peer, address) = Peer::serve(kind, &options);
        let client = OurClient::connect(address, &Options::new());
        assert_eq!(client.log, [ClientLog::Ended(ConnectionError::Refused)]);
        let lines = peer.finish();
        assert!(
            lines
                .iter()
                .all(|line| line.starts_with("refused") || line.starts_with("port")),
            "{lines:?}"
        );
    }
}

fn our_server_refuses(kind: Kind) {
    for options in strangers() {
        let server = OurServer::start(&Options::new());
        let lines = Peer::call(kind, server.address, &options, &["1", "close"]).finish();
        assert_eq!(lines, ["refused in silence"]);
        assert_eq!(server.log(), [ServerLog::Ended(ConnectionError::Unauthenticated)]);
    }
}
