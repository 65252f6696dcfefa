//! A client on either driver behind one trait, and the three ways to run two sides against each
//! other.

use core::future::{Future, ready};
use core::pin::Pin;
use std::rc::Rc;

use falco_core::{ClientKeyRef, Fate, Instant, PingId, Refusal, Settings};
use falco_embedded::{Buffers, Clock, Error, asynchronous, blocking};

use super::{
    Broken, Joined, Lines, Other, Pipe, Port, RestingClock, VirtualClock, World, at_once, client_key, join, lines, run,
    server_key,
};

type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error<Broken>>> + 'a>>;

/// A client.
pub(crate) trait Asker {
    fn establish(&mut self) -> Asked<'_, ()>;
    fn request<'a>(&'a mut self, body: &'a [u8], answer: &'a mut [u8]) -> Asked<'a, usize>;
    fn ping(&mut self) -> Asked<'_, PingId>;
    fn pong(&mut self, ping: PingId) -> Asked<'_, ()>;
    fn idle(&mut self, until: u64) -> Asked<'_, ()>;
    fn close(&mut self) -> Asked<'_, ()>;
    fn fate(&self) -> Fate;
    fn subscribe<'a>(&'a mut self, body: &'a [u8], memory: &'a mut [u8]) -> Asked<'a, Box<dyn Subscriber + 'a>>;
}

/// A subscription. Its pieces are copied.
pub(crate) trait Subscriber {
    fn next(&mut self) -> Asked<'_, Option<Vec<u8>>>;
    fn cancel<'a>(self: Box<Self>) -> Asked<'a, ()>
    where
        Self: 'a;
}

impl<H: ClientKeyRef, B: Buffers> Subscriber for asynchronous::Subscription<'_, Async, H, B> {
    fn next(&mut self) -> Asked<'_, Option<Vec<u8>>> {
        Box::pin(async { Ok(self.next().await?.map(<[u8]>::to_vec)) })
    }
    fn cancel<'a>(self: Box<Self>) -> Asked<'a, ()>
    where
        Self: 'a,
    {
        Box::pin((*self).cancel())
    }
}

impl<H: ClientKeyRef, B: Buffers> Subscriber for blocking::Subscription<'_, Blocking<'_, '_>, H, B> {
    fn next(&mut self) -> Asked<'_, Option<Vec<u8>>> {
        Box::pin(ready(self.next().map(|piece| piece.map(<[u8]>::to_vec))))
    }
    fn cancel<'a>(self: Box<Self>) -> Asked<'a, ()>
    where
        Self: 'a,
    {
        Box::pin(ready((*self).cancel()))
    }
}

type Async = asynchronous::Transport<Pipe, Pipe, VirtualClock>;
type Blocking<'a, 'f> = blocking::Transport<Port, RestingClock<'a, 'f>>;

impl<H: ClientKeyRef, B: Buffers> Asker for asynchronous::Client<Async, H, B> {
    fn establish(&mut self) -> Asked<'_, ()> {
        Box::pin(self.establish())
    }
    fn request<'a>(&'a mut self, body: &'a [u8], answer: &'a mut [u8]) -> Asked<'a, usize> {
        Box::pin(self.request(body, answer))
    }
    fn ping(&mut self) -> Asked<'_, PingId> {
        Box::pin(self.ping())
    }
    fn pong(&mut self, ping: PingId) -> Asked<'_, ()> {
        Box::pin(self.pong(ping))
    }
    fn idle(&mut self, until: u64) -> Asked<'_, ()> {
        Box::pin(self.idle(Instant::from_millis(until)))
    }
    fn close(&mut self) -> Asked<'_, ()> {
        Box::pin(self.close())
    }
    fn fate(&self) -> Fate {
        self.buffered().fate()
    }
    fn subscribe<'a>(&'a mut self, body: &'a [u8], memory: &'a mut [u8]) -> Asked<'a, Box<dyn Subscriber + 'a>> {
        Box::pin(async {
            let subscription = self.subscribe(body, memory).await?;
            let subscriber: Box<dyn Subscriber + 'a> = Box::new(subscription);
            Ok(subscriber)
        })
    }
}

impl<H: ClientKeyRef, B: Buffers> Asker for blocking::Client<Blocking<'_, '_>, H, B> {
    fn establish(&mut self) -> Asked<'_, ()> {
        Box::pin(ready(self.establish()))
    }
    fn request<'a>(&'a mut self, body: &'a [u8], answer: &'a mut [u8]) -> Asked<'a, usize> {
        Box::pin(ready(self.request(body, answer)))
    }
    fn ping(&mut self) -> Asked<'_, PingId> {
        Box::pin(ready(self.ping()))
    }
    fn pong(&mut self, ping: PingId) -> Asked<'_, ()> {
        Box::pin(ready(self.pong(ping)))
    }
    fn idle(&mut self, until: u64) -> Asked<'_, ()> {
        Box::pin(ready(self.idle(Instant::from_millis(until))))
    }
    fn close(&mut self) -> Asked<'_, ()> {
        Box::pin(ready(self.close()))
    }
    fn fate(&self) -> Fate {
        self.buffered().fate()
    }
    fn subscribe<'a>(&'a mut self, body: &'a [u8], memory: &'a mut [u8]) -> Asked<'a, Box<dyn Subscriber + 'a>> {
        let subscribed = self.subscribe(body, memory);
        Box::pin(ready(
            subscribed.map(|subscription| -> Box<dyn Subscriber + 'a> { Box::new(subscription) }),
        ))
    }
}

pub(crate) type Handler = fn(&[u8], &mut [u8]) -> Result<usize, Refusal>;
pub(crate) type Served = Result<(), Error<Broken>>;

/// A handler that answers with the request in reverse.
pub(crate) fn reverse(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    let place = answer.get_mut(..request.len()).ok_or(Refusal::AnswerTooLarge)?;
    for (to, from) in place.iter_mut().zip(request.iter().rev()) {
        *to = *from;
    }
    Ok(request.len())
}

/// Runs a scenario with both sides async, with a blocking client, and with a blocking server.
/// Returns how serving ended.
pub(crate) fn everywhere(
    settings: &Settings,
    handler: Handler,
    scenario: impl AsyncFn(&mut dyn Asker, &World, &[Pipe; 2]),
) -> [Served; 3] {
    let (client_key, server_key) = (client_key(7), server_key(7));
    side_by_side(
        || join(&client_key, &server_key, settings),
        || lines(&client_key, &server_key, settings),
        handler,
        scenario,
    )
}

/// The same, with keys that need not match.
pub(crate) fn side_by_side<'k>(
    joined: impl Fn() -> Joined<'k>,
    lined: impl Fn() -> Lines<'k>,
    handler: Handler,
    scenario: impl AsyncFn(&mut dyn Asker, &World, &[Pipe; 2]),
) -> [Served; 3] {
    let polled = {
        let Joined {
            world,
            mut client,
            mut server,
            pipes,
        } = joined();
        let serving = async {
            let served = server
                .serve(async |request: &[u8], answer: &mut [u8]| handler(request, answer))
                .await;
            // A side that has ended closes the stream.
            pipes[1].closed.set(true);
            served
        };
        let served = run(&world, scenario(&mut client, &world, &pipes), serving).1;
        assert!(pipes.iter().all(Pipe::is_flushed));
        served
    };

    let mut blocked = Ok(());
    {
        let Lines {
            world,
            client,
            server,
            pipes,
        } = lined();
        let ([up, down], clock) = (pipes.clone(), VirtualClock(Rc::clone(&world)));
        let mut server = asynchronous::Server::new(server, up.clone(), down.clone(), clock);
        let other = Other::new(async {
            blocked = server
                .serve(async |request: &[u8], answer: &mut [u8]| handler(request, answer))
                .await;
            pipes[1].closed.set(true);
        });
        let clock = RestingClock {
            world: Rc::clone(&world),
            other: &other,
        };
        let mut client = blocking::Client::new(client, Port { from: down, to: up }, clock);
        at_once(scenario(&mut client, &world, &pipes));
        other.finish(&world);
        assert!(pipes.iter().all(Pipe::is_flushed));
    }

    let blocking = {
        let Lines {
            world,
            client,
            server,
            pipes,
        } = lined();
        let ([up, down], clock) = (pipes.clone(), VirtualClock(Rc::clone(&world)));
        let mut client = asynchronous::Client::new(client, down.clone(), up.clone(), clock);
        let other = Other::new(scenario(&mut client, &world, &pipes));
        let clock = RestingClock {
            world: Rc::clone(&world),
            other: &other,
        };
        let mut server = blocking::Server::new(server, Port { from: up, to: down }, clock);
        let outcome = server.serve(handler);
        pipes[1].closed.set(true);
        other.finish(&world);
        assert!(pipes.iter().all(Pipe::is_flushed));
        outcome
    };
    [polled, blocked, blocking]
}
