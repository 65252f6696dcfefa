//! From the welcome to the first PING, with real cryptography: what the first record may be, that a
//! replayed hello is of no use, and that nothing moves the deadline.

use crate::common::noise::first_ping;
use crate::common::{assert_ended, ms, pending_output};
use falco_core::testing::{
    CountingRng, NoiseTestClient, NoiseTestServer, RawHandshake, RawPeer, RecvBytes, noise_client, noise_server,
    raw_frame,
};
use falco_core::{
    ClientConnection, ClientEvent, ConnectionError, Fate, Received, RustCrypto, ServerConnection, ServerEvent,
    ServerWait, Settings, Status,
};

type Server<'k> = ServerConnection<&'k NoiseTestServer>;
type Client<'k> = ClientConnection<&'k NoiseTestClient>;

fn server(keys: &NoiseTestServer) -> Server<'_> {
    ServerConnection::new(keys, &Settings::new(), ms(0), &mut CountingRng::new(1)).unwrap()
}

fn client(keys: &NoiseTestClient) -> Client<'_> {
    ClientConnection::new(keys, &Settings::new(), ms(0), &mut CountingRng::new(2)).unwrap()
}

fn honest() -> RawHandshake<RustCrypto> {
    RawHandshake::new(RustCrypto, 7)
}

/// A server that has sent its welcome, and the peer that sent the hello.
fn welcomed(keys: &NoiseTestServer) -> (Server<'_>, RawPeer<RustCrypto>) {
    let mut machine = server(keys);
    assert_eq!(
        machine.recv_bytes(ms(1), &mut honest().hello()),
        Ok((74, Received::Skip))
    );
    let welcome = pending_output(&mut machine, ms(1));
    assert_eq!(welcome.len(), 64);
    let raw = honest().client(&welcome).unwrap();
    (machine, raw)
}

#[test]
fn a_first_record_other_than_one_ping_ends_the_connection_without_a_close() {
    let ping = first_ping();
    let mut longer = raw_frame(6, 0, &[0; 9]);
    longer.truncate(15);
    let mut shorter = raw_frame(6, 0, &[0; 7]);
    shorter.push(0);
    for (what, frames) in [
        ("a message", raw_frame(1, 1, b"12345678")),
        ("a pong", raw_frame(7, 0, &[0; 8])),
        ("a close", raw_frame(8, 0, &[0])),
        ("a ping of a request", raw_frame(6, 1, &[0; 8])),
        ("a ping too short", raw_frame(6, 0, &[0; 7])),
        ("a ping that claims more than there is", longer),
        ("a ping that claims less than there is", shorter),
        ("a skipped frame and nothing", raw_frame(200, 0, b"12345678")),
        ("an empty frame", raw_frame(200, 0, b"")),
        (
            "two frames as long as a ping",
            [raw_frame(200, 0, b"1"), raw_frame(200, 0, b"")].concat(),
        ),
    ] {
        let keys = noise_server(7);
        let (mut machine, mut raw) = welcomed(&keys);
        let mut record = raw.seal(&frames);
        let received = machine.recv_bytes(ms(2), &mut record);
        assert_eq!(received, Err(ConnectionError::Protocol), "{what}");
        assert_ended(&mut machine, ms(2), ConnectionError::Protocol);
    }
    // A longer one is refused by its length, even if it starts with a PING.
    let keys = noise_server(7);
    let (mut machine, mut raw) = welcomed(&keys);
    let record = raw.seal(&[ping, raw_frame(1, 1, b"")].concat());
    let end = ConnectionError::FrameLength {
        length: 38,
        min: 23,
        max: 31,
    };
    assert_eq!(machine.recv_bytes(ms(2), &mut record[..2].to_vec()), Err(end));
    assert_ended(&mut machine, ms(2), end);
}

#[test]
fn requests_may_follow_the_first_ping_in_the_same_write_and_none_is_read_before_it_is_answered() {
    let keys = noise_server(7);
    let (mut machine, mut raw) = welcomed(&keys);
    assert_eq!(machine.key_id(), None, "it has not proved that it has the key");
    assert_eq!(machine.status(), Status::Handshaking);
    let mut both = [raw.seal(&first_ping()), raw.seal(&raw_frame(1, 1, b"hello"))].concat();
    let established = (33, Received::Event(ServerEvent::Established));
    assert_eq!(machine.recv_bytes(ms(2), &mut both), Ok(established));
    assert_eq!(machine.key_id().unwrap().as_bytes()[..], honest().clear[2..]);
    // Not before the PING is answered: a client that has received nothing relies on that.
    for _ in 0..2 {
        assert_eq!(
            machine.recv_bytes(ms(2), &mut both[33..]),
            Ok((0, Received::Wait(ServerWait::TransmitFirst)))
        );
    }
    assert_eq!(
        raw.open(&mut pending_output(&mut machine, ms(2))),
        Some(raw_frame(7, 0, &first_ping()[7..]))
    );
    let received = machine.recv_bytes(ms(2), &mut both[33..]);
    assert!(matches!(
        received,
        Ok((_, Received::Event(ServerEvent::Request { .. })))
    ));
}

#[test]
fn a_replayed_hello_receives_a_welcome_reaches_no_handler_and_ends_at_the_deadline() {
    let (server_keys, client_keys) = (noise_server(7), noise_client(7));
    // Record what a real client sends.
    let mut real = client(&client_keys);
    let mut first = server(&server_keys);
    let hello = pending_output(&mut real, ms(0));
    first.recv_bytes(ms(0), &mut hello.clone()).unwrap();
    real.recv_bytes(ms(0), &mut pending_output(&mut first, ms(0))).unwrap();
    let mut request = real.request(5).unwrap();
    let mut out = vec![0; 500];
    let length = real.seal(ms(0), [(&mut request, &b"hello"[..])], &mut out).unwrap();
    let recorded = &out[..length];
    assert!(first.recv_bytes(ms(0), &mut recorded.to_vec()).is_ok());
    // Replay it to a server with other entropy.
    let mut again = ServerConnection::new(&server_keys, &Settings::new(), ms(0), &mut CountingRng::new(99)).unwrap();
    again.recv_bytes(ms(0), &mut hello.clone()).unwrap();
    assert_eq!(pending_output(&mut again, ms(0)).len(), 64);
    assert_eq!(
        again.recv_bytes(ms(0), &mut recorded.to_vec()),
        Err(ConnectionError::Tampered)
    );
    assert_ended(&mut again, ms(0), ConnectionError::Tampered);
    let mut quiet = ServerConnection::new(&server_keys, &Settings::new(), ms(0), &mut CountingRng::new(98)).unwrap();
    quiet.recv_bytes(ms(0), &mut hello.clone()).unwrap();
    pending_output(&mut quiet, ms(0));
    assert_eq!(quiet.handle_timeout(ms(4_999)), Ok(()));
    assert_eq!(quiet.handle_timeout(ms(5_000)), Err(ConnectionError::HandshakeTimeout));
    assert_ended(&mut quiet, ms(5_000), ConnectionError::HandshakeTimeout);
}

#[test]
fn nothing_moves_the_handshake_deadline() {
    let keys = noise_server(7);
    let deadline = Some(ms(5_000));
    let mut machine = server(&keys);
    let mut hello = honest().hello();
    for length in [1, 2, 73] {
        machine.recv_bytes(ms(1_000), &mut hello[..length]).unwrap();
        assert_eq!(machine.poll_timeout(), deadline);
    }
    machine.recv_bytes(ms(4_000), &mut hello).unwrap();
    assert_eq!(machine.poll_timeout(), deadline);
    let raw_welcome = pending_output(&mut machine, ms(4_500));
    assert_eq!(machine.poll_timeout(), deadline);
    let mut raw = honest().client(&raw_welcome).unwrap();
    let mut ping = raw.seal(&first_ping());
    machine.recv_bytes(ms(4_999), &mut ping[..32]).unwrap();
    assert_eq!(machine.poll_timeout(), deadline);
    machine.recv_bytes(ms(4_999), &mut ping).unwrap();
    assert_eq!(machine.poll_timeout(), Some(ms(64_999)));

    let keys = noise_client(7);
    let mut machine = client(&keys);
    let hello = pending_output(&mut machine, ms(3_000));
    assert_eq!(machine.poll_timeout(), deadline);
    let _ = machine.ping();
    let (mut welcome, _) = honest().server(&hello).unwrap();
    machine.recv_bytes(ms(4_000), &mut welcome[..63]).unwrap();
    assert_eq!(
        (pending_output(&mut machine, ms(4_000)), machine.poll_timeout()),
        (vec![], deadline)
    );
    assert_eq!(machine.handle_timeout(ms(4_999)), Ok(()));
    let established = (64, Received::Event(ClientEvent::Established));
    assert_eq!(machine.recv_bytes(ms(4_999), &mut welcome), Ok(established));
    let mut late = client(&keys);
    let (mut welcome, _) = honest().server(&pending_output(&mut late, ms(0))).unwrap();
    assert_eq!(
        late.recv_bytes(ms(5_000), &mut welcome),
        Err(ConnectionError::HandshakeTimeout)
    );
    assert_ended(&mut late, ms(5_000), ConnectionError::HandshakeTimeout);
}

#[test]
fn the_end_of_the_stream_before_the_welcome_is_a_refused_handshake() {
    let keys = noise_client(7);
    for cut in [0, 1, 63] {
        let mut machine = client(&keys);
        let (welcome, _) = honest().server(&pending_output(&mut machine, ms(0))).unwrap();
        assert_eq!(
            machine.end_of_stream(ms(1), &welcome[..cut]),
            Err(ConnectionError::Refused)
        );
        assert_ended(&mut machine, ms(1), ConnectionError::Refused);
    }
}

#[test]
fn a_stream_that_ends_without_a_byte_after_the_welcome_has_processed_nothing_and_no_other() {
    let keys = noise_client(7);
    // How much of the record with the PONG has arrived: 33 bytes are all of it.
    for (came, fate) in [
        (0, Fate::NotProcessed),
        (1, Fate::MaybeProcessed),
        (32, Fate::MaybeProcessed),
        (33, Fate::MaybeProcessed),
    ] {
        let mut machine = client(&keys);
        let (mut welcome, mut raw) = honest().server(&pending_output(&mut machine, ms(0))).unwrap();
        assert_eq!(machine.fate(), Fate::NotProcessed, "nothing begins before the welcome");
        machine.recv_bytes(ms(1), &mut welcome).unwrap();
        let mut request = machine.request(5).unwrap();
        let mut out = [0; 100];
        machine.seal(ms(1), [(&mut request, &b"hello"[..])], &mut out).unwrap();
        assert_eq!(machine.fate(), Fate::MaybeProcessed, "the stream has not ended");
        let mut pong = raw.seal(&raw_frame(7, 0, &[0; 8]));
        pong.truncate(came);
        let received = machine.recv_bytes(ms(2), &mut pong).unwrap();
        let whole = !matches!(received, (_, Received::NeedMore { .. }));
        assert_eq!((whole, machine.is_confirmed()), (came == 33, came == 33));
        let unread = if whole { &[][..] } else { &pong[..] };
        let cut = Err(ConnectionError::Truncated);
        assert_eq!(machine.end_of_stream(ms(3), unread), cut);
        assert_eq!(machine.fate(), fate, "{came} bytes have come");
        assert_eq!(machine.end_of_stream(ms(4), &[]), cut);
        assert_eq!(machine.fate(), fate, "and it stays so");
    }
    // Without the end of the stream, a record may still be in transit.
    let mut machine = client(&keys);
    let (mut welcome, _) = honest().server(&pending_output(&mut machine, ms(0))).unwrap();
    machine.recv_bytes(ms(1), &mut welcome).unwrap();
    assert_eq!(machine.handle_timeout(ms(60_001)), Err(ConnectionError::Expired));
    assert_eq!(machine.fate(), Fate::MaybeProcessed);
    // Refused: no request has begun.
    let mut machine = client(&keys);
    pending_output(&mut machine, ms(0));
    assert_eq!(machine.end_of_stream(ms(1), &[]), Err(ConnectionError::Refused));
    assert_eq!(machine.fate(), Fate::NotProcessed);
}
