//! One timer for a connection. It is set anew only where a deadline has come nearer, so that a busy
//! connection does not set it for every message.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// Has the task polled again, once the runtime has looked for what has come on sockets.
pub(crate) fn reschedule(cx: &mut Context<'_>) {
    if core::pin::pin!(tokio::task::yield_now()).poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Forgets an earlier deadline that is of no more use: a connection that is idle from now on is
    /// not woken by it.
    pub(crate) fn forget(&mut self) {
        self.sleep = None;
    }

    /// Sees to it that the task is woken at `deadline`, or some time before. Ready where it has
    /// come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // An earlier one does no harm: it fires once, and is set to what then holds.
        if sleep.is_elapsed() || sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}
