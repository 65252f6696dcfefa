//! A service on the core's own server, at the far ends of a device's pipes. It takes open requests
//! and gives open answers, which a device's server does not.
#![allow(clippy::wildcard_enum_match_arm, reason = "a service looks at some events only")]

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use std::rc::Rc;

use falco_core::testing::CountingRng;
use falco_core::{
    CloseReason, ConnectionError, Instant, OutgoingAnswer, Received, RecvBuf, Refusal, RequestId, ServerConnection,
    ServerEvent, Settings,
};
use falco_embedded::{Timer, asynchronous, blocking};

use super::{
    Asker, Lines, ManyKey, Other, Pipe, Port, RestingClock, VirtualClock, World, at_once, client_key, lines, many_key,
    run, server_key, settings, turn,
};

/// The window of the device, and the memory of a subscription.
pub(crate) const WINDOW: usize = 1024;

pub(crate) fn device() -> Settings {
    settings().with_streams(1, 0)
}

/// The settings of a service that takes open requests, 2 KiB of each at once.
pub(crate) fn service() -> Settings {
    settings().with_streams(2, 4)
}

/// A body.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    (0..=250).cycle().take(count).collect()
}

/// What a service got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Opened,
    /// The end of an open request.
    Ended,
    Whole,
    Cancelled,
}

pub(crate) struct Service<'k> {
    machine: ServerConnection<&'k ManyKey>,
    inbox: RecvBuf<Vec<u8>>,
    pub(crate) came: Vec<(u32, Came)>,
    /// The body of the last request.
    pub(crate) body: Vec<u8>,
    pub(crate) pings: usize,
    pub(crate) end: Option<ConnectionError>,
    last: Option<RequestId>,
    answer: Option<OutgoingAnswer>,
    /// What of the answer is not sealed.
    unsealed: Vec<u8>,
    pipes: [Pipe; 2],
    world: Rc<World>,
}

impl<'k> Service<'k> {
    pub(crate) fn new(key: &'k ManyKey, settings: &Settings, world: &Rc<World>, pipes: &[Pipe; 2]) -> Self {
        Self {
            machine: ServerConnection::new(key, settings, Instant::ZERO, &mut CountingRng::new(2)).unwrap(),
            inbox: RecvBuf::new(Vec::new()),
            came: Vec::new(),
            body: Vec::new(),
            pings: 0,
            end: None,
            last: None,
            answer: None,
            unsealed: Vec::new(),
            pipes: pipes.clone(),
            world: Rc::clone(world),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_millis(self.world.now())
    }

    /// Creates an open answer to the last request. It begins with the first bytes that are sent.
    pub(crate) fn open(&mut self) {
        self.answer = Some(self.machine.open_answer(self.last.unwrap()).unwrap());
    }

    /// Sends bytes of the open answer, as the client gives credit.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.unsealed.extend(bytes);
        self.write();
    }

    /// Ends the open answer.
    pub(crate) fn finish(&mut self) {
        self.answer.as_mut().unwrap().finish();
        self.write();
    }

    /// Answers the last request with a body of known length.
    pub(crate) fn answer(&mut self, body: &[u8]) {
        let answer = self.machine.answer(self.last.unwrap(), body.len()).unwrap();
        self.answer = Some(answer);
        self.unsealed = body.to_vec();
        self.write();
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.answer = None;
        self.unsealed.clear();
        self.machine.refuse(self.last.unwrap(), refusal).unwrap();
        self.write();
    }

    /// How many bytes of the open answer the client would take now.
    pub(crate) fn sendable(&self) -> u32 {
        self.machine.sendable(self.last.unwrap())
    }

    /// How many bytes wait for credit.
    pub(crate) fn waiting(&self) -> usize {
        self.unsealed.len()
    }

    fn write(&mut self) {
        let now = self.now();
        let mut out = [0; 600];
        loop {
            let body = self.unsealed.as_slice();
            let answer = self.answer.as_mut().filter(|answer| !answer.is_done());
            let sealed = self.machine.seal(now, answer.map(|answer| (answer, body)), &mut out);
            if let Some(answer) = &mut self.answer
                && answer.is_open()
            {
                self.unsealed.drain(..answer.take_sealed());
            }
            let Ok(count @ 1..) = sealed else { return };
            self.pipes[1].bytes.borrow_mut().extend(&out[..count]);
            self.world.stir();
        }
    }

    /// Processes what has come, and sends what is pending.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the other events need no reaction")]
    pub(crate) fn exchange(&mut self) {
        let now = self.now();
        let bytes: Vec<u8> = self.pipes[0].bytes.borrow_mut().drain(..).collect();
        if !bytes.is_empty() {
            self.world.stir();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let space = self.inbox.space(self.inbox.len() + rest.len()).unwrap();
            let (first, later) = rest.split_at(space.len().min(rest.len()));
            space[..first.len()].copy_from_slice(first);
            self.inbox.filled(first.len());
            rest = later;
        }
        while self.end.is_none() {
            match self.machine.recv(now, self.inbox.unread()) {
                Ok(Received::Event(event)) => {
                    let (last, body) = (&mut self.last, &mut self.body);
                    let mut begin = |id, bytes: &[u8]| {
                        *last = Some(id);
                        *body = bytes.to_vec();
                    };
                    match event {
                        ServerEvent::Opened { id, body } => {
                            begin(id, body);
                            self.came.push((id.number(), Came::Opened));
                        }
                        ServerEvent::Request { id, body } => {
                            begin(id, body);
                            self.came.push((id.number(), Came::Whole));
                        }
                        ServerEvent::Part { id, body, last } => {
                            self.body.extend(body);
                            let taken = body.len();
                            if last {
                                self.came.push((id.number(), Came::Ended));
                            }
                            self.machine.credit(id, taken, true).unwrap();
                        }
                        ServerEvent::Cancelled { id } => self.came.push((id.number(), Came::Cancelled)),
                        ServerEvent::Ping => self.pings += 1,
                        _ => {}
                    }
                }
                Ok(Received::Skip) => {}
                Ok(Received::NeedMore { .. }) => break,
                Ok(_) => self.write(),
                Err(end) => self.end = Some(end),
            }
        }
        let _ = self.machine.handle_timeout(now);
        self.write();
        self.end = self.machine.end();
    }

    /// Gives the client time to take what was sent.
    pub(crate) async fn turns(&mut self) {
        for _ in 0..40 {
            self.exchange();
            turn(&self.world).await;
        }
    }

    pub(crate) fn close(&mut self) {
        self.machine.close(self.now(), CloseReason::ShuttingDown);
        self.write();
    }

    /// Goes on until this has come.
    pub(crate) async fn until(&mut self, number: u32, came: Came) {
        self.serve(None, |service| service.came.contains(&(number, came))).await;
    }

    /// Goes on until `until`.
    pub(crate) async fn idle(&mut self, until: u64) {
        self.serve(Some(until), |_| false).await;
    }

    /// Goes on until the connection has ended.
    pub(crate) async fn ended(&mut self) {
        self.serve(None, |service| service.end.is_some()).await;
    }

    pub(crate) async fn serve(&mut self, until: Option<u64>, done: impl Fn(&Self) -> bool) {
        let mut clock = VirtualClock(Rc::clone(&self.world));
        loop {
            self.exchange();
            if done(self) || until.is_some_and(|until| self.world.now() >= until) {
                return;
            }
            assert_eq!(self.end, None, "{:?}", self.came);
            let until = until.map(Instant::from_millis);
            let at = [until, self.machine.poll_timeout()].into_iter().flatten().min();
            let mut sleep = pin!(clock.sleep_until(at.unwrap()));
            let up = &self.pipes[0];
            poll_fn(|context| {
                if !up.bytes.borrow().is_empty() {
                    return Poll::Ready(());
                }
                sleep.as_mut().poll(context)
            })
            .await;
        }
    }

    /// How many bytes the client has written.
    pub(crate) fn heard(&self) -> usize {
        self.pipes[0].gauge.written.get()
    }

    /// Closes the stream without a CLOSE.
    pub(crate) fn hang_up(&self) {
        self.pipes[1].closed.set(true);
        self.world.stir();
    }
}

/// Runs a client against a service: once an async client, and once a blocking one.
pub(crate) fn beside(
    settings: &Settings,
    theirs: &Settings,
    serves: impl AsyncFn(&mut Service<'_>, &World),
    scenario: impl AsyncFn(&mut dyn Asker, &World, &[Pipe; 2]),
) {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    for blocks in [false, true] {
        let Lines {
            world, client, pipes, ..
        } = lines(&client_key, &server_key, settings);
        let mut serving = Service::new(&many_key, theirs, &world, &pipes);
        let [up, down] = pipes.clone();
        let serves = serves(&mut serving, &world);
        if blocks {
            let other = Other::new(serves);
            let clock = RestingClock {
                world: Rc::clone(&world),
                other: &other,
            };
            let mut client = blocking::Client::new(client, Port { from: down, to: up }, clock);
            at_once(scenario(&mut client, &world, &pipes));
            other.finish(&world);
        } else {
            let mut client = asynchronous::Client::new(client, down, up, VirtualClock(Rc::clone(&world)));
            run(&world, scenario(&mut client, &world, &pipes), serves);
        }
    }
}
