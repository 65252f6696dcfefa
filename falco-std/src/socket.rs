//! Sockets of both kinds under one type, and handles on one socket for several threads. One file
//! descriptor each, however many handles.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::peek::{lies_unread, read_now};
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
