//! `falco serve`: a server that echoes, or runs a command for each message.

#[cfg(unix)]
mod socket_file;

use core::time::Duration;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::ValueEnum;
use falco_tokio::{Error, Handle, Key, Report, Request, Server, ServerBuilder, Settings};
use tokio::task::JoinHandle;

#[cfg(unix)]
use self::socket_file::SocketFile;
use crate::exec::{self, Exec};
use crate::failure::{Code, Failure};
use crate::key::{self, KeyArgs};
use crate::signals::Signals;
use crate::values::{self, Address, counted};
use crate::{log, output};

/// Serves: answers each message with itself, or with what a command makes of it.
///
/// The first line of standard output is `listening on ADDRESS`, once connections are taken. Ctrl-C
/// and SIGTERM drain: nothing new is taken, what runs is answered; a second one ends at once.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where to listen: HOST:PORT, where port 0 has the system choose one, or unix:PATH
    #[arg(long, short, value_name = "ADDRESS", default_value = "127.0.0.1:4287")]
    listen: Address,
    /// The permissions of the Unix socket's file, in octal, such as 660; without this the umask
    /// decides. Connecting takes the permission to write
    #[cfg(unix)]
    #[arg(long, value_name = "MODE", value_parser = values::mode)]
    socket_mode: Option<u32>,
    #[command(flatten)]
    key: KeyArgs,
    /// The wire to speak. The classic one is for peers of the published falcotcp 0.1.x; it has no
    /// forward secrecy, and a recorded client can be replayed to a server that has been restarted
    #[arg(long, value_enum, default_value = "noise")]
    wire: ServerWire,
    /// The file with the key of the classic wire: one of its own, which the noise wire does not
    /// have
    #[arg(long, value_name = "FILE")]
    classic_key_file: Option<PathBuf>,
    /// The name of the service: clients that give another are refused
    #[arg(long, value_name = "TEXT")]
    context: Option<String>,
    /// The largest message either way, such as 64K or 16M
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = values::size)]
    max_message: u32,
    /// How long a connection lives without a message or a ping
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::time)]
    lifetime: Duration,
    /// How long a client may take to prove that it has the key
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = values::time)]
    handshake_timeout: Duration,
    /// How many connections there may be at once
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// How many requests of one connection may be unanswered
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = clap::value_parser!(u16).range(1..))]
    max_in_flight: u16,
    /// How many commands of --exec may run at once. Other requests wait
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    max_commands: u16,
    /// How long a command of --exec may run. It is then killed with its process group, and its
    /// request fails
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::some_time)]
    exec_timeout: Duration,
    /// How long what runs may take to finish after the first Ctrl-C or SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::time)]
    drain_timeout: Duration,
    /// Runs this for each message, which it gets on its standard input; what it writes to its
    /// standard output is the answer. The request fails if the command does; it is killed when its
    /// client cancels. All that follows on the command line belongs to it.
    ///
    /// The command runs as the user of the server and can read every file that this user can read,
    /// a key file included. It cannot read the memory of the server on Linux. FALCO_KEY and
    /// FALCO_CLASSIC_KEY must not be set. Where the command must not learn the key, run it as
    /// another user, or give the key on standard input (--key-file -), from a file that only
    /// another user may read.
    ///
    /// The answer is sent when the command has ended. A process that it leaves running stays if it
    /// has let go of its standard streams, as with `job </dev/null >/dev/null 2>&1 &`. If something
    /// still holds one of them 250 ms after the command's end, the answer is what was written until
    /// then, and what is left of the command's process group is killed. A daemon that must live on
    /// belongs in a session of its own (setsid). In a container, run the server under an init
    /// process, which takes over what commands leave behind. What commands write to standard error
    /// goes to the server's.
    #[arg(long, value_names = ["COMMAND", "ARGUMENT"], num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<OsString>,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco serve --key-file falco.key
  falco serve --listen 0.0.0.0:4287 --context orders --max-message 64K
  falco serve --listen unix:/run/falco.sock --exec jq -c .total
  falco serve --wire both --key-file falco.key --classic-key-file old.key";

/// How long commands whose requests were cut off may take to be killed.
const KILLING: Duration = Duration::from_secs(1);

/// The wires that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ServerWire {
    /// Mutual authentication, forward secrecy, many requests at once
    Noise,
    /// For clients of the published falcotcp 0.1.x
    Classic,
    /// Both on one port, each under a key of its own
    Both,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    #[cfg(unix)]
    if args.socket_mode.is_some() && matches!(args.listen, Address::Tcp(_)) {
        return Err(Failure::usage("--socket-mode goes with --listen unix:PATH"));
    }
    if !args.exec.is_empty() {
        key::check_not_in_environment()?;
    }
    let builder = builder(&args)?;
    let mut signals = Signals::new(args.drain_timeout)?;
    let bound = tokio::select! {
        bound = bind(builder, &args) => bound,
        () = signals.next() => return Err(Failure::Told(Code::Failed)),
    };
    let (server, mut socket) = bound.map_err(|error| Failure::listening(&error, &args.listen))?;
    let handle = server.handle();
    let address = server
        .local_addr()
        .map_or_else(|_| args.listen.to_string(), |address| address.to_string());
    let began = Instant::now();
    let limits = exec::Limits {
        answer: args.max_message,
        commands: args.max_commands,
        time: args.exec_timeout,
    };
    let exec = Exec::new(&args.exec, limits)
        .map_err(|error| Failure::new(Code::Failed, format_args!("--exec: {error}")))?
        .map(Arc::new);
    // It may yet come to be there, as on a disk that is mounted later.
    if let Some(Err(error)) = exec.as_ref().map(|exec| exec.check()) {
        log::tell(&format_args!(
            "warning: --exec: {error}: requests fail as long as it cannot be run"
        ));
    }
    let mut serving = match exec.clone() {
        None => tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) })),
        Some(exec) => tokio::spawn(server.serve(move |request: Request| {
            let exec = Arc::clone(&exec);
            async move { exec.answer(request.into_body()).await }
        })),
    };
    tokio::spawn(log::report_left_out_each_second());
    // On a thread of its own: standard output may be a pipe that is full.
    let mut greeting = Some(tokio::task::spawn_blocking(move || {
        output::line(&format_args!("listening on {address}"))
    }));
    let mut asked = 0_u32;
    let report = loop {
        tokio::select! {
            report = &mut serving => break report,
            greeted = until_greeted(&mut greeting) => greeted?,
            () = signals.next() => {
                asked += 1;
                if asked == 1 {
                    // Before the listener closes: a successor can bind while this server drains.
                    // Afterwards the path is the successor's, and this server leaves it alone.
                    socket.remove();
                }
                stop(&handle, asked, args.drain_timeout);
            }
        }
    };
    if let Some(exec) = exec {
        let _ = tokio::time::timeout(KILLING, exec.idle()).await;
    }
    log::report_left_out();
    // So that there is room for the last words, if anybody reads.
    log::end();
    let report = report.map_err(|error| Failure::new(Code::Failed, error))?;
    let report = report.map_err(|error| Failure::new(Code::Failed, error))?;
    sum_up(&report, began.elapsed());
    if report.cut_requests > 0 {
        return Err(Failure::Told(Code::Failed));
    }
    Ok(())
}

/// Waits until the first line is written, once.
async fn until_greeted(greeting: &mut Option<JoinHandle<Result<(), Failure>>>) -> Result<(), Failure> {
    let Some(writing) = greeting else {
        return core::future::pending().await;
    };
    let written = writing.await;
    *greeting = None;
    match written {
        // Who does not read this line can be served all the same.
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
        "draining {} and {} for at most {drain:?}; once more ends at once",
        counted(stats.connections, "connection"),
        counted(running, "request"),
    ));
}

fn sum_up(report: &Report, time: Duration) {
    let stats = &report.stats;
    log::tell(&format_args!(
        "served {:.1} s: {}, {}; {}, {} answered, {} refused, {} cancelled, {} found the server busy; {} and {} cut off",
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

fn builder(args: &Args) -> Result<ServerBuilder, Failure> {
    let settings = Settings::new()
        .with_max_message(args.max_message)
        .with_lifetime(args.lifetime)
        .and_then(|settings| settings.with_handshake_timeout(args.handshake_timeout))
        .and_then(|settings| settings.with_max_in_flight(args.max_in_flight))
        .map_err(Failure::usage)?;
    let (file, classic_file) = (args.key.key_file.as_deref(), args.classic_key_file.as_deref());
    let noise_key = || args.key.find(&[key::KEY_VARIABLE]);
    let builder = match args.wire {
        ServerWire::Noise if classic_file.is_some() => {
            return Err(Failure::usage(
                "--classic-key-file goes with --wire classic or --wire both",
            ));
        }
        ServerWire::Noise => Server::builder(noise_key()?),
        ServerWire::Classic => Server::classic(only_classic_key(&args.key, classic_file)?),
        ServerWire::Both if key::is_standard_input(file) && key::is_standard_input(classic_file) => {
            return Err(Failure::usage("only one of the keys can come from standard input"));
        }
        ServerWire::Both => {
            let variables = [key::CLASSIC_KEY_VARIABLE];
            let classic = args.key.find_in(classic_file, "--classic-key-file", &variables);
            Server::builder(noise_key()?).classic(classic?)
        }
    };
    let builder = match (&args.context, args.wire) {
        (Some(_), ServerWire::Classic) => return Err(Failure::usage("the classic wire has no --context")),
        (context, _) => builder.context(context.as_deref().unwrap_or_default()),
    };
    let connections = usize::try_from(args.max_connections).unwrap_or(usize::MAX);
    Ok(builder.settings(settings).max_connections(connections))
}

fn only_classic_key(key: &KeyArgs, classic_file: Option<&Path>) -> Result<Key, Failure> {
    let file = key.key_file.as_deref();
    if file.is_some() && classic_file.is_some() {
        return Err(Failure::usage(
            "--wire classic has one key: give one of --key-file and --classic-key-file",
        ));
    }
    key.find_in(
        classic_file.or(file),
        "--key-file",
        &[key::CLASSIC_KEY_VARIABLE, key::KEY_VARIABLE],
    )
}

async fn bind(builder: ServerBuilder, args: &Args) -> Result<(Server, OwnFile), Error> {
    match &args.listen {
        Address::Tcp(name) => Ok((builder.bind(name).await?, OwnFile::default())),
        #[cfg(unix)]
        Address::Unix(path) => {
            let (server, file) = SocketFile::bind(builder, path, args.socket_mode).await?;
            Ok((server, OwnFile(Some(file))))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(Error::Closed),
    }
}

/// What the server has to take away in the end: the file of a Unix socket, if it listens on one.
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
