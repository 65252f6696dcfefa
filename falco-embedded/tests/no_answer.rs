//! A request without an answer: a server obeys the table of the core, `NoAnswer`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod common;

use core::cell::Cell;
use std::rc::Rc;

use common::{BUFFER, ManyKey, Other, Pipe, Raw, RawKey, VirtualClock, World, many_key, raw_key, settings, until};
use falco_core::testing::CountingRng;
use falco_core::{Instant, NoAnswer, Refusal, ServerConnection, Settings};
use falco_embedded::{BufferedConnection, BufferedServer, asynchronous};

const NOW: Instant = Instant::ZERO;
/// How many bytes of a request the server has memory for, and of an answer.
const MEMORY: usize = 600;
const ANSWER: usize = 8;

type Server<'k> = BufferedServer<&'k ManyKey, ([u8; BUFFER], [u8; BUFFER]), ([u8; MEMORY], [u8; ANSWER])>;

fn several() -> Settings {
    settings().with_max_in_flight(4).unwrap().with_streams(1, 1)
}

fn server(key: &ManyKey) -> Server<'_> {
    let machine = ServerConnection::new(key, &several(), NOW, &mut CountingRng::new(2)).unwrap();
    let connection = BufferedConnection::new(machine, ([0; BUFFER], [0; BUFFER]));
    BufferedServer::new(connection, ([0; MEMORY], [0; ANSWER]))
}

/// A server in a super-loop, and its client.
struct Loop<'k> {
    server: Server<'k>,
    raw: Raw<'k>,
    up: Pipe,
    down: Pipe,
}

impl<'k> Loop<'k> {
    fn new(server_key: &'k ManyKey, raw_key: &'k RawKey) -> Self {
        let world = Rc::new(World::default());
        let [up, down] = [Pipe::new(&world, 40), Pipe::new(&world, 40)];
        let raw = Raw::new(raw_key, &several(), [up.clone(), down.clone()]);
        let mut pair = Self {
            server: server(server_key),
            raw,
            up,
            down,
        };
        pair.turns();
        assert!(pair.raw.established);
        pair
    }

    /// Moves all bytes, and processes them.
    fn turns(&mut self) {
        for _ in 0..20 {
            self.raw.exchange(NOW);
            while self.server.step(NOW).unwrap() {}
            let connection = self.server.connection_mut();
            let space = connection.space().unwrap();
            let mut bytes = self.up.bytes.borrow_mut();
            let count = bytes.len().min(space.len());
            space
                .iter_mut()
                .zip(bytes.drain(..count))
                .for_each(|(to, byte)| *to = byte);
            connection.filled(count);
            let unsent = connection.unsent().len();
            self.down.bytes.borrow_mut().extend(connection.unsent());
            connection.sent(NOW, unsent);
        }
    }

    fn ask(&mut self, length: usize) -> falco_core::RequestId {
        let mut request = self.raw.machine.request(length).unwrap();
        while !request.is_done() {
            self.raw.send(NOW, &mut request, &vec![1; length], BUFFER);
            self.turns();
        }
        request.id().unwrap()
    }
}

/// What a handler does.
type Does = fn(&mut Server<'_>);

/// When the client cancels a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cancels {
    Never,
    BeforeItsHandler,
    DuringItsHandler,
}

#[test]
fn each_request_without_an_answer_is_refused_as_the_table_says() {
    use Cancels::{BeforeItsHandler, DuringItsHandler, Never};
    let (server_key, raw_key) = (many_key(), raw_key());
    let (refuse, busy) = (
        |server: &mut Server<'_>| server.refuse(Refusal::Busy),
        NoAnswer::Refused(Refusal::Busy),
    );
    let too_long = |server: &mut Server<'_>| server.answer(ANSWER + 1);
    let rows: [(usize, Cancels, Does, NoAnswer<'_>); 6] = [
        (MEMORY + 1, Never, refuse, NoAnswer::TooLarge),
        (3, BeforeItsHandler, refuse, NoAnswer::Cancelled),
        (3, Never, refuse, busy),
        (3, DuringItsHandler, refuse, busy),
        (3, Never, too_long, NoAnswer::NoRoom),
        (3, DuringItsHandler, too_long, NoAnswer::NoRoom),
    ];
    for (length, cancels, handler, why) in rows {
        let mut pair = Loop::new(&server_key, &raw_key);
        let id = pair.ask(length);
        if cancels == BeforeItsHandler {
            pair.raw.machine.cancel(id).unwrap();
            pair.turns();
        }
        if pair.server.request().is_some() {
            if cancels == DuringItsHandler {
                pair.raw.machine.cancel(id).unwrap();
                pair.turns();
            }
            handler(&mut pair.server);
        }
        pair.turns();
        let refusal = why.refusal(cancels == DuringItsHandler);
        assert_eq!(pair.raw.refused, [refusal], "{length} {cancels:?} {why:?}");
        // The cancellation of one request is not that of the next.
        pair.ask(3);
        assert!(pair.server.request().is_some());
        pair.server.refuse(Refusal::NotProcessed);
        pair.turns();
        assert_eq!(pair.raw.refused, [refusal, Refusal::NotProcessed]);
    }
}

#[test]
fn a_request_beside_another_one_and_an_open_one_are_refused_as_the_table_says() {
    let (server_key, raw_key) = (many_key(), raw_key());
    let mut pair = Loop::new(&server_key, &raw_key);
    pair.ask(3);
    pair.ask(4);
    assert_eq!(pair.raw.refused, [NoAnswer::Busy.refusal(false)]);
    let mut open = pair.raw.machine.open_request().unwrap();
    pair.raw.send(NOW, &mut open, b"abc", BUFFER);
    pair.turns();
    let refusals = [NoAnswer::Busy, NoAnswer::OpenBody].map(|why| why.refusal(false));
    assert_eq!(pair.raw.refused, refusals);
    assert_eq!(pair.server.request().unwrap().0, [1; 3]);
}

#[test]
fn a_handler_that_is_dropped_is_taken_to_have_been_cancelled_if_its_request_was() {
    for cancels in [false, true] {
        let (server_key, raw_key) = (many_key(), raw_key());
        let world = Rc::new(World::default());
        let pipes = [Pipe::new(&world, 40), Pipe::new(&world, 40)];
        let [up, down] = pipes.clone();
        let mut raw = Raw::new(&raw_key, &several(), pipes);
        let clock = VirtualClock(Rc::clone(&world));
        let mut server = asynchronous::Server::new(server(&server_key), up, down, clock);
        let (begun, dropped) = (Cell::new(false), Cell::new(false));
        let serving = Other::new(async {
            let first = server.serve(async |_: &[u8], _: &mut [u8]| {
                begun.set(true);
                core::future::pending().await
            });
            until(&dropped, first).await;
            // It refuses the request whose handler was dropped.
            let _ = server.serve(async |_: &[u8], _: &mut [u8]| Ok(0)).await;
        });
        let turns = |raw: &mut Raw<'_>| {
            for _ in 0..200 {
                raw.exchange(NOW);
                serving.poll(&world);
            }
        };
        turns(&mut raw);
        let mut request = raw.machine.request(3).unwrap();
        raw.send(NOW, &mut request, b"abc", BUFFER);
        turns(&mut raw);
        assert!(begun.get());
        if cancels {
            raw.machine.cancel(request.id().unwrap()).unwrap();
            turns(&mut raw);
        }
        assert!(raw.refused.is_empty());
        dropped.set(true);
        turns(&mut raw);
        assert_eq!(raw.refused, [NoAnswer::Dropped.refusal(cancels)]);
    }
}
