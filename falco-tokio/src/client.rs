//! The client, as its callers use it. `builder` has its settings, `slot` the task that owns a
//! connection, and `shared` what callers and that task share.

mod addresses;
mod attempt;
mod builder;
mod call;
mod callers;
mod connection;
mod dial;
mod env;
mod homing;
mod open;
mod panics;
mod places;
mod servers;
mod shared;
mod slot;
mod stats;

use core::fmt;
use core::future::Future;
use core::ops::Deref;
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use falco_core::{Fate, Key};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::call::Limit;
use self::env::{Env, OwnKey};
use self::places::{Place, Places, Take};
use self::shared::{Order, Shared};
use crate::error::Error;
use crate::metrics::Stopwatch;

pub use self::builder::ClientBuilder;
pub use self::stats::ClientStats;

/// A client of one server. Clones are cheap and share its connections. Requests of many tasks are
/// in flight at once over one connection, and each is answered when its handler is done. On the
/// classic wire they are answered in the order in which they were sent.
///
/// The client connects when it is created, and again when there is something to send and the last
/// connection has ended. While there is no connection, requests wait for one within their time
/// limit, and attempts are made with random pauses that grow. If a connection is lost, requests
/// that were not processed go to the next one. Other requests may have been processed: they fail,
/// the error says so, and they are not sent again.
///
/// ```no_run
/// use falco_tokio::{Client, Fate};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = std::fs::read_to_string("key.hex")?.parse()?;
/// let client = Client::builder(key).connect("127.0.0.1:4287").await?;
/// match client.request("hello").await {
///     Ok(answer) => println!("{} bytes", answer.len()),
///     Err(error) if error.fate() == Fate::NotProcessed => println!("may be sent again: {error}"),
///     Err(error) => println!("may have been done: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
///
/// It is a [`tower::Service`] too, so that retries, limits and balancing of Tower apply.
/// `poll_ready` reserves one of the [places](ClientBuilder::max_outstanding); the clone that was
/// made ready is the one to call. A client that [fails fast](ClientBuilder::fail_fast) is not ready
/// while it has no connection and its last attempt has failed, so that a balancer such as
/// `tower::balance` takes another one. It reconnects in the background.
pub struct Client {
    inner: Arc<Inner>,
    /// The place in the queue that `poll_ready` has reserved.
    place: Option<Place<Arc<Places>>>,
    /// Waits for that place.
    taking: Option<Take<Arc<Places>>>,
    /// Waits until there is a connection again, for a client that fails fast.
    recovering: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

struct Inner {
    slots: Box<[Arc<Shared>]>,
    /// The slot with which the next search for the least loaded connection begins.
    next_slot: AtomicUsize,
    places: Arc<Places>,
    request_timeout: Option<Duration>,
    env: Arc<Env>,
}

impl Client {
    /// Sends a request and waits for its answer, for the [request
    /// timeout](ClientBuilder::request_timeout) at most.
    ///
    /// Dropping the future at any time cancels this request and no other.
    ///
    /// # Errors
    /// [`Error`]; its [`fate`](Error::fate) says whether the request may have been processed.
    pub async fn request(&self, body: impl Into<Bytes>) -> Result<Bytes, Error> {
        self.inner.call(body.into(), self.inner.request_timeout, None).await
    }

    /// As [`request`](Self::request), with this time limit instead of the request timeout. The task
    /// of the connection applies the limit, because only that task knows the request's fate. So the
    /// limit has no effect once the runtime on which the client was made has stopped.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn request_within(&self, body: impl Into<Bytes>, limit: Duration) -> Result<Bytes, Error> {
        self.inner.call(body.into(), Some(limit), None).await
    }

    /// Pings the server, which restarts the lifetime of the connection on both sides, and returns
    /// how long the answer took. The classic wire has no answer: there this returns `None` once the
    /// ping is written. A ping of a lost connection goes to the next one, as a request that was not
    /// processed.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ping(&self) -> Result<Option<Duration>, Error> {
        let (to, answer) = oneshot::channel();
        if !self.inner.least_loaded()?.order(Order::Ping(to)) {
            return Err(Error::Closed);
        }
        let limit = self.inner.request_timeout;
        let answered = match limit {
            Some(limit) => tokio::time::timeout(limit, answer).await.map_err(|_| Error::TimedOut {
                doing: "waiting for the answer to a ping",
                limit,
                fate: Fate::OF_PING,
            })?,
            None => answer.await,
        };
        answered.unwrap_or(Err(Error::Closed))
    }

    /// Changes the key, for example before the old one is [retired](crate::Handle::retire_key).
    /// Connects under the new key, and then sends all requests over connections under the new key,
    /// while requests in flight under the old key complete. No request fails because of the change.
    /// A client of several servers asks one after the other, and it is enough that one of them
    /// accepts the key.
    ///
    /// # Errors
    /// [`Error`] of the last server, for example if none has the key yet. Then the old key stays in
    /// use.
    pub async fn set_key(&self, key: Key) -> Result<(), Error> {
        let env = &self.inner.env;
        if self.inner.is_closed() {
            return Err(Error::Closed);
        }
        let mut entropy = env.entropy.clone();
        let keys = Arc::new(env.key().keys.with_key(key, &mut entropy)?);
        let connected = self.inner.slots.iter().find(|slot| slot.is_connected());
        let own = OwnKey::new(keys);
        // Each handshake has its own limit.
        let connection = attempt::connect_under(env, &own, connected.map(|slot| slot.server())).await?;
        // So the other connections of the client know that a server accepts the key.
        own.admitted.admit();
        *env.key.write().unwrap_or_else(PoisonError::into_inner) = own;
        let mut adopted = Some(connection);
        let mut taken = false;
        for slot in &self.inner.slots {
            taken |= slot.order(adopted.take().map_or(Order::Renew, Order::Adopt));
        }
        // The client may have been closed meanwhile.
        if taken { Ok(()) } else { Err(Error::Closed) }
    }

    /// Drains all connections, for all clones: requests that a connection has accepted complete.
    /// Those that wait for a connection, and new ones, fail as [closed](Error::Closed). This waits
    /// until the server has ended its side, for at most one second after the last answer.
    ///
    /// If all clones of a client are dropped instead, its connections drain in the same way in the
    /// background.
    pub async fn close(&self) {
        let closing: Vec<_> = self
            .inner
            .slots
            .iter()
            .map(|slot| {
                let (to, done) = oneshot::channel();
                slot.order(Order::Close(Some(to))).then_some(done)
            })
            .collect();
        for done in closing.into_iter().flatten() {
            let _ = done.await;
        }
    }

    /// Whether there is a connection now, on which a request could be sent. A client without one
    /// connects when there is something to send.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.slots.iter().any(|slot| slot.is_connected())
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let outstanding = self.inner.slots.iter().map(|slot| slot.outstanding()).sum();
        self.inner.env.counters.read(outstanding)
    }

    fn new(slots: Box<[Arc<Shared>]>, places: usize, request_timeout: Option<Duration>, env: Arc<Env>) -> Self {
        Self {
            inner: Arc::new(Inner {
                slots,
                next_slot: AtomicUsize::new(0),
                places: Arc::new(Places::new(places)),
                request_timeout,
                env,
            }),
            place: None,
            taking: None,
            recovering: None,
        }
    }
}

impl Inner {
    /// Whether there is no connection, and attempts have failed.
    fn is_troubled(&self) -> bool {
        self.slots.iter().all(|slot| slot.load().0)
    }

    /// Waits until there is a connection, or until it is not known whether there can be one.
    async fn recovered(self: Arc<Self>) {
        loop {
            let recovered = self.env.recovered.notified();
            if !self.is_troubled() || self.is_closed() {
                return;
            }
            recovered.await;
        }
    }

    fn is_closed(&self) -> bool {
        self.slots.iter().all(|slot| slot.is_closed())
    }

    /// The connection with the fewest outstanding requests. If it is not established, it is ordered
    /// to connect. It gets the request only if no other is established, because its server may
    /// hang.
    fn least_loaded(&self) -> Result<&Arc<Shared>, Error> {
        if let [only] = &*self.slots {
            return Ok(only);
        }
        let first = self.next_slot.fetch_add(1, Ordering::Relaxed) % self.slots.len().max(1);
        let (before, from) = self.slots.split_at(first);
        let all = from.iter().chain(before);
        let least = all.clone().min_by_key(|slot| slot.load()).ok_or(Error::Closed)?;
        if least.is_connected() {
            return Ok(least);
        }
        let connected = all.filter(|slot| slot.is_connected());
        let Some(connected) = connected.min_by_key(|slot| slot.load()) else {
            return Ok(least);
        };
        least.connect();
        Ok(connected)
    }

    /// Sends a request, once it has a place in the queue, and waits until it completes.
    async fn call(
        &self,
        body: Bytes,
        limit: Option<Duration>,
        reserved: Option<Place<Arc<Places>>>,
    ) -> Result<Bytes, Error> {
        let counters = &self.env.counters;
        let since = Stopwatch::start();
        counters.requests.add(1);
        let answered = async {
            let mut limit = limit.map(Limit::new);
            let places = &*self.places;
            let place = match &reserved {
                Some(_) => None,
                None => Some(match Place::try_take(places) {
                    Some(place) => place,
                    None => wait_for_place(places, &mut limit).await?,
                }),
            };
            let answered = self.least_loaded()?.submit(body, limit).await;
            drop((place, reserved));
            answered
        };
        let answered = answered.await;
        counters.time.time(since);
        match &answered {
            Ok(_) => counters.answers.add(1),
            Err(error) => counters.failed(error.fate()),
        }
        answered
    }
}

/// Waits for a place in the queue. `limit` counts from the call of this function.
async fn wait_for_place<P>(places: P, limit: &mut Option<Limit>) -> Result<Place<P>, Error>
where
    P: Deref<Target = Places> + Unpin,
{
    let place = Place::take(places);
    let Some(limit) = limit else {
        return Ok(place.await);
    };
    limit.start(Instant::now());
    let place = tokio::time::timeout(limit.all, place).await;
    place.map_err(|_| Error::TimedOut {
        doing: "waiting for a place in the queue",
        limit: limit.all,
        fate: Fate::NotProcessed,
    })
}

impl Drop for Inner {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.order(Order::Close(None));
        }
    }
}

impl Clone for Client {
    /// The clone shares the connections. What `poll_ready` has reserved stays with the original.
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            place: None,
            taking: None,
            recovering: None,
        }
    }
}

impl tower::Service<Bytes> for Client {
    type Response = Bytes;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Bytes, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.inner.is_closed() {
            return Poll::Ready(Err(Error::Closed));
        }
        if self.inner.env.fail_fast && (self.recovering.is_some() || self.inner.is_troubled()) {
            let inner = &self.inner;
            let recovering = self
                .recovering
                .get_or_insert_with(|| Box::pin(Arc::clone(inner).recovered()));
            ready!(recovering.as_mut().poll(cx));
            self.recovering = None;
        }
        if self.place.is_none() {
            let places = &self.inner.places;
            let taking = self.taking.get_or_insert_with(|| Place::take(Arc::clone(places)));
            let place = ready!(Pin::new(taking).poll(cx));
            self.taking = None;
            self.place = Some(place);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, body: Bytes) -> Self::Future {
        // Without a reserved place, this waits for one as `request` does.
        let (inner, place) = (Arc::clone(&self.inner), self.place.take());
        Box::pin(async move { inner.call(body, inner.request_timeout, place).await })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("servers", &self.inner.env.servers)
            .field("connections", &self.inner.slots.len())
            .finish_non_exhaustive()
    }
}
