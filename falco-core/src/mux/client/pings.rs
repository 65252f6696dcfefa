//! Pings that callers wait for.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::super::call::{Call, Unfinished};
use super::ClientMux;
use crate::message::{Fate, PingId};
use crate::wire::ClientKeyRef;

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Queues a ping. When it completes, the mux returns its waiter: on the noise wire with
    /// [`ClientStep::Pong`](super::ClientStep::Pong); on the classic wire, which has no PONG, by
    /// [`flushed`](Self::flushed) after the ping was sent.
    ///
    /// # Errors
    /// The ping, if the connection is closing or has ended. It may go to another connection.
    pub fn ping(&mut self, ping: Call<(), P>) -> Result<(), Call<(), P>> {
        // The connection would accept a ping while it closes.
        if !self.is_open() {
            return Err(ping);
        }
        match self.machine.ping() {
            Ok(id) => {
                self.pings.push_back((id, ping));
                Ok(())
            }
            Err(_) => Err(ping),
        }
    }

    /// Removes and returns the pings for whose waiters `select` returns `true`. No handler
    /// processes a ping, so the fate of a removed ping is [`Fate::OF_PING`].
    pub fn take_pings(&mut self, mut select: impl FnMut(&P) -> bool) -> Vec<Call<(), P>> {
        let (taken, kept) = core::mem::take(&mut self.pings)
            .into_iter()
            .partition(|(_, ping)| select(&ping.waiter));
        self.pings = kept;
        let taken: VecDeque<(PingId, Call<(), P>)> = taken;
        taken.into_iter().map(|(_, ping)| ping).collect()
    }

    /// Reports that the stream has accepted all that was sealed, and that [`seal`](Self::seal) has
    /// no more. On the classic wire, this completes all pings, and their waiters are returned. It
    /// returns none after the connection has ended, because a write may have failed.
    pub fn flushed(&mut self) -> Vec<P> {
        self.deadlines.progress();
        if self.machine.answers_pings() || !self.established || self.end().is_some() {
            return Vec::new();
        }
        self.pings.drain(..).map(|(_, ping)| ping.waiter).collect()
    }

    /// Call it when the connection has ended. Returns the pings that have not completed.
    ///
    /// A ping is retried like a request that was not processed: on at most
    /// [`MAX_TRIES`](super::super::Attempts::MAX_TRIES) connections.
    pub fn finish_pings(&mut self) -> Vec<Unfinished<Call<(), P>>> {
        let unfinished = self.pings.drain(..).map(|(_, mut call)| {
            let fate = Fate::OF_PING;
            let retry = call.attempts.after_loss(fate);
            Unfinished { call, fate, retry }
        });
        unfinished.collect()
    }
}
