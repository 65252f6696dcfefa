//! One timer for a connection. It is reset only if the deadline becomes earlier or if it fires, so
//! that a busy connection does not reset it for every message.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
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
            // A task whose budget is used up would not be registered.
            let polled = core::pin::pin!(unconstrained(sleep.as_mut())).poll(cx);
            if polled.is_pending() {
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

#[cfg(test)]
mod tests {
    use core::future::poll_fn;
    use core::pin::pin;
    use core::time::Duration;

    use tokio::task::coop::{consume_budget, has_budget_remaining};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_polled_without_budget_fires() -> Result<(), Box<dyn core::error::Error>> {
        let deadline = Instant::now() + Duration::from_secs(1);
        let task = tokio::spawn(async move {
            let mut timer = Timer::default();
            poll_fn(|cx| {
                while has_budget_remaining() {
                    let _ = pin!(consume_budget()).poll(cx);
                }
                assert!(timer.poll(cx, Some(deadline)).is_pending());
                Poll::Ready(())
            })
            .await;
            poll_fn(|cx| timer.poll(cx, Some(deadline))).await;
        });
        timeout(Duration::from_secs(10), task).await??;
        assert_eq!(Instant::now(), deadline);
        Ok(())
    }
}
