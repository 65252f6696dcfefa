//! One of our machines over a socket: a small blocking loop's steps, the same for a client and a
//! server.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::TcpStream;

use falco_core::{
    BufferSizes, Connection, HeapPartials, Instant, KeyRef, OutgoingAnswer, OutgoingRequest, Reassembly, Received,
    RequestId, Role, Settings, Unread,
};
use getrandom::SysRng;

use super::pipe::{Came, Pipe};
use super::{Options, PATIENCE};

fn settings(options: &Options) -> Settings {
    let settings = Settings::new().with_max_message(options.max_message);
    settings
        .with_max_record(options.max_record)
        .and_then(|settings| settings.with_max_in_flight(options.max_in_flight))
        .expect("options in range")
}

/// A message on its way, of either side.
pub(super) trait Message {
    fn has_gone(&self) -> bool;
    fn number(&self) -> Option<RequestId>;
}

impl Message for OutgoingRequest {
    fn has_gone(&self) -> bool {
        self.is_done()
    }

    fn number(&self) -> Option<RequestId> {
        self.id()
    }
}

impl Message for OutgoingAnswer {
    fn has_gone(&self) -> bool {
        self.is_done()
    }

    fn number(&self) -> Option<RequestId> {
        Some(self.id())
    }
}

/// Messages of which a part has come.
pub(super) type Partials = Reassembly<HeapPartials>;

/// Keeps a part, and hands out the message where it was the last.
pub(super) fn part(partials: &mut Partials, id: RequestId, bytes: &[u8], last: bool) -> Option<Vec<u8>> {
    partials.part(id, bytes).expect("vectors grow");
    last.then(|| partials.take(id).expect("all of it has come").0)
}

/// One side: its machine, its socket, and what is between them.
pub(super) struct Side<R: Role, H: KeyRef<R>> {
    pub(super) machine: Connection<R, H>,
    pipe: Pipe,
    unread: Vec<u8>,
    epoch: std::time::Instant,
    pub(super) queue: VecDeque<(R::Outgoing, Vec<u8>)>,
    /// Bodies that have gone, in the order in which they have.
    pub(super) gone: Vec<(RequestId, Vec<u8>)>,
    partials: Partials,
}

impl<R: Role<Outgoing: Message>, H: KeyRef<R>> Side<R, H> {
    pub(super) fn new(key: H, options: &Options, stream: TcpStream) -> Self {
        Self {
            machine: Connection::new(key, &settings(options), Instant::ZERO, &mut SysRng).expect("entropy"),
            pipe: Pipe::new(stream),
            unread: Vec::new(),
            epoch: std::time::Instant::now(),
            queue: VecDeque::new(),
            gone: Vec::new(),
            partials: Reassembly::default(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + self.epoch.elapsed()
    }

    /// Sends one output's worth of what may go, and says whether anything did. The message at the
    /// front of the queue goes to its end, so that all take turns.
    pub(super) fn send(&mut self) -> bool {
        let longest = self.queue.iter().map(|(_, body)| body.len()).max().unwrap_or(0);
        let mut out = vec![0; self.machine.seal_size(longest).max(BufferSizes::TRANSMIT)];
        let now = self.now();
        let messages = self.queue.iter_mut().map(|(message, body)| (message, body.as_slice()));
        let written = self.machine.seal(now, messages, &mut out).unwrap_or(0);
        self.pipe.send(out.get(..written).expect("no more than there is"));
        self.queue.rotate_left(self.queue.len().min(1));
        for (message, body) in core::mem::take(&mut self.queue) {
            if message.has_gone() {
                self.gone.extend(message.number().map(|number| (number, body)));
            } else {
                self.queue.push_back((message, body));
            }
        }
        written > 0
    }

    /// Hands the next event to `take` and drops the bytes that it takes; none where something has
    /// to come first, or the connection has ended.
    pub(super) fn receive<T>(&mut self, take: impl FnOnce(&mut Partials, R::Event<'_>) -> T) -> Option<T> {
        loop {
            let now = self.now();
            let mut start = 0;
            match self.machine.recv(now, Unread::new(&mut self.unread, &mut start)) {
                Ok(Received::Event(event)) => {
                    let taken = take(&mut self.partials, event);
                    self.unread.drain(..start);
                    return Some(taken);
                }
                Ok(Received::Skip) => drop(self.unread.drain(..start)),
                Ok(Received::NeedMore { .. } | Received::Wait(_) | _) | Err(_) => {
                    return None;
                }
            }
        }
    }

    /// Waits for bytes, for the machine's deadline at most.
    pub(super) fn wait(&mut self) {
        let now = self.now();
        let due = self.machine.poll_timeout().map_or(PATIENCE, |due| due.since(now));
        let came = self.pipe.read(due.min(PATIENCE));
        let now = self.now();
        match came {
            Came::Bytes(bytes) => self.unread.extend(bytes),
            // What ended a connection is in the machine.
            Came::Nothing => drop(self.machine.handle_timeout(now)),
            Came::End => drop(self.machine.end_of_stream(now, &self.unread)),
        }
    }

    /// The last words, then the end: whether the other side has ended its direction within a second
    /// too.
    pub(super) fn finish(&mut self) -> bool {
        while self.send() {}
        self.pipe.end_sending();
        loop {
            match self.pipe.read(Duration::from_secs(1)) {
                Came::Bytes(_) => {}
                Came::Nothing => return false,
                Came::End => return true,
            }
        }
    }
}
