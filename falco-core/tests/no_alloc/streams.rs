//! Open bodies, both ways at once, allocate nothing.
use core::cell::RefCell;

use allocation_counter::measure;
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::CountingRng;
use falco_core::{
    ClientConnection, ClientEvent, Connection, Instant, Key, KeyRef, Received, RecvBuf, Refusal, RequestId, Role,
    RustCrypto, ServerConnection, ServerEvent, Settings,
};

type ClientKeys = NoiseClient<FixedTable<4>, RustCrypto>;
type ServerKeys = NoiseServer<FixedTable<4>, RefCell<KeyRing<[Option<NoiseSecret>; 1]>>, RustCrypto>;
type Inbox = RecvBuf<[u8; INBOX]>;

const INBOX: usize = 600;
const NOW: Instant = Instant::ZERO;
/// Bytes of each body.
const LENGTH: usize = 100_000;
/// Bytes that are ready to be sent at a time.
const CHUNK: [u8; 300] = [7; 300];

/// A body that is written, and how much of it is.
struct Body<M> {
    message: Option<M>,
    sent: usize,
}

/// Seals what there is of `body`, and takes what was sealed.
fn write<R: Role, H: KeyRef<R>>(
    machine: &mut Connection<R, H>,
    body: &mut Body<R::Outgoing>,
    take: impl Fn(&mut R::Outgoing, bool) -> usize,
    inbox: &mut Inbox,
) {
    let mut out = [0; INBOX];
    let room = INBOX - inbox.len();
    let chunk = &CHUNK[..CHUNK.len().min(LENGTH - body.sent)];
    let sealed = match &mut body.message {
        Some(message) => {
            take(message, body.sent + chunk.len() == LENGTH);
            machine.seal(NOW, [(&mut *message, chunk)], &mut out[..room])
        }
        None => machine.seal(NOW, core::iter::empty(), &mut out[..room]),
    };
    let length = sealed.unwrap_or(0);
    if let Some(message) = &mut body.message {
        body.sent += take(message, false);
    }
    let total = inbox.len() + length;
    inbox.space(total).unwrap()[..length].copy_from_slice(&out[..length]);
    inbox.filled(length);
}

/// A request and an answer of `LENGTH` bytes at the same time, and one that is cancelled. Returns
/// how many bytes arrived at the server and at the client.
fn whole_story(clients: &ClientKeys, servers: &ServerKeys) -> (usize, usize) {
    let settings = Settings::new().with_streams(1, 2).with_max_record(500).unwrap();
    let mut rng = CountingRng::new(3);
    let mut client = ClientConnection::new(clients, &settings, NOW, &mut rng).unwrap();
    let mut server = ServerConnection::new(servers, &settings, NOW, &mut rng).unwrap();
    let (mut to_server, mut to_client) = (RecvBuf::new([0; INBOX]), RecvBuf::new([0; INBOX]));
    let (mut arrived, mut ended) = ((0, 0), (0, 0));
    let mut request = Body { message: None, sent: 0 };
    let mut answer = Body { message: None, sent: 0 };
    let mut cancelled: Option<RequestId> = None;
    for _ in 0..100_000 {
        let finish_request = |message: &mut falco_core::OutgoingRequest, last: bool| {
            if last {
                message.finish();
            }
            message.take_sealed()
        };
        write(&mut client, &mut request, finish_request, &mut to_server);
        if let Received::Event(event) = server.recv(NOW, to_server.unread()).unwrap() {
            match event {
                ServerEvent::Opened { id, body } | ServerEvent::Part { id, body, last: false } => {
                    arrived.0 += body.len();
                    let length = body.len();
                    server.credit(id, length, true).unwrap();
                    if answer.message.is_none() {
                        answer.message = Some(server.open_answer(id).unwrap());
                    }
                }
                ServerEvent::Part { last: true, .. } => ended.0 += 1,
                ServerEvent::Cancelled { id } => {
                    server.refuse(id, Refusal::Cancelled).unwrap();
                    return arrived;
                }
                _ => {}
            }
        }
        let finish_answer = |message: &mut falco_core::OutgoingAnswer, last: bool| {
            if last {
                message.finish();
            }
            message.take_sealed()
        };
        write(&mut server, &mut answer, finish_answer, &mut to_client);
        if let Received::Event(event) = client.recv(NOW, to_client.unread()).unwrap() {
            match event {
                ClientEvent::Established => request.message = Some(client.open_request().unwrap()),
                ClientEvent::Opened { id, body } | ClientEvent::Part { id, body, last: false } => {
                    arrived.1 += body.len();
                    let length = body.len();
                    client.credit(id, length, false).unwrap();
                }
                ClientEvent::Part { last: true, .. } => ended.1 += 1,
                _ => {}
            }
        }
        let is_done = request
            .message
            .as_ref()
            .is_some_and(falco_core::OutgoingRequest::is_done);
        if ended == (1, 1) && is_done && cancelled.is_none() {
            request = Body {
                message: Some(client.open_request().unwrap()),
                sent: 0,
            };
            ended = (2, 2);
        }
        if ended == (2, 2)
            && let Some(id) = request.message.as_ref().and_then(falco_core::OutgoingRequest::id)
        {
            client.cancel(id).unwrap();
            cancelled = Some(id);
            request.message = None;
            ended = (3, 3);
        }
    }
    panic!("it does not end: {arrived:?}");
}

#[test]
fn open_bodies_both_ways_at_once_and_a_cancelled_one_allocate_nothing() {
    let key = || Key::from_bytes([7; 32]).unwrap();
    let places = [Some(NoiseSecret::derive(key(), &RustCrypto))];
    let ring = KeyRing::new(places, &mut CountingRng::new(1)).unwrap();
    let clients = NoiseClient::new(key(), &[][..], RustCrypto).unwrap();
    let servers = NoiseServer::new(RefCell::new(ring), &[][..], RustCrypto).unwrap();
    let mut arrived = (0, 0);
    let allocations = measure(|| arrived = whole_story(&clients, &servers));
    // The first chunk of the one that is cancelled arrives too.
    assert_eq!(arrived.1, LENGTH);
    assert!(arrived.0 >= LENGTH && arrived.0 <= LENGTH + CHUNK.len(), "{arrived:?}");
    assert_eq!((allocations.count_total, allocations.bytes_total), (0, 0));
}
