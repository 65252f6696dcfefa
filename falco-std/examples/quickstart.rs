//! The whole protocol in one process: a server, a client, and between them a tap that prints what an eavesdropper would see.
//!
//! Run it with `cargo run --example quickstart`. It takes about three seconds, and fails if anything goes otherwise than told.

use core::error::Error;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, sleep};

use falco_std::{Client, ConnectionError, Key, Request, Server, Settings, generate_key};

/// Shortened from 60 s, so that nobody has to wait for it to run out.
const LIFETIME: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    println!("1. A key is 32 secret bytes that both ends hold; it is carried as 64 hexadecimal digits.\n");
    let mut text = [0; 64];
    generate_key()?.write_hex(&mut text);
    let key = || Key::from_hex(&text);
    let settings = Settings::new().with_lifetime(LIFETIME)?;

    println!("2. The server binds. Its handler counts words. Connections live {LIFETIME:?}; 60 s is the default.\n");
    let server = Server::classic(key()?).settings(settings).bind("127.0.0.1:0")?;
    let handle = server.handle();
    let tap = Tap::before(server.local_addr()?)?;
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handled);
    let serving = thread::spawn(move || {
        server.serve(move |request: Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            let text = str::from_utf8(request.body())?;
            let answer = format!("{} words", text.split_whitespace().count());
            println!("   [handler]           decrypted {text:?}, returns {answer:?}");
            Ok(answer.into_bytes())
        })
    });

    println!("3. The client connects. That it can encrypt proves that it has the key; the server says one byte: yes.");
    let client = Client::classic(key()?).settings(settings).connect(tap.address)?;
    println!("   established\n");

    println!("4. Messages. A request is its body and 37 bytes, an answer its body and 36.");
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
    println!();

    println!(
        "5. A ping, one byte without an answer, begins the lifetime anew: {LIFETIME:?} from the last message is not the end."
    );
    sleep(LIFETIME * 6 / 10);
    client.ping()?;
    sleep(LIFETIME * 6 / 10);
    client.request("still here after a ping")?;
    ensure(tap.connections() == 1, "it is still the first connection")?;
    println!("   still the first connection\n");

    println!("6. A client with another key. Its hello does not decrypt, so the server ends the stream without a byte.");
    let stranger = Client::classic(generate_key()?).settings(settings).connect(tap.address);
    let Err(error) = stranger else {
        return Err("a client with another key was let in".into());
    };
    let refused = matches!(
        error,
        falco_std::Error::Connection {
            end: ConnectionError::Refused,
            ..
        }
    );
    ensure(refused, "the client is told that it was refused")?;
    sleep(Duration::from_millis(50)); // so that the tap has seen the ends
    println!("   [client]            {error}\n");

    println!(
        "7. Silence for longer than the lifetime: the server ends the stream, and the client's own clock says the same."
    );
    println!(
        "   The next request therefore begins with a new handshake. Nothing was sent on the old connection, so nothing is sent twice."
    );
    sleep(LIFETIME * 14 / 10);
    let before = (tap.connections(), handled.load(Ordering::SeqCst));
    let answer = client.request("back on a new connection")?;
    ensure(answer == b"5 words", "the answer came on the new connection")?;
    let after = (tap.connections(), handled.load(Ordering::SeqCst));
    ensure(
        after == (before.0 + 1, before.1 + 1),
        "one new connection, and the handler ran once",
    )?;
    client.close();
    println!();

    println!("8. The server is stopped: it lets what is running finish, and says what has been.");
    handle.stop();
    let report = serving.join().map_err(|_| "serving panicked")?;
    println!(
        "   {} connections accepted, {} established, {} cut off",
        report.accepted, report.established, report.cut
    );
    ensure(
        (report.accepted, report.established, report.cut) == (3, 2, 0),
        "the report says what has been",
    )
}

fn ensure(holds: bool, what: &str) -> Result<(), Box<dyn Error>> {
    if holds {
        Ok(())
    } else {
        Err(format!("it does not hold that {what}").into())
    }
}

/// Stands between client and server, and prints each frame before it passes it on. It has no key.
struct Tap {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Tap {
    fn before(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        thread::spawn(move || -> io::Result<()> {
            loop {
                let (client, _) = listener.accept()?;
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let server = TcpStream::connect(server)?;
                let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
                thread::spawn(move || pass_on(from_client, to_server, true, number));
                thread::spawn(move || pass_on(server, client, false, number));
            }
        });
        Ok(Self { address, connections })
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, client: bool, connection: usize) {
    let arrow = if client { "client -> server" } else { "server -> client" };
    let mut frames = 0;
    while let Ok((frame, what)) = read_frame(&mut from, client, frames == 0) {
        frames += 1;
        println!("   {connection}: {arrow} {:>4} bytes: {what}", frame.len());
        if to.write_all(&frame).is_err() {
            return;
        }
    }
    println!("   {connection}: {arrow}  end of the stream, {frames} frames in all");
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads one frame. Types and lengths travel in clear, so an eavesdropper can tell frames apart; bodies he cannot read.
fn read_frame(from: &mut TcpStream, client: bool, first: bool) -> io::Result<(Vec<u8>, String)> {
    let mut frame = Vec::new();
    let mut read = |count: u64| {
        let read = from.take(count).read_to_end(&mut frame)?;
        if u64::try_from(read).is_ok_and(|read| read == count) {
            Ok(frame.clone())
        } else {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        }
    };
    let mut what = "";
    if client || first {
        let kind = read(1)?.first().copied();
        what = match kind {
            Some(0x00) if client => {
                return Ok((
                    read(156)?,
                    "hello = type 00, nonce 12, ciphertext 128, tag 16".to_owned(),
                ));
            }
            Some(0x01) if client => "type 01, ",
            Some(0x02) if client => return Ok((frame, "ping = type 02".to_owned())),
            Some(0xFF) => return Ok((frame, "accept = ff".to_owned())),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
    }
    let head = read(8)?;
    let length = head.last_chunk().map_or(0, |length| u64::from_be_bytes(*length));
    let name = if client { "request" } else { "answer" };
    let text = format!(
        "{name} = {what}length 8, nonce 12, ciphertext {}, tag 16",
        length.saturating_sub(28)
    );
    Ok((read(length)?, text))
}
