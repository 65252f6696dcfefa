//! A client's mux, and a server that sends exactly the frames that a test chooses.

use falco_core::mux::{Call, ClientMux, ClientStep};
use falco_core::noise::{HeapTable, NoiseClient};
use falco_core::testing::{CountingRng, RawHandshake, RawPeer, RecvBytes, raw_settings};
use falco_core::{ClientConnection, Instant, Refusal, RustCrypto, Settings};

pub(crate) const NOW: Instant = Instant::ZERO;

type Keys = NoiseClient<HeapTable, RustCrypto>;

/// A client whose server reads messages of at most 1,000 bytes, 100 of them at once.
pub(crate) struct Scene<'k> {
    pub(crate) mux: ClientMux<&'k Keys, Vec<u8>, u64>,
    pub(crate) server: RawPeer<RustCrypto>,
}

/// The end of the request with this ticket.
#[derive(Debug)]
pub(crate) enum End {
    Answered(u64),
    Refused(Call<Vec<u8>, u64>, Refusal, bool),
}

impl<'k> Scene<'k> {
    pub(crate) fn new(keys: &'k Keys, max_held: usize) -> Self {
        let machine = ClientConnection::new(keys, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
        let mut mux = ClientMux::new(machine, &Settings::new()).with_max_held(max_held);
        let mut out = [0; 100];
        let hello = mux.seal(NOW, &mut out, |_, _| {}).unwrap();
        let mut raw = RawHandshake::new(RustCrypto, 7);
        raw.settings = raw_settings(u16::MAX, 100, 1_000, 60_000);
        let (mut welcome, server) = raw.server(&out[..hello]).unwrap();
        let step = mux.recv_bytes(NOW, &mut welcome);
        assert!(matches!(step, Ok((64, ClientStep::Established))));
        Self { mux, server }
    }

    pub(crate) fn request(&mut self, ticket: u64, length: usize) {
        self.accept(Call::new(ticket, vec![1; length], ticket));
    }

    /// The same with a request that has been on another connection.
    pub(crate) fn accept(&mut self, call: Call<Vec<u8>, u64>) {
        assert!(self.mux.request(call).is_ok());
    }

    /// The numbers of the requests that begin now.
    pub(crate) fn begun(&mut self) -> Vec<u32> {
        let sent = self.sent().into_iter();
        sent.filter_map(|(kind, number)| (kind == 1).then_some(number))
            .collect()
    }

    /// The frames that are sent now: their kinds and their numbers.
    pub(crate) fn sent(&mut self) -> Vec<(u8, u32)> {
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        loop {
            let mut out = vec![0; 100_000];
            match self.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap() {
                0 => break,
                sealed => bytes.extend_from_slice(&out[..sealed]),
            }
        }
        while !bytes.is_empty() {
            let frames = self.server.open(&mut bytes).unwrap();
            let mut rest = &frames[..];
            while let [kind, a, b, c, d, high, low, ..] = *rest {
                let length = usize::from(u16::from_be_bytes([high, low]));
                sent.push((kind, u32::from_be_bytes([a, b, c, d])));
                rest = &rest[7 + length..];
            }
        }
        sent
    }

    /// The server sends `frames`. Returns the requests that complete because of them.
    pub(crate) fn hear(&mut self, frames: &[u8]) -> Vec<End> {
        let mut unread = self.server.seal(frames);
        let mut ends = Vec::new();
        loop {
            let (consumed, step) = self.mux.recv_bytes(NOW, &mut unread).unwrap();
            match step {
                ClientStep::NeedMore { .. } => return ends,
                ClientStep::Refused { call, refusal, retry } => {
                    ends.push(End::Refused(call, refusal, retry));
                }
                ClientStep::Answer { waiter, .. } => {
                    ends.push(End::Answered(waiter));
                }
                ClientStep::Skip | ClientStep::Pong { .. } => {}
                step => panic!("{step:?}"),
            }
            unread.drain(..consumed);
        }
    }
}
