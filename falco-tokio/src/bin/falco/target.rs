//! The arguments of all commands that call a server: its address, the key, the wire.

use core::time::Duration;

use clap::{Args, ValueEnum};
use falco_tokio::{Client, ClientBuilder, Error, Key, Settings};

use crate::failure::Failure;
use crate::key::{self, KeyArgs};
use crate::values::{self, Address, Servers};

/// The wire that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientWire {
    /// Mutual authentication, forward secrecy, many requests at once
    Noise,
    /// For servers of the published falcotcp 0.1.x
    Classic,
}

impl ClientWire {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Classic => "classic",
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Target {
    /// The server: HOST, HOST:PORT or unix:PATH; the port is 4287 if none is given. Several servers
    /// are separated by commas: one that cannot be reached is not tried again for a while
    /// (back-off), and the next one is used
    pub(crate) address: Servers,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The wire that the server speaks
    #[arg(long, value_enum, default_value = "noise")]
    pub(crate) wire: ClientWire,
    /// The name of the service, if the server has one
    #[arg(long, value_name = "TEXT")]
    pub(crate) context: Option<String>,
    /// The largest message in either direction, such as 64K or 16M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = values::size)]
    pub(crate) max_message: u32,
}

impl Target {
    /// Reads the key.
    pub(crate) fn key(&self) -> Result<Key, Failure> {
        let variables: &[&str] = match self.wire {
            ClientWire::Noise => &[key::KEY_VARIABLE],
            ClientWire::Classic => &[key::CLASSIC_KEY_VARIABLE, key::KEY_VARIABLE],
        };
        if self.wire == ClientWire::Classic && self.context.is_some() {
            return Err(Failure::usage("the classic wire has no --context: leave it out"));
        }
        self.key.find(variables)
    }

    /// Reads the key again, or says why it cannot have changed.
    pub(crate) fn key_again(&self) -> Result<Key, Failure> {
        self.key.check_can_change()?;
        self.key()
    }

    /// A client that has `limit` as the time limit of the handshake, of connecting and of each
    /// request.
    pub(crate) fn builder(&self, key: Key, limit: Duration) -> Result<ClientBuilder, Failure> {
        self.builder_with(key, limit, |settings| settings)
    }

    /// The same, with other settings.
    pub(crate) fn builder_with(
        &self,
        key: Key,
        limit: Duration,
        other: impl FnOnce(Settings) -> Settings,
    ) -> Result<ClientBuilder, Failure> {
        let settings = Settings::new()
            .with_max_message(self.max_message)
            .with_handshake_timeout(limit)
            .map_err(Failure::usage)?;
        let settings = other(settings);
        let builder = match self.wire {
            ClientWire::Noise => Client::builder(key).context(self.context.as_deref().unwrap_or_default()),
            ClientWire::Classic => Client::classic(key),
        };
        Ok(builder
            .settings(settings)
            .connect_timeout(limit)
            .request_timeout(Some(limit)))
    }

    pub(crate) async fn connect(&self, builder: ClientBuilder) -> Result<Client, Failure> {
        self.open(builder)
            .await
            .map_err(|error| Failure::connecting(&error, &self.address))
    }

    /// A client that connects when it has something to send, or at once to a Unix socket.
    pub(crate) async fn connect_lazy(&self, builder: ClientBuilder) -> Result<Client, Error> {
        match &self.address {
            Servers::One(Address::Tcp(name)) => builder.connect_lazy(name),
            Servers::Any(names) => builder.connect_any_lazy(names),
            #[cfg(unix)]
            Servers::One(Address::Unix(path)) => builder.connect_unix(path).await,
            #[cfg(not(unix))]
            Servers::One(Address::Unix(_)) => Err(Error::Closed),
        }
    }

    async fn open(&self, builder: ClientBuilder) -> Result<Client, Error> {
        match &self.address {
            Servers::One(Address::Tcp(name)) => builder.connect(name).await,
            Servers::Any(names) => builder.connect_any(names).await,
            #[cfg(unix)]
            Servers::One(Address::Unix(path)) => builder.connect_unix(path).await,
            #[cfg(not(unix))]
            Servers::One(Address::Unix(_)) => Err(Error::Closed),
        }
    }
}
