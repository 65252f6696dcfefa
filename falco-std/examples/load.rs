//! Echoes of one size over several connections, each with several requests in flight, and how long
//! the slowest took. Both sides run in this process, over TCP.
//!
//! `cargo run --release --example load -- [connections] [in flight] [bytes] [requests]`; The
//! defaults are 8, 8, 1 MiB and 400. It fails if a request does.

use core::error::Error;
use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use falco_std::{Client, Key, Request, Server, generate_key};

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (connections, in_flight) = (next(8)?.max(1), next(8)?.max(1));
    let (bytes, requests) = (next(1 << 20)?, next(400)?);

    let mut text = [0; 64];
    generate_key()?.write_hex(&mut text);
    let key = || Key::from_hex(&text);
    let server = Server::builder(key()?).bind("127.0.0.1:0")?;
    let (address, handle) = (server.local_addr()?, server.handle());
    let serving = thread::spawn(move || server.serve(|request: Request| Ok(request.into_body())));

    let body = Arc::new(vec![7; bytes]);
    let each = requests.div_ceil(connections * in_flight);
    let start = Instant::now();
    let mut threads = Vec::new();
    for _ in 0..connections {
        let client = Arc::new(Client::builder(key()?).connect(address)?);
        for _ in 0..in_flight {
            let (client, body) = (Arc::clone(&client), Arc::clone(&body));
            threads.push(thread::spawn(move || ask(&client, &body, each)));
        }
    }
    let mut took = Vec::new();
    for thread in threads {
        took.extend(thread.join().map_err(|_| "a thread panicked")??);
    }
    let all = start.elapsed();
    took.sort_unstable();
    let at = |part: usize| took.get((took.len() - 1) * part / 100).copied().unwrap_or_default();
    println!(
        "{} echoes of {bytes} bytes over {connections} connections, {in_flight} in flight on each: {all:.2?}",
        took.len()
    );
    println!(
        "half of them within {:.2?}, 99 of 100 within {:.2?}, the slowest took {:.2?}",
        at(50),
        at(99),
        at(100)
    );
    handle.shutdown();
    serving.join().map_err(|_| "serving panicked")??;
    Ok(())
}

/// One request after another; how long each took.
fn ask(client: &Client, body: &[u8], requests: usize) -> Result<Vec<Duration>, falco_std::Error> {
    let mut took = Vec::with_capacity(requests);
    for _ in 0..requests {
        let start = Instant::now();
        client.request(body)?;
        took.push(start.elapsed());
    }
    Ok(took)
}
