//! A client and a server on a virtual clock, and a link between them that a test can modify.

use core::fmt;
use core::time::Duration;
use std::boxed::Box;
use std::vec::Vec;

use super::CountingRng;
use crate::outgoing::Outgoing as _;
use crate::send_queue::SendQueue;
use crate::{
    BufferSizes, ClientConnection, ClientEvent, ClientKeyRef, CloseReason, Connection, ConnectionError, EntropyError,
    Error, HeapPartials, Instant, KeyRef, OutgoingRequest, Reassembly, Received, RecvBuf, Refusal, RequestId, Role,
    ServerConnection, ServerEvent, ServerKeyRef, Settings,
};

/// Steps that a [`Pair`] may take in all, so that a test cannot loop forever.
const STEPS: usize = 1_000_000;

/// A pair took more steps than are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepsExhausted;

/// An event of a pair's client, with bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "tests match all of it")]
pub enum ClientLog {
    /// The handshake is complete.
    Established,
    /// The answer to the request of this number.
    Answer(u32, Vec<u8>),
    /// The request of this number was refused.
    Refused(u32, Refusal),
    /// The answer to the ping of this number.
    Pong(u64),
    /// The server closes.
    Closing(CloseReason),
    /// The connection has ended.
    Ended(ConnectionError),
}

/// An event of a pair's server, with bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "tests match all of it")]
pub enum ServerLog {
    /// The handshake is complete.
    Established,
    /// The request of this number.
    Request(u32, Vec<u8>),
    /// A ping.
    Ping,
    /// The request of this number was abandoned before it was complete.
    Abandoned(u32),
    /// The client cancelled the request of this number.
    Cancelled(u32),
    /// The client closes.
    Closing(CloseReason),
    /// The connection has ended.
    Ended(ConnectionError),
}

type Partials = Reassembly<HeapPartials>;

/// Adds a part, and returns the message if it is complete.
fn part(partials: &mut Partials, id: RequestId, bytes: &[u8], last: bool) -> Option<Vec<u8>> {
    partials.part(id, bytes).expect("it has begun");
    let (mut body, length) = partials.take(id).filter(|_| last)?;
    body.truncate(length);
    Some(body)
}

/// One side: its connection, unread bytes, and sent bytes that the link has not carried yet.
struct Side<R: Role, H: KeyRef<R>> {
    machine: Connection<R, H>,
    inbox: RecvBuf<Vec<u8>>,
    sent: Vec<u8>,
    queue: SendQueue<R::Outgoing, Vec<u8>>,
    partials: Partials,
    /// Whether the end is in the log.
    ended: bool,
    /// Whether the end of the stream is still to be reported to the other side.
    hang_up: bool,
}

impl<R: Role, H: KeyRef<R>> Side<R, H> {
    fn new(machine: Connection<R, H>) -> Self {
        Self {
            machine,
            inbox: RecvBuf::new(Vec::new()),
            sent: Vec::new(),
            queue: SendQueue::new(),
            partials: Reassembly::default(),
            ended: false,
            hang_up: false,
        }
    }

    /// Seals what can be sent, and returns whether anything was.
    fn send(&mut self, now: Instant) -> bool {
        let longest = self.queue.iter().map(|(message, _)| message.length()).max();
        let size = self.machine.seal_size(longest.unwrap_or(0));
        let mut out = std::vec![0; size.max(BufferSizes::TRANSMIT)];
        let written = self
            .queue
            .seal(&mut self.machine, now, &mut out, |_, _| {})
            .unwrap_or(0);
        self.sent.extend(out.into_iter().take(written));
        written > 0
    }

    /// Passes the next event to `take` and drops the bytes that it consumed. `None` if something
    /// has to happen first.
    fn receive<T>(
        &mut self,
        now: Instant,
        take: impl FnOnce(&mut Partials, R::Event<'_>) -> T,
    ) -> Result<Option<T>, ConnectionError> {
        loop {
            match self.machine.recv(now, self.inbox.unread())? {
                Received::NeedMore { total } => {
                    assert!(total > self.inbox.len(), "{total} bytes are needed and are present");
                    return Ok(None);
                }
                Received::Wait(_) => return Ok(None),
                Received::Skip => {}
                Received::Event(event) => {
                    let taken = take(&mut self.partials, event);
                    return Ok(Some(taken));
                }
            }
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(1 << 16) {
            let space = self.inbox.space(self.inbox.len() + part.len()).expect("a vector grows");
            for (place, byte) in space.iter_mut().zip(part) {
                *place = *byte;
            }
            let fitted = space.len().min(part.len());
            self.inbox.filled(fitted);
            if fitted < part.len() {
                self.deliver(part.get(fitted..).unwrap_or_default());
            }
        }
    }

    /// Returns the end, once.
    fn note_end(&mut self) -> Option<ConnectionError> {
        let end = self.machine.end().filter(|_| !self.ended)?;
        self.ended = true;
        self.hang_up = true;
        Some(end)
    }
}

/// A client and a server, each with its key, on one virtual clock. The server answers by itself:
/// with the handler that [`answer_with`](Self::answer_with) sets, or else with the body of the
/// request.
///
/// ```
/// use core::time::Duration;
/// use falco_core::testing::{ClientLog, Pair, classic_key};
/// use falco_core::{ConnectionError, Settings};
///
/// let (client, server) = (classic_key(1), classic_key(1));
/// let mut pair = Pair::new(&client, &server, &Settings::new(), 7)?;
/// pair.request(b"hello")?;
/// pair.advance(Duration::from_millis(59_999)).unwrap();
/// assert_eq!(pair.client_log, [ClientLog::Established, ClientLog::Answer(1, b"hello".to_vec())]);
/// pair.advance(Duration::from_millis(1)).unwrap();
/// assert_eq!(pair.client_log.last(), Some(&ClientLog::Ended(ConnectionError::Expired)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pair<'l, A: ClientKeyRef, B: ServerKeyRef> {
    now: Instant,
    client: Side<crate::ClientSide, A>,
    server: Side<crate::ServerSide, B>,
    handler: fn(&[u8]) -> Option<Vec<u8>>,
    steps: usize,
    /// The events of the client, in order.
    pub client_log: Vec<ClientLog>,
    /// The events of the server, in order.
    pub server_log: Vec<ServerLog>,
    /// Called with all bytes in transit, which it may modify.
    pub link: Link<'l>,
}

/// Modifies bytes in transit. The first argument is `true` for bytes to the server.
pub type Link<'l> = Box<dyn FnMut(bool, &mut Vec<u8>) + 'l>;

impl<A: ClientKeyRef, B: ServerKeyRef> fmt::Debug for Pair<'_, A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pair = f.debug_struct("Pair");
        pair.field("now", &self.now)
            .field("client", &self.client.machine)
            .field("server", &self.server.machine);
        pair.field("client_log", &self.client_log)
            .field("server_log", &self.server_log)
            .finish_non_exhaustive()
    }
}

impl<A: ClientKeyRef, B: ServerKeyRef> Pair<'_, A, B> {
    /// A pair at the epoch, before the first byte. Its entropy depends on `seed` alone.
    ///
    /// # Errors
    /// None: the counting generator does not fail.
    pub fn new(client: A, server: B, settings: &Settings, seed: u64) -> Result<Self, EntropyError> {
        let mut rng = CountingRng::new(seed);
        Ok(Self {
            now: Instant::ZERO,
            client: Side::new(ClientConnection::new(client, settings, Instant::ZERO, &mut rng)?),
            server: Side::new(ServerConnection::new(server, settings, Instant::ZERO, &mut rng)?),
            handler: |body| Some(body.to_vec()),
            steps: STEPS,
            client_log: Vec::new(),
            server_log: Vec::new(),
            link: Box::new(|_, _| {}),
        })
    }

    /// From now on the server answers with what `handler` returns, and refuses the request if that
    /// is `None`.
    pub fn answer_with(&mut self, handler: fn(&[u8]) -> Option<Vec<u8>>) {
        self.handler = handler;
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The client's connection.
    pub const fn client(&mut self) -> &mut ClientConnection<A> {
        &mut self.client.machine
    }

    /// The server's connection.
    pub const fn server(&mut self) -> &mut ServerConnection<B> {
        &mut self.server.machine
    }

    /// Gives the client a request, which it sends as soon as it can.
    ///
    /// # Errors
    /// Those of [`Connection::request`].
    pub fn request(&mut self, body: &[u8]) -> Result<(), Error> {
        let message: OutgoingRequest = self.client.machine.request(body.len())?;
        self.client.queue.push(message, body.to_vec());
        Ok(())
    }

    /// Makes the client send a ping.
    ///
    /// # Errors
    /// Those of [`Connection::ping`].
    pub fn ping(&mut self) -> Result<(), Error> {
        self.client.machine.ping().map(|_| ())
    }

    /// Closes both sides.
    pub fn close(&mut self) {
        self.client.machine.close(self.now, CloseReason::Done);
        self.server.machine.close(self.now, CloseReason::Done);
    }

    /// Passes bytes to the server that its client did not send.
    pub fn inject_to_server(&mut self, bytes: &[u8]) {
        self.server.deliver(bytes);
    }

    /// Passes bytes to the client that its server did not send.
    pub fn inject_to_client(&mut self, bytes: &[u8]) {
        self.client.deliver(bytes);
    }

    /// Lets time pass, stops at every deadline on the way, and does everything that is due.
    ///
    /// # Errors
    /// [`StepsExhausted`].
    pub fn advance(&mut self, duration: Duration) -> Result<(), StepsExhausted> {
        let until = self.now + duration;
        self.settle()?;
        while self.now < until {
            let deadlines = [self.client.machine.poll_timeout(), self.server.machine.poll_timeout()];
            let next = deadlines.into_iter().flatten().min().unwrap_or(until);
            self.now = next.clamp(self.now, until);
            // An error is in the log.
            let _ = self.client.machine.handle_timeout(self.now);
            let _ = self.server.machine.handle_timeout(self.now);
            self.settle()?;
        }
        Ok(())
    }

    /// Carries bytes until nothing moves. No time passes.
    ///
    /// # Errors
    /// [`StepsExhausted`].
    pub fn settle(&mut self) -> Result<(), StepsExhausted> {
        loop {
            self.steps = self.steps.checked_sub(1).ok_or(StepsExhausted)?;
            let mut moved = self.client.send(self.now) | self.server.send(self.now);
            for to_server in [true, false] {
                let mut bytes = core::mem::take(if to_server {
                    &mut self.client.sent
                } else {
                    &mut self.server.sent
                });
                if !bytes.is_empty() {
                    (self.link)(to_server, &mut bytes);
                    if to_server {
                        self.server.deliver(&bytes);
                    } else {
                        self.client.deliver(&bytes);
                    }
                }
            }
            moved |= self.step_client() | self.step_server();
            if !moved && !self.hang_up() {
                return Ok(());
            }
        }
    }

    /// Reports the end of the stream to the peer of a side that has ended, once all that it sent
    /// has arrived. Returns whether there was one.
    fn hang_up(&mut self) -> bool {
        let now = self.now;
        if core::mem::take(&mut self.client.hang_up) {
            let _ = self.server.machine.end_of_stream(now, &self.server.inbox.unread());
            return true;
        }
        if core::mem::take(&mut self.server.hang_up) {
            let _ = self.client.machine.end_of_stream(now, &self.client.inbox.unread());
            return true;
        }
        false
    }

    fn step_client(&mut self) -> bool {
        let side = &mut self.client;
        let mut moved = false;
        while let Ok(Some(log)) = side.receive(self.now, client_log) {
            self.client_log.extend(log);
            moved = true;
        }
        if let Some(end) = side.note_end() {
            self.client_log.push(ClientLog::Ended(end));
            moved = true;
        }
        moved
    }

    fn step_server(&mut self) -> bool {
        let side = &mut self.server;
        let mut moved = false;
        while let Ok(Some((log, id))) = side.receive(self.now, server_log) {
            if let (Some(ServerLog::Request(_, body)), Some(id)) = (&log, id) {
                answer(side, id, (self.handler)(body));
            }
            self.server_log.extend(log);
            moved = true;
        }
        if let Some(end) = side.note_end() {
            self.server_log.push(ServerLog::Ended(end));
            moved = true;
        }
        moved
    }
}

/// Applies an event, and returns its log entry.
fn client_log(partials: &mut Partials, event: ClientEvent<'_>) -> Option<ClientLog> {
    match event {
        ClientEvent::Established => Some(ClientLog::Established),
        ClientEvent::Answer { id, body } => Some(ClientLog::Answer(id.number(), body.to_vec())),
        ClientEvent::Begin { id, total, body } => {
            partials.begin(id, total, body).expect("vectors grow");
            None
        }
        ClientEvent::Part { id, body, last } => {
            part(partials, id, body, last).map(|body| ClientLog::Answer(id.number(), body))
        }
        ClientEvent::Refused { id, refusal } => {
            partials.forget(id);
            Some(ClientLog::Refused(id.number(), refusal))
        }
        ClientEvent::Pong { ping } => Some(ClientLog::Pong(ping.0)),
        #[cfg(feature = "streams")]
        ClientEvent::Opened { .. } | ClientEvent::Credit { .. } => None,
        ClientEvent::Closing { reason } => Some(ClientLog::Closing(reason)),
    }
}

/// Applies an event, and returns its log entry, and the id of a request that is complete.
fn server_log(partials: &mut Partials, event: ServerEvent<'_>) -> (Option<ServerLog>, Option<RequestId>) {
    let log = match event {
        ServerEvent::Established => ServerLog::Established,
        ServerEvent::Ping => ServerLog::Ping,
        ServerEvent::Request { id, body } => {
            return (Some(ServerLog::Request(id.number(), body.to_vec())), Some(id));
        }
        ServerEvent::Begin { id, total, body } => {
            partials.begin(id, total, body).expect("vectors grow");
            return (None, None);
        }
        ServerEvent::Part { id, body, last } => {
            let whole = part(partials, id, body, last);
            return (whole.map(|body| ServerLog::Request(id.number(), body)), Some(id));
        }
        ServerEvent::Abandoned { id } => {
            partials.forget(id);
            ServerLog::Abandoned(id.number())
        }
        ServerEvent::Cancelled { id } => ServerLog::Cancelled(id.number()),
        #[cfg(feature = "streams")]
        ServerEvent::Opened { .. } | ServerEvent::Credit { .. } => return (None, None),
        ServerEvent::Closing { reason } => ServerLog::Closing(reason),
    };
    (Some(log), None)
}

fn answer<H: ServerKeyRef>(side: &mut Side<crate::ServerSide, H>, id: RequestId, body: Option<Vec<u8>>) {
    if let Some(body) = body
        && let Ok(message) = side.machine.answer(id, body.len())
    {
        side.queue.push(message, body);
    } else {
        // It is in flight, because it arrived in this step.
        let _ = side.machine.refuse(id, Refusal::Failed);
    }
}
