//! The whole protocol in one process: a server, a client, and between them a tap that prints what
//! an eavesdropper would see.
//!
//! Run it with `cargo run --example quickstart`. It takes about four seconds, and fails if a step
//! has another result than the one that it prints. To talk to the published falcotcp 0.1.x peers
//! instead, say `Server::classic(key)` and `Client::classic(key)`, and nothing else changes.

#[path = "quickstart/tap.rs"]
mod tap;

use core::error::Error;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::Instant;

use falco_std::{Client, ConnectionError, Fate, Key, Request, Server, Settings, generate_key};
use tap::Tap;

/// Shortened from 60 s, so that the example does not wait long for it to expire.
const LIFETIME: Duration = Duration::from_secs(1);

#[expect(clippy::too_many_lines, reason = "it is read from top to bottom")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("1. A key is 32 secret bytes that both ends hold; it is carried as 64 hexadecimal digits.\n");
    let mut text = [0; 64];
    generate_key()?.write_hex(&mut text);
    let key = || Key::from_hex(&text);
    let settings = Settings::new()
        .with_lifetime(LIFETIME)?
        .with_handshake_timeout(Duration::from_millis(500))?;

    println!("2. The server binds. Connections live {LIFETIME:?}; 60 s is the default.\n");
    let server = Server::builder(key()?)
        .context("words")
        .settings(settings)
        .bind("127.0.0.1:0")?;
    let (address, handle) = (server.local_addr()?, server.handle());
    let tap = Tap::before(address)?;
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handled);
    let serving = thread::spawn(move || {
        server.serve(move |request: Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            count_words(&request)
        })
    });

    println!(
        "3. The client connects. One message each way: both have proved that they have the key, and that they are there now."
    );
    let builder = Client::builder(key()?)
        .context("words")
        .settings(settings)
        .request_timeout(Some(Duration::from_millis(600)));
    let client = builder.connect(tap.address())?;
    println!("   established\n");

    println!("4. Messages. A small one is its body and 25 bytes, both ways.");
    for (text, words) in [
        ("the quick brown fox", "4 words"),
        ("jumps over", "2 words"),
        ("", "0 words"),
    ] {
        let answer = client.request(text)?;
        println!(
            "   [client]            decrypted {:?}",
            String::from_utf8_lossy(&answer)
        );
        ensure(answer == words.as_bytes(), "the answer is the one to this request")?;
    }
    let trip = client.ping()?.ok_or("this wire answers pings")?;
    println!("   a ping went there and back in {trip:?}\n");

    println!(
        "5. Two requests at once on this one connection. The second is answered first, because its handler is done first."
    );
    let order = at_once(&client, ["wait 300 ms", "do not wait"])?;
    ensure(
        order == ["do not wait", "wait 300 ms"],
        "answers come as handlers finish",
    )?;
    println!();

    println!(
        "6. A large request shares the connection: it goes in records of 64 KiB, and a small one goes between them."
    );
    tap.quiet(true);
    let large = "word ".repeat(100_000);
    let order = at_once(&client, [&large, "small"])?;
    println!(
        "   500000 bytes and 5 bytes, answered: {}",
        order.map(shortened).join(", then ")
    );
    tap.quiet(false);
    println!();

    println!("7. A request that takes too long is cancelled: its handler is told, and the connection goes on.");
    let error = client.request("wait 5000 ms").err().ok_or("it is to take too long")?;
    println!("   [client]            {error}");
    ensure(
        error.fate() == Fate::MaybeProcessed,
        "its handler may have done some of its work",
    )?;
    ensure(client.request("next please")? == b"2 words", "the connection goes on")?;
    println!();

    println!(
        "8. Nobody says anything for longer than a lifetime; the client pings by itself, and the connection stays."
    );
    sleep(LIFETIME * 14 / 10);
    ensure(client.request("still here")? == b"2 words", "it is still there")?;
    ensure(tap.connections() == 1, "it is still the first connection")?;
    println!("   still the first connection\n");

    println!("9. A client with another key. Its hello does not decrypt, so the server ends the stream without a byte.");
    let stranger = Client::builder(generate_key()?).context("words").settings(settings);
    let error = stranger
        .connect(tap.address())
        .err()
        .ok_or("another key was accepted")?;
    println!("   [client]            {error}");
    let refused = matches!(
        error,
        falco_std::Error::Connection {
            end: ConnectionError::Refused,
            ..
        }
    );
    ensure(refused, "the client is told that it was refused")?;
    println!();

    println!(
        "10. All that the first client has sent, sent again by the tap: a welcome that it cannot use, then nothing."
    );
    let before = handled.load(Ordering::SeqCst);
    let got = replay(address, &tap.recorded())?;
    println!("   the server answered with {got} bytes and ended the stream; no handler ran\n");
    ensure(
        got <= 64 && handled.load(Ordering::SeqCst) == before,
        "a replay reaches no handler",
    )?;

    println!(
        "11. The client closes, and the server is shut down: it lets what is running finish, and says what has been."
    );
    client.close();
    handle.shutdown();
    let report = serving.join().map_err(|_| "serving panicked")??;
    println!(
        "   {} connections accepted, {} established, {} cut off",
        report.stats.accepted, report.stats.established, report.cut_connections
    );
    ensure(
        (report.stats.accepted, report.stats.established, report.cut_connections) == (3, 1, 0),
        "the report says what has been",
    )
}

/// The handler: waits as the request asks, unless the request was cancelled, and counts words.
fn count_words(request: &Request) -> Result<Vec<u8>, falco_std::HandlerError> {
    let text = str::from_utf8(request.body())?;
    let wait = match text.split(' ').collect::<Vec<_>>().as_slice() {
        ["wait", millis, "ms"] => Duration::from_millis(millis.parse()?),
        _ => Duration::ZERO,
    };
    let start = Instant::now();
    while start.elapsed() < wait {
        if request.is_cancelled() {
            println!("   [handler]           {text:?} was cancelled, so it stops");
            return Err("nobody wants it".into());
        }
        sleep(Duration::from_millis(5));
    }
    let answer = format!("{} words", text.split_whitespace().count());
    println!(
        "   [handler]           decrypted {:?}, returns {answer:?}",
        shortened(text)
    );
    Ok(answer.into_bytes())
}

/// Sends two requests from two threads, the first a moment before the second, and says in which
/// order they were answered.
fn at_once<'t>(client: &Client, texts: [&'t str; 2]) -> Result<[&'t str; 2], Box<dyn Error>> {
    let (done, order) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for text in texts {
            let done = done.clone();
            scope.spawn(move || done.send((text, client.request(text))));
            sleep(Duration::from_millis(20));
        }
    });
    let ((first, one), (second, other)) = (order.recv()?, order.recv()?);
    for (text, answer) in [(first, one?), (second, other?)] {
        let words = format!("{} words", text.split_whitespace().count());
        ensure(answer == words.as_bytes(), "each has its own answer")?;
    }
    Ok([first, second])
}

/// Sends a recording to the server, and counts the bytes that come back until it ends the stream.
fn replay(address: core::net::SocketAddr, recorded: &[u8]) -> Result<usize, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(recorded)?;
    let (mut got, mut chunk) = (0, [0; 256]);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        got += count;
    }
    Ok(got)
}

fn shortened(text: &str) -> &str {
    text.get(..30).unwrap_or(text)
}

fn ensure(holds: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if holds {
        Ok(())
    } else {
        Err(format!("it does not hold that {what}").into())
    }
}
