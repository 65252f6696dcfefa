//! The two halves of an open request: what each half asks of its connection, and what the
//! connection reports to it.

use super::streams::{ENOUGH, StreamError};
use crate::error::{LostRequest, RequestError};

/// When a reader has taken this many bytes, the connection is notified, and gives credit for them.
const TAKEN: usize = 64 << 10;

/// What the two halves of an open request share with its connection, except the bytes themselves.
/// One half reads, the other writes. A caller or handler has them, perhaps on another thread. So an
/// adapter keeps this under a lock, together with the bytes.
///
/// If a method of a half returns `true`, there is work for the connection: the adapter calls
/// [`ClientMux::pump`](super::ClientMux::pump) or [`ServerMux::pump`](super::ServerMux::pump).
/// Until it has, these methods return `false`.
///
/// `E` is the error that a half receives. When a method changes what
/// [`input_end`](Self::input_end) or [`may_send`](Self::may_send) returns, the adapter wakes the
/// threads or tasks that wait for that.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Halves<E> {
    /// How the body that is read has ended.
    input: Option<Result<(), E>>,
    /// Why nothing more is sent.
    output: Option<E>,
    /// Bytes that have arrived and that the reader has not taken.
    unread: usize,
    /// Bytes that the reader has taken and for which the connection has not given credit.
    taken: usize,
    /// The connection is notified when the reader has taken this many.
    notifies_at: usize,
    /// Bytes of the writer that the connection has not accepted.
    unsent: usize,
    of_client: bool,
    /// At a client: the request has begun, or has failed before.
    begun: bool,
    /// The reader waits for more, and has taken all that has arrived.
    waits: bool,
    reader_gone: bool,
    writer_gone: bool,
    /// The writer has finished its body.
    finished: bool,
    /// The request has failed: the rest of the bodies is dropped.
    failed: bool,
    /// The connection was notified that there is work for it, and has not done it.
    notified: bool,
    /// The connection has begun the answer.
    pub(super) answering: bool,
    /// The connection has the whole answer.
    pub(super) answered: bool,
    /// The connection drops the rest of the request.
    pub(super) discarded: bool,
    /// The request has arrived as a whole.
    pub(super) is_whole: bool,
    /// The connection has refused the request, because of its answer.
    pub(super) refused: Option<RequestError>,
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

    /// The halves of a request that a client sends whole. The client only reads the answer.
    #[must_use]
    pub fn of_reader(window_kib: u16) -> Self {
        Self {
            finished: true,
            ..Self::of_client(window_kib)
        }
    }

    /// The connection is notified when the reader has taken a quarter of the `window` of this side,
    /// or [`TAKEN`] bytes. So the other side always has credit for most of the window, and does not
    /// get a CREDIT for every few bytes.
    pub(super) fn new(window: usize, of_client: bool) -> Self {
        Self {
            input: None,
            output: None,
            unread: 0,
            taken: 0,
            notifies_at: (window / 4).clamp(1, TAKEN),
            unsent: 0,
            of_client,
            begun: !of_client,
            waits: false,
            reader_gone: false,
            writer_gone: false,
            finished: false,
            failed: false,
            notified: false,
            answering: false,
            answered: false,
            discarded: false,
            cancelled: false,
            is_whole: false,
            refused: None,
        }
    }

    /// Whether to notify the connection: not if it was notified and has not done its work yet.
    fn notify(&mut self) -> bool {
        !core::mem::replace(&mut self.notified, true)
    }
}

/// Methods for the connection.
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

    /// The request has failed. Without effect on a body that has ended before.
    pub fn fail(&mut self, why: E) {
        self.begun = true;
        self.failed = true;
        self.unsent = 0;
        if !self.finished {
            self.output.get_or_insert_with(|| why.clone());
        }
        self.input.get_or_insert(Err(why));
    }

    /// The connection ended before the request completed. Without effect on a body that has ended
    /// before.
    pub fn lose(&mut self, lost: LostRequest) {
        self.fail(StreamError::Lost(lost).into());
    }

    /// The client has cancelled the request, as [`Cancelled`](super::ServerStep::Cancelled) says.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.fail(StreamError::Cancelled.into());
    }

    /// Whether a half was dropped before its body was complete. A client then cancels the request,
    /// also while no connection has it. After this call the methods of the halves return `true`
    /// again for further work.
    #[must_use]
    pub const fn is_given_up(&mut self) -> bool {
        self.notified = false;
        self.discards_input() || (self.writer_gone && !self.finished)
    }

    /// The handler has ended, and another task will call [`handled`](super::ServerMux::handled).
    /// Returns how many bytes the handler has written that the connection has not accepted. They
    /// count as an answer: see [`hold_answer`](super::HeldBytes::hold_answer). If
    /// [`drops_output`](Self::drops_output) returns `true` afterwards, drop them.
    pub fn handler_ended(&mut self) -> usize {
        if !self.will_finish() {
            self.end_output(StreamError::Ended);
        }
        self.unsent
    }

    /// There is no room for the bytes that [`handler_ended`](Self::handler_ended) has counted. The
    /// answer is cut off.
    pub fn drop_unsent(&mut self) {
        self.end_output(StreamError::NO_ROOM);
    }

    /// Whether the connection has accepted a whole answer, which it has sent unless it has ended.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether the rest of what the writer has written is not sent, so that it can be dropped.
    #[must_use]
    pub const fn drops_output(&self) -> bool {
        self.output.is_some() || self.failed
    }

    /// Whether the request has arrived as a whole.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether the request has arrived as a whole, and the answer was complete before the
    /// connection began it. If the answer is one chunk, the connection then takes that chunk at
    /// once, whatever its length. It sends the answer with its length, as if the handler had
    /// returned it.
    #[must_use]
    pub const fn is_answer_whole(&self) -> bool {
        self.is_whole && !self.answering && self.will_finish()
    }

    pub(super) const fn discards_input(&self) -> bool {
        self.reader_gone && !matches!(self.input, Some(Ok(())))
    }

    pub(super) fn end_output(&mut self, why: StreamError) {
        self.output.get_or_insert_with(|| why.into());
        self.unsent = 0;
    }

    /// The connection has accepted the whole answer.
    pub(super) fn answer(&mut self) {
        self.answered = true;
        self.end_request();
    }

    /// The request of a handler has ended: no more of its body arrives.
    pub(super) fn end_request(&mut self) {
        self.input.get_or_insert_with(|| Err(StreamError::Ended.into()));
    }

    /// What the reader has taken since the last call, and whether it waits.
    pub(super) const fn take_reading(&mut self) -> (usize, bool) {
        self.notified = false;
        (core::mem::replace(&mut self.taken, 0), self.waits)
    }

    /// Whether there are bytes to send, or the end of the body.
    pub(super) const fn has_output(&self) -> bool {
        !self.drops_output() && (self.finished || self.unsent > 0)
    }

    /// Whether all that the writer has sent was accepted, and no more follows. `false` if some of
    /// it was dropped: the body is not whole.
    pub(super) const fn is_finished(&self) -> bool {
        self.will_finish() && self.unsent == 0
    }

    /// Whether the writer has finished its body, and nothing of it was dropped.
    pub(super) const fn will_finish(&self) -> bool {
        self.finished && self.output.is_none() && !self.failed
    }

    /// The next chunk for the connection to send.
    pub(super) fn next<B: AsRef<[u8]>>(&mut self, next: &mut impl FnMut() -> Option<B>) -> Option<B> {
        let chunk = next()?;
        self.unsent = self.unsent.saturating_sub(chunk.as_ref().len());
        Some(chunk)
    }
}

/// Methods for the halves.
impl<E: Clone + From<StreamError>> Halves<E> {
    /// Whether the request of a client has begun: `None` if it has not, and an error if it has
    /// failed.
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
        self.taken >= self.notifies_at && self.notify()
    }

    /// How the body that is read has ended, after the bytes that have arrived. `None` while more
    /// may arrive.
    pub fn input_end(&self) -> Option<Result<(), E>> {
        self.input.clone()
    }

    /// The reader has taken all that has arrived, and waits for more. The connection then gives
    /// credit at once.
    pub fn wait(&mut self) -> bool {
        let waited = core::mem::replace(&mut self.waits, true);
        (self.taken > 0 || !waited) && self.notify()
    }

    /// The reader was dropped. Drop what has arrived.
    pub fn drop_reader(&mut self) -> bool {
        self.reader_gone = true;
        self.taken += core::mem::take(&mut self.unread);
        self.discards_input() && self.notify()
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
        bytes > 0 && self.notify()
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
                Ok(self.notify())
            }
        }
    }

    /// The writer was dropped.
    pub fn drop_writer(&mut self) -> bool {
        self.writer_gone = true;
        !self.finished && self.output.is_none() && self.notify()
    }
}
