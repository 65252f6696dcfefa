//! The two halves of an open request: what they want of their connection, and what they are told.

use super::streams::{ENOUGH, StreamError};

/// A reader that has taken this many bytes has the connection give credit for them.
const TAKEN: usize = 32 << 10;

/// What the half that reads and the half that writes share with the connection of an open request,
/// apart from the bytes between them. The caller or the handler has the halves, which may be on
/// another thread, so an adapter keeps this under a lock together with these bytes.
///
/// The connection calls [`ClientMux::pump`](super::ClientMux::pump) or
/// [`ServerMux::pump`](super::ServerMux::pump) when a half has something for it: methods of the
/// halves return `true` for that. They return it once until the connection has looked.
///
/// `E` is the error that a half receives. Where a method changes what
/// [`input_end`](Self::input_end) or [`may_send`](Self::may_send) returns, the adapter wakes who
/// waits for that.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Halves<E> {
    /// How the body that is read has ended.
    input: Option<Result<(), E>>,
    /// Why nothing more is sent.
    output: Option<E>,
    /// Bytes that have arrived and that the reader has not taken.
    unread: usize,
    /// Bytes that the reader has taken since the connection looked.
    taken: usize,
    /// The connection is told when the reader has taken this many.
    tells_at: usize,
    /// Bytes of the writer that the connection has not accepted.
    unsent: usize,
    of_client: bool,
    /// The request of a client has begun, or will not.
    begun: bool,
    /// The reader waits for more, and has nothing left.
    waits: bool,
    reader_gone: bool,
    writer_gone: bool,
    /// The writer has finished its body.
    finished: bool,
    /// The request has failed: the rest of the bodies is dropped.
    failed: bool,
    /// The connection was told that there is something for it, and has not looked.
    told: bool,
    /// The connection has begun the answer.
    pub(super) answering: bool,
    /// The connection has the whole answer.
    pub(super) answered: bool,
    /// The connection drops the rest of the request.
    pub(super) discarded: bool,
    /// The client has cancelled the request.
    pub(super) cancelled: bool,
}

impl<E: Clone + From<StreamError>> Halves<E> {
    /// The halves of an open request of a client, which has not begun. `window_kib` is the
    /// [window](crate::Settings::window_kib) of the client.
    #[must_use]
    pub fn of_client(window_kib: u16) -> Self {
        Self::new(usize::from(window_kib) << 10, true)
    }

    /// Of the `window` of this side, a reader keeps a quarter back at most before the connection is
    /// told. So the other side has credit left for most of it, and a reader that waits need not
    /// give credit for every few bytes.
    pub(super) fn new(window: usize, of_client: bool) -> Self {
        Self {
            input: None,
            output: None,
            unread: 0,
            taken: 0,
            tells_at: (window / 4).clamp(1, TAKEN),
            unsent: 0,
            of_client,
            begun: !of_client,
            waits: false,
            reader_gone: false,
            writer_gone: false,
            finished: false,
            failed: false,
            told: false,
            answering: false,
            answered: false,
            discarded: false,
            cancelled: false,
        }
    }

    fn tell(&mut self) -> bool {
        !core::mem::replace(&mut self.told, true)
    }
}

/// What the connection tells the halves.
impl<E: Clone + From<StreamError>> Halves<E> {
    /// `bytes` of the body that is read have arrived. Returns whether the reader takes them; drop
    /// them if not.
    pub fn arrived(&mut self, bytes: usize) -> bool {
        let takes = bytes > 0 && !self.reader_gone && self.input.is_none();
        if takes {
            self.unread += bytes;
            self.waits = false;
        }
        takes
    }

    /// The body that is read is whole.
    pub fn end_input(&mut self) {
        self.input.get_or_insert(Ok(()));
    }

    /// The request of a client has begun.
    pub const fn begin(&mut self) {
        self.begun = true;
    }

    /// The request of a client has completed: its answer is whole, and no more of its own body is
    /// needed.
    pub fn complete(&mut self) {
        self.begun = true;
        self.end_input();
        self.end_output(StreamError::Ended);
    }

    /// The request has failed, or its connection has ended. Without effect on a body that has ended
    /// before.
    pub fn fail(&mut self, why: E) {
        self.begun = true;
        self.failed = true;
        self.unsent = 0;
        if !self.finished {
            self.output.get_or_insert_with(|| why.clone());
        }
        self.input.get_or_insert(Err(why));
    }

    /// The client has cancelled the request, as [`Cancelled`](super::ServerStep::Cancelled) says.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.fail(StreamError::Cancelled.into());
    }

    /// Whether a half was dropped before its body was complete. A client then cancels the request,
    /// also while no connection has it. Whoever asks has looked: the halves return `true` again for
    /// what they have afterwards.
    #[must_use]
    pub const fn is_given_up(&mut self) -> bool {
        self.told = false;
        self.wants_no_input() || (self.writer_gone && !self.finished)
    }

    /// The handler has ended, and another task will call
    /// [`handled`](super::ServerMux::handled). How many bytes its writer has left that are to be
    /// sent. They count as an answer of the handler: see
    /// [`hold_answer`](super::HeldBytes::hold_answer). What is not to be sent can be dropped.
    pub fn left(&mut self) -> usize {
        if !self.will_finish() {
            self.end_output(StreamError::Ended);
        }
        self.unsent
    }

    /// There is no room for what the writer has left.
    pub fn drop_left(&mut self) {
        self.end_output(StreamError::NoRoom);
    }

    /// Whether the connection has accepted a whole answer, which it has sent unless it has ended.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether nothing that the writer has left is sent any more, so that it can be dropped.
    #[must_use]
    pub const fn drops_output(&self) -> bool {
        self.output.is_some() || self.failed
    }

    pub(super) const fn wants_no_input(&self) -> bool {
        self.reader_gone && !matches!(self.input, Some(Ok(())))
    }

    pub(super) fn end_output(&mut self, why: StreamError) {
        self.output.get_or_insert_with(|| why.into());
        self.unsent = 0;
    }

    /// The connection has accepted the whole answer.
    pub(super) fn answer(&mut self) {
        self.answered = true;
        self.input.get_or_insert_with(|| Err(StreamError::Ended.into()));
    }

    /// What the reader has taken since the last call, and whether it waits.
    pub(super) const fn look(&mut self) -> (usize, bool) {
        self.told = false;
        (core::mem::replace(&mut self.taken, 0), self.waits)
    }

    /// Whether there is something to send, if only the end.
    pub(super) const fn has_output(&self) -> bool {
        !self.drops_output() && (self.finished || self.unsent > 0)
    }

    /// Whether all that the writer has sent was accepted, and no more follows. `false` if some of
    /// it was dropped: the body is not whole.
    pub(super) const fn is_finished(&self) -> bool {
        self.will_finish() && self.unsent == 0
    }

    /// Whether the body of the writer is whole, as far as it is known.
    pub(super) const fn will_finish(&self) -> bool {
        self.finished && self.output.is_none() && !self.failed
    }

    /// The next chunk, with which the connection may go on.
    pub(super) fn next<B: AsRef<[u8]>>(&mut self, next: &mut impl FnMut() -> Option<B>) -> Option<B> {
        let chunk = next()?;
        self.unsent = self.unsent.saturating_sub(chunk.as_ref().len());
        Some(chunk)
    }
}

/// What the halves do.
impl<E: Clone + From<StreamError>> Halves<E> {
    /// Whether the request of a client has begun; `None` before. If the connection takes nothing
    /// more, returns why.
    pub fn begun(&self) -> Option<Result<(), E>> {
        self.begun.then(|| match &self.input {
            Some(Err(why)) => Err(why.clone()),
            Some(Ok(())) | None => Ok(()),
        })
    }

    /// The reader takes `bytes` of those that have arrived.
    pub fn take(&mut self, bytes: usize) -> bool {
        self.unread = self.unread.saturating_sub(bytes);
        self.taken += bytes;
        self.taken >= self.tells_at && self.tell()
    }

    /// How the body that is read has ended, behind the bytes that have arrived.
    pub fn input_end(&self) -> Option<Result<(), E>> {
        self.input.clone()
    }

    /// The reader waits for more, and has nothing left. For an adapter in which the connection
    /// gives credit at once.
    pub fn wait(&mut self) -> bool {
        let waited = core::mem::replace(&mut self.waits, true);
        (self.taken > 0 || !waited) && self.tell()
    }

    /// The reader was dropped. Drop what has arrived.
    pub fn drop_reader(&mut self) -> bool {
        self.reader_gone = true;
        self.taken += core::mem::take(&mut self.unread);
        self.wants_no_input() && self.tell()
    }

    /// Whether there is room for more bytes of the writer.
    ///
    /// # Errors
    /// Why nothing more is sent.
    pub fn may_send(&self) -> Result<bool, E> {
        match &self.output {
            Some(why) => Err(why.clone()),
            None if self.finished => Err(StreamError::Ended.into()),
            None => Ok(self.unsent < ENOUGH),
        }
    }

    /// The writer sends `bytes`, which [`may_send`](Self::may_send) allows.
    pub fn send(&mut self, bytes: usize) -> bool {
        self.unsent += bytes;
        bytes > 0 && self.tell()
    }

    /// The writer finishes its body.
    ///
    /// # Errors
    /// Why the rest of it is not sent. It is no error if a whole answer has arrived: then nothing
    /// of this body was needed.
    pub fn finish(&mut self) -> Result<bool, E> {
        let completed = self.of_client && matches!(self.input, Some(Ok(())));
        match &self.output {
            Some(_) if completed => Ok(false),
            Some(why) => Err(why.clone()),
            None => {
                self.finished = true;
                Ok(self.tell())
            }
        }
    }

    /// The writer was dropped.
    pub fn drop_writer(&mut self) -> bool {
        self.writer_gone = true;
        !self.finished && self.output.is_none() && self.tell()
    }
}
