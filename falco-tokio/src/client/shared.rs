//! What callers and a connection's task share: orders to the task, in a queue, and the waker of the
//! task. Each answer returns through a channel of its own.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Waker};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use falco_core::LostRequest;
use falco_core::mux::Halves;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::call::{Call, Limit, OpenCall, PingTo, Waiter};
use super::connection::Connection;
use super::env::Env;
use crate::error::Error;
use crate::stream::{ConnectionHandle, Pipe};

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

#[derive(Default)]
struct State {
    orders: Orders,
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
    outstanding: AtomicUsize,
    /// Requests in flight on the connection, including cancelled ones.
    in_flight: AtomicUsize,
    /// The server that it is connected to, plus 1; 0 without a connection.
    server: AtomicUsize,
    /// There is no connection, and attempts at one have failed.
    troubled: AtomicBool,
    /// The task was told to connect, and has neither a connection nor an error since.
    told_to_connect: AtomicBool,
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
        state.push(order);
        Self::wake(state);
        true
    }

    /// Queues a request for the connection's task, and wakes that task.
    pub(super) fn submit(&self, body: Bytes, limit: Option<Limit>) -> Result<Submitted<'_>, Error> {
        let (to, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state
            .orders
            .requests
            .push(Some(Call::new(ticket, body, Waiter::new(to, limit))));
        Self::wake(state);
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Ok(Submitted {
            shared: self,
            ticket,
            answer: Some(answer),
        })
    }

    /// Queues an open request that begins with these bytes. The limit is for the time until it has
    /// begun.
    pub(super) fn open(
        self: &Arc<Self>,
        first: Bytes,
        limit: Option<Limit>,
        place: OwnedSemaphorePermit,
        env: &Arc<Env>,
    ) -> Result<crate::stream::Call, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.open_tickets += 1;
        let ticket = OPEN | state.open_tickets;
        let handle = StreamHandle {
            shared: Arc::clone(self),
            ticket,
            _place: place,
        };
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        let pipe = Pipe::new(Box::new(handle), Halves::of_client(env.settings.window_kib()));
        let halves = crate::stream::Call::new(&pipe);
        let mut call = OpenCall::new(ticket, Waiter::stream(pipe, limit, Arc::clone(env)));
        // It fails only on a request that is finished, and this one is new.
        let _ = call.write(first);
        state.push(Order::Begin(Box::new(call)));
        Self::wake(state);
        Ok(halves)
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Swaps `orders`, which are empty, for those that were queued. The task of `cx` is woken when
    /// there are more. With `defer`, requests stay in the queue: then it returns `false`, and the
    /// caller has to take them later.
    pub(super) fn take(&self, cx: &Context<'_>, orders: &mut Orders, defer: bool) -> bool {
        let mut state = self.lock();
        if defer && !state.orders.requests.is_empty() {
            return false;
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        core::mem::swap(&mut state.orders, orders);
        true
    }

    /// The task ends. Orders in the queue are dropped, and with them the channels of their callers.
    pub(super) fn abandon(&self) {
        // No request is assigned to this slot while others remain.
        self.set_load(true, usize::MAX);
        self.set_connected(None);
        let mut state = self.lock();
        state.closed = true;
        state.abandoned = true;
        let orders = core::mem::take(&mut state.orders);
        drop(state);
        drop(orders);
    }

    /// Requests whose callers wait.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
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

    /// Tells the task to connect, unless it was told before.
    pub(super) fn connect(&self) {
        if !self.told_to_connect.swap(true, Ordering::Relaxed) {
            self.order(Order::Connect);
        }
    }

    /// The task has a connection or an error.
    pub(super) fn has_tried(&self) {
        self.told_to_connect.store(false, Ordering::Relaxed);
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
    fn push(&mut self, order: Order) {
        // A request that is cancelled before the task has taken it is removed from the queue.
        // Tickets are consecutive, so its position follows from its ticket.
        if let Order::Cancel(ticket) = order
            && let Some(after) = self
                .tickets
                .checked_sub(ticket)
                .and_then(|after| usize::try_from(after).ok())
            && let Some(place) = self.orders.requests.iter_mut().nth_back(after)
        {
            *place = None;
            return;
        }
        self.orders.others.push(order);
    }
}

/// What the halves of an open request keep until they are dropped.
struct StreamHandle {
    shared: Arc<Shared>,
    ticket: u64,
    _place: OwnedSemaphorePermit,
}

impl ConnectionHandle for StreamHandle {
    fn notify(&self) {
        self.shared.order_always(Order::Stream(self.ticket));
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        self.shared.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The caller's side of a request. Dropping it cancels the request, and no other.
pub(super) struct Submitted<'s> {
    shared: &'s Shared,
    ticket: u64,
    /// `None` once the answer has arrived.
    answer: Option<oneshot::Receiver<Result<Bytes, Error>>>,
}

impl Submitted<'_> {
    /// Waits until the request completes. One with a time limit completes by then.
    pub(super) async fn end(mut self) -> Result<Bytes, Error> {
        let Some(answer) = &mut self.answer else {
            return Err(Error::Closed);
        };
        let end = answer.await;
        self.answer = None;
        // The task was dropped with its runtime.
        end.unwrap_or_else(|_| Err(Error::lost(LostRequest::DROPPED)))
    }
}

impl Shared {
    /// Queues an order about a submitted request, even while the client closes.
    fn order_always(&self, order: Order) {
        let mut state = self.lock();
        if !state.abandoned {
            state.push(order);
            Self::wake(state);
        }
    }
}

impl Drop for Submitted<'_> {
    fn drop(&mut self) {
        self.shared.outstanding.fetch_sub(1, Ordering::Relaxed);
        if self.answer.is_some() {
            self.shared.order_always(Order::Cancel(self.ticket));
        }
    }
}
