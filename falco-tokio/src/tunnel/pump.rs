//! Reading a socket into chunks, and writing them. A socket that is idle has no buffer.

use core::cell::RefCell;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use bytes::{Buf, Bytes};
use falco_core::mux::LONGEST_PART;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::idle::Idle;

/// Bytes of the length in front of a piece.
pub(super) const HEADER: usize = 4;
/// Bytes of the longest chunk with its header. It fits into one record.
const CHUNK: usize = LONGEST_PART;
/// A chunk of at least this length is sent from the buffer that it was read into. Shorter ones are
/// copied, so that few bytes do not keep a large buffer.
const WORTH_KEEPING: usize = CHUNK / 4 * 3;

thread_local! {
    /// The buffer for the next read of this thread.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads what there is, after `header` bytes that have its length if `header` is not 0. `None` at
/// the end.
pub(super) async fn read_chunk(from: &mut (impl AsyncRead + Unpin), header: usize) -> io::Result<Option<Bytes>> {
    poll_fn(|cx| poll_chunk(from, header, cx)).await
}

/// Writes all of `bytes`.
pub(super) async fn write_chunk(to: &mut (impl AsyncWrite + Unpin), mut bytes: Bytes, idle: &Idle) -> io::Result<()> {
    idle.note();
    while !bytes.is_empty() {
        let count = to.write(&bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes.advance(count);
        idle.note();
    }
    Ok(())
}

fn poll_chunk(
    from: &mut (impl AsyncRead + Unpin),
    header: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<Bytes>>> {
    let mut buffer = BUFFER.take();
    buffer.resize(CHUNK, 0);
    let polled = poll_into(from, header, &mut buffer, cx);
    let Poll::Ready(Ok(length @ 1..)) = polled else {
        BUFFER.set(buffer);
        ready!(polled)?;
        return Poll::Ready(Ok(None));
    };
    let end = header + length;
    if let Some(place) = buffer.first_chunk_mut().filter(|_| header > 0) {
        *place = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    }
    let chunk = if length < WORTH_KEEPING {
        let chunk = Bytes::copy_from_slice(buffer.get(..end).unwrap_or_default());
        BUFFER.set(buffer);
        chunk
    } else {
        buffer.truncate(end);
        Bytes::from(buffer)
    };
    Poll::Ready(Ok(Some(chunk)))
}

fn poll_into(
    from: &mut (impl AsyncRead + Unpin),
    header: usize,
    buffer: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let room = buffer.get_mut(header..).unwrap_or_default();
    let mut read = ReadBuf::new(room);
    ready!(Pin::new(from).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If it were longer, each chunk of a stream at full speed would take a second, short record.
    #[tokio::test]
    async fn the_longest_chunk_fits_into_a_record_with_its_header() -> io::Result<()> {
        for header in [0, HEADER] {
            let mut from = &*vec![7; 1 << 20];
            let chunk = read_chunk(&mut from, header).await?.unwrap_or_default();
            assert_eq!(chunk.len(), LONGEST_PART);
            let length = u32::try_from(LONGEST_PART - header).map(u32::to_be_bytes);
            assert!(header == 0 || chunk.first_chunk() == length.as_ref().ok());
        }
        Ok(())
    }
}
