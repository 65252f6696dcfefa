//! What callers and a connection's task share: orders one way, by a queue and a waker; answers come
//! back through a channel each.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Waker};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::pending::Pending;
use crate::error::Error;

/// What was given since it was last taken.
#[derive(Default)]
pub(super) struct Orders {
    /// Requests in the order of their tickets; none in the place of one that was cancelled.
    pub(super) requests: Vec<Option<Pending>>,
    /// What is asked beside them, after they were handed over.
    pub(super) others: Vec<Order>,
}

pub(super) enum Order {
    /// Nobody waits for it any more.
    Cancel(u64),
    /// Its time, which was so much, has run out: it is cancelled, and whoever waits is told.
    Expire(u64, Duration),
    /// To be told how long the answer to a ping took.
    Ping(oneshot::Sender<Result<Option<Duration>, Error>>),
    /// To be told when there is a connection, or why there is none.
    Open(oneshot::Sender<Result<(), Error>>),
    /// The key has changed: a connection under the old one takes nothing new.
    Renew,
    /// The same, and here is one under the new one.
    Adopt(Box<Connection>),
    /// To be told when all is done.
    Close(Option<oneshot::Sender<()>>),
}

#[derive(Default)]
struct State {
    orders: Orders,
    waker: Option<Waker>,
    tickets: u64,
    /// Nothing more is taken.
    closed: bool,
    /// There is nobody to take it.
    abandoned: bool,
}

#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    outstanding: AtomicUsize,
    /// Requests that its connection has not seen the end of, though nobody may wait for them any
    /// more.
    in_flight: AtomicUsize,
    /// There is no connection, and attempts at one have failed.
    troubled: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two of its steps, none of which can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order; says whether anybody is there to take it.
    pub(super) fn order(&self, order: Order) -> bool {
        let mut state = self.lock();
        // Whoever closes what is closing waits for the same end.
        let closes = matches!(order, Order::Close(_));
        if state.abandoned || (state.closed && !closes) {
            return false;
        }
        state.closed |= closes;
        state.push(order);
        Self::wake(state);
        true
    }

    /// Hands a request over.
    pub(super) fn submit(self: &Arc<Self>, body: Bytes) -> Result<Submitted, Error> {
        let (to, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.orders.requests.push(Some(Pending {
            ticket,
            body,
            to,
            tries: 0,
            busy: 0,
        }));
        Self::wake(state);
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Ok(Submitted {
            shared: Arc::clone(self),
            ticket,
            answer: Some(answer),
        })
    }

    fn wake(mut state: MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the orders that were given; from now on the task of `cx` is woken when there are more.
    pub(super) fn take(&self, cx: &Context<'_>) -> Orders {
        let mut state = self.lock();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        core::mem::take(&mut state.orders)
    }

    /// There is nobody any more to take orders. Those that were given are dropped, which tells
    /// whoever waits.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.abandoned = true;
        let orders = core::mem::take(&mut state.orders);
        drop(state);
        drop(orders);
    }

    /// Requests that callers wait for.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// How little this one recommends itself for another request.
    pub(super) fn load(&self) -> (bool, usize) {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        (self.troubled.load(Ordering::Relaxed), self.outstanding().max(in_flight))
    }

    /// What the task knows of that.
    pub(super) fn set_load(&self, troubled: bool, in_flight: usize) {
        self.troubled.store(troubled, Ordering::Relaxed);
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

impl State {
    fn push(&mut self, order: Order) {
        // A request that is cancelled before it was taken has never been. Tickets are consecutive.
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

/// A request under way, on the caller's side. Dropping it cancels the request, whatever has become
/// of it, and touches no other.
pub(super) struct Submitted {
    shared: Arc<Shared>,
    ticket: u64,
    /// Gone once the answer is there.
    answer: Option<oneshot::Receiver<Result<Bytes, Error>>>,
}

impl Submitted {
    /// Waits for the end of the request; at `limit` after `start` it is cancelled, and the error
    /// says what may have become of it.
    pub(super) async fn end(mut self, limit: Option<(tokio::time::Instant, Duration)>) -> Result<Bytes, Error> {
        let Some(answer) = &mut self.answer else {
            return Err(Error::Closed);
        };
        let end = match limit {
            None => answer.await,
            Some((deadline, limit)) => {
                if let Ok(end) = tokio::time::timeout_at(deadline, &mut *answer).await {
                    end
                } else {
                    // The task knows how far it has come; or it answers at last.
                    self.shared.order_always(Order::Expire(self.ticket, limit));
                    answer.await
                }
            }
        };
        self.answer = None;
        // Without a word the task has gone, with its runtime.
        end.unwrap_or_else(|_| {
            Err(Error::connection(
                falco_core::ConnectionError::Closed,
                falco_core::Fate::MaybeProcessed,
            ))
        })
    }
}

impl Shared {
    /// Gives an order about a request that was taken, even while the client closes.
    fn order_always(&self, order: Order) {
        let mut state = self.lock();
        if !state.abandoned {
            state.push(order);
            Self::wake(state);
        }
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.shared.outstanding.fetch_sub(1, Ordering::Relaxed);
        if self.answer.is_some() {
            self.shared.order_always(Order::Cancel(self.ticket));
        }
    }
}
