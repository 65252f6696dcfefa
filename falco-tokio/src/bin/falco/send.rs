//! `falco send`: sends one request and writes its answer to standard output, byte for byte.

mod stream;

use core::time::Duration;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, stdin};
use std::path::PathBuf;

use falco_tokio::{ConnectionError, Error, Refusal, RequestError};
use tokio::time::Instant;

use self::stream::Input;
use crate::failure::{Code, Failure, code_of, fate};
use crate::target::{ClientWire, Target};
use crate::{key, output, values};

/// Sends one message and writes its answer to standard output, byte for byte.
///
/// The message is the argument, the content of a file, or standard input up to its end. It is sent
/// unchanged: no line break is added to an argument, and none is removed from a file.
///
/// A message from standard input or a file that is longer than --max-message is streamed: it is
/// sent while it is read. Then --timeout is the limit for connecting, and the rest may take any
/// time. An answer that is longer than a message is written while it arrives.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// The message; without this and --file it is read from standard input
    message: Option<OsString>,
    /// The file whose content is the message; - is standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "message")]
    file: Option<PathBuf>,
    /// Streams the message and the answer, whatever their lengths. For input without an end, such
    /// as that of `tail -f`. Ctrl-C ends it
    #[arg(long)]
    stream: bool,
    /// The time limit, from connecting to the first byte of the answer
    #[arg(long, short, value_name = "TIME", default_value = "30s", value_parser = values::some_time)]
    timeout: Duration,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  falco send localhost hello --key-file falco.key
  falco send db.internal:4287 --key-file falco.key --context orders --file query.bin >answer.bin
  date | falco send unix:/run/falco.sock --key-file falco.key
  falco send 10.0.0.7 hello --key-file old.key --wire classic   to a server of the published falcotcp 0.1.x";

/// How long to wait for the server to end the connection as well, after the answer has arrived.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(250);

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let target = &args.target;
    let from_input = args.message.is_none() && args.file.as_deref().is_none_or(|file| file.as_os_str() == "-");
    if from_input && key::is_standard_input(target.key.key_file.as_deref()) {
        return Err(Failure::usage(
            "the key and the message cannot both come from standard input: give the message as an argument or by --file",
        ));
    }
    let key = target.key()?;
    let builder = target.builder(key, args.timeout)?;
    let streams = target.wire == ClientWire::Noise;
    let (message, input) = match message(args.message, args.file, target.max_message, args.stream)? {
        Message::Whole(message) if args.stream => (Vec::new(), Some(Input::known(message))),
        Message::Whole(message) => (message, None),
        Message::Streamed(input) => (Vec::new(), Some(input)),
    };
    if let Some(input) = input {
        if !streams {
            return Err(Failure::usage(
                "the classic wire has no streams: the message must fit --max-message",
            ));
        }
        let client = target.connect(builder).await?;
        let done = stream::run(&client, input).await;
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, client.close()).await;
        return done;
    }
    let deadline = Instant::now() + args.timeout;
    let client = target.connect(builder).await?;
    let left = deadline.saturating_duration_since(Instant::now());
    let left = left.max(Duration::from_millis(1));
    let written = match client.request_stream_within(message, left).await {
        Ok(answer) => stream::receive(answer).await,
        Err(error) => Err(failure(&error, Some(args.timeout))),
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, client.close()).await;
    written
}

/// What went wrong, whether the request was processed, and what to do.
fn failure(error: &Error, limit: Option<Duration>) -> Failure {
    let code = code_of(error, Code::Failed);
    let what = match code {
        Code::TimedOut => limit.map_or_else(|| error.to_string(), |limit| format!("no answer within {limit:?}")),
        Code::Failed | Code::Usage | Code::Refused | Code::Unreachable | Code::Key => error.to_string(),
    };
    Failure::new(
        code,
        format_args!("{what} (the request {}){}", fate(error), advice(error)),
    )
}

/// What to do about an error.
const fn advice(error: &Error) -> &'static str {
    match error {
        Error::Request(RequestError::Refused(Refusal::Failed)) => ": the log of the server has the reason",
        Error::Request(RequestError::Refused(Refusal::Busy)) => ": try again later",
        Error::Request(
            RequestError::TooLarge { .. } | RequestError::Refused(Refusal::TooLarge | Refusal::AnswerTooLarge),
        ) => ": --max-message sets the limit, on both sides",
        Error::Request(RequestError::NoOpenBodies) => {
            ": the server takes no streams; --max-message sets how long a message may be, on both sides"
        }
        Error::TimedOut { .. } => ": --timeout sets the limit",
        Error::Connection {
            end: ConnectionError::Truncated,
            ..
        } => ": the server was killed or crashed, or the network failed",
        Error::Request(_)
        | Error::Connection { .. }
        | Error::Io { .. }
        | Error::Closed
        | Error::Entropy(_)
        | Error::Setup(_)
        | Error::Settings(_)
        | _ => "",
    }
}

/// What is to be sent.
enum Message {
    Whole(Vec<u8>),
    /// Too long for memory, or to be sent while it is read.
    Streamed(Input),
}

fn message(argument: Option<OsString>, file: Option<PathBuf>, most: u32, stream: bool) -> Result<Message, Failure> {
    if let Some(argument) = argument {
        return Ok(Message::Whole(argument.into_encoded_bytes()));
    }
    let file = file.filter(|file| file.as_os_str() != "-");
    let name = file
        .as_ref()
        .map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
    if file.is_none() {
        output::ask("the message");
    }
    let failed = |error| {
        let message = format!("cannot read the message from {name}: {error}");
        Failure::new(Code::Failed, message)
    };
    let mut from = file.map(File::open).transpose().map_err(failed)?;
    let mut message = Vec::new();
    if !stream {
        // Read one byte more than the limit, to detect a message that is too large.
        let limit = u64::from(most) + 1;
        let read = match &mut from {
            Some(file) => file.take(limit).read_to_end(&mut message),
            None => stdin().lock().take(limit).read_to_end(&mut message),
        };
        read.map_err(failed)?;
        if u64::try_from(message.len()).is_ok_and(|length| length < limit) {
            return Ok(Message::Whole(message));
        }
    }
    Input::start(message, from).map(Message::Streamed).map_err(failed)
}
