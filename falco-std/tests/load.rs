//! Large requests on many connections at once: none is left behind the others.

mod common;

use core::time::Duration;
use std::sync::Arc;
use std::thread;

use common::{Running, at_once, bounded, echo, key};
use falco_std::{Client, Server};

/// What `examples/load.rs` measures, within bounds that hold on a busy machine, too.
#[test]
fn of_64_echoes_of_a_megabyte_under_way_at_once_each_comes_in_time() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let body = Arc::new(vec![7; 1 << 20]);
        let connections: Vec<_> = (0..8)
            .map(|_| {
                let client = Client::builder(key()).connect(server.address).expect("it is let in");
                let body = Arc::clone(&body);
                thread::spawn(move || {
                    at_once(8, move || {
                        for _ in 0..2 {
                            assert!(client.request(&*body).expect("an answer") == *body);
                        }
                    })
                })
            })
            .collect();
        let ends = connections
            .into_iter()
            .flat_map(|connection| connection.join().expect("each has its answer"));
        let slowest = ends.map(|((), took)| took).max().unwrap_or_default();
        println!("two in a row took {slowest:?} at the most");
        assert!(slowest < Duration::from_secs(20), "{slowest:?}");
        server.stop();
    });
}
