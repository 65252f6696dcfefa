//! How the tool fails: a message for a person, an exit code for a script. Both are derived here
//! from the errors of the library.

use core::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

use falco_tokio::{ConnectionError, Error, Fate};

use crate::at_path::{self, AtPath};
use crate::values::{Address, Servers};

/// The exit codes, as the help has them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  success; also if the reader of standard output has closed it
  1  at least one request failed, or an error occurred that is not listed below
  2  the command line is wrong
  3  the server refused the handshake: another key, --context or --wire, no FalcoTCP server, or a full one
  4  cannot connect, or cannot listen
  5  a time limit expired
  6  no key: not given, not readable, readable by other users, or not 64 hexadecimal digits";

/// `doing` in an [`Error`] that occurred while a stream was opened.
const CONNECTING: &str = "connecting";

/// An exit code that is not 0.
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
    /// An error with its message.
    Message(Code, String),
    /// An error whose message was printed already.
    Reported(Code),
    /// The reader of standard output has closed it.
    OutputClosed,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self::Message(code, message.to_string())
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }

    /// A connection could not be established.
    pub(crate) fn connecting(error: &Error, address: &Servers) -> Self {
        // If the server closes before it has read everything, the system may report an error.
        let is_ended = matches!(error, Error::Io { doing, .. } if *doing != CONNECTING);
        let code = if is_ended {
            Code::Refused
        } else {
            code_of(error, Code::Unreachable)
        };
        if code == Code::Refused {
            return Self::new(
                code,
                format_args!(
                    "{address} refused the handshake: the server has another key, --context or --wire (check these first); or it, or a proxy in front of it, is full, starting or stopping; or no FalcoTCP server listens there"
                ),
            );
        }
        let system = if let Error::Io { source, .. } = error {
            Some(source.kind())
        } else {
            None
        };
        let hint = match (system, address) {
            (Some(ErrorKind::ConnectionRefused), Servers::One(Address::Unix(path)))
                if at_path::look(path) == AtPath::NoSocket =>
            {
                ": the file there is not a socket"
            }
            (Some(ErrorKind::ConnectionRefused), _) => {
                ": nothing listens there; is the server running, and is this its address?"
            }
            (Some(ErrorKind::NotFound), Servers::One(Address::Unix(_))) => {
                ": is the server running, and is this its path?"
            }
            (Some(ErrorKind::PermissionDenied), Servers::One(Address::Unix(_))) => {
                ": this user may not write to that socket; see --socket-mode of the server"
            }
            (None, _) if matches!(error, Error::TimedOut { .. }) => {
                ": nothing answers there; the server or its machine is down or stuck, or a firewall drops the packets"
            }
            (None, _) if code == Code::TimedOut => {
                ": something listens there, but it is stuck, or it is not a FalcoTCP server"
            }
            _ => "",
        };
        Self::new(
            code,
            format_args!("cannot connect to {address}: {}{hint}", Cause(error)),
        )
    }

    /// A server cannot listen.
    pub(crate) fn listening(error: &Error, address: &Address) -> Self {
        let code = code_of(error, Code::Unreachable);
        let Error::Io { source, .. } = error else {
            return Self::new(code, error);
        };
        let hint = match (source.kind(), address) {
            (ErrorKind::AddrInUse, Address::Tcp(_)) => {
                ": another program listens there; stop it, or give another port with --listen"
            }
            (ErrorKind::AddrInUse, Address::Unix(path)) => match at_path::look(path) {
                AtPath::Server => ": another server listens there; stop it, or give another path with --listen",
                AtPath::DeadSocket => {
                    ": a server that has ended left this socket, and it could not be removed: remove it, or start again if another server was starting"
                }
                AtPath::NoSocket => {
                    ": the file there is not a socket and was not touched: remove it, or name another path"
                }
            },
            (ErrorKind::AddrNotAvailable, _) => {
                ": this machine has no such address; 0.0.0.0 and [::] listen on all its addresses"
            }
            (ErrorKind::PermissionDenied, Address::Tcp(_)) => ": this user may not use that port; try one above 1023",
            (ErrorKind::PermissionDenied, Address::Unix(_)) => ": this user may not create a file there",
            (ErrorKind::NotFound, Address::Unix(_)) => ": there is no such directory",
            _ => "",
        };
        Self::new(code, format_args!("cannot listen on {address}: {source}{hint}"))
    }

    /// The message, if it was not printed already.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Message(_, message) => message,
            Self::Reported(_) | Self::OutputClosed => "",
        }
    }

    /// Prints the message and returns the exit code.
    pub(crate) fn end(self) -> ExitCode {
        match self {
            Self::Message(code, message) => {
                crate::log::error(&message);
                ExitCode::from(code.number())
            }
            Self::Reported(code) => ExitCode::from(code.number()),
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

/// The text of an error, without its `doing` if that is [`CONNECTING`].
struct Cause<'e>(&'e Error);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Error::Io {
            doing: CONNECTING,
            source,
            ..
        } = self.0
        {
            source.fmt(f)
        } else if let Error::TimedOut {
            doing: CONNECTING,
            limit,
            ..
        } = self.0
        {
            write!(f, "timed out after {limit:?}")
        } else {
            self.0.fmt(f)
        }
    }
}

/// Whether a request that failed with an error was processed.
pub(crate) fn fate(error: &Error) -> &'static str {
    if error.fate() == Fate::NotProcessed {
        UNPROCESSED
    } else {
        "may have been processed"
    }
}

pub(crate) const UNPROCESSED: &str = "was not processed";

/// The exit code for an error, or `otherwise` if it has none of its own.
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
    if matches!(error, Error::Io { doing: CONNECTING, .. }) {
        return Code::Unreachable;
    }
    if matches!(error, Error::Setup(_)) {
        return Code::Usage;
    }
    otherwise
}

/// Listening at an address has failed.
pub(crate) const fn binding(source: std::io::Error) -> Error {
    Error::Io {
        doing: "binding",
        source,
        fate: Fate::NotProcessed,
    }
}
