//! What a peer is told on its command line, and its end when the test that started it is gone.
//! Shared by the Rust peers.

use std::io::{self, Error, ErrorKind};
use std::process::{self, ExitCode};
use std::thread;

/// Exit code of a client that the server refused.
const REFUSED: u8 = 3;

/// `serve ADDRESS KEY` or `call ADDRESS KEY STEP...`, the key in hexadecimal digits.
pub(crate) enum Order {
    Serve {
        address: String,
        key: [u8; 32],
    },
    Call {
        address: String,
        key: [u8; 32],
        steps: Vec<Step>,
    },
}

/// One thing that a client does: a number is the size of a message, `ping` is a ping, `wait=N` sits
/// idle for N milliseconds.
pub(crate) enum Step {
    Message(usize),
    Ping,
    Wait(u64),
}

/// Reads the command line, and ends the process as soon as its standard input ends, which it does
/// when the test is no more.
pub(crate) fn order() -> Result<Order, Error> {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        process::exit(4);
    });
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().ok_or_else(|| invalid("a word is missing"));
    let (verb, address, key) = (word()?, word()?, key(&word()?)?);
    match verb.as_str() {
        "serve" => Ok(Order::Serve { address, key }),
        "call" => Ok(Order::Call {
            address,
            key,
            steps: words.map(|word| step(&word)).collect::<Result<_, _>>()?,
        }),
        _ => Err(invalid("serve or call")),
    }
}

/// Reports the result of a client, and returns the exit code of its process.
pub(crate) fn outcome(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Reports that no connection was made.
pub(crate) fn refused(error: &Error) -> ExitCode {
    println!("refused {:?}", error.kind());
    ExitCode::from(REFUSED)
}

fn step(word: &str) -> Result<Step, Error> {
    let number = |digits: &str| digits.parse().map_err(|_| invalid("a step"));
    match word.strip_prefix("wait=") {
        Some(digits) => number(digits).map(Step::Wait),
        None if word == "ping" => Ok(Step::Ping),
        None => usize::try_from(number(word)?)
            .map(Step::Message)
            .map_err(|_| invalid("a size")),
    }
}

fn key(text: &str) -> Result<[u8; 32], Error> {
    let digits = |at: usize| {
        text.get(2 * at..2 * at + 2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
    };
    let bytes: Option<Vec<u8>> = (0..32).map(digits).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| invalid("a key"))
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}
