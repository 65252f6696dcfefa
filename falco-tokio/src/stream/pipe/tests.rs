//! What the halves do without a connection: what they join, copy and keep of bytes.

use super::chunks::{JOINED, SHORT};
use super::*;

struct Nobody;

impl ConnectionHandle for Nobody {
    fn notify(&self) {}
}

fn pipe() -> Arc<Pipe> {
    Pipe::new(Box::new(Nobody), Halves::of_client(64))
}

/// A client that has its answer needs nothing more of its own body.
#[test]
fn finishing_after_a_whole_answer_is_no_error() {
    let pipe = pipe();
    pipe.update(Halves::complete);
    assert!(pipe.send(Bytes::from_static(b"more")).is_err());
    assert!(pipe.finish().is_ok());
}

#[test]
fn single_bytes_that_wait_to_be_sent_are_joined() -> Result<(), Error> {
    let pipe = pipe();
    for at in 0..60_000_u32 {
        let [byte, ..] = at.to_le_bytes();
        pipe.send(Bytes::copy_from_slice(&[byte]))?;
    }
    let taken = pipe.pump(|_, next| core::iter::from_fn(next).collect::<Vec<_>>());
    let lengths: Vec<_> = taken.iter().map(Bytes::len).collect();
    let rest = 59_999 - 3 * JOINED;
    assert_eq!(
        lengths,
        [1, JOINED, JOINED, JOINED, rest],
        "the first one, and all that follow it"
    );
    let taken = taken.concat();
    let expected = (0..60_000_u32).map(|at| at.to_le_bytes()[0]);
    assert!(taken.iter().copied().eq(expected));
    Ok(())
}

#[test]
fn short_pieces_take_little_more_memory_than_their_bytes() {
    for length in [1, 100, 3_000, SHORT - 1, SHORT] {
        let (mut chunks, mut bytes) = (Chunks::default(), 0);
        while bytes < 1 << 20 {
            chunks.copy(&vec![7; length]);
            bytes += length;
        }
        // The memory of `Bytes` is known if they can be turned into a vector without a copy.
        let ended = chunks.queue.into_iter().map(|chunk| {
            let (address, chunk) = (chunk.as_ptr(), Vec::from(chunk));
            assert_eq!(chunk.as_ptr(), address);
            chunk.capacity()
        });
        let memory = ended.sum::<usize>() + chunks.joined.capacity();
        assert!(memory <= bytes + JOINED / 2, "{memory} for {bytes} of {length}");
    }
}

/// What the connection takes has no more memory than its bytes. A chunk of which nothing was
/// taken is not copied.
#[test]
fn no_piece_keeps_the_memory_of_a_longer_chunk() -> Result<(), Error> {
    const LENGTH: usize = 5 * PIECE + 1;
    for (pieces, expected) in [(0, vec![LENGTH]), (2, vec![LENGTH - 2 * PIECE]), (6, vec![])] {
        let pipe = pipe();
        let chunk = Bytes::from(vec![7; LENGTH]);
        // The clone keeps the chunk shared, so its memory is not freed early.
        pipe.send(chunk.clone())?;
        let taken: Vec<_> = pipe.pump(|_, next| core::iter::from_fn(next).take(pieces).collect());
        let last = pieces.saturating_sub(5).min(1);
        let whole = taken.iter().filter(|piece| piece.len() == PIECE).count();
        assert_eq!((taken.len(), whole), (pieces, pieces - last));
        let rest: Vec<_> = pipe.hand_over(|_, next| core::iter::from_fn(next).collect());
        let lengths: Vec<_> = rest.iter().map(Bytes::len).collect();
        assert_eq!(lengths, expected);
        let is_free = pieces > 0;
        assert_eq!(chunk.is_unique(), is_free, "after {pieces} pieces");
    }
    Ok(())
}

/// The whole window of a deferred request arrives at once.
#[test]
fn a_window_that_arrives_at_once_is_freed_piece_by_piece() {
    let pipe = pipe();
    pipe.arrive(&vec![7; 5 * PIECE + 1]);
    let state = pipe.lock();
    let lengths: Vec<_> = state.arrived.queue.iter().map(Bytes::len).collect();
    assert_eq!((lengths, &state.arrived.joined[..]), (vec![PIECE; 5], &[7][..]));
}

#[test]
fn unused_memory_of_bytes_is_freed_and_nothing_else_is_copied() {
    let long = |length| {
        let mut bytes = vec![7; 1 << 20];
        bytes.truncate(length);
        Bytes::from(bytes)
    };
    let slice = |from, to| long(1 << 20).slice(from..to);
    let (first, middle, last) = (slice(0, 10), slice(10, 20), slice((1 << 20) - 10, 1 << 20));
    for kept in [long(10), long(100_000), first, middle, last] {
        let bytes = without_unused(kept.slice(..));
        // `kept` has the same memory, so it cannot be known.
        assert_eq!(bytes.as_ptr(), kept.as_ptr());
        drop(bytes);
        let (length, address) = (kept.len(), kept.as_ptr());
        let bytes = without_unused(kept);
        assert_ne!(bytes.as_ptr(), address);
        let capacity = bytes.try_into_mut().map(|bytes| bytes.capacity());
        assert_eq!(capacity, Ok(length));
    }
    for kept in [
        long(1 << 19),
        long(1 << 20),
        Bytes::from_static(b"static"),
        Bytes::new(),
    ] {
        let address = kept.as_ptr();
        assert_eq!(without_unused(kept).as_ptr(), address);
    }
}

#[test]
fn a_writer_has_one_chunk_with_more_memory_than_its_bytes() -> Result<(), Error> {
    let (pipe, chunk) = (pipe(), Bytes::from(vec![7; PIECE + 1000]));
    pipe.send(chunk.clone())?;
    let first = pipe.pump(|_, next| next());
    assert!(first.is_some() && !chunk.is_unique());
    pipe.send(Bytes::from(vec![7; PIECE]))?;
    assert!(chunk.is_unique());
    Ok(())
}
