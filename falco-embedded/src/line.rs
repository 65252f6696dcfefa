//! A machine between two buffers of the caller's: unread bytes, and bytes to be written. Nothing
//! here reads, writes or waits.

use core::fmt;

use falco_core::{
    Connection, Instant, KeyRef, OutputTooSmall, Received, RecvBuf, Role, SealError, Storage, StorageFull,
};

use crate::error::Error;

/// One side of one connection with the bytes on their way in and out. `I` is the memory of the
/// unread bytes, `O` of those to be written.
///
/// Whoever has the stream writes [`unsent`](Self::unsent) and reads into [`space`](Self::space), in
/// any order and in pieces of any size, and tells the time. What comes of it is told by the next
/// step of the [`ClientLine`](crate::ClientLine) or [`ServerLine`](crate::ServerLine) around it.
///
/// ```no_run
/// use falco_core::{Instant, Role, StorageFull, KeyRef};
/// use falco_embedded::Line;
///
/// /// A serial port whose queues hold a few bytes; neither call waits.
/// trait Port {
///     fn take(&mut self, to: &mut [u8]) -> usize;
///     fn give(&mut self, from: &[u8]) -> usize;
/// }
///
/// /// Moves what can be moved.
/// fn serve<R: Role, H: KeyRef<R>>(
///     line: &mut Line<R, H, [u8; 514], [u8; 514]>,
///     port: &mut impl Port,
///     now: Instant,
/// ) -> Result<(), StorageFull> {
///     let read = port.take(line.space()?);
///     line.filled(read);
///     let written = port.give(line.unsent());
///     line.sent(now, written);
///     Ok(())
/// }
/// ```
///
/// After that come steps, until one says that there is no more, and then
/// [`handle_timeout`](Self::handle_timeout).
pub struct Line<R: Role, H: KeyRef<R>, I, O> {
    machine: Connection<R, H>,
    inbox: RecvBuf<I>,
    /// Unread bytes that bring the next step, as the machine has said.
    wanted: usize,
    outbox: O,
    /// `start <= end <= outbox.len()`; what stands between them is to be written.
    start: usize,
    end: usize,
    /// When the last byte was taken away, or the first came, or the connection ended.
    progress: Instant,
    /// The machine knows that nothing is read.
    paused: bool,
    source: Source,
    way: Way,
    /// The connection has ended, at the time in `progress`.
    ended: bool,
    /// What was put into the outbox last contains part of an answer.
    answers: bool,
}

/// Whether bytes can still come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    /// The stream has no more.
    Ended,
    /// The machine knows that.
    Told,
}

/// Whether bytes can still go out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// They waited too long to be taken away, which is the owner's to know.
    Stalled,
    /// The stream takes none, which its owner knows; nothing was lost by that yet.
    #[cfg(any(feature = "async", feature = "blocking"))]
    Broken,
    /// The same, and bytes that waited were lost.
    #[cfg(any(feature = "async", feature = "blocking"))]
    Cut,
}

/// What there is to do at one look at the unread bytes.
pub(crate) enum Next<E> {
    /// Bytes, room in the outbox or the deadline have to come first.
    Wait,
    /// What was there meant nothing; look again.
    Again,
    /// Something happened, and this came of it.
    Event(E),
}

impl<R: Role, H: KeyRef<R>, I: Storage, O: AsRef<[u8]> + AsMut<[u8]>> Line<R, H, I, O> {
    /// A line for `machine`. [`Connection::buffer_sizes`] says how large `inbox` and `outbox` have
    /// to be.
    pub const fn new(machine: Connection<R, H>, inbox: I, outbox: O) -> Self {
        Self {
            machine,
            inbox: RecvBuf::new(inbox),
            wanted: 0,
            outbox,
            start: 0,
            end: 0,
            progress: Instant::ZERO,
            paused: false,
            source: Source::Open,
            way: Way::Open,
            ended: false,
            answers: false,
        }
    }

    /// The machine, to be asked how it is.
    pub const fn machine(&self) -> &Connection<R, H> {
        &self.machine
    }

    pub(crate) const fn machine_mut(&mut self) -> &mut Connection<R, H> {
        &mut self.machine
    }

    /// Bytes to be written.
    pub fn unsent(&self) -> &[u8] {
        self.outbox.as_ref().get(self.start..self.end).unwrap_or_default()
    }

    /// Whether nothing waits to be written that could be.
    pub(crate) const fn is_sent(&self) -> bool {
        self.start == self.end && self.is_open()
    }

    /// Whether what waits to be written can be.
    const fn is_open(&self) -> bool {
        matches!(self.way, Way::Open)
    }

    /// Whether the stream has failed, so that bytes of the peer may be lost.
    pub(crate) const fn is_broken(&self) -> bool {
        !matches!(self.way, Way::Open | Way::Stalled)
    }

    /// Says that the first `count` of them were.
    pub fn sent(&mut self, now: Instant, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if count > 0 && !self.ended {
            self.progress = self.progress.max(now);
        }
    }

    /// Room to read into; empty where nothing is wanted now.
    ///
    /// # Errors
    /// [`StorageFull`] where the inbox is too small for what the settings allow.
    pub fn space(&mut self) -> Result<&mut [u8], StorageFull> {
        self.buffers().map(|(space, _)| space)
    }

    /// Room to read into, and bytes to be written, at once.
    pub(crate) fn buffers(&mut self) -> Result<(&mut [u8], &[u8]), StorageFull> {
        let enough = self.inbox.len() >= self.wanted.max(1);
        let space = if enough || self.source != Source::Open || self.machine.end().is_some() {
            Default::default()
        } else {
            self.inbox.space(self.wanted)?
        };
        Ok((
            space,
            self.outbox.as_ref().get(self.start..self.end).unwrap_or_default(),
        ))
    }

    /// Says how many bytes were read into it.
    pub fn filled(&mut self, count: usize) {
        self.inbox.filled(count);
    }

    /// Says that the stream has no more bytes. Those that have come are still looked at.
    pub const fn end_of_stream(&mut self) {
        if matches!(self.source, Source::Open) {
            self.source = Source::Ended;
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if no byte comes or goes
    /// before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.machine.poll_timeout(), self.stalls_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// No byte waits for longer than the machine says to be taken away.
    fn stalls_at(&self) -> Option<Instant> {
        (self.start < self.end).then(|| self.given_up_at())
    }

    /// When what waits is given up.
    fn given_up_at(&self) -> Instant {
        if self.ended {
            self.machine.last_bytes_until(self.progress, self.answers)
        } else {
            self.machine.stalls_at(self.progress)
        }
    }

    /// Does what is due at `now`, which the next step tells of. Harmless early, late and often.
    /// What has come is handed over and looked at first: by [`filled`](Self::filled), and by steps
    /// until one says that there is no more.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.machine.handle_timeout(now).is_err() {
            self.note_end(now);
        }
        if self.stalls_at().is_some_and(|at| now >= at) {
            self.shut(Way::Stalled);
        }
    }

    /// The time of the last bytes begins.
    fn note_end(&mut self, now: Instant) {
        if !self.ended {
            self.ended = true;
            self.progress = self.progress.max(now);
        }
    }

    /// Until when bytes that the stream has taken may wait in it for their way out, after the end.
    #[cfg(feature = "async")]
    pub(crate) fn flushes_until(&self, now: Instant) -> Instant {
        if self.ended && self.answers {
            self.given_up_at()
        } else {
            now + falco_core::LINGER
        }
    }

    /// The stream has not let go of what it took. Says whether that was a last answer, which is
    /// lost then.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn lose(&mut self) -> bool {
        if self.answers {
            self.end_of_stream();
            self.shut(Way::Cut);
        }
        self.answers
    }

    /// Nothing can be written any more.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn abandon(&mut self) {
        let cut = self.start < self.end || self.way == Way::Cut;
        self.shut(if cut { Way::Cut } else { Way::Broken });
    }

    /// Nothing that waits goes: what is half written could not be continued.
    const fn shut(&mut self, way: Way) {
        self.start = self.end;
        self.way = way;
    }

    /// Says that nobody was here for a while: what has come by `now` is looked at before the
    /// connection counts as silent, or the peer as dead. To be called before the next step.
    pub fn handle_late_poll(&mut self, now: Instant) {
        self.machine.handle_late_poll(now);
    }

    /// Bytes were moved, or the time has come: does what is due, but for an end that the bytes just
    /// read may put off.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn turn(&mut self, now: Instant, read: bool) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            if read {
                self.machine.handle_late_poll(now);
            }
            self.handle_timeout(now);
        }
    }

    /// Seals what may go, if everything before it has gone, and says whether something did.
    pub(crate) fn seal<'m, M>(&mut self, now: Instant, messages: M) -> Result<bool, SealError>
    where
        M: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        self.fill(now, |machine, out| machine.seal(now, messages, out))
    }

    /// What was sealed just now contains part of an answer.
    pub(crate) const fn note_answer(&mut self) {
        self.answers = true;
    }

    /// Takes what the machine itself owes, if everything before it has gone, and says whether there
    /// was something.
    pub(crate) fn transmit(&mut self, now: Instant) -> Result<bool, OutputTooSmall> {
        self.fill(now, |machine, out| machine.poll_transmit(now, out))
    }

    fn fill<E>(
        &mut self,
        now: Instant,
        write: impl FnOnce(&mut Connection<R, H>, &mut [u8]) -> Result<usize, E>,
    ) -> Result<bool, E> {
        if self.start < self.end || self.way != Way::Open {
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

    /// Looks at the unread bytes, hands what has happened to `take`, and drops the bytes that it
    /// was in. The end is told once everything owed before it has gone.
    pub(crate) fn look<T>(&mut self, now: Instant, take: impl FnOnce(R::Event<'_>) -> T) -> Result<Next<T>, Error> {
        if core::mem::take(&mut self.paused) {
            self.machine.set_reading(now, true);
        }
        match self.machine.recv(now, self.inbox.unread()) {
            Ok(Received::Event { consumed, event }) => {
                let taken = take(event);
                self.inbox.consume(consumed);
                Ok(Next::Event(taken))
            }
            Ok(Received::Skip { consumed }) => {
                self.inbox.consume(consumed);
                Ok(Next::Again)
            }
            Ok(Received::NeedMore { total }) => self.need_more(now, total),
            Ok(_) => self.hold(now),
            Err(end) => self.tell_end(now, end),
        }
    }

    /// There is no whole frame.
    // A device has it once for each side, and not in each step.
    #[cfg_attr(target_os = "none", inline(never))]
    fn need_more<T>(&mut self, now: Instant, total: usize) -> Result<Next<T>, Error> {
        self.wanted = total;
        if self.source == Source::Open {
            return self.or_over();
        }
        match self.machine.end_of_stream(now, self.inbox.unread()) {
            // What it makes of that is told by the next look.
            Ok(()) if core::mem::replace(&mut self.source, Source::Told) == Source::Ended => Ok(Next::Again),
            Ok(()) => self.or_over(),
            Err(end) => {
                self.source = Source::Told;
                self.tell_end(now, end)
            }
        }
    }

    /// The connection has ended.
    #[cfg_attr(target_os = "none", inline(never))]
    fn tell_end<T>(&mut self, now: Instant, end: falco_core::ConnectionError) -> Result<Next<T>, Error> {
        self.note_end(now);
        if self.start < self.end || self.transmit(now)? {
            return Ok(Next::Wait);
        }
        // The machine has said everything, and not all of that has gone: an answer, or the CLOSE
        // that would have made the end of the stream an end in order.
        let closed = matches!(end, falco_core::ConnectionError::Closed);
        if closed && self.is_cut() && (self.answers || self.source == Source::Told) {
            return self.or_over();
        }
        Err(end.into())
    }

    /// Whether bytes that waited were lost.
    fn is_cut(&self) -> bool {
        match self.way {
            Way::Stalled => true,
            #[cfg(any(feature = "async", feature = "blocking"))]
            Way::Cut => true,
            #[cfg(any(feature = "async", feature = "blocking"))]
            Way::Broken => false,
            Way::Open => false,
        }
    }

    /// Something has to be written first. Where that has to wait, nothing is read meanwhile, so
    /// that the lifetime stands still.
    pub(crate) fn hold<T>(&mut self, now: Instant) -> Result<Next<T>, Error> {
        self.wanted = 0;
        if self.start < self.end {
            self.paused = true;
            self.machine.set_reading(now, false);
        }
        self.or_over()
    }

    /// Waiting is in vain where nothing goes any more.
    fn or_over<T>(&self) -> Result<Next<T>, Error> {
        match self.way {
            Way::Stalled => Err(Error::Stalled),
            #[cfg(any(feature = "async", feature = "blocking"))]
            Way::Broken | Way::Cut if self.source != Source::Open => Err(falco_core::ConnectionError::Truncated.into()),
            #[cfg(any(feature = "async", feature = "blocking"))]
            Way::Broken | Way::Cut => Ok(Next::Wait),
            Way::Open => Ok(Next::Wait),
        }
    }
}

impl<R: Role, H: KeyRef<R>, I, O> fmt::Debug for Line<R, H, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("machine", &self.machine)
            .field("inbox", &self.inbox)
            .field("unsent", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}
