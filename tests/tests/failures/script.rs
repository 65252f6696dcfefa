//! A server that does one thing at one moment of a connection, and serves well after that.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use falco_core::testing::{RawHandshake, RawPeer, raw_frame, raw_settings};
use falco_core::{RustCrypto, Settings};

/// The largest message that the server reads, where it says so.
const SMALL: u32 = 1_500;

/// What the connection of the event answers with, if it answers after that.
pub(crate) const SAME: &[u8] = b"on the same connection";

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Refused,
    HelloEnd,
    HelloForeign,
    HelloReset,
    HelloSilence,
    IdleEnd,
    IdleClose,
    IdleRetired,
    UnheardEnd,
    UnheardReset,
    WritingReset,
    PartThenEnd,
    PartThenReset,
    End,
    Reset,
    Tampered,
    CloseBefore,
    CloseThenEnd,
    CloseIdle,
    CloseProtocol,
    Silence,
    OnlyPongs,
    Refuse(u8),
    BusyOver,
}

/// The words of the page for each.
pub(crate) const EVENTS: &[(&str, &str, Event)] = &[
    ("connecting", "TCP connection refused", Event::Refused),
    ("hello sent", "end of stream", Event::HelloEnd),
    ("hello sent", "bytes that are not a valid welcome", Event::HelloForeign),
    ("hello sent", "reset", Event::HelloReset),
    (
        "hello sent",
        "no reply until the handshake timeout",
        Event::HelloSilence,
    ),
    ("idle", "end of stream", Event::IdleEnd),
    ("idle", "CLOSE: shutting down", Event::IdleClose),
    (
        "idle",
        "CLOSE: key retired, then end of stream for each hello",
        Event::IdleRetired,
    ),
    ("request sent, nothing heard", "end of stream", Event::UnheardEnd),
    ("request sent, nothing heard", "reset", Event::UnheardReset),
    (
        "request sent, nothing heard",
        "reset, while another request is being sent",
        Event::WritingReset,
    ),
    ("request sent in part", "end of stream", Event::PartThenEnd),
    ("request sent in part", "reset", Event::PartThenReset),
    ("request sent, server heard", "end of stream", Event::End),
    ("request sent, server heard", "reset", Event::Reset),
    (
        "request sent, server heard",
        "a record that was changed",
        Event::Tampered,
    ),
    (
        "request sent, server heard",
        "CLOSE: shutting down, before the request",
        Event::CloseBefore,
    ),
    (
        "request sent, server heard",
        "CLOSE: shutting down, then end of stream",
        Event::CloseThenEnd,
    ),
    ("request sent, server heard", "CLOSE: idle", Event::CloseIdle),
    (
        "request sent, server heard",
        "CLOSE: protocol error",
        Event::CloseProtocol,
    ),
    (
        "request sent, server heard",
        "silence, pings are not answered",
        Event::Silence,
    ),
    (
        "request sent, server heard",
        "silence, pings are answered",
        Event::OnlyPongs,
    ),
    ("request sent, server heard", "REFUSE: busy", Event::Refuse(1)),
    (
        "request sent, server heard",
        "REFUSE: busy, with more bytes in flight than the server's `max_message` or 1 MiB, whichever is less",
        Event::BusyOver,
    ),
    ("request sent, server heard", "REFUSE: too large", Event::Refuse(2)),
    ("request sent, server heard", "REFUSE: handler failed", Event::Refuse(3)),
    ("request sent, server heard", "REFUSE: cancelled", Event::Refuse(4)),
    ("request sent, server heard", "REFUSE: not processed", Event::Refuse(5)),
    (
        "request sent, server heard",
        "REFUSE: answer too large",
        Event::Refuse(6),
    ),
];

impl Event {
    /// It happens on a connection of which the handshake succeeds, so that it may be the first.
    pub(crate) const fn is_of_first_connection(self) -> bool {
        matches!(self, Self::BusyOver)
    }

    const fn is_of_idle(self) -> bool {
        matches!(self, Self::IdleEnd | Self::IdleClose | Self::IdleRetired)
    }
}

/// The server: its first connection serves, the second is the one of the event, the next ones
/// serve. A client that is never admitted meets the event at once.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    event: Event,
    /// The first connection is to end.
    ends: Arc<AtomicBool>,
}

impl Scripted {
    pub(crate) fn start(event: Event, admitted: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, ends) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let own = Arc::clone(&ends);
        if event == Event::Refused && !admitted {
            drop(listener);
        } else {
            thread::spawn(move || run(listener, event, admitted, &own));
        }
        Self { address, event, ends }
    }

    /// Lifetimes that a test can wait for.
    pub(crate) fn settings(&self) -> Settings {
        let lifetime = if self.event == Event::Silence { 1 } else { 60 };
        Settings::new()
            .with_lifetime(Duration::from_secs(lifetime))
            .and_then(|settings| settings.with_handshake_timeout(Duration::from_millis(300)))
            .unwrap()
    }

    /// Ends the connection on which the client was admitted, and waits until it has.
    pub(crate) fn end_first(&self) {
        self.ends.store(true, Ordering::Relaxed);
        while self.ends.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        // What was sent has arrived.
        thread::sleep(Duration::from_millis(20));
    }
}

/// One connection.
struct Conn {
    stream: TcpStream,
    peer: RawPeer<RustCrypto>,
    unread: Vec<u8>,
}

fn run(listener: TcpListener, event: Event, admitted: bool, ends: &AtomicBool) {
    if admitted && !event.is_of_first_connection() {
        let mut first = Conn::open(listener.accept().unwrap().0, u32::MAX - 1).unwrap();
        first.serve_until(ends);
        match event {
            Event::IdleEnd | Event::Refused => drop(first),
            Event::IdleRetired => first.close(3, 1),
            _ => first.close(2, 1),
        }
        ends.store(false, Ordering::Relaxed);
    }
    let listener = if event == Event::Refused {
        // For a while there is no server.
        let address = listener.local_addr().unwrap();
        drop(listener);
        thread::sleep(Duration::from_millis(200));
        TcpListener::bind(address).unwrap()
    } else {
        listener
    };
    let accept = || listener.accept().unwrap().0;
    if event == Event::IdleRetired {
        loop {
            let mut stream = accept();
            let _ = stream.read(&mut [0; 74]);
        }
    }
    if !event.is_of_idle() && event != Event::Refused {
        strike(accept(), event);
    }
    loop {
        if let Some(mut good) = Conn::open(accept(), u32::MAX - 1) {
            thread::spawn(move || good.serve());
        }
    }
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

fn strike(mut stream: TcpStream, event: Event) {
    match event {
        Event::HelloEnd => _ = stream.read_exact(&mut [0; 74]),
        Event::HelloForeign => {
            let _ = stream.read_exact(&mut [0; 74]);
            let _ = stream.write_all(&b"HTTP/1.0 503 Service Unavailable\r\n".repeat(3));
            thread::sleep(Duration::from_millis(50));
        }
        Event::HelloReset => {
            let _ = stream.read_exact(&mut [0; 10]);
            reset(stream);
        }
        Event::HelloSilence => {
            thread::spawn(move || stream.read_to_end(&mut Vec::new()));
        }
        _ => {
            let most = if event == Event::BusyOver { SMALL } else { u32::MAX - 1 };
            let Some(conn) = Conn::open(stream, most) else {
                return;
            };
            conn.strike(event);
        }
    }
}

impl Conn {
    /// Shakes hands, as a server that reads messages of at most `most` bytes.
    fn open(mut stream: TcpStream, most: u32) -> Option<Self> {
        stream.set_nodelay(true).unwrap();
        let mut hello = [0; 74];
        stream.read_exact(&mut hello).ok()?;
        let mut handshake = RawHandshake::new(RustCrypto, 7);
        handshake.settings = raw_settings(u16::MAX, 1024, most, 60_000);
        let (welcome, peer) = handshake.server(&hello)?;
        stream.write_all(&welcome).ok()?;
        let unread = Vec::new();
        Some(Self { stream, peer, unread })
    }

    fn say(&mut self, frames: &[u8]) {
        let record = self.peer.seal(frames);
        let _ = self.stream.write_all(&record);
    }

    fn close(mut self, code: u8, last: u32) {
        self.say(&raw_frame(8, last, &[code]));
    }

    /// The frames of the next record; none where the stream has ended.
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

    fn answer(&mut self, (kind, id, body): (u8, u32, Vec<u8>)) {
        match kind {
            1 => self.say(&raw_frame(1, id, &body)),
            6 => self.say(&raw_frame(7, 0, &body)),
            _ => {}
        }
    }

    fn serve(&mut self) {
        self.serve_as(None);
    }

    /// Answers with `answer`, or with what was asked.
    fn serve_as(&mut self, answer: Option<&[u8]>) {
        let mut begun = None;
        while let Some(frames) = self.frames() {
            for (kind, id, body) in frames {
                // Of a message in parts the number is enough of an answer, once it is whole.
                match kind {
                    2 => {
                        let (total, part) = body.split_first_chunk::<4>().unwrap();
                        begun = Some((id, usize::try_from(u32::from_be_bytes(*total)).unwrap() - part.len()));
                    }
                    3 => {
                        begun = begun.map(|(id, left)| (id, left - body.len()));
                        if let Some((id, 0)) = begun {
                            self.say(&raw_frame(1, id, b"whole"));
                        }
                    }
                    1 => self.answer((kind, id, answer.map_or(body, <[u8]>::to_vec))),
                    _ => self.answer((kind, id, body)),
                }
            }
        }
    }

    fn serve_until(&mut self, ends: &AtomicBool) {
        self.stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        while !ends.load(Ordering::Relaxed) {
            if let Some(frames) = self.frames() {
                for frame in frames {
                    self.answer(frame);
                }
            }
        }
    }

    /// Waits for the request, and says its number. Pings are answered, if `hears`.
    fn request(&mut self, hears: bool) -> Option<u32> {
        loop {
            for (kind, id, body) in self.frames()? {
                match kind {
                    1 | 2 => return Some(id),
                    6 if hears => self.say(&raw_frame(7, 0, &body)),
                    _ => {}
                }
            }
        }
    }

    fn strike(mut self, event: Event) {
        let hears = !matches!(event, Event::UnheardEnd | Event::UnheardReset | Event::WritingReset);
        let Some(id) = self.request(hears) else { return };
        match event {
            // What has come is read, so that the end is one, and no reset.
            Event::UnheardEnd | Event::End => {}
            Event::PartThenEnd => self.end_in_the_middle(),
            Event::UnheardReset | Event::PartThenReset | Event::Reset => reset(self.stream),
            Event::WritingReset => {
                // More than has come of the first is the second's.
                let mut some = vec![0; 500_000];
                let _ = self.stream.read_exact(&mut some);
                reset(self.stream);
            }
            Event::Tampered => {
                let mut record = self.peer.seal(&raw_frame(1, id, b"changed"));
                record.iter_mut().skip(5).for_each(|byte| *byte ^= 1);
                let _ = self.stream.write_all(&record);
                self.wait_for_end();
            }
            Event::CloseBefore => {
                self.say(&raw_frame(8, id - 1, &[2]));
                self.wait_for_end();
            }
            Event::CloseThenEnd => self.close(2, id),
            Event::CloseIdle => self.close(1, id),
            Event::CloseProtocol => self.close(4, id),
            Event::Silence => self.wait_for_end(),
            Event::OnlyPongs => while self.request(true).is_some() {},
            Event::Refuse(code) => {
                self.say(&raw_frame(4, id, &[code]));
                self.serve_as(Some(SAME));
            }
            Event::BusyOver => {
                let Some(second) = self.request(true) else { return };
                self.say(&raw_frame(4, second, &[1]));
                self.say(&raw_frame(1, id, b"first"));
                self.serve_as(Some(SAME));
            }
            other => panic!("{other:?} is of another moment"),
        }
    }

    /// Ends the stream while the client still sends, more than the system holds of it, and without
    /// a reset before it has heard of the end.
    fn end_in_the_middle(self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        thread::sleep(Duration::from_millis(300));
    }

    fn wait_for_end(&mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}
