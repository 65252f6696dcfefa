//! Sockets of both kinds under one type, and handles on one socket for several threads. One file descriptor each, however many handles.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

#[cfg(unix)]
use rustix::event::{PollFd, PollFlags, Timespec};
#[cfg(unix)]
use rustix::net::RecvFlags;

use crate::stream::{BoxedStream, Stream};

/// A connected socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// A socket that several threads use at once.
#[derive(Debug)]
pub(crate) struct Shared(Arc<Socket>);

impl Shared {
    pub(crate) fn new(socket: Socket) -> Self {
        Self(Arc::new(socket))
    }
}

impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Tcp(stream) => (&*stream).read(buf),
            #[cfg(unix)]
            Socket::Unix(stream) => (&*stream).read(buf),
        }
    }
}

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Tcp(stream) => (&*stream).write(buf),
            #[cfg(unix)]
            Socket::Unix(stream) => (&*stream).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Shared {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &*self.0 {
            Socket::Tcp(stream) => stream.set_read_timeout(timeout),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match &*self.0 {
            Socket::Tcp(stream) => stream.set_write_timeout(timeout),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &*self.0 {
            Socket::Tcp(stream) => stream.shutdown(how),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.shutdown(how),
        }
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Tcp(stream) => read_now(stream, buf),
            #[cfg(unix)]
            Socket::Unix(stream) => read_now(stream, buf),
        }
    }

    fn lies_unread(&self) -> bool {
        match &*self.0 {
            Socket::Tcp(stream) => lies_unread(stream),
            #[cfg(unix)]
            Socket::Unix(stream) => lies_unread(stream),
        }
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(Some(Box::new(Self(Arc::clone(&self.0)))))
    }
}

/// Reads what lies in the socket, without waiting, and without a word to whoever else uses it.
#[cfg(unix)]
pub(crate) fn read_now(socket: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    let (_, count) = rustix::net::recv(socket, buf, RecvFlags::DONTWAIT)?;
    Ok(count)
}

/// Whether bytes, an end or an error lie in the socket.
#[cfg(unix)]
pub(crate) fn lies_unread(socket: impl AsFd) -> bool {
    // A peek would take the error away from whoever reads.
    let mut asked = [PollFd::new(&socket, PollFlags::IN)];
    rustix::event::poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Reads what lies in the socket, without waiting. Nobody else may use it meanwhile.
#[cfg(not(unix))]
pub(crate) fn read_now(mut socket: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
    socket.set_nonblocking(true)?;
    let read = socket.read(buf);
    socket.set_nonblocking(false)?;
    read
}

/// There is no way to tell that disturbs nobody.
#[cfg(not(unix))]
pub(crate) fn lies_unread(_: &TcpStream) -> bool {
    false
}

/// A stream that cannot be split, behind several handles that one thread uses in turn.
pub(crate) struct Whole(Arc<Mutex<BoxedStream>>);

impl Whole {
    pub(crate) fn new(stream: BoxedStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    pub(crate) fn again(&self) -> BoxedStream {
        Box::new(Self(Arc::clone(&self.0)))
    }

    fn with<T>(&self, call: impl FnOnce(&mut BoxedStream) -> T) -> T {
        // The stream's own panics leave it as broken as they found it.
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Read for Whole {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|stream| stream.read(buf))
    }
}

impl Write for Whole {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.with(|stream| stream.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.with(Write::flush)
    }
}

impl Stream for Whole {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.with(|stream| stream.set_read_timeout(timeout))
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.with(|stream| stream.set_write_timeout(timeout))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // Whoever is reading or writing notices the end by itself: nobody waits for it here.
        match self.0.try_lock() {
            Ok(stream) => stream.shutdown(how),
            Err(TryLockError::Poisoned(stream)) => stream.into_inner().shutdown(how),
            Err(TryLockError::WouldBlock) => Ok(()),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_look_leaves_a_reset_to_whoever_reads() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        assert!(!lies_unread(&near));
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO))?;
        drop(far);
        while !lies_unread(&near) {
            thread::yield_now();
        }
        let read = near.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(io::ErrorKind::ConnectionReset));
        Ok(())
    }
}
