//! The places in a client's queue: how many requests may be outstanding at once. Callers that find
//! no place wait in the order in which they came.

use core::future::Future;
use core::ops::Deref;
use core::pin::Pin;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// In the place of the number of free places: there is none, and callers wait for one.
const WAITED_FOR: usize = usize::MAX;

/// The most places that a client can have.
pub(super) const MOST_PLACES: usize = WAITED_FOR - 1;

/// While nobody waits, taking a place and giving it back change one number, without the lock.
#[derive(Debug)]
pub(super) struct Places {
    /// How many places are free, or [`WAITED_FOR`]. It becomes and ceases to be `WAITED_FOR` under
    /// the lock of `waiting`.
    free: AtomicUsize,
    waiting: Mutex<Waiting>,
}

/// The callers that wait, in their order. One that is not here any more has its place.
#[derive(Debug, Default)]
struct Waiting {
    callers: BTreeMap<u64, Waker>,
    last: u64,
}

impl Places {
    pub(super) const fn new(places: usize) -> Self {
        Self {
            free: AtomicUsize::new(places),
            waiting: Mutex::new(Waiting {
                callers: BTreeMap::new(),
                last: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while the lock is held, so the state is consistent.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place that is free. Returns `false` if there is none, or if others wait.
    fn try_take(&self) -> bool {
        let take = |free| match free {
            0 | WAITED_FOR => None,
            free => Some(free - 1),
        };
        self.free
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, take)
            .is_ok()
    }

    /// Frees a place that nobody waits for. Returns `false` if somebody waits.
    fn try_free(&self) -> bool {
        let add = |free| (free != WAITED_FOR).then(|| free + 1);
        self.free
            .fetch_update(Ordering::Release, Ordering::Relaxed, add)
            .is_ok()
    }

    /// Gives a place back, to the first caller that waits if there is one.
    fn give_back(&self) {
        if self.try_free() {
            return;
        }
        let mut waiting = self.lock();
        let next = waiting.callers.pop_first();
        if next.is_none() {
            // The last one has given up since.
            self.try_free();
        } else if waiting.callers.is_empty() {
            self.free.store(0, Ordering::Relaxed);
        }
        drop(waiting);
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }

    /// Takes a place, or waits behind all others. Returns the number of the caller if it waits.
    fn take_or_wait(&self, waker: Waker) -> Option<u64> {
        let mut waiting = self.lock();
        // Nobody else can make it `WAITED_FOR` meanwhile.
        let take = |free| match free {
            WAITED_FOR => None,
            free => Some(free.checked_sub(1).unwrap_or(WAITED_FOR)),
        };
        if matches!(
            self.free.fetch_update(Ordering::Acquire, Ordering::Relaxed, take),
            Ok(1..)
        ) {
            drop(waiting);
            return None;
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.callers.insert(number, waker);
        Some(number)
    }

    /// Whether the caller with this number waits. If so, replaces its waker, which it returns.
    fn waits(&self, number: u64, waker: Waker) -> Option<Waker> {
        let mut waiting = self.lock();
        let waits = waiting.callers.get_mut(&number)?;
        Some(core::mem::replace(waits, waker))
    }

    /// The caller with this number no longer waits.
    fn give_up(&self, number: u64) {
        let mut waiting = self.lock();
        let waited = waiting.callers.remove(&number);
        if waited.is_some() && waiting.callers.is_empty() {
            self.free.store(0, Ordering::Relaxed);
        }
        // Dropping a waker may run any code.
        drop(waiting);
        if waited.is_none() {
            self.give_back();
        }
    }
}

/// A place, until it is dropped. `P` is a reference to the places.
#[derive(Debug)]
pub(super) struct Place<P: Deref<Target = Places>>(P);

impl<P: Deref<Target = Places>> Place<P> {
    /// Takes a place if one is free and nobody waits.
    pub(super) fn try_take(places: P) -> Option<Self> {
        places.try_take().then(|| Self(places))
    }

    /// Waits for a place, behind all others that wait.
    pub(super) const fn take(places: P) -> Take<P> {
        Take {
            places: Some(places),
            number: None,
        }
    }
}

impl<P: Deref<Target = Places>> Drop for Place<P> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// Waits for a place.
#[derive(Debug)]
pub(super) struct Take<P: Deref<Target = Places>> {
    /// Until it has returned its place.
    places: Option<P>,
    /// While it waits.
    number: Option<u64>,
}

impl<P: Deref<Target = Places> + Unpin> Future for Take<P> {
    type Output = Place<P>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place<P>> {
        let this = &mut *self;
        let Some(places) = &this.places else {
            return Poll::Pending;
        };
        let waits = if let Some(number) = this.number {
            places.waits(number, cx.waker().clone()).is_some()
        } else {
            this.number = places.take_or_wait(cx.waker().clone());
            this.number.is_some()
        };
        if waits {
            return Poll::Pending;
        }
        this.number = None;
        this.places
            .take()
            .map_or(Poll::Pending, |places| Poll::Ready(Place(places)))
    }
}

impl<P: Deref<Target = Places>> Drop for Take<P> {
    fn drop(&mut self) {
        if let (Some(places), Some(number)) = (&self.places, self.number) {
            places.give_up(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::task::Waker;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn poll<'p>(take: &mut Take<&'p Places>) -> Option<Place<&'p Places>> {
        match Pin::new(take).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn callers_have_places_in_the_order_in_which_they_came() {
        let places = Places::new(1);
        let first = Place::try_take(&places);
        assert!(first.is_some() && Place::try_take(&places).is_none());
        let (mut second, mut third) = (Place::take(&places), Place::take(&places));
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        // The place is the second caller's, although it has not been polled.
        assert!(Place::try_take(&places).is_none() && poll(&mut third).is_none());
        let place = poll(&mut second);
        assert!(place.is_some());
        drop(place);
        drop(poll(&mut third));
        assert_eq!(places.free.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_caller_that_gives_up_takes_no_place_from_the_others() {
        let places = Places::new(1);
        let first = Place::try_take(&places);
        let mut waiting = [0; 4].map(|_| Place::take(&places));
        assert!(waiting.iter_mut().all(|take| poll(take).is_none()));
        let [second, third, mut fourth, fifth] = waiting;
        // One gives up while it waits, and one after it has received the place.
        drop(third);
        drop(first);
        drop(second);
        let place = poll(&mut fourth);
        assert!(place.is_some() && Place::try_take(&places).is_none());
        // The last one that waits gives up.
        drop(fifth);
        assert!(Place::try_take(&places).is_none());
        drop(place);
        assert_eq!(places.free.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn many_threads_have_no_more_places_than_there_are_and_lose_none() {
        const PLACES: usize = 3;
        let places = Arc::new(Places::new(PLACES));
        let taken = Arc::new(AtomicUsize::new(0));
        let threads = [0, 1, 2, 3, 4, 5, 6, 7].map(|number| {
            let (places, taken) = (Arc::clone(&places), Arc::clone(&taken));
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                runtime.block_on(async {
                    for round in 0..2_000 {
                        let mut take = Place::take(Arc::clone(&places));
                        if (round + number) % 3 == 0 {
                            // Gives up at some point.
                            let polled = Pin::new(&mut take).poll(&mut Context::from_waker(Waker::noop()));
                            thread::yield_now();
                            drop((take, polled));
                            continue;
                        }
                        let place = take.await;
                        assert!(taken.fetch_add(1, Ordering::SeqCst) < PLACES);
                        thread::yield_now();
                        taken.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                });
                Ok::<_, std::io::Error>(())
            })
        });
        for thread in threads {
            assert!(matches!(thread.join(), Ok(Ok(()))));
        }
        assert_eq!(places.free.load(Ordering::SeqCst), PLACES);
    }
}
