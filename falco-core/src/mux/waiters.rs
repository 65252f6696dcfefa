//! Who waits for the end of which request, by ticket.

use alloc::collections::VecDeque;

use crate::message::RequestId;
use crate::outgoing::OutgoingRequest;

/// Places that may stay empty among those that are taken.
pub(super) const SPARE: usize = 64;

/// Whoever waits, sorted by ticket. Adding the latest, finding one and taking one out cost no more
/// however many wait: a place in the middle stays empty for a while.
pub(super) struct Waiters<B, W> {
    places: VecDeque<Place<B, W>>,
    count: usize,
    /// Those of them whose requests may not begin yet.
    held_back: usize,
}

struct Place<B, W> {
    ticket: u64,
    waiting: Option<Waiting<B, W>>,
}

pub(super) struct Waiting<B, W> {
    pub(super) ticket: u64,
    pub(super) waiter: W,
    /// There once its first byte is sealed.
    pub(super) id: Option<RequestId>,
    /// The request itself, as long as it may not begin.
    pub(super) unsent: Option<(OutgoingRequest, B)>,
}

impl<B, W> Waiters<B, W> {
    pub(super) const fn new() -> Self {
        Self {
            places: VecDeque::new(),
            count: 0,
            held_back: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) const fn held_back(&self) -> usize {
        self.held_back
    }

    fn position(&self, ticket: u64) -> Result<usize, usize> {
        position(&self.places, ticket, |place| place.ticket)
    }

    fn get(&self, ticket: u64) -> Option<&Waiting<B, W>> {
        let at = self.position(ticket).ok()?;
        self.places.get(at)?.waiting.as_ref()
    }

    fn get_mut(&mut self, ticket: u64) -> Option<&mut Waiting<B, W>> {
        let at = self.position(ticket).ok()?;
        self.places.get_mut(at)?.waiting.as_mut()
    }

    /// Adds a waiter whose request may not begin yet. Tickets are used once.
    pub(super) fn insert(&mut self, ticket: u64, waiter: W, unsent: (OutgoingRequest, B)) {
        let waiting = Some(Waiting {
            ticket,
            waiter,
            id: None,
            unsent: Some(unsent),
        });
        let place = Place { ticket, waiting };
        self.count += 1;
        self.held_back += 1;
        match self.position(ticket) {
            Err(at) => self.places.insert(at, place),
            // A request that comes back to the connection that it was taken out of.
            Ok(at) => {
                if let Some(there) = self.places.get_mut(at) {
                    let before = core::mem::replace(there, place).waiting;
                    self.count -= usize::from(before.is_some());
                    self.held_back -= usize::from(before.is_some_and(|before| before.unsent.is_some()));
                }
            }
        }
    }

    pub(super) fn contains(&self, ticket: u64) -> bool {
        self.get(ticket).is_some()
    }

    pub(super) fn is_held_back(&self, ticket: u64) -> bool {
        self.get(ticket).is_some_and(|waiting| waiting.unsent.is_some())
    }

    /// The request has begun.
    pub(super) fn begin(&mut self, ticket: u64, id: RequestId) {
        if let Some(waiting) = self.get_mut(ticket) {
            waiting.id = Some(id);
        }
    }

    /// The request, which may begin now. Whoever waits for it still does.
    pub(super) fn take_held_back(&mut self, ticket: u64) -> Option<(OutgoingRequest, B)> {
        let unsent = self.get_mut(ticket)?.unsent.take();
        self.held_back -= usize::from(unsent.is_some());
        unsent
    }

    /// Takes one out.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Waiting<B, W>> {
        let at = self.position(ticket).ok()?;
        let taken = self.places.get_mut(at)?.waiting.take()?;
        self.count -= 1;
        self.held_back -= usize::from(taken.unsent.is_some());
        while self.places.front().is_some_and(|place| place.waiting.is_none()) {
            self.places.pop_front();
        }
        while self.places.back().is_some_and(|place| place.waiting.is_none()) {
            self.places.pop_back();
        }
        // Each sweep takes out at least as many as it keeps.
        if self.places.len() > 2 * self.count + SPARE {
            self.places.retain(|place| place.waiting.is_some());
        }
        Some(taken)
    }

    /// Takes all out, in the order of their tickets.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiting<B, W>> {
        self.count = 0;
        self.held_back = 0;
        core::mem::take(&mut self.places)
            .into_iter()
            .filter_map(|place| place.waiting)
    }
}

impl<B: AsRef<[u8]>, W> Waiters<B, W> {
    /// Bytes of a request that may not begin yet; none where it has been cancelled.
    pub(super) fn held_back_length(&self, ticket: u64) -> Option<usize> {
        let (_, body) = self.get(ticket)?.unsent.as_ref()?;
        Some(body.as_ref().len())
    }
}

/// Where `number` is, or would be, among items sorted by their numbers. Numbers mostly follow one
/// another, so that the distance from the first tells.
pub(super) fn position<T>(items: &VecDeque<T>, number: u64, number_of: impl Fn(&T) -> u64) -> Result<usize, usize> {
    if items.back().is_none_or(|last| number_of(last) < number) {
        return Err(items.len());
    }
    let distance = items.front().and_then(|first| number.checked_sub(number_of(first)));
    let guess = distance.and_then(|distance| usize::try_from(distance).ok());
    match guess {
        Some(at) if items.get(at).is_some_and(|item| number_of(item) == number) => Ok(at),
        _ => items.binary_search_by_key(&number, number_of),
    }
}
