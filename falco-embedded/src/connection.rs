//! A connection with the caller's two buffers: one for unread bytes, one for bytes to write.
//! Nothing in this module does I/O or blocks.

use core::fmt;

use falco_core::{
    Connection, ConnectionError, Instant, KeyRef, OutputTooSmall, Received, RecvBuf, Role, SealError, Status,
    StorageFull, wipe_stack,
};

use crate::buffers::Buffers;
use crate::error::Error;

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
    /// `start <= end <= outbox.len()`; the bytes between them are to be written.
    start: usize,
    end: usize,
    /// When the stream last accepted a byte, or an empty outbox was filled. Once the connection has
    /// ended it is the time of the end, and does not change any more.
    progress: Instant,
    /// Whether it was reported to the connection that the stream is not being read.
    paused: bool,
    input: Input,
    output: Output,
    /// Whether the connection has ended. The time of the end is then in `progress`.
    ended: bool,
    /// Whether the outbox was last filled with bytes that contain part of an answer.
    answers: bool,
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

/// Whether bytes can still be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Open,
    /// Pending bytes made no progress for too long, and were discarded.
    Stalled,
    /// The stream failed. `lost` is whether bytes were pending at that time.
    #[cfg(any(feature = "async", feature = "blocking"))]
    Failed {
        lost: bool,
    },
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
            start: 0,
            end: 0,
            progress: Instant::ZERO,
            paused: false,
            input: Input::Open,
            output: Output::Open,
            ended: false,
            answers: false,
        }
    }

    /// The connection inside, to read its state.
    pub const fn machine(&self) -> &Connection<R, H> {
        &self.machine
    }

    /// Whether the connection is established or draining.
    pub(crate) fn is_established(&self) -> bool {
        matches!(self.machine.status(), Status::Established | Status::Draining)
    }

    pub(crate) const fn machine_mut(&mut self) -> &mut Connection<R, H> {
        &mut self.machine
    }

    /// The bytes to write.
    pub fn unsent(&self) -> &[u8] {
        self.outbox.as_ref().get(self.start..self.end).unwrap_or_default()
    }

    /// Whether all output was accepted by the stream, and writing has neither stalled nor failed.
    pub(crate) const fn is_sent(&self) -> bool {
        self.start == self.end && matches!(self.output, Output::Open)
    }

    /// Whether writing has failed. Bytes that the peer sent may then have been lost.
    pub(crate) const fn is_broken(&self) -> bool {
        !matches!(self.output, Output::Open | Output::Stalled)
    }

    /// Reports that the stream has accepted the first `count` bytes of [`unsent`](Self::unsent).
    pub fn sent(&mut self, now: Instant, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if count > 0 && !self.ended {
            self.progress = self.progress.max(now);
        }
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
            self.outbox.as_ref().get(self.start..self.end).unwrap_or_default(),
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
        [self.machine.poll_timeout(), self.stalls_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// When pending bytes are discarded.
    fn stalls_at(&self) -> Option<Instant> {
        (self.start < self.end).then(|| self.write_deadline())
    }

    fn write_deadline(&self) -> Instant {
        self.machine.write_deadline(self.progress, self.answers)
    }

    /// Does what is due at `now`; the next `step` returns the result. Calling it early, late or
    /// often does no harm.
    ///
    /// First report what has arrived with [`filled`](Self::filled), and call `step` until it
    /// returns `false`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.machine.handle_timeout(now).is_err() {
            self.note_end(now);
        }
        if self.stalls_at().is_some_and(|at| now >= at) {
            self.discard_output(Output::Stalled);
        }
    }

    /// Records the end of the connection. The write deadline of the last bytes counts from it.
    fn note_end(&mut self, now: Instant) {
        if !self.ended {
            self.ended = true;
            self.progress = self.progress.max(now);
        }
    }

    /// The deadline for flushing the bytes that the stream has accepted, after the connection
    /// ended.
    #[cfg(feature = "async")]
    pub(crate) fn flush_deadline(&self, now: Instant) -> Instant {
        if self.ended && self.answers {
            self.write_deadline()
        } else {
            now + falco_core::Settings::LINGER
        }
    }

    /// Reports that flushing the stream has failed. Returns whether the bytes contained an answer,
    /// which is then lost.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn lose_answer(&mut self) -> bool {
        if self.answers {
            self.end_of_stream();
            self.discard_output(Output::Failed { lost: true });
        }
        self.answers
    }

    /// Reports that nothing can be written any more.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn output_failed(&mut self) {
        let lost = self.start < self.end || self.output == Output::Failed { lost: true };
        self.discard_output(Output::Failed { lost });
    }

    /// Discards unsent bytes. Nothing may be written after that, because a record would be
    /// incomplete.
    const fn discard_output(&mut self, output: Output) {
        self.start = self.end;
        self.output = output;
    }

    /// Reports a late poll: the stream was not polled for a while. Call it before the next step.
    /// See [`Connection::handle_late_poll`].
    pub fn handle_late_poll(&mut self, now: Instant) {
        self.machine.handle_late_poll(now);
    }

    /// Does what is due at `now`. `read` is whether there are bytes that were read and not
    /// processed yet. If so, the poll counts as late, and a deadline that has passed may move.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn handle_due(&mut self, now: Instant, read: bool) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            if read {
                self.machine.handle_late_poll(now);
            }
            self.handle_timeout(now);
        }
    }

    /// Seals messages if the outbox is empty. Returns whether something was sealed.
    pub(crate) fn seal<'m, M>(&mut self, now: Instant, messages: M) -> Result<bool, SealError>
    where
        M: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        self.fill(now, |machine, out| machine.seal(now, messages, out))
    }

    /// Notes that what was sealed just now contains part of an answer.
    pub(crate) const fn note_answer(&mut self) {
        self.answers = true;
    }

    /// Writes pending output to the outbox, if the outbox is empty. Returns whether there was any.
    pub(crate) fn transmit(&mut self, now: Instant) -> Result<bool, OutputTooSmall> {
        self.fill(now, |machine, out| machine.poll_transmit(now, out))
    }

    fn fill<E>(
        &mut self,
        now: Instant,
        write: impl FnOnce(&mut Connection<R, H>, &mut [u8]) -> Result<usize, E>,
    ) -> Result<bool, E> {
        if self.start < self.end || self.output != Output::Open {
            return Ok(false);
        }
        let written = write(&mut self.machine, self.outbox.as_mut())?;
        self.start = 0;
        self.end = written.min(self.outbox.as_ref().len());
        self.answers &= written == 0;
        if !self.ended {
            self.progress = self.progress.max(now);
        }
        Ok(written > 0)
    }

    /// Processes the unread bytes up to the next event, passes that event to `handle`, and consumes
    /// its bytes. The end of the connection is returned once the stream has accepted its last
    /// bytes.
    pub(crate) fn recv<T>(&mut self, now: Instant, handle: impl FnOnce(R::Event<'_>) -> T) -> Result<Next<T>, Error> {
        if core::mem::take(&mut self.paused) {
            self.machine.set_reading(now, true);
        }
        match self.machine.recv(now, self.inbox.unread()) {
            Ok(Received::Event { consumed, event }) => {
                let handled = handle(event);
                self.inbox.consume(consumed);
                Ok(Next::Event(handled))
            }
            Ok(Received::Skip { consumed }) => {
                self.inbox.consume(consumed);
                Ok(Next::Again)
            }
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
        match self.machine.end_of_stream(now, self.inbox.unread()) {
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
        self.note_end(now);
        if self.start < self.end || self.transmit(now)? {
            return Ok(Next::Wait);
        }
        // The end is not orderly if an answer was lost, or if the peer ended the stream before it
        // received this side's CLOSE.
        let closed = matches!(end, ConnectionError::Closed);
        if closed && self.has_lost_output() && (self.answers || self.input == Input::Reported) {
            return self.wait();
        }
        Err(end.into())
    }

    /// Whether pending bytes were lost.
    const fn has_lost_output(&self) -> bool {
        match self.output {
            Output::Stalled => true,
            #[cfg(any(feature = "async", feature = "blocking"))]
            Output::Failed { lost } => lost,
            Output::Open => false,
        }
    }

    /// Handles `Received::Wait`: the connection processes no more bytes before output is written.
    /// While the stream accepts nothing, the lifetime is paused.
    pub(crate) fn pause<T>(&mut self, now: Instant) -> Result<Next<T>, Error> {
        self.wanted = 0;
        if self.start < self.end {
            self.paused = true;
            self.machine.set_reading(now, false);
        }
        self.wait()
    }

    /// Waits, unless the stream has failed and nothing more can happen.
    fn wait<T>(&self) -> Result<Next<T>, Error> {
        match self.output {
            Output::Stalled => Err(Error::Stalled),
            #[cfg(any(feature = "async", feature = "blocking"))]
            Output::Failed { .. } if self.input != Input::Open => Err(ConnectionError::Truncated.into()),
            #[cfg(any(feature = "async", feature = "blocking"))]
            Output::Failed { .. } => Ok(Next::Wait),
            Output::Open => Ok(Next::Wait),
        }
    }
}

impl<R: Role, H: KeyRef<R>, B: Buffers> fmt::Debug for BufferedConnection<R, H, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedConnection")
            .field("machine", &self.machine)
            .field("inbox", &self.inbox)
            .field("unsent", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

/// Overwrites the stack of a step: after any of them the caller may return to its own caller, which
/// may wait.
pub(crate) fn wiped(stepped: Result<bool, Error>) -> Result<bool, Error> {
    wipe_stack();
    stepped
}
