//! A client's state machine at the far ends of the pipes. It does what a `BufferedClient` does not:
//! several requests at once, and ends in the middle of one.

use core::future::poll_fn;
use core::task::Poll;

use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, key};
use falco_core::{
    ClientConnection, ClientEvent, ConnectionError, Instant, OutgoingRequest, Received, RecvBuf, Refusal, RustCrypto,
    Settings,
};

use super::{Pipe, World};

pub(crate) type RawKey = NoiseClient<FixedTable<32>, RustCrypto>;
/// A key of a server that allows several requests in flight.
pub(crate) type ManyKey = NoiseServer<FixedTable<32>, KeyRing<[Option<NoiseSecret>; 1]>, RustCrypto>;

pub(crate) fn raw_key() -> RawKey {
    RawKey::new(key(7), b"", RustCrypto).unwrap()
}

pub(crate) fn many_key() -> ManyKey {
    let secret = NoiseSecret::derive(key(7), &RustCrypto);
    let ring = KeyRing::new([Some(secret)], &mut CountingRng::new(0)).unwrap();
    ManyKey::new(ring, b"", RustCrypto).unwrap()
}

pub(crate) struct Raw<'k> {
    pub(crate) machine: ClientConnection<&'k RawKey>,
    inbox: RecvBuf<Vec<u8>>,
    pub(crate) established: bool,
    pub(crate) refused: Vec<Refusal>,
    /// How many complete answers came, and how many PONGs.
    pub(crate) answers: usize,
    pub(crate) pongs: usize,
    pub(crate) end: Option<ConnectionError>,
    up: Pipe,
    down: Pipe,
}

impl<'k> Raw<'k> {
    pub(crate) fn new(key: &'k RawKey, settings: &Settings, [up, down]: [Pipe; 2]) -> Self {
        Self {
            machine: ClientConnection::new(key, settings, Instant::ZERO, &mut CountingRng::new(1)).unwrap(),
            inbox: RecvBuf::new(Vec::new()),
            established: false,
            refused: Vec::new(),
            answers: 0,
            pongs: 0,
            end: None,
            up,
            down,
        }
    }

    /// Sends what is pending, and processes what has come.
    pub(crate) fn exchange(&mut self, now: Instant) {
        for _ in 0..2 {
            let mut out = [0; 600];
            while let Ok(count @ 1..) = self.machine.poll_transmit(now, &mut out) {
                self.up.bytes.borrow_mut().extend(&out[..count]);
            }
            self.read(now);
        }
    }

    pub(crate) fn read(&mut self, now: Instant) {
        let came: Vec<u8> = self.down.bytes.borrow_mut().drain(..).collect();
        let mut rest = came.as_slice();
        while !rest.is_empty() {
            let space = self.inbox.space(self.inbox.len() + rest.len()).unwrap();
            let (now, later) = rest.split_at(space.len().min(rest.len()));
            space[..now.len()].copy_from_slice(now);
            self.inbox.filled(now.len());
            rest = later;
        }
        loop {
            match self.machine.recv(now, self.inbox.unread()) {
                Ok(Received::Event(event)) => {
                    self.established |= event == ClientEvent::Established;
                    if let ClientEvent::Refused { refusal, .. } = event {
                        self.refused.push(refusal);
                    }
                    let whole = matches!(event, ClientEvent::Answer { .. } | ClientEvent::Part { last: true, .. });
                    self.answers += usize::from(whole);
                    self.pongs += usize::from(matches!(event, ClientEvent::Pong { .. }));
                }
                Ok(Received::Skip) => {}
                Ok(_) => return,
                Err(end) => {
                    self.end = Some(end);
                    return;
                }
            }
        }
    }

    /// Sends as much of a request as fits `room` bytes.
    pub(crate) fn send(&mut self, now: Instant, request: &mut OutgoingRequest, body: &[u8], room: usize) {
        let mut out = vec![0; room];
        let count = self.machine.seal(now, [(request, body)], &mut out).unwrap();
        self.up.bytes.borrow_mut().extend(&out[..count]);
    }

    /// Completes the handshake.
    pub(crate) async fn establish(&mut self, world: &World) {
        for _ in 0..100 {
            self.exchange(Instant::from_millis(world.now()));
            turn(world).await;
        }
        assert!(self.established);
    }
}

/// Gives the other side a turn, without advancing the clock.
pub(crate) async fn turn(world: &World) {
    world.stir();
    let mut polled = false;
    poll_fn(|_| {
        if core::mem::replace(&mut polled, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
