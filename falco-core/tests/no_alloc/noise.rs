//! Connections of the noise wire allocate nothing, and their sizes.
use core::cell::RefCell;
use std::sync::Arc;

use allocation_counter::measure;
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::CountingRng;
use falco_core::{
    ClientConnection, ClientEvent, Instant, Key, Partial, Reassembly, Received, RecvBuf, RustCrypto, ServerConnection,
    ServerEvent, Settings,
};

type ClientKeys = NoiseClient<FixedTable<4>, RustCrypto>;
type ServerKeys = NoiseServer<FixedTable<4>, RefCell<KeyRing<[Option<NoiseSecret>; 2]>>, RustCrypto>;
type Inbox = RecvBuf<[u8; RECORD]>;
type Parts = Reassembly<[Partial<[u8; BODY]>; 2]>;

/// The largest record, so that a body goes in three parts.
const MAX_RECORD: u16 = 128;
const RECORD: usize = 130;
const BODY: usize = 256;
const NOW: Instant = Instant::ZERO;

fn keys() -> (ClientKeys, ServerKeys) {
    let key = || Key::from_bytes([7; 32]).unwrap();
    let places = [Some(NoiseSecret::derive(key(), &RustCrypto)), None];
    let ring = KeyRing::new(places, &mut CountingRng::new(1)).unwrap();
    (
        NoiseClient::new(key(), &[][..], RustCrypto).unwrap(),
        NoiseServer::new(RefCell::new(ring), &[][..], RustCrypto).unwrap(),
    )
}

fn carry(bytes: &[u8], inbox: &mut Inbox) {
    if !bytes.is_empty() {
        let total = inbox.len() + bytes.len();
        inbox.space(total).unwrap()[..bytes.len()].copy_from_slice(bytes);
        inbox.filled(bytes.len());
    }
}

/// One step of the client: compares a complete answer with `body`. Returns whether there was one.
fn hear(client: &mut ClientConnection<&ClientKeys>, inbox: &mut Inbox, parts: &mut Parts, body: &[u8]) -> bool {
    let id = match client.recv(NOW, inbox.unread()).unwrap() {
        Received::Event(event) => match event {
            ClientEvent::Answer { body: answer, .. } => {
                assert_eq!(answer, body);
                return true;
            }
            ClientEvent::Begin { id, total, body } => {
                parts.begin(id, total, body).unwrap();
                None
            }
            ClientEvent::Part { id, body, last } => {
                parts.part(id, body).unwrap();
                last.then_some(id)
            }
            ClientEvent::Established | ClientEvent::Pong { .. } => None,
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    if let Some(id) = id {
        assert_eq!(parts.whole(id).unwrap(), body);
        parts.forget(id);
    }
    id.is_some()
}

/// One step of the server, which answers with the body of the request.
fn serve(
    server: &mut ServerConnection<&ServerKeys>,
    inbox: &mut Inbox,
    parts: &mut Parts,
    to_client: &mut Inbox,
) -> bool {
    let mut out = [0; 1_000];
    let before = inbox.len();
    let whole = match server.recv(NOW, inbox.unread()).unwrap() {
        Received::Event(event) => match event {
            ServerEvent::Request { id, body } => Some((id, Some(body))),
            ServerEvent::Begin { id, total, body } => {
                parts.begin(id, total, body).unwrap();
                None
            }
            ServerEvent::Part { id, body, last } => {
                parts.part(id, body).unwrap();
                last.then_some((id, None))
            }
            ServerEvent::Established | ServerEvent::Ping => None,
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    if let Some((id, body)) = whole {
        let body = body.unwrap_or_else(|| parts.whole(id).unwrap());
        let mut answer = server.answer(id, body.len()).unwrap();
        let mut client_parts = 0;
        while !answer.is_done() {
            let length = server
                .seal(
                    NOW,
                    [(&mut answer, body)],
                    &mut out[client_parts..client_parts + RECORD],
                )
                .unwrap();
            client_parts += length;
        }
        parts.forget(id);
        // The client's buffer has room for one record. The rest stays in `out`.
        ANSWER.with_borrow_mut(|pending| {
            pending.0[..client_parts].copy_from_slice(&out[..client_parts]);
            pending.1 = client_parts;
            pending.2 = 0;
        });
    }
    feed(to_client);
    inbox.len() < before
}

thread_local! {
    static ANSWER: RefCell<([u8; 1_000], usize, usize)> = const { RefCell::new(([0; 1_000], 0, 0)) };
}

/// Seals as much of the pending answer as the client's buffer has room for.
fn feed(to_client: &mut Inbox) {
    ANSWER.with_borrow_mut(|(bytes, length, at)| {
        let count = (RECORD - to_client.len()).min(*length - *at);
        if count > 0 {
            carry(&bytes[*at..*at + count], to_client);
            *at += count;
        }
    });
}

fn whole_story(client_keys: &ClientKeys, server_keys: &ServerKeys) -> u32 {
    let settings = Settings::new()
        .with_max_message(u32::try_from(BODY).unwrap())
        .with_max_record(MAX_RECORD)
        .unwrap();
    let mut rng = CountingRng::new(3);
    let mut client = ClientConnection::new(client_keys, &settings, NOW, &mut rng).unwrap();
    let mut server = ServerConnection::new(server_keys, &settings, NOW, &mut rng).unwrap();
    let (mut to_server, mut to_client) = (RecvBuf::new([0; RECORD]), RecvBuf::new([0; RECORD]));
    let (mut client_parts, mut server_parts) = (Parts::new(places()), Parts::new(places()));
    let mut out = [0; RECORD];
    let length = client.poll_transmit(NOW, &mut out).unwrap();
    carry(&out[..length], &mut to_server);
    serve(&mut server, &mut to_server, &mut server_parts, &mut to_client);
    let length = server.poll_transmit(NOW, &mut out).unwrap();
    carry(&out[..length], &mut to_client);
    hear(&mut client, &mut to_client, &mut client_parts, &[]);
    for number in 0..1_000_usize {
        let body = [0xA5; BODY];
        let body = &body[..number % (BODY + 1)];
        let mut request = client.request(body.len()).unwrap();
        let mut answered = false;
        while !answered {
            if to_server.is_empty() {
                let length = client.seal(NOW, [(&mut request, body)], &mut out).unwrap();
                carry(&out[..length], &mut to_server);
            }
            while serve(&mut server, &mut to_server, &mut server_parts, &mut to_client) {}
            let length = server.poll_transmit(NOW, &mut out).unwrap();
            assert!(length == 0 || to_client.is_empty());
            carry(&out[..length], &mut to_client);
            answered = hear(&mut client, &mut to_client, &mut client_parts, body);
            feed(&mut to_client);
        }
    }
    client.close(NOW, falco_core::CloseReason::Done);
    assert!(client.poll_transmit(NOW, &mut out).unwrap() > 0);
    1_000
}

fn places() -> [Partial<[u8; BODY]>; 2] {
    [Partial::new([0; BODY]), Partial::new([0; BODY])]
}

#[test]
fn a_handshake_and_1000_messages_each_way_whole_and_in_parts_allocate_nothing() {
    let mut answered = 0;
    ANSWER.with_borrow_mut(|_| ());
    let mut made = None;
    // With an allocator, which the tests have, secrets are on the heap: a key, and what is derived
    // from it, on either side, and the ring's key that nobody has.
    let secrets = measure(|| made = Some(keys()));
    assert_eq!((secrets.count_total, secrets.bytes_total), (5, 5 * 32));
    let (client, server) = made.unwrap();
    let allocations = measure(|| answered = whole_story(&client, &server));
    assert_eq!(answered, 1_000);
    assert_eq!((allocations.count_total, allocations.bytes_total), (0, 0));
}

/// Bytes on a 64-bit machine: at most these ceilings.
#[test]
fn connections_and_keys_are_no_larger_than_stated() {
    let sizes = [
        size_of::<ClientConnection<&ClientKeys>>(),
        size_of::<ServerConnection<&ServerKeys>>(),
        size_of::<ClientKeys>(),
        size_of::<ServerKeys>(),
    ];
    // Two expanded keys, one for each direction, are most of a connection: 1,088 bytes each with
    // RustCrypto.
    assert!(sizes[0] <= 2_900, "{sizes:?}");
    assert!(sizes[1] <= 2_900, "{sizes:?}");
    assert!(sizes[2] <= 96 && sizes[3] <= 200, "{sizes:?}");
    // With open bodies: 20 without.
    assert!(size_of::<FixedTable<101>>() - size_of::<FixedTable<1>>() <= 100 * 24);
    // A connection that may speak either wire has room for one session of the noise wire, and a
    // pointer to one of the classic wire.
    let shared = [
        size_of::<ClientConnection<Arc<falco_core::keys::ClientKeys>>>(),
        size_of::<ServerConnection<Arc<falco_core::keys::ServerKeys>>>(),
    ];
    assert!(shared[0] <= 2_656 && shared[1] <= 2_656, "{shared:?}");
}
