//! Commands of `--exec` that close their streams early, or leave processes that keep them open,
//! delay neither their request nor the next. There is one place for commands.

use core::time::Duration;
use std::fs;
use std::time::Instant;

use rustix::process::{Signal, kill_process};

use crate::tool::{Ended, Scratch, Served, children, is_gone, keyed, line_of, pid, run_with, until};

/// Far longer than a command and its grace period, far shorter than the processes it leaves live.
const SOON: Duration = Duration::from_secs(10);

fn server(script: &str) -> Served {
    Served::start(&["--max-commands", "1", "--exec", "sh", "-c", script])
}

/// Sends a message of some length, and checks that its result comes soon.
fn soon(server: &Served, length: usize) -> Ended {
    let began = Instant::now();
    let ended = run_with(keyed(&["send", &server.address, "-t", "20s"]), &vec![b'x'; length]);
    assert!(began.elapsed() < SOON, "{:?}: {ended:?}", began.elapsed());
    ended
}

fn stop(server: Served) -> Ended {
    let began = Instant::now();
    let ended = server.stop();
    assert!(began.elapsed() < SOON, "{:?}: {ended:?}", began.elapsed());
    ended
}

/// The script, extended so that it writes the id of its last background process to a file.
fn left(scratch: &Scratch, script: &str) -> String {
    let (part, file) = (scratch.name("part"), scratch.name("left"));
    format!("{script}\necho $! >{part}; mv {part} {file}")
}

fn id_of(scratch: &Scratch) -> u32 {
    let id = line_of(&scratch.path("left")).parse().unwrap();
    fs::remove_file(scratch.path("left")).unwrap();
    id
}

#[test]
fn a_process_that_keeps_standard_output_open_is_killed() {
    let scratch = Scratch::new();
    let server = server(&left(&scratch, "echo done; sleep 600 &"));
    for _ in 0..2 {
        assert_eq!(soon(&server, 1).good(), "done\n");
        let id = id_of(&scratch);
        until("it is gone", || is_gone(id));
    }
    stop(server);
}

#[test]
fn a_command_that_fails_and_leaves_a_process_fails_at_once() {
    let scratch = Scratch::new();
    let server = server(&(left(&scratch, "echo half; sleep 600 &") + "; exit 3"));
    assert!(soon(&server, 1).failed_with(1).contains("the handler failed"));
    let id = id_of(&scratch);
    until("it is gone", || is_gone(id));
    assert!(stop(server).err.contains("exit status: 3"));
}

#[test]
fn a_process_that_keeps_standard_input_open_is_killed() {
    let scratch = Scratch::new();
    // A shell gives background processes another standard input unless redirected.
    let script = left(&scratch, "exec 3<&0; sleep 600 <&3 >/dev/null &") + "; echo done";
    let server = server(&script);
    for _ in 0..2 {
        assert_eq!(soon(&server, 1 << 20).good(), "done\n");
        let id = id_of(&scratch);
        until("it is gone", || is_gone(id));
    }
    stop(server);
}

#[test]
fn a_process_that_keeps_neither_open_stays_and_does_not_delay_the_end() {
    let scratch = Scratch::new();
    // It keeps standard error open.
    let script = left(&scratch, "sleep 600 </dev/null >/dev/null &") + "; echo done";
    let server = server(&script);
    assert_eq!(soon(&server, 1).good(), "done\n");
    let id = id_of(&scratch);
    assert!(!is_gone(id));
    stop(server);
    assert!(!is_gone(id));
    kill_process(pid(id), Signal::KILL).unwrap();
}

#[test]
fn a_process_that_has_left_the_process_group_delays_nothing() {
    let scratch = Scratch::new();
    // It has a session of its own, is not killed with the group, and keeps both streams open.
    let (part, file) = (scratch.name("part"), scratch.name("left"));
    let script = format!(
        "exec 3<&0; setsid sh -c 'echo $$ >{part}; mv {part} {file}; exec sleep 600' <&3 &\n\
         while ! test -e {file}; do sleep 0.01; done; echo done"
    );
    let server = server(&script);
    assert_eq!(soon(&server, 1 << 20).good(), "done\n");
    let id = id_of(&scratch);
    stop(server);
    assert!(!is_gone(id));
    kill_process(pid(id), Signal::KILL).unwrap();
}

#[test]
fn a_command_that_closes_its_output_is_answered_by_its_exit_status() {
    let script = "read code; echo said; exec >&-; sleep 0.5; exit $code";
    let server = server(script);
    let began = Instant::now();
    assert_eq!(server.send("0\n").good(), "said\n");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    server.send("4\n").failed_with(1);
    assert!(stop(server).err.contains("exit status: 4"));
}

#[test]
fn a_command_that_does_not_read_all_of_a_large_message_is_answered() {
    let closes = server("exec <&-; sleep 0.1; echo closed");
    assert_eq!(soon(&closes, 4 << 20).good(), "closed\n");
    stop(closes);
    let ends = server("head -c 1 >/dev/null; echo ended");
    for _ in 0..20 {
        assert_eq!(soon(&ends, 4 << 20).good(), "ended\n");
    }
    stop(ends);
}

#[test]
fn output_that_is_read_after_a_command_has_ended_belongs_to_the_answer() {
    let server = server("head -c 3000000 /dev/zero & wait; head -c 60000 /dev/zero");
    for _ in 0..5 {
        assert_eq!(soon(&server, 1).good().len(), 3_060_000);
    }
    stop(server);
}

#[test]
fn standard_error_of_a_command_is_in_the_log() {
    let server = server("echo 'something is wrong' >&2; printf 'and this line has no end' >&2; echo done");
    assert_eq!(server.send("x").good(), "done\n");
    let ended = stop(server);
    assert!(ended.err.contains("something is wrong\n"), "{}", ended.err);
    assert!(ended.err.contains("and this line has no end"), "{}", ended.err);
}

#[test]
fn no_command_remains_as_a_zombie() {
    let server = server("case $(cat) in x) sleep 600;; *) sleep 600 & ;; esac");
    for _ in 0..3 {
        soon(&server, 2).good();
        run_with(keyed(&["send", &server.address, "-t", "300ms"]), b"x").failed_with(5);
    }
    until("all are gone", || children(server.id()) == 0);
    stop(server);
}
