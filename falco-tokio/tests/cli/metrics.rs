//! `falco serve --metrics`, and the dashboard that shows it.

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use crate::carrying::{connect, echoes, expect, forward, serve, target};
use crate::heard::{Heard, id};
use crate::tool::{KEY, OTHER_KEY, PATIENCE, Scratch, Served, falco, keyed, run, until};

/// The text of the metrics that are served at a port.
pub(crate) fn read(port: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    let text = ask(&mut stream, "GET /metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    text
}

fn ask(stream: &mut TcpStream, what: &str) -> String {
    let head = format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A port that is free until another process takes it.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words
        .filter(|word| word.starts_with("falco_server_") || word.starts_with("falco_client_"))
        .collect()
}

/// The key that is not used for a month can only be found if its metrics exist.
#[test]
fn a_key_has_metrics_before_it_is_used() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys", format!("{KEY} gateway 7\n").as_bytes());
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let server = Heard::of(falco(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        &keys,
        "--metrics",
        &address,
    ]));
    let series = |key, label| {
        let key = id(key);
        [
            format!("falco_server_key_connections{{key=\"{key}\",label=\"{label}\"}} 0"),
            format!("falco_server_key_requests_total{{key=\"{key}\",label=\"{label}\"}} 0"),
        ]
    };
    let all = || {
        let text = read(port);
        let lines = text.lines().filter(|line| line.starts_with("falco_server_key_"));
        lines.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let mut expected = BTreeSet::from(series(KEY, "gateway 7"));
    assert_eq!(all(), expected);
    scratch.file("keys", format!("{KEY} gateway 8\n{OTHER_KEY} orders\n").as_bytes());
    server.reload("read the keys again");
    expected.extend(series(KEY, "gateway 8"));
    expected.extend(series(OTHER_KEY, "orders"));
    assert_eq!(all(), expected);
    server.server.stop();
}

#[test]
fn metrics_of_a_server_count_what_it_does() {
    let scratch = Scratch::new();
    let other = scratch.file("other", OTHER_KEY.as_bytes());
    let keys = scratch.file("keys", format!("{KEY} gateway 7\n").as_bytes());
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let server = Served::of(falco(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        &keys,
        "--metrics",
        &address,
        "--exec",
        "sh",
        "-c",
        "read word; echo $word; test $word != bad",
    ]));
    for word in ["one\n", "two\n"] {
        assert_eq!(server.send(word).good(), word);
    }
    server.send("bad\n").failed_with(1);
    run(falco(&["send", &server.address, "x", "--key-file", &other])).failed_with(3);
    let text = read(port);
    let id = KEY.parse::<falco_tokio::Key>().unwrap().id();
    for line in [
        "falco_server_accepted_total 4",
        "falco_server_established_total 3",
        "falco_server_handshakes_refused_total{cause=\"unauthenticated\"} 1",
        "falco_server_requests_ended_total{outcome=\"answered\"} 2",
        "falco_server_requests_ended_total{outcome=\"refused\"} 1",
        "falco_server_handlers_failed_total 1",
        "falco_server_handshakes_refused_total{cause=\"unknown_wire\"} 0",
        "falco_server_handler_seconds_count 3",
        // The buckets reach the default time limits: 30 s of a request, 60 s of a command.
        "falco_server_handler_seconds_bucket{le=\"30\"} 3",
        "falco_server_handler_seconds_bucket{le=\"60\"} 3",
        "falco_server_request_bytes_sum 12",
        "falco_server_answer_bytes_sum 8",
        &format!("falco_server_key_requests_total{{key=\"{id}\",label=\"gateway 7\"}} 3"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    assert!(!text.contains(&KEY[..16]), "{text}");
    // A port that is in use is an error before the server listens.
    let again = keyed(&["serve", "--listen", "127.0.0.1:0", "--metrics", &address]);
    assert!(run(again).failed_with(4).contains("cannot serve metrics on"));

    // All that is shown is documented, and the dashboard asks for nothing else.
    let documented = include_str!("../../src/lib.rs");
    let documented = names(documented);
    let base = |name: &str| {
        let suffix = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        suffix.unwrap_or(name).to_owned()
    };
    for name in names(&text) {
        assert!(documented.contains(base(name).as_str()), "{name} is not documented");
    }
    let dashboard = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    let asked = names(&dashboard);
    assert!(asked.len() > 10, "{asked:?}");
    for name in asked {
        assert!(
            documented.contains(base(name).as_str()),
            "the dashboard asks for {name}"
        );
    }
    server.stop();
}

#[test]
fn metrics_of_a_client_count_what_it_does() {
    let target = target("ready ");
    let server = serve(&["--forward", &target]);
    let port = free_port();
    let words = ["--metrics", &format!("127.0.0.1:{port}"), "--connections", "1"];
    let client = forward(&server.address, &words);
    let mut user = connect(&client);
    expect(&mut user, "ready ");
    echoes(&mut user, "hello");
    let text = read(port);
    let of = format!("server=\"{}\"", server.address);
    for line in [
        format!("falco_client_connections{{{of}}} 1"),
        format!("falco_client_attempts_total{{{of}}} 1"),
        format!("falco_client_attempts_failed_total{{{of},cause=\"stream\"}} 0"),
        format!("falco_client_connected_total{{{of}}} 1"),
        format!("falco_client_requests_total{{{of}}} 1"),
        format!("falco_client_connections_in_backoff{{{of}}} 0"),
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
    // More than the bodies and the fixed part of the handshake.
    for (name, least) in [("received", 48 + 11), ("sent", 48 + 5)] {
        let start = format!("falco_client_{name}_bytes_total{{{of}}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&start));
        let count: u32 = count.unwrap_or_else(|| panic!("{start}\n{text}")).parse().unwrap();
        assert!((least..10_000).contains(&count), "{name}: {count}");
    }
    let documented = names(include_str!("../../src/lib.rs"));
    for name in names(&text) {
        let base = name.trim_end_matches("_bucket").trim_end_matches("_sum");
        let base = base.trim_end_matches("_count");
        assert!(documented.contains(base), "{name} is not documented");
    }
    drop(user);
    server.stop();
    let none = format!("falco_client_connections{{{of}}} 0");
    until("the connection has ended", || {
        read(port).lines().any(|line| line == none)
    });
    // And another attempt fails.
    drop(connect(&client));
    let none = format!("falco_client_attempts_failed_total{{{of},cause=\"stream\"}} 0");
    until("an attempt has failed", || !read(port).lines().any(|line| line == none));
    let waits = format!("falco_client_connections_in_backoff{{{of}}} 1");
    until("it is in back-off", || read(port).lines().any(|line| line == waits));
    client.stop();
}

/// The metrics show that one server cannot be reached, although the client is connected to another.
#[test]
fn metrics_of_a_client_tell_its_servers_apart() {
    let target = target("ready ");
    let server = serve(&["--forward", &target]);
    let away = format!("127.0.0.1:{}", free_port());
    let port = free_port();
    let both = format!("{away},{}", server.address);
    let client = forward(&both, &["--metrics", &format!("127.0.0.1:{port}")]);
    let mut user = connect(&client);
    expect(&mut user, "ready ");
    let has = |metric: &str, server: &str, cause: &str, count: &str| {
        let line = format!("falco_client_{metric}{{server=\"{server}\"{cause}}} {count}");
        read(port).lines().any(|other| other == line)
    };
    let stream = ",cause=\"stream\"";
    until("an attempt has failed", || {
        !has("attempts_failed_total", &away, stream, "0")
    });
    assert!(has("attempts_failed_total", &server.address, stream, "0"));
    assert!(has("connections", &away, "", "0"));
    assert!(
        ["1", "2"]
            .iter()
            .any(|count| has("connections", &server.address, "", count))
    );
    assert!(has("requests_total", &both, "", "1"));
    drop(user);
    client.stop();
    server.stop();
}

/// Connecting to the metrics needs no key.
#[cfg(target_os = "linux")]
#[test]
fn strangers_at_the_metrics_take_few_descriptors_and_keep_nobody_out() {
    use std::process::Command;

    use crate::tool::with_piped_key;

    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new("sh");
    let script = "ulimit -n 256; exec \"$0\" serve --listen 127.0.0.1:0 --key-file - --metrics \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_falco"), &address]);
    with_piped_key(&mut command);
    let server = Served::of(command);
    let open = || fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count();
    let before = open();
    let mut silent: Vec<_> = (0..300).map(|_| TcpStream::connect(&address).unwrap()).collect();
    // It is accepted after all others.
    let mut last = TcpStream::connect(&address).unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(ask(&mut last, "GET /other").starts_with("HTTP/1.1 404 "));
    assert!(open() <= before + 16, "{before} and then {}", open());
    assert_eq!(server.send("let me through").good(), "let me through");
    let mut stream = TcpStream::connect(&address).unwrap();
    assert!(ask(&mut stream, "GET /metrics?x=y").starts_with("HTTP/1.1 200 OK\r\n"));
    // No connection lasts long.
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    }
    until("all are gone", || open() <= before);
    let ended = server.stop();
    assert!(!ended.err.contains("accept"), "{}", ended.err);
}
