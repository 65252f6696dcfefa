//! What `falco serve --exec` bounds: how long a request waits for a place, how many places a key
//! takes, and how many connections there are beside the descriptors of commands.

use core::time::Duration;
use std::process::Command;
use std::thread;

use falco_tokio::{Client, Key};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::tool::{KEY, OTHER_KEY, Run, Scratch, Served, children, falco, keyed, run, until, with_piped_key};

#[test]
fn a_request_waits_for_a_place_no_longer_than_a_command_may_run() {
    let server = Served::start(&["--max-commands", "1", "--exec-timeout", "1s", "--exec", "sleep", "600"]);
    let told = run(keyed(&["bench", &server.address, "-n", "6", "-p", "6", "--json"]));
    let told: Value = serde_json::from_str(told.text()).unwrap();
    let busy = told["errors"]["the request was refused: the server is busy"].as_u64();
    assert!(busy.is_some_and(|busy| busy > 0), "{told}");
    assert_eq!(
        (told["failed"].as_u64(), told["failed_unprocessed"].as_u64()),
        (Some(6), busy),
        "{told}"
    );
    let ended = server.stop();
    assert!(ended.err.contains("waited for a place"), "{}", ended.err);
}

#[test]
fn one_key_leaves_commands_to_another() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys", format!("{KEY} greedy\n{OTHER_KEY} modest\n").as_bytes());
    let script = "test $FALCO_KEY_LABEL = greedy && exec sleep 600; cat";
    let mut command = falco(&["serve", "--listen", "127.0.0.1:0", "--key-file", &keys]);
    command.args(["--max-commands", "9", "--exec", "sh", "-c", script]);
    let server = Served::of(command);
    let greedy = Run::start(keyed(&["bench", &server.address, "-n", "50", "-p", "50"]));
    until("its commands run", || children(server.id()) >= 8);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(children(server.id()), 8);
    for _ in 0..3 {
        let mut command = falco(&["send", &server.address, "modest"]);
        command.env("FALCO_KEY", OTHER_KEY);
        assert_eq!(run(command).good(), "modest");
    }
    drop(greedy);
    // The server knows that the client is gone, so it cuts off nothing when it stops.
    until("its commands are gone", || children(server.id()) == 0);
    server.stop();
}

#[test]
fn commands_find_descriptors_however_many_clients_there_are() {
    let mut command = Command::new("sh");
    let script =
        "ulimit -n 400; exec \"$0\" serve --listen 127.0.0.1:0 --key-file - --max-commands 80 --exec sleep 0.5";
    command.args(["-c", script, env!("CARGO_BIN_EXE_falco")]);
    with_piped_key(&mut command);
    let server = Served::of(command);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut connecting = JoinSet::new();
        for _ in 0..320 {
            let (builder, address) = (Client::builder(KEY.parse::<Key>().unwrap()), server.address.clone());
            connecting.spawn(async move { timeout(Duration::from_secs(5), builder.connect(address)).await });
        }
        // There is no place for all of them.
        let clients: Vec<_> = connecting.join_all().await.into_iter().flatten().flatten().collect();
        assert!(clients.len() > 80, "{}", clients.len());
        let mut asking = JoinSet::new();
        for client in clients.iter().take(80) {
            let client = client.clone();
            asking.spawn(async move { client.request("x").await });
        }
        for answer in asking.join_all().await {
            assert_eq!(answer.unwrap(), "");
        }
    });
    drop(runtime);
    server.stop();
}
