//! On how many threads both ends of a tunnel run.

use std::fs;

use crate::carrying::{connect, echoes, forward, serve, target};
use crate::tool::Served;

fn threads(of: &Served) -> usize {
    fs::read_dir(format!("/proc/{}/task", of.id())).unwrap().count()
}

/// Counts all threads of a process. Those that do not carry connections are as many in both cases.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "reads /proc")]
fn one_thread_carries_unless_more_are_asked_for() {
    let to = target("");
    let count = |words: &[&str]| {
        let server = serve(&[&["--forward", &to], words].concat());
        let local = forward(&server.address, words);
        echoes(&mut connect(&local), "hello");
        [threads(&server), threads(&local)]
    };
    let (one, many) = (count(&[]), count(&["--threads", "20"]));
    for (one, many) in one.into_iter().zip(many) {
        assert!(one < 10 && many >= one + 15, "{one} threads, and {many} with 20");
    }
}
