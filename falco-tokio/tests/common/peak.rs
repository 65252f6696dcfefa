//! Clients that send what a test wants and read nothing, and the peak of the memory of this
//! process. Both adapters use it.
#![allow(
    dead_code,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use falco_core::keys::{ClientKeys, Secrets};
use falco_core::{ClientConnection, Key, Received, RequestId, Settings, Unread};
use getrandom::SysRng;
use socket2::{Domain, Socket, Type};

pub(crate) const MIB: usize = 1 << 20;
/// What a connection may hold besides what counts: buffers for input and output.
const BUFFERS: usize = (128 + 96) << 10;

const NOW: falco_core::Instant = falco_core::Instant::ZERO;

/// Whether this process runs this test alone. If not, another one does when this returns.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "FALCO_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture"]).env(ALONE, "1");
    // The allocator gives large buffers back to the system at once. Otherwise it keeps some of them
    // for each thread, which is not what these tests measure.
    child.env("MALLOC_MMAP_THRESHOLD_", "65536");
    assert!(child.status().unwrap().success(), "{test} has failed");
    false
}

/// What this process has taken from the system at most since the last call of [`reset_peak`].
pub(crate) fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

pub(crate) fn reset_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// A listener for whose connections the system holds few bytes.
pub(crate) fn listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(128).unwrap();
    socket.into()
}

/// Waits until `value` has not changed for half a second. Returns it.
fn settled(value: impl Fn() -> usize) -> usize {
    let mut last = (value(), Instant::now());
    while last.1.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(10));
        let now = value();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

/// Prints by how much the peak has grown since `before`, and fails if that is more than `bound`.
#[track_caller]
pub(crate) fn assert_grown(before: usize, bound: usize, of: &str) {
    settled(|| peak() >> 16);
    let grown = peak().saturating_sub(before);
    println!("{of}: {} KiB of {} KiB", grown >> 10, bound >> 10);
    assert!(grown < bound, "{grown} bytes of {bound}: {of}");
}

/// Requests of 4 MiB at most, sealed, for one client after the other: a test measures the memory of
/// the server, so its clients have none of their own.
struct Sealer {
    body: Vec<u8>,
    out: Vec<u8>,
}

impl Sealer {
    fn new() -> Self {
        // Written to, so that it is resident before a test measures.
        Self {
            body: vec![7; 4 * MIB],
            out: vec![7; 5 * MIB],
        }
    }

    /// A request of so many bytes, of which `send` are sent, and all that waits to be sent before
    /// it. Returns its id.
    fn send_part(&mut self, client: &mut Silent, length: usize, send: usize) -> RequestId {
        let body = &self.body[..length];
        let mut request = client.machine.request(length).unwrap();
        let mut sealed = 0;
        loop {
            let messages = [(&mut request, body)];
            let count = client.machine.seal(NOW, messages, &mut self.out[sealed..]).unwrap();
            sealed += count;
            if count == 0 {
                break;
            }
        }
        client.stream.write_all(&self.out[..sealed.min(send)]).unwrap();
        request.id().unwrap()
    }

    fn send(&mut self, client: &mut Silent, length: usize) -> RequestId {
        self.send_part(client, length, usize::MAX)
    }

    /// An open request of so many bytes, of which as many are sent as the server has announced. The
    /// rest is not sent. Returns whether the request has begun.
    fn open(&mut self, client: &mut Silent, length: usize) -> bool {
        let mut rest = &self.body[..length];
        let mut request = client.machine.open_request().unwrap();
        loop {
            let messages = [(&mut request, rest)];
            let sealed = client.machine.seal(NOW, messages, &mut self.out).unwrap();
            if sealed == 0 {
                return request.id().is_some();
            }
            rest = &rest[request.take_sealed()..];
            client.stream.write_all(&self.out[..sealed]).unwrap();
        }
    }

    /// Cancels requests.
    fn cancel(&mut self, client: &mut Silent, requests: &[RequestId]) {
        for request in requests {
            client.machine.cancel(*request).unwrap();
            let count = client.machine.poll_transmit(NOW, &mut self.out).unwrap();
            client.stream.write_all(&self.out[..count]).unwrap();
        }
    }
}

/// The key for clients on the noise wire.
fn noise(key: Key) -> Arc<ClientKeys> {
    let noise = vec![key];
    let secrets = Secrets {
        noise,
        ..Secrets::default()
    };
    Arc::new(secrets.into_client(&mut SysRng).unwrap())
}

/// The key for clients on the classic wire.
fn classic(key: Key) -> Arc<ClientKeys> {
    let classic = Some(key);
    let secrets = Secrets {
        classic,
        nonces: 4096,
        ..Secrets::default()
    };
    Arc::new(secrets.into_client(&mut SysRng).unwrap())
}

/// A client that has completed its handshake and reads nothing. The system holds little for it.
struct Silent {
    machine: ClientConnection<Arc<ClientKeys>>,
    stream: TcpStream,
}

impl Silent {
    fn connect(server: SocketAddr, keys: &Arc<ClientKeys>) -> Self {
        // It takes open answers, with the largest window.
        let settings = Settings::new().with_streams(1023, 1000);
        let mut machine = ClientConnection::new(Arc::clone(keys), &settings, NOW, &mut SysRng).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&server.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        let (mut unread, mut out) = (Vec::new(), [0; 256]);
        loop {
            let count = machine.poll_transmit(NOW, &mut out).unwrap();
            stream.write_all(&out[..count]).unwrap();
            let present = unread.len();
            match machine.recv(NOW, Unread::new(&mut unread, &mut 0)).unwrap() {
                Received::NeedMore { total } => {
                    let more = total - present;
                    let mut bytes = vec![0; more];
                    stream.read_exact(&mut bytes).unwrap();
                    unread.extend(bytes);
                }
                Received::Event(_) => break,
                other @ (Received::Wait(_) | Received::Skip | _) => panic!("{other:?}"),
            }
        }
        let count = machine.poll_transmit(NOW, &mut out).unwrap();
        stream.write_all(&out[..count]).unwrap();
        Self { machine, stream }
    }

    /// Reads so many bytes.
    fn read(&mut self, mut bytes: usize) {
        let mut buffer = [0; 4096];
        while bytes > 0 {
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{bytes} bytes are missing");
            bytes = bytes.saturating_sub(count);
        }
    }
}

/// A server of a test: where it is, its key, and how much memory it may take besides what a test
/// names.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) key: Key,
    pub(crate) besides: usize,
}

/// How many bytes the connections of all clients may hold, in each of these tests but the last.
pub(crate) const BOUND: usize = 8 * MIB;

impl Target {
    /// What `clients` connections may hold if `counted` bytes count.
    fn bound(&self, counted: usize, clients: usize) -> usize {
        counted + clients * BUFFERS + self.besides
    }

    /// Each client sends three requests whose answers have 1 MiB, and reads nothing. On the classic
    /// wire an answer is sealed as a whole.
    #[track_caller]
    pub(crate) fn sealed_answers(self) {
        const CLIENTS: usize = 100;
        // Over the bound, a connection without an answer still gets one.
        let bound = self.bound(BOUND + CLIENTS * MIB, CLIENTS);
        let (keys, mut sealer) = (classic(self.key), Sealer::new());
        let before = reset_peak();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Silent::connect(self.address, &keys)).collect();
        for client in &mut clients {
            for _ in 0..3 {
                sealer.send(client, 1);
            }
        }
        assert_grown(before, bound, "100 classic clients that read no answer");
        drop(clients);
    }

    /// Each client sends a request of 1 MiB, a short one, and a part of another. It reads the
    /// answers, which have one byte.
    #[track_caller]
    pub(crate) fn long_requests(self) {
        const CLIENTS: usize = 100;
        // One request at a time is in the input buffer, and one with its handler.
        let bound = self.bound(3 * MIB, CLIENTS);
        let (keys, mut sealer) = (classic(self.key), Sealer::new());
        let before = reset_peak();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = Silent::connect(self.address, &keys);
            sealer.send(&mut client, MIB);
            sealer.send(&mut client, 1);
            sealer.send_part(&mut client, MIB, 30_000);
            client.read(60);
            clients.push(client);
        }
        assert_grown(before, bound, "100 classic clients after a request of 1 MiB");
        drop(clients);
    }

    /// Clients send requests whose answers have 64 KiB in a vector of 1 MiB, and read nothing. The
    /// answers may have 16 MiB.
    #[track_caller]
    pub(crate) fn answers_with_unused_memory(self) {
        const CLIENTS: usize = 20;
        let bound = self.bound(2 * BOUND, CLIENTS);
        let (keys, mut sealer) = (noise(self.key), Sealer::new());
        let before = reset_peak();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Silent::connect(self.address, &keys)).collect();
        for client in &mut clients {
            for _ in 0..200 {
                sealer.send(client, 1);
            }
        }
        assert_grown(before, bound, "answers of 64 KiB in vectors of 1 MiB");
        drop(clients);
    }

    /// Each client sends `each` open requests of `length` bytes, and reads nothing. `counted` bytes
    /// count, and `more` may be in memory besides. After each request, `until` waits for that many.
    #[track_caller]
    pub(crate) fn open_requests(
        self,
        (clients, each): (usize, usize),
        length: usize,
        (counted, more): (usize, usize),
        until: impl Fn(usize),
    ) {
        let bound = self.bound(counted + more, clients);
        let (keys, mut sealer) = (noise(self.key), Sealer::new());
        let before = reset_peak();
        let mut silent: Vec<_> = (0..clients).map(|_| Silent::connect(self.address, &keys)).collect();
        let mut begun = 0;
        for client in &mut silent {
            for _ in 0..each {
                begun += usize::from(sealer.open(client, length));
                until(begun);
            }
        }
        assert_eq!(begun, clients * each);
        let of = format!("{begun} open requests of {length} bytes, of {clients} clients");
        assert_grown(before, bound, &of);
        drop(silent);
    }

    /// Clients send requests of 256 KiB, cancel them and go. Handlers run on.
    #[track_caller]
    pub(crate) fn cancelled_requests(self) {
        const CLIENTS: usize = 10;
        let bound = self.bound(BOUND, CLIENTS);
        let (keys, mut sealer) = (noise(self.key), Sealer::new());
        let before = reset_peak();
        for _ in 0..4 {
            for _ in 0..CLIENTS {
                let mut client = Silent::connect(self.address, &keys);
                let requests: Vec<_> = (0..8).map(|_| sealer.send(&mut client, 256 << 10)).collect();
                sealer.cancel(&mut client, &requests);
            }
            settled(|| peak() >> 16);
        }
        assert_grown(before, bound, "320 cancelled requests of 256 KiB");
    }

    /// Clients send as many empty requests as they may, whose handlers do not end.
    #[track_caller]
    pub(crate) fn short_requests(self) {
        const CLIENTS: usize = 100;
        // Their records are short, and so are the buffers for them.
        let bound = BOUND + CLIENTS * (64 << 10) + self.besides;
        let (keys, mut sealer) = (noise(self.key), Sealer::new());
        let before = reset_peak();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Silent::connect(self.address, &keys)).collect();
        for client in &mut clients {
            for _ in 0..1024 {
                sealer.send(client, 0);
            }
        }
        assert_grown(before, bound, "102,400 empty requests of 100 clients");
        drop(clients);
    }

    /// On the classic wire, clients send all of a message of 1 MiB but its end.
    #[track_caller]
    pub(crate) fn messages_in_part(self) {
        const CLIENTS: usize = 100;
        let bound = self.bound(BOUND, CLIENTS);
        let (keys, mut sealer) = (classic(self.key), Sealer::new());
        let before = reset_peak();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Silent::connect(self.address, &keys)).collect();
        for client in &mut clients {
            sealer.send_part(client, MIB, 1_000_000);
        }
        assert_grown(before, bound, "1,000,000 bytes each of 100 classic messages");
        drop(clients);
    }

    /// On the noise wire, clients send so much of a message of 4 MiB that a buffer that doubles has
    /// just reserved all of it. The bound is 64 MiB.
    #[track_caller]
    pub(crate) fn messages_in_parts(self) {
        const CLIENTS: usize = 40;
        let bound = self.bound(64 * MIB, CLIENTS);
        let (keys, mut sealer) = (noise(self.key), Sealer::new());
        let before = reset_peak();
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Silent::connect(self.address, &keys)).collect();
        for client in &mut clients {
            sealer.send_part(client, 4 * MIB, 2_850_000);
        }
        assert_grown(before, bound, "2,850,000 bytes each of 40 messages of 4 MiB");
        drop(clients);
    }

    /// Clients send requests whose handlers wait for each other, so that all of them start before
    /// the first answer is queued. `answered` counts the answers, of which no more than `most`
    /// bytes may be in memory.
    #[track_caller]
    pub(crate) fn waiting_handlers(
        self,
        (clients, requests): (usize, usize),
        (handlers, answered): (usize, &AtomicUsize),
        most: usize,
    ) {
        let bound = self.bound(most, clients);
        let (keys, mut sealer) = (noise(self.key), Sealer::new());
        let before = reset_peak();
        let mut silent: Vec<_> = (0..clients).map(|_| Silent::connect(self.address, &keys)).collect();
        for client in &mut silent {
            for _ in 0..requests {
                sealer.send(client, 1);
            }
        }
        let since = Instant::now();
        while answered.load(Ordering::SeqCst) < handlers {
            assert!(since.elapsed() < Duration::from_secs(60), "handlers do not run");
            thread::sleep(Duration::from_millis(10));
        }
        assert_grown(
            before,
            bound,
            &format!("{handlers} handlers at once, of {clients} clients"),
        );
        drop(silent);
    }
}
