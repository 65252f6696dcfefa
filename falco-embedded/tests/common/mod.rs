//! Two pipes in memory, a clock that goes forward only when nothing else does, and an executor for two futures on it.

use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use embedded_io_async::{ErrorType, Read, Write};
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, key};
use falco_core::{Instant, RustCrypto, Settings};
use falco_embedded::asynchronous::{Client, Pump, Server};
use falco_embedded::{ClientLine, Clock, ServerLine, Timer};

pub(crate) type ClientKey = NoiseClient<FixedTable<1>, RustCrypto>;
pub(crate) type ServerKey = NoiseServer<FixedTable<1>, KeyRing<[Option<NoiseSecret>; 1]>, RustCrypto>;

/// One record with its length.
pub(crate) const BUFFER: usize = 514;
/// The largest message of a device.
pub(crate) const MESSAGE: usize = 2000;

/// Everything that both futures share: the time, who waits until when, and whether anything has happened.
#[derive(Default)]
pub(crate) struct World {
    now: Cell<u64>,
    until: RefCell<Vec<u64>>,
    moved: Cell<bool>,
}

#[derive(Clone)]
pub(crate) struct VirtualClock(pub(crate) Rc<World>);

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant::from_millis(self.0.now.get())
    }
}

impl Timer for VirtualClock {
    async fn sleep_until(&mut self, at: Instant) {
        poll_fn(|_| {
            if self.now() >= at {
                return Poll::Ready(());
            }
            self.0.until.borrow_mut().push(at.as_millis());
            Poll::Pending
        })
        .await;
    }
}

/// One direction. It holds a few bytes, as the queues of a serial port do.
#[derive(Clone)]
pub(crate) struct Pipe {
    bytes: Rc<RefCell<VecDeque<u8>>>,
    pub(crate) closed: Rc<Cell<bool>>,
    /// Takes no byte while set.
    pub(crate) blocked: Rc<Cell<bool>>,
    world: Rc<World>,
    room: usize,
}

impl Pipe {
    pub(crate) fn new(world: &Rc<World>, room: usize) -> Self {
        Self {
            bytes: Rc::default(),
            closed: Rc::default(),
            blocked: Rc::default(),
            world: Rc::clone(world),
            room,
        }
    }
}

impl ErrorType for Pipe {
    type Error = Infallible;
}

impl Read for Pipe {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Infallible> {
        poll_fn(|_| {
            let mut bytes = self.bytes.borrow_mut();
            if bytes.is_empty() && !self.closed.get() {
                return Poll::Pending;
            }
            let count = bytes.len().min(to.len());
            to.iter_mut()
                .zip(bytes.drain(..count))
                .for_each(|(to, byte)| *to = byte);
            self.world.moved.set(true);
            Poll::Ready(Ok(count))
        })
        .await
    }
}

impl Write for Pipe {
    async fn write(&mut self, from: &[u8]) -> Result<usize, Infallible> {
        poll_fn(|_| {
            let mut bytes = self.bytes.borrow_mut();
            let room = self.room - bytes.len();
            if room == 0 || self.blocked.get() {
                return Poll::Pending;
            }
            let count = room.min(from.len());
            bytes.extend(from.iter().take(count));
            self.world.moved.set(true);
            Poll::Ready(Ok(count))
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Runs both to their ends. Where neither gets on, the clock jumps to the earliest time that one of them waits for.
pub(crate) fn run<A: Future, B: Future>(world: &World, a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut left, mut right) = (None, None);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        world.moved.set(false);
        world.until.borrow_mut().clear();
        if left.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(&mut context)
        {
            left = Some(value);
            world.moved.set(true);
        }
        if right.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(&mut context)
        {
            right = Some(value);
            world.moved.set(true);
        }
        if let (Some(_), Some(_)) = (&left, &right) {
            break;
        }
        if !world.moved.get() {
            let earliest = world.until.borrow().iter().min().copied();
            world.now.set(earliest.expect("somebody waits for a time"));
        }
    }
    (left.expect("it ends in time"), right.expect("it ends in time"))
}

pub(crate) fn settings() -> Settings {
    let settings = Settings::new().with_max_message(2000).with_max_record(512).unwrap();
    settings.with_max_in_flight(1).unwrap()
}

pub(crate) fn client_key(byte: u8) -> ClientKey {
    NoiseClient::new(key(byte), &b""[..], RustCrypto).unwrap()
}

pub(crate) fn server_key(byte: u8) -> ServerKey {
    let secret = NoiseSecret::derive(key(byte), &RustCrypto);
    let ring = KeyRing::new([Some(secret)], &mut CountingRng::new(0)).unwrap();
    NoiseServer::new(ring, &b""[..], RustCrypto).unwrap()
}

pub(crate) type TestClient<'k> = Client<Pump<Pipe, Pipe, VirtualClock>, &'k ClientKey, [u8; BUFFER], [u8; BUFFER]>;
pub(crate) type TestServer<'k> =
    Server<Pump<Pipe, Pipe, VirtualClock>, &'k ServerKey, [u8; BUFFER], [u8; BUFFER], [u8; MESSAGE], [u8; MESSAGE]>;

/// A client and a server that are joined by two pipes: to the server, to the client.
pub(crate) struct Joined<'k> {
    pub(crate) world: Rc<World>,
    pub(crate) client: TestClient<'k>,
    pub(crate) server: TestServer<'k>,
    pub(crate) pipes: [Pipe; 2],
}

pub(crate) fn join<'k>(client_key: &'k ClientKey, server_key: &'k ServerKey, settings: &Settings) -> Joined<'k> {
    let world = Rc::new(World::default());
    let pipes = [Pipe::new(&world, 40), Pipe::new(&world, 40)];
    let [up, down] = pipes.clone();
    let clock = VirtualClock(Rc::clone(&world));
    let (inbox, outbox) = ([0; BUFFER], [0; BUFFER]);
    let now = clock.now();
    let line = ClientLine::start(client_key, settings, now, &mut CountingRng::new(1), inbox, outbox).unwrap();
    let client = Client::new(line, down.clone(), up.clone(), clock.clone());
    let memory = ([0; MESSAGE], [0; MESSAGE]);
    let mut rng = CountingRng::new(2);
    let line = ServerLine::start(server_key, settings, now, &mut rng, (inbox, outbox), memory).unwrap();
    let server = Server::new(line, up, down, clock);
    Joined {
        world,
        client,
        server,
        pipes,
    }
}
