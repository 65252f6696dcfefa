//! The clients of both adapters send a request as often as the rules of the core allow, and no
//! more. The server is scripted, and counts how often the request arrives.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that panics has failed")]

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use falco_core::mux::Attempts;
use falco_core::testing::{RawHandshake, RawPeer, raw_frame, raw_settings};
use falco_core::{Refusal, RustCrypto};

/// The largest message that the server reads. It is busy as long as more bytes are in flight.
const MAX_MESSAGE: u32 = 1_000;
/// The request that is counted.
const COUNTED: [u8; 400] = [b'x'; 400];
/// Other requests, two of which are in flight beside it when the server is busy.
const OTHER: [u8; 400] = [b'o'; 400];

/// Kinds of frames.
const MESSAGE: u8 = 1;
const REFUSE: u8 = 4;
const PING: u8 = 6;
const PONG: u8 = 7;
/// Codes of REFUSE.
const BUSY: u8 = 1;
const NOT_PROCESSED: u8 = 5;

#[derive(Clone, Copy)]
enum Server {
    /// Refuses the counted request as not processed.
    NotProcessed,
    /// Ends the stream when the counted request has arrived, before it has sent anything.
    Ends,
    /// Is busy for the counted request, while others are in flight.
    Busy,
}

/// One connection of the server.
struct Conn {
    stream: TcpStream,
    peer: RawPeer<RustCrypto>,
    unread: Vec<u8>,
}

impl Conn {
    fn open(mut stream: TcpStream) -> Option<Self> {
        stream.set_nodelay(true).unwrap();
        let mut hello = [0; 74];
        stream.read_exact(&mut hello).ok()?;
        let mut handshake = RawHandshake::new(RustCrypto, 7);
        handshake.settings = raw_settings(u16::MAX, 1024, MAX_MESSAGE, 60_000);
        let (welcome, peer) = handshake.server(&hello)?;
        stream.write_all(&welcome).ok()?;
        let unread = Vec::new();
        Some(Self { stream, peer, unread })
    }

    fn say(&mut self, frames: &[u8]) {
        let record = self.peer.seal(frames);
        let _ = self.stream.write_all(&record);
    }

    /// The frames of the next record; none once the stream has ended.
    fn frames(&mut self) -> Option<Vec<(u8, u32, Vec<u8>)>> {
        loop {
            if let Some(text) = self.peer.open(&mut self.unread) {
                let (mut rest, mut frames) = (&text[..], Vec::new());
                while let [kind, a, b, c, d, high, low, ref after @ ..] = *rest {
                    let (body, next) = after.split_at(usize::from(u16::from_be_bytes([high, low])));
                    frames.push((kind, u32::from_be_bytes([a, b, c, d]), body.to_vec()));
                    rest = next;
                }
                return Some(frames);
            }
            let mut some = vec![0; 65_536];
            let count = self.stream.read(&mut some).ok().filter(|count| *count > 0)?;
            self.unread.extend_from_slice(some.split_at(count).0);
        }
    }

    /// Serves until the stream ends.
    fn serve(&mut self, server: Server, counted: &AtomicU32) {
        // The counted request and the others that are in flight.
        let (mut own, mut others) = (None, Vec::new());
        while let Some(frames) = self.frames() {
            for (kind, id, body) in frames {
                match (kind, server) {
                    (PING, Server::Ends) => {}
                    (PING, _) => self.say(&raw_frame(PONG, 0, &body)),
                    (MESSAGE, _) if body == OTHER => others.push(id),
                    (MESSAGE, _) => {
                        assert_eq!(body, COUNTED, "it comes whole each time");
                        own = Some(id);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
            let mut frames = Vec::new();
            match (server, own) {
                (Server::Ends, Some(_)) => return,
                (Server::NotProcessed, Some(id)) => {
                    frames.extend(raw_frame(REFUSE, id, &[NOT_PROCESSED]));
                    own = None;
                }
                (Server::Busy, Some(id)) if others.len() >= 2 => {
                    // First, so that the others are in flight when the client reads it.
                    frames.extend(raw_frame(REFUSE, id, &[BUSY]));
                    own = None;
                }
                // At first the client sends others without being answered.
                (Server::Busy, Some(_)) if counted.load(Ordering::Relaxed) == 1 => continue,
                // Each answer lets it have more bytes in flight.
                _ => {}
            }
            frames.extend(others.drain(..).flat_map(|id| raw_frame(MESSAGE, id, b"answer")));
            if !frames.is_empty() {
                self.say(&frames);
            }
        }
    }
}

/// Starts a server, which counts into what is returned.
fn start(server: Server) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, counted) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let own = Arc::clone(&counted);
    thread::spawn(move || {
        for stream in listener.incoming() {
            if let Some(mut conn) = Conn::open(stream.unwrap()) {
                conn.serve(server, &own);
            }
        }
    });
    (address, counted)
}

/// How a request failed: the refusal, if it was refused, and whether it was not processed.
type Failed = (Option<Refusal>, bool);

trait Client: Clone + Send + 'static {
    fn connect(address: SocketAddr) -> Self;
    fn request(&self, body: &[u8]) -> Result<(), Failed>;
}

macro_rules! failed {
    ($error:expr, $($adapter:tt)*) => {{
        let unprocessed = $error.fate() == $($adapter)*::Fate::NotProcessed;
        match $error {
            $($adapter)*::Error::Request($($adapter)*::RequestError::Refused(refusal)) => (Some(refusal), unprocessed),
            _ => (None, unprocessed),
        }
    }};
}

#[derive(Clone)]
struct OnTokio(falco_tokio::Client, Arc<tokio::runtime::Runtime>);

impl Client for OnTokio {
    fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let builder = falco_tokio::Client::builder(falco_tokio::Key::from_bytes([7; 32]).unwrap())
            .backoff(Duration::from_millis(1), Duration::from_millis(5));
        let client = runtime.block_on(builder.connect(address)).unwrap();
        Self(client, Arc::new(runtime))
    }

    fn request(&self, body: &[u8]) -> Result<(), Failed> {
        let answer = self.1.block_on(self.0.request(body.to_vec()));
        answer.map(drop).map_err(|error| failed!(error, falco_tokio))
    }
}

#[derive(Clone)]
struct OnThreads(falco_std::Client);

impl Client for OnThreads {
    fn connect(address: SocketAddr) -> Self {
        let builder = falco_std::Client::builder(falco_std::Key::from_bytes([7; 32]).unwrap())
            .backoff(Duration::from_millis(1), Duration::from_millis(5));
        Self(builder.connect(address.to_string()).unwrap())
    }

    fn request(&self, body: &[u8]) -> Result<(), Failed> {
        let answer = self.0.request(body);
        answer.map(drop).map_err(|error| failed!(error, falco_std))
    }
}

fn is_sent_so_often_and_fails<C: Client>(server: Server, refusal: Option<Refusal>) {
    let (address, counted) = start(server);
    let client = C::connect(address);
    assert_eq!(client.request(&COUNTED), Err((refusal, true)));
    assert_eq!(counted.load(Ordering::Relaxed), Attempts::MAX_TRIES);
}

fn is_sent_again_while_busy_so_often_and_fails<C: Client>() {
    let (address, counted) = start(Server::Busy);
    let client = C::connect(address);
    let done = Arc::new(AtomicBool::new(false));
    let own = client.clone();
    let asked = thread::spawn(move || own.request(&COUNTED));
    // The counted request is the first.
    while counted.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let others: Vec<_> = (0..6)
        .map(|_| {
            let (client, done) = (client.clone(), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    client.request(&OTHER).unwrap();
                }
            })
        })
        .collect();
    let failed = asked.join().unwrap();
    done.store(true, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }
    assert_eq!(failed, Err((Some(Refusal::Busy), true)));
    assert_eq!(counted.load(Ordering::Relaxed), Attempts::MAX_BUSY + 1);
}

#[test]
fn a_request_that_a_server_does_not_process_is_sent_so_often_and_then_fails() {
    let refusal = Some(Refusal::NotProcessed);
    is_sent_so_often_and_fails::<OnTokio>(Server::NotProcessed, refusal);
    is_sent_so_often_and_fails::<OnThreads>(Server::NotProcessed, refusal);
}

#[test]
fn a_request_whose_connections_end_unprocessed_is_sent_so_often_and_then_fails() {
    is_sent_so_often_and_fails::<OnTokio>(Server::Ends, None);
    is_sent_so_often_and_fails::<OnThreads>(Server::Ends, None);
}

#[test]
fn a_request_for_which_a_server_stays_busy_is_sent_so_often_and_then_fails() {
    is_sent_again_while_busy_so_often_and_fails::<OnTokio>();
    is_sent_again_while_busy_so_often_and_fails::<OnThreads>();
}
