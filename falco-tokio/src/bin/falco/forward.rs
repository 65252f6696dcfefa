//! `falco forward`: carries TCP connections and Unix sockets to a target behind a server that runs
//! `falco serve --forward`.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_tokio::tunnel::{self, Carried};
use falco_tokio::{Client, KeyId, Settings};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::carried::{Socket, is_idle, is_reset};
use crate::descriptors;
use crate::failure::{self, Code, Failure};
use crate::signals::{Hangups, Signals};
#[cfg(unix)]
use crate::socket_file::SocketFile;
use crate::target::{ClientWire, Target};
use crate::values::{self, Address, counted};
use crate::{log, metrics, output, supervisor};

/// Listens, and carries each connection over an encrypted one to a target of a server.
///
/// The server runs `falco serve --forward ADDRESS` and connects to the target, such as a database
/// that does not use FalcoTCP. Programs here connect to --listen as if the target were there. All
/// connections share a few long-lived ones to the server, so a new one costs no handshake.
///
/// When it accepts connections, it prints `listening on ADDRESS` to standard output. Ctrl-C or
/// SIGTERM drains it: it accepts no more connections, and ends when those that it carries have
/// ended, at the latest after --drain-timeout. A second signal ends it at once. On SIGHUP it reads
/// its key again: it carries new connections under the new key, which the server must have by then.
/// Those under the old key continue for one idle timeout of the server, and are then cut off.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Where to listen: HOST:PORT or unix:PATH
    #[arg(long, short, value_name = "ADDRESS")]
    listen: Address,
    /// The permissions of the Unix socket's file, in octal, such as 660; the default
    /// follows from the umask. Users who may write to the file may connect
    #[cfg(unix)]
    #[arg(long, value_name = "MODE", value_parser = values::mode)]
    socket_mode: Option<u16>,
    /// The name of the target, for a server that has several
    #[arg(long = "to", value_name = "NAME", default_value = "", value_parser = values::target_name)]
    name: String,
    /// How many connections to the server there are
    #[arg(long, value_name = "COUNT", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// How many connections are carried at once. Others wait to be accepted
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..=65535))]
    max_tunnels: u32,
    /// How many bytes of each connection may be on their way to a program here that does not read
    #[arg(long, value_name = "SIZE", default_value = "256K", value_parser = values::window)]
    window: u32,
    /// How many threads carry connections. More than one helps if one processor is not enough, and
    /// takes more time of the processors for each byte
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Serves metrics for Prometheus at this address, at the path /metrics. Everyone who can
    /// connect to it can read them; they have the address of the server
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// How long a connection waits for the server
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = values::some_time)]
    timeout: Duration,
    /// How long a connection may carry nothing in either direction. It is then cut off. No limit by
    /// default
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    idle_timeout: Option<Duration>,
    /// How long connections may continue after the first Ctrl-C or SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::time)]
    drain_timeout: Duration,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco serve --key-file falco.key --listen 0.0.0.0:4287 --forward 127.0.0.1:5432     beside the database
  falco forward --key-file falco.key --listen 127.0.0.1:5432 db.internal              beside its users";

/// How long to wait after accepting has failed, such as for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    if args.target.wire == ClientWire::Classic {
        return Err(Failure::usage(
            "the classic wire carries no connections: leave out --wire classic",
        ));
    }
    #[cfg(unix)]
    if args.socket_mode.is_some() && matches!(args.listen, Address::Tcp(_)) {
        return Err(Failure::usage("--socket-mode needs --listen unix:PATH"));
    }
    let key = args.target.key()?;
    let id = key.id();
    if let Some(address) = args.metrics {
        metrics::start(address)?;
    }
    let hangups = Hangups::new()?;
    let mut signals = Signals::new(args.drain_timeout)?;
    // Users that wait must leave descriptors to the connections to the server.
    let most = descriptors::raise(args.max_tunnels.into()).min(args.max_tunnels.into());
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
    let builder = args
        .target
        .builder_with(key, args.timeout, |settings| of_tunnels(settings, args.max_tunnels))?
        .connections(usize::from(args.connections))
        .max_outstanding(most.saturating_add(1))
        .stream_window(args.window);
    let client = args
        .target
        .connect_lazy(builder)
        .await
        .map_err(|error| Failure::connecting(&error, &args.target.address))?;
    let listener = Listener::bind(&args)
        .await
        .map_err(|source| Failure::listening(&failure::binding(source), &args.listen))?;
    let address = listener.address().unwrap_or_else(|| args.listen.to_string());
    let announced = tokio::task::spawn_blocking(move || output::line(&format_args!("listening on {address}")));
    let places = Arc::new(Semaphore::new(most));
    let (name, client) = (Arc::<str>::from(args.name), Arc::new(client));
    tokio::spawn(follow_key(args.target, id, Arc::clone(&client), hangups));
    tokio::spawn(log::report_left_out_each_second());
    tokio::spawn(supervisor::watch());
    supervisor::ready();
    loop {
        let place = tokio::select! {
            // It is never closed.
            place = Arc::clone(&places).acquire_owned() => place,
            () = signals.next() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = signals.next() => break,
        };
        match accepted {
            Ok(socket) => {
                let (client, name) = (Arc::clone(&client), Arc::clone(&name));
                tokio::spawn(async move {
                    carry(&client, &name, socket, args.idle_timeout).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; trying again after a pause");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    supervisor::stopping();
    listener.close();
    let _ = announced.await;
    drain(&places, most, args.drain_timeout, &mut signals).await
}

/// The settings of the connections to the server. Each connection can carry all tunnels, because
/// the others may have failed, and has room for the windows of all.
fn of_tunnels(settings: Settings, most: u32) -> Settings {
    let most = u16::try_from(most)
        .unwrap_or(u16::MAX)
        .max(Settings::new().max_in_flight());
    let settings = settings.with_max_held(u32::MAX);
    // No such number is refused.
    settings.with_max_in_flight(most).unwrap_or(settings)
}

/// On each SIGHUP, reads the key again and changes to it. Never returns.
async fn follow_key(target: Target, mut id: KeyId, client: Arc<Client>, mut hangups: Hangups) {
    loop {
        hangups.next().await;
        supervisor::reloading();
        match change_key(&target, id, &client).await {
            Ok(new) if new == id => log::tell(&format_args!("read the key again: it is still {id}")),
            Ok(new) => {
                log::tell(&format_args!("read the key again: changed from {id} to {new}"));
                id = new;
            }
            Err(failure) => log::warn(&format_args!("{}; the key is still {id}", failure.message())),
        }
        supervisor::ready();
    }
}

/// The id of the key that the client has then.
async fn change_key(target: &Target, id: KeyId, client: &Client) -> Result<KeyId, Failure> {
    let key = target.key_again()?;
    let new = key.id();
    if new != id {
        let changed = client.set_key(key).await;
        changed.map_err(|error| Failure::connecting(&error, &target.address))?;
    }
    Ok(new)
}

async fn drain(places: &Semaphore, most: usize, limit: Duration, signals: &mut Signals) -> Result<(), Failure> {
    let count = |places: &Semaphore| u64::try_from(most - places.available_permits()).unwrap_or(u64::MAX);
    let left = counted(count(places), "connection");
    log::tell(&format_args!(
        "draining {left} for at most {limit:?}; another Ctrl-C or SIGTERM ends at once"
    ));
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, places.acquire_many(all)) => ended.is_ok(),
        () = signals.next() => false,
    };
    if ended {
        return Ok(());
    }
    log::warn(&format_args!("cut off {}", counted(count(places), "connection")));
    Err(Failure::Reported(Code::Failed))
}

/// Carries one connection.
async fn carry(client: &Client, name: &str, mut socket: Accepted, idle_timeout: Option<Duration>) {
    let peer = socket.peer.take().unwrap_or_default();
    tracing::debug!(%peer, to = name, "accepted");
    let begun = tokio::time::Instant::now();
    let carried = match tunnel::connect(client, name).await {
        Ok(tunnel) => {
            let (reads, writes) = socket.stream.halves();
            tunnel.idle_timeout(idle_timeout).join_halves(reads, writes).await
        }
        Err(error) => Err(io::Error::other(error)),
    };
    let (Carried { sent, received }, time) = (socket.stream.carried(), begun.elapsed());
    match carried {
        Ok(_) => {
            socket.stream.end();
            tracing::debug!(%peer, to = name, sent, received, ?time, "ended");
        }
        Err(error) if is_idle(&error) => {
            tracing::debug!(%peer, to = name, %error, sent, received, ?time, "a connection was cut off");
        }
        Err(error) => {
            if is_reset(&error) {
                tracing::debug!(%peer, to = name, %error, sent, received, ?time, "a connection was cut off");
            } else {
                tracing::warn!(%peer, to = name, %error, sent, received, ?time, "a connection was cut off");
            }
            socket.stream.cut_off().await;
        }
    }
}

/// A connection that was accepted.
struct Accepted {
    stream: Socket,
    peer: Option<String>,
}

enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, SocketFile),
}

impl Listener {
    async fn bind(args: &Args) -> io::Result<Self> {
        match &args.listen {
            Address::Tcp(name) => Ok(Self::Tcp(TcpListener::bind(name).await?)),
            #[cfg(unix)]
            Address::Unix(path) => {
                let (listener, file) = SocketFile::bind(path, args.socket_mode).await?;
                Ok(Self::Unix(listener, file))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn address(&self) -> Option<String> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.to_string()),
            #[cfg(unix)]
            Self::Unix(..) => None,
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted {
                    stream: Socket::tcp(stream),
                    peer: Some(peer.to_string()),
                })
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => Ok(Accepted {
                stream: Socket::unix(listener.accept().await?.0),
                peer: None,
            }),
        }
    }

    /// Stops listening, and removes the file of a Unix socket before that.
    fn close(self) {
        match self {
            Self::Tcp(listener) => drop(listener),
            #[cfg(unix)]
            Self::Unix(listener, mut file) => {
                file.remove();
                drop(listener);
            }
        }
    }
}
