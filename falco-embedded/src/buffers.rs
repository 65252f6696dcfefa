//! The memory that a device provides for a connection.

use falco_core::Storage;

/// Two buffers: one for input, one for output. Every pair of buffers implements it, such as `([u8;
/// 514], [u8; 514])`, or `(&mut [u8], &mut [u8])` if the memory is elsewhere.
///
/// Use it as a bound in generic code:
///
/// ```
/// use falco_embedded::falco_core::{ClientKeyRef, Instant};
/// use falco_embedded::{BufferedClient, Buffers};
///
/// fn is_due<H: ClientKeyRef, B: Buffers>(client: &BufferedClient<H, B>, now: Instant) -> bool {
///     client.connection().poll_timeout().is_some_and(|due| due <= now)
/// }
/// ```
pub trait Buffers {
    /// The buffer for input.
    type Input: Storage;
    /// The buffer for output.
    type Output: AsRef<[u8]> + AsMut<[u8]>;

    /// The two buffers.
    fn into_parts(self) -> (Self::Input, Self::Output);
}

impl<I: Storage, O: AsRef<[u8]> + AsMut<[u8]>> Buffers for (I, O) {
    type Input = I;
    type Output = O;

    fn into_parts(self) -> (I, O) {
        self
    }
}
