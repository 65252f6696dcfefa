//! How long a client sends requests.

use core::time::Duration;
use std::time::Instant;

use crate::Failure;

/// Requests begin until its end, and those that have begun are finished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    end: Instant,
}

impl Window {
    pub(crate) fn open(length: Duration) -> Self {
        Self {
            end: Instant::now() + length,
        }
    }

    pub(crate) fn is_open(self) -> bool {
        Instant::now() < self.end
    }
}

/// A body whose bytes differ from place to place.
pub(crate) fn body(size: usize) -> Vec<u8> {
    (0..=250).cycle().take(size).collect()
}

/// Fails unless the first answer is the request.
pub(crate) fn verify(sent: &[u8], answer: &[u8]) -> Result<(), Failure> {
    if sent == answer {
        return Ok(());
    }
    Err(format!(
        "the answer has {} bytes and is not the request, which has {}",
        answer.len(),
        sent.len()
    )
    .into())
}

/// Fails unless a later answer has the length of its request.
pub(crate) fn verify_length(sent: usize, answer: &[u8]) -> Result<(), Failure> {
    if sent == answer.len() {
        return Ok(());
    }
    Err(format!("an answer has {} bytes, and its request has {sent}", answer.len()).into())
}
