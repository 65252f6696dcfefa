//! What is measured: both machines of an established noise connection at messages of one size, and
//! the raw AEAD over a number of bytes. Each method works through a ring of buffers once, the same
//! for both, so that both meet memory alike. How it is measured is in `noise.rs` and in
//! `instructions`.

use core::hint::black_box;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use falco_core::testing::{CountingRng, NoiseTestClient, NoiseTestServer, noise_client, noise_server};
use falco_core::{
    ClientConnection, ClientEvent, Instant, Received, RequestId, ServerConnection, ServerEvent, Settings, Unread,
};

/// 64 B, 1 KiB, 16 KiB and the largest round number that one frame holds: a record has at most
/// 65,535 bytes.
pub(crate) const SIZES: [usize; 4] = [64, 1 << 10, 16 << 10, 65_000];
/// Bytes that a record's plaintext has besides the body.
pub(crate) const HEAD: usize = 7;
const TAG: usize = 16;

/// A record, or a text with its tag.
struct Place {
    bytes: Vec<u8>,
    length: usize,
}

fn ring(places: usize, bytes: usize) -> Vec<Place> {
    let place = || Place {
        bytes: vec![0; bytes],
        length: 0,
    };
    (0..places).map(|_| place()).collect()
}

/// A client and a server with the handshake behind them.
pub(crate) struct Machines {
    client: ClientConnection<Box<NoiseTestClient>>,
    server: ServerConnection<Box<NoiseTestServer>>,
    ring: Vec<Place>,
    asked: Vec<RequestId>,
    body: Vec<u8>,
}

impl Machines {
    /// Messages of `size` bytes, `places` of them under way at once.
    pub(crate) fn new(size: usize, places: usize) -> Self {
        let (settings, mut rng) = (Settings::new(), CountingRng::new(1));
        let (client, server) = (Box::new(noise_client(1)), Box::new(noise_server(1)));
        let mut machines = Self {
            client: ClientConnection::new(client, &settings, Instant::ZERO, &mut rng).expect("entropy"),
            server: ServerConnection::new(server, &settings, Instant::ZERO, &mut rng).expect("entropy"),
            ring: ring(places, 2 + HEAD + size + TAG),
            asked: Vec::with_capacity(places),
            body: vec![0x5A; size],
        };
        machines.shake_hands();
        machines
    }

    /// Hello, welcome, the first record, its PONG.
    fn shake_hands(&mut self) {
        let mut bytes = [0; 160];
        for _ in 0..2 {
            let sent = self.client.poll_transmit(Instant::ZERO, &mut bytes).expect("room");
            let came = self.server.recv(
                Instant::ZERO,
                Unread::new(bytes.get_mut(..sent).expect("written"), &mut 0),
            );
            came.expect("the server takes it");
            let sent = self.server.poll_transmit(Instant::ZERO, &mut bytes).expect("room");
            let came = self.client.recv(
                Instant::ZERO,
                Unread::new(bytes.get_mut(..sent).expect("written"), &mut 0),
            );
            came.expect("the client takes it");
        }
    }

    #[inline(never)]
    pub(crate) fn seal_requests(&mut self) {
        for place in &mut self.ring {
            let mut message = self.client.request(self.body.len()).expect("within the limit");
            let messages = [(&mut message, self.body.as_slice())];
            let sealed = self.client.seal(Instant::ZERO, messages, &mut place.bytes);
            place.length = sealed.expect("there is room");
        }
    }

    #[inline(never)]
    pub(crate) fn open_requests(&mut self) {
        for place in &mut self.ring {
            let record = place.bytes.get_mut(..place.length).expect("it was sealed there");
            match self.server.recv(Instant::ZERO, Unread::new(record, &mut 0)) {
                Ok(Received::Event(ServerEvent::Request { id, body })) => {
                    black_box(body);
                    self.asked.push(id);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[inline(never)]
    pub(crate) fn seal_answers(&mut self) {
        for (place, id) in self.ring.iter_mut().zip(self.asked.drain(..)) {
            let mut message = self.server.answer(id, self.body.len()).expect("it waits");
            let messages = [(&mut message, self.body.as_slice())];
            let sealed = self.server.seal(Instant::ZERO, messages, &mut place.bytes);
            place.length = sealed.expect("there is room");
        }
    }

    #[inline(never)]
    pub(crate) fn open_answers(&mut self) {
        for place in &mut self.ring {
            let record = place.bytes.get_mut(..place.length).expect("it was sealed there");
            match self.client.recv(Instant::ZERO, Unread::new(record, &mut 0)) {
                Ok(Received::Event(ClientEvent::Answer { body, .. })) => _ = black_box(body),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The AEAD of the crate aes-gcm, with nothing around it but a nonce that counts.
pub(crate) struct Raw {
    aead: Aes256Gcm,
    ring: Vec<Place>,
    counter: u64,
    body: Vec<u8>,
}

impl Raw {
    /// Texts of `size` bytes.
    pub(crate) fn new(size: usize, places: usize) -> Self {
        Self {
            aead: Aes256Gcm::new(&[1; 32].into()),
            ring: ring(places, size + TAG),
            counter: 0,
            body: vec![0x5A; size],
        }
    }

    fn nonce(counter: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce
            .iter_mut()
            .skip(4)
            .zip(counter.to_be_bytes())
            .for_each(|(to, from)| *to = from);
        nonce
    }

    /// From the body to the buffer, in one pass.
    #[inline(never)]
    pub(crate) fn seal_texts(&mut self) {
        for (place, counter) in self.ring.iter_mut().zip(self.counter..) {
            let (text, tag) = place.bytes.split_at_mut(self.body.len());
            let text = InOutBuf::new(&self.body, text).expect("of one length");
            let sealed = self
                .aead
                .encrypt_inout_detached(&Self::nonce(counter).into(), &[], text);
            tag.copy_from_slice(&sealed.expect("it is short enough"));
        }
    }

    /// Where the text lies.
    #[inline(never)]
    pub(crate) fn open_texts(&mut self) {
        for place in &mut self.ring {
            let (text, tag) = place.bytes.split_at_mut(self.body.len());
            let tag = (&*tag).try_into().expect("16 bytes");
            let opened = self
                .aead
                .decrypt_inout_detached(&Self::nonce(self.counter).into(), &[], text.into(), tag);
            opened.expect("it was sealed so");
            self.counter += 1;
        }
    }
}
