//! `falco bench`.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::tool::{OTHER_KEY, Run, Scratch, Served, falco, keyed, run, run_unread, until};

#[test]
fn a_table_has_rates_and_percentiles() {
    let server = Served::start(&[]);
    let words = [
        "--connections",
        "4",
        "--in-flight",
        "3",
        "--requests",
        "500",
        "--size",
        "1K",
    ];
    let told = run(keyed(&[&["bench", server.address.as_str()][..], &words].concat()));
    let text = told.good();
    assert!(
        text.contains("4 connections, 3 in flight on each, 1024-byte messages, noise wire"),
        "{text}"
    );
    let row = |name: &str| {
        let row = text.lines().find(|line| line.split(' ').next() == Some(name));
        row.unwrap_or_else(|| panic!("no {name}: {text}")).to_owned()
    };
    assert!(row("answered").contains(" 500 "), "{text}");
    assert!(row("failed").contains(" 0 "), "{text}");
    for name in ["sent", "received"] {
        assert!(row(name).contains(" 0.5 MB "), "{text}");
    }
    let names = ["min", "p50", "p90", "p99", "p99.9", "max"];
    let times = names.map(|name| row(name).split_whitespace().nth(1).unwrap().parse::<f64>().unwrap());
    assert!(times.is_sorted() && times[0] > 0.0, "{text}");
    let ended = server.stop();
    assert!(
        ended
            .err
            .contains("4 connections, 0 refused handshakes; 500 requests, 500 answered"),
        "{}",
        ended.err
    );
}

#[test]
fn json_and_a_picture_have_the_results() {
    let scratch = Scratch::new();
    let picture = scratch.name("latency.svg");
    let server = Served::start(&["--wire", "classic"]);
    let words = ["--wire", "classic", "--duration", "300ms", "--json", "--svg", &picture];
    let told = run(keyed(&[&["bench", server.address.as_str()][..], &words].concat()));
    let told: Value = serde_json::from_str(told.good()).unwrap();
    let answered = told["answered"].as_u64().unwrap();
    assert!(
        answered > 0 && told["failed"] == 0 && told["wire"] == "classic",
        "{told}"
    );
    assert_eq!(told["received_bytes"].as_u64(), Some(answered * 64));
    assert!(told["seconds"].as_f64().unwrap() >= 0.3, "{told}");
    let latency = |name: &str| told["latency_ms"][name].as_f64().unwrap();
    assert!(
        latency("min") <= latency("mean") && latency("p99.9") <= latency("max"),
        "{told}"
    );
    server.stop();

    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    for name in [
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "latency, logarithmic",
        "share of requests",
    ] {
        assert!(svg.contains(name), "{name}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn requests_are_sent_at_a_rate_while_others_wait_for_their_answers() {
    let server = Served::start(&["--exec", "sleep", "1"]);
    let words = ["-c", "2", "--rate", "20", "-n", "30", "--json"];
    let told = run(keyed(&[&["bench", server.address.as_str()][..], &words].concat()));
    let told: Value = serde_json::from_str(told.good()).unwrap();
    assert_eq!((&told["answered"], &told["rate"]), (&30.into(), &20.into()), "{told}");
    // One after the other, the two connections take 15 s for that.
    let seconds = told["seconds"].as_f64().unwrap();
    assert!((2.4..10.0).contains(&seconds), "{told}");
    let ended = server.stop();
    assert!(ended.err.contains(" 2 connections, "), "{}", ended.err);
    run(keyed(&["bench", "127.0.0.1:1", "--rate", "1", "-p", "2"])).failed_with(2);
}

#[test]
fn errors_are_reported_by_kind_and_by_the_exit_code() {
    let server = Served::start(&["--exec", "sh", "-c", "test $(dd bs=1 count=1 2>/dev/null | wc -c) = 0"]);
    let words = ["bench", &server.address, "--requests", "7", "--json"];
    let told = run(keyed(&words));
    assert_eq!(told.code, Some(1), "{told:?}");
    let told: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!((&told["answered"], &told["failed"]), (&0.into(), &7.into()));
    assert_eq!(
        told["errors"]["the request was refused: the handler failed"], 7,
        "{told}"
    );
    let told = run(keyed(&words[..4]));
    let line = "7  the request was refused: the handler failed (may have been processed)\n";
    assert!(told.text().contains(line), "{told:?}");
    server.stop();
}

#[test]
fn the_table_has_the_slowest_request_and_the_fate_of_failed_ones() {
    let scratch = Scratch::new();
    // The first request is slow, and the others fail.
    let script = format!("mkdir {} && sleep 0.4", scratch.name("first"));
    let server = Served::start(&["--exec", "sh", "-c", &script]);
    let told = run(keyed(&["bench", &server.address, "-n", "3", "-p", "3"]));
    assert_eq!(told.code, Some(1), "{told:?}");
    let max = told.text().lines().find_map(|line| line.strip_prefix("max "));
    assert!(max.unwrap().trim().parse::<f64>().unwrap() >= 400.0, "{told:?}");
    let line = "2  the request was refused: the handler failed (may have been processed)\n";
    assert!(told.text().contains(line), "{told:?}");
    server.stop();

    // A server that was killed may have processed the requests in flight, and no others.
    let runs = scratch.path("runs");
    let script = format!("echo runs >>{}; exec sleep 20", runs.display());
    let server = Served::start(&["--exec", "sh", "-c", &script]);
    let words = ["bench", &server.address, "-d", "1500ms", "-p", "5"];
    let bench = Run::start(keyed(&[&words[..], &["--json"]].concat()));
    let in_flight = || fs::read_to_string(&runs).unwrap_or_default().lines().count();
    until("requests are in flight", || in_flight() == 5);
    server.signal(Signal::KILL);
    assert_eq!(server.end().code, None);
    let told: Value = serde_json::from_str(bench.end().text()).unwrap();
    let (failed, unprocessed) = (&told["failed"], &told["failed_unprocessed"]);
    let processed = failed.as_u64().unwrap() - unprocessed.as_u64().unwrap();
    assert_eq!(processed, 5, "{told}");
    assert!(unprocessed.as_u64().unwrap() > 0, "{told}");
}

#[test]
fn an_error_that_prevents_a_measurement_is_reported_first() {
    let server = Served::start(&[]);
    let to = server.address.as_str();
    let mut other = falco(&["bench", to]);
    other.env("FALCO_KEY", OTHER_KEY);
    run(other).failed_with(3);
    run(keyed(&["bench", to, "--svg", "/nonexistent/picture.svg"])).failed_with(1);
    for words in [
        &["--duration", "1s", "--requests", "5"][..],
        &["--connections", "0"],
        &["--in-flight", "0"],
        &["--duration", "0"],
        &["--size", "x"],
    ] {
        run(keyed(&[&["bench", to][..], words].concat())).failed_with(2);
    }
    assert_eq!(run_unread(keyed(&["bench", to, "-n", "1"])), (Some(0), String::new()));
    let large = run(keyed(&["bench", to, "-n", "1", "--size", "17M"]));
    assert!(
        large.code == Some(1) && large.text().contains("over the limit"),
        "{large:?}"
    );
    server.stop();
    run(keyed(&["bench", "127.0.0.1:1"])).failed_with(4);
}

#[test]
fn a_signal_ends_it_with_the_results_so_far() {
    let server = Served::start(&[]);
    let bench = Run::start(keyed(&["bench", &server.address, "--duration", "1h"]));
    std::thread::sleep(core::time::Duration::from_millis(700));
    bench.signal(Signal::INT);
    let told = bench.end();
    assert!(
        told.good().contains("cut short") && told.text().contains("p99.9"),
        "{told:?}"
    );
    server.stop();
}
