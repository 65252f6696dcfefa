//! The callers that wait for the answers to their requests. Each has a place, which another caller
//! uses afterwards, so that a request allocates nothing for its answer.

use core::task::Waker;

use bytes::Bytes;

use crate::error::Error;

/// What a caller receives.
pub(super) type Answer = Result<Bytes, Error>;

/// Identifies the caller of one request, whether or not it still waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallerId {
    /// The ticket of the request, which distinguishes this caller from later ones at the same
    /// place.
    ticket: u64,
    /// The index of the place.
    at: usize,
}

impl CallerId {
    pub(super) const fn ticket(self) -> u64 {
        self.ticket
    }
}

enum Place {
    /// Free, with the index of the next free place, or the length of the list if there is none.
    Free(usize),
    Waiting(u64, Waker),
    /// The caller has not taken its answer yet.
    Answered(u64, Answer),
}

#[derive(Default)]
pub(super) struct Callers {
    places: Vec<Place>,
    /// The index of the first free place, or the length of the list if there is none.
    free: usize,
    count: usize,
}

impl Callers {
    /// Callers that have not taken their answers.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, ticket: u64, waker: Waker) -> CallerId {
        let (at, caller) = (self.free, Place::Waiting(ticket, waker));
        if let Some(place) = self.places.get_mut(at) {
            if let Place::Free(next) = core::mem::replace(place, caller) {
                self.free = next;
            }
        } else {
            self.places.push(caller);
            self.free = self.places.len();
        }
        self.count += 1;
        CallerId { ticket, at }
    }

    /// The place of a caller that has neither taken its answer nor given up.
    fn find(&mut self, caller: CallerId) -> Option<&mut Place> {
        let place = self.places.get_mut(caller.at)?;
        let (Place::Waiting(ticket, _) | Place::Answered(ticket, _)) = place else {
            return None;
        };
        (*ticket == caller.ticket).then_some(place)
    }

    /// Stores the answer for a caller, and returns the waker to wake. Does nothing for a caller
    /// that has given up.
    pub(super) fn answer(&mut self, caller: CallerId, answer: Answer) -> Option<Waker> {
        let place = self.find(caller)?;
        match core::mem::replace(place, Place::Answered(caller.ticket, answer)) {
            Place::Waiting(_, waker) => Some(waker),
            Place::Answered(..) | Place::Free(_) => None,
        }
    }

    /// Takes the answer of a caller if it is there.
    pub(super) fn take(&mut self, caller: CallerId) -> Option<Answer> {
        match self.find(caller) {
            Some(Place::Answered(..)) => match self.remove(caller)? {
                Place::Answered(_, answer) => Some(answer),
                Place::Waiting(..) | Place::Free(_) => None,
            },
            _ => None,
        }
    }

    /// The waker of a caller that waits.
    pub(super) fn waker(&mut self, caller: CallerId) -> Option<&mut Waker> {
        match self.find(caller)? {
            Place::Waiting(_, waker) => Some(waker),
            Place::Answered(..) | Place::Free(_) => None,
        }
    }

    /// A caller gives up. Returns its waker if it has not been answered.
    pub(super) fn give_up(&mut self, caller: CallerId) -> Option<Waker> {
        match self.remove(caller)? {
            Place::Waiting(_, waker) => Some(waker),
            Place::Answered(..) | Place::Free(_) => None,
        }
    }

    fn remove(&mut self, caller: CallerId) -> Option<Place> {
        let free = self.free;
        let removed = core::mem::replace(self.find(caller)?, Place::Free(free));
        self.free = caller.at;
        self.count -= 1;
        Some(removed)
    }

    /// Stores an error for all callers that wait, and returns the wakers to wake.
    pub(super) fn fail_all(&mut self, error: impl Fn() -> Error) -> Vec<Waker> {
        let fail = |place: &mut Place| {
            let Place::Waiting(ticket, _) = *place else { return None };
            match core::mem::replace(place, Place::Answered(ticket, Err(error()))) {
                Place::Waiting(_, waker) => Some(waker),
                Place::Answered(..) | Place::Free(_) => None,
            }
        };
        self.places.iter_mut().filter_map(fail).collect()
    }

    /// Frees the memory if there are no callers and it has room for more than `few`.
    pub(super) fn shrink(&mut self, few: usize) {
        if self.count == 0 && self.places.capacity() > few {
            self.places = Vec::new();
            self.free = 0;
        }
    }
}

/// Answers that are delivered to their callers together, so that one lock is enough.
#[derive(Default)]
pub(super) struct Answers(Vec<Delivery>);

enum Delivery {
    Answer(CallerId, Answer),
    Wake(Waker),
    /// The caller has given up.
    Nothing,
}

impl Answers {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, caller: CallerId, answer: Answer) {
        self.0.push(Delivery::Answer(caller, answer));
    }

    /// Stores the answers for their callers. Then release the lock of `callers` and call
    /// [`wake`](Self::wake).
    pub(super) fn deliver(&mut self, callers: &mut Callers) {
        for delivery in &mut self.0 {
            if let Delivery::Answer(caller, answer) = core::mem::replace(delivery, Delivery::Nothing)
                && let Some(waker) = callers.answer(caller, answer)
            {
                *delivery = Delivery::Wake(waker);
            }
        }
    }

    /// Wakes the callers that have received an answer.
    pub(super) fn wake(&mut self) {
        for delivery in self.0.drain(..) {
            if let Delivery::Wake(waker) = delivery {
                waker.wake();
            }
        }
    }

    /// Frees the memory if there are no answers and it has room for more than `few`.
    pub(super) fn shrink(&mut self, few: usize) {
        if self.0.is_empty() && self.0.capacity() > few {
            self.0 = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waker() -> Waker {
        Waker::noop().clone()
    }

    #[test]
    fn an_answer_to_a_caller_that_has_given_up_reaches_no_other_in_its_place() {
        let mut callers = Callers::default();
        let first = callers.add(1, waker());
        assert!(callers.give_up(first).is_some());
        let second = callers.add(2, waker());
        assert_eq!(first.at, second.at);
        assert!(callers.answer(first, Ok(Bytes::from_static(b"first"))).is_none());
        assert!(callers.take(second).is_none());
        assert!(callers.answer(second, Ok(Bytes::from_static(b"second"))).is_some());
        // `give_up` returns no waker for a caller that has an answer.
        assert!(
            callers
                .take(second)
                .is_some_and(|answer| answer.is_ok_and(|body| body == "second"))
        );
        assert!(callers.give_up(second).is_none());
        assert_eq!(callers.count(), 0);
    }

    #[test]
    fn places_are_used_again_and_released_when_there_are_no_callers() {
        let mut callers = Callers::default();
        for round in 0..10 {
            let all: Vec<_> = (0..5).map(|n| callers.add(10 * round + n, waker())).collect();
            assert_eq!(callers.count(), 5);
            callers.shrink(4);
            for caller in all {
                assert!(callers.give_up(caller).is_some());
            }
        }
        assert_eq!(callers.places.len(), 5);
        callers.shrink(4);
        assert_eq!(callers.places.capacity(), 0);
        let caller = callers.add(1, waker());
        assert!(callers.give_up(caller).is_some());
    }

    #[test]
    fn callers_that_wait_when_the_task_ends_receive_an_error_and_others_keep_their_answers() {
        let mut callers = Callers::default();
        let (waits, answered) = (callers.add(1, waker()), callers.add(2, waker()));
        assert!(callers.answer(answered, Ok(Bytes::new())).is_some());
        assert_eq!(callers.fail_all(|| Error::Closed).len(), 1);
        assert!(callers.take(waits).is_some_and(|answer| answer.is_err()));
        assert!(callers.take(answered).is_some_and(|answer| answer.is_ok()));
    }
}
