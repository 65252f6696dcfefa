//! The tool `falco` as our side of the interop tests: built if need be, run as a child process, and
//! ended by its own id.

use core::net::SocketAddr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};

use super::ours::KEY;
use super::setup;

/// Builds it if need be.
pub(crate) fn build() {
    let _ = setup::tool();
}

/// A running `falco serve --wire classic`, which echoes. Dropping it ends it.
pub(crate) struct Tool {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Tool {
    pub(crate) fn serve(words: &[&str]) -> Self {
        let mut command = falco(&["serve", "--listen", "127.0.0.1:0", "--wire", "classic"]);
        let mut child = command
            .args(["--key-file", "-"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        // A key in the environment does not go with --exec.
        let mut key = child.stdin.take().expect("standard input is piped");
        key.write_all(KEY.as_bytes()).expect("the tool takes the key");
        drop(key);
        let mut line = String::new();
        let pipe = child.stdout.take().expect("standard output is piped");
        BufReader::new(pipe).read_line(&mut line).expect("a line of text");
        let address = line.trim().strip_prefix("listening on ");
        let address = address.and_then(|address| address.parse().ok());
        Self {
            child,
            address: address.unwrap_or_else(|| panic!("the tool said {line:?}")),
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `falco send --wire classic` of `message`.
pub(crate) fn send(address: SocketAddr, key: &str, message: &[u8]) -> Output {
    let mut command = falco(&["send", &address.to_string(), "--wire", "classic"]);
    command
        .env("FALCO_KEY", key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    let mut pipe = child.stdin.take().expect("standard input is piped");
    // The tool reads all of it before it answers anything.
    pipe.write_all(message).expect("the tool takes the message");
    drop(pipe);
    child.wait_with_output().expect("the tool ends")
}

fn falco(words: &[&str]) -> Command {
    let mut command = Command::new(setup::tool());
    command
        .args(words)
        .env_remove("FALCO_CLASSIC_KEY")
        .env_remove("FALCO_KEY");
    command
}
