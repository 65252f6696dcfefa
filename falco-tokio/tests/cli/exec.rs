//! `falco serve --exec`: commands as handlers.

use core::time::Duration;
use std::fs;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::tool::{
    KEY, OTHER_KEY, Run, Scratch, Served, children, falco, is_gone, keyed, line_of, run, run_with, until,
    with_piped_key,
};

#[test]
fn a_command_gets_the_message_and_its_output_is_the_answer() {
    // All further arguments are those of the command, also if the tool has such options.
    let server = Served::start(&[
        "--exec",
        "sh",
        "-c",
        "tr a-z A-Z; echo $0 $*",
        "--listen",
        "--wire",
        "x",
    ]);
    assert_eq!(server.send("hello ").good(), "HELLO --listen --wire x\n");
    server.stop();

    let server = Served::start(&["--exec", "cat"]);
    let large: Vec<u8> = (0..2_000_000_u32)
        .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[2])
        .collect();
    assert!(run_with(keyed(&["send", &server.address]), &large).out == large);
    server.stop();
}

#[test]
fn a_command_need_not_read_what_it_is_given() {
    let server = Served::start(&["--exec", "echo", "done"]);
    let large = vec![7; 1 << 20];
    assert_eq!(run_with(keyed(&["send", &server.address]), &large).good(), "done\n");
    server.stop();
}

#[test]
fn a_command_that_fails_fails_only_its_request() {
    let server = Served::start(&["--exec", "sh", "-c", "read word; echo half; test $word != bad"]);
    assert!(server.send("bad\n").failed_with(1).contains("the handler failed"));
    assert_eq!(server.send("good\n").good(), "half\n");
    let ended = server.stop();
    assert!(ended.err.contains("exit status: 1"), "{}", ended.err);
}

#[test]
fn a_request_whose_command_cannot_be_started_was_not_processed() {
    let scratch = Scratch::new();
    // `cp` makes the copy, since a file that this process has open for writing cannot be run.
    let command = scratch.name("command");
    let install = || {
        let cat = String::from_utf8(Command::new("which").arg("cat").output().unwrap().stdout).unwrap();
        assert!(
            Command::new("cp")
                .args([cat.trim(), &command])
                .status()
                .unwrap()
                .success()
        );
    };
    install();
    let server = Served::start(&["--exec", &command]);
    assert_eq!(server.send("x").good(), "x");
    fs::remove_file(&command).unwrap();
    assert!(server.send("x").failed_with(1).contains("was not processed"));
    // A streamed one has begun, and fails.
    let streamed = run(keyed(&["send", &server.address, "x", "--stream"]));
    assert!(streamed.failed_with(1).contains("may have been processed"));
    install();
    assert_eq!(server.send("x").good(), "x");
    let ended = server.stop();
    assert!(ended.err.contains(&command), "{}", ended.err);
    assert!(ended.err.contains("cannot be started"), "{}", ended.err);
}

/// Clients of the classic wire read no streams, and `bench` collects its answers.
#[test]
fn a_command_that_writes_too_large_an_answer_for_its_client_is_stopped() {
    let wires = ["--wire", "both", "--classic-key-file"];
    let scratch = Scratch::new();
    let classic = scratch.file("classic", OTHER_KEY.as_bytes());
    let words = ["--max-message", "4K", "--exec", "sh", "-c", "trap '' PIPE; yes"];
    let server = Served::start(&[&wires[..], &[classic.as_str()], &words].concat());
    let send = ["send", &server.address, "--wire", "classic", "--key-file", &classic];
    // That wire has no refusals.
    assert!(
        run_with(falco(&send), &[7; 4096])
            .failed_with(1)
            .contains("the connection ended")
    );
    until("the command is killed", || children(server.id()) == 0);
    let told = run(keyed(&[
        "bench",
        &server.address,
        "-n",
        "1",
        "--max-message",
        "4K",
        "--json",
    ]));
    let told: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(
        told["errors"]["the request was refused: the answer is too large"], 1,
        "{told}"
    );
    until("the command is killed", || children(server.id()) == 0);
    server.stop();
    // The largest answer that is allowed.
    let server = Served::start(&["--max-message", "4K", "--exec", "head", "-c", "4096", "/dev/zero"]);
    assert_eq!(server.send("x").good().len(), 4096);
    server.stop();
}

#[test]
fn a_command_knows_for_whom_it_runs() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys", format!("{KEY} gateway 7\n").as_bytes());
    let echo = "echo $FALCO_REQUEST ${FALCO_PEER%:*} $FALCO_KEY_ID $FALCO_KEY_LABEL";
    let server = Served::of(falco(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        &keys,
        "--exec",
        "sh",
        "-c",
        echo,
    ]));
    let id = KEY.parse::<falco_tokio::Key>().unwrap().id();
    for number in 1..3 {
        assert_eq!(server.send("x").good(), format!("{number} 127.0.0.1 {id} gateway 7\n"));
    }
    server.stop();
    // What is not known is empty, even if the server's environment has it.
    let mut command = crate::tool::piped(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .args(["--exec", "sh", "-c", "echo [$FALCO_KEY_LABEL]"])
        .env("FALCO_KEY_LABEL", "another");
    let server = Served::of(command);
    assert_eq!(server.send("x").good(), "[]\n");
    server.stop();
}

#[test]
fn the_keys_are_not_in_a_commands_environment() {
    let server = Served::start(&[
        "--exec",
        "sh",
        "-c",
        "env | grep -Ec 'FALCO_(CLASSIC_)?KEY=|[0-9a-f]{64}' || true",
    ]);
    assert_eq!(server.send("x").good(), "0\n");
    server.stop();
}

#[test]
fn a_key_in_the_environment_is_refused_together_with_a_command() {
    let scratch = Scratch::new();
    let file = scratch.file("key", KEY.as_bytes());
    for name in ["FALCO_KEY", "FALCO_CLASSIC_KEY"] {
        for more in [&[][..], &["--key-file", &file]] {
            let mut command = falco(&["serve", "--listen", "127.0.0.1:0"]);
            command.args(more).args(["--exec", "cat"]).env(name, KEY);
            let ended = run(command);
            let message = ended.failed_with(2);
            for part in [name, "unset it", "--key-file"] {
                assert!(message.contains(part), "{message}");
            }
        }
    }
}

/// The server runs as an ordinary user, because the superuser may read everything.
#[cfg(target_os = "linux")]
#[test]
fn a_command_cannot_inspect_its_server() {
    let scratch = Scratch::new();
    // That user may have no access to the directory in which the tool was built. `cp` makes the
    // copy, since a file that this process has open for writing cannot be run.
    let tool = scratch.name("falco");
    let copied = Command::new("cp").args([env!("CARGO_BIN_EXE_falco"), &tool]).status();
    assert!(copied.unwrap().success());
    let script = "cd /proc/$PPID; cat environ auxv; cat maps; ls fd; head -c 1 /proc/self/environ | wc -c";
    let words = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        "-",
        "--exec",
        "sh",
        "-c",
        script,
    ];
    let mut command = Command::new(&tool);
    command.args(words).env("SECRET", "of the server");
    with_piped_key(&mut command);
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt;

        command.uid(65_534).gid(65_534);
    }
    let server = Served::of(command);
    // It can read its own environment and nothing of the server.
    assert_eq!(server.send("x").good(), "1\n");
    let ended = server.stop();
    assert_eq!(ended.err.matches("Permission denied").count(), 4, "{}", ended.err);
}

#[test]
fn a_cancelled_request_kills_its_command_and_all_that_it_has_started() {
    let scratch = Scratch::new();
    let (file, part) = (scratch.path("pids"), scratch.path("part"));
    let script = format!(
        "sleep 600 & echo $$ $! >{part}; mv {part} {file}; wait",
        part = part.display(),
        file = file.display()
    );
    let server = Served::start(&["--exec", "sh", "-c", &script]);
    let started = || -> Vec<u32> { line_of(&file).split(' ').map(|id| id.parse().unwrap()).collect() };

    // The client times out.
    run(keyed(&["send", &server.address, "x", "--timeout", "1s"])).failed_with(5);
    let ids = started();
    assert_eq!(ids.len(), 2);
    until("all are gone", || ids.iter().all(|id| is_gone(*id)));

    // The server gets two signals.
    fs::remove_file(&file).unwrap();
    let request = Run::start(keyed(&["send", &server.address, "x"]));
    let ids = started();
    server.signal(Signal::INT);
    server.signal(Signal::TERM);
    server.end().failed_with(1);
    request.end().failed_with(1);
    until("all are gone", || ids.iter().all(|id| is_gone(*id)));
}

#[test]
fn the_number_of_commands_at_once_is_limited() {
    let scratch = Scratch::new();
    let lock = scratch.name("lock");
    // A second command at the same time would find the directory and fail.
    let script = format!("mkdir {lock} && sleep 0.05 && rmdir {lock} && cat");
    let server = Served::start(&["--max-commands", "1", "--exec", "sh", "-c", &script]);
    let requests: Vec<_> = (0..5)
        .map(|_| Run::start(keyed(&["send", &server.address, "x"])))
        .collect();
    for request in requests {
        assert_eq!(request.end().good(), "x");
    }
    server.stop();
}

#[test]
fn commands_that_hang_are_killed_and_others_run_in_their_places() {
    let scratch = Scratch::new();
    // They ignore all signals that can be ignored, and so does what they start.
    let script = format!(
        "trap '' TERM INT HUP; read word; test $word = hang || {{ cat; exit; }}\n\
         sleep 600 & echo $$ $! >>{}; while :; do sleep 600; done",
        scratch.name("pids")
    );
    let server = Served::start(&[
        "--max-commands",
        "3",
        "--exec-timeout",
        "700ms",
        "--exec",
        "sh",
        "-c",
        &script,
    ]);
    let began = Instant::now();
    let requests: Vec<_> = (0..6)
        .map(|_| Run::start(keyed(&["send", &server.address, "hang\n"])))
        .collect();
    for request in requests {
        assert!(request.end().failed_with(1).contains("the handler failed"));
    }
    // Two rounds of three. The client has a longer time limit.
    let elapsed = began.elapsed();
    assert!(
        elapsed > Duration::from_millis(1400) && elapsed < Duration::from_secs(20),
        "{elapsed:?}"
    );
    let ids = fs::read_to_string(scratch.path("pids")).unwrap();
    let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert_eq!(ids.len(), 12);
    until("all are gone", || ids.iter().all(|id| is_gone(*id)));
    assert_eq!(server.send("well\nanswered").good(), "answered");
    let ended = server.stop();
    assert_eq!(
        ended.err.matches("still running after 700ms").count(),
        6,
        "{}",
        ended.err
    );
}

#[test]
fn waiting_for_a_place_does_not_count_in_the_time_limit() {
    let server = Served::start(&[
        "--max-commands",
        "1",
        "--exec-timeout",
        "3s",
        "--exec",
        "sh",
        "-c",
        "sleep 0.8; cat",
    ]);
    let requests: Vec<_> = (0..5)
        .map(|_| Run::start(keyed(&["send", &server.address, "x"])))
        .collect();
    for request in requests {
        assert_eq!(request.end().good(), "x");
    }
    server.stop();
}

#[test]
fn commands_that_fail_cost_ten_warnings_a_second() {
    let began = Instant::now();
    // With -v, the tool itself limits no warnings, so these are the library's.
    let server = Served::start(&["-v", "--exec", "false"]);
    let words = ["-n", "300", "-p", "4", "-s", "0", "--json"];
    let told = run(keyed(&[&["bench", server.address.as_str()][..], &words].concat()));
    let told: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(
        told["errors"]["the request was refused: the handler failed"], 300,
        "{told}"
    );
    let ended = server.stop();
    let most = 10 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 2);
    let warnings = ended.err.lines().filter(|line| line.contains("WARN"));
    assert!(
        (10..=most.min(200)).contains(&warnings.clone().count()),
        "{}",
        ended.err
    );
    // The last line reports only those that were left out.
    let counted = warnings.map(|line| {
        let (text, count) = line.split_once("left_out=").unwrap();
        let count: u64 = count.split_whitespace().next().unwrap().parse().unwrap();
        count + u64::from(!text.contains("further warnings were left out"))
    });
    assert_eq!(counted.sum::<u64>(), 300, "{}", ended.err);
}

#[test]
fn a_command_that_cannot_be_started_for_now_is_refused_as_busy() {
    let mut command = Command::new("sh");
    let script = "ulimit -n 48; exec \"$0\" serve --listen 127.0.0.1:0 --key-file - --exec sleep 0.5";
    command.args(["-c", script, env!("CARGO_BIN_EXE_falco")]);
    with_piped_key(&mut command);
    let server = Served::of(command);
    let told = run(keyed(&["bench", &server.address, "-n", "40", "-p", "40", "--json"]));
    let told: Value = serde_json::from_str(told.text()).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(number(&told["answered"]) > 0, "{told}");
    let busy = number(&told["errors"]["the request was refused: the server is busy"]);
    assert_eq!(
        (busy, number(&told["answered"])),
        (number(&told["failed"]), 40 - busy),
        "{told}"
    );
    assert!(busy > 0 && told["failed_unprocessed"] == busy, "{told}");
    let ended = server.stop();
    assert!(ended.err.contains("no command can be started now"), "{}", ended.err);
}
