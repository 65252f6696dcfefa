//! A relay between the client and the server of a process that is looked into. It keeps the first
//! message of either side, from which the secrets of the connection can be computed by whoever
//! knows both ephemeral keys.

use core::net::{Ipv4Addr, SocketAddr};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::needles::Handshake;

/// Bytes in a hello and in a welcome of the noise wire.
const HELLO_LENGTH: usize = 74;
const WELCOME_LENGTH: usize = 64;

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
}

impl Relay {
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let handshakes: Arc<Mutex<Vec<Handshake>>> = Arc::default();
        let kept = Arc::clone(&handshakes);
        thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Handshake::default());
                let to_client = client.try_clone().expect("a handle more");
                let from_server = server.try_clone().expect("a handle more");
                let (up, down) = (Arc::clone(&kept), Arc::clone(&kept));
                thread::spawn(move || {
                    pass(client, server, |bytes| {
                        keep(&up, number, bytes, |handshake| (&mut handshake.hello, HELLO_LENGTH));
                    });
                });
                thread::spawn(move || {
                    pass(from_server, to_client, |bytes| {
                        keep(&down, number, bytes, |handshake| {
                            (&mut handshake.welcome, WELCOME_LENGTH)
                        });
                    });
                });
            }
        });
        Self { address, handshakes }
    }

    /// The hellos that have got no answer.
    pub(crate) fn refused_hellos(&self) -> Vec<Vec<u8>> {
        let all = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.into_iter()
            .filter(|handshake| handshake.hello.len() == HELLO_LENGTH && handshake.welcome.is_empty())
            .map(|handshake| handshake.hello)
            .collect()
    }

    /// The handshakes that both sides took part in.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        let all = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.into_iter()
            .filter(|handshake| handshake.welcome.len() == WELCOME_LENGTH)
            .collect()
    }
}

fn keep(
    kept: &Mutex<Vec<Handshake>>,
    number: usize,
    bytes: &[u8],
    place: impl Fn(&mut Handshake) -> (&mut Vec<u8>, usize),
) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let (place, length) = place(&mut kept[number]);
    let missing = length - place.len();
    place.extend(bytes.iter().take(missing));
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut keep: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        keep(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
