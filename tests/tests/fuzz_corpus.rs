//! Replays the committed fuzz corpus on stable Rust, so that a fault that was found once is noticed
//! if it returns.

use std::fs;
use std::path::Path;

use falco_core::testing::fuzz;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs = 0;
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        let data = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // Its name, should the next line panic.
        println!("{}", path.display());
        body(&data);
        inputs += 1;
    }
    assert!(inputs >= 5, "the corpus of {target} has only {inputs} inputs");
}

#[test]
fn client_to_server() {
    replay("client_to_server", fuzz::client_to_server);
}

#[test]
fn server_to_client() {
    replay("server_to_client", fuzz::server_to_client);
}

#[test]
fn server_past_tag() {
    replay("server_past_tag", fuzz::server_past_tag);
}

#[test]
fn client_past_tag() {
    replay("client_past_tag", fuzz::client_past_tag);
}

#[test]
fn pair_on_corrupting_link() {
    replay("pair_on_corrupting_link", fuzz::pair_on_corrupting_link);
}

#[test]
fn noise_client_to_server() {
    replay("noise_client_to_server", fuzz::noise_client_to_server);
}

#[test]
fn noise_server_to_client() {
    replay("noise_server_to_client", fuzz::noise_server_to_client);
}

#[test]
fn noise_server_past_tag() {
    replay("noise_server_past_tag", fuzz::noise_server_past_tag);
}

#[test]
fn noise_client_past_tag() {
    replay("noise_client_past_tag", fuzz::noise_client_past_tag);
}

#[test]
fn noise_pair_on_corrupting_link() {
    replay("noise_pair_on_corrupting_link", fuzz::noise_pair_on_corrupting_link);
}

#[test]
fn noise_operations() {
    replay("noise_operations", fuzz::noise_operations);
}

#[test]
fn noise_streams() {
    replay("noise_streams", fuzz::noise_streams);
}

#[test]
fn noise_streams_past_tag() {
    replay("noise_streams_past_tag", fuzz::noise_streams_past_tag);
}
