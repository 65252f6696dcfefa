//! The tool `falco`: keys, a server, a tunnel for TCP, single requests, pings and measurements from
//! a shell. Each command has a file of its own; this one parses the command line.

mod at_path;
mod bench;
mod carried;
mod descriptors;
mod documents;
mod exec;
mod failure;
mod forward;
mod key;
mod keygen;
mod log;
mod metrics;
mod output;
mod ping;
mod places;
mod send;
mod serve;
mod signals;
#[cfg(unix)]
mod socket_file;
mod supervisor;
mod target;
mod values;

use core::future::Future;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory as _, Parser, Subcommand};
use tokio::runtime::Builder;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::failure::{Code, EXIT_CODES, Failure};

/// Sends requests, and tunnels TCP, over encrypted connections between programs that share one
/// 32-byte key.
///
/// A server answers each message of its clients. Both sides have the same key. A client without it
/// is disconnected and receives nothing.
#[derive(Parser, Debug)]
#[command(name = "falco", version, after_help = EXAMPLES, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Logs to standard error what happens on connections; -vv logs more. A server then also logs
    /// every warning, instead of ten a second of each kind, and all that commands of --exec write
    /// to their standard error. The variable `RUST_LOG`, such as `warn,falco_tokio=debug`, has
    /// precedence for the levels
    #[arg(long, short, global = true, display_order = 900, action = ArgAction::Count)]
    verbose: u8,
    /// The form of the log on standard error
    #[arg(long, global = true, display_order = 901, value_enum, default_value = "text")]
    log_format: log::Format,
}

const EXAMPLES: &str = "\
Examples:
  falco keygen --out falco.key
  falco serve --key-file falco.key
  falco send localhost hello --key-file falco.key
  falco ping localhost --key-file falco.key
  falco bench localhost --key-file falco.key --connections 64
  falco serve --key-file falco.key --forward 127.0.0.1:5432
  falco forward --key-file falco.key --listen 127.0.0.1:5433 localhost

`falco help COMMAND` describes a command in full, and `falco help exit-codes` lists the exit codes.";

#[derive(Subcommand, Debug)]
enum Command {
    #[command(after_long_help = keygen::EXAMPLES)]
    Keygen(keygen::Args),
    #[command(after_help = serve::EXAMPLES, after_long_help = long_help(serve::EXAMPLES))]
    Serve(Box<serve::Args>),
    #[command(after_help = forward::EXAMPLES, after_long_help = long_help(forward::EXAMPLES))]
    Forward(Box<forward::Args>),
    #[command(after_help = send::EXAMPLES, after_long_help = long_help(send::EXAMPLES))]
    Send(send::Args),
    #[command(after_help = ping::EXAMPLES, after_long_help = long_help(ping::EXAMPLES))]
    Ping(ping::Args),
    #[command(after_help = bench::EXAMPLES, after_long_help = long_help(bench::EXAMPLES))]
    Bench(bench::Args),
    Completions(documents::Completions),
    Man(documents::Man),
    /// Lists the exit codes of all commands
    #[command(long_about = EXIT_CODES)]
    ExitCodes,
}

fn long_help(examples: &str) -> String {
    format!("{examples}\n\n{}\n\n{EXIT_CODES}", key::KEYS)
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let is_server = matches!(cli.command, Command::Serve(_) | Command::Forward(_));
    // A server logs warnings by default. A client ends with a message instead.
    let quiet = if is_server { LevelFilter::WARN } else { LevelFilter::OFF };
    let level = match cli.verbose {
        0 => quiet,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let levels = levels();
    let default = Targets::new().with_default(level);
    log::start(
        levels.as_ref().ok().cloned().flatten().unwrap_or(default),
        cli.verbose > 0,
        cli.log_format,
    );
    // Before any key is read.
    if let Err(error) = key::deny_inspection() {
        log::warn(&format_args!(
            "warning: other processes of this user can read the memory of this one: {error}"
        ));
    }
    let command = levels.map(|_| cli.command);
    let done = command.and_then(|command| match command {
        Command::Keygen(args) => keygen::run(&args),
        Command::Serve(args) => block_on(args.threads(), serve::run(*args)),
        Command::Forward(args) => block_on(Some(args.threads), forward::run(*args)),
        Command::Send(args) => block_on(None, send::run(args)),
        Command::Ping(args) => block_on(None, ping::run(args)),
        Command::Bench(args) => block_on(None, bench::run(args)),
        Command::Completions(args) => documents::completions(&args, &mut Cli::command()),
        Command::Man(args) => documents::man(&args, Cli::command()),
        Command::ExitCodes => output::line(&EXIT_CODES),
    });
    let code = done.map_or_else(Failure::end, |()| ExitCode::SUCCESS);
    // A server ends even if nobody reads its log. Other commands wait for the reader of standard
    // error, as usual.
    if is_server {
        log::end();
    } else {
        let _ = log::flush(None);
    }
    code
}

/// The levels in `RUST_LOG`, if it is set.
fn levels() -> Result<Option<Targets>, Failure> {
    let set = std::env::var_os("RUST_LOG").filter(|levels| !levels.is_empty());
    set.map(|levels| {
        let levels = levels.to_str().and_then(|levels| levels.parse().ok());
        levels.ok_or_else(|| Failure::usage("RUST_LOG is not a list of levels such as warn,falco_tokio=debug"))
    })
    .transpose()
}

/// Runs a command on `threads` threads, or on one for each core. A single thread takes the least
/// processor time: tasks wake each other without a system call, and what several tasks have to send
/// is sent together.
fn block_on(threads: Option<u16>, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut builder = match threads {
        Some(1) => Builder::new_current_thread(),
        Some(_) | None => Builder::new_multi_thread(),
    };
    if let Some(threads @ 2..) = threads {
        builder.worker_threads(threads.into());
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format_args!("cannot start the Tokio runtime: {error}")))?;
    let done = runtime.block_on(command);
    runtime.shutdown_background();
    done
}

/// Prints the help that was asked for, or what is wrong with the command line. Never prints a key
/// that is an argument.
fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| key::looks_like_key(&argument)) {
        let code = Failure::usage(
            "the command line is wrong, and is not repeated here because an argument looks like a key: give keys in a file (--key-file FILE), and replace this key, since other users may have seen it",
        )
        .end();
        let _ = log::flush(None);
        return code;
    }
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
