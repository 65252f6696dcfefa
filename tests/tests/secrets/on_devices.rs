//! Clients and servers without a runtime and without a socket: the core alone, and falco-embedded.
//! A connection is where its user puts it, and is moved there after it was made. So all of it runs
//! in a function of its own, after which the stack is wiped, as SECURITY.md advises.

use core::net::SocketAddr;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::{
    ClientConnection, ClientEvent, CloseReason, Instant, KeyRef, Received, Role, RustCrypto, ServerConnection,
    ServerEvent, Settings, Unread, wipe_stack,
};
use falco_embedded::{BufferedClient, BufferedConnection, BufferedServer, NoiseClientKey, NoiseServerKey};

use super::control::Control;
use super::draws::{Draws, Who, key};
use super::{MANY, REKEYED};

const NOW: Instant = Instant::ZERO;

/// More than a connection and its handshake use, without optimization.
fn and_wipe_the_stack(run: impl FnOnce()) {
    #[inline(never)]
    fn below(run: impl FnOnce()) {
        let distance = core::hint::black_box([0_u8; 1024]);
        run();
        core::hint::black_box(&distance);
    }
    below(run);
    zeroize::zeroize_stack::<{ 256 * 1024 }>();
}

type ClientKeys = NoiseClient<HeapTable, RustCrypto>;
type ServerKeys = NoiseServer<HeapTable, KeyRing<[Option<NoiseSecret>; 2]>, RustCrypto>;

/// A connection of the core, both sides of it.
struct Machines {
    client: ClientConnection<Arc<ClientKeys>>,
    server: ServerConnection<Arc<ServerKeys>>,
}

impl Machines {
    fn new(clients: &Arc<ClientKeys>, servers: &Arc<ServerKeys>) -> Self {
        let settings = Settings::new();
        let (mut client, mut server) = (Draws::of(Who::Client), Draws::of(Who::Server));
        Self {
            client: ClientConnection::new(Arc::clone(clients), &settings, NOW, &mut client).unwrap(),
            server: ServerConnection::new(Arc::clone(servers), &settings, NOW, &mut server).unwrap(),
        }
    }

    fn client_sends(&mut self) -> Vec<u8> {
        let mut bytes = [0; 1024];
        let length = self.client.poll_transmit(NOW, &mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    fn server_sends(&mut self) -> Vec<u8> {
        let mut bytes = [0; 1024];
        let length = self.server.poll_transmit(NOW, &mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    fn shake_hands(&mut self, control: &mut Control) {
        let hello = self.client_sends();
        self.server.recv(NOW, Unread::new(&mut hello.clone(), &mut 0)).unwrap();
        let welcome = self.server_sends();
        self.client
            .recv(NOW, Unread::new(&mut welcome.clone(), &mut 0))
            .unwrap();
        control.handshake(&hello, &welcome);
        let mut proof = self.client_sends();
        self.server.recv(NOW, Unread::new(&mut proof, &mut 0)).unwrap();
        let mut pong = self.server_sends();
        self.client.recv(NOW, Unread::new(&mut pong, &mut 0)).unwrap();
    }

    fn exchange(&mut self, times: usize) {
        for _ in 0..times {
            let mut bytes = [0; 2048];
            let mut message = self.client.request(1000).unwrap();
            let length = self
                .client
                .seal(NOW, [(&mut message, &[7; 1000][..])], &mut bytes)
                .unwrap();
            let Received::Event(event) = self
                .server
                .recv(NOW, Unread::new(&mut bytes[..length], &mut 0))
                .unwrap()
            else {
                panic!("nothing came");
            };
            let ServerEvent::Request { id, .. } = event else {
                panic!("{event:?}");
            };
            let mut message = self.server.answer(id, 5).unwrap();
            let length = self
                .server
                .seal(NOW, [(&mut message, &b"hello"[..])], &mut bytes)
                .unwrap();
            let Received::Event(event) = self
                .client
                .recv(NOW, Unread::new(&mut bytes[..length], &mut 0))
                .unwrap()
            else {
                panic!("nothing came");
            };
            assert!(matches!(event, ClientEvent::Answer { body: b"hello", .. }), "{event:?}");
        }
    }
}

pub(crate) fn core(control: &mut Control) {
    let (mut clients, mut servers) = (None, None);
    and_wipe_the_stack(|| {
        let places = [1, 2].map(|number| Some(NoiseSecret::derive(key(number), &RustCrypto)));
        let ring = KeyRing::new(places, &mut Draws::from(Who::Keys, 9)).unwrap();
        servers = Some(Arc::new(ServerKeys::new(ring, &[][..], RustCrypto).unwrap()));
        clients = Some(Arc::new(ClientKeys::new(key(1), &[][..], RustCrypto).unwrap()));
    });
    let (clients, servers) = (clients.unwrap(), servers.unwrap());
    let mut machines = None;
    and_wipe_the_stack(|| machines = Some(Box::new(Machines::new(&clients, &servers))));
    let mut machines = machines.unwrap();
    machines.shake_hands(control);
    machines.exchange(1);
    wipe_stack();
    control.look("live 0");
    machines.exchange(MANY);
    wipe_stack();
    control.look(&format!("{REKEYED} 0"));
    drop(machines);
    control.look("bound");
    drop((clients, servers));
    control.look("gone");
}

type Io = ([u8; 514], [u8; 514]);
type DeviceClient = BufferedClient<Arc<NoiseClientKey>, Io>;
type DeviceServer = BufferedServer<Arc<NoiseServerKey<2>>, Io, ([u8; 256], [u8; 256])>;

/// A connection of falco-embedded, both sides of it.
struct Lines {
    client: DeviceClient,
    server: DeviceServer,
    /// What each side has sent first.
    first: [Vec<u8>; 2],
}

fn carry<A: Role, B: Role, G: KeyRef<A>, H: KeyRef<B>>(
    from: &mut BufferedConnection<A, G, Io>,
    to: &mut BufferedConnection<B, H, Io>,
    first: &mut Vec<u8>,
) {
    let space = to.space().unwrap();
    let count = space.len().min(from.unsent().len());
    space[..count].copy_from_slice(&from.unsent()[..count]);
    if first.is_empty() {
        first.extend(&space[..count]);
    }
    to.filled(count);
    from.sent(NOW, count);
}

impl Lines {
    fn new(clients: &Arc<NoiseClientKey>, servers: &Arc<NoiseServerKey<2>>) -> Self {
        let settings = Settings::new().with_max_record(512).unwrap().with_max_message(256);
        let (mut client, mut server) = (Draws::of(Who::Client), Draws::of(Who::Server));
        let buffers = ([0; 514], [0; 514]);
        let (clients, servers) = (Arc::clone(clients), Arc::clone(servers));
        let bodies = ([0; 256], [0; 256]);
        Self {
            client: BufferedClient::start(clients, &settings, NOW, &mut client, buffers).unwrap(),
            server: BufferedServer::start(servers, &settings, NOW, &mut server, buffers, bodies).unwrap(),
            first: [Vec::new(), Vec::new()],
        }
    }

    fn carry(&mut self) {
        let [up, down] = &mut self.first;
        carry(self.client.connection_mut(), self.server.connection_mut(), up);
        carry(self.server.connection_mut(), self.client.connection_mut(), down);
    }

    fn step_server(&mut self) {
        while self.server.step(NOW).unwrap() {}
        if let Some((request, answer)) = self.server.request() {
            let length = request.len();
            answer[..length].copy_from_slice(request);
            self.server.answer(length);
        }
    }

    fn exchange(&mut self, times: usize) {
        for _ in 0..times {
            let mut ask = self.client.request([7; 100], [0; 100]).unwrap();
            while ask.answered().unwrap().is_none() {
                while self.client.step(NOW, Some(&mut ask)).unwrap() {}
                self.carry();
                self.step_server();
                self.carry();
            }
            assert_eq!(ask.into_parts().1, [7; 100]);
        }
    }
}

pub(crate) fn embedded(control: &mut Control) {
    let (mut clients, mut servers) = (None, None);
    and_wipe_the_stack(|| {
        let places = [1, 2].map(|number| Some(NoiseSecret::derive(key(number), &RustCrypto)));
        let ring = KeyRing::new(places, &mut Draws::from(Who::Keys, 9)).unwrap();
        servers = Some(Arc::new(NoiseServerKey::<2>::new(ring, b"", RustCrypto).unwrap()));
        clients = Some(Arc::new(NoiseClientKey::new(key(1), b"", RustCrypto).unwrap()));
    });
    let (clients, servers) = (clients.unwrap(), servers.unwrap());
    let mut lines = None;
    and_wipe_the_stack(|| lines = Some(Box::new(Lines::new(&clients, &servers))));
    let mut lines = lines.unwrap();
    lines.exchange(1);
    let [hello, welcome] = &lines.first;
    control.handshake(&hello[..74], &welcome[..64]);
    control.look("live 0");
    lines.exchange(MANY);
    control.look(&format!("{REKEYED} 0"));
    lines.client.close(NOW, CloseReason::Done);
    while lines.client.step_idle(NOW).unwrap_or(false) {}
    drop(lines);
    control.look("bound");
    drop((clients, servers));
    control.look("gone");
}

/// Connects, sends a hello under key 1, and reads what the server answers.
pub(crate) fn only_hello(address: SocketAddr) {
    let mut hello = Vec::new();
    and_wipe_the_stack(|| {
        let client = ClientKeys::new(key(1), &[][..], RustCrypto).unwrap();
        let mut draws = Draws::of(Who::Client);
        let mut client = ClientConnection::new(Arc::new(client), &Settings::new(), NOW, &mut draws).unwrap();
        let mut bytes = [0; 1024];
        let length = client.poll_transmit(NOW, &mut bytes).unwrap();
        hello.extend(&bytes[..length]);
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer.len(), 64);
}
