//! Connections of the classic wire allocate nothing, and their sizes.
use allocation_counter::measure;
use falco_core::testing::CountingRng;
use falco_core::{
    ClassicKey, ClientConnection, ClientEvent, FixedReplayCache, Instant, Key, Received, RecvBuf, ServerConnection,
    ServerEvent, Settings,
};

type Shared = ClassicKey<FixedReplayCache<64>>;

const BODY: usize = 256;
const FRAME: usize = 9 + 28 + BODY;
const NOW: Instant = Instant::ZERO;

fn shared(seed: u64) -> Shared {
    let replay_cache = FixedReplayCache::new(&mut CountingRng::new(seed)).unwrap();
    ClassicKey::new(Key::from_bytes([7; 32]).unwrap(), replay_cache)
}

/// Adds bytes to a buffer as a read would.
fn carry(bytes: &[u8], inbox: &mut RecvBuf<[u8; FRAME]>) {
    inbox.space(bytes.len()).unwrap()[..bytes.len()].copy_from_slice(bytes);
    inbox.filled(bytes.len());
}

/// Two connections with their own keys and buffers: a handshake, a ping, then 1000 messages each
/// way.
fn whole_story(ours: &Shared, theirs: &Shared) -> u32 {
    let settings = Settings::new().with_max_message(u32::try_from(BODY).unwrap());
    let mut rng = CountingRng::new(3);
    let mut client = ClientConnection::new(ours, &settings, NOW, &mut rng).unwrap();
    let mut server = ServerConnection::new(theirs, &settings, NOW, &mut rng).unwrap();
    let (mut to_server, mut to_client) = (RecvBuf::new([0; FRAME]), RecvBuf::new([0; FRAME]));
    let mut out = [0; FRAME];
    let mut answered = 0;

    let length = client.poll_transmit(NOW, &mut out).unwrap();
    carry(&out[..length], &mut to_server);
    assert!(matches!(server.recv(NOW, to_server.unread()), Ok(Received::Event(_))));
    assert!(to_server.is_empty());
    let length = server.poll_transmit(NOW, &mut out).unwrap();
    carry(&out[..length], &mut to_client);
    assert!(matches!(client.recv(NOW, to_client.unread()), Ok(Received::Event(_))));
    assert!(to_client.is_empty());
    client.ping().unwrap();
    let length = client.poll_transmit(NOW, &mut out).unwrap();
    carry(&out[..length], &mut to_server);
    assert!(matches!(server.recv(NOW, to_server.unread()), Ok(Received::Event(_))));
    assert!(to_server.is_empty());

    for number in 0..1_000_usize {
        let body = [u8::try_from(number % 251).unwrap(); BODY];
        let body = &body[..number % (BODY + 1)];
        let mut message = client.request(body.len()).unwrap();
        let length = client.seal(NOW, [(&mut message, body)], &mut out).unwrap();
        // In two reads, so that a frame arrives in part.
        carry(&out[..length / 2], &mut to_server);
        assert!(matches!(
            server.recv(NOW, to_server.unread()),
            Ok(Received::NeedMore { .. })
        ));
        carry(&out[length / 2..length], &mut to_server);
        let received = server.recv(NOW, to_server.unread());
        let Ok(Received::Event(ServerEvent::Request { id, body: heard })) = received else {
            panic!("no request");
        };
        let mut answer = server.answer(id, heard.len()).unwrap();
        let length = server.seal(NOW, [(&mut answer, heard)], &mut out).unwrap();
        carry(&out[..length], &mut to_client);
        let received = client.recv(NOW, to_client.unread());
        let Ok(Received::Event(ClientEvent::Answer { body: answer, .. })) = received else {
            panic!("no answer");
        };
        assert_eq!(answer, body);
        answered += 1;
    }
    assert!(client.handle_timeout(Instant::from_millis(60_000)).is_err());
    answered
}

#[test]
fn a_handshake_and_1000_messages_each_way_allocate_nothing() {
    let mut answered = 0;
    let mut keys = None;
    // With an allocator, which the tests have, a key is on the heap until it is expanded.
    let secrets = measure(|| keys = Some((shared(1), shared(2))));
    assert_eq!((secrets.count_total, secrets.bytes_total), (2, 2 * 32));
    let (ours, theirs) = keys.unwrap();
    let allocations = measure(|| answered = whole_story(&ours, &theirs));
    assert_eq!(answered, 1_000);
    assert_eq!((allocations.count_total, allocations.bytes_total), (0, 0));
}

#[test]
fn the_counter_counts() {
    let allocations = measure(|| drop(core::hint::black_box(vec![1_u8; 77])));
    assert_eq!((allocations.count_total, allocations.bytes_total), (1, 77));
}

/// Bytes on a 64-bit machine: at most these ceilings.
#[test]
fn connections_and_keys_are_no_larger_than_stated() {
    // The 128 bytes that the hello seals, until it is sealed. The rest is a nonce, counters,
    // settings and times.
    assert!(size_of::<ClientConnection<&Shared>>() <= 328);
    assert!(size_of::<ServerConnection<&Shared>>() <= 200);
    // The expanded key, which all connections share: AES round keys (960 bytes in the form for
    // processors without AES instructions) and GHASH tables.
    assert!(size_of::<ClassicKey<()>>() <= 1_104);
    // 20 bytes for each nonce, 48 for the state of the cache and 8 for its cell.
    assert!(size_of::<FixedReplayCache<0>>() <= 56);
    assert!(size_of::<FixedReplayCache<100>>() <= 56 + 100 * 20);
}
