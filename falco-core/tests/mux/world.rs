//! A client's and a server's mux on a virtual clock, and a link between them that can be cut.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use falco_core::mux::{Body, Call, ClientMux, ClientStep, ServerMux, ServerStep, SharedBudget};
use falco_core::testing::CountingRng;
use falco_core::{
    ClientConnection, ClientKeyRef, CloseReason, ConnectionError, Fate, Instant, OutputTooSmall, RecvBuf, Refusal,
    RequestError, RequestId, ServerConnection, ServerKeyRef, Settings,
};

use crate::requests::{Requests, Ticket, Waiter};

/// One direction of the stream.
#[derive(Default)]
struct Link {
    flying: Vec<u8>,
    inbox: RecvBuf<Vec<u8>>,
    /// The sender has ended the stream.
    closed: bool,
    /// The receiver has seen the end.
    seen: bool,
    /// Bytes were lost: the end is a reset and not an end of the stream.
    reset: bool,
}

impl Link {
    fn send(&mut self, bytes: &[u8]) {
        if !self.closed {
            self.flying.extend_from_slice(bytes);
        }
    }

    fn deliver(&mut self, count: usize) -> bool {
        let count = count.min(self.flying.len());
        let space = self.inbox.space(self.inbox.len() + count).unwrap();
        let count = count.min(space.len());
        space[..count].copy_from_slice(&self.flying[..count]);
        self.inbox.filled(count);
        self.flying.drain(..count);
        count > 0
    }

    fn cut(&mut self, after: usize) {
        self.reset |= after < self.flying.len();
        self.flying.truncate(after);
        self.closed = true;
    }

    /// Whether the receiver sees the end of the stream now. It sees it once.
    fn ends(&mut self) -> bool {
        self.closed && self.flying.is_empty() && !core::mem::replace(&mut self.seen, true)
    }
}

pub(crate) struct World<C: ClientKeyRef, S: ServerKeyRef> {
    now: Instant,
    client: ClientMux<C, Vec<u8>, Waiter>,
    server: ServerMux<S, Vec<u8>, SharedBudget>,
    budget: SharedBudget,
    to_server: Link,
    to_client: Link,
    requests: Requests,
    /// Requests whose handlers run.
    running: BTreeMap<Ticket, RequestId>,
    /// Requests that were answered. The answer may not have been received.
    answered: BTreeMap<Ticket, RequestId>,
    cancelled: BTreeSet<Ticket>,
    /// Whether handlers stop when their request is cancelled, on a wire that has CANCEL.
    stops: bool,
    client_over: bool,
    server_over: bool,
}

impl<C: ClientKeyRef, S: ServerKeyRef> World<C, S> {
    /// `bounds` are the bytes that all connections may hold, and those of one connection.
    pub(crate) fn new(keys: (C, S), settings: (&Settings, &Settings), bounds: (usize, u32), stops: bool) -> Self {
        let (now, budget) = (Instant::ZERO, SharedBudget::new(bounds.0));
        let client = ClientConnection::new(keys.0, settings.0, now, &mut CountingRng::new(1));
        let server = ServerConnection::new(keys.1, settings.1, now, &mut CountingRng::new(2));
        Self {
            now,
            client: ClientMux::new(client.expect("there is entropy"), settings.0),
            server: ServerMux::new(
                server.expect("there is entropy"),
                budget.clone(),
                &Settings::new().with_max_message(100_000).with_max_held(bounds.1),
            ),
            budget,
            to_server: Link::default(),
            to_client: Link::default(),
            requests: Requests::default(),
            running: BTreeMap::new(),
            answered: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            stops,
            client_over: false,
            server_over: false,
        }
    }

    pub(crate) fn request(&mut self, size: usize) {
        let ticket = Ticket::try_from(self.requests.asked.len()).expect("a run has few");
        let has_empty = self.requests.asked.values().any(Vec::is_empty);
        let body = vec![ticket; size.max(usize::from(has_empty))];
        self.requests.asked.insert(ticket, body.clone());
        match self.client.request(Call::new(ticket.into(), body, Waiter(ticket))) {
            Ok(()) => {}
            Err((call, None)) => {
                assert!(!self.client.is_open());
                self.requests.returned(call, Fate::NotProcessed);
            }
            Err((call, Some(error))) => {
                assert!(matches!(error, RequestError::TooLarge { .. }), "{error}");
                self.requests.returned(call, Fate::NotProcessed);
            }
        }
    }

    /// Cancels any request, completed or not.
    pub(crate) fn cancel(&mut self, pick: usize) {
        let Some(nth) = pick.checked_rem(self.requests.asked.len()) else {
            return;
        };
        let ticket = *self.requests.asked.keys().nth(nth).expect("so many were asked");
        match self.client.cancel(ticket.into()) {
            Some((call, fate)) => {
                self.requests.returned(call, fate);
                self.cancelled.insert(ticket);
                assert!(self.client.outstanding() > 0 || !self.client.has_unsent());
            }
            None => assert!(self.requests.ended.contains(&ticket), "{ticket} has completed"),
        }
    }

    pub(crate) fn answer(&mut self, pick: usize, size: usize) {
        let Some((ticket, id)) = take(&mut self.running, pick) else {
            return;
        };
        let body = vec![ticket; size];
        match self.server.answer(id, body.clone()) {
            Ok(()) => {
                self.requests.answers.insert(ticket, body);
                self.answered.insert(ticket, id);
            }
            Err(error) => assert!(matches!(error, RequestError::TooLarge { .. }), "{error}"),
        }
    }

    pub(crate) fn refuse(&mut self, pick: usize) {
        if let Some((_, id)) = take(&mut self.running, pick) {
            self.server.refuse(id, Refusal::Failed);
        }
    }

    /// Refuses a request whose answer may be sent in part.
    pub(crate) fn refuse_answered(&mut self, pick: usize) {
        if let Some((_, id)) = take(&mut self.answered, pick) {
            self.server.refuse(id, Refusal::Failed);
        }
    }

    pub(crate) fn seal_client(&mut self) {
        let size = self.client.seal_size();
        assert_eq!(self.write_client(size), Ok(true));
    }

    pub(crate) fn may_handle(&self) -> bool {
        self.server.may_handle()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.client.has_unsent()
    }

    pub(crate) fn ping(&mut self) {
        let _ = self.client.ping(Call::new(0, (), Waiter(0)));
    }

    pub(crate) fn close_client(&mut self) {
        self.client.close(self.now, CloseReason::Done);
    }

    pub(crate) fn close_server(&mut self) {
        self.server.close(self.now, CloseReason::ShuttingDown);
    }

    /// Cuts both directions. Only this many of the bytes in flight still arrive.
    pub(crate) fn cut(&mut self, to_server: usize, to_client: usize) {
        self.to_server.cut(to_server);
        self.to_client.cut(to_client);
        // The client takes an end of the stream at which nothing was lost for the server's own.
        if !self.to_client.reset && !self.server_over {
            self.end_server();
        }
    }

    /// What moves on once the connection accepts nothing new.
    fn take_closing(&mut self) {
        if let Some(unbegun) = self.client.poll_closing() {
            self.requests.unbegun(unbegun);
        }
        assert!(self.client.is_open() || self.client.connection().end().is_some() || !self.client.has_unbegun());
    }

    pub(crate) fn take_unbegun(&mut self) {
        self.requests.unbegun(self.client.take_unbegun());
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let _ = self.client.handle_timeout(self.now);
        let _ = self.server.handle_timeout(self.now);
    }

    /// The client writes once, into an output of `size` bytes. Returns whether it wrote something,
    /// or how many bytes it needs.
    pub(crate) fn write_client(&mut self, size: usize) -> Result<bool, usize> {
        let mut out = vec![0; size];
        let (requests, all_sealed) = (&mut self.requests, self.client.all_sealed());
        let sealed = self.client.seal(self.now, &mut out, |waiter, error| {
            assert!(matches!(error, RequestError::TooLarge { .. }), "{error}");
            requests.ends(waiter, Fate::NotProcessed);
        });
        // What is due now may end the connection.
        assert!(!all_sealed || sealed == Ok(0) || self.client.connection().end().is_some());
        if sealed == Ok(0) && self.client.connection().end().is_some() {
            self.to_server.closed = true;
        }
        wrote(&mut self.to_server, sealed, &out)
    }

    /// The same at the server.
    pub(crate) fn write_server(&mut self, size: usize) -> Result<bool, usize> {
        let mut out = vec![0; size];
        let all_sealed = self.server.all_sealed();
        let sealed = self.server.seal(self.now, &mut out);
        assert!(!all_sealed || sealed == Ok(0) || self.server.connection().end().is_some());
        if sealed == Ok(0) {
            self.server.flushed();
            self.to_client.closed |= self.server.connection().end().is_some();
        }
        wrote(&mut self.to_client, sealed, &out)
    }

    /// Delivers bytes to the client. Returns whether something changed.
    pub(crate) fn read_client(&mut self, count: usize) -> bool {
        let mut came = self.to_client.deliver(count);
        while self.look_client() {
            came = true;
        }
        if !self.client_over && self.to_client.ends() {
            came = true;
            let reset = self.to_client.reset;
            if !reset {
                self.client.end_of_stream(self.now, &self.to_client.inbox.unread());
            }
            self.end_client();
        }
        came
    }

    /// Returns whether the client may go on.
    fn look_client(&mut self) -> bool {
        if self.client_over {
            return false;
        }
        let present = self.to_client.inbox.len();
        match self.client.recv(self.now, self.to_client.inbox.unread()) {
            Ok(ClientStep::NeedMore { total }) => {
                assert!(total > present);
                false
            }
            Ok(ClientStep::Answer { waiter, body }) => {
                self.requests.answered(waiter, body.bytes());
                true
            }
            Ok(ClientStep::Refused { call, refusal, .. }) => {
                let fate = if refusal.is_unprocessed() {
                    Fate::NotProcessed
                } else {
                    Fate::MaybeProcessed
                };
                self.requests.returned(call, fate);
                true
            }
            Ok(ClientStep::Closing { .. }) => {
                self.take_closing();
                true
            }
            Ok(ClientStep::Skip | ClientStep::Established | ClientStep::Pong { .. }) => true,
            Ok(_) => panic!("no request is open"),
            Err(_) => {
                self.end_client();
                false
            }
        }
    }

    fn end_client(&mut self) {
        self.client_over = true;
        self.requests.unfinished(self.client.finish());
    }

    /// Delivers bytes to the server, if it reads. Returns whether something changed.
    pub(crate) fn read_server(&mut self, count: usize) -> bool {
        let mut came = self.server.may_read() && self.to_server.deliver(count);
        while self.look_server() {
            came = true;
        }
        if !self.server_over && self.to_server.ends() {
            came = true;
            if self
                .server
                .end_of_stream(self.now, &self.to_server.inbox.unread())
                .is_err()
            {
                self.end_server();
            }
        }
        came
    }

    /// Returns whether the server may go on.
    fn look_server(&mut self) -> bool {
        if self.server_over {
            return false;
        }
        let (present, may_handle) = (self.to_server.inbox.len(), self.server.may_handle());
        match self.server.recv(self.now, self.to_server.inbox.unread()) {
            Ok(ServerStep::NeedMore { total }) => {
                assert!(total > present);
                false
            }
            Ok(ServerStep::Request { id, body }) => {
                assert!(may_handle, "too many answers are queued");
                let ticket = self.requests.handed_out(Body::bytes(&body));
                self.running.insert(ticket, id);
                true
            }
            Ok(ServerStep::Cancelled { id }) => {
                let ticket = self
                    .running
                    .iter()
                    .find(|(_, own)| **own == id)
                    .map(|(ticket, _)| *ticket);
                if let Some(ticket) = ticket.filter(|_| self.stops) {
                    self.running.remove(&ticket);
                    self.server.refuse(id, Refusal::Cancelled);
                }
                true
            }
            Ok(ServerStep::Skip | ServerStep::Hello { .. } | ServerStep::Established | ServerStep::Closing { .. }) => {
                true
            }
            Ok(ServerStep::TransmitFirst | ServerStep::AnswerFirst | _) => false,
            Err(_) => {
                self.end_server();
                false
            }
        }
    }

    /// The server's connection has ended. Its handlers still run, and their answers are dropped.
    fn end_server(&mut self) {
        self.server_over = true;
        self.server.finish();
    }

    /// Delivers everything, with outputs of the size that the muxes ask for.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let (client, server) = (self.client.seal_size(), self.server.seal_size());
            let wrote = [self.write_client(client), self.write_server(server)];
            let wrote = wrote.map(|wrote| wrote.expect("as much as was asked for is enough"));
            let came = [self.read_server(usize::MAX), self.read_client(usize::MAX)];
            if !wrote.into_iter().chain(came).any(|went| went) {
                return;
            }
        }
        panic!("it comes to no end: {:?} {:?}", self.client, self.server);
    }

    /// Completes all requests that can complete, then ends the connection. No state may be left.
    pub(crate) fn finish(mut self, full: usize) {
        self.settle();
        let in_order = |end: Option<ConnectionError>| matches!(end, None | Some(ConnectionError::Closed));
        let in_order = |own: &Self| {
            in_order(own.client.connection().end()) && in_order(own.server.connection().end()) && !own.to_client.seen
        };
        if in_order(&self) && self.stops {
            let runs = |ticket| self.running.contains_key(ticket);
            assert!(
                !self.cancelled.iter().any(runs),
                "the handlers of cancelled requests have stopped"
            );
        }
        while !self.running.is_empty() {
            self.answer(0, 10);
            self.settle();
        }
        if in_order(&self) {
            if !self.client.is_open() {
                self.take_unbegun();
            }
            // Because all has completed, and not because `finish` clears it.
            self.assert_empty();
            assert_eq!((self.budget.left(), self.budget.answers()), (full, 0));
        }
        self.end_client();
        self.assert_all_ended();
        let server = self.server;
        drop(server);
        assert_eq!((self.budget.left(), self.budget.answers()), (full, 0));
    }

    fn assert_all_ended(&self) {
        assert!(
            self.requests.asked.keys().eq(&self.requests.ended),
            "all were given back"
        );
        let text = format!("{:?}", self.client);
        assert!(
            text.ends_with("outstanding: 0, begun: 0, parts: 0, queued: 0, .. }"),
            "{text}"
        );
    }

    fn assert_empty(&self) {
        self.assert_all_ended();
        let text = format!("{:?}", self.server);
        assert!(
            text.ends_with("held: 0, parts: 0, answers: 0, refusals: 0, deferred: 0, queued: 0, .. }"),
            "{text}"
        );
    }
}

fn take(from: &mut BTreeMap<Ticket, RequestId>, pick: usize) -> Option<(Ticket, RequestId)> {
    let nth = pick.checked_rem(from.len())?;
    let ticket = *from.keys().nth(nth)?;
    from.remove_entry(&ticket)
}

fn wrote(link: &mut Link, sealed: Result<usize, OutputTooSmall>, out: &[u8]) -> Result<bool, usize> {
    match sealed {
        Ok(count) => {
            link.send(out.get(..count).expect("it fits"));
            Ok(count > 0)
        }
        Err(OutputTooSmall { needed, given }) => {
            assert_eq!(given, out.len());
            assert!(needed > given);
            Err(needed)
        }
    }
}
