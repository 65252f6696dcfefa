//! A client and a server of a device, on either driver, connected by pipes.
#![allow(dead_code, unused_imports, reason = "each suite uses what it needs")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "closures are written where they are passed"
)]

mod asker;
mod raw;
mod service;
mod world;

use std::rc::Rc;

pub(crate) use asker::{Asker, Handler, Served, Subscriber, everywhere, reverse, side_by_side};
use falco_core::noise::{KeyRing, NoiseSecret};
use falco_core::testing::{CountingRng, key};
use falco_core::{Instant, KeyRef, Role, RustCrypto, Settings};
use falco_embedded::{
    BufferedClient, BufferedConnection, BufferedServer, Buffers, Clock, NoiseClientKey, NoiseServerKey, asynchronous,
    blocking,
};
pub(crate) use raw::{ManyKey, Raw, RawKey, many_key, raw_key, turn};
pub(crate) use service::{Came, Service, WINDOW, beside, bytes, device, service};
pub(crate) use world::{
    Broken, Op, Other, Pipe, Port, RestingClock, VirtualClock, World, Writes, at_once, polled, run, until,
};

/// One record with its length.
pub(crate) const BUFFER: usize = 514;
/// The largest message of a device.
pub(crate) const MESSAGE: usize = 2000;

pub(crate) type ServerKey = NoiseServerKey<1>;
/// The buffers of a connection, and those of a request and its answer.
type Bytes = ([u8; BUFFER], [u8; BUFFER]);
type Bodies = ([u8; MESSAGE], [u8; MESSAGE]);
pub(crate) type DeviceClient<'k> = BufferedClient<&'k NoiseClientKey, Bytes>;
pub(crate) type DeviceServer<'k> = BufferedServer<&'k ServerKey, Bytes, Bodies>;
type Transport = asynchronous::Transport<Pipe, Pipe, VirtualClock>;
pub(crate) type TestClient<'k> = asynchronous::Client<Transport, &'k NoiseClientKey, Bytes>;
pub(crate) type TestServer<'k> = asynchronous::Server<Transport, &'k ServerKey, Bytes, Bodies>;

pub(crate) fn settings() -> Settings {
    let settings = Settings::new().with_max_message(2000).with_max_record(512).unwrap();
    settings.with_max_in_flight(1).unwrap()
}

pub(crate) fn client_key(byte: u8) -> NoiseClientKey {
    NoiseClientKey::new(key(byte), b"", RustCrypto).unwrap()
}

pub(crate) fn server_key(byte: u8) -> ServerKey {
    let secret = NoiseSecret::derive(key(byte), &RustCrypto);
    let ring = KeyRing::new([Some(secret)], &mut CountingRng::new(0)).unwrap();
    ServerKey::new(ring, b"", RustCrypto).unwrap()
}

/// Both sides without drivers, and the pipes between them: to the server, to the client.
pub(crate) struct Lines<'k> {
    pub(crate) world: Rc<World>,
    pub(crate) client: DeviceClient<'k>,
    pub(crate) server: DeviceServer<'k>,
    pub(crate) pipes: [Pipe; 2],
}

pub(crate) fn lines<'k>(client_key: &'k NoiseClientKey, server_key: &'k ServerKey, settings: &Settings) -> Lines<'k> {
    let world = Rc::new(World::default());
    let pipes = [Pipe::new(&world, 40), Pipe::new(&world, 40)];
    let now = VirtualClock(Rc::clone(&world)).now();
    let (inbox, outbox) = ([0; BUFFER], [0; BUFFER]);
    let client = BufferedClient::start(client_key, settings, now, &mut CountingRng::new(1), (inbox, outbox)).unwrap();
    let memory = ([0; MESSAGE], [0; MESSAGE]);
    let mut rng = CountingRng::new(2);
    let server = BufferedServer::start(server_key, settings, now, &mut rng, (inbox, outbox), memory).unwrap();
    Lines {
        world,
        client,
        server,
        pipes,
    }
}

/// An async client and an async server.
pub(crate) struct Joined<'k> {
    pub(crate) world: Rc<World>,
    pub(crate) client: TestClient<'k>,
    pub(crate) server: TestServer<'k>,
    pub(crate) pipes: [Pipe; 2],
}

pub(crate) fn join<'k>(client_key: &'k NoiseClientKey, server_key: &'k ServerKey, settings: &Settings) -> Joined<'k> {
    let Lines {
        world,
        client,
        server,
        pipes,
    } = lines(client_key, server_key, settings);
    let ([up, down], clock) = (pipes.clone(), VirtualClock(Rc::clone(&world)));
    Joined {
        client: asynchronous::Client::new(client, down.clone(), up.clone(), clock.clone()),
        server: asynchronous::Server::new(server, up, down, clock),
        world,
        pipes,
    }
}

/// Moves bytes from one side to the other, as many as there is room for.
pub(crate) fn carry<A: Role, B: Role, G: KeyRef<A>, H: KeyRef<B>, I: Buffers, J: Buffers>(
    from: &mut BufferedConnection<A, G, I>,
    to: &mut BufferedConnection<B, H, J>,
    now: Instant,
) -> bool {
    let space = to.space().unwrap();
    let count = space.len().min(from.unsent().len());
    space[..count].copy_from_slice(&from.unsent()[..count]);
    to.filled(count);
    from.sent(now, count);
    count > 0
}
