//! A half-open connection is dropped or not, depending on whether its bytes are in the socket,
//! read, or not sent.

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use falco_core::Key;
use falco_core::mux::Source;

use super::super::admission::Permit;
use super::prepare;
use crate::Server;
use crate::socket::{SharedSocket, Socket};

/// How long one wait for a socket takes.
const MOMENT: Duration = Duration::from_millis(50);

/// A server with one place, a connection that has it, and the far end of that connection.
fn full() -> Result<(Server, Permit, SharedSocket, TcpStream), Box<dyn core::error::Error>> {
    let server = Server::builder(Key::from_bytes([7; 32])?)
        .max_connections(1)
        .unbound()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let far = TcpStream::connect(listener.local_addr()?)?;
    let socket = SharedSocket::new(Socket::Tcp(listener.accept()?.0));
    let (conn, _) = prepare(&server.service, Box::new(socket.clone()), false)?;
    let admission = &server.service.admission;
    let (permit, _) = admission
        .admit(conn, socket.clone(), Source::NONE)
        .ok_or("there is no place")?;
    Ok((server, permit, socket, far))
}

/// How many connections are dropped for one that waits for a place.
fn dropped(server: &Server) -> usize {
    let shortage = server.service.admission.make_room(Source::NONE);
    shortage.map_or(0, |shortage| shortage.dropped.len())
}

fn until_readable(socket: &SharedSocket) {
    while !socket.wait_readable(Some(MOMENT)) {}
}

#[test]
fn a_connection_that_the_server_waits_for_is_dropped() -> Result<(), Box<dyn core::error::Error>> {
    let (server, permit, _, mut far) = full()?;
    assert!(permit.wait_readable(Some(Duration::ZERO)));
    assert_eq!(dropped(&server), 1);
    assert_eq!(far.read(&mut [0]).map_err(|error| error.kind()), Ok(0));
    Ok(())
}

#[test]
fn a_connection_is_not_dropped_while_its_bytes_lie_in_the_socket() -> Result<(), Box<dyn core::error::Error>> {
    let (server, permit, socket, mut far) = full()?;
    assert!(permit.wait_readable(Some(Duration::ZERO)));
    far.write_all(b"a hello")?;
    until_readable(&socket);
    assert_eq!(dropped(&server), 0);
    Ok(())
}

#[test]
fn a_connection_is_not_dropped_while_its_thread_has_read_and_not_decrypted() -> Result<(), Box<dyn core::error::Error>>
{
    let (server, permit, mut socket, mut far) = full()?;
    assert!(permit.wait_readable(Some(Duration::ZERO)));
    far.write_all(b"a hello")?;
    until_readable(&socket);
    assert!(permit.wait_readable(None));
    socket.read_exact(&mut [0; 7])?;
    assert_eq!(dropped(&server), 0);
    Ok(())
}

#[test]
fn a_thread_that_waits_learns_that_its_connection_was_dropped() -> Result<(), Box<dyn core::error::Error>> {
    let (server, permit, _, _far) = full()?;
    let waits = thread::scope(|scope| {
        let reading = scope.spawn(move || permit.wait_readable(None));
        while dropped(&server) == 0 {
            thread::yield_now();
        }
        reading.join()
    });
    assert!(!waits.expect("it does not panic"));
    let admission = &server.service.admission;
    assert!(admission.make_room(Source::NONE).is_none(), "its place is free");
    assert_eq!(admission.stats().half_open_dropped, 1);
    Ok(())
}
