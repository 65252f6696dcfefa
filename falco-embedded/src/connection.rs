//! A connection with the caller's two buffers: one for unread bytes, one for bytes to write.
//! Nothing in this module does I/O or blocks.

use core::fmt;

use falco_core::{
    CloseReason, Connection, ConnectionError, Deadlines, Instant, KeyRef, Received, RecvBuf, Role, SealError,
    StorageFull, wipe_stack,
};

use crate::buffers::Buffers;
use crate::error::Error;
use crate::output::Output;

/// One side of a connection, with an input and an output buffer (`B`).
///
/// Write [`unsent`](Self::unsent) to the stream and read into [`space`](Self::space), in any order
/// and in pieces of any size. The next `step` of the [`BufferedClient`](crate::BufferedClient) or
/// [`BufferedServer`](crate::BufferedServer) that owns this connection processes them.
///
/// ```no_run
/// use falco_core::{Instant, KeyRef, Role, StorageFull};
/// use falco_embedded::{BufferedConnection, Buffers};
///
/// /// A serial port whose queues hold a few bytes. Neither call blocks.
/// trait Port {
///     fn read(&mut self, to: &mut [u8]) -> usize;
///     fn write(&mut self, from: &[u8]) -> usize;
/// }
///
/// /// Moves as many bytes as possible.
/// fn transfer<R: Role, H: KeyRef<R>, B: Buffers>(
///     connection: &mut BufferedConnection<R, H, B>,
///     port: &mut impl Port,
///     now: Instant,
/// ) -> Result<(), StorageFull> {
///     let read = port.read(connection.space()?);
///     connection.filled(read);
///     let written = port.write(connection.unsent());
///     connection.sent(now, written);
///     Ok(())
/// }
/// ```
///
/// After that call `step` until it returns `false`, and then
/// [`handle_timeout`](Self::handle_timeout).
pub struct BufferedConnection<R: Role, H: KeyRef<R>, B: Buffers> {
    machine: Connection<R, H>,
    inbox: RecvBuf<B::Input>,
    /// How many unread bytes the connection needs for its next step.
    wanted: usize,
    outbox: B::Output,
    deadlines: Deadlines,
    /// Whether it was reported to the connection that the stream is not being read.
    paused: bool,
    input: Input,
    output: Output,
}

/// Whether bytes can still be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// The stream has ended.
    Ended,
    /// The stream has ended, and this was reported to the connection.
    Reported,
}

/// The result of one call of [`BufferedConnection::recv`].
pub(crate) enum Next<E> {
    /// More bytes, room in the outbox or a deadline is needed first.
    Wait,
    /// Nothing happened; call again.
    Again,
    /// The connection returned an event, and this is the result of its handler.
    Event(E),
}

impl<R: Role, H: KeyRef<R>, B: Buffers> BufferedConnection<R, H, B> {
    /// Combines `machine` with `buffers`. [`Connection::buffer_sizes`] returns the sizes that they
    /// need.
    pub fn new(machine: Connection<R, H>, buffers: B) -> Self {
        let (inbox, outbox) = buffers.into_parts();
        Self::from_parts(machine, inbox, outbox)
    }

    pub(crate) const fn from_parts(machine: Connection<R, H>, inbox: B::Input, outbox: B::Output) -> Self {
        Self {
            machine,
            inbox: RecvBuf::new(inbox),
            wanted: 0,
            outbox,
            deadlines: Deadlines::new(),
            paused: false,
            input: Input::Open,
            output: Output::new(),
        }
    }

    /// The connection inside, to read its state.
    pub const fn machine(&self) -> &Connection<R, H> {
        &self.machine
    }

    /// Whether the connection is established or draining.
    pub(crate) fn is_established(&self) -> bool {
        self.machine.is_established()
    }

    pub(crate) const fn machine_mut(&mut self) -> &mut Connection<R, H> {
        &mut self.machine
    }

    /// The bytes to write.
    pub fn unsent(&self) -> &[u8] {
        self.outbox.as_ref().get(self.output.unsent()).unwrap_or_default()
    }

    /// Whether the stream has accepted and flushed all output, and writing has neither stalled nor
    /// failed.
    pub(crate) const fn is_sent(&self) -> bool {
        self.output.is_open() && !self.output.is_pending()
    }

    /// Whether writing has failed. Bytes that the peer sent may then have been lost.
    pub(crate) const fn is_broken(&self) -> bool {
        self.output.has_failed()
    }

    /// Reports that the stream has accepted the first `count` bytes of [`unsent`](Self::unsent).
    pub fn sent(&mut self, now: Instant, count: usize) {
        if count > 0 {
            self.deadlines.progress();
        }
        if self.output.sent(count) {
            self.deadlines.block(now);
        }
    }

    /// As [`sent`](Self::sent), for a driver that flushes the stream afterwards.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn wrote(&mut self, now: Instant, count: usize) {
        self.output.set_unflushed();
        self.sent(now, count);
    }

    /// Whether the stream has accepted bytes that are not flushed.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) const fn is_unflushed(&self) -> bool {
        self.output.is_unflushed()
    }

    /// Reports that the stream has flushed all bytes that it has accepted.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) const fn flushed(&mut self) {
        self.output.flushed();
    }

    /// Room to read into. It is empty if nothing should be read now.
    ///
    /// # Errors
    /// [`StorageFull`] if the inbox is too small for what the settings allow.
    pub fn space(&mut self) -> Result<&mut [u8], StorageFull> {
        self.buffers().map(|(space, _)| space)
    }

    /// Room to read into, and the bytes to write.
    pub(crate) fn buffers(&mut self) -> Result<(&mut [u8], &[u8]), StorageFull> {
        let enough = self.inbox.len() >= self.wanted.max(1);
        let space = if enough || self.input != Input::Open || self.machine.end().is_some() {
            Default::default()
        } else {
            self.inbox.space(self.wanted)?
        };
        Ok((
            space,
            self.outbox.as_ref().get(self.output.unsent()).unwrap_or_default(),
        ))
    }

    /// Reports that `count` bytes were read into [`space`](Self::space).
    pub fn filled(&mut self, count: usize) {
        self.inbox.filled(count);
    }

    /// Reports that the stream has no more bytes. The next steps still process those that have
    /// arrived.
    pub const fn end_of_stream(&mut self) {
        if matches!(self.input, Input::Open) {
            self.input = Input::Ended;
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if no byte is read or written before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.output.is_ending() {
            self.output.poll_timeout()
        } else {
            self.deadlines.poll_timeout(&self.machine)
        }
    }

    /// Handles the deadlines that have passed at `now`; the next `step` returns the result. Calling
    /// it early, late or often does no harm.
    ///
    /// First report what has arrived with [`filled`](Self::filled), and call `step` until it
    /// returns `false`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.output.is_ending() {
            return self.output.stop_at_end(now);
        }
        // The next step returns every other end.
        if let Err(ConnectionError::Stalled) = self.deadlines.handle_timeout(&mut self.machine, now) {
            self.output.stall();
            self.deadlines.progress();
        }
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self, now: Instant, reason: CloseReason) {
        self.deadlines.note_poll(&mut self.machine, now);
        self.machine.close(now, reason);
    }

    /// Reports that nothing can be written any more.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn output_failed(&mut self) {
        self.output.fail();
        self.deadlines.progress();
    }

    /// If the outbox is empty, writes pending output to it, and seals what can be sent of the
    /// message. Returns whether something was written. [`recv`](Self::recv) returns the end of the
    /// connection, after the last bytes.
    // One function on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) fn seal(&mut self, now: Instant, message: Option<(&mut R::Outgoing, &[u8])>) -> Result<bool, Error> {
        self.set_paused(now, false);
        self.deadlines.note_poll(&mut self.machine, now);
        if self.output.is_unsent() || !self.output.is_open() {
            return Ok(false);
        }
        let written = match self.machine.seal(now, message, self.outbox.as_mut()) {
            Err(SealError::Connection(_)) => 0,
            written => written?,
        };
        self.output.fill(written);
        if written > 0 {
            self.deadlines.block(now);
        }
        Ok(written > 0)
    }

    /// Notes that what was sealed just now contains part of an answer.
    pub(crate) const fn note_answer(&mut self) {
        self.output.note_answer();
    }

    /// Writes pending output to the outbox, if the outbox is empty. Returns whether there was any.
    pub(crate) fn transmit(&mut self, now: Instant) -> Result<bool, Error> {
        self.seal(now, None)
    }

    /// Processes the unread bytes up to the next event, passes that event to `handle`, and consumes
    /// its bytes. The end of the connection is returned once the stream has accepted its last
    /// bytes.
    pub(crate) fn recv<T>(&mut self, now: Instant, handle: impl FnOnce(R::Event<'_>) -> T) -> Result<Next<T>, Error> {
        match self.machine.recv(now, self.inbox.unread()) {
            Ok(Received::Event(event)) => Ok(Next::Event(handle(event))),
            Ok(Received::Skip) => Ok(Next::Again),
            Ok(Received::NeedMore { total }) => self.need_more(now, total),
            Ok(_) => self.pause(now),
            Err(end) => self.report_end(now, end),
        }
    }

    /// Handles [`Received::NeedMore`].
    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    fn need_more<T>(&mut self, now: Instant, total: usize) -> Result<Next<T>, Error> {
        self.wanted = total;
        if self.input == Input::Open {
            return self.wait();
        }
        match self.machine.end_of_stream(now, &self.inbox.unread()) {
            // The connection may have events for requests that it gives up now.
            Ok(()) if core::mem::replace(&mut self.input, Input::Reported) == Input::Ended => Ok(Next::Again),
            Ok(()) => self.wait(),
            Err(end) => {
                self.input = Input::Reported;
                self.report_end(now, end)
            }
        }
    }

    /// Handles the end of the connection, which is returned once its last bytes are sent or
    /// discarded.
    #[cfg_attr(target_os = "none", inline(never))]
    fn report_end<T>(&mut self, now: Instant, end: ConnectionError) -> Result<Next<T>, Error> {
        if !self.output.is_ending() {
            let ending = self.machine.ending(now, self.output.has_answer());
            self.output.end(ending);
        }
        self.output.stop_at_end(now);
        if self.output.is_pending() || self.transmit(now)? {
            return Ok(Next::Wait);
        }
        if self.output.breaks(end, self.input == Input::Reported) {
            return self.wait();
        }
        Err(end.into())
    }

    /// Reports whether the stream is not being read, if that has changed.
    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    fn set_paused(&mut self, now: Instant, paused: bool) {
        if self.paused != paused {
            self.paused = paused;
            self.deadlines.set_reading(&mut self.machine, now, !paused);
        }
    }

    /// Handles `Received::Wait`: the connection processes no more bytes before output is written.
    /// While the stream accepts nothing, the lifetime is paused.
    pub(crate) fn pause<T>(&mut self, now: Instant) -> Result<Next<T>, Error> {
        self.wanted = 0;
        if self.output.is_unsent() {
            self.set_paused(now, true);
        }
        self.wait()
    }

    /// Waits, unless the stream has failed and nothing more can happen.
    fn wait<T>(&self) -> Result<Next<T>, Error> {
        self.output.wait(self.input != Input::Open)?;
        Ok(Next::Wait)
    }
}

impl<R: Role, H: KeyRef<R>, B: Buffers> fmt::Debug for BufferedConnection<R, H, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedConnection")
            .field("machine", &self.machine)
            .field("inbox", &self.inbox)
            .field("unsent", &self.unsent().len())
            .finish_non_exhaustive()
    }
}

/// Overwrites the stack of a step: after any of them the caller may return to its own caller, which
/// may wait.
pub(crate) fn wiped(stepped: Result<bool, Error>) -> Result<bool, Error> {
    wipe_stack();
    stepped
}
