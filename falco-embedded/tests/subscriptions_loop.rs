//! Subscriptions in a super-loop, where a step may come between any two pieces.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod common;

use core::task::Poll;

use common::{
    BUFFER, DeviceClient, Lines, ManyKey, Pipe, ServerKey, Service, VirtualClock, WINDOW, bytes, carry, client_key,
    device, lines, many_key, server_key, service,
};
use falco_core::testing::CountingRng;
use falco_core::{Instant, Refusal, RequestError};
use falco_embedded::{BufferedClient, Clock, Error, NoiseClientKey, PendingSubscription};

/// A super-loop, with a service at the other end.
struct Loop<'k> {
    client: DeviceClient<'k>,
    service: Service<'k>,
    pipes: [Pipe; 2],
    clock: VirtualClock,
}

impl<'k> Loop<'k> {
    fn new(client_key: &'k NoiseClientKey, server_key: &'k ServerKey, many_key: &'k ManyKey) -> Self {
        let Lines {
            world, client, pipes, ..
        } = lines(client_key, server_key, &device());
        Self {
            client,
            service: Service::new(many_key, &service(), &world, &pipes),
            pipes,
            clock: VirtualClock(world),
        }
    }

    /// Goes on until nothing happens any more.
    fn go<B: AsRef<[u8]>>(&mut self, pending: &mut PendingSubscription<B, [u8; WINDOW]>) {
        for _ in 0..100 {
            let now = self.clock.now();
            while self.client.step_subscription(now, pending).unwrap() {}
            let line = self.client.connection_mut();
            let sent = self.pipes[0].give(line.unsent()).unwrap();
            line.sent(now, sent);
            self.service.exchange();
            let read = self.pipes[1].take(line.space().unwrap());
            line.filled(read);
            line.handle_timeout(now);
        }
    }
}

#[test]
fn credit_is_given_for_what_was_taken_and_not_before() {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    let mut on = Loop::new(&client_key, &server_key, &many_key);
    let mut pending = on.client.subscribe("super-loop", [0; WINDOW]).unwrap();
    on.go(&mut pending);
    assert_eq!(on.client.poll_next(&mut pending), Ok(Poll::Pending));
    assert_eq!(on.service.body, b"super-loop");
    on.service.open();
    on.service.send(&bytes(600));
    on.go(&mut pending);
    assert_eq!(on.service.sendable(), 424);
    // Lent, and not taken: what comes meanwhile is kept, and no credit is given.
    let piece = on.client.poll_next(&mut pending);
    assert_eq!(piece, Ok(Poll::Ready(Some(bytes(600).as_slice()))));
    on.service.send(&[1; 100]);
    on.go(&mut pending);
    assert_eq!(on.service.sendable(), 324);
    // Now it is taken. The 600 are more than half a window, so that credit is given at once.
    let piece = on.client.poll_next(&mut pending);
    assert_eq!(piece, Ok(Poll::Ready(Some(&[1; 100][..]))));
    on.go(&mut pending);
    assert_eq!(on.service.sendable(), 924);
    // The memory gets full, and what lies in it is moved for the last part.
    on.service.send(&bytes(324));
    on.go(&mut pending);
    on.service.send(&[7; 600]);
    on.service.finish();
    on.go(&mut pending);
    assert_eq!(on.service.waiting(), 0);
    let rest = [bytes(324), vec![7; 600]].concat();
    let piece = on.client.poll_next(&mut pending);
    assert_eq!(piece, Ok(Poll::Ready(Some(rest.as_slice()))));
    assert_eq!(on.client.poll_next(&mut pending), Ok(Poll::Ready(None)));
    assert_eq!(on.client.poll_next(&mut pending), Ok(Poll::Ready(None)));
    assert_eq!(pending.into_parts().0, "super-loop");
    assert_eq!(on.client.connection().machine().in_flight(), 0);
}

#[test]
fn a_refusal_comes_behind_the_bytes_before_it() {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    let mut on = Loop::new(&client_key, &server_key, &many_key);
    let mut pending = on.client.subscribe(b"calls", [0; WINDOW]).unwrap();
    on.go(&mut pending);
    on.service.open();
    on.service.send(b"half of");
    on.service.refuse(Refusal::Failed);
    on.go(&mut pending);
    let piece = on.client.poll_next(&mut pending);
    assert_eq!(piece, Ok(Poll::Ready(Some(&b"half of"[..]))));
    let refused = Err(Error::Request(RequestError::Refused(Refusal::Failed)));
    assert_eq!(on.client.poll_next(&mut pending), refused);
    assert_eq!(on.client.poll_next(&mut pending), refused);
}

#[test]
fn a_device_that_takes_nothing_still_reads_and_is_kept_alive() {
    let (client_key, server_key, many_key) = (client_key(7), server_key(7), many_key());
    let mut on = Loop::new(&client_key, &server_key, &many_key);
    let mut pending = on.client.subscribe("full", [0; WINDOW]).unwrap();
    on.go(&mut pending);
    on.service.open();
    on.service.send(&bytes(3_000));
    for _ in 0..600 {
        on.go(&mut pending);
        on.clock.0.pass(1_000);
    }
    assert_eq!(on.service.waiting(), 3_000 - WINDOW);
    assert!(on.service.pings >= 20, "{}", on.service.pings);
    let piece = on.client.poll_next(&mut pending);
    assert_eq!(piece, Ok(Poll::Ready(Some(&bytes(3_000)[..WINDOW]))));
}

#[test]
fn a_super_loop_learns_that_the_server_takes_no_open_requests() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Lines {
        world,
        mut client,
        mut server,
        ..
    } = lines(&client_key, &server_key, &device());
    let mut pending = client.subscribe(b"calls", [0; WINDOW]).unwrap();
    let now = VirtualClock(world).now();
    let mut told = Ok(Poll::Pending);
    for _ in 0..100 {
        carry(client.connection_mut(), server.connection_mut(), now);
        carry(server.connection_mut(), client.connection_mut(), now);
        while client.step_subscription(now, &mut pending).unwrap() {}
        while server.step(now).unwrap() {}
        told = client.poll_next(&mut pending).map(|poll| poll.map(|_| ()));
    }
    assert_eq!(told, Err(Error::Request(RequestError::NoOpenBodies)));
}

#[test]
fn debug_shows_no_byte_of_a_subscription() {
    let key = client_key(7);
    let buffers = ([0; BUFFER], [0; BUFFER]);
    let mut rng = CountingRng::new(1);
    let mut client = BufferedClient::start(&key, &device(), Instant::ZERO, &mut rng, buffers).unwrap();
    let pending = client.subscribe([0xCD; 9], [0xEF; WINDOW]).unwrap();
    let shown = format!("{pending:?}").to_lowercase();
    for secret in ["205, 205", "cdcd", "239, 239", "efef"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
