//! The client: refused with a wrong key, then 200 messages from 0 bytes to the limit, a ping, a
//! lifetime that runs out, a new connection, with the feature `streams` open answers, and an
//! orderly end. A serial line does not report the end of the stream. So a refused handshake is
//! silence until the handshake times out.

#[cfg(feature = "streams")]
use core::task::Poll;

use cortex_m::singleton;
use falco_core::{ClientConnection, CloseReason, ConnectionError, Instant, PingId, Status};
#[cfg(feature = "streams")]
use falco_embedded::PendingSubscription;
use falco_embedded::{BufferedClient, BufferedConnection, Error, PendingRequest};
use heapless::Vec;

use crate::board::{self, Entropy, Uart};
use crate::wire::{BUFFER, ClientKey, MAX_MESSAGE, settings};
use crate::{Task, Wake};

type Body = &'static mut Vec<u8, MAX_MESSAGE>;
type Answer = &'static mut [u8; MAX_MESSAGE];
type Output = [u8; BUFFER];

/// How many messages are sent.
const MESSAGES: usize = 200;
/// How many open answers are read, as long as the largest message.
#[cfg(feature = "streams")]
const SUBSCRIPTIONS: usize = 20;
/// The window of an open answer. The memory for an answer holds it.
#[cfg(feature = "streams")]
const WINDOW_KIB: u16 = 1;
#[cfg(feature = "streams")]
const _: () = assert!(MAX_MESSAGE == 1024, "the memory holds a window");
/// How often a connection is attempted: the link to the server may not be up yet.
const TRIES: usize = 8;

/// What the client does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Is refused with the wrong key.
    Refused,
    /// Sends messages; so many were answered.
    Messages(usize),
    /// Sends a ping, and on the noise wire waits for its answer. Then sends a request.
    Ping,
    AfterPing,
    /// Waits until the lifetime runs out.
    Lapse,
    /// Sends a request on a new connection.
    Again,
    /// Subscribes; so many open answers have ended.
    #[cfg(feature = "streams")]
    Subscribe(usize),
    /// Closes.
    Close,
}

pub(crate) struct Client<'k> {
    wrong: &'k ClientKey,
    right: &'k ClientKey,
    entropy: &'k Entropy,
    connection: Option<BufferedClient<&'k ClientKey, (Vec<u8, BUFFER>, Output)>>,
    /// The memory for a request and its answer, while there is none.
    memory: Option<(Body, Answer)>,
    request: Option<PendingRequest<Body, Answer>>,
    #[cfg(feature = "streams")]
    subscription: Option<PendingSubscription<Body, Answer>>,
    /// Bytes of the open answer that have come.
    #[cfg(feature = "streams")]
    came: usize,
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
            connection: None,
            memory: Some((body, answer)),
            request: None,
            #[cfg(feature = "streams")]
            subscription: None,
            #[cfg(feature = "streams")]
            came: 0,
            ping: None,
            stage: Stage::Refused,
            tries: 0,
            measured: false,
        })
    }

    /// Starts a connection.
    #[inline(never)]
    fn connect(&mut self, now: Instant, uart: &Uart) -> Option<()> {
        // Input of the connection before is not for this one.
        uart.discard();
        let key = if self.stage == Stage::Refused {
            self.wrong
        } else {
            self.right
        };
        let (settings, mut entropy) = (settings()?, self.entropy);
        #[cfg(feature = "streams")]
        let settings = settings.with_streams(WINDOW_KIB, 0);
        let machine = ClientConnection::new(key, &settings, now, &mut entropy).ok()?;
        let connection = BufferedConnection::new(machine, (Vec::new(), [0; BUFFER]));
        self.memory = self
            .request
            .take()
            .map(PendingRequest::into_parts)
            .or(self.memory.take());
        self.connection = Some(BufferedClient::new(connection));
        Some(())
    }

    /// Starts what comes next, on an established connection without a request. Returns whether
    /// there was something.
    #[inline(never)]
    fn proceed(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(client) = &mut self.connection else {
            return Ok(false);
        };
        let number = match self.stage {
            Stage::Refused | Stage::Lapse => return Ok(false),
            Stage::Messages(answered) => answered,
            Stage::AfterPing | Stage::Again => 1,
            #[cfg(feature = "streams")]
            Stage::Subscribe(_) => {
                if let Some((body, answer)) = self.memory.take() {
                    fill(body, MESSAGES - 1);
                    self.came = 0;
                    self.subscription = Some(client.subscribe(body, answer)?);
                }
                return Ok(true);
            }
            Stage::Ping if self.ping.is_none() => {
                self.ping = Some(client.ping()?);
                return Ok(true);
            }
            Stage::Ping => {
                // The classic wire has no answer to a ping.
                let answered = cfg!(feature = "classic") || client.last_pong() == self.ping;
                if answered {
                    self.stage = Stage::AfterPing;
                }
                return Ok(answered);
            }
            Stage::Close => {
                let begins = client.connection().machine().status() == Status::Established;
                client.close(now, CloseReason::Done);
                return Ok(begins);
            }
        };
        if let Some((body, answer)) = self.memory.take() {
            fill(body, number);
            self.request = Some(client.request(body, answer)?);
        }
        Ok(true)
    }

    /// Compares an answer with what was sent. Returns whether they are equal.
    #[inline(never)]
    fn answered(&mut self, now: Instant, length: usize) -> bool {
        let Some((body, answer)) = self.request.take().map(PendingRequest::into_parts) else {
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
            #[cfg(not(feature = "streams"))]
            Stage::Again => Stage::Close,
            #[cfg(feature = "streams")]
            Stage::Again => Stage::Subscribe(0),
            #[cfg(feature = "streams")]
            other @ Stage::Subscribe(_) => other,
            other @ (Stage::Refused | Stage::Ping | Stage::Lapse | Stage::Close) => other,
        };
        true
    }

    /// Takes a piece of an open answer. Returns what to do next, or `None` if there is none yet.
    #[cfg(feature = "streams")]
    #[inline(never)]
    fn take_piece(&mut self) -> Result<Option<Wake>, Error> {
        let (Some(client), Some(subscription)) = (&mut self.connection, &mut self.subscription) else {
            return Ok(None);
        };
        match client.poll_next(subscription)? {
            Poll::Pending => return Ok(None),
            Poll::Ready(Some(piece)) => {
                // The answer is the request.
                let first = message_byte(MESSAGES - 1, self.came);
                if piece.first() != Some(&first) {
                    return Ok(Some(Wake::Over(34)));
                }
                self.came += piece.len();
                return Ok(Some(Wake::Now));
            }
            Poll::Ready(None) => {}
        }
        if self.came != MAX_MESSAGE {
            return Ok(Some(Wake::Over(35)));
        }
        self.memory = self.subscription.take().map(PendingSubscription::into_parts);
        if let Stage::Subscribe(ended) = &mut self.stage {
            *ended += 1;
            if *ended == SUBSCRIPTIONS {
                board::say("subscribed", SUBSCRIPTIONS);
                self.stage = Stage::Close;
            }
        }
        Ok(Some(Wake::Now))
    }

    #[inline(never)]
    fn step(&mut self, now: Instant, uart: &Uart) -> Result<bool, Error> {
        let Some(client) = &mut self.connection else {
            return Ok(false);
        };
        let bytes = client.connection_mut();
        let read = uart.read(bytes.space()?);
        bytes.filled(read);
        let written = uart.write(bytes.unsent());
        bytes.sent(now, written);
        #[cfg(not(feature = "streams"))]
        let more = client.step(now, self.request.as_mut())?;
        #[cfg(feature = "streams")]
        let more = match &mut self.subscription {
            Some(subscription) => client.step_subscription(now, subscription)?,
            None => client.step(now, self.request.as_mut())?,
        };
        // Deadlines are checked only after everything that has come was processed.
        let due = !more && read == 0 && client.connection().poll_timeout().is_some_and(|due| due <= now);
        if due {
            client.connection_mut().handle_timeout(now);
        }
        Ok(more || due || read > 0 || written > 0)
    }

    /// Handles the end of a connection. Returns an exit code, or `None` to connect again.
    fn ended(&mut self, now: Instant, error: &Error) -> Option<i32> {
        let established = self.connection.as_ref().is_some_and(BufferedClient::is_established);
        let Error::Connection(end) = error else { return Some(30) };
        self.connection = None;
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
        if self.connection.is_none() && self.connect(now, uart).is_none() {
            return Ok(Wake::Over(32));
        }
        if self.step(now, uart)? {
            return Ok(Wake::Now);
        }
        #[cfg(feature = "streams")]
        if let Some(wake) = self.take_piece()? {
            return Ok(wake);
        }
        if let Some(request) = &mut self.request {
            if let Some(length) = request.answered()? {
                return Ok(if self.answered(now, length) {
                    Wake::Now
                } else {
                    Wake::Over(33)
                });
            }
        } else if let Some(client) = &self.connection
            && client.is_established()
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
        let connection = self.connection.as_ref().map(BufferedClient::connection);
        Ok(Wake::At {
            time: connection.and_then(BufferedConnection::poll_timeout),
            writes: connection.is_some_and(|connection| !connection.unsent().is_empty()),
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

/// The byte at a place of the body of a message, as `fill` has it.
#[cfg(feature = "streams")]
fn message_byte(number: usize, place: usize) -> u8 {
    number.to_le_bytes()[0].wrapping_add(place.to_le_bytes()[0].wrapping_mul(7))
}

/// The body of a message: the first is empty, the last as long as a message may be.
fn fill(body: &mut Vec<u8, MAX_MESSAGE>, number: usize) {
    body.clear();
    let mut byte = number.to_le_bytes()[0];
    for _ in 0..number * MAX_MESSAGE / (MESSAGES - 1) {
        // Cannot fail: the last is as long as the memory.
        let _ = body.push(byte);
        byte = byte.wrapping_add(7);
    }
}
