//! Pipes in memory, a clock that advances only when nothing else can happen, and an executor for
//! two futures.

use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io::Read as _;
use std::rc::Rc;

use embedded_io::ErrorKind;
use falco_core::Instant;
use falco_embedded::{Clock, Timer};

/// What both sides share: the time, the times that they wait for, and whether something happened.
#[derive(Default)]
pub(crate) struct World {
    now: Cell<u64>,
    /// Milliseconds by which each look at a clock advances it, as on a slow device.
    pub(crate) slow: Cell<u64>,
    until: RefCell<Vec<u64>>,
    moved: Cell<bool>,
    /// Every call that took bytes out of a pipe, or put bytes in.
    pub(crate) log: RefCell<Vec<Op>>,
}

/// What a side did with a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Wrote,
}

impl World {
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// Advances the clock while a device is busy elsewhere.
    pub(crate) fn pass(&self, millis: u64) {
        self.now.set(self.now.get() + millis);
    }

    fn look(&self) -> Instant {
        let now = self.now.get();
        self.pass(self.slow.get());
        Instant::from_millis(now)
    }

    /// Notes that something happened, so that the clock does not advance in this round.
    pub(crate) fn stir(&self) {
        self.moved.set(true);
    }

    fn begin_round(&self) {
        self.moved.set(false);
        self.until.borrow_mut().clear();
    }

    /// If nothing happened, advances the clock to the earliest time that is waited for.
    fn end_round(&self, own: Option<u64>) {
        if !self.moved.get() {
            let earliest = self.until.borrow().iter().copied().chain(own).min();
            self.now
                .set(earliest.expect("something waits for a time").max(self.now.get()));
        }
    }
}

#[derive(Clone)]
pub(crate) struct VirtualClock(pub(crate) Rc<World>);

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        self.0.look()
    }
}

impl Timer for VirtualClock {
    async fn sleep_until(&mut self, at: Instant) {
        poll_fn(|_| {
            if self.0.now() >= at.as_millis() {
                return Poll::Ready(());
            }
            self.0.until.borrow_mut().push(at.as_millis());
            Poll::Pending
        })
        .await;
    }
}

/// The other side of a blocking driver. It runs while the driver rests.
pub(crate) struct Other<'f> {
    future: RefCell<Pin<Box<dyn Future<Output = ()> + 'f>>>,
    over: Cell<bool>,
}

impl<'f> Other<'f> {
    pub(crate) fn new(future: impl Future<Output = ()> + 'f) -> Self {
        Self {
            future: RefCell::new(Box::pin(future)),
            over: Cell::new(false),
        }
    }

    /// Polls it once.
    pub(crate) fn poll(&self, world: &World) {
        let polled = || {
            let mut context = Context::from_waker(Waker::noop());
            self.future.borrow_mut().as_mut().poll(&mut context).is_ready()
        };
        if !self.over.get() && polled() {
            self.over.set(true);
            world.moved.set(true);
        }
    }

    /// Runs it until it is done.
    pub(crate) fn finish(&self, world: &World) {
        for _ in 0..1_000_000 {
            if self.over.get() {
                return;
            }
            world.begin_round();
            self.poll(world);
            world.end_round(None);
        }
        panic!("it does not complete");
    }
}

/// The clock of a blocking driver.
pub(crate) struct RestingClock<'a, 'f> {
    pub(crate) world: Rc<World>,
    pub(crate) other: &'a Other<'f>,
}

impl Clock for RestingClock<'_, '_> {
    fn now(&self) -> Instant {
        self.world.look()
    }

    fn rest(&self, until: Option<Instant>) {
        self.world.begin_round();
        self.other.poll(&self.world);
        self.world.end_round(until.map(Instant::as_millis));
    }
}

/// The error of the pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl core::fmt::Display for Broken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("broken")
    }
}

impl core::error::Error for Broken {}

impl embedded_io::Error for Broken {
    fn kind(&self) -> ErrorKind {
        ErrorKind::BrokenPipe
    }
}

/// How the writing end of a pipe behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Writes {
    /// It takes what it has room for.
    #[default]
    Some,
    /// It takes nothing.
    Blocked,
    /// It returns 0.
    Zero,
    Fails,
    /// It takes bytes, and flushing fails.
    FailsToFlush,
}

/// What passes through a pipe.
#[derive(Default)]
pub(crate) struct Gauge {
    /// Calls that put bytes in.
    pub(crate) writes: Cell<usize>,
    /// Bytes that were put in.
    pub(crate) written: Cell<usize>,
    /// A number of bytes, and the length of the log when they were reached.
    pub(crate) goal: Cell<usize>,
    pub(crate) reached: Cell<Option<usize>>,
    /// How many bytes each call takes at most, in turn. Empty means no limit.
    pub(crate) pieces: RefCell<Vec<usize>>,
}

impl Gauge {
    fn next_piece(&self) -> usize {
        let call = self.writes.replace(self.writes.get() + 1);
        let pieces = self.pieces.borrow();
        let turn = call.checked_rem(pieces.len());
        turn.map_or(usize::MAX, |turn| pieces[turn])
    }
}

/// One direction. It holds a few bytes, as the queue of a serial port does.
#[derive(Clone)]
pub(crate) struct Pipe {
    pub(crate) bytes: Rc<RefCell<VecDeque<u8>>>,
    pub(crate) closed: Rc<Cell<bool>>,
    /// Reading fails once nothing is left to read.
    pub(crate) broken: Rc<Cell<bool>>,
    pub(crate) writes: Rc<Cell<Writes>>,
    /// It holds bytes back until they are flushed.
    pub(crate) buffers: Rc<Cell<bool>>,
    /// Flushing does not return.
    pub(crate) stuck: Rc<Cell<bool>>,
    /// What was written, and how.
    pub(crate) gauge: Rc<Gauge>,
    held: Rc<RefCell<Vec<u8>>>,
    world: Rc<World>,
    room: usize,
}

impl Pipe {
    pub(crate) fn new(world: &Rc<World>, room: usize) -> Self {
        Self {
            bytes: Rc::default(),
            closed: Rc::default(),
            broken: Rc::default(),
            writes: Rc::default(),
            buffers: Rc::default(),
            stuck: Rc::default(),
            gauge: Rc::default(),
            held: Rc::default(),
            world: Rc::clone(world),
            room,
        }
    }

    fn is_readable(&self) -> bool {
        !self.bytes.borrow().is_empty() || self.closed.get() || self.broken.get()
    }

    fn read_ready(&self, to: &mut [u8]) -> Result<usize, Broken> {
        if self.broken.get() && self.bytes.borrow().is_empty() {
            return Err(Broken);
        }
        Ok(self.take(to))
    }

    pub(crate) fn take(&self, to: &mut [u8]) -> usize {
        let mut bytes = self.bytes.borrow_mut();
        let count = bytes.read(to).expect("memory can be read");
        self.world.log.borrow_mut().push(Op::Read);
        self.world.moved.set(true);
        count
    }

    pub(crate) fn is_writable(&self) -> bool {
        match self.writes.get() {
            Writes::Blocked => false,
            Writes::Zero | Writes::Fails => true,
            Writes::Some | Writes::FailsToFlush => self.bytes.borrow().len() < self.room,
        }
    }

    pub(crate) fn give(&self, from: &[u8]) -> Result<usize, Broken> {
        match self.writes.get() {
            Writes::Zero => return Ok(0),
            Writes::Fails => return Err(Broken),
            Writes::Some | Writes::Blocked | Writes::FailsToFlush => {}
        }
        self.world.moved.set(true);
        let mut bytes = self.bytes.borrow_mut();
        let buffers = self.buffers.get();
        let room = if buffers { from.len() } else { self.room - bytes.len() };
        let taken = &from[..room.min(from.len()).min(self.gauge.next_piece())];
        if buffers {
            self.held.borrow_mut().extend(taken);
        } else {
            bytes.extend(taken);
        }
        self.world.log.borrow_mut().push(Op::Wrote);
        self.gauge.written.set(self.gauge.written.get() + taken.len());
        if self.gauge.written.get() >= self.gauge.goal.get() && self.gauge.reached.get().is_none() {
            self.gauge.reached.set(Some(self.world.log.borrow().len()));
        }
        Ok(taken.len())
    }

    /// Whether everything that was written is flushed.
    pub(crate) fn is_flushed(&self) -> bool {
        self.held.borrow().is_empty()
    }

    fn release(&self) -> Result<(), Broken> {
        if self.writes.get() == Writes::FailsToFlush {
            return Err(Broken);
        }
        let mut held = self.held.borrow_mut();
        if !held.is_empty() {
            self.bytes.borrow_mut().extend(held.drain(..));
            self.world.moved.set(true);
        }
        Ok(())
    }
}

impl embedded_io::ErrorType for Pipe {
    type Error = Broken;
}

impl embedded_io_async::Read for Pipe {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Broken> {
        poll_fn(|_| {
            if self.is_readable() {
                Poll::Ready(self.read_ready(to))
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

impl embedded_io_async::Write for Pipe {
    async fn write(&mut self, from: &[u8]) -> Result<usize, Broken> {
        poll_fn(|_| {
            if self.is_writable() {
                Poll::Ready(self.give(from))
            } else {
                Poll::Pending
            }
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        if self.stuck.get() {
            core::future::pending::<()>().await;
        }
        self.release()
    }
}

/// Both directions of one side, for a blocking driver.
pub(crate) struct Port {
    pub(crate) from: Pipe,
    pub(crate) to: Pipe,
}

impl embedded_io::ErrorType for Port {
    type Error = Broken;
}

impl embedded_io::ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, Broken> {
        Ok(self.from.is_readable())
    }
}

impl embedded_io::Read for Port {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, Broken> {
        assert!(self.from.is_readable(), "a blocking driver reads only what is there");
        self.from.read_ready(to)
    }
}

impl embedded_io::WriteReady for Port {
    fn write_ready(&mut self) -> Result<bool, Broken> {
        Ok(self.to.is_writable())
    }
}

impl embedded_io::Write for Port {
    fn write(&mut self, from: &[u8]) -> Result<usize, Broken> {
        assert!(self.to.is_writable(), "a blocking driver writes only what is taken");
        self.to.give(from)
    }

    fn flush(&mut self) -> Result<(), Broken> {
        self.to.release()
    }
}

/// Runs both until they are done. If neither makes progress, the clock advances to the earliest
/// time that one of them waits for.
pub(crate) fn run<A: Future, B: Future>(world: &World, a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut left, mut right) = (None, None);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        world.begin_round();
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
        world.end_round(None);
    }
    (
        left.expect("it completes in time"),
        right.expect("it completes in time"),
    )
}

/// Runs a future that is ready at once, as with blocking drivers.
pub(crate) fn at_once<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a blocking driver does not wait for an executor"),
    }
}

/// Polls a future that is not ready, until `said` is set, then drops it.
pub(crate) async fn until<F: Future>(said: &Cell<bool>, future: F) {
    let mut future = pin!(future);
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        if said.get() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Polls a future so many times, then drops it.
pub(crate) async fn polled<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut left = polls;
    let mut future = pin!(future);
    poll_fn(|context| {
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left > 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        }
    })
    .await
}
