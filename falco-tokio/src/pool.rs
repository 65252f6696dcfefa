//! Two spare buffers for each thread, one for input and one for output. A connection has buffers
//! only while it reads or writes; an idle connection holds none.

use core::cell::Cell;

/// Bytes in a pooled buffer: a record of any size, and the beginning of the next.
pub(crate) const POOLED: usize = 96 << 10;

thread_local! {
    static SPARE: [Cell<Vec<u8>>; 2] = const { [const { Cell::new(Vec::new()) }; 2] };
}

/// A buffer of [`POOLED`] bytes, whose content does not matter.
pub(crate) fn take() -> Vec<u8> {
    let spare = SPARE.with(|spare| spare.iter().map(Cell::take).find(|buffer| !buffer.is_empty()));
    spare.unwrap_or_else(|| vec![0; POOLED])
}

/// Gives a buffer back. It is dropped if it has another size, or if there are two spares already.
pub(crate) fn give_back(buffer: Vec<u8>) {
    if buffer.len() != POOLED {
        return;
    }
    SPARE.with(|spare| {
        for place in spare {
            let there = place.take();
            if there.is_empty() {
                place.set(buffer);
                return;
            }
            place.set(there);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spares_are_kept_and_none_is_lent_twice() {
        let (one, other, third) = (take(), take(), take());
        let places = [one.as_ptr(), other.as_ptr(), third.as_ptr()];
        give_back(one);
        give_back(other);
        give_back(third);
        let (one, other) = (take(), take());
        assert_ne!(one.as_ptr(), other.as_ptr());
        assert!(places.contains(&one.as_ptr()) && places.contains(&other.as_ptr()));
        give_back(vec![0; 10]);
        assert_eq!(take().len(), POOLED);
    }
}
