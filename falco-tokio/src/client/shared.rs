//! What callers and a connection's task share: a queue of orders to the task, the waker of the
//! task, and the answers to requests. The task delivers many answers at once.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use falco_core::LostRequest;
use falco_core::mux::Halves;
use tokio::sync::oneshot;

use super::call::{Call, Limit, OpenCall, PingTo, Waiter};
use super::callers::{Answer, Answers, CallerId, Callers};
use super::connection::Connection;
use super::env::Env;
use super::places::{Place, Places};
use crate::error::Error;
use crate::stream::{ConnectionHandle, Pipe, RecvStream};

/// Marks the tickets of open requests.
const OPEN: u64 = 1 << 63;

/// Orders of callers that the task has not taken yet.
#[derive(Default)]
pub(super) struct Orders {
    /// Requests in the order of their tickets; `None` in the place of one that was cancelled.
    pub(super) requests: Vec<Option<Call>>,
    /// Other orders. They are processed after the requests, and may refer to them.
    pub(super) others: Vec<Order>,
}

pub(super) enum Order {
    /// The caller has dropped the request with this ticket.
    Cancel(u64),
    /// Ping the server, and report how long the answer took.
    Ping(PingTo),
    /// Begin an open request.
    Begin(Box<OpenCall>),
    /// A half of the open request with this ticket has something for the connection.
    Stream(u64),
    /// Connect, although nothing waits for that.
    Connect,
    /// Report when there is a connection, or why there is none.
    Open(oneshot::Sender<Result<(), Error>>),
    /// The key has changed. The connection under the old key is to accept no new requests.
    Renew,
    /// As `Renew`, and this connection under the new key replaces it.
    Adopt(Box<Connection>),
    /// Close, and report when all requests have completed.
    Close(Option<oneshot::Sender<()>>),
}

impl Orders {
    /// Releases memory that was needed for more requests than `few`, if there are none.
    pub(super) fn shrink(&mut self, few: usize) {
        if self.requests.is_empty() && self.requests.capacity() > few {
            self.requests = Vec::new();
        }
    }

    /// How many of the orders are about streams.
    pub(super) fn streams(&self) -> usize {
        self.others.iter().filter(|order| order.is_of_stream()).count()
    }
}

impl Order {
    const fn is_of_stream(&self) -> bool {
        matches!(self, Self::Stream(_) | Self::Begin(_))
    }
}

/// Which kinds of orders are taken only at the next poll, together with others that come until
/// then. If the queue has one of these, all orders stay in the queue.
#[derive(Clone, Copy)]
pub(super) struct Defer {
    pub(super) requests: bool,
    pub(super) streams: bool,
}

#[derive(Default)]
struct State {
    orders: Orders,
    callers: Callers,
    waker: Option<Waker>,
    tickets: u64,
    /// The last ticket of an open request. These are numbered separately.
    open_tickets: u64,
    /// No new requests are accepted.
    closed: bool,
    /// The task has ended.
    abandoned: bool,
}

#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Callers that have not taken their answers. Written under the lock of `state`.
    callers: AtomicUsize,
    /// Open requests whose halves are not dropped.
    opens: AtomicUsize,
    /// Requests in flight on the connection, including cancelled ones.
    in_flight: AtomicUsize,
    /// The server that it is connected to, plus 1; 0 without a connection.
    server: AtomicUsize,
    /// There is no connection, and attempts at one have failed.
    troubled: AtomicBool,
    /// [`Order::Connect`] was queued, and the task has had neither a connection nor an error since.
    connect_ordered: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so the state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an order. Returns whether the task will take it.
    pub(super) fn order(&self, order: Order) -> bool {
        let mut state = self.lock();
        // Several callers may close: they all wait for the same end.
        let closes = matches!(order, Order::Close(_));
        if state.abandoned || (state.closed && !closes) {
            return false;
        }
        state.closed |= closes;
        state.orders.others.push(order);
        Self::wake(state);
        true
    }

    /// A request, which is queued for the connection's task when the future is first polled.
    pub(super) const fn submit(&self, body: Bytes, limit: Option<Limit>) -> Submitted<'_> {
        Submitted {
            shared: self,
            call: Some((body, limit)),
            caller: None,
        }
    }

    /// Queues a request for the connection's task, and wakes that task. `waker` is woken when the
    /// answer is there.
    fn queue(&self, body: Bytes, limit: Option<Limit>, waker: Waker) -> Result<CallerId, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        let caller = state.callers.add(ticket, waker);
        self.count(&state);
        let call = Call::new(ticket, body, Waiter::new(caller, limit));
        state.orders.requests.push(Some(call));
        Self::wake(state);
        Ok(caller)
    }

    /// Takes the answer of a caller. If it is not there, the task of `cx` is woken when it is.
    fn poll_answer(&self, caller: CallerId, cx: &Context<'_>) -> Poll<Answer> {
        let mut state = self.lock();
        if let Some(answer) = state.callers.take(caller) {
            self.caller_gone(state);
            return Poll::Ready(answer);
        }
        let waits = state.callers.waker(caller);
        if waits.is_none_or(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // Cloning and dropping a waker may run any code, so that is done without the lock.
        drop(state);
        let mut waker = cx.waker().clone();
        let mut state = self.lock();
        let swapped = state
            .callers
            .waker(caller)
            .map(|waits| core::mem::swap(waits, &mut waker));
        drop(state);
        if swapped.is_none() {
            // Answered meanwhile.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// A caller no longer waits for its answer.
    fn give_up(&self, caller: CallerId) {
        let mut state = self.lock();
        let waker = state.callers.give_up(caller);
        self.count(&state);
        if waker.is_some() && !state.abandoned {
            state.cancel(caller.ticket());
            Self::wake(state);
        } else {
            self.caller_gone(state);
        }
        // Not under the lock: dropping a waker may run any code.
        drop(waker);
    }

    /// Counts the callers after one of them has gone. If it was the last one, wakes the task, which
    /// then releases the memory that requests needed.
    fn caller_gone(&self, state: MutexGuard<'_, State>) {
        self.count(&state);
        if self.callers() == 0 {
            Self::wake(state);
        }
    }

    /// Delivers the answers to their callers.
    pub(super) fn deliver(&self, answers: &mut Answers) {
        if !answers.is_empty() {
            answers.deliver(&mut self.lock().callers);
            answers.wake();
        }
    }

    fn count(&self, state: &State) {
        self.callers.store(state.callers.count(), Ordering::Relaxed);
    }

    /// Releases memory that was needed for more requests than `few` at once.
    pub(super) fn shrink(&self, few: usize) {
        let mut state = self.lock();
        state.callers.shrink(few);
        state.orders.shrink(few);
    }

    /// Queues an open request that begins with these bytes. The limit is for the time until it has
    /// begun.
    pub(super) fn open(
        self: &Arc<Self>,
        first: Bytes,
        limit: Option<Limit>,
        place: Place<Arc<Places>>,
        env: &Arc<Env>,
    ) -> Result<crate::stream::Call, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.open_tickets += 1;
        let ticket = OPEN | state.open_tickets;
        let halves = Halves::of_client(env.settings.window_kib());
        let pipe = Pipe::new(Box::new(self.stream_handle(ticket, place)), halves);
        let halves = crate::stream::Call::new(&pipe);
        let mut call = OpenCall::new(ticket, Waiter::stream(pipe, limit, Arc::clone(env)));
        // It fails only on a request that is finished, and this one is new.
        let _ = call.write(first);
        state.orders.others.push(Order::Begin(Box::new(call)));
        Self::wake(state);
        Ok(halves)
    }

    /// Queues a request whose answer is read while it arrives. The limit is for the time until it
    /// begins.
    pub(super) fn request_stream(
        self: &Arc<Self>,
        body: Bytes,
        limit: Option<Limit>,
        place: Place<Arc<Places>>,
        env: &Arc<Env>,
    ) -> Result<RecvStream, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        let halves = Halves::of_reader(env.settings.window_kib());
        let pipe = Pipe::new(Box::new(self.stream_handle(ticket, place)), halves);
        let answer = RecvStream::new(&pipe);
        let call = Call::new(ticket, body, Waiter::stream(pipe, limit, Arc::clone(env)));
        state.orders.requests.push(Some(call.streaming()));
        Self::wake(state);
        Ok(answer)
    }

    fn stream_handle(self: &Arc<Self>, ticket: u64, place: Place<Arc<Places>>) -> StreamHandle {
        self.opens.fetch_add(1, Ordering::Relaxed);
        StreamHandle {
            shared: Arc::clone(self),
            ticket,
            _place: place,
        }
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Swaps `orders`, which are empty, for those that were queued. The task of `cx` is woken when
    /// there are more. Returns `false` if `defer` leaves all orders in the queue. The caller then
    /// has to take them later.
    pub(super) fn take(&self, cx: &Context<'_>, orders: &mut Orders, defer: Defer) -> bool {
        let mut state = self.lock();
        if (defer.requests && !state.orders.requests.is_empty())
            || (defer.streams && state.orders.others.iter().any(Order::is_of_stream))
        {
            return false;
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        core::mem::swap(&mut state.orders, orders);
        true
    }

    /// The task ends. Orders in the queue are dropped, and callers that wait receive an error.
    pub(super) fn abandon(&self) {
        // No request is assigned to this slot while others remain.
        self.set_load(true, usize::MAX);
        self.set_connected(None);
        let mut state = self.lock();
        state.closed = true;
        state.abandoned = true;
        let orders = core::mem::take(&mut state.orders);
        let wakers = state.callers.fail_all(|| Error::lost(LostRequest::DROPPED));
        drop(state);
        drop(orders);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Callers of whole requests that have not taken their answers.
    pub(super) fn callers(&self) -> usize {
        self.callers.load(Ordering::Relaxed)
    }

    /// Requests whose callers wait, and open requests whose halves are not dropped.
    pub(super) fn outstanding(&self) -> usize {
        self.callers() + self.opens.load(Ordering::Relaxed)
    }

    /// How busy this connection is. A request goes to the one with the smallest load.
    pub(super) fn load(&self) -> (bool, usize) {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        (self.troubled.load(Ordering::Relaxed), self.outstanding().max(in_flight))
    }

    /// Sets the task's part of the [`load`](Self::load).
    pub(super) fn set_load(&self, troubled: bool, in_flight: usize) {
        self.troubled.store(troubled, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }

    /// Orders the task to connect, unless such an order is pending.
    pub(super) fn connect(&self) {
        if !self.connect_ordered.swap(true, Ordering::Relaxed) {
            self.order(Order::Connect);
        }
    }

    /// The task has a connection or an error.
    pub(super) fn has_tried(&self) {
        self.connect_ordered.store(false, Ordering::Relaxed);
    }

    /// Sets the server that it is connected to, if it is.
    pub(super) fn set_connected(&self, server: Option<usize>) {
        self.server
            .store(server.map_or(0, |server| server + 1), Ordering::Relaxed);
    }

    pub(super) fn is_connected(&self) -> bool {
        self.server.load(Ordering::Relaxed) > 0
    }

    /// The number of the server that it is connected to; 0 also without a connection.
    pub(super) fn server(&self) -> usize {
        self.server.load(Ordering::Relaxed).saturating_sub(1)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl State {
    /// The request with this ticket was dropped. If the task has not taken it, it is removed from
    /// the queue. Tickets are consecutive, so its position follows from its ticket.
    fn cancel(&mut self, ticket: u64) {
        let after = self.tickets.checked_sub(ticket);
        let after = after.and_then(|after| usize::try_from(after).ok());
        match after.and_then(|after| self.orders.requests.iter_mut().nth_back(after)) {
            Some(place) => *place = None,
            None => self.orders.others.push(Order::Cancel(ticket)),
        }
    }
}

/// What the halves of an open request keep until they are dropped.
struct StreamHandle {
    shared: Arc<Shared>,
    ticket: u64,
    _place: Place<Arc<Places>>,
}

impl ConnectionHandle for StreamHandle {
    fn notify(&self) {
        self.shared.order_always(Order::Stream(self.ticket));
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.shared.opens.fetch_sub(1, Ordering::Relaxed);
        self.shared.caller_gone(self.shared.lock());
    }
}

/// The caller's side of a request, which completes by its time limit. Dropping it cancels the
/// request, and no other.
pub(super) struct Submitted<'s> {
    shared: &'s Shared,
    /// Until this is first polled.
    call: Option<(Bytes, Option<Limit>)>,
    /// Until the answer was taken.
    caller: Option<CallerId>,
}

impl Future for Submitted<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        if let Some((body, limit)) = self.call.take() {
            self.caller = Some(self.shared.queue(body, limit, cx.waker().clone())?);
            return Poll::Pending;
        }
        let Some(caller) = self.caller else {
            return Poll::Ready(Err(Error::Closed));
        };
        let answer = ready!(self.shared.poll_answer(caller, cx));
        self.caller = None;
        Poll::Ready(answer)
    }
}

impl Shared {
    /// Queues an order about an open request, even while the client closes.
    fn order_always(&self, order: Order) {
        let mut state = self.lock();
        if !state.abandoned {
            state.orders.others.push(order);
            Self::wake(state);
        }
    }
}

impl Drop for Submitted<'_> {
    fn drop(&mut self) {
        if let Some(caller) = self.caller {
            self.shared.give_up(caller);
        }
    }
}
