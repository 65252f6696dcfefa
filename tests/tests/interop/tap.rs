//! A relay between a client and a server of the tests, which records what the client sends. It may
//! split the stream differently, so tests with large messages do not use it.

use core::net::{Ipv4Addr, SocketAddr};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Relays connections until the test process ends.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let sent: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let kept = Arc::clone(&sent);
        thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let server = TcpStream::connect(server).expect("the server listens");
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(Vec::new());
                let (to_client, from_server) = (
                    client.try_clone().expect("a handle more"),
                    server.try_clone().expect("a handle more"),
                );
                let kept = Arc::clone(&kept);
                thread::spawn(move || {
                    relay(client, server, |bytes| {
                        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.get_mut(number).expect("it was added").extend_from_slice(bytes);
                    });
                });
                thread::spawn(move || relay(from_server, to_client, |_| {}));
            }
        });
        Self { address, sent }
    }

    /// What the client has sent on each connection.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut keep: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..count).unwrap_or_default();
        keep(bytes);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
