//! Random callers and handlers of open bodies: bytes arrive in their order, each request has one
//! end, and nothing stays behind.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::duo::{BUDGET, Duo, Event};
use falco_core::mux::Call;
use falco_core::{NoAnswer, RequestId, Settings};

#[derive(Clone, Debug)]
enum Op {
    Open,
    Request(bool),
    /// Chunks of the client or of the server.
    Write(bool, usize, usize),
    Finish(bool, usize),
    OpenAnswer(usize),
    WholeAnswer(usize, usize),
    Fail(usize),
    Cancel(usize),
    Discard(usize),
    Credit(bool, usize, usize),
    Send(bool),
    Read(bool),
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let pick = any::<usize>;
    let size = || prop_oneof![3 => 0..200_usize, 2 => 0..9_000_usize, 1 => 0..90_000_usize];
    prop_oneof![
        4 => Just(Op::Open),
        3 => any::<bool>().prop_map(Op::Request),
        10 => (any::<bool>(), pick(), size()).prop_map(|(client, pick, size)| Op::Write(client, pick, size)),
        3 => (any::<bool>(), pick()).prop_map(|(client, pick)| Op::Finish(client, pick)),
        5 => pick().prop_map(Op::OpenAnswer),
        2 => (pick(), size()).prop_map(|(pick, size)| Op::WholeAnswer(pick, size)),
        1 => pick().prop_map(Op::Fail),
        1 => pick().prop_map(Op::Cancel),
        1 => pick().prop_map(Op::Discard),
        6 => (any::<bool>(), pick(), size()).prop_map(|(client, pick, size)| Op::Credit(client, pick, size)),
        6 => any::<bool>().prop_map(Op::Send),
        6 => any::<bool>().prop_map(Op::Read),
        2 => Just(Op::Settle),
    ]
}

/// A body that is written. Its bytes count up.
#[derive(Default)]
struct Body {
    sent: usize,
    finished: bool,
}

impl Body {
    fn chunk(&mut self, size: usize) -> Vec<u8> {
        let chunk = counting(self.sent, size).collect();
        self.sent += size;
        chunk
    }
}

fn counting(from: usize, count: usize) -> impl Iterator<Item = u8> {
    (from..from + count).map(|at| u8::try_from(at % 251).unwrap())
}

struct Run {
    duo: Duo,
    tickets: u64,
    /// Requests without an end, by ticket.
    asked: BTreeMap<u64, Asked>,
    /// Handlers, by number.
    running: BTreeMap<u64, Handler>,
    /// Of the server.
    window: usize,
}

struct Asked {
    open: bool,
    streams: bool,
    up: Body,
    answer: Option<usize>,
}

struct Handler {
    id: RequestId,
    is_open: bool,
    got: usize,
    untaken: usize,
    ended: bool,
    dropped: bool,
    down: Option<Body>,
}

fn nth<K: Copy + Ord, V>(map: &BTreeMap<K, V>, pick: usize) -> Option<K> {
    let at = pick.checked_rem(map.len())?;
    map.keys().nth(at).copied()
}

impl Run {
    fn new(client: &Settings, server: &Settings, window: usize, output: usize) -> Self {
        let mut duo = Duo::new(client, server);
        duo.output = output;
        Self {
            duo,
            tickets: 0,
            asked: BTreeMap::new(),
            running: BTreeMap::new(),
            window,
        }
    }

    fn act(&mut self, op: &Op) {
        match *op {
            Op::Open if self.asked.len() < 12 => self.ask(true, true),
            Op::Request(streams) if self.asked.len() < 12 => self.ask(false, streams),
            Op::Write(true, pick, size) => {
                if let Some(ticket) = nth(&self.asked, pick)
                    && let Some(asked) = self
                        .asked
                        .get_mut(&ticket)
                        .filter(|asked| asked.open && !asked.up.finished)
                    && self.duo.client.may_write(ticket)
                {
                    let chunk = asked.up.chunk(size);
                    self.duo.client.write(ticket, chunk).unwrap();
                }
            }
            Op::Write(false, pick, size) => {
                if let Some(number) = nth(&self.running, pick)
                    && let Some(handler) = self.running.get_mut(&number)
                    && let Some(down) = handler.down.as_mut().filter(|down| !down.finished)
                    && self.duo.server.may_write(handler.id)
                {
                    // It may be too large for a client that takes no open answers.
                    if self.duo.server.write(handler.id, down.chunk(size)).is_err() {
                        self.running.remove(&number);
                    }
                }
            }
            Op::Finish(true, pick) => {
                if let Some(ticket) = nth(&self.asked, pick)
                    && let Some(asked) = self.asked.get_mut(&ticket).filter(|asked| asked.open)
                {
                    let done = self.duo.client.finish_body(ticket);
                    assert!(done.is_ok() || asked.up.finished);
                    asked.up.finished = true;
                }
            }
            Op::Finish(false, pick) => self.finish_answer(pick),
            Op::OpenAnswer(pick) => {
                if let Some(number) = nth(&self.running, pick)
                    && let Some(handler) = self.running.get_mut(&number).filter(|handler| handler.down.is_none())
                {
                    self.duo.server.open_answer(handler.id).unwrap();
                    handler.down = Some(Body::default());
                }
            }
            Op::WholeAnswer(pick, size) => {
                if let Some(number) = nth(&self.running, pick)
                    && self.running[&number].down.is_none()
                {
                    let handler = self.running.remove(&number).unwrap();
                    let _ = self.duo.server.answer(handler.id, Body::default().chunk(size));
                }
            }
            Op::Fail(pick) => {
                if let Some(number) = nth(&self.running, pick) {
                    let handler = self.running.remove(&number).unwrap();
                    let _ = self.duo.server.complete(handler.id, Err(NoAnswer::Dropped), false);
                }
            }
            Op::Cancel(pick) => {
                if let Some(ticket) = nth(&self.asked, pick) {
                    let asked = self.asked.remove(&ticket).unwrap();
                    if asked.open {
                        assert!(self.duo.client.cancel_open(ticket).is_some());
                    } else {
                        assert!(self.duo.client.cancel(ticket).is_some());
                    }
                }
            }
            Op::Discard(pick) => {
                if let Some(number) = nth(&self.running, pick) {
                    let handler = self.running.get_mut(&number).unwrap();
                    handler.dropped = handler.is_open;
                    self.duo.server.discard(handler.id);
                }
            }
            Op::Credit(true, pick, size) => self.credit_client(pick, size),
            Op::Credit(false, pick, size) => self.credit_server(pick, size),
            Op::Send(true) => _ = self.duo.send(),
            Op::Send(false) => _ = self.duo.answer(),
            Op::Read(true) => self.hear(),
            Op::Read(false) => self.serve(),
            Op::Settle => self.settle(),
            Op::Open | Op::Request(_) => {}
        }
        while self.duo.client.poll_writable().is_some() || self.duo.server.poll_writable().is_some() {}
    }

    fn ask(&mut self, open: bool, streams: bool) {
        self.tickets += 1;
        let ticket = self.tickets;
        if open {
            self.duo.open(ticket);
        } else {
            let call = Call::new(ticket, b"whole".to_vec(), ticket);
            let call = if streams { call.streaming() } else { call };
            assert!(self.duo.client.request(call).is_ok());
        }
        let up = Body::default();
        let answer = None;
        self.asked.insert(
            ticket,
            Asked {
                open,
                streams,
                up,
                answer,
            },
        );
    }

    fn finish_answer(&mut self, pick: usize) {
        let Some(number) = nth(&self.running, pick) else { return };
        let handler = self.running.get_mut(&number).unwrap();
        if let Some(down) = &mut handler.down
            && !down.finished
        {
            down.finished = true;
            let id = handler.id;
            if self.duo.server.finish_answer(id).is_ok() {
                // The rest of its request is not read.
                self.duo.server.discard(id);
            }
            self.running.remove(&number);
        }
    }

    fn credit_client(&mut self, pick: usize, size: usize) {
        let Some(ticket) = nth(&self.asked, pick) else { return };
        self.duo.client.credit(ticket, size, true);
    }

    fn credit_server(&mut self, pick: usize, size: usize) {
        let Some(number) = nth(&self.running, pick) else { return };
        let handler = self.running.get_mut(&number).unwrap();
        let taken = handler.untaken.min(size);
        handler.untaken -= taken;
        self.duo.server.credit(handler.id, taken, handler.untaken == 0);
    }

    fn serve(&mut self) {
        for event in self.duo.serve() {
            match event {
                Event::Whole(number, body) => {
                    assert_eq!(body, b"whole");
                    self.run(number, false, 0);
                }
                Event::Opened(number, body) => {
                    self.run(number, true, 0);
                    self.part(number, &body);
                }
                Event::Part(number, body) => self.part(number, &body),
                Event::Ended(number) => {
                    if let Some(handler) = self.running.get_mut(&number) {
                        assert!(!handler.ended && !handler.dropped);
                        handler.ended = true;
                    }
                }
                Event::Cancelled(number) => {
                    if let Some(handler) = self.running.remove(&number) {
                        let _ = self.duo.server.complete(handler.id, Err(NoAnswer::Dropped), true);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn run(&mut self, number: u64, is_open: bool, got: usize) {
        let handler = Handler {
            id: self.duo.id(number),
            is_open,
            got,
            untaken: 0,
            ended: false,
            dropped: false,
            down: None,
        };
        assert!(self.running.insert(number, handler).is_none());
    }

    fn part(&mut self, number: u64, body: &[u8]) {
        // A handler that has finished may still receive what was on its way.
        let Some(handler) = self.running.get_mut(&number) else {
            return;
        };
        assert!(!handler.ended && !handler.dropped);
        let expected = counting(handler.got, body.len());
        assert!(body.iter().copied().eq(expected), "the bytes are in their order");
        handler.got += body.len();
        handler.untaken += body.len();
        assert!(handler.untaken <= self.window, "more than the window is held");
    }

    fn hear(&mut self) {
        let events = self.duo.hear();
        for event in events {
            let (ticket, bytes, ended) = match event {
                Event::Opened(ticket, body) => {
                    let asked = self.asked.get_mut(&ticket).unwrap();
                    assert!(asked.streams && asked.answer.replace(0).is_none());
                    (ticket, body, false)
                }
                Event::Part(ticket, body) => (ticket, body, false),
                Event::Ended(ticket) => {
                    assert!(self.asked[&ticket].answer.is_some());
                    (ticket, vec![], true)
                }
                Event::Whole(ticket, body) => {
                    assert_eq!(self.asked[&ticket].answer, None);
                    self.asked.get_mut(&ticket).unwrap().answer = Some(0);
                    (ticket, body, true)
                }
                Event::Refused(ticket, _) | Event::CallRefused(ticket, _, false) => {
                    assert!(self.asked.remove(&ticket).is_some());
                    continue;
                }
                other => panic!("{other:?}"),
            };
            let got = self.asked.get_mut(&ticket).unwrap().answer.as_mut().unwrap();
            let expected = counting(*got, bytes.len());
            assert!(bytes.iter().copied().eq(expected), "the bytes are in their order");
            *got += bytes.len();
            if ended {
                self.asked.remove(&ticket);
            }
        }
    }

    /// All is sent and read. What is received is not credited.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let moved = self.duo.send() + self.duo.answer();
            self.serve();
            self.hear();
            if moved == 0 {
                break;
            }
        }
    }

    /// Everything ends.
    fn end(&mut self) {
        for _ in 0..10_000 {
            self.settle();
            for at in 0..self.asked.len() {
                self.act(&Op::Finish(true, at));
                self.credit_client(at, usize::MAX);
            }
            for at in (0..self.running.len()).rev() {
                self.credit_server(at, usize::MAX);
                self.act(&Op::OpenAnswer(at));
                let handler = self.running.values().nth(at).unwrap();
                if handler.ended || !handler.is_open || handler.dropped {
                    self.finish_answer(at);
                }
            }
            if self.asked.is_empty() && self.running.is_empty() {
                break;
            }
        }
        self.settle();
        assert_eq!(
            (self.asked.len(), self.running.len()),
            (0, 0),
            "every request has its end"
        );
        assert_eq!((self.duo.client.outstanding(), self.duo.server.unanswered()), (0, 0));
        assert_eq!((self.duo.budget.left(), self.duo.budget.answers()), (BUDGET, 0));
        assert_eq!(self.duo.client.connection().in_flight(), 0);
        assert_eq!(
            (self.duo.client.end(), self.duo.server.connection().end()),
            (None, None)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn open_bodies_of_random_callers_and_handlers_arrive_in_order_and_leave_nothing_behind(
        client_kib in prop_oneof![Just(0_u16), 1..70_u16],
        server_kib in 1..70_u16,
        limits in (1..5_u16, 1..9_u16, 50_000..200_000_u32),
        output in prop_oneof![400..5_000_usize, Just(70_000)],
        ops in vec(op(), 0..120),
    ) {
        let (max_open, in_flight, max_message) = limits;
        let base = Settings::new().with_max_message(max_message).with_keep_alive(false);
        let server = base.with_streams(server_kib, max_open).with_max_in_flight(in_flight).unwrap();
        let client = base.with_streams(client_kib, 0);
        let mut run = Run::new(&client, &server, usize::from(server_kib) << 10, output);
        for op in &ops {
            run.act(op);
        }
        run.end();
    }
}
