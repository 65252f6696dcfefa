//! Counts in error messages.

use core::fmt;

/// A count with its noun, whose plural ends in s: "1 byte", "2 bytes".
pub(crate) struct Counted<N>(pub(crate) N, pub(crate) &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Counted<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        let plural = if *count == N::from(1) { "" } else { "s" };
        write!(f, "{count} {noun}{plural}")
    }
}

/// So many bytes.
pub(crate) const fn bytes<N>(count: N) -> Counted<N> {
    Counted(count, "byte")
}
