//! TCP and Unix sockets under one type, and handles of one stream for several threads. All handles
//! of a stream share one file descriptor.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::peek::{is_readable, read, read_now, wait_readable, write};
use crate::stream::{BoxedStream, Stream};

/// A connected socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// A socket that several threads use at once. Clones are handles of the same socket.
#[derive(Clone, Debug)]
pub(crate) struct SharedSocket(Arc<Socket>);

impl SharedSocket {
    pub(crate) fn new(socket: Socket) -> Self {
        Self(Arc::new(socket))
    }

    /// A small answer must not wait for the acknowledgement of the one before. If this fails, the
    /// connection is slower.
    pub(crate) fn set_nodelay(&self) {
        let _ = match &*self.0 {
            Socket::Tcp(stream) => stream.set_nodelay(true),
            #[cfg(unix)]
            Socket::Unix(_) => Ok(()),
        };
    }

    /// Waits until a read would not wait, for `limit` at most, and reads nothing. Returns `false`
    /// if the limit has passed. On systems that cannot wait in this way, returns `false` at once.
    pub(crate) fn wait_readable(&self, limit: Option<Duration>) -> bool {
        match &*self.0 {
            Socket::Tcp(stream) => wait_readable(stream, limit),
            #[cfg(unix)]
            Socket::Unix(stream) => wait_readable(stream, limit),
        }
    }
}

#[cfg(unix)]
impl AsFd for SharedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.0 {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for SharedSocket {
    /// On Unix without the cancellation point of the C library, which costs time in a process with
    /// several threads.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Tcp(stream) => read(stream, buf),
            #[cfg(unix)]
            Socket::Unix(stream) => read(stream, buf),
        }
    }
}

impl Write for SharedSocket {
    /// As [`read`](Read::read).
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Tcp(stream) => write(stream, buf),
            #[cfg(unix)]
            Socket::Unix(stream) => write(stream, buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for SharedSocket {
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

    fn is_readable(&self) -> bool {
        match &*self.0 {
            Socket::Tcp(stream) => is_readable(stream),
            #[cfg(unix)]
            Socket::Unix(stream) => is_readable(stream),
        }
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(Some(Box::new(Self(Arc::clone(&self.0)))))
    }
}

/// A stream that is used by one thread at a time, behind several handles.
pub(crate) struct LockedStream(Arc<Mutex<BoxedStream>>);

impl LockedStream {
    pub(crate) fn new(stream: BoxedStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    pub(crate) fn handle(&self) -> BoxedStream {
        Box::new(Self(Arc::clone(&self.0)))
    }

    fn lock(&self) -> MutexGuard<'_, BoxedStream> {
        // A panic of the stream ends the connection.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None while another thread is using the stream.
    fn try_lock(&self) -> Option<MutexGuard<'_, BoxedStream>> {
        match self.0.try_lock() {
            Ok(stream) => Some(stream),
            Err(TryLockError::Poisoned(stream)) => Some(stream.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Read for LockedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.lock().read(buf)
    }
}

impl Write for LockedStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.lock().write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

impl Stream for LockedStream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.lock().set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.lock().set_write_timeout(timeout)
    }

    /// Does nothing while another thread is using the stream: that thread ends it when its read or
    /// write returns.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.try_lock().map_or(Ok(()), |stream| stream.shutdown(how))
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.lock().read_ready(buf)
    }

    fn is_readable(&self) -> bool {
        self.try_lock().is_some_and(|stream| stream.is_readable())
    }
}
