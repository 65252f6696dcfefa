//! Our side of the interop tests: the machines of falco-core, each driven over a socket by a small blocking loop, in the same thread.

use core::net::SocketAddr;
use core::ops::Deref;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::RwLock;
use std::thread::{self, JoinHandle};

use falco_core::noise::{KeyRing, NoiseClient, NoiseSecret, NoiseServer, RequestSlot};
use falco_core::testing::{ClientLog, ServerLog};
use falco_core::{
    Client, ClientConnection, ClientEvent, Connection, Error, Instant, Key, OutgoingAnswer, OutgoingRequest, Partial,
    Reassembly, Received, Refusal, RequestId, Role, RustCrypto, Server, ServerEvent, Settings,
    TRANSMIT_SIZE, Wire,
};
use getrandom::SysRng;

use super::pipe::{Came, Pipe};
use super::{Options, PATIENCE, bodies};

type Table = Vec<RequestSlot>;
type Ring = RwLock<KeyRing<[Option<NoiseSecret>; 1]>>;
type ClientKey = NoiseClient<Table, RustCrypto, &'static str>;
type ServerKey = NoiseServer<Table, Ring, RustCrypto, &'static str>;

fn settings(options: &Options) -> Settings {
    let settings = Settings::new().with_max_message(options.max_message);
    settings
        .with_max_record(options.max_record)
        .and_then(|settings| settings.with_max_in_flight(options.max_in_flight))
        .expect("options in range")
}

fn key(options: &Options) -> Key {
    Key::from_bytes(options.secret).expect("not all zeros")
}

/// A message on its way, of either side.
pub(crate) trait Message {
    /// Its number once all of it has gone.
    fn done(&self) -> Option<u32>;
}

impl Message for OutgoingRequest {
    fn done(&self) -> Option<u32> {
        let number = self.id().map(RequestId::number);
        self.is_done().then_some(number.unwrap_or_default())
    }
}

impl Message for OutgoingAnswer {
    fn done(&self) -> Option<u32> {
        self.is_done().then_some(self.id().number())
    }
}

/// One side: its machine, its socket, and what is between them.
struct Side<R: Role, H: Deref<Target: Wire<R>>> {
    machine: Connection<R, H>,
    pipe: Pipe,
    unread: Vec<u8>,
    epoch: std::time::Instant,
    queue: VecDeque<(R::Outgoing, Vec<u8>)>,
    /// Bodies that have gone, by their number.
    gone: BTreeMap<u32, Vec<u8>>,
    partials: Reassembly<Vec<Partial<Vec<u8>>>>,
}

impl<R: Role<Outgoing: Message>, H: Deref<Target: Wire<R>>> Side<R, H> {
    fn new(key: H, options: &Options, stream: TcpStream) -> Self {
        Self {
            machine: Connection::new(key, &settings(options), Instant::ZERO, &mut SysRng).expect("entropy"),
            pipe: Pipe::new(stream),
            unread: Vec::new(),
            epoch: std::time::Instant::now(),
            queue: VecDeque::new(),
            gone: BTreeMap::new(),
            partials: Reassembly::new(Vec::new()),
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.epoch.elapsed()
    }

    /// Sends one output's worth of what may go, and says whether anything did. The message at the front of the queue goes to its end, so that all
    /// take turns.
    fn send(&mut self) -> bool {
        let longest = self.queue.iter().map(|(_, body)| body.len()).max().unwrap_or(0);
        let mut out = vec![0; self.machine.seal_size(longest).max(TRANSMIT_SIZE)];
        let now = self.now();
        let messages = self.queue.iter_mut().map(|(message, body)| (message, body.as_slice()));
        let written = self.machine.seal(now, messages, &mut out).unwrap_or(0);
        self.pipe.send(out.get(..written).expect("no more than there is"));
        self.queue.rotate_left(self.queue.len().min(1));
        for (message, body) in core::mem::take(&mut self.queue) {
            match message.done() {
                Some(number) => drop(self.gone.insert(number, body)),
                None => self.queue.push_back((message, body)),
            }
        }
        written > 0
    }

    /// The next event with the bytes that it takes; none where something has to come first, or the connection has ended.
    fn receive(&mut self) -> Option<(usize, R::Event)> {
        loop {
            let now = self.now();
            match self.machine.recv(now, &mut self.unread) {
                Ok(Received::Event { consumed, event }) => return Some((consumed, event)),
                Ok(Received::Skip { consumed }) => self.consume(consumed),
                Ok(Received::NeedMore { .. } | Received::TransmitFirst | Received::AnswerFirst | _) | Err(_) => {
                    return None;
                }
            }
        }
    }

    fn consume(&mut self, count: usize) {
        self.unread.drain(..count);
    }

    /// Waits for bytes, for the machine's deadline at most.
    fn wait(&mut self) {
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

    fn body(&self, range: core::ops::Range<usize>) -> Vec<u8> {
        self.unread.get(range).expect("within the unread bytes").to_vec()
    }

    /// Keeps a part, and hands out the message where it was the last.
    fn part(&mut self, id: RequestId, range: core::ops::Range<usize>, last: bool) -> Option<Vec<u8>> {
        let bytes = self.body(range);
        self.partials.part(id, &bytes).expect("vectors grow");
        last.then(|| self.partials.take(id).expect("all of it has come").0)
    }

    /// The last words, then the end: whether the other side has ended its direction within a second too.
    fn finish(&mut self) -> bool {
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

/// Our client, over one connection.
pub(crate) struct OurClient {
    side: Side<Client, Box<ClientKey>>,
    pub(crate) log: Vec<ClientLog>,
}

impl OurClient {
    /// Connects and goes through the handshake, to its end or the connection's.
    pub(crate) fn connect(address: SocketAddr, options: &Options) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
        let key = NoiseClient::new(key(options), options.context, RustCrypto).expect("a short context");
        let key = Box::new(key.with_rekey_period(options.rekey_period));
        let side = Side::new(key, options, stream);
        let mut client = Self { side, log: Vec::new() };
        client.run_until(|client| !client.log.is_empty());
        client
    }

    pub(crate) const fn machine(&mut self) -> &mut ClientConnection<impl Deref<Target = ClientKey> + use<>> {
        &mut self.side.machine
    }

    /// Queues a request; it goes when the loop runs.
    pub(crate) fn request(&mut self, body: Vec<u8>) -> Result<(), Error> {
        let message = self.side.machine.request(body.len())?;
        self.side.queue.push_back((message, body));
        Ok(())
    }

    /// Sends the first frame of the last request queued, and gives its number.
    pub(crate) fn begin(&mut self) -> RequestId {
        self.side.send();
        let begun = self.side.queue.back().and_then(|(message, _)| message.id());
        begun.expect("a part of it has gone, and not all")
    }

    /// The body of a request that has gone.
    pub(crate) fn asked(&self, number: u32) -> &[u8] {
        self.side.gone.get(&number).expect("it has gone")
    }

    /// Sends and receives until it is `enough`, or the end, which is in the log.
    pub(crate) fn run_until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            while self.side.send() {}
            while let Some((consumed, event)) = self.side.receive() {
                self.take(event);
                self.side.consume(consumed);
            }
            if let Some(end) = self.side.machine.end() {
                self.log.push(ClientLog::Ended(end));
                return;
            }
            if !enough(self) && !self.side.send() {
                self.side.wait();
            }
        }
    }

    fn take(&mut self, event: ClientEvent) {
        self.log.push(match event {
            ClientEvent::Established => ClientLog::Established,
            ClientEvent::Answer { id, body } => ClientLog::Answer(id.number(), self.side.body(body)),
            ClientEvent::Begin { id, total, body } => {
                let first = self.side.body(body);
                return self.side.partials.begin(id, total, &first).expect("vectors grow");
            }
            ClientEvent::Part { id, body, last } => match self.side.part(id, body, last) {
                Some(body) => ClientLog::Answer(id.number(), body),
                None => return,
            },
            ClientEvent::Refused { id, refusal } => {
                self.side.partials.forget(id);
                ClientLog::Refused(id.number(), refusal)
            }
            ClientEvent::Pong { .. } => ClientLog::Pong(0),
            ClientEvent::Closing { reason } => ClientLog::Closing(reason),
            _ => return,
        });
    }

    /// Closes in good order; whether the other side has ended too.
    pub(crate) fn close(&mut self) -> bool {
        let now = self.side.now();
        self.side.machine.close(now, falco_core::CloseReason::Done);
        self.run_until(|_| false);
        self.side.finish()
    }
}

/// Our server, which serves the first that connects on a thread, and then gives the log.
pub(crate) struct OurServer {
    pub(crate) address: SocketAddr,
    serving: JoinHandle<Vec<ServerLog>>,
}

impl OurServer {
    pub(crate) fn start(options: &Options) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let ring = KeyRing::new([const { None }; 1], &mut SysRng).expect("entropy");
        let ring = RwLock::new(ring);
        let secret = NoiseSecret::derive(key(options), &RustCrypto);
        ring.write().expect("nobody has panicked").add(secret).expect("room for one");
        let key = NoiseServer::new(ring, options.context, RustCrypto).expect("a short context");
        let key = Box::new(key.with_rekey_period(options.rekey_period));
        let options = options.clone();
        let serving = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client connects");
            let (side, held) = (Side::new(key, &options, stream), Vec::new());
            Serving { side, held, log: Vec::new() }.run()
        });
        Self { address, serving }
    }

    pub(crate) fn log(self) -> Vec<ServerLog> {
        self.serving.join().expect("serving does not panic")
    }
}

struct Serving {
    side: Side<Server, Box<ServerKey>>,
    /// Requests that are answered by nothing but a cancellation.
    held: Vec<RequestId>,
    log: Vec<ServerLog>,
}

impl Serving {
    fn run(mut self) -> Vec<ServerLog> {
        loop {
            // One output, then what has come: a request is not kept waiting by a long answer.
            let sent = self.side.send();
            while let Some((consumed, event)) = self.side.receive() {
                self.take(event);
                self.side.consume(consumed);
            }
            if let Some(end) = self.side.machine.end() {
                self.log.push(ServerLog::Ended(end));
                self.side.finish();
                return self.log;
            }
            if !sent && !self.side.send() {
                self.side.wait();
            }
        }
    }

    fn take(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Established => self.log.push(ServerLog::Established),
            ServerEvent::Request { id, body } => self.handle(id, self.side.body(body)),
            ServerEvent::Begin { id, total, body } => {
                let first = self.side.body(body);
                self.side.partials.begin(id, total, &first).expect("vectors grow");
            }
            ServerEvent::Part { id, body, last } => {
                if let Some(body) = self.side.part(id, body, last) {
                    self.handle(id, body);
                }
            }
            ServerEvent::Abandoned { id } => {
                self.side.partials.forget(id);
                self.log.push(ServerLog::Abandoned(id.number()));
            }
            ServerEvent::Cancelled { id } => {
                if self.held.contains(&id) {
                    self.refuse(id, Refusal::Cancelled);
                }
                self.log.push(ServerLog::Cancelled(id.number()));
            }
            ServerEvent::Closing { reason } => self.log.push(ServerLog::Closing(reason)),
            ServerEvent::Ping => self.log.push(ServerLog::Ping),
            _ => {}
        }
    }

    fn handle(&mut self, id: RequestId, body: Vec<u8>) {
        match body.as_slice() {
            b"hold" => self.held.push(id),
            b"refuse 1" => self.refuse(id, Refusal::Busy),
            b"refuse 3" => self.refuse(id, Refusal::Failed),
            b"refuse 6" => self.refuse(id, Refusal::AnswerTooLarge),
            _ => {
                let answer = bodies::transform(&body);
                let message = self.side.machine.answer(id, answer.len());
                // The latest first: answers go in another order than requests came.
                self.side.queue.push_front((message.expect("it waits"), answer));
            }
        }
        self.log.push(ServerLog::Request(id.number(), body));
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) {
        self.side.machine.refuse(id, refusal).expect("it waits");
    }
}
