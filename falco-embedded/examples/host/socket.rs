//! A socket as an `embedded-io` stream with `ReadReady` and `WriteReady`, and a clock. On a device
//! the board's crate provides both.

use core::cell::Cell;
use core::time::Duration;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time;

use embedded_io::{ErrorType, Read, ReadReady, Write, WriteReady};
use falco_core::Instant;
use falco_embedded::Clock;

/// A non-blocking socket.
pub(crate) struct Socket {
    stream: TcpStream,
    /// The last write found it full.
    full: Cell<bool>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            full: Cell::new(false),
        })
    }
}

impl ErrorType for Socket {
    type Error = io::Error;
}

impl Read for Socket {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.stream.read(to)
    }
}

impl ReadReady for Socket {
    fn read_ready(&mut self) -> io::Result<bool> {
        match self.stream.peek(&mut [0]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            // Nothing was written. The driver tries again.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.full.set(true);
                Ok(0)
            }
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl WriteReady for Socket {
    fn write_ready(&mut self) -> io::Result<bool> {
        // The standard library cannot tell. After a write that found it full, try again later.
        Ok(!self.full.take())
    }
}

/// The time since the start.
pub(crate) struct StdClock(time::Instant);

impl StdClock {
    pub(crate) fn start() -> Self {
        Self(time::Instant::now())
    }
}

impl Clock for StdClock {
    fn now(&self) -> Instant {
        Instant::from_millis(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn rest(&self, _until: Option<Instant>) {
        // Firmware sleeps until the next interrupt here.
        thread::sleep(Duration::from_micros(200));
    }
}
