//! A client and a server of a device, over either driver, joined by pipes.
#![allow(dead_code, unused_imports, reason = "each suite takes what it needs")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "closures are written where they are passed"
)]

mod asker;
mod raw;
mod world;

use std::rc::Rc;

pub(crate) use asker::{Asker, Handler, Served, everywhere, reverse, side_by_side};
use falco_core::noise::{KeyRing, NoiseSecret};
use falco_core::testing::{CountingRng, key};
use falco_core::{Instant, KeyRef, Role, RustCrypto, Settings, Storage};
use falco_embedded::{ClientLine, Clock, Line, NoiseClientKey, NoiseServerKey, ServerLine, asynchronous, blocking};
pub(crate) use raw::{ManyKey, Raw, RawKey, many_key, raw_key, turn};
pub(crate) use world::{
    Broken, Op, Other, Pipe, Port, RestingClock, VirtualClock, World, Writes, at_once, polled, run, until,
};

/// One record with its length.
pub(crate) const BUFFER: usize = 514;
/// The largest message of a device.
pub(crate) const MESSAGE: usize = 2000;

pub(crate) type ServerKey = NoiseServerKey<1>;
pub(crate) type DeviceClient<'k> = ClientLine<&'k NoiseClientKey, [u8; BUFFER], [u8; BUFFER]>;
pub(crate) type DeviceServer<'k> = ServerLine<&'k ServerKey, [u8; BUFFER], [u8; BUFFER], [u8; MESSAGE], [u8; MESSAGE]>;
pub(crate) type TestClient<'k> =
    asynchronous::Client<asynchronous::Pump<Pipe, Pipe, VirtualClock>, &'k NoiseClientKey, [u8; BUFFER], [u8; BUFFER]>;
pub(crate) type TestServer<'k> = asynchronous::Server<
    asynchronous::Pump<Pipe, Pipe, VirtualClock>,
    &'k ServerKey,
    [u8; BUFFER],
    [u8; BUFFER],
    [u8; MESSAGE],
    [u8; MESSAGE],
>;

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

/// Both lines, and the pipes between them: to the server, to the client.
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
    let client = ClientLine::start(client_key, settings, now, &mut CountingRng::new(1), inbox, outbox).unwrap();
    let memory = ([0; MESSAGE], [0; MESSAGE]);
    let mut rng = CountingRng::new(2);
    let server = ServerLine::start(server_key, settings, now, &mut rng, (inbox, outbox), memory).unwrap();
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

/// What a cable does, as far as there is room.
pub(crate) fn carry<A: Role, B: Role, G, H, I, J, O, P>(
    from: &mut Line<A, G, I, O>,
    to: &mut Line<B, H, J, P>,
    now: Instant,
) -> bool
where
    G: KeyRef<A>,
    H: KeyRef<B>,
    I: Storage,
    J: Storage,
    O: AsRef<[u8]> + AsMut<[u8]>,
    P: AsRef<[u8]> + AsMut<[u8]>,
{
    let space = to.space().unwrap();
    let count = space.len().min(from.unsent().len());
    space[..count].copy_from_slice(&from.unsent()[..count]);
    to.filled(count);
    from.sent(now, count);
    count > 0
}
