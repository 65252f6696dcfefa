//! A connection of the noise wire with real cryptography, whose peer has no key. Two ways to split
//! the stream must have the same result.

use std::sync::LazyLock;

use super::Input;
use super::parser::feed_both_ways;
use crate::testing::{CountingRng, NoiseTestClient, NoiseTestServer, RecvBytes, noise_client, noise_server};
use crate::{BufferSizes, ClientConnection, Instant, Received, ServerConnection, Settings};

/// Records of at most this many bytes: small enough that a fuzzer reaches both sides of the limit.
const MAX_RECORD: u16 = 64;
/// No step needs more bytes than a hello has.
const LONGEST: usize = 74;

type Client = ClientConnection<&'static NoiseTestClient>;
type Server = ServerConnection<&'static NoiseTestServer>;

/// Bytes to a server: before the hello, after the welcome of a correct handshake, or once it is
/// established.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_client_to_server(data: &[u8]) {
    let mut input = Input::new(data);
    let stage = input.byte() % 3;
    feed_both_ways(&mut input, LONGEST, || machines(stage).1);
}

/// Bytes to a client: before the welcome, or once it is established.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_server_to_client(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    feed_both_ways(&mut input, LONGEST, || {
        let mut client = machines(if choice & 1 == 0 { 0 } else { 2 }).0;
        for _ in 0..(choice >> 1) & 3 {
            if let Ok(mut request) = client.request(4) {
                let _ = client.seal(Instant::ZERO, [(&mut request, &b"four"[..])], &mut [0; 128]);
            }
        }
        client
    });
}

/// Two connections at a stage: 0, the client has sent its hello; 1, the server has sent its
/// welcome; 2, both are established.
fn machines(stage: u8) -> (Client, Server) {
    static KEYS: LazyLock<(NoiseTestClient, NoiseTestServer)> = LazyLock::new(|| (noise_client(1), noise_server(1)));
    let (client, server) = LazyLock::force(&KEYS);
    let settings = Settings::new().with_max_record(MAX_RECORD).expect("64 is in range");
    let (mut rng, now) = (CountingRng::new(1), Instant::ZERO);
    let mut client = ClientConnection::new(client, &settings, now, &mut rng).expect("the generator does not fail");
    let mut server = ServerConnection::new(server, &settings, now, &mut rng).expect("the generator does not fail");
    let mut wire = [0; BufferSizes::TRANSMIT];
    let sent = client.poll_transmit(now, &mut wire).expect("there is room");
    if stage > 0 {
        let received = server.recv_bytes(now, wire.split_at_mut(sent).0);
        assert_eq!(received, Ok((sent, Received::Skip)), "the key is right");
        let sent = server.poll_transmit(now, &mut wire).expect("there is room");
        if stage > 1 {
            let received = client.recv_bytes(now, wire.split_at_mut(sent).0);
            assert!(matches!(received, Ok((_, Received::Event(_)))), "the server accepts");
            let sent = client.poll_transmit(now, &mut wire).expect("there is room");
            let received = server.recv_bytes(now, wire.split_at_mut(sent).0);
            assert!(
                matches!(received, Ok((_, Received::Event(_)))),
                "the client has the key"
            );
            let sent = server.poll_transmit(now, &mut wire).expect("there is room");
            assert_eq!(sent, 33, "a pong");
        }
    }
    (client, server)
}
