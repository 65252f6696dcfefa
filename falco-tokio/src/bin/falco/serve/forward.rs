//! The targets of `falco serve --forward`: to which addresses connections of clients are carried.

use core::time::Duration;
use std::collections::HashMap;
use std::io;

use falco_tokio::tunnel::{self, Carried, Incoming};
use falco_tokio::{HandlerError, Refusal, StreamRequest};
use tracing::Span;

use crate::carried::Socket;
use crate::failure::Failure;
use crate::places::Places;
use crate::values::{Address, Forward};

/// How long connecting to a target may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where connections of clients are carried.
#[derive(Debug)]
pub(super) struct Targets {
    /// By name. The name of the only one is empty, unless it has another.
    addresses: HashMap<String, Address>,
    /// For the connections of all clients: each takes a descriptor.
    places: Places,
    idle_timeout: Option<Duration>,
}

impl Targets {
    /// `places`: how many connections are carried at once. `idle_timeout`: how long one may carry
    /// nothing.
    pub(super) fn new(
        forwards: &[Forward],
        places: usize,
        idle_timeout: Option<Duration>,
    ) -> Result<Option<Self>, Failure> {
        let mut targets = HashMap::new();
        for Forward { name, address } in forwards {
            if targets.insert(name.clone(), address.clone()).is_some() {
                return Err(Failure::usage(if name.is_empty() {
                    "--forward is given more than once: each needs a name then, as in --forward db=127.0.0.1:5432"
                        .to_owned()
                } else {
                    format!("two targets of --forward have the name {name}")
                }));
            }
        }
        let places = Places::new(places);
        Ok((!targets.is_empty()).then_some(Self {
            addresses: targets,
            places,
            idle_timeout,
        }))
    }

    /// The server has several keys, and one of them is not to take all places.
    pub(super) fn share_by_key(&self) {
        self.places.share_by_key();
    }

    /// Carries one connection of a client. One that is not carried to its end counts as a request
    /// that was refused: that is no fault of this server.
    pub(super) async fn carry(&self, request: StreamRequest) -> Result<(), HandlerError> {
        let key = request.key_id();
        let incoming = tunnel::accept(request).await?;
        let name = incoming.target().to_owned();
        let Some(address) = self.addresses.get(&name) else {
            tracing::warn!(to = %name.escape_debug(), "refused a connection: there is no such target");
            return refuse(incoming, "there is no such target").await;
        };
        let Some(_place) = self.places.try_take(key) else {
            tracing::warn!(to = %name.escape_debug(), "refused a connection: there is no place for more");
            return refuse(incoming, "the server carries as many connections as it can").await;
        };
        let connecting = tokio::time::timeout(CONNECT, Socket::connect(address)).await;
        let socket = match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(to = %name.escape_debug(), %address, %error, "cannot connect to the target");
                // The client does not learn the address.
                let reason = format!("no connection to the target: {}", error.kind());
                return refuse(incoming, &reason).await;
            }
        };
        tracing::debug!(to = %name.escape_debug(), "connected to the target");
        let mut connection = Connection {
            socket,
            name: &name,
            span: Span::current(),
            cut_off: Some("its client is gone".to_owned()),
        };
        let (reads, writes) = connection.socket.halves();
        if let Err(error) = incoming
            .idle_timeout(self.idle_timeout)
            .join_halves(reads, writes)
            .await
        {
            connection.cut_off = Some(error.to_string());
            return Err(Refusal::Failed.into());
        }
        connection.socket.end();
        connection.cut_off = None;
        Ok(())
    }
}

/// Tells the client why its connection is not carried.
async fn refuse(incoming: Incoming, reason: &str) -> Result<(), HandlerError> {
    incoming.refuse(reason).await?;
    Err(Refusal::Failed.into())
}

/// A connection to a target. Its end is logged, also if the handler is dropped.
struct Connection<'n> {
    socket: Socket,
    name: &'n str,
    /// The span of the client's connection. A handler may be dropped outside of it.
    span: Span,
    /// Why the connection was cut off. `None` if both directions have ended.
    cut_off: Option<String>,
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let Carried { sent, received } = self.socket.carried();
        let _entered = self.span.enter();
        match &self.cut_off {
            None => tracing::debug!(to = %self.name.escape_debug(), sent, received, "a connection has ended"),
            Some(error) => {
                tracing::debug!(to = %self.name.escape_debug(), error, sent, received, "a connection was cut off");
            }
        }
    }
}
