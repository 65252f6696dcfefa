//! A machine between two buffers of the caller's: unread bytes, and bytes to be written. Nothing here reads, writes or waits.

use core::convert::Infallible;
use core::fmt;
use core::ops::Deref;
use core::time::Duration;

use falco_core::{
    Connection, ConnectionError, Error as CoreError, Instant, Misuse, Received, RecvBuf, Role, Storage, StorageFull,
    Wire,
};

use crate::error::Error;

/// How long the last words of a connection that has ended may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One side of one connection with the bytes on their way in and out. `I` is the memory of the unread bytes, `O` of those to be written.
///
/// Whoever has the stream writes [`unsent`](Self::unsent) and reads into [`space`](Self::space), in any order and in pieces of any size.
pub struct Line<R: Role, H: Deref<Target: Wire<R>>, I, O> {
    machine: Connection<R, H>,
    inbox: RecvBuf<I>,
    /// Unread bytes that bring the next step, as the machine has said.
    wanted: usize,
    outbox: O,
    /// `start <= end <= outbox.len()`; what stands between them is to be written.
    start: usize,
    end: usize,
    /// When the last byte was taken away, or the first came.
    progress: Instant,
    /// How long bytes may wait to be taken away.
    stall: Duration,
}

/// What there is to do at one look at the unread bytes.
pub(crate) enum Next<E> {
    /// Bytes, room in the outbox or the deadline have to come first.
    Wait,
    /// What was there meant nothing; look again.
    Again,
    /// It happened, and its bytes stand in the inbox until this many are consumed.
    Event(usize, E),
}

impl<R: Role, H: Deref<Target: Wire<R>>, I: Storage, O: AsRef<[u8]> + AsMut<[u8]>> Line<R, H, I, O> {
    /// A line for `machine`. No byte waits longer than `stall` to be taken away: a lifetime, as a rule.
    pub const fn new(machine: Connection<R, H>, inbox: I, outbox: O, stall: Duration) -> Self {
        Self {
            machine,
            inbox: RecvBuf::new(inbox),
            wanted: 0,
            outbox,
            start: 0,
            end: 0,
            progress: Instant::ZERO,
            stall,
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

    /// Says that the first `count` of them were.
    pub fn sent(&mut self, now: Instant, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if count > 0 {
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
        let enough = self.inbox.len() >= self.wanted.max(1) || self.machine.end().is_some();
        let space = if enough {
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

    /// Says that the stream has no more bytes.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn end_of_stream(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.machine.end_of_stream(now, self.inbox.unread())
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if no byte comes or goes before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.start < self.end;
        let stalled = waiting.then(|| self.progress + self.patience());
        [self.machine.poll_timeout(), stalled].into_iter().flatten().min()
    }

    fn patience(&self) -> Duration {
        match self.machine.end() {
            Some(_) => self.stall.min(LAST_WORDS),
            None => self.stall,
        }
    }

    /// Does what is due at `now`. Harmless early, late and often.
    ///
    /// # Errors
    /// [`Error::Stalled`] where bytes have waited too long to be taken away; they are dropped.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        // What it says is said again by the next look at the unread bytes, after what is owed has gone.
        let _ = self.machine.handle_timeout(now);
        if self.start < self.end && now >= self.progress + self.patience() {
            self.start = self.end;
            return Err(Error::Stalled);
        }
        Ok(())
    }

    /// Seals what may go, if everything before it has gone, and says whether something did.
    pub(crate) fn seal<'m, M>(&mut self, now: Instant, messages: M) -> Result<bool, CoreError>
    where
        M: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        self.fill(now, |machine, out| machine.seal(now, messages, out))
    }

    /// Takes what the machine itself owes, if everything before it has gone, and says whether there was something.
    pub(crate) fn transmit(&mut self, now: Instant) -> Result<bool, Misuse> {
        self.fill(now, |machine, out| machine.poll_transmit(now, out))
    }

    fn fill<E>(
        &mut self,
        now: Instant,
        write: impl FnOnce(&mut Connection<R, H>, &mut [u8]) -> Result<usize, E>,
    ) -> Result<bool, E> {
        if self.start < self.end {
            return Ok(false);
        }
        let written = write(&mut self.machine, self.outbox.as_mut())?;
        self.start = 0;
        self.end = written.min(self.outbox.as_ref().len());
        self.progress = self.progress.max(now);
        Ok(written > 0)
    }

    /// Looks at the unread bytes. The end is told once everything owed before it has gone.
    pub(crate) fn look(&mut self, now: Instant) -> Result<Next<R::Event>, Error> {
        match self.machine.recv(now, self.inbox.unread()) {
            Ok(Received::Event { consumed, event }) => Ok(Next::Event(consumed, event)),
            Ok(Received::Skip { consumed }) => {
                self.inbox.consume(consumed);
                Ok(Next::Again)
            }
            Ok(Received::NeedMore { total }) => {
                self.wanted = total;
                Ok(Next::Wait)
            }
            Ok(_) => {
                self.wanted = 0;
                Ok(Next::Wait)
            }
            Err(end) => {
                if self.start < self.end || self.transmit(now)? {
                    return Ok(Next::Wait);
                }
                Err(end.into())
            }
        }
    }

    /// The unread bytes, among which an event's body lies.
    pub(crate) fn unread(&mut self) -> &mut [u8] {
        self.inbox.unread()
    }

    /// Drops what an event was in.
    pub(crate) fn consume(&mut self, count: usize) {
        self.inbox.consume(count);
    }
}

impl<R: Role, H: Deref<Target: Wire<R>>, I, O> fmt::Debug for Line<R, H, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("machine", &self.machine)
            .field("inbox", &self.inbox)
            .field("unsent", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

/// Never there: a line does no I/O.
impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
