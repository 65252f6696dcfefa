//! What a connection needs of a stream of bytes: reading, writing, time limits on both, and an end.
//! No protocol is in here.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;

use crate::peek;

/// A stream of bytes both ways that a connection may run over. [`TcpStream`] and `UnixStream` are
/// such; [`Blocking`] makes one of anything that reads and writes.
pub trait Stream: Read + Write {
    /// From now on a read that has waited this long fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut). `None`
    /// waits for ever; the duration is never zero.
    ///
    /// # Errors
    /// Those of the operating system; the connection then ends.
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// The same for a write that makes no progress.
    ///
    /// # Errors
    /// Those of the operating system; the connection then ends.
    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;

    /// Ends one half or both. Ending twice does no harm.
    ///
    /// # Errors
    /// Those of the operating system; they are ignored.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;

    /// Reads what has already come, without waiting. `Ok(0)` is the end of the stream.
    ///
    /// A client asks this before it sends, so that it does not send to a server that has gone. A
    /// stream that cannot tell says [`WouldBlock`](io::ErrorKind::WouldBlock), which is what this
    /// does unless it is overridden.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) where nothing has come; others mean that the
    /// stream is broken.
    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let _ = buf;
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether something can be read without waiting: bytes, the end of the stream, or an error. A
    /// client asks this before it sends on a connection that has heard nothing for a while, a
    /// server before it drops a connection that is late. A stream that cannot tell says `false`,
    /// which is what this does unless it is overridden.
    fn is_readable(&self) -> bool {
        false
    }

    /// A second handle on the same stream, so that one thread may read while another writes; time
    /// limits and ends set by one hold for both. A stream that has none says `None`, which is what
    /// this does unless it is overridden: requests over it then go one after another.
    ///
    /// # Errors
    /// Those of the operating system.
    fn split(&self) -> io::Result<Option<BoxedStream>> {
        Ok(None)
    }
}

/// A stream of whatever kind.
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

/// Any stream that reads and writes, without time limits: a pipe, a serial line, a tunnel.
///
/// The protocol's deadlines are then acted on when a read or a write comes back, and not before:
/// who needs them on time implements [`Stream`]. The stream ends when it is dropped.
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
/// # // This one ends at once.
/// # assert!(matches!(client, Err(Error::Connection { end: ConnectionError::Refused, .. })));
/// # Ok::<(), falco_std::KeyError>(())
/// ```
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "it is its one field, and is made by naming it")]
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

    /// There is no way to end one direction of it: whoever wants an end drops it.
    fn shutdown(&self, _how: Shutdown) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
