//! Large requests on many connections at once: none takes much longer than the others.

mod common;

use core::time::Duration;
use std::sync::Arc;
use std::thread;

use common::{Running, at_once, bounded, echo, key};
use falco_std::{Client, Server};

/// What `examples/load.rs` measures, within bounds that also hold on a busy machine.
#[test]
fn each_of_64_large_requests_in_flight_at_once_is_answered_in_time() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let body = Arc::new(vec![7; 1 << 20]);
        let connections: Vec<_> = (0..8)
            .map(|_| {
                let client = Client::builder(key())
                    .connect(server.address)
                    .expect("the server accepts it");
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
