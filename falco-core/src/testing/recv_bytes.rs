//! `recv` for tests, which pass bytes and count those that it consumes.

use crate::mux::{Budget, ClientMux, ClientStep, ServerMux, ServerStep};
use crate::{ClientKeyRef, Connection, ConnectionError, Instant, KeyRef, Received, Role, ServerKeyRef, Unread};

/// Connections and muxes, which receive bytes.
pub trait RecvBytes {
    /// What `recv` returns.
    type Step<'u>
    where
        Self: 'u;

    /// Passes `bytes` to `recv`. Returns how many it consumed, and its result.
    ///
    /// # Errors
    /// What ended the connection.
    fn recv_bytes<'u>(&mut self, now: Instant, bytes: &'u mut [u8]) -> Result<(usize, Self::Step<'u>), ConnectionError>
    where
        Self: 'u;
}

/// Implements the trait: all three differ in their types alone.
macro_rules! implement {
    ([$($generics:tt)*] $target:ty, $step:ty) => {
        impl<$($generics)*> RecvBytes for $target {
            type Step<'u>
                = $step
            where
                Self: 'u;

            fn recv_bytes<'u>(
                &mut self,
                now: Instant,
                bytes: &'u mut [u8],
            ) -> Result<(usize, Self::Step<'u>), ConnectionError>
            where
                Self: 'u,
            {
                let mut consumed = 0;
                let step = self.recv(now, Unread::new(bytes, &mut consumed))?;
                Ok((consumed, step))
            }
        }
    };
}

implement!([R: Role, H: KeyRef<R>] Connection<R, H>, Received<R::Event<'u>, R::Wait>);
implement!([H: ClientKeyRef, B: AsRef<[u8]>, W, P] ClientMux<H, B, W, P>, ClientStep<'u, B, W, P>);
implement!([H: ServerKeyRef, B: AsRef<[u8]>, G: Budget] ServerMux<H, B, G>, ServerStep<'u>);
