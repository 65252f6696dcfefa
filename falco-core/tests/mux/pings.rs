//! Pings that callers wait for: when they complete, and their outcome when the connection ends.

use falco_core::mux::{Attempts, Call, ClientMux, ClientStep, Unfinished};
use falco_core::testing::{CountingRng, RecvBytes, classic_key, noise_client, raw_frame};
use falco_core::{ClientConnection, CloseReason, Fate, Settings};

use crate::scene::{NOW, Scene};

const PING: u8 = 6;
const PONG: u8 = 7;

fn only<P>(mut unfinished: Vec<Unfinished<Call<(), P>>>) -> Unfinished<Call<(), P>> {
    assert_eq!(unfinished.len(), 1);
    unfinished.remove(0)
}

#[test]
fn a_ping_of_a_lost_connection_is_retried_on_a_few_others_and_then_fails() {
    let keys = noise_client(7);
    let mut ping = Call::new(0, (), 5);
    for tried in 1..=Attempts::MAX_TRIES {
        let mut scene = Scene::new(&keys, 1 << 20);
        assert!(scene.mux.ping(ping).is_ok());
        assert!(scene.sent().iter().any(|(kind, _)| *kind == PING));
        scene.mux.end_of_stream(NOW, &[]);
        let left = only(scene.mux.finish_pings());
        assert_eq!(left.fate, Fate::NotProcessed);
        assert_eq!(left.retry, tried < Attempts::MAX_TRIES, "after {tried}");
        ping = left.call;
        assert_eq!(ping.waiter, 5);
    }
}

#[test]
fn connections_that_do_not_accept_a_ping_do_not_count() {
    let keys = noise_client(7);
    let mut ping = Call::new(0, (), 5);
    for _ in 0..2 * Attempts::MAX_TRIES {
        let mut scene = Scene::new(&keys, 1 << 20);
        scene.mux.close(NOW, CloseReason::Done);
        ping = scene.mux.ping(ping).expect_err("it closes");
        assert!(scene.mux.finish_pings().is_empty());
    }
    assert_eq!(ping.attempts, Call::new(0, (), 0).attempts);
}

#[test]
fn a_pong_completes_the_pings_before_it() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.sent();
    for waiter in [1, 2] {
        assert!(scene.mux.ping(Call::new(0, (), waiter)).is_ok());
    }
    let mut out = [0; 100];
    let sealed = scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap();
    let frames = scene.server.open(&mut out[..sealed].to_vec()).unwrap();
    assert!(scene.mux.flushed().is_empty(), "the server has not answered");
    assert!(scene.mux.ping(Call::new(0, (), 3)).is_ok());
    let mut pong = scene.server.seal(&raw_frame(PONG, 0, &frames[7..]));
    match scene.mux.recv_bytes(NOW, &mut pong) {
        Ok((_, ClientStep::Pong { waiters })) => assert_eq!(waiters, [1, 2]),
        step => panic!("{step:?}"),
    }
    let given_up = scene.mux.take_pings(|waiter| *waiter == 3);
    assert_eq!(given_up.len(), 1);
    assert!(scene.mux.finish_pings().is_empty());
}

#[test]
fn on_a_wire_without_a_pong_a_ping_completes_when_it_is_written() {
    let (settings, client_key, server_key) = (Settings::new(), classic_key(7), classic_key(7));
    let client = ClientConnection::new(&client_key, &settings, NOW, &mut CountingRng::new(1)).unwrap();
    let mut server = falco_core::ServerConnection::new(&server_key, &settings, NOW, &mut CountingRng::new(2)).unwrap();
    let mut mux = ClientMux::<_, Vec<u8>, (), u8>::new(client, &settings);
    assert!(mux.ping(Call::new(0, (), 1)).is_ok());
    let mut out = [0; 200];
    let hello = mux.seal(NOW, &mut out, |(), error| panic!("{error}")).unwrap();
    assert!(mux.flushed().is_empty(), "it is not sealed before the handshake");
    server.recv_bytes(NOW, &mut out[..hello]).unwrap();
    let accept = server.poll_transmit(NOW, &mut out).unwrap();
    let step = mux.recv_bytes(NOW, &mut out[..accept]);
    assert!(matches!(step, Ok((_, ClientStep::Established))), "{step:?}");
    assert_eq!(mux.seal(NOW, &mut out, |(), error| panic!("{error}")), Ok(1));
    assert_eq!(mux.flushed(), [1]);
    assert!(mux.flushed().is_empty());
    // The stream breaks before it was written.
    assert!(mux.ping(Call::new(0, (), 2)).is_ok());
    assert!(only(mux.finish_pings()).retry);
    // A write has failed, or was given up. It is not known whether the ping was sent.
    assert!(mux.ping(Call::new(0, (), 2)).is_ok());
    assert!(mux.seal(NOW, &mut out, |(), error| panic!("{error}")).unwrap() > 0);
    mux.abandon();
    assert!(mux.flushed().is_empty());
    assert_eq!(only(mux.finish_pings()).call.waiter, 2);
}
