//! Reading and writing sockets, and whether one is readable.

use core::time::Duration;
use std::io;
#[cfg(not(unix))]
use std::io::{Read as _, Write as _};
#[cfg(not(unix))]
use std::net::TcpStream;
#[cfg(unix)]
use std::os::fd::AsFd;

#[cfg(unix)]
use rustix::event::{PollFd, PollFlags, Timespec};
#[cfg(unix)]
use rustix::net::{RecvFlags, SendFlags};

/// Waits for bytes and reads them.
#[cfg(unix)]
pub(crate) fn read(socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(socket, buf, RecvFlags::empty())?;
    Ok(count)
}

/// Waits until the socket accepts some bytes.
#[cfg(unix)]
pub(crate) fn write(socket: impl AsFd, buf: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, buf, NO_SIGNAL)?)
}

/// A write on a broken stream is an error, and raises no signal. The standard library sets an
/// option of the socket instead where this flag does not exist.
#[cfg(all(unix, not(target_vendor = "apple")))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(all(unix, target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Reads what has arrived, without waiting and without an effect on other threads that use the
/// socket.
#[cfg(unix)]
pub(crate) fn read_now(socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(socket, buf, RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// Whether bytes, the end of the stream or an error can be read without waiting.
#[cfg(unix)]
pub(crate) fn is_readable(socket: impl AsFd) -> bool {
    wait_readable(socket, Some(Duration::ZERO))
}

/// Waits until [`is_readable`] holds, for `limit` at most. Returns whether it does. A signal may
/// end the wait early.
#[cfg(unix)]
pub(crate) fn wait_readable(socket: impl AsFd, limit: Option<Duration>) -> bool {
    // A read with `MSG_PEEK` would clear a pending error, which the thread that reads has to see.
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    // A limit that is too long for the system counts as no limit.
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    rustix::event::poll(&mut polled, limit.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Waits for bytes and reads them.
#[cfg(not(unix))]
pub(crate) fn read(mut socket: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    socket.read(buf)
}

/// Waits until the socket accepts some bytes.
#[cfg(not(unix))]
pub(crate) fn write(mut socket: &TcpStream, buf: &[u8]) -> io::Result<usize> {
    socket.write(buf)
}

/// Reads what has arrived, without waiting. No other thread may use the socket meanwhile.
#[cfg(not(unix))]
pub(crate) fn read_now(mut socket: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    socket.set_nonblocking(true)?;
    let read = socket.read(buf);
    socket.set_nonblocking(false)?;
    read
}

/// Not supported here: a check would affect other threads that use the socket.
#[cfg(not(unix))]
pub(crate) fn is_readable(_: &TcpStream) -> bool {
    false
}

/// Returns at once, because another thread could not end the wait.
#[cfg(not(unix))]
pub(crate) fn wait_readable(_: &TcpStream, _: Option<Duration>) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    #[test]
    fn checking_a_socket_leaves_its_error_to_the_next_read() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        assert!(!is_readable(&near));
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
        drop(far);
        while !is_readable(&near) {
            thread::yield_now();
        }
        let read = near.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
        Ok(())
    }
}
