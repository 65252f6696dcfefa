//! A server whose system does not report which sockets are ready. It is in a separate file, because
//! the limit of file descriptors applies to the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key};
use falco_std::{Client, Server};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Processor time of this process so far, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields = rest.split(' ').skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

#[test]
fn an_error_of_poll_that_lasts_costs_no_processor() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let mut silent = [0; 4].map(|_| TcpStream::connect(server.address).unwrap());
        thread::sleep(Duration::from_millis(100));
        // The server asks for more sockets than that at once, which is EINVAL. Its thread that
        // accepts is woken by this byte.
        let (before, current) = (getrlimit(Resource::Nofile), Some(1));
        let (start, used) = (Instant::now(), ticks());
        setrlimit(Resource::Nofile, Rlimit { current, ..before }).unwrap();
        silent[0].write_all(b"N").unwrap();
        thread::sleep(Duration::from_secs(1));
        setrlimit(Resource::Nofile, before).unwrap();
        let (took, used) = (start.elapsed(), ticks() - used);
        assert!(used < 40, "{used} ticks of 10 ms in {took:?}");
        assert!(server.handle.stats().accept_errors > 0);
        let client = Client::builder(key()).connect(server.address).unwrap();
        assert_eq!(client.request("hello").unwrap(), b"hello");
        server.stop();
    });
}
