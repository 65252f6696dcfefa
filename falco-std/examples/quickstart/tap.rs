//! Stands between client and server, and prints each record before it passes it on. It has no key.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub(crate) struct Tap {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    quiet: AtomicBool,
    /// What the first client has sent.
    recorded: Mutex<Vec<u8>>,
}

impl Tap {
    pub(crate) fn before(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, seen) = (listener.local_addr()?, Arc::new(Seen::default()));
        let own = Arc::clone(&seen);
        thread::spawn(move || -> io::Result<()> {
            loop {
                let (client, _) = listener.accept()?;
                let number = own.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let server = TcpStream::connect(server)?;
                let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
                let (one, other) = (Arc::clone(&own), Arc::clone(&own));
                thread::spawn(move || pass_on(from_client, to_server, true, number, &one));
                thread::spawn(move || pass_on(server, client, false, number, &other));
            }
        });
        Ok(Self { address, seen })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Prints nothing for a while.
    pub(crate) fn quiet(&self, quiet: bool) {
        self.seen.quiet.store(quiet, Ordering::SeqCst);
    }

    pub(crate) fn recorded(&self) -> Vec<u8> {
        self.seen
            .recorded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, client: bool, connection: usize, seen: &Seen) {
    let arrow = if client { "client -> server" } else { "server -> client" };
    let mut records = 0;
    while let Ok((record, what)) = read_record(&mut from, client, records == 0) {
        records += 1;
        if !seen.quiet.load(Ordering::SeqCst) {
            println!("   {connection}: {arrow} {:>5} bytes: {what}", record.len());
        }
        if client && connection == 1 {
            let mut recorded = seen.recorded.lock().unwrap_or_else(PoisonError::into_inner);
            recorded.extend_from_slice(&record);
        }
        if to.write_all(&record).is_err() {
            break;
        }
    }
    println!("   {connection}: {arrow}  end of the stream");
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads one record. Only its length is in clear: what and how much is in it, an eavesdropper can
/// at best guess.
fn read_record(from: &mut TcpStream, client: bool, first: bool) -> io::Result<(Vec<u8>, String)> {
    let mut record = vec![
        0;
        if !first {
            2
        } else if client {
            74
        } else {
            64
        }
    ];
    from.read_exact(&mut record)?;
    if first {
        let what = if client {
            "hello = wire 4e, version 01, key id 8, ephemeral 32, settings 16, tag 16"
        } else {
            "welcome = ephemeral 32, settings 16, tag 16"
        };
        return Ok((record, what.to_owned()));
    }
    let length = record.first_chunk().map_or(0, |length| u16::from_be_bytes(*length));
    record.resize(2 + usize::from(length), 0);
    from.read_exact(record.get_mut(2..).unwrap_or_default())?;
    Ok((
        record,
        format!("record = length 2, frames {}, tag 16", length.saturating_sub(16)),
    ))
}
