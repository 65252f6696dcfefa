//! How the tool fails: a message for whoever reads, an exit code for whoever does not. What an error of the library means to a shell is decided here.

use core::fmt;
use std::process::ExitCode;

use falco_tokio::{ConnectionError, Error};

/// The exit codes, as the help tells them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  all went well; also when whoever read the output wanted no more of it
  1  a request failed, or some of many did, or anything that is not below
  2  the command line is wrong
  3  the server refused the handshake: another key, --context or --wire, no FalcoTCP server, or a full one
  4  cannot connect, or cannot listen
  5  timed out
  6  no key: not given, not readable, or not 64 hexadecimal digits";

/// What a shell is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Failed,
    Usage,
    Refused,
    Unreachable,
    TimedOut,
    Key,
}

impl Code {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Unreachable => 4,
            Self::TimedOut => 5,
            Self::Key => 6,
        }
    }
}

/// Why a command has ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong, and this says what.
    Because(Code, String),
    /// Something is wrong, and all has been said about it.
    Told(Code),
    /// Nobody reads the output any more.
    OutputClosed,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self::Because(code, message.to_string())
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }

    /// A connection that did not come about.
    pub(crate) fn connecting(error: &Error, address: &impl fmt::Display) -> Self {
        let code = code_of(error, Code::Unreachable);
        if code == Code::Refused {
            return Self::new(
                code,
                format_args!(
                    "{address} refused the handshake: it has another key, --context or --wire, or is no FalcoTCP server, or has no room"
                ),
            );
        }
        Self::new(code, format_args!("{address}: {error}"))
    }

    /// Tells it, and says with what the process ends.
    pub(crate) fn end(self) -> ExitCode {
        match self {
            Self::Because(code, message) => {
                crate::output::tell(&message);
                ExitCode::from(code.number())
            }
            Self::Told(code) => ExitCode::from(code.number()),
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

/// What an error means, where `otherwise` is what went wrong in general.
pub(crate) fn code_of(error: &Error, otherwise: Code) -> Code {
    if error.is_refused() {
        return Code::Refused;
    }
    if let Error::Connection {
        end: ConnectionError::HandshakeTimeout,
        ..
    }
    | Error::TimedOut { .. } = error
    {
        return Code::TimedOut;
    }
    if matches!(
        error,
        Error::Io {
            doing: "connecting",
            ..
        }
    ) {
        return Code::Unreachable;
    }
    if matches!(error, Error::Setup(_)) {
        return Code::Usage;
    }
    otherwise
}
