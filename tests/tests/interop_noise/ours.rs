//! Our side of the interop tests: a client that is told what to do, and a server on a thread, on
//! the machines of falco-core. How a machine is driven over a socket is in `side.rs`.

use core::net::{Ipv4Addr, SocketAddr};
use std::net::{TcpListener, TcpStream};
use std::sync::RwLock;
use std::thread::{self, JoinHandle};

use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{ClientLog, ServerLog};
use falco_core::{
    ClientConnection, ClientEvent, ClientSide, CloseReason, Error, Key, Refusal, RequestId, RustCrypto, ServerEvent,
    ServerSide,
};
use getrandom::SysRng;

use super::side::{Partials, Side, part};
use super::{Options, PATIENCE, bodies};

type Ring = RwLock<KeyRing<[Option<NoiseSecret>; 1]>>;
type ClientKey = NoiseClient<HeapTable, RustCrypto, &'static str>;
type ServerKey = NoiseServer<HeapTable, Ring, RustCrypto, &'static str>;

fn key(options: &Options) -> Key {
    Key::from_bytes(options.secret).expect("not all zeros")
}

/// Our client, over one connection.
pub(crate) struct OurClient {
    side: Side<ClientSide, Box<ClientKey>>,
    pub(crate) log: Vec<ClientLog>,
}

impl OurClient {
    /// Connects, and sends nothing.
    pub(crate) fn start(address: SocketAddr, options: &Options) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
        let key = NoiseClient::new(key(options), options.context, RustCrypto).expect("a short context");
        let key = Box::new(key.with_rekey_period(options.rekey_period));
        let side = Side::new(key, options, stream);
        Self { side, log: Vec::new() }
    }

    /// Connects and goes through the handshake, to its end or the connection's.
    pub(crate) fn connect(address: SocketAddr, options: &Options) -> Self {
        let mut client = Self::start(address, options);
        client.run_until(|client| !client.log.is_empty());
        client
    }

    pub(crate) const fn machine(&mut self) -> &mut ClientConnection<Box<ClientKey>> {
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

    /// Sends the last request queued, all of it, and gives its number.
    pub(crate) fn send_whole(&mut self) -> RequestId {
        while self.side.send() {}
        self.side.gone.last().expect("it has gone").0
    }

    /// The body of a request that has gone.
    pub(crate) fn asked(&self, number: u32) -> &[u8] {
        let mut gone = self.side.gone.iter();
        let found = gone.find(|(id, _)| id.number() == number);
        &found.expect("it has gone").1
    }

    /// Sends and receives until it is `enough`, or the end, which is in the log.
    pub(crate) fn run_until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            while self.side.send() {}
            while let Some(log) = self.side.receive(client_log) {
                self.log.extend(log);
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

    /// Closes in good order; whether the other side has ended too.
    pub(crate) fn close(&mut self) -> bool {
        let now = self.side.now();
        self.side.machine.close(now, CloseReason::Done);
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
        ring.write()
            .expect("nobody has panicked")
            .add(secret)
            .expect("room for one");
        let key = NoiseServer::new(ring, options.context, RustCrypto).expect("a short context");
        let key = Box::new(key.with_rekey_period(options.rekey_period));
        let options = options.clone();
        let serving = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client connects");
            let (side, held) = (Side::new(key, &options, stream), Vec::new());
            Serving {
                side,
                held,
                log: Vec::new(),
            }
            .run()
        });
        Self { address, serving }
    }

    pub(crate) fn log(self) -> Vec<ServerLog> {
        self.serving.join().expect("serving does not panic")
    }
}

struct Serving {
    side: Side<ServerSide, Box<ServerKey>>,
    /// Requests that are answered by nothing but a cancellation.
    held: Vec<RequestId>,
    log: Vec<ServerLog>,
}

impl Serving {
    fn run(mut self) -> Vec<ServerLog> {
        loop {
            // One output, then what has come: a request is not kept waiting by a long answer.
            let sent = self.side.send();
            while let Some(heard) = self.side.receive(hear) {
                self.take(heard);
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

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Request(id, body) => self.handle(id, body),
            Heard::Cancelled(id) => {
                if self.held.contains(&id) {
                    self.refuse(id, Refusal::Cancelled);
                }
                self.log.push(ServerLog::Cancelled(id.number()));
            }
            Heard::Other(log) => self.log.extend(log),
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

/// An event takes effect, and is to be logged.
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
        ClientEvent::Pong { .. } => Some(ClientLog::Pong(0)),
        ClientEvent::Closing { reason } => Some(ClientLog::Closing(reason)),
        ClientEvent::Opened { .. } | ClientEvent::Credit { .. } | _ => None,
    }
}

/// What a server is to act on.
enum Heard {
    Request(RequestId, Vec<u8>),
    Cancelled(RequestId),
    Other(Option<ServerLog>),
}

fn hear(partials: &mut Partials, event: ServerEvent<'_>) -> Heard {
    Heard::Other(match event {
        ServerEvent::Established => Some(ServerLog::Established),
        ServerEvent::Request { id, body } => return Heard::Request(id, body.to_vec()),
        ServerEvent::Begin { id, total, body } => {
            partials.begin(id, total, body).expect("vectors grow");
            None
        }
        ServerEvent::Part { id, body, last } => match part(partials, id, body, last) {
            Some(body) => return Heard::Request(id, body),
            None => None,
        },
        ServerEvent::Abandoned { id } => {
            partials.forget(id);
            Some(ServerLog::Abandoned(id.number()))
        }
        ServerEvent::Cancelled { id } => return Heard::Cancelled(id),
        ServerEvent::Closing { reason } => Some(ServerLog::Closing(reason)),
        ServerEvent::Ping => Some(ServerLog::Ping),
        ServerEvent::Opened { .. } | ServerEvent::Credit { .. } | _ => None,
    })
}
