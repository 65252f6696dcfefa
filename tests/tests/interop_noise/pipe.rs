//! A socket from which a thread reads all that arrives, so that two sides that write never wait for
//! each other. Both sides of the tests use it; nothing of the protocol is here.

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use super::PATIENCE;

pub(super) struct Pipe {
    stream: TcpStream,
    incoming: Receiver<Vec<u8>>,
}

/// The result of waiting for bytes.
pub(super) enum Came {
    Bytes(Vec<u8>),
    /// The time is over.
    Nothing,
    /// The stream is.
    End,
}

impl Pipe {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket takes the option");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("a socket takes a timeout");
        let mut reader = stream.try_clone().expect("a second handle");
        let (to, incoming) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if to.send(buffer.iter().take(count).copied().collect()).is_err() {
                    break;
                }
            }
        });
        Self { stream, incoming }
    }

    /// A peer that is gone is noticed by reading.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(super) fn read(&self, patience: Duration) -> Came {
        match self.incoming.recv_timeout(patience) {
            Ok(bytes) => Came::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => Came::Nothing,
            Err(RecvTimeoutError::Disconnected) => Came::End,
        }
    }

    /// Exactly `count` bytes, or what came before the end of the stream.
    pub(super) fn read_exactly(&self, count: usize, unread: &mut Vec<u8>) -> Vec<u8> {
        while unread.len() < count {
            let Came::Bytes(bytes) = self.read(PATIENCE) else {
                return core::mem::take(unread);
            };
            unread.extend(bytes);
        }
        unread.drain(..count).collect()
    }

    pub(super) fn end_sending(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The reading thread ends with the stream.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
