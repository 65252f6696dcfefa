//! Our side of the interop tests: a client that is told what to do, and a server on a thread, on the machines of falco-core. How a machine is driven
//! over a socket is in `side.rs`.

use core::net::{Ipv4Addr, SocketAddr};
use std::net::{TcpListener, TcpStream};
use std::sync::RwLock;
use std::thread::{self, JoinHandle};

use falco_core::noise::{KeyRing, NoiseClient, NoiseSecret, NoiseServer, RequestSlot};
use falco_core::testing::{ClientLog, ServerLog};
use falco_core::{
    ClientConnection, ClientEvent, ClientSide, CloseReason, Error, Key, Refusal, RequestId, RustCrypto, ServerEvent,
    ServerSide,
};
use getrandom::SysRng;

use super::side::Side;
use super::{Options, PATIENCE, bodies};

type Table = Vec<RequestSlot>;
type Ring = RwLock<KeyRing<[Option<NoiseSecret>; 1]>>;
type ClientKey = NoiseClient<Table, RustCrypto, &'static str>;
type ServerKey = NoiseServer<Table, Ring, RustCrypto, &'static str>;

fn key(options: &Options) -> Key {
    Key::from_bytes(options.secret).expect("not all zeros")
}

/// Our client, over one connection.
pub(crate) struct OurClient {
    side: Side<ClientSide, Box<ClientKey>>,
    pub(crate) log: Vec<ClientLog>,
}

impl OurClient {
    /// Connects and says nothing yet.
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
