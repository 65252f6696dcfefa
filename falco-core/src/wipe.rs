//! Overwriting what a computation on secrets leaves on the stack: moved values, spilled registers
//! and the scratch space of other crates, none of which a destructor reaches.

/// Bytes of stack that are overwritten: more than any handshake uses, except on a device.
/// `tests/tests/secrets.rs` checks that it is enough.
#[cfg(feature = "noise")]
const DEPTH: usize = if cfg!(target_os = "none") {
    // A handshake uses more than that, most of it for values that are not secret. Overwriting more
    // would need more stack.
    1024
} else if cfg!(debug_assertions) {
    // Without optimization a frame has a slot for every move.
    64 * 1024
} else {
    16 * 1024
};

/// Bytes of stack that one call of `recv`, `seal` or `poll_transmit` uses at most, once the
/// handshake is complete. `tests/tests/secrets.rs` checks that it is enough.
const CALL: usize = if cfg!(target_os = "none") {
    1024
} else if cfg!(debug_assertions) {
    32 * 1024
} else {
    4000
};

/// Overwrites what the calls of a connection have left on the stack of this thread.
///
/// While a record is encrypted or decrypted, the compiler stores round keys, keystream and parts of
/// bodies on the stack. They stay there until other code uses that stack. Call this function when a
/// turn of your loop ends, before the thread waits: from the function that has called the
/// connection, or from one of its callers. The adapters do so. It overwrites 4,000 bytes below the
/// caller, 1,024 on a target without an operating system.
///
/// The stack of a handshake is overwritten by the connection itself.
#[inline(never)]
pub fn wipe_stack() {
    zeroize::zeroize_stack::<CALL>();
}

/// Bytes between the frame of the caller and those that are overwritten. It is more than the saved
/// registers and the padding at the beginning of a frame.
#[cfg(any(
    feature = "noise",
    all(feature = "rustcrypto", not(feature = "aes-gcm"), not(target_os = "none"))
))]
const DISTANCE: usize = if cfg!(target_os = "none") { 32 } else { 256 };

/// Runs `work`, then overwrites the stack that it used.
///
/// The value that `work` returns is in the caller's stack frame, which is not overwritten. So
/// `work` must not return a secret: write it to a place that `work` borrows, or run the caller
/// itself in this way.
#[cfg(feature = "noise")]
#[inline]
pub(crate) fn with_stack_wiped<T>(work: impl FnOnce() -> T) -> T {
    with_stack_wiped_to::<DEPTH, T>(work)
}

/// Runs `work`, then overwrites this many bytes of the stack that it used, as
/// `with_stack_wiped` does.
#[cfg(any(
    feature = "noise",
    all(feature = "rustcrypto", not(feature = "aes-gcm"), not(target_os = "none"))
))]
#[inline]
pub(crate) fn with_stack_wiped_to<const BYTES: usize, T>(work: impl FnOnce() -> T) -> T {
    let done = out_of_line(work);
    zeroize::zeroize_stack::<BYTES>();
    done
}

/// Keeps a distance to the frame of the caller: `zeroize_stack` does not overwrite the first bytes
/// of its own frame.
#[cfg(any(
    feature = "noise",
    all(feature = "rustcrypto", not(feature = "aes-gcm"), not(target_os = "none"))
))]
#[inline(never)]
fn out_of_line<T>(work: impl FnOnce() -> T) -> T {
    let distance = [0_u8; DISTANCE];
    core::hint::black_box(&distance);
    below(work)
}

#[cfg(any(
    feature = "noise",
    all(feature = "rustcrypto", not(feature = "aes-gcm"), not(target_os = "none"))
))]
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}
