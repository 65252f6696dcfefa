//! Bodies that count how many of their bytes are in memory.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use bytes::Bytes;

struct Counted(Vec<u8>, Arc<AtomicUsize>);

/// A body of `length` bytes, which are in `in_memory` until the body is dropped, and how many there
/// are with them.
pub(crate) fn body(length: usize, in_memory: &Arc<AtomicUsize>) -> (Bytes, usize) {
    let now = in_memory.fetch_add(length, Ordering::SeqCst) + length;
    let counted = Counted(vec![7; length], Arc::clone(in_memory));
    (Bytes::from_owner(counted), now)
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len(), Ordering::SeqCst);
    }
}
