//! What a frame costs does not grow with the number of requests in flight, so that a peer cannot
//! make it slow. Times are the best of several rounds, and the bounds are generous.

use core::time::Duration;
use std::rc::Rc;
use std::time::Instant as Clock;

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CANCEL, CLOSE, CREDIT, MESSAGE, OPEN, PART, PING, ServerKeys, at_client_with, at_server,
    begin, honest,
};
use falco_core::mux::{Budget, ServerMux, ServerStep};
use falco_core::testing::{NoSecurity, RawPeer, RecvBytes, raw_frame, raw_settings};
use falco_core::{Instant, Received, Settings, Unread};

/// One less than the wire allows, so that one can come and go.
const MANY: u32 = 65_534;
/// Frames in one record.
const FRAMES: usize = 4_000;
/// How often a time is taken before it counts as too long.
const ROUNDS: usize = 20;

/// The numbers of `count` requests. 1 is left for another one.
fn numbers(count: u32) -> Vec<u32> {
    (2..=count + 1).collect()
}

/// A server on which `count` requests have arrived in part.
fn half_received(count: u32) -> AtServer {
    let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
    let mut rig = at_server(&settings.with_max_message(2));
    let ids = numbers(count);
    for ids in ids.chunks(FRAMES) {
        let frames: Vec<_> = ids
            .iter()
            .flat_map(|id| raw_frame(BEGIN, *id, &begin(2, b"a")))
            .collect();
        assert_eq!(rig.receive(&frames).len(), ids.len());
    }
    assert_eq!(rig.machine.in_flight(), ids.len());
    rig
}

/// Cancels requests anywhere in the table, and begins another for each with `begins`, eight times
/// in a record: as many refusals may be pending.
fn cancels_and_begins(live: &mut [u32], next: &mut u32, begins: fn(u32) -> Vec<u8>) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..8 {
        let pick = usize::try_from(*next).unwrap() * 7_919 % live.len();
        frames.extend(raw_frame(CANCEL, live[pick], &[]));
        *next += 1;
        frames.extend(begins(*next));
        live[pick] = *next;
    }
    frames
}

/// A server with requests that have arrived in part, and how long it takes for more of them.
trait Costs {
    /// Reads a record with eight CANCELs and BEGINs.
    fn read(&mut self, frames: &[u8]) -> Duration;

    /// Another request of the kind that it has.
    fn begins(number: u32) -> Vec<u8> {
        raw_frame(BEGIN, number, &begin(2, b"a"))
    }
}

impl Costs for AtServer {
    fn read(&mut self, frames: &[u8]) -> Duration {
        let mut record = self.raw.seal(frames);
        let (mut start, began) = (0, Clock::now());
        let mut abandoned = 0;
        while let Ok(Received::Event(event)) = self.machine.recv(self.now, Unread::new(&mut record, &mut start)) {
            abandoned += usize::from(matches!(event, falco_core::ServerEvent::Abandoned { .. }));
        }
        let took = began.elapsed();
        assert_eq!((abandoned, start), (8, record.len()));
        assert_eq!(self.sent().len(), 8);
        took
    }
}

/// The mux of an adapter around such a server, with the other end of the connection.
struct AtMux<G: Budget> {
    mux: ServerMux<Rc<ServerKeys>, Vec<u8>, G>,
    rig: (RawPeer<NoSecurity>, Instant),
}

impl AtMux<()> {
    fn half_received(count: u32) -> Self {
        let settings = Settings::new()
            .with_max_in_flight(u16::MAX)
            .unwrap()
            .with_max_message(2);
        let rig = at_server(&settings);
        let mux = ServerMux::new(rig.machine, (), &settings);
        let mut side = Self {
            mux,
            rig: (rig.raw, rig.now),
        };
        side.begin(count);
        side
    }
}

/// The answers of all connections exceed their bound.
struct Over;

impl Budget for Over {
    fn take(&self, _: usize) -> bool {
        true
    }

    fn give_back(&self, _: usize) {}

    fn is_over(&self) -> bool {
        true
    }
}

impl AtMux<Over> {
    /// With `count` requests that are deferred: no byte of an answer may be queued, and there are
    /// some.
    fn deferred(count: u32) -> Self {
        let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
        let rig = at_server(&settings);
        let mut mux = ServerMux::new(rig.machine, Over, &settings);
        let mut raw = rig.raw;
        let mut first = raw.seal(&raw_frame(MESSAGE, 1, b""));
        let Ok((_, ServerStep::Request { id, .. })) = mux.recv_bytes(rig.now, &mut first) else {
            panic!("the first reaches a handler");
        };
        mux.answer(id, vec![7; 100_000]).unwrap();
        let rig = (raw, rig.now);
        let mut side = Self { mux, rig };
        side.begin(count);
        assert!(!side.mux.may_handle());
        side
    }
}

impl<G: Budget> AtMux<G>
where
    Self: Costs,
{
    fn begin(&mut self, count: u32) {
        let (ids, before) = (numbers(count), self.mux.unanswered());
        for ids in ids.chunks(FRAMES) {
            let frames: Vec<_> = ids.iter().flat_map(|id| Self::begins(*id)).collect();
            self.read(&frames);
        }
        assert_eq!(self.mux.unanswered() - before, ids.len());
    }

    /// Reads frames that are no requests for a handler, and seals what they cause.
    fn read_all(&mut self, frames: &[u8]) -> Duration {
        let (raw, now) = &mut self.rig;
        let mut record = raw.seal(frames);
        let (mut start, began) = (0, Clock::now());
        while let Ok(ServerStep::Skip) = self.mux.recv(*now, Unread::new(&mut record, &mut start)) {}
        let took = began.elapsed();
        assert_eq!(start, record.len());
        // A record with eight refusals, and with nothing of an answer.
        assert!(self.mux.seal(*now, &mut [0; 2 + 8 * 8 + 16]).is_ok());
        took
    }
}

impl Costs for AtMux<()> {
    fn read(&mut self, frames: &[u8]) -> Duration {
        self.read_all(frames)
    }
}

impl Costs for AtMux<Over> {
    fn read(&mut self, frames: &[u8]) -> Duration {
        self.read_all(frames)
    }

    fn begins(number: u32) -> Vec<u8> {
        raw_frame(MESSAGE, number, b"")
    }
}

/// Asserts how many times as long it takes with 1,023 and with 65,534 requests as with 8.
fn assert_flat<S: Costs>(half_received: fn(u32) -> S, at_most: [u32; 2]) {
    let mut sides: Vec<_> = [8, 1_023, MANY]
        .into_iter()
        .map(|count| (half_received(count), numbers(count), count + 1, Duration::MAX))
        .collect();
    for _ in 0..ROUNDS {
        for (side, live, next, best) in &mut sides {
            let took = (0..100)
                .map(|_| side.read(&cancels_and_begins(live, next, S::begins)))
                .sum();
            *best = (*best).min(took);
        }
        let best: Vec<_> = sides.iter().map(|(.., best)| *best).collect();
        println!("800 times CANCEL and BEGIN with 8, 1,023 and 65,534 requests: {best:?}");
        if best[1] < at_most[0] * best[0] && best[2] < at_most[1] * best[0] {
            return;
        }
    }
    panic!("with many requests they cost more");
}

#[test]
fn a_begin_and_a_cancel_cost_the_same_however_many_requests_are_half_received() {
    assert_flat(half_received, [2, 5]);
}

#[test]
fn in_the_mux_too_they_cost_the_same_however_many_requests_are_half_received() {
    // A linear search takes 60 and 10,000 times as long. So many do not fit the cache of a
    // processor.
    assert_flat(AtMux::half_received, [4, 16]);
}

#[test]
fn a_request_and_its_cancel_cost_the_same_however_many_are_deferred() {
    assert_flat(AtMux::deferred, [4, 16]);
}

/// Asserts that `run` takes at most 4 times as long for each of 16,000 as for each of 1,000.
fn assert_linear(run: fn(u32) -> Duration) {
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        best = [best[0].min(run(2_000)), best[1].min(run(32_000))];
        println!("1,000 of 2,000: {:?}, 16,000 of 32,000: {:?}", best[0], best[1]);
        if best[1] < 16 * 4 * best[0] {
            return;
        }
    }
    panic!("more of them cost more each");
}

/// A client with `count` requests in flight, of which the server's CLOSE leaves out the second
/// half. Returns how long it takes to report these.
fn report_lost(count: u32) -> Duration {
    let mut handshake = honest();
    handshake.settings = raw_settings(u16::MAX, u16::MAX, 16 << 20, 60_000);
    let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
    let mut rig: AtClient = at_client_with(&settings, &handshake);
    for number in 0..count {
        rig.request(b"");
        if number % 100 == 0 {
            rig.opened();
        }
    }
    rig.opened();
    let mut record = rig.raw.seal(&raw_frame(CLOSE, count / 2, &[2]));
    let (mut start, mut lost, began) = (0, 0, Clock::now());
    while let Ok(Received::Event(event)) = rig.machine.recv(rig.now, Unread::new(&mut record, &mut start)) {
        lost += u32::from(matches!(event, falco_core::ClientEvent::Refused { .. }));
    }
    let took = began.elapsed();
    assert_eq!(lost, count - count / 2);
    took
}

#[test]
fn a_close_that_leaves_out_many_requests_costs_the_same_for_each() {
    assert_linear(report_lost);
}

/// A server with `count` requests in flight, of which nothing more of the second half arrives.
/// Returns how long it takes to give them up.
fn give_up(count: u32) -> Duration {
    let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
    let mut rig = at_server(&settings);
    let ids: Vec<_> = (1..=count).collect();
    for ids in ids.chunks(FRAMES) {
        let frame = |id: &u32| {
            if *id <= count / 2 {
                raw_frame(MESSAGE, *id, b"")
            } else {
                raw_frame(BEGIN, *id, &begin(2, b"a"))
            }
        };
        rig.receive(&ids.iter().flat_map(frame).collect::<Vec<_>>());
    }
    rig.now = rig.now + Settings::new().lifetime().saturating_sub(Duration::from_millis(1));
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    rig.sent();
    rig.now = rig.now + Duration::from_millis(1);
    let (mut took, mut abandoned, began) = (Duration::ZERO, 0, Clock::now());
    rig.machine.handle_timeout(rig.now).unwrap();
    took += began.elapsed();
    while abandoned < count - count / 2 {
        let began = Clock::now();
        while let Ok((_, Received::Event(_))) = rig.machine.recv_bytes(rig.now, &mut []) {
            abandoned += 1;
        }
        took += began.elapsed();
        rig.sent();
    }
    assert_eq!(rig.machine.in_flight(), usize::try_from(count / 2).unwrap());
    took
}

#[test]
fn requests_that_are_given_up_together_cost_the_same_each() {
    assert_linear(give_up);
}

/// How many CREDITs are pending at once.
const CREDITS: u32 = 100;

/// A server with `count` requests that have arrived in part, and behind them open ones whose
/// handlers wait for more.
fn half_received_and_open(count: u32) -> AtServer {
    let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
    let mut rig = at_server(&settings.with_streams(1, u16::MAX));
    let ids: Vec<_> = (1..=count).collect();
    for ids in ids.chunks(FRAMES) {
        let frames = ids.iter().flat_map(|id| raw_frame(BEGIN, *id, &begin(2, b"a")));
        rig.receive(&frames.collect::<Vec<_>>());
    }
    let open = (count + 1..=count + CREDITS).flat_map(|id| raw_frame(BEGIN, id, &begin(OPEN, b"")));
    rig.receive(&open.collect::<Vec<_>>());
    assert_eq!(rig.machine.in_flight(), ids.len() + usize::try_from(CREDITS).unwrap());
    rig
}

/// How long it takes to seal one CREDIT for each of [`CREDITS`] open requests, into outputs that
/// have room for a few.
fn seal_credits(rig: &mut AtServer, count: u32) -> Duration {
    let ids = count + 1..=count + CREDITS;
    let parts = ids.clone().flat_map(|id| raw_frame(PART, id, b"a"));
    rig.receive(&parts.collect::<Vec<_>>());
    for id in ids.clone() {
        rig.machine.credit(rig.ids[&id], 1, true).unwrap();
    }
    let began = Clock::now();
    let mut out = [0; 150];
    loop {
        let length = rig.machine.poll_transmit(rig.now, &mut out).unwrap();
        if length == 0 {
            break;
        }
        rig.out.extend_from_slice(&out[..length]);
    }
    let took = began.elapsed();
    let sent: Vec<_> = rig.opened().into_iter().map(|(kind, id, _)| (kind, id)).collect();
    assert_eq!(sent, ids.map(|id| (CREDIT, id)).collect::<Vec<_>>());
    took
}

#[test]
fn a_credit_costs_the_same_however_many_requests_are_half_received() {
    let mut sides = [8, MANY - CREDITS].map(|count| (half_received_and_open(count), count, Duration::MAX));
    for _ in 0..ROUNDS {
        for (rig, count, best) in &mut sides {
            *best = (*best).min(seal_credits(rig, *count));
        }
        let [few, many] = [sides[0].2, sides[1].2];
        println!("{CREDITS} CREDITs with 8 and 65,434 requests: {few:?}, {many:?}");
        if many < 5 * few {
            return;
        }
    }
    panic!("with many requests they cost more");
}
