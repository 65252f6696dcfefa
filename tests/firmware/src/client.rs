//! The role of the client: refused with a wrong key, then 200 messages of no byte to the limit, a
//! ping, a lifetime that runs out, a new connection, the end in good order. On a serial line nobody
//! says that the stream has ended, so that being refused is silence until the deadline.

use cortex_m::singleton;
use falco_core::{ClientConnection, CloseReason, ConnectionError, Instant, PingId, Status};
use falco_embedded::{Ask, ClientLine, Error, Line};
use heapless::Vec;

use crate::board::{self, Entropy, Uart};
use crate::wire::{BUFFER, ClientKey, MAX_MESSAGE, settings};
use crate::{Task, Wake};

type Body = &'static mut Vec<u8, MAX_MESSAGE>;
type Answer = &'static mut [u8; MAX_MESSAGE];
type Output = [u8; BUFFER];

/// Messages that are sent.
const MESSAGES: usize = 200;
/// How often a connection is tried: the line may still be joining the device to its server.
const TRIES: usize = 8;

/// What is being shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The wrong key is refused.
    Refused,
    /// So many messages have been answered.
    Messages(usize),
    /// A ping is answered, or on the classic wire sent; the request that follows it is.
    Ping,
    AfterPing,
    /// The lifetime runs out.
    Lapse,
    /// A new connection carries a request.
    Again,
    /// The end.
    Close,
}

pub(crate) struct Client<'k> {
    wrong: &'k ClientKey,
    right: &'k ClientKey,
    entropy: &'k Entropy,
    line: Option<ClientLine<&'k ClientKey, Vec<u8, BUFFER>, Output>>,
    /// The memory of a request and its answer, while none is under way.
    memory: Option<(Body, Answer)>,
    ask: Option<Ask<Body, Answer>>,
    ping: Option<PingId>,
    stage: Stage,
    tries: usize,
    measured: bool,
}

impl<'k> Client<'k> {
    pub(crate) fn new(wrong: &'k ClientKey, right: &'k ClientKey, entropy: &'k Entropy) -> Option<Self> {
        let body = singleton!(: Vec<u8, MAX_MESSAGE> = Vec::new())?;
        let answer = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
        Some(Self {
            wrong,
            right,
            entropy,
            line: None,
            memory: Some((body, answer)),
            ask: None,
            ping: None,
            stage: Stage::Refused,
            tries: 0,
            measured: false,
        })
    }

    /// A new connection, from the first byte.
    #[inline(never)]
    fn connect(&mut self, now: Instant, uart: &Uart) -> Option<()> {
        // What came for the last one is not this one's.
        uart.discard();
        let key = if self.stage == Stage::Refused {
            self.wrong
        } else {
            self.right
        };
        let (settings, mut entropy) = (settings()?, self.entropy);
        let machine = ClientConnection::new(key, &settings, now, &mut entropy).ok()?;
        let line = Line::new(machine, Vec::new(), [0; BUFFER]);
        self.memory = self.ask.take().map(Ask::into_parts).or(self.memory.take());
        self.line = Some(ClientLine::new(line));
        Some(())
    }

    /// What comes next, once nothing is under way. Only on a connection that stands. Says whether
    /// something did.
    #[inline(never)]
    fn proceed(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(line) = &mut self.line else { return Ok(false) };
        let number = match self.stage {
            Stage::Refused | Stage::Lapse => return Ok(false),
            Stage::Messages(answered) => answered,
            Stage::AfterPing | Stage::Again => 1,
            Stage::Ping if self.ping.is_none() => {
                self.ping = Some(line.ping()?);
                return Ok(true);
            }
            Stage::Ping => {
                // The classic wire has no answer to a ping.
                let answered = cfg!(feature = "classic") || line.last_pong() == self.ping;
                if answered {
                    self.stage = Stage::AfterPing;
                }
                return Ok(answered);
            }
            Stage::Close => {
                let begins = line.line().machine().status() == Status::Established;
                line.close(now, CloseReason::Done);
                return Ok(begins);
            }
        };
        if let Some((body, answer)) = self.memory.take() {
            fill(body, number);
            self.ask = Some(line.ask(body, answer)?);
        }
        Ok(true)
    }

    /// An answer is whole: it is what was sent, or this was in vain.
    #[inline(never)]
    fn answered(&mut self, now: Instant, length: usize) -> bool {
        let Some((body, answer)) = self.ask.take().map(Ask::into_parts) else {
            return false;
        };
        let same = answer.get(..length) == Some(&**body);
        self.memory = Some((body, answer));
        if !same {
            return false;
        }
        self.stage = match self.stage {
            Stage::Messages(answered) if answered + 1 < MESSAGES => Stage::Messages(answered + 1),
            Stage::Messages(answered) => {
                board::say("answered", answered + 1);
                Stage::Ping
            }
            Stage::AfterPing => {
                board::say("pinged", 1);
                board::say("quiet_at", millis(now));
                Stage::Lapse
            }
            Stage::Again => Stage::Close,
            other @ (Stage::Refused | Stage::Ping | Stage::Lapse | Stage::Close) => other,
        };
        true
    }

    #[inline(never)]
    fn step(&mut self, now: Instant, uart: &Uart) -> Result<bool, Error> {
        let Some(line) = &mut self.line else { return Ok(false) };
        let bytes = line.line_mut();
        let read = uart.read(bytes.space()?);
        bytes.filled(read);
        let written = uart.write(bytes.unsent());
        bytes.sent(now, written);
        let more = line.step(now, self.ask.as_mut())?;
        // What has come has been looked at before the time is.
        let due = !more && read == 0 && line.line().poll_timeout().is_some_and(|due| due <= now);
        if due {
            line.line_mut().handle_timeout(now);
        }
        Ok(more || due || read > 0 || written > 0)
    }

    /// A connection has ended: as it should, or it is tried again, or this was in vain.
    fn ended(&mut self, now: Instant, error: &Error) -> Option<i32> {
        let established = self.line.as_ref().is_some_and(ClientLine::is_established);
        let Error::Connection(end) = error else { return Some(30) };
        self.line = None;
        self.stage = match (self.stage, end) {
            (Stage::Refused, ConnectionError::HandshakeTimeout | ConnectionError::Refused) if !established => {
                board::say("refused", 1);
                Stage::Messages(0)
            }
            (Stage::Lapse, ConnectionError::Expired | ConnectionError::PeerExpired) => {
                board::say("lapsed_at", millis(now));
                self.tries = 0;
                Stage::Again
            }
            (Stage::Close, ConnectionError::Closed) => {
                board::say("closed", 1);
                return Some(0);
            }
            (
                stage @ (Stage::Messages(0) | Stage::Again),
                ConnectionError::HandshakeTimeout | ConnectionError::Refused,
            ) if self.tries < TRIES => {
                self.tries += 1;
                stage
            }
            _ => return Some(31),
        };
        None
    }

    fn work(&mut self, now: Instant, uart: &Uart) -> Result<Wake, Error> {
        if self.line.is_none() && self.connect(now, uart).is_none() {
            return Ok(Wake::Over(32));
        }
        if self.step(now, uart)? {
            return Ok(Wake::Now);
        }
        if let Some(ask) = &mut self.ask {
            if let Some(length) = ask.answered()? {
                return Ok(if self.answered(now, length) {
                    Wake::Now
                } else {
                    Wake::Over(33)
                });
            }
        } else if let Some(line) = &self.line
            && line.is_established()
            && self.stage != Stage::Lapse
        {
            if !self.measured {
                self.measured = true;
                board::say("handshake_stack", board::stack_used());
            }
            if self.proceed(now)? {
                return Ok(Wake::Now);
            }
        }
        let line = self.line.as_ref().map(ClientLine::line);
        Ok(Wake::At {
            time: line.and_then(Line::poll_timeout),
            writes: line.is_some_and(|line| !line.unsent().is_empty()),
        })
    }
}

impl Task for Client<'_> {
    fn poll(&mut self, now: Instant, uart: &Uart) -> Wake {
        match self.work(now, uart) {
            Ok(wake) => wake,
            Err(error) => self.ended(now, &error).map_or(Wake::Now, Wake::Over),
        }
    }
}

fn millis(time: Instant) -> usize {
    usize::try_from(time.as_millis()).unwrap_or(usize::MAX)
}

/// A body of the length that has its turn: the first is empty, the last as long as a message may
/// be.
fn fill(body: &mut Vec<u8, MAX_MESSAGE>, number: usize) {
    body.clear();
    let mut byte = number.to_le_bytes()[0];
    for _ in 0..number * MAX_MESSAGE / (MESSAGES - 1) {
        // It fits: the last is as long as the memory.
        let _ = body.push(byte);
        byte = byte.wrapping_add(7);
    }
}
