//! The classic wire against the published implementations: the crate falcotcp 0.1.4 on both of its
//! runtimes and the Python package falcotcp 0.1.1, as servers for our client and as clients of our
//! server, and both again with the tool `falco` on our side. Each is a child process; see
//! `interop/`.
//!
//! The Rust peers are built from `tests/peers`, the Python one is installed into a virtual
//! environment, both below the target directory and once. Where Python is missing its tests say so
//! and pass, unless `FALCO_REQUIRE_PEERS=1`.

mod interop;

use core::time::Duration;
use std::thread;

use falco_core::BufferSizes;
use falco_std::{ConnectionError, Error, Refusal, RequestError, Settings};
use interop::bodies::{body, report, transform};
use interop::ours::{KEY, OurServer, WRONG_KEY, connect, test_with};
use interop::peer::{Kind, Peer};
use interop::tap::Tap;
use interop::tool::{self, Tool};

/// What every peer can take: the Python ones read a message with a single `recv`, so that it has to
/// come in one piece.
const SMALL: &[usize] = &[0, 1, 1 << 10, 60 << 10];
const LARGE: &[usize] = &[0, 1, 1 << 10, 60 << 10, 1 << 20];
/// Bytes in a hello of the classic wire.
const HELLO: usize = 157;
/// The size of the message after the ping.
const LAST: usize = 17;
/// For a Python server that shall not say anything unasked while a test runs, in seconds.
const QUIET: &str = "60";

#[test]
fn our_client_and_their_thread_server() {
    test_with(Kind::Thread, || our_client(Kind::Thread, LARGE));
}

#[test]
fn our_client_and_their_tokio_server() {
    test_with(Kind::Tokio, || our_client(Kind::Tokio, LARGE));
}

#[test]
fn our_client_and_their_python_server() {
    test_with(Kind::Python, || our_client(Kind::Python, SMALL));
}

#[test]
fn their_thread_client_and_our_server() {
    test_with(Kind::Thread, || their_client(Kind::Thread, LARGE));
}

#[test]
fn their_tokio_client_and_our_server() {
    test_with(Kind::Tokio, || their_client(Kind::Tokio, LARGE));
}

#[test]
fn their_python_client_and_our_server() {
    test_with(Kind::Python, || their_client(Kind::Python, SMALL));
}

#[test]
fn the_ping_of_their_thread_client_keeps_it() {
    test_with(Kind::Thread, || their_ping(Kind::Thread));
}

#[test]
fn the_ping_of_their_tokio_client_keeps_it() {
    test_with(Kind::Tokio, || their_ping(Kind::Tokio));
}

#[test]
fn the_ping_of_their_python_client_keeps_it() {
    test_with(Kind::Python, || their_ping(Kind::Python));
}

#[test]
fn their_thread_client_and_our_tool() {
    test_tool_with(Kind::Thread, || their_client_and_our_tool(Kind::Thread, LARGE));
}

#[test]
fn their_tokio_client_and_our_tool() {
    test_tool_with(Kind::Tokio, || their_client_and_our_tool(Kind::Tokio, LARGE));
}

#[test]
fn their_python_client_and_our_tool() {
    test_tool_with(Kind::Python, || their_client_and_our_tool(Kind::Python, SMALL));
}

#[test]
fn our_tool_and_their_thread_server() {
    test_tool_with(Kind::Thread, || our_tool_and_their_server(Kind::Thread, LARGE));
}

#[test]
fn our_tool_and_their_tokio_server() {
    test_tool_with(Kind::Tokio, || our_tool_and_their_server(Kind::Tokio, LARGE));
}

#[test]
fn our_tool_and_their_python_server() {
    test_tool_with(Kind::Python, || our_tool_and_their_server(Kind::Python, SMALL));
}

/// The same as `test_with`, where building the tool takes none of the test's time.
fn test_tool_with(kind: Kind, test: impl FnOnce() + Send + 'static) {
    tool::build();
    test_with(kind, test);
}

/// `falco serve` turns a wrong key away, and then echoes; or answers what a command writes.
fn their_client_and_our_tool(kind: Kind, sizes: &[usize]) {
    let server = Tool::serve(&[]);
    let (status, lines) = Peer::call(kind, server.address, WRONG_KEY, &["1"]).finish();
    assert_eq!(status.code(), Some(3), "{lines:?}");

    let words: Vec<String> = sizes.iter().map(usize::to_string).collect();
    let steps: Vec<&str> = words.iter().map(String::as_str).chain(["ping", "17"]).collect();
    let (status, lines) = Peer::call(kind, server.address, KEY, &steps).finish();
    assert!(status.success(), "{status}: {lines:?}");
    let echo = |size: &usize| report("answer", &body(*size));
    let mut expected: Vec<String> = sizes.iter().map(echo).collect();
    expected.extend(["pinged".to_owned(), echo(&LAST)]);
    assert_eq!(told(lines), expected);

    let server = Tool::serve(&["--exec", "echo", "done"]);
    let (status, lines) = Peer::call(kind, server.address, KEY, &["100"]).finish();
    assert!(status.success(), "{status}: {lines:?}");
    assert_eq!(told(lines), [report("answer", b"done\n")]);
}

/// `falco send` is refused with a wrong key, and then answered.
fn our_tool_and_their_server(kind: Kind, sizes: &[usize]) {
    let (mut peer, address) = Peer::serve(kind, KEY, QUIET);
    let refused = tool::send(address, WRONG_KEY, b"x");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    for size in sizes {
        let sent = tool::send(address, KEY, &body(*size));
        assert!(
            sent.status.success(),
            "{size} bytes: {:?}",
            String::from_utf8_lossy(&sent.stderr)
        );
        assert!(sent.stdout == transform(&body(*size)), "{size} bytes");
        assert_eq!(peer.line("handled"), report("handled", &body(*size)));
    }
}

/// Their server turns a wrong key away, and then serves the right one.
fn our_client(kind: Kind, sizes: &[usize]) {
    let (mut peer, address) = Peer::serve(kind, KEY, QUIET);
    let refused = connect(address, WRONG_KEY).map(|_| ());
    assert!(
        matches!(
            refused,
            Err(Error::Connection {
                end: ConnectionError::Refused,
                ..
            })
        ),
        "{refused:?}"
    );

    let client = connect(address, KEY).expect("the right key");
    let mut exchange = |size: usize| {
        let body = body(size);
        let answer = client
            .request(&body)
            .unwrap_or_else(|error| panic!("{size} bytes: {error:?}"));
        assert_eq!(report("answer", &answer), report("answer", &transform(&body)));
        // Their handler saw it, this one time.
        assert_eq!(peer.line("handled"), report("handled", &body));
    };
    sizes.iter().copied().for_each(&mut exchange);
    client.ping().expect("a ping");
    exchange(LAST);
    client.close();
    assert_eq!(peer.count("handled"), sizes.len() + 1);
    if kind == Kind::Python {
        // It says so of each; so the one connection has borne it all, the ping as well.
        assert_eq!(peer.count(CONNECTED), 1);
    }

    // The Rust servers take any unknown byte for a sign of life, so the ping is looked at on its
    // way, and that no new connection hides its failure.
    let tap = Tap::before(address);
    let client = connect(tap.address, KEY).expect("the right key");
    assert_eq!(client.request(b"before").expect("an answer"), transform(b"before"));
    client.ping().expect("a ping");
    assert_eq!(client.request(b"after").expect("an answer"), transform(b"after"));
    client.close();
    let sent = tap.sent();
    let ping_at = HELLO + BufferSizes::classic_request(b"before".len());
    assert_eq!(sent.len(), 1, "one connection");
    assert_eq!(sent.first().and_then(|bytes| bytes.get(ping_at)), Some(&0x02));
    assert_eq!(
        sent.first().map(Vec::len),
        Some(ping_at + 1 + BufferSizes::classic_request(b"after".len()))
    );
}

/// Our server turns a wrong key away, and then serves the right one.
fn their_client(kind: Kind, sizes: &[usize]) {
    let server = OurServer::start(Settings::new());
    let stranger = Peer::call(kind, server.address, WRONG_KEY, &["1"]);
    let (status, lines) = stranger.finish();
    assert_eq!(status.code(), Some(3), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("refused")), "{lines:?}");
    assert!(server.handled().is_empty(), "no handler runs for a stranger");

    let words: Vec<String> = sizes
        .iter()
        .map(usize::to_string)
        .chain(["ping".to_owned(), LAST.to_string()])
        .collect();
    let steps: Vec<&str> = words.iter().map(String::as_str).collect();
    let client = Peer::call(kind, server.address, KEY, &steps);
    let (status, lines) = client.finish();
    assert!(status.success(), "{status}: {lines:?}");
    let mut expected: Vec<String> = sizes
        .iter()
        .map(|size| report("answer", &transform(&body(*size))))
        .collect();
    expected.extend(["pinged".to_owned(), report("answer", &transform(&body(LAST)))]);
    assert_eq!(told(lines), expected);

    let requests: Vec<String> = sizes
        .iter()
        .chain([&LAST])
        .map(|size| report("handled", &body(*size)))
        .collect();
    assert_eq!(server.handled(), requests);
    assert_eq!(
        server.stop().cut_connections,
        0,
        "no request was left without its answer"
    );
}

/// Over a lifetime of two seconds, one client that pings halfway and one that does not.
fn their_ping(kind: Kind) {
    let lifetime = Duration::from_secs(2);
    let server = OurServer::start(Settings::new().with_lifetime(lifetime).expect("a lifetime in range"));
    let alive = Peer::call(kind, server.address, KEY, &["1", "wait=1200", "ping", "wait=1200", "2"]);
    let idle = Peer::call(kind, server.address, KEY, &["3", "wait=3500", "4"]);
    let (status, lines) = alive.finish();
    assert!(status.success(), "{status}: {lines:?}");
    let answer = |size| report("answer", &transform(&body(size)));
    assert_eq!(told(lines), [answer(1), "pinged".to_owned(), answer(2)]);

    let (status, lines) = idle.finish();
    assert!(!status.success(), "{lines:?}");
    assert_eq!(told(lines), [answer(3)]);
    let mut handled = server.handled();
    handled.sort();
    assert_eq!(handled, [1, 2, 3].map(|size| report("handled", &body(size))));
    server.stop();
}

/// What the client of a peer was told to report.
fn told(mut lines: Vec<String>) -> Vec<String> {
    lines.retain(|line| line.starts_with("answer") || line.starts_with("pinged"));
    lines
}

/// What the Python server prints of each handshake that succeeded.
const CONNECTED: &str = "A new connection was established";
/// What it prints before it sends a length of zero.
const ZERO: &str = "An exception was raised";

/// It sends a zero unasked each time a read has brought nothing for a second.
#[test]
fn our_client_ignores_the_unasked_zero_of_the_python_server() {
    test_with(Kind::Python, || {
        let (mut peer, address) = Peer::serve(Kind::Python, KEY, "1");
        let client = connect(address, KEY).expect("the right key");
        let exchange = |peer: &mut Peer, size| {
            assert_eq!(client.request(body(size)).expect("an answer"), transform(&body(size)));
            assert_eq!(peer.line("handled"), report("handled", &body(size)));
        };
        for size in [100, 200] {
            exchange(&mut peer, size);
            peer.line(ZERO);
            peer.line(ZERO);
            // It prints first, and reads for another second afterwards: the zero is here and the
            // next is not yet due.
            thread::sleep(Duration::from_millis(200));
        }
        exchange(&mut peer, 300);
        client.close();
        assert_eq!(peer.count(CONNECTED), 1, "on the one connection");
        assert_eq!(peer.count("handled"), 3);
    });
}

/// It sends the same zero when its handler has failed.
#[test]
fn a_zero_of_the_python_server_in_place_of_an_answer_is_a_refusal() {
    test_with(Kind::Python, || {
        let (mut peer, address) = Peer::serve(Kind::Python, KEY, QUIET);
        let client = connect(address, KEY).expect("the right key");
        let failed = client.request("raise an exception");
        assert!(
            matches!(failed, Err(Error::Request(RequestError::Refused(Refusal::Failed)))),
            "{failed:?}"
        );
        // Which of the next answers would be whose is no longer certain: the next request goes over
        // a new connection.
        assert_eq!(peer.line("handled"), report("handled", b"raise an exception"));
        assert_eq!(client.request(body(LAST)).expect("an answer"), transform(&body(LAST)));
        assert_eq!(peer.line("handled"), report("handled", &body(LAST)));
        client.close();
        assert_eq!(peer.count(CONNECTED), 2);
    });
}
