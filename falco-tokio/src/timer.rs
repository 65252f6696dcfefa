//! One timer for a connection. It is reset only if the deadline becomes earlier or if it fires, so
//! that a busy connection does not reset it for every message.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};

/// Schedules the task again, after the runtime has polled for I/O events.
pub(crate) fn reschedule(cx: &mut Context<'_>) {
    if core::pin::pin!(tokio::task::yield_now()).poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// What the timer wakes when it fires.
    wakes: Option<Waker>,
}

impl Timer {
    /// Removes the deadline, so that it does not wake a connection that is idle from now on.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Makes the runtime wake the task at `deadline` or earlier. Returns `Ready` if the deadline
    /// has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        let registered = self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker()));
        // An earlier deadline may stay: when it fires, the timer is set to the current one.
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        } else if registered {
            return Poll::Pending;
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                if !registered {
                    self.wakes = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
