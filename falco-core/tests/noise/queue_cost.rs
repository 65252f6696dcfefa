//! What an output costs does not grow with the number of answers that wait behind it. Times are the
//! best of several rounds, and the bound is generous.

use core::time::Duration;
use std::rc::Rc;
use std::time::Instant as Clock;

use crate::common::noise::{MESSAGE, ServerKeys, at_server};
use falco_core::mux::{ServerMux, ServerStep};
use falco_core::testing::{NoSecurity, RawPeer, raw_frame};
use falco_core::{Instant, Settings, Unread};

/// Frames in one record.
const FRAMES: usize = 4_000;
/// How many outputs are timed together. Each has one answer.
const OUTPUTS: u32 = 200;
/// The length of an output with an answer of eight bytes, and without room for another.
const OUTPUT: usize = 2 + 7 + 8 + 16;
/// How often a time is taken before it counts as too long.
const ROUNDS: usize = 20;

/// A server with answers in its send queue.
struct Queued {
    mux: ServerMux<Rc<ServerKeys>, Vec<u8>, ()>,
    raw: RawPeer<NoSecurity>,
    now: Instant,
    next: u32,
}

impl Queued {
    fn new(count: u32) -> Self {
        let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
        let rig = at_server(&settings);
        let mut queued = Self {
            mux: ServerMux::new(rig.machine, (), &settings),
            raw: rig.raw,
            now: rig.now,
            next: 1,
        };
        queued.add(count);
        queued
    }

    /// Requests arrive, whose handlers answer at once.
    fn add(&mut self, count: u32) {
        let ids: Vec<_> = (self.next..self.next + count).collect();
        self.next += count;
        for ids in ids.chunks(FRAMES) {
            let frames: Vec<_> = ids.iter().flat_map(|id| raw_frame(MESSAGE, *id, b"?")).collect();
            let (mut record, mut start) = (self.raw.seal(&frames), 0);
            for _ in ids {
                let step = self.mux.recv(self.now, Unread::new(&mut record, &mut start));
                let Ok(ServerStep::Request { id, .. }) = step else {
                    panic!("each reaches a handler: {step:?}");
                };
                self.mux.answer(id, vec![7; 8]).unwrap();
            }
        }
    }

    /// How long it takes to seal [`OUTPUTS`] of them.
    fn seal(&mut self) -> Duration {
        let (mut out, began) = ([0; OUTPUT], Clock::now());
        for _ in 0..OUTPUTS {
            assert_eq!(self.mux.seal(self.now, &mut out), Ok(OUTPUT));
        }
        let took = began.elapsed();
        self.add(OUTPUTS);
        took
    }
}

#[test]
fn an_output_costs_the_same_however_many_answers_wait() {
    let mut sides = [250, 1_023, 65_000].map(|count| (Queued::new(count), Duration::MAX));
    for _ in 0..ROUNDS {
        for (side, best) in &mut sides {
            *best = (*best).min(side.seal());
        }
        let best: Vec<_> = sides.iter().map(|(_, best)| *best).collect();
        println!("{OUTPUTS} outputs with 250, 1,023 and 65,000 answers: {best:?}");
        if best[1] < 2 * best[0] && best[2] < 5 * best[0] {
            return;
        }
    }
    panic!("with many answers they cost more");
}
