//! A connection of the classic wire with real cryptography, whose peer has no key. Two ways to
//! split the stream must have the same result.

use std::vec::Vec;

use super::Input;
use crate::testing::{CountingRng, RecvBytes};
use crate::{
    BufferSizes, ClassicKey, ClientConnection, Connection, ConnectionError, HeapReplayCache, Instant, KeyRef, Received,
    Role, ServerConnection, Settings, Unread,
};

/// Messages of at most this many bytes: small enough that a fuzzer reaches both sides of the limit.
const MAX_MESSAGE: u32 = 64;

/// Bytes to a server, before the hello or after it.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn client_to_server(data: &[u8]) {
    let mut input = Input::new(data);
    let prove = input.byte() & 1 == 1;
    feed_both_ways(&mut input, BufferSizes::TRANSMIT, || {
        let (client, server) = machines();
        if prove { established(client, server).1 } else { server }
    });
}

/// Bytes to a client, before the accept or after it.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn server_to_client(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    feed_both_ways(&mut input, BufferSizes::TRANSMIT, || {
        let (mut client, server) = machines();
        if choice & 1 == 0 {
            let sent = client.poll_transmit(Instant::ZERO, &mut [0; BufferSizes::TRANSMIT]);
            assert_eq!(sent, Ok(BufferSizes::TRANSMIT), "the hello is sent");
            return client;
        }
        let mut client = established(client, server).0;
        for _ in 0..(choice >> 1) & 3 {
            let mut request = client.request(4).expect("it is established");
            let _ = client.seal(Instant::ZERO, [(&mut request, &b"four"[..])], &mut [0; 64]);
            assert!(request.is_done(), "64 bytes are enough for 4");
        }
        client
    });
}

type Handle = &'static ClassicKey<HeapReplayCache>;

/// A new client and server. Their keys are static.
fn machines() -> (ClientConnection<Handle>, ServerConnection<Handle>) {
    use std::sync::LazyLock;
    // Each run has the same nonces, so the replay caches must not remember them.
    static KEYS: LazyLock<[ClassicKey<HeapReplayCache>; 2]> = LazyLock::new(|| {
        let forgetful = || ClassicKey::new(crate::testing::key(1), crate::testing::replay_cache(0));
        [forgetful(), forgetful()]
    });
    let [client, server] = LazyLock::force(&KEYS);
    let settings = Settings::new().with_max_message(MAX_MESSAGE);
    let mut rng = CountingRng::new(1);
    let client =
        ClientConnection::new(client, &settings, Instant::ZERO, &mut rng).expect("the generator does not fail");
    let server =
        ServerConnection::new(server, &settings, Instant::ZERO, &mut rng).expect("the generator does not fail");
    (client, server)
}

fn established(
    mut client: ClientConnection<Handle>,
    mut server: ServerConnection<Handle>,
) -> (ClientConnection<Handle>, ServerConnection<Handle>) {
    let mut wire = [0; BufferSizes::TRANSMIT];
    let now = Instant::ZERO;
    let sent = client.poll_transmit(now, &mut wire).expect("there is room");
    assert!(
        matches!(
            server.recv_bytes(now, wire.split_at_mut(sent).0),
            Ok((_, Received::Event(_)))
        ),
        "the key is right"
    );
    let sent = server.poll_transmit(now, &mut wire).expect("there is room");
    assert!(
        matches!(
            client.recv_bytes(now, wire.split_at_mut(sent).0),
            Ok((_, Received::Event(_)))
        ),
        "the server accepts"
    );
    (client, server)
}

/// The result of a stream: events as text, bodies, and how the connection ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    events: Vec<(std::string::String, Vec<u8>)>,
    end: ConnectionError,
}

/// Passes the rest of `input` to two new connections, to one at once and to the other in parts. No
/// frame is longer than `longest`.
pub(super) fn feed_both_ways<R: Role, H: KeyRef<R>>(
    input: &mut Input<'_>,
    longest: usize,
    fresh: impl Fn() -> Connection<R, H>,
) {
    let cuts = [1 + input.index(40), 1 + input.index(40)];
    let stream = input.take(usize::MAX);
    let whole = feed(&mut fresh(), longest, &[stream]);
    let mut parts = Vec::new();
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (part, after) = rest.split_at((*cut).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    assert_eq!(
        feed(&mut fresh(), longest, &parts),
        whole,
        "the way a stream is split changes the result"
    );
}

fn feed<R: Role, H: KeyRef<R>>(machine: &mut Connection<R, H>, longest: usize, parts: &[&[u8]]) -> Outcome {
    let now = Instant::ZERO;
    // Not a `RecvBuf`: the consumed bytes are compared, too.
    let (mut inbox, mut start) = (Vec::new(), 0);
    let mut events = Vec::new();
    let mut bytes = parts.iter().copied().flatten().copied().peekable();
    let mut left: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    left.reverse();
    loop {
        let (held, before) = (inbox.len() - start, start);
        match machine.recv(now, Unread::new(&mut inbox, &mut start)) {
            Err(end) => {
                assert_eq!(machine.end(), Some(end), "the end is remembered");
                assert_eq!(machine.recv_bytes(now, &mut []), Err(end), "the end does not change");
                return Outcome { events, end };
            }
            Ok(Received::Event(event)) => {
                let event = std::format!("{event:?}");
                assert!(
                    start > before && start <= inbox.len(),
                    "an event consumes bytes that exist"
                );
                events.push((event, inbox.split_at(start).0.split_at(before).1.to_vec()));
            }
            Ok(Received::Skip) => {
                assert!(
                    start > before && start <= inbox.len(),
                    "a skip consumes bytes that exist"
                );
            }
            Ok(Received::NeedMore { total }) => {
                assert!(total > held, "{total} bytes needed, {held} present");
                assert!(total <= longest, "{total} bytes needed, more than any frame may have");
                let Some(count) = left.pop() else {
                    let end = machine
                        .end_of_stream(now, inbox.split_at(start).1)
                        .expect_err("the connection ends with its stream");
                    return Outcome { events, end };
                };
                inbox.extend(bytes.by_ref().take(count));
            }
            Ok(Received::Wait(_)) => {
                let end = machine
                    .end_of_stream(now, inbox.split_at(start).1)
                    .expect_err("the connection ends with its stream");
                return Outcome { events, end };
            }
        }
    }
}
