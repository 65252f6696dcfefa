//! Refusals that the connection has not accepted yet.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use crate::message::{Refusal, RequestId};

/// Most connections never have one, so the queue takes only a pointer until it has had one.
#[derive(Default)]
pub(super) struct Refusals(
    #[allow(clippy::box_collection, reason = "an idle connection is smaller")]
    Option<Box<VecDeque<(RequestId, Refusal)>>>,
);

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    pub(super) fn push(&mut self, id: RequestId, refusal: Refusal) {
        self.0.get_or_insert_default().push_back((id, refusal));
    }

    pub(super) fn first(&self) -> Option<(RequestId, Refusal)> {
        self.0.as_ref()?.front().copied()
    }

    pub(super) fn pop(&mut self) {
        if let Some(queue) = &mut self.0 {
            queue.pop_front();
        }
    }

    /// Releases the memory of a queue that is empty.
    pub(super) fn shrink(&mut self) {
        self.0.take_if(|queue| queue.is_empty());
    }
}
