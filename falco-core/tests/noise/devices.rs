//! A small device: an output smaller than the records that its peer reads, fixed keys, one request
//! at a time.
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, RecvBytes, key};
use falco_core::{
    ClientConnection, ConnectionError, Instant, OutputTooSmall, Partial, Reassembly, Received, SealError,
    ServerConnection, ServerEvent, Settings, Unread,
};

type Keys = NoiseServer<FixedTable<2>, KeyRing<[Option<NoiseSecret>; 1]>, NoSecurity>;

/// A ring without a cell or a lock.
fn server_keys(byte: u8) -> Keys {
    let secret = NoiseSecret::derive(key(byte), &NoSecurity);
    let ring = KeyRing::new([Some(secret)], &mut CountingRng::new(0)).unwrap();
    NoiseServer::new(ring, &[][..], NoSecurity).unwrap()
}

/// Passes `bytes` to the server, and returns the request that they complete.
fn take(
    server: &mut ServerConnection<&Keys>,
    bytes: &mut [u8],
    parts: &mut Reassembly<[Partial<Vec<u8>>; 1]>,
) -> Option<Vec<u8>> {
    let (mut at, mut whole) = (0, None);
    loop {
        match server.recv(Instant::ZERO, Unread::new(bytes, &mut at)).unwrap() {
            Received::Event(event) => match event {
                ServerEvent::Request { body, .. } => whole = Some(body.to_vec()),
                ServerEvent::Begin { id, total, body } => parts.begin(id, total, body).unwrap(),
                ServerEvent::Part { id, body, .. } => {
                    parts.part(id, body).unwrap();
                    whole = parts.take(id).map(|(body, length)| body[..length].to_vec());
                }
                _ => {}
            },
            Received::Skip => {}
            _ => break,
        }
    }
    assert_eq!(at, bytes.len());
    whole
}

/// An established client and a server that reads far larger records than the client has room for.
fn established<'k>(
    client: &'k NoiseClient<FixedTable<1>, NoSecurity>,
    keys: &'k Keys,
) -> (
    ClientConnection<&'k NoiseClient<FixedTable<1>, NoSecurity>>,
    ServerConnection<&'k Keys>,
) {
    let (settings, now) = (Settings::new(), Instant::ZERO);
    let mut client = ClientConnection::new(client, &settings, now, &mut CountingRng::new(1)).unwrap();
    let mut server = ServerConnection::new(keys, &settings, now, &mut CountingRng::new(2)).unwrap();
    let mut out = [0; 128];
    let hello = client.poll_transmit(now, &mut out).unwrap();
    let _ = server.recv_bytes(now, &mut out[..hello]);
    let welcome = server.poll_transmit(now, &mut out).unwrap();
    let _ = client.recv_bytes(now, &mut out[..welcome]).unwrap();
    let ping = client.poll_transmit(now, &mut out).unwrap();
    let mut parts = Reassembly::new([Partial::new(Vec::new())]);
    assert_eq!(take(&mut server, &mut out[..ping], &mut parts), None);
    let answer = server.poll_transmit(now, &mut out).unwrap();
    let heard = client.recv_bytes(now, &mut out[..answer]);
    assert!(matches!(heard, Ok((consumed, Received::Event(_))) if consumed == answer));
    (client, server)
}

#[test]
fn a_message_larger_than_the_output_is_sealed_in_parts_although_the_peer_could_read_it_whole() {
    let (client, keys) = (NoiseClient::new(key(7), &[][..], NoSecurity).unwrap(), server_keys(7));
    for room in [300, 514, 1000] {
        let (mut client, mut server) = established(&client, &keys);
        for length in [0, 1, room - 25, room - 24, room, 5000] {
            let body: Vec<u8> = (0..=255).cycle().take(length).collect();
            let mut parts = Reassembly::new([Partial::new(Vec::new())]);
            let (mut request, mut got, mut out) = (client.request(length).unwrap(), None, vec![0; room]);
            while !request.is_done() {
                let sealed = client
                    .seal(Instant::ZERO, [(&mut request, &body[..])], &mut out)
                    .unwrap();
                assert!(sealed > 0);
                got = take(&mut server, &mut out[..sealed], &mut parts);
            }
            assert_eq!(got.as_ref(), Some(&body), "{length} bytes through {room}");
            // Its table has one place.
            let id = request.id().unwrap();
            client.cancel(id).unwrap();
            let mut out = [0; 128];
            let cancel = client.poll_transmit(Instant::ZERO, &mut out).unwrap();
            answer_cancel(&mut client, &mut server, &mut out[..cancel]);
        }
    }
}

/// The server's only request is cancelled, and the server refuses it.
fn answer_cancel(
    client: &mut ClientConnection<&NoiseClient<FixedTable<1>, NoSecurity>>,
    server: &mut ServerConnection<&Keys>,
    cancel: &mut [u8],
) {
    let Ok((_, Received::Event(ServerEvent::Cancelled { id }))) = server.recv_bytes(Instant::ZERO, cancel) else {
        panic!("a cancel was expected");
    };
    server.refuse(id, falco_core::Refusal::Cancelled).unwrap();
    let mut out = [0; 128];
    let refusal = server.poll_transmit(Instant::ZERO, &mut out).unwrap();
    let mut at = 0;
    while let Ok(Received::Event(_) | Received::Skip) =
        client.recv(Instant::ZERO, Unread::new(&mut out[..refusal], &mut at))
    {}
    assert_eq!((at, client.in_flight()), (refusal, 0));
}

#[test]
fn an_output_too_small_for_a_worthwhile_part_is_an_error() {
    let (client, keys) = (NoiseClient::new(key(7), &[][..], NoSecurity).unwrap(), server_keys(7));
    let (mut client, _) = established(&client, &keys);
    let mut request = client.request(300).unwrap();
    let refused = client.seal(Instant::ZERO, [(&mut request, &[0; 300][..])], &mut [0; 200]);
    assert_eq!(
        refused,
        Err(SealError::OutputTooSmall(OutputTooSmall {
            needed: 325,
            given: 200
        }))
    );
}

#[test]
fn a_ring_that_never_changes_needs_no_cell() {
    let (client, keys) = (
        NoiseClient::<FixedTable<1>, _>::new(key(8), &[][..], NoSecurity).unwrap(),
        server_keys(7),
    );
    let (settings, now, mut out) = (Settings::new(), Instant::ZERO, [0; 128]);
    let mut client = ClientConnection::new(&client, &settings, now, &mut CountingRng::new(1)).unwrap();
    let mut server = ServerConnection::new(&keys, &settings, now, &mut CountingRng::new(2)).unwrap();
    let hello = client.poll_transmit(now, &mut out).unwrap();
    assert_eq!(
        server.recv_bytes(now, &mut out[..hello]),
        Err(ConnectionError::Unauthenticated)
    );
}
