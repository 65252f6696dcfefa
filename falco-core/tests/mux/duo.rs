//! A client's and a server's mux that have open bodies, on a virtual clock, and the events that
//! they report.

use core::time::Duration;

use falco_core::mux::{Call, ClientMux, ClientStep, OpenCall, ServerMux, ServerStep, SharedBudget};
use falco_core::noise::{HeapTable, NoiseClient, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, RecvBytes};
use falco_core::{ClientConnection, Instant, Refusal, RequestId, ServerConnection, Settings, Unread};

type Clients = NoiseClient<HeapTable, NoSecurity>;
type Servers = NoiseServer<
    HeapTable,
    core::cell::RefCell<falco_core::noise::KeyRing<[Option<falco_core::noise::NoiseSecret>; 1]>>,
    NoSecurity,
>;

/// Bytes that the handlers of all connections may hold.
pub(crate) const BUDGET: usize = 1 << 20;

/// What a mux reports to its adapter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Whole(u64, Vec<u8>),
    Opened(u64, Vec<u8>),
    Part(u64, Vec<u8>),
    Ended(u64),
    Cancelled(u64),
    Refused(u64, Refusal),
    /// With whether it goes to another connection.
    CallRefused(u64, Refusal, bool),
}

pub(crate) struct Duo {
    pub(crate) now: Instant,
    pub(crate) client: ClientMux<std::rc::Rc<Clients>, Vec<u8>, u64, ()>,
    pub(crate) server: ServerMux<std::rc::Rc<Servers>, Vec<u8>, SharedBudget>,
    pub(crate) budget: SharedBudget,
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    /// The ids of the requests at the server, by their numbers from 1.
    pub(crate) ids: std::collections::BTreeMap<u64, RequestId>,
    /// Bytes of the output of either side.
    pub(crate) output: usize,
    pub(crate) failed: Vec<u64>,
}

/// A window of 64 KiB, and eight open requests.
pub(crate) fn settings() -> Settings {
    Settings::new().with_streams(64, 8)
}

pub(crate) fn keys() -> (std::rc::Rc<Clients>, std::rc::Rc<Servers>) {
    keys_of(7)
}

fn keys_of(key: u8) -> (std::rc::Rc<Clients>, std::rc::Rc<Servers>) {
    let key = || falco_core::testing::key(key);
    let secret = falco_core::noise::NoiseSecret::derive(key(), &NoSecurity);
    let ring = falco_core::noise::KeyRing::new([Some(secret)], &mut CountingRng::new(0)).unwrap();
    (
        std::rc::Rc::new(NoiseClient::new(key(), &[][..], NoSecurity).unwrap()),
        std::rc::Rc::new(NoiseServer::new(core::cell::RefCell::new(ring), &[][..], NoSecurity).unwrap()),
    )
}

impl Duo {
    /// Before the handshake.
    pub(crate) fn start(client: &Settings, server: &Settings) -> Self {
        Self::with_budget(client, server, SharedBudget::new(BUDGET))
    }

    pub(crate) fn with_budget(client: &Settings, server: &Settings, budget: SharedBudget) -> Self {
        Self::with_key(7, client, server, budget)
    }

    pub(crate) fn with_key(key: u8, client: &Settings, server: &Settings, budget: SharedBudget) -> Self {
        let (clients, servers) = keys_of(key);
        let now = Instant::ZERO;
        let machine = ClientConnection::new(clients, client, now, &mut CountingRng::new(1)).unwrap();
        let serving = ServerConnection::new(servers, server, now, &mut CountingRng::new(2)).unwrap();
        Self {
            now,
            client: ClientMux::new(machine, client),
            server: ServerMux::new(serving, budget.clone(), server).with_streams(),
            budget,
            to_server: Vec::new(),
            to_client: Vec::new(),
            ids: std::collections::BTreeMap::new(),
            output: 70_000,
            failed: Vec::new(),
        }
    }

    /// After the handshake.
    pub(crate) fn new(client: &Settings, server: &Settings) -> Self {
        let mut duo = Self::start(client, server);
        assert_eq!(duo.settle(), (vec![], vec![]));
        assert!(duo.client.is_established() && duo.server.is_established());
        duo
    }

    pub(crate) fn id(&self, number: u64) -> RequestId {
        self.ids[&number]
    }

    pub(crate) fn request(&mut self, ticket: u64, body: &[u8]) {
        assert!(self.client.request(Call::new(ticket, body.to_vec(), ticket)).is_ok());
    }

    pub(crate) fn open(&mut self, ticket: u64) {
        assert!(self.client.open(OpenCall::new(ticket, ticket)).is_ok());
    }

    /// One output of the client is under way. Returns its length.
    pub(crate) fn send(&mut self) -> usize {
        let (mut out, failed) = (vec![0; self.output], &mut self.failed);
        let all_sealed = self.client.all_sealed();
        let sealed = self
            .client
            .seal(self.now, &mut out, |waiter, _| failed.push(waiter))
            .unwrap();
        assert!(!all_sealed || sealed == 0 || self.client.connection().end().is_some());
        self.to_server.extend_from_slice(&out[..sealed]);
        sealed
    }

    /// One output of the server is under way. Returns its length.
    pub(crate) fn answer(&mut self) -> usize {
        let mut out = vec![0; self.output];
        let all_sealed = self.server.all_sealed();
        let sealed = self.server.seal(self.now, &mut out).unwrap();
        assert!(!all_sealed || sealed == 0 || self.server.connection().end().is_some());
        self.to_client.extend_from_slice(&out[..sealed]);
        if sealed == 0 {
            self.server.flushed();
        }
        sealed
    }

    /// The server reads what is under way. Returns the events.
    pub(crate) fn serve(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.server.connection().end().is_none() {
            let number = |id: RequestId| u64::from(id.number());
            let mut consumed = 0;
            let unread = Unread::new(&mut self.to_server, &mut consumed);
            match self.server.recv(self.now, unread).unwrap() {
                ServerStep::Request { id, body } => {
                    events.push(Event::Whole(number(id), body.into_vec()));
                    self.ids.insert(number(id), id);
                }
                ServerStep::Opened { id, body } => {
                    events.push(Event::Opened(number(id), body.into_vec()));
                    self.ids.insert(number(id), id);
                }
                ServerStep::Part { id, body } => {
                    events.push(Event::Part(number(id), body.to_vec()));
                }
                ServerStep::Ended { id } => {
                    events.push(Event::Ended(number(id)));
                }
                ServerStep::Cancelled { id } => {
                    events.push(Event::Cancelled(number(id)));
                }
                ServerStep::Skip | ServerStep::Hello { .. } | ServerStep::Established | ServerStep::Closing { .. } => {}
                _ => break,
            }
            self.to_server.drain(..consumed);
        }
        events
    }

    /// The client reads what is under way. Returns the events.
    pub(crate) fn hear(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.client.end().is_none() {
            let Ok((consumed, step)) = self.client.recv_bytes(self.now, &mut self.to_client) else {
                break;
            };
            match step {
                ClientStep::Answer { waiter, body, .. } => events.push(Event::Whole(waiter, body.into_vec())),
                ClientStep::Opened { ticket, body, .. } => events.push(Event::Opened(ticket, body.to_vec())),
                ClientStep::Part { ticket, body, .. } => events.push(Event::Part(ticket, body.to_vec())),
                ClientStep::Ended { ticket, waiter, .. } => {
                    assert_eq!(ticket, waiter);
                    events.push(Event::Ended(ticket));
                }
                ClientStep::OpenRefused { waiter, refusal, .. } => events.push(Event::Refused(waiter, refusal)),
                ClientStep::Refused {
                    call, refusal, retry, ..
                } => events.push(Event::CallRefused(call.ticket, refusal, retry)),
                ClientStep::NeedMore { .. } => break,
                _ => {}
            }
            self.to_client.drain(..consumed);
        }
        events
    }

    /// Everything is sent and read, until nothing moves. Returns the events of the server and the
    /// client.
    pub(crate) fn settle(&mut self) -> (Vec<Event>, Vec<Event>) {
        let mut all = (Vec::new(), Vec::new());
        loop {
            let moved = self.send() + self.answer();
            all.0.extend(self.serve());
            all.1.extend(self.hear());
            if moved == 0 && self.send() + self.answer() == 0 {
                return all;
            }
        }
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.client.handle_timeout(self.now).unwrap();
        self.server.handle_timeout(self.now).unwrap();
    }
}

/// The bytes of the parts of `number`, and whether it has ended.
pub(crate) fn joined(events: &[Event], number: u64) -> (Vec<u8>, bool) {
    let (mut bytes, mut ended) = (Vec::new(), false);
    for event in events {
        match event {
            Event::Opened(of, part) | Event::Part(of, part) if *of == number => bytes.extend_from_slice(part),
            Event::Ended(of) => ended |= *of == number,
            _ => {}
        }
    }
    (bytes, ended)
}

/// An open request that has begun, and is open at the server.
pub(crate) fn opened() -> Duo {
    let mut duo = Duo::new(&settings(), &settings());
    duo.open(1);
    assert_eq!(duo.settle(), (vec![Event::Opened(1, vec![])], vec![]));
    duo
}
