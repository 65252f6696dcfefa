//! The server's loop.

use core::ops::Range;
use std::net::TcpListener;
use std::sync::Arc;

use falco_core::keys::{Secrets, ServerKeys};
use falco_core::{
    BufferSizes, ConnectionError, HeapPartials, Key, OutgoingAnswer, Reassembly, Received, RequestId, ServerConnection,
    ServerEvent, Settings, Unread,
};
use getrandom::SysRng;
use tokio::net::TcpStream;

use super::socket::{Clock, Read, Socket};
use crate::Failure;
use crate::contenders::{KEY, accept};

pub(in super::super) async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let mut secrets = Secrets::default();
    secrets.noise.push(Key::from_bytes(KEY)?);
    let (keys, clock) = (Arc::new(secrets.into_server(&mut SysRng)?), Clock::start());
    accept(listener, |stream| answer(stream, Arc::clone(&keys), clock)).await
}

async fn answer(stream: TcpStream, keys: Arc<ServerKeys>, clock: Clock) -> Result<(), Failure> {
    let connection = ServerConnection::new(keys, &Settings::new(), clock.now(), &mut SysRng)?;
    Server {
        connection,
        socket: Socket::new(stream, clock),
        answers: Answers::default(),
    }
    .run()
    .await
}

/// Answers that are not sealed yet.
#[derive(Default)]
struct Answers {
    /// Small ones: where each body lies in `bodies`.
    small: Vec<(OutgoingAnswer, Range<usize>)>,
    bodies: Vec<u8>,
    large: Vec<(OutgoingAnswer, Vec<u8>)>,
    /// Requests that have arrived in part.
    partial: Reassembly<HeapPartials>,
}

impl Answers {
    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty()
    }

    /// Copies a body, because the unread bytes that lend it are needed for the next request.
    fn push(&mut self, answer: OutgoingAnswer, body: &[u8]) {
        let start = self.bodies.len();
        self.bodies.extend_from_slice(body);
        self.small.push((answer, start..self.bodies.len()));
    }

    /// Drops those that are sealed.
    fn drop_sealed(&mut self) {
        self.small.retain(|(answer, _)| !answer.is_done());
        self.large.retain(|(answer, _)| !answer.is_done());
        if self.small.is_empty() {
            self.bodies.clear();
        }
    }
}

/// One connection.
struct Server {
    connection: ServerConnection<Arc<ServerKeys>>,
    socket: Socket,
    answers: Answers,
}

impl Server {
    async fn run(mut self) -> Result<(), Failure> {
        let end = loop {
            match self.turn().await? {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        let now = self.socket.clock.now();
        let count = self
            .connection
            .poll_transmit(now, self.socket.out(BufferSizes::TRANSMIT))?;
        self.socket.write(count).await?;
        if end.is_graceful() {
            self.socket.end().await
        } else {
            Err(end.into())
        }
    }

    /// Processes what was read, writes what came of it, and reads again.
    async fn turn(&mut self) -> Result<Result<(), ConnectionError>, Failure> {
        let (sealed, wanted) = match self.receive()? {
            Ok(received) => received,
            Err(end) => return Ok(Err(end)),
        };
        self.socket.write(sealed).await?;
        self.write().await?;
        let Some(wanted) = wanted else { return Ok(Ok(())) };
        let read = self.socket.read(wanted, self.connection.poll_timeout()).await?;
        let now = self.socket.clock.now();
        Ok(match read {
            Read::Bytes => Ok(()),
            Read::End => self.connection.end_of_stream(now, &self.socket.inbox.unread()),
            Read::Deadline => self.connection.handle_timeout(now),
        })
    }

    /// Processes the unread bytes. Returns how many bytes of output are sealed, and how many unread
    /// bytes are needed in all, unless something has to be written first.
    fn receive(&mut self) -> Result<Result<(usize, Option<usize>), ConnectionError>, Failure> {
        let (now, mut sealed) = (self.socket.clock.now(), 0);
        loop {
            let unread = self.socket.inbox.len();
            let size = self.connection.seal_size(unread);
            let (mut bytes, out) = self.socket.both(size);
            let mut consumed = 0;
            match self.connection.recv(now, Unread::new(&mut bytes, &mut consumed)) {
                Ok(Received::Event(event)) => {
                    match event {
                        // A request on its own is answered from where it was decrypted.
                        ServerEvent::Request { id, body }
                            if consumed == unread && sealed == 0 && self.answers.is_empty() =>
                        {
                            let mut answer = self.connection.answer(id, body.len())?;
                            sealed = self.connection.seal(now, [(&mut answer, body)], out)?;
                            if !answer.is_done() {
                                self.answers.large.push((answer, body.to_vec()));
                            }
                        }
                        ServerEvent::Request { id, body } => {
                            let answer = self.connection.answer(id, body.len())?;
                            self.answers.push(answer, body);
                        }
                        ServerEvent::Begin { id, total, body } => self.answers.partial.begin(id, total, body)?,
                        ServerEvent::Part { id, body, last } => {
                            self.answers.partial.part(id, body)?;
                            if last {
                                self.answer_large(id)?;
                            }
                        }
                        ServerEvent::Abandoned { id } => self.answers.partial.forget(id),
                        // Every request is answered at once, so none is left to cancel.
                        ServerEvent::Cancelled { .. }
                        | ServerEvent::Established
                        | ServerEvent::Ping
                        | ServerEvent::Closing { .. }
                        | _ => {}
                    }
                }
                Ok(Received::Skip) => {}
                Ok(Received::NeedMore { total }) => return Ok(Ok((sealed, Some(total)))),
                Ok(_) => return Ok(Ok((sealed, None))),
                Err(end) => return Ok(Err(end)),
            }
            self.socket.inbox.consume(consumed);
        }
    }

    fn answer_large(&mut self, id: RequestId) -> Result<(), Failure> {
        let (mut body, length) = self.answers.partial.take(id).ok_or("a request is not complete")?;
        body.truncate(length);
        let answer = self.connection.answer(id, body.len())?;
        self.answers.large.push((answer, body));
        Ok(())
    }

    /// Seals and writes pending output and all answers.
    async fn write(&mut self) -> Result<(), Failure> {
        loop {
            let Answers {
                small, bodies, large, ..
            } = &mut self.answers;
            let length = bodies.len() + small.len() * FRAME + large.first().map_or(0, |(_, body)| body.len());
            let now = self.socket.clock.now();
            let out = self
                .socket
                .out(BufferSizes::TRANSMIT + self.connection.seal_size(length));
            let small = small
                .iter_mut()
                .map(|(answer, body)| (answer, bodies.get(body.clone()).unwrap_or_default()));
            let large = large.iter_mut().map(|(answer, body)| (answer, body.as_slice()));
            let count = self.connection.seal(now, small.chain(large), out)?;
            if count == 0 {
                return Ok(());
            }
            self.answers.drop_sealed();
            self.socket.write(count).await?;
        }
    }
}

/// What the header of each message in a record takes.
const FRAME: usize = 7;
