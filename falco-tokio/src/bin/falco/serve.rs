//! `falco serve`: a server that echoes messages, or runs a command for each.

mod forward;
mod keys;
mod settings;

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use falco_tokio::{Error, Handle, HandlerError, Report, Request, Server, ServerBuilder, StreamRequest};
#[cfg(unix)]
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use self::forward::Targets;
use self::keys::Keys;
use self::settings::{Room, builder};
use crate::exec::{self, Exec};
#[cfg(unix)]
use crate::failure;
use crate::failure::{Code, Failure};
use crate::key::{self, KeyArgs};
use crate::signals::{Hangups, Signals};
#[cfg(unix)]
use crate::socket_file::SocketFile;
#[cfg(unix)]
use crate::supervisor::Passed;
use crate::values::{self, Address, Forward, counted};
use crate::{log, metrics, output, supervisor};

/// Runs a server that answers each message with itself, or with the output of a command.
///
/// When the server accepts connections, it prints `listening on ADDRESS` to standard output. Ctrl-C
/// or SIGTERM drains it: it accepts no new connections or requests, answers the requests that have
/// begun, and ends. A second signal ends it at once. On SIGHUP it reads its keys again: it accepts
/// new ones, drains the connections of those that are gone, and cuts off those of revoked ones.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where to listen: HOST:PORT or unix:PATH. With port 0 the system chooses a free one
    #[arg(long, short, value_name = "ADDRESS", default_value = "127.0.0.1:4287")]
    listen: Address,
    /// Listens on the socket that a supervisor such as systemd passes (`LISTEN_FDS`)
    #[cfg(unix)]
    #[arg(long, conflicts_with_all = ["listen", "socket_mode"])]
    socket_activation: bool,
    /// The permissions of the Unix socket's file, in octal, such as 660; the default
    /// follows from the umask. Users who may write to the file may connect
    #[cfg(unix)]
    #[arg(long, value_name = "MODE", value_parser = values::mode)]
    socket_mode: Option<u16>,
    #[command(flatten)]
    key: KeyArgs,
    /// The wire to speak. The classic wire is for clients of the published falcotcp 0.1.x. It has
    /// no forward secrecy, and recorded traffic of a client can be replayed to a restarted server
    #[arg(long, value_enum, default_value = "noise")]
    wire: ServerWire,
    /// The file with the key of the classic wire, which must differ from that of the noise wire
    #[arg(long, value_name = "FILE")]
    classic_key_file: Option<PathBuf>,
    /// The name of the service. Clients with another --context are refused
    #[arg(long, value_name = "TEXT")]
    context: Option<String>,
    /// The largest message in either direction, such as 64K or 16M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = values::size)]
    max_message: u32,
    /// The idle timeout: how long a connection stays open without a message or a ping
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::time)]
    lifetime: Duration,
    /// How long a client may take to prove that it has the key
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::time)]
    handshake_timeout: Duration,
    /// How many connections there may be at once
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// How many connections each key may have at once. A further one is closed after its handshake.
    /// No limit by default
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections_per_key: Option<u32>,
    /// Takes the addresses of clients from the PROXY protocol, version 1 or 2, on connections from
    /// this address or network, such as 10.0.0.5 or 10.0.0.0/8. Such connections must have the
    /// header. May be given more than once
    #[arg(long, value_name = "NETWORK", value_parser = values::network)]
    trust_proxy: Vec<(IpAddr, u8)>,
    /// The age at which a connection drains, plus or minus a tenth. Its client then connects again,
    /// and a load balancer may select another server. Requests that take less than --lifetime do
    /// not fail; a connection of --forward that lasts longer is cut off
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    max_connection_age: Option<Duration>,
    /// How many requests of one connection may be in flight at once
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = clap::value_parser!(u16).range(1..))]
    max_in_flight: u16,
    /// How many commands of --exec may run at once. Other requests wait for about --exec-timeout at
    /// most, and are then refused as busy. If the server has several keys, clients with one of them
    /// run at most eight times as many as they leave to others
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    max_commands: u16,
    /// How long a command of --exec may run for a message that is not streamed. It is then killed
    /// with its process group, and its request fails
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::some_time)]
    exec_timeout: Duration,
    /// Serves metrics for Prometheus at this address, at the path /metrics. Everyone
    /// who can connect to it can read them; they have the ids and labels of keys
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// How long requests may take to complete after the first Ctrl-C or SIGTERM, at most --lifetime
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::time)]
    drain_timeout: Duration,
    /// Carries connections of `falco forward` to this address: HOST:PORT or unix:PATH. With
    /// NAME=ADDRESS, clients that give that name (--to) are carried there. May be given more than
    /// once. A client never chooses an address
    #[arg(long, value_name = "[NAME=]ADDRESS")]
    forward: Vec<Forward>,
    /// How many connections --forward carries at once for each connection of a client
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = clap::value_parser!(u16).range(1..))]
    max_tunnels: u16,
    /// How many bytes of each connection of --forward may be on their way to a target that does not
    /// read
    #[arg(long, value_name = "SIZE", default_value = "256K", value_parser = values::window)]
    window: u32,
    /// How long a connection of --forward, or a stream of --exec, may carry nothing in either
    /// direction. It is then cut off. No limit by default
    #[arg(long, value_name = "TIME", value_parser = values::some_time)]
    idle_timeout: Option<Duration>,
    /// How many threads serve connections. The default is one for each core, and a single one with
    /// --forward: more of them take more time of the processors for each byte
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Runs this command for each message. It reads the message from its standard input, and what
    /// it writes to its standard output is the answer. If the command fails, the request fails. If
    /// the client cancels the request, the command is killed. All further arguments are those of
    /// the command.
    ///
    /// The command runs as the user of the server and can read every file that this user can read,
    /// including a key file. On Linux it cannot read the server's memory. `FALCO_KEY` and
    /// `FALCO_CLASSIC_KEY` must not be set. If the command must not learn the key, run the command
    /// as another user. Or pass the key on standard input (--key-file -), from a file that the
    /// server's user cannot read.
    ///
    /// The server does not start if there is no such program that it may run. If the command cannot
    /// be started later, its request was not processed, and the client receives that error.
    ///
    /// The answer is sent when the command has ended. A process that the command leaves running
    /// must close its standard streams, as with `job </dev/null >/dev/null 2>&1 &`. If a process
    /// still holds standard input or output 250 ms after the end of the command, the answer is what
    /// was written until then, and the rest of the command's process group is killed. A daemon
    /// needs a session of its own (setsid). In a container, run the server under an init process,
    /// which waits for the processes that commands leave behind.
    ///
    /// The command's environment has `FALCO_REQUEST`, the number of the request since the server
    /// began; `FALCO_PEER`, the address of the client; `FALCO_KEY_ID` and `FALCO_KEY_LABEL`, the id
    /// and the label of its key. What is not known is empty.
    ///
    /// A message that is longer than --max-message, or is sent with `falco send --stream`, is read
    /// by the command as it arrives, and what the command writes is sent as it comes. Such a
    /// command runs as long as its client wants it, within --idle-timeout.
    ///
    /// What commands write to standard error is copied to the server's standard error, up to 64 KiB
    /// per second in total. Lines beyond that are dropped, and their number is reported.
    #[arg(long, value_names = ["COMMAND", "ARGUMENT"], num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<OsString>,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco serve --key-file falco.key
  falco serve --key-file falco.key --listen 0.0.0.0:4287 --context orders --max-message 64K
  falco serve --key-file falco.key --listen unix:/run/falco.sock --socket-mode 660 --exec jq -c .total
  falco serve --key-file falco.key --listen 0.0.0.0:4287 --forward 127.0.0.1:5432    a tunnel to a database
  falco serve --key-file /etc/falco/keys.d                 a key for each client; kill -HUP reads them again
  falco serve --key-file falco.key --wire both --classic-key-file old.key";

/// How long to wait at the end for commands of cut-off requests, which are being killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The wires that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ServerWire {
    /// Mutual authentication, forward secrecy, many requests at once
    Noise,
    /// For clients of the published falcotcp 0.1.x
    Classic,
    /// Both on one port, each with its own key
    Both,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    #[cfg(unix)]
    if args.socket_mode.is_some() && matches!(args.listen, Address::Tcp(_)) {
        return Err(Failure::usage("--socket-mode needs --listen unix:PATH"));
    }
    if args.wire == ServerWire::Classic && !args.forward.is_empty() {
        return Err(Failure::usage(
            "the classic wire carries no connections: leave out --wire classic or --forward",
        ));
    }
    if !args.exec.is_empty() && !args.forward.is_empty() {
        return Err(Failure::usage(
            "--exec and --forward exclude each other: start a server for each",
        ));
    }
    if args.idle_timeout.is_some() && args.exec.is_empty() && args.forward.is_empty() {
        return Err(Failure::usage("--idle-timeout needs --exec or --forward"));
    }
    if let Some(program) = args.exec.first() {
        key::check_not_in_environment()?;
        exec::check(program)?;
    }
    if let Some(address) = args.metrics {
        metrics::start(address)?;
    }
    let room = Room::of(&args);
    let targets = Targets::new(&args.forward, room.places, args.idle_timeout)?.map(Arc::new);
    let (mut keys, builder) = builder(&args, &room)?;
    let mut hangups = Hangups::new()?;
    let mut signals = Signals::new(args.drain_timeout)?;
    let bound = tokio::select! {
        bound = bind(builder, &args) => bound,
        () = signals.next() => return Err(Failure::Reported(Code::Failed)),
    };
    let (server, mut socket) = bound?;
    let handle = server.handle();
    if let Some(keys) = &keys {
        keys.set_labels(&handle);
    }
    let address = server
        .local_addr()
        .map_or_else(|_| args.place(), |address| address.to_string());
    let began = Instant::now();
    let limits = exec::Limits {
        answer: args.max_message,
        commands: args.max_commands,
        time: args.exec_timeout,
        silence: args.idle_timeout,
    };
    let exec = Exec::new(&args.exec, limits)
        .map_err(|error| Failure::new(Code::Failed, format_args!("cannot prepare --exec: {error}")))?
        .map(Arc::new);
    let share = sharing(exec.clone(), targets.clone(), args.wire == ServerWire::Both);
    // Before the first request, since one key may take all places until then.
    keys.iter().for_each(&share);
    let mut serving = serve(server, exec.clone(), targets);
    tokio::spawn(log::report_left_out_each_second());
    tokio::spawn(supervisor::watch());
    supervisor::ready();
    // On a blocking thread, because standard output may be a pipe that is full.
    let mut announcement = Some(tokio::task::spawn_blocking(move || {
        output::line(&format_args!("listening on {address}"))
    }));
    let mut asked = 0_u32;
    let report = loop {
        tokio::select! {
            report = &mut serving => break report,
            announced = until_announced(&mut announcement) => announced?,
            () = hangups.next() => match &mut keys {
                Some(keys) => {
                    supervisor::reloading();
                    keys.reload(&handle);
                    share(keys);
                    supervisor::ready();
                }
                None => log::tell(&"SIGHUP: the classic wire has one key, which is not read again"),
            },
            () = signals.next() => {
                asked += 1;
                if asked == 1 {
                    supervisor::stopping();
                    // Before the listener closes: a successor can bind while this server drains.
                    // Afterwards the path is the successor's, and this server leaves it alone.
                    socket.remove();
                }
                stop(&handle, asked, args.drain_timeout);
            }
        }
    };
    if let Some(exec) = exec {
        let _ = tokio::time::timeout(KILL_TIMEOUT, exec.idle()).await;
    }
    log::report_left_out();
    // Flushes the log, so that the queue has room for the summary.
    log::end();
    let ended = |error: &dyn fmt::Display| Failure::new(Code::Failed, format_args!("the server has ended: {error}"));
    let report = report.map_err(|error| ended(&error))?;
    let report = report.map_err(|error| ended(&error))?;
    sum_up(&report, began.elapsed());
    if report.cut_requests > 0 {
        return Err(Failure::Reported(Code::Failed));
    }
    Ok(())
}

/// Serves on a task of its own.
fn serve(server: Server, exec: Option<Arc<Exec>>, targets: Option<Arc<Targets>>) -> JoinHandle<Result<Report, Error>> {
    if let Some(exec) = exec {
        return tokio::spawn(server.serve_all_streams(move |request: StreamRequest| {
            let exec = Arc::clone(&exec);
            async move { exec.serve(request).await }
        }));
    }
    let streams = move |request: StreamRequest| {
        let targets = targets.clone();
        async move {
            match targets {
                Some(targets) => targets.carry(request).await,
                None => echo(request).await,
            }
        }
    };
    tokio::spawn(server.serve_streams(|request: Request| async move { Ok(request.into_body()) }, streams))
}

/// Divides commands and connections among keys once the server has several keys, so that one key
/// cannot take all. The key of the classic wire counts as well.
fn sharing(exec: Option<Arc<Exec>>, targets: Option<Arc<Targets>>, with_classic: bool) -> impl Fn(&Keys) {
    move |keys| {
        if keys.count() + usize::from(with_classic) < 2 {
            return;
        }
        if let Some(exec) = &exec {
            exec.share_by_key();
        }
        if let Some(targets) = &targets {
            targets.share_by_key();
        }
    }
}

/// Answers an open request with itself.
async fn echo(request: StreamRequest) -> Result<(), HandlerError> {
    let StreamRequest {
        mut body, mut answer, ..
    } = request;
    while let Some(bytes) = body.next().await {
        answer.send(bytes?).await?;
    }
    Ok(answer.finish()?)
}

/// Waits until the first line is written; after that, forever.
async fn until_announced(announcement: &mut Option<JoinHandle<Result<(), Failure>>>) -> Result<(), Failure> {
    let Some(writing) = announcement else {
        return core::future::pending().await;
    };
    let written = writing.await;
    *announcement = None;
    match written {
        // The server does not depend on the reader of its output.
        Ok(Ok(()) | Err(Failure::OutputClosed)) => Ok(()),
        Ok(Err(failure)) => Err(failure),
        Err(error) => Err(Failure::new(Code::Failed, error)),
    }
}

fn stop(handle: &Handle, asked: u32, drain: Duration) {
    if asked > 1 {
        return handle.shutdown_within(Duration::ZERO);
    }
    handle.shutdown_within(drain);
    let stats = handle.stats();
    let running = stats
        .requests
        .saturating_sub(stats.answers + stats.refusals + stats.cancelled);
    log::tell(&format_args!(
        "draining {} and {} for at most {drain:?}; another Ctrl-C or SIGTERM ends at once",
        counted(stats.connections, "connection"),
        counted(running, "request"),
    ));
}

fn sum_up(report: &Report, time: Duration) {
    let stats = &report.stats;
    log::tell(&format_args!(
        "served {:.1} s: {}, {}; {}, {} answered, {} refused, {} cancelled, {} refused as busy; {} and {} cut off",
        time.as_secs_f64(),
        counted(stats.established, "connection"),
        counted(stats.unauthenticated, "refused handshake"),
        counted(stats.requests, "request"),
        stats.answers,
        stats.refusals,
        stats.cancelled,
        stats.busy,
        counted(report.cut_connections, "connection"),
        counted(report.cut_requests, "request"),
    ));
}

impl Args {
    /// How many threads to run on. `None` is one for each core.
    pub(crate) fn threads(&self) -> Option<u16> {
        self.threads.or((!self.forward.is_empty()).then_some(1))
    }

    /// Where the server listens, for a socket without an internet address.
    fn place(&self) -> String {
        #[cfg(unix)]
        if self.socket_activation {
            return "a socket of the supervisor".to_owned();
        }
        self.listen.to_string()
    }
}

async fn bind(builder: ServerBuilder, args: &Args) -> Result<(Server, OwnFile), Failure> {
    #[cfg(unix)]
    if args.socket_activation {
        let server = match supervisor::passed()? {
            Passed::Tcp(listener) => TcpListener::from_std(listener)
                .map_err(|error| Failure::new(Code::Unreachable, error))
                .and_then(|listener| {
                    builder
                        .from_listener(listener)
                        .map_err(|error| Failure::listening(&error, &args.listen))
                }),
            Passed::Unix(listener) => UnixListener::from_std(listener)
                .map_err(|error| Failure::new(Code::Unreachable, error))
                .and_then(|listener| {
                    builder
                        .from_unix_listener(listener)
                        .map_err(|error| Failure::listening(&error, &args.listen))
                }),
        };
        return Ok((server?, OwnFile::default()));
    }
    listen(builder, args)
        .await
        .map_err(|error| Failure::listening(&error, &args.listen))
}

async fn listen(builder: ServerBuilder, args: &Args) -> Result<(Server, OwnFile), Error> {
    match &args.listen {
        Address::Tcp(name) => Ok((builder.bind(name).await?, OwnFile::default())),
        #[cfg(unix)]
        Address::Unix(path) => {
            let (listener, file) = SocketFile::bind(path, args.socket_mode)
                .await
                .map_err(failure::binding)?;
            Ok((builder.from_unix_listener(listener)?, OwnFile(Some(file))))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(Error::Closed),
    }
}

/// The file that the server has to remove at its end, if it listens on a Unix socket.
#[derive(Debug, Default)]
struct OwnFile(#[cfg(unix)] Option<SocketFile>);

impl OwnFile {
    fn remove(&mut self) {
        #[cfg(unix)]
        if let Some(file) = &mut self.0 {
            file.remove();
        }
    }
}
