//! Settings of a server, and binding.

use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;

use falco_core::keys::{Entropy, Secrets};
use falco_core::mux::{AdmissionLimits, SharedBudget, Source};
use falco_core::{EntropyError, Key, Settings, SettingsBuilder};
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::net::{TcpListener, ToSocketAddrs};

use super::accept::{self, Listener};
use super::descriptors;
use super::headers;
use super::holder::Holders;
use super::registry::Registry;
use super::stats::Counters;
use super::warning::Warnings;
use super::{OnCancel, Server, Service};
use crate::clock::Clock;
use crate::entropy;
use crate::error::Error;

/// The default limit on connections.
const MAX_CONNECTIONS: usize = 10_000;
/// The default window of open bodies.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// The default limit on open requests of a connection.
const MAX_OPEN: u16 = 256;

/// A number of bytes in KiB, rounded up, as far as settings can have it.
pub(crate) const fn kib(bytes: u32) -> u16 {
    // A const function has no other conversion.
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "it is at most 65,535"
    )]
    if bytes > (u16::MAX as u32) << 10 {
        u16::MAX
    } else {
        bytes.div_ceil(1 << 10) as u16
    }
}

/// The default limit on half-open connections.
const MAX_HALF_OPEN: usize = 4096;

/// Settings of a [`Server`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is bound"]
pub struct ServerBuilder {
    secrets: Secrets,
    settings: SettingsBuilder,
    limits: AdmissionLimits,
    source_prefix: (u8, u8),
    #[cfg(feature = "proxy-protocol")]
    proxies: super::proxied::Proxies,
    raise_descriptor_limit: bool,
    max_held: usize,
    max_answers: Option<usize>,
    max_connection_age: Option<Duration>,
    streams: (u16, u16),
    on_cancel: OnCancel,
    spawn_handlers: bool,
    entropy: Entropy,
}

impl Server {
    /// A server for clients that have `key`. It speaks the noise wire: both sides prove that they
    /// have the key, and each connection has session keys of its own.
    pub fn builder(key: Key) -> ServerBuilder {
        ServerBuilder::new(Secrets {
            noise: vec![key],
            ..Secrets::default()
        })
    }

    /// A server that speaks the classic wire alone, to clients of the published falcotcp 0.1.x and
    /// to [`Client::classic`](crate::Client::classic).
    ///
    /// The wire proves to the server that the client has the key, or a recording of a client that
    /// has it. [`falco_core::classic`] lists what it does not provide.
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
            limits: AdmissionLimits::new(MAX_CONNECTIONS, MAX_HALF_OPEN),
            source_prefix: Source::PREFIX,
            #[cfg(feature = "proxy-protocol")]
            proxies: super::proxied::Proxies::default(),
            raise_descriptor_limit: true,
            max_held: SharedBudget::DEFAULT_BYTES,
            max_answers: None,
            max_connection_age: None,
            streams: (kib(STREAM_WINDOW), MAX_OPEN),
            on_cancel: OnCancel::default(),
            spawn_handlers: false,
            entropy: entropy::system(),
        }
    }

    /// Accepts another key on the noise wire, in addition to those set before.
    pub fn key(mut self, key: Key) -> Self {
        self.secrets.noise.push(key);
        self
    }

    /// Accepts another key, with a label that names its holder. Handlers see it as
    /// [`Request::key_label`](crate::Request::key_label), and log events have it. It is not secret
    /// and is never sent.
    pub fn labeled_key(mut self, label: impl Into<Arc<str>>, key: Key) -> Self {
        self.secrets.labels.push((key.id(), label.into()));
        self.secrets.noise.push(key);
        self
    }

    /// Also speaks the classic wire, on the same port and under a key of its own: binding fails if
    /// the noise wire has the same key. [`falco_core::classic`] lists what that wire does not
    /// provide.
    pub fn classic(mut self, key: Key) -> Self {
        self.secrets.classic = Some(key);
        self
    }

    /// The name of the service, or any bytes that both sides have agreed on, at most 65,535. A
    /// client with another context is refused. Empty by default. The classic wire has no context.
    pub fn context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.secrets.context = context.into();
        self
    }

    /// The largest message, the requests in flight on one connection, the lifetime, the handshake
    /// timeout. A value that is set by its own method, before or after this, takes precedence.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = self.settings.settings(settings);
        self
    }

    /// The largest message body in both directions, in bytes: 16 MiB by default.
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

    /// How many connections there may be at once, half-open ones included: 10,000 by default; 0
    /// counts as 1. Each takes a file descriptor, and under 4 KiB while it is idle. If the process
    /// may not open as many files, there are fewer: see
    /// [`raise_descriptor_limit`](Self::raise_descriptor_limit).
    ///
    /// When one more is accepted, a half-open connection is dropped for it, as
    /// [`max_half_open`](Self::max_half_open) describes. If all are established, the new one is
    /// closed at once.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.limits.max_connections = connections;
        self
    }

    /// How many connections may be half-open, that is, in their handshake, at once: 4096 by
    /// default; 0 counts as 1.
    ///
    /// When one more arrives, one of them is dropped for it, preferably one that has sent nothing,
    /// only part of a hello, or a replayed hello. Until then, the new one waits in the listener's
    /// backlog. [`falco_core::mux::Admission`] has the whole rule. A connection with bytes that the
    /// server has not read yet is never dropped.
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

    /// Trusts the proxies in a network: all addresses whose first `bits` bits are those of
    /// `network`. Connections from there have to begin with a header of the PROXY protocol, version
    /// 1 or 2, which names the client: it is the [`peer`](crate::Request::peer) of requests and
    /// logs, and what limits per source count. Without a header within the handshake timeout, or
    /// with one that is longer than 16 KiB, such a connection is closed, and a warning is logged.
    /// On other connections no header is accepted. By default no proxy is trusted. Unix sockets
    /// have no address, and no header is read from them.
    ///
    /// A connection counts towards [`max_connections`](Self::max_connections) once its header has
    /// been read. In addition, [`max_half_open`](Self::max_half_open) + 64 connections may wait for
    /// their headers. Each has a file descriptor. If descriptors are scarce, fewer connections may
    /// wait, with at most a quarter of the descriptors.
    #[cfg(feature = "proxy-protocol")]
    pub fn trust_proxy(mut self, network: core::net::IpAddr, bits: u8) -> Self {
        self.proxies.trust(network, bits);
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
    /// If descriptors are still too few, the limits on connections are lowered and a warning is
    /// logged: 64 descriptors are kept for the rest of the process, beside those that are open when
    /// the server is bound, and half-open connections get at most half of the others.
    /// [`ServerStats`](crate::ServerStats) has the limits in force. Each server counts as if it
    /// were the only one of its process: if there are several, set `max_connections` of each so
    /// that the sum fits.
    pub const fn raise_descriptor_limit(mut self, raise: bool) -> Self {
        self.raise_descriptor_limit = raise;
        self
    }

    /// How many bytes uncompleted requests may hold over all connections: 1 GiB by default;
    /// [`Settings::with_max_held`] bounds those of one connection. Each request counts 1 KiB
    /// besides its body here, so that the number of requests is bounded too. A request over the
    /// limit is refused as busy.
    ///
    /// If the server has several keys, the requests of one key take at most eight ninths of the
    /// bytes that those of the other keys leave. The same holds for answers and
    /// [`max_answers`](Self::max_answers).
    ///
    /// While more bytes of answers than this are queued over all connections, a request reaches a
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
    /// defaults. With a window of 0, the server takes no open requests.
    pub const fn streams(mut self, window: u32, max_open: u16) -> Self {
        self.streams = (kib(window), max_open);
        self
    }

    /// The size of the classic wire's replay cache: 65,536 nonces by default, 20 bytes each; 0
    /// means none. Each request and each answer takes one. A message whose nonce is in the cache is
    /// refused. The noise wire needs none.
    pub const fn replay_memory(mut self, nonces: usize) -> Self {
        self.secrets.nonces = nonces;
        self
    }

    /// What happens to the handler of a request that its client has cancelled or whose connection
    /// has ended: by default its future is dropped.
    pub const fn on_cancel(mut self, on_cancel: OnCancel) -> Self {
        self.on_cancel = on_cancel;
        self
    }

    /// Whether every handler gets a task of its own at once. By default a handler is first polled
    /// on its connection's task, which costs less if most handlers are ready at once. But a handler
    /// that computes for long before it first waits delays its connection.
    pub const fn spawn_handlers(mut self, spawn: bool) -> Self {
        self.spawn_handlers = spawn;
        self
    }

    /// The source of random numbers, instead of the operating system's, for tests and simulations.
    /// In production, a source that is not cryptographic reveals the keys.
    pub fn entropy(mut self, fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        self.entropy = Entropy::new(fill);
        self
    }

    /// Binds to an address. With port 0 the system chooses one; [`Server::local_addr`] returns it.
    /// Up to 4096 connections wait to be accepted, if the system allows that many.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn bind(self, address: impl ToSocketAddrs) -> Result<Server, Error> {
        let listener = accept::bind(address).await.map_err(binding)?;
        self.from_listener(listener)
    }

    /// Accepts connections from a listener that is bound already.
    ///
    /// # Errors
    /// [`Error`].
    pub fn from_listener(self, listener: TcpListener) -> Result<Server, Error> {
        self.build(Some(Listener::Tcp(listener)))
    }

    /// Binds to a Unix socket. The file must not exist, and stays after the server has ended.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn bind_unix(self, path: impl AsRef<Path>) -> Result<Server, Error> {
        let listener = UnixListener::bind(path).map_err(binding)?;
        self.from_unix_listener(listener)
    }

    /// Accepts connections from a Unix listener that is bound already.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn from_unix_listener(self, listener: UnixListener) -> Result<Server, Error> {
        self.build(Some(Listener::Unix(listener)))
    }

    /// A server that is bound to nothing, for [`Server::serve_connection`].
    ///
    /// # Errors
    /// [`Error::Entropy`], [`Error::Setup`].
    pub fn unbound(self) -> Result<Server, Error> {
        self.build(None)
    }

    fn build(self, listener: Option<Listener>) -> Result<Server, Error> {
        let (window, max_open) = self.streams;
        let settings = self.settings.build()?.with_fitting_streams(window, max_open);
        let mut entropy = self.entropy;
        let mut limits = self.limits.for_keys(&self.secrets);
        let several_keys = self.secrets.has_several();
        let keys = self.secrets.into_server(&mut entropy)?;
        // 0 if the source of random numbers fails. Then no handshake succeeds either.
        let seed = entropy.below(u64::MAX);
        #[cfg(feature = "proxy-protocol")]
        let trusts_proxies = !self.proxies.is_empty();
        #[cfg(not(feature = "proxy-protocol"))]
        let trusts_proxies = false;
        let mut headers = headers::wanted(&limits, trusts_proxies);
        if listener.is_some() {
            (limits, headers) = descriptors::divide(limits, headers, self.raise_descriptor_limit);
        }
        let clock = Clock::new();
        let service = Service {
            keys: Arc::new(keys),
            settings,
            clock,
            entropy,
            budget: match self.max_answers {
                Some(max_answers) => SharedBudget::with_max_answers(self.max_held, max_answers),
                None => SharedBudget::new(self.max_held),
            },
            registry: Registry::new(limits, seed, clock),
            counters: Counters::new(),
            holders: Holders::default(),
            warnings: Warnings::default(),
            source_prefix: self.source_prefix,
            #[cfg(feature = "proxy-protocol")]
            proxies: self.proxies,
            headers,
            max_connection_age: self.max_connection_age,
            on_cancel: self.on_cancel,
            spawn_handlers: self.spawn_handlers,
            limit: tokio::sync::watch::Sender::new(None),
        };
        if several_keys {
            service.share_by_key();
        }
        Ok(Server {
            service: Arc::new(service),
            listener,
        })
    }
}

fn binding(error: io::Error) -> Error {
    Error::io("binding", error, falco_core::Fate::NotProcessed)
}
