//! The settings of a server, and how it is bound.

use core::time::Duration;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;

use falco_core::keys::{Entropy, Secrets};
use falco_core::mux::{AdmissionLimits, SharedBudget, Source};
use falco_core::{EntropyError, Fate, Key, Settings, SettingsBuilder};

use super::admission::Admission;
use super::listener::Listener;
use super::pool::Pool;
use super::state::streams::OpenPlaces;
use super::{Server, Service, descriptors};
use crate::clock::Clock;
use crate::entropy;
use crate::error::Error;
use crate::open::{STREAM_WINDOW, kib};

/// The default of [`ServerBuilder::workers`]. It may exceed the number of processors, because most
/// handlers wait more than they compute.
const WORKERS: usize = 64;
/// The default of [`ServerBuilder::queue_timeout`].
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of [`ServerBuilder::max_connections`].
const MAX_CONNECTIONS: usize = 1024;
/// The default of [`ServerBuilder::max_half_open`]. A half-open connection has a thread once its
/// client has sent something. Few are enough, as a handshake takes a fraction of a millisecond.
const MAX_HALF_OPEN: usize = 256;
/// The default limit on open requests of a connection.
const MAX_OPEN: u16 = 256;

/// Settings of a [`Server`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is bound"]
pub struct ServerBuilder {
    secrets: Secrets,
    settings: SettingsBuilder,
    workers: usize,
    queue_timeout: Duration,
    limits: AdmissionLimits,
    source_prefix: (u8, u8),
    raise_descriptor_limit: bool,
    max_held: usize,
    max_answers: Option<usize>,
    /// The window in KiB, and how many open requests a connection may have.
    streams: (u16, u16),
    max_connection_age: Option<Duration>,
    entropy: Entropy,
}

impl Server {
    /// A server on the noise wire, for clients that have `key`. Both sides prove that they have the
    /// key, and each connection has keys of its own.
    pub fn builder(key: Key) -> ServerBuilder {
        ServerBuilder::new(Secrets {
            noise: vec![key],
            ..Secrets::default()
        })
    }

    /// A server on the classic wire alone, for clients of the published falcotcp 0.1.x and for
    /// [`Client::classic`](crate::Client::classic).
    ///
    /// On this wire, anyone who replays a recorded handshake is taken for a client that has the
    /// key. [`falco_core::classic`] says what else the wire does not provide.
    pub fn classic(key: Key) -> ServerBuilder {
        ServerBuilder::new(Secrets {
            classic: Some(key),
            ..Secrets::default()
        })
    }
}

impl ServerBuilder {
    fn new(secrets: Secrets) -> Self {
        Self {
            secrets: Secrets {
                nonces: Secrets::DEFAULT_SERVER_NONCES,
                ..secrets
            },
            settings: SettingsBuilder::new(),
            workers: WORKERS,
            queue_timeout: QUEUE_TIMEOUT,
            limits: AdmissionLimits::new(MAX_CONNECTIONS, MAX_HALF_OPEN),
            source_prefix: Source::PREFIX,
            raise_descriptor_limit: true,
            max_held: SharedBudget::DEFAULT_BYTES,
            max_answers: None,
            streams: (kib(STREAM_WINDOW), MAX_OPEN),
            max_connection_age: None,
            entropy: entropy::system(),
        }
    }

    /// Adds a key on the noise wire. The server accepts clients that have any of its keys.
    pub fn key(mut self, key: Key) -> Self {
        self.secrets.noise.push(key);
        self
    }

    /// Accepts another key, with a label that names its holder. Handlers see it as
    /// [`Request::key_label`](crate::Request::key_label). It is not secret and is never sent.
    pub fn labeled_key(mut self, label: impl Into<Arc<str>>, key: Key) -> Self {
        self.secrets.labels.push((key.id(), label.into()));
        self.secrets.noise.push(key);
        self
    }

    /// Speaks the classic wire too, on the same port. Its key must differ from those of the noise
    /// wire, otherwise binding fails. [`falco_core::classic`] says what that wire does not provide.
    pub fn classic(mut self, key: Key) -> Self {
        self.secrets.classic = Some(key);
        self
    }

    /// The context: the name of the service, or any bytes that both sides have agreed on, 65,535
    /// at most. A client with another context is refused. Empty by default. The classic wire has
    /// none.
    pub fn context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.secrets.context = context.into();
        self
    }

    /// The largest message, the in-flight limit, the lifetime, the handshake timeout. A value that
    /// is set by its own method, before or after this, takes precedence.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = self.settings.settings(settings);
        self
    }

    /// The largest body of a request or an answer, in bytes: 16 MiB by default.
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.settings = self.settings.max_message(bytes);
        self
    }

    /// The idle timeout: how long a connection stays open without a received record (noise), or
    /// without a message or a ping (classic). 60 s by default, 1 s to 49 days. On the noise wire
    /// the smaller value of both sides applies.
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.settings = self.settings.lifetime(lifetime);
        self
    }

    /// How long a handshake may take: 5 s by default, at least 1 ms.
    pub const fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings = self.settings.handshake_timeout(timeout);
        self
    }

    /// How many requests of one connection may be in flight at once: 1024 by default, at least 1. A
    /// client holds back further ones.
    pub const fn max_in_flight(mut self, requests: u16) -> Self {
        self.settings = self.settings.max_in_flight(requests);
        self
    }

    /// How many handlers may run at once, 64 by default. 0 counts as 1. Handlers on threads of
    /// connections count too. Further requests wait, for the [queue timeout](Self::queue_timeout)
    /// at most. Connections take turns: even if many requests of one connection wait, a request of
    /// another connection waits for at most one of them. Handlers of open requests may wait for
    /// their clients for a long time. They take at most half of the workers, or the only one.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How long a request may wait for a worker, 5 s by default. After that it is refused as
    /// [busy](falco_core::Refusal::Busy). It was not processed, and the client may send it again.
    ///
    /// The default is shorter than the client's request timeout of 30 s, so that the client can
    /// still use another server. The timeout also ends the deadlock in which the handlers of all
    /// workers wait for requests to their own server. The classic wire has no refusals: there the
    /// earlier requests are answered, and then the connection ends.
    pub const fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// How many connections there may be at once, half-open ones included, 1024 by default. 0
    /// counts as 1. Each takes a thread and a file descriptor. If the process may not open as many
    /// files, there are fewer: see [`raise_descriptor_limit`](Self::raise_descriptor_limit).
    ///
    /// When one more is accepted, a half-open connection is dropped for it, as
    /// [`max_half_open`](Self::max_half_open) describes. If all are established, the new one is
    /// closed at once.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.limits.max_connections = connections;
        self
    }

    /// How many connections may be half-open, that is, in their handshake, at once, 256 by default.
    /// 0 counts as 1.
    ///
    /// When one more arrives, one of them is dropped for it, preferably one that has sent nothing,
    /// only part of a hello, or a replayed hello. Until then, the new one waits in the listener's
    /// backlog. [`falco_core::mux::Admission`] has the whole rule. On Unix, a connection with bytes
    /// that the server has not read yet is never dropped. On other systems, the server cannot tell
    /// whether there are such bytes.
    pub const fn max_half_open(mut self, connections: usize) -> Self {
        self.limits.max_half_open = connections;
        self
    }

    /// How many connections of one source may be half-open at once, see
    /// [`source_prefix`](Self::source_prefix); 0 counts as 1. No limit by default, because many
    /// clients may share one address, behind NAT or a proxy. When places are short, the server
    /// drops connections of the source that has the most, even without this limit.
    ///
    /// When one more arrives, one of the same source is dropped for it. If a source has twice as
    /// many, its new connections are closed at once.
    pub const fn max_half_open_per_source(mut self, connections: usize) -> Self {
        self.limits.max_half_open_per_source = Some(connections);
        self
    }

    /// How many leading bits of an IPv4 address and of an IPv6 address identify a source: 32 and 64
    /// by default. Connections without an address, such as those of Unix sockets, are one source.
    pub const fn source_prefix(mut self, v4_bits: u8, v6_bits: u8) -> Self {
        self.source_prefix = (v4_bits, v6_bits);
        self
    }

    /// How many connections may be established under one key at once; 0 counts as 1. No limit by
    /// default: then everyone who has a key can take all of
    /// [`max_connections`](Self::max_connections). Set it if several parties have keys of their
    /// own.
    ///
    /// A connection over the limit is closed after its handshake, before any of its requests is
    /// processed. The client connects again, with growing back-off.
    pub const fn max_connections_per_key(mut self, connections: usize) -> Self {
        self.limits.max_connections_per_key = Some(connections);
        self
    }

    /// The age at which a connection drains, plus or minus a tenth. No limit by default. Its
    /// requests complete, and its client continues on a new connection, without an error. So
    /// clients move to other servers behind a load balancer. The classic wire has no such limit.
    pub const fn max_connection_age(mut self, age: Duration) -> Self {
        self.max_connection_age = Some(age);
        self
    }

    /// How many connections may be established on the classic wire at once. If the server also
    /// accepts the noise wire, the default is half of [`max_connections`](Self::max_connections).
    /// Otherwise there is no such limit by default. After a restart of the server, a recorded hello
    /// is enough to establish such a connection. The limit keeps the other places for the noise
    /// wire.
    pub const fn max_classic_connections(mut self, connections: usize) -> Self {
        self.limits.max_classic_connections = Some(connections);
        self
    }

    /// Whether binding may raise the process's soft limit of open files (`ulimit -n`,
    /// `RLIMIT_NOFILE`): to what [`max_connections`](Self::max_connections) needs, but not above
    /// the hard limit. True by default. This affects the whole process and programs that it starts;
    /// code that calls `select` fails with descriptors over 1023.
    ///
    /// If descriptors are still too few, the limits on connections are lowered: 64 descriptors are
    /// kept for the rest of the process, beside those that are open when the server is bound, and
    /// half-open connections get at most half of the others.
    /// [`ServerStats`](crate::ServerStats) has the limits in force. Each server counts as if it
    /// were the only one of its process: if there are several, set `max_connections` of each so
    /// that the sum fits.
    pub const fn raise_descriptor_limit(mut self, raise: bool) -> Self {
        self.raise_descriptor_limit = raise;
        self
    }

    /// How many bytes the requests in flight on all connections may hold, 1 GiB by default.
    /// [`Settings::with_max_held`] limits those of one connection. Each request counts 1 KiB
    /// besides its body here, so that the number of requests is limited too. A request beyond the
    /// limit is refused as busy.
    ///
    /// If the server has several keys, the requests of one key take at most eight ninths of the
    /// bytes that those of the other keys leave. The same holds for answers and
    /// [`max_answers`](Self::max_answers).
    ///
    /// While more bytes of answers than this are queued on all connections, a request reaches a
    /// handler only if at most 16 KiB are queued on its own connection.
    pub const fn max_held(mut self, bytes: usize) -> Self {
        self.max_held = bytes;
        self
    }

    /// How many bytes of answers may be queued over all connections: by default twice
    /// [`max_held`](Self::max_held), and 2 GiB at least. It is more than `max_held`, because
    /// handlers that are running when `max_held` is reached still answer.
    ///
    /// An answer is queued only if its connection then has no more bytes of answers than are left
    /// for all others, or at most 16 KiB. Otherwise it is dropped, and its request is refused as
    /// [`AnswerTooLarge`](crate::Refusal::AnswerTooLarge).
    pub const fn max_answers(mut self, bytes: usize) -> Self {
        self.max_answers = Some(bytes);
        self
    }

    /// The limits on open requests, for [`Server::serve_streams`]. `window` is how many bytes of an
    /// open body may arrive before its reader takes them: 256 KiB by default, at most 64 MiB,
    /// rounded up to KiB. It is reserved for each open request, within the same limits as the bytes
    /// of other requests ([`Settings::with_max_held`], [`max_held`](Self::max_held)). A body
    /// transfers at most one window in each round trip.
    ///
    /// `max_open` is how many open requests of one connection may be in flight: 256 by default.
    /// Each counts towards [`max_in_flight`](Self::max_in_flight) too. It is lowered until the
    /// windows of all of them fit three quarters of what a connection may hold: 192 with the
    /// defaults. In this crate it is at most half of the [workers](Self::workers). With a window of
    /// 0, the server takes no open requests.
    pub const fn streams(mut self, window: u32, max_open: u16) -> Self {
        self.streams = (kib(window), max_open);
        self
    }

    /// The size of the replay cache on the classic wire, in nonces of 20 bytes, 65,536 by default.
    /// Each request and each answer takes one. A message whose nonce it contains is rejected. With
    /// 0 there is no cache. The noise wire needs none.
    pub const fn replay_memory(mut self, nonces: usize) -> Self {
        self.secrets.nonces = nonces;
        self
    }

    /// The source of random numbers, for tests and simulations: the operating system by default. A
    /// source that is not cryptographically secure reveals the keys.
    pub fn entropy(mut self, fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        self.entropy = Entropy::new(fill);
        self
    }

    /// Binds to an address. With port 0 the system chooses a port, which [`Server::local_addr`]
    /// returns. Up to 4096 connections wait to be accepted, if the system allows as many.
    ///
    /// # Errors
    /// [`Error`].
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<Server, Error> {
        self.build(Some(Listener::bind(address).map_err(binding)?))
    }

    /// Accepts connections from a bound listener.
    ///
    /// On Unix the server sets the socket to non-blocking mode. When it shuts down, it shuts the
    /// listening socket down. Both affect other processes that share the socket.
    ///
    /// # Errors
    /// [`Error`].
    pub fn from_listener(self, listener: TcpListener) -> Result<Server, Error> {
        self.build(Some(Listener::tcp(listener).map_err(binding)?))
    }

    /// Binds to a Unix socket. The file must not exist, and the server does not remove it.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn bind_unix(self, path: impl AsRef<Path>) -> Result<Server, Error> {
        self.build(Some(Listener::bind_unix(path.as_ref()).map_err(binding)?))
    }

    /// Accepts connections from a bound Unix listener.
    ///
    /// On Unix the server sets the socket to non-blocking mode. When it shuts down, it shuts the
    /// listening socket down. Both affect other processes that share the socket.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn from_unix_listener(self, listener: UnixListener) -> Result<Server, Error> {
        self.build(Some(Listener::unix(listener).map_err(binding)?))
    }

    /// Creates a server that is bound to nothing, for [`Server::serve_connection`].
    ///
    /// # Errors
    /// [`Error::Entropy`], [`Error::Setup`].
    pub fn unbound(self) -> Result<Server, Error> {
        self.build(None)
    }

    fn build(self, listener: Option<Listener>) -> Result<Server, Error> {
        let (window, max_open) = self.streams;
        // Half of the workers. With one worker, an open request takes it.
        let places = (self.workers / 2).max(1);
        let max_open = max_open.min(u16::try_from(places).unwrap_or(u16::MAX));
        let settings = self.settings.build()?.with_fitting_streams(window, max_open);
        let mut entropy = self.entropy;
        let mut limits = self.limits.for_keys(&self.secrets);
        let several_keys = self.secrets.has_several();
        let keys = self.secrets.into_server(&mut entropy)?;
        // If the entropy source fails, the seed is not random. Then no handshake succeeds either.
        let seed = entropy.below(u64::MAX);
        if listener.is_some()
            && let Some(available) = descriptors::available(limits.max_connections, self.raise_descriptor_limit)
        {
            limits = limits.within(available);
        }
        let (clock, threads) = (Clock::new(), Arc::default());
        let service = Service {
            keys: Arc::new(keys),
            settings,
            entropy,
            queue_timeout: self.queue_timeout,
            clock,
            admission: Arc::new(Admission::new(limits, seed, clock)),
            source_prefix: self.source_prefix,
            threads: Arc::clone(&threads),
            pool: Arc::new(Pool::new(self.workers.max(1), threads)),
            open_places: OpenPlaces::new(places),
            budget: match self.max_answers {
                Some(max_answers) => SharedBudget::with_max_answers(self.max_held, max_answers),
                None => SharedBudget::new(self.max_held),
            },
            max_connection_age: self.max_connection_age,
            linger: Arc::default(),
        };
        if several_keys {
            service.share_by_key();
        }
        Ok(Server {
            service: Arc::new(service),
            listener: listener.map(Arc::new),
        })
    }
}

fn binding(error: io::Error) -> Error {
    Error::io("binding", error, Fate::NotProcessed)
}
