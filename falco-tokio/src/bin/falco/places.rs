//! Places for what clients make a server do at once, such as commands. Each key leaves some of them
//! to other keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::mux::KeyShares;
use falco_tokio::KeyId;
use tokio::sync::Notify;
use tokio::sync::oneshot::{self, Receiver, Sender, error::RecvError};

/// A number of places. All clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    all: usize,
    /// All places are free.
    idle: Notify,
}

#[derive(Debug)]
struct State {
    left: usize,
    shares: KeyShares,
    /// The waiters, by key and in the order in which they began to wait. If places are left, they
    /// are for keys that have no waiter.
    waiting: BTreeMap<Option<KeyId>, BTreeMap<u64, Sender<Place>>>,
    /// How many waiters there have been. This is the number of the last one.
    waited: u64,
}

impl Places {
    pub(crate) fn new(all: usize) -> Self {
        let state = State {
            left: all,
            shares: KeyShares::default(),
            waiting: BTreeMap::new(),
            waited: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            all,
            idle: Notify::new(),
        }))
    }

    /// The server has several keys: from now on the clients of one key take at most eight times as
    /// many places as they leave. If they have none, they may take the last one.
    pub(crate) fn share_by_key(&self) {
        self.lock().shares.divide();
    }

    /// A place for a client with this key, if there is one now.
    pub(crate) fn try_take(&self, key: Option<KeyId>) -> Option<Place> {
        self.lock().take(key).then(|| self.place(key))
    }

    /// Waits for a place for a client with this key. Waiters of one key get places in the order of
    /// their calls. It never fails.
    pub(crate) async fn take(&self, key: Option<KeyId>) -> Result<Place, RecvError> {
        let mut waiting = {
            let mut state = self.lock();
            if state.take(key) {
                return Ok(self.place(key));
            }
            let (to, handed) = oneshot::channel();
            state.waited += 1;
            let number = state.waited;
            state.waiting.entry(key).or_default().insert(number, to);
            Waiting {
                places: self,
                key,
                number,
                handed,
            }
        };
        (&mut waiting.handed).await
    }

    /// Waits until all places are free.
    pub(crate) async fn idle(&self) {
        loop {
            // Created before the check, so that no notification is missed.
            let idle = self.0.idle.notified();
            if self.lock().left == self.0.all {
                return;
            }
            idle.await;
        }
    }

    fn place(&self, key: Option<KeyId>) -> Place {
        Place {
            places: self.clone(),
            key,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, key: Option<KeyId>) -> bool {
        let left = self.left.checked_sub(1);
        let left = left.filter(|left| self.shares.has_room(key, 1, *left));
        if let Some(left) = left {
            self.left = left;
            self.shares.take(key, 1);
        }
        left.is_some()
    }

    /// Takes free places for waiters: each for the one that has waited longest among those whose
    /// key may have another place.
    fn take_for_waiting(&mut self) -> Vec<(Option<KeyId>, Sender<Place>)> {
        let mut found = Vec::new();
        while let Some(left) = self.left.checked_sub(1) {
            let firsts = self
                .waiting
                .iter()
                .filter_map(|(key, waiting)| Some((*waiting.first_key_value()?.0, *key)));
            let first = firsts.filter(|(_, key)| self.shares.has_room(*key, 1, left)).min();
            let Some((number, key)) = first else { break };
            if !self.take(key) {
                break;
            }
            found.extend(self.forget(key, number).map(|to| (key, to)));
        }
        found
    }

    fn forget(&mut self, key: Option<KeyId>, number: u64) -> Option<Sender<Place>> {
        let waiting = self.waiting.get_mut(&key)?;
        let to = waiting.remove(&number);
        if waiting.is_empty() {
            self.waiting.remove(&key);
        }
        to
    }
}

/// A waiter. Dropping it removes it from the queue.
struct Waiting<'p> {
    places: &'p Places,
    key: Option<KeyId>,
    number: u64,
    handed: Receiver<Place>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let _ = self.places.lock().forget(self.key, self.number);
    }
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    key: Option<KeyId>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.left += 1;
        state.shares.give_back(self.key, 1);
        let found = state.take_for_waiting();
        let is_idle = state.left == self.places.0.all;
        drop(state);
        for (key, to) in found {
            // A waiter that has stopped waiting does not take it, and it is dropped here.
            drop(to.send(self.places.place(key)));
        }
        if is_idle {
            self.places.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use core::future::Future;
    use core::pin::{Pin, pin};
    use core::task::{Context, Poll, Waker};

    use falco_tokio::Key;

    use super::*;

    fn key(number: u8) -> KeyId {
        Key::from_bytes([number; 32]).unwrap().id()
    }

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_key_leaves_places_to_another() {
        let places = Places::new(18);
        let take = |number, most| -> Vec<_> { (0..most).map_while(|_| places.try_take(Some(key(number)))).collect() };
        assert_eq!(take(1, 100).len(), 18, "alone it may take all");
        places.share_by_key();
        let first = take(1, 100);
        assert_eq!(first.len(), 16);
        let (second, third) = (take(2, 100), take(3, 100));
        assert_eq!((second.len(), third.len()), (1, 1));
        assert!(places.try_take(Some(key(4))).is_none());
        drop((first, second, third));
        assert_eq!(take(2, 100).len(), 16);
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let places = Places::new(1);
        let place = places.try_take(None).unwrap();
        for number in 1..=100 {
            assert!(poll(pin!(places.take(Some(key(number))))).is_none());
        }
        assert!(places.lock().waiting.is_empty());
        drop(place);
        assert!(places.try_take(None).is_some());
    }

    #[test]
    fn places_are_given_in_order_within_a_key_and_in_turns_between_keys() {
        let places = Places::new(9);
        places.share_by_key();
        let mut first: Vec<_> = (0..8).map_while(|_| places.try_take(Some(key(1)))).collect();
        assert_eq!(first.len(), 8);
        let (mut waits, mut gone, mut last) = (
            pin!(places.take(Some(key(1)))),
            Box::pin(places.take(Some(key(1)))),
            pin!(places.take(Some(key(1)))),
        );
        assert!(poll(waits.as_mut()).is_none() && poll(gone.as_mut()).is_none() && poll(last.as_mut()).is_none());
        // A waiter of one key does not delay another key.
        let second = poll(pin!(places.take(Some(key(2))))).expect("it has none yet").unwrap();
        let mut other = pin!(places.take(Some(key(3))));
        assert!(poll(other.as_mut()).is_none());
        // The dropped waiter is skipped, and the last free place is for the key that has none.
        drop(gone);
        first.pop();
        let third = poll(other.as_mut()).expect("a place is free").unwrap();
        assert!(poll(waits.as_mut()).is_none());
        drop(third);
        assert!(
            poll(waits.as_mut()).is_none(),
            "7 are not more than eight times what is left"
        );
        drop(second);
        let own = poll(waits.as_mut()).expect("two are free, and it leaves one").unwrap();
        assert!(poll(last.as_mut()).is_none());
        first.pop();
        let next = poll(last.as_mut()).expect("it has come next").unwrap();
        let mut idle = pin!(places.idle());
        drop((first, own));
        assert!(poll(idle.as_mut()).is_none());
        drop(next);
        assert!(poll(idle.as_mut()).is_some());
    }
}
