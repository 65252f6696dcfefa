//! What a connection needs of a stream of bytes: reading, writing, timeouts for both, and an end.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;

use crate::peek;

/// A stream of bytes in both directions. [`TcpStream`] and `UnixStream` implement it, and
/// [`Blocking`] implements it for anything that reads and writes.
pub trait Stream: Read + Write {
    /// Sets the timeout of reads. A read that has waited this long fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut). `None`
    /// sets no limit. The duration is never zero.
    ///
    /// # Errors
    /// Those of the operating system. They end the connection.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Sets the timeout of writes that make no progress, in the same way. It also applies to
    /// [`flush`](Write::flush). A write or a flush that has timed out is called again.
    ///
    /// # Errors
    /// Those of the operating system. They end the connection.
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Shuts down one direction or both, also for other handles of the stream. It may be called
    /// more than once.
    ///
    /// # Errors
    /// Those of the operating system. They are ignored.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// Reads what has already arrived, without waiting. `Ok(0)` is the end of the stream.
    ///
    /// A client that reads on its callers' threads calls this before it sends, so that it does not
    /// send to a server that is gone. The default implementation returns
    /// [`WouldBlock`](io::ErrorKind::WouldBlock), which is correct for a stream that cannot tell.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) if nothing has arrived. Other errors end the
    /// connection.
    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let _ = buf;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether a read would return without waiting, with bytes, the end of the stream, or an error.
    ///
    /// A client calls this before it sends on a connection on which nothing has arrived for a
    /// while. A server calls it before it drops a half-open connection for another. Other threads
    /// wait meanwhile, so it must not wait for a read or a write of another handle. The default
    /// implementation returns `false`, which is correct for a stream that cannot tell.
    fn is_readable(&self) -> bool {
        false
    }

    /// Returns another handle of the same stream, so that one thread can read while another writes.
    /// Timeouts and shutdowns apply to all handles.
    ///
    /// The default implementation returns `None`: the stream does not split. Then one thread at a
    /// time uses the stream, and requests go one after another.
    ///
    /// # Errors
    /// Those of the operating system.
    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(None)
    }
}

/// A stream of any kind.
pub type BoxedStream = Box<dyn Stream + Send>;

impl Stream for TcpStream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Self::set_read_timeout(self, timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Self::set_write_timeout(self, timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        Self::shutdown(self, how)
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        peek::read_now(self, buf)
    }

    fn is_readable(&self) -> bool {
        peek::is_readable(self)
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(Some(Box::new(self.try_clone()?)))
    }
}

#[cfg(unix)]
impl Stream for UnixStream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Self::set_read_timeout(self, timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Self::set_write_timeout(self, timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        Self::shutdown(self, how)
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        peek::read_now(self, buf)
    }

    fn is_readable(&self) -> bool {
        peek::is_readable(self)
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(Some(Box::new(self.try_clone()?)))
    }
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        (**self).set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        (**self).set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        (**self).shutdown(how)
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read_ready(buf)
    }

    fn is_readable(&self) -> bool {
        (**self).is_readable()
    }

    fn split(&self) -> io::Result<Option<BoxedStream>> {
        (**self).split()
    }
}

/// Adapts anything that reads and writes, such as a pipe, a serial line or a tunnel, to a
/// [`Stream`] without timeouts.
///
/// Deadlines of the protocol and time limits of requests take effect only when a read or a write
/// returns. If you need them on time, implement [`Stream`]. The stream ends when it is dropped.
///
/// ```
/// use std::io::{Read, Write};
/// # struct Serial;
/// # impl Read for Serial { fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> { Ok(0) } }
/// # impl Write for Serial {
/// #     fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> { Ok(buf.len()) }
/// #     fn flush(&mut self) -> std::io::Result<()> { Ok(()) }
/// # }
/// # fn dial() -> Serial { Serial }
/// use falco_std::{Blocking, Client, ConnectionError, Error};
///
/// let stream = Blocking(dial()); // anything that is `Read + Write`
/// let client = Client::builder(falco_std::generate_key()?).over(stream);
/// # // It ends at once.
/// # assert!(matches!(client, Err(Error::Connection { end: ConnectionError::Refused, .. })));
/// # Ok::<(), falco_std::KeyError>(())
/// ```
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "it wraps one public field, which users set")]
pub struct Blocking<T>(pub T);

impl<T: Read> Read for Blocking<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<T: Write> Write for Blocking<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<T: Read + Write> Stream for Blocking<T> {
    fn set_read_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    /// Fails: the stream ends when it is dropped.
    fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
