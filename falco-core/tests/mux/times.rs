//! Deadlines that the mux keeps for the adapters: stalled writes, late polls, and the end of the
//! stream.

use core::time::Duration;

use falco_core::mux::{Call, ClientMux, ClientStep, ServerMux, ServerStep};
use falco_core::testing::{CountingRng, RecvBytes, noise_client, noise_server, raw_frame};
use falco_core::{
    ClientConnection, ClientKeyRef, CloseReason, ConnectionError, Ending, Instant, LastStep, ServerConnection,
    ServerKeyRef, Settings,
};

use crate::scene::Scene;
use crate::served::{Keys, MESSAGE, Served, keys};

const LIFETIME: Duration = Duration::from_secs(9);

fn ms(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

type Client<H> = ClientMux<H, Vec<u8>, (), ()>;
type Server<H> = ServerMux<H, Vec<u8>, ()>;

/// Both sides, established at 0 with no bytes in flight.
fn pair<C: ClientKeyRef, S: ServerKeyRef>(keys: (C, S)) -> (Client<C>, Server<S>) {
    let settings = Settings::new().with_lifetime(LIFETIME).unwrap();
    let client = ClientConnection::new(keys.0, &settings, ms(0), &mut CountingRng::new(1)).unwrap();
    let server = ServerConnection::new(keys.1, &settings, ms(0), &mut CountingRng::new(2)).unwrap();
    let (mut client, mut server) = (Client::new(client, &settings), Server::new(server, (), &settings));
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        talk(&mut client, &mut server, &mut to_server, &mut to_client, ms(0));
    }
    assert!(client.is_established() && server.is_established());
    (client, server)
}

fn talk<C: ClientKeyRef, S: ServerKeyRef>(
    client: &mut Client<C>,
    server: &mut Server<S>,
    to_server: &mut Vec<u8>,
    to_client: &mut Vec<u8>,
    now: Instant,
) {
    let mut out = [0; 1_000];
    let sealed = client.seal(now, &mut out, |(), error| panic!("{error}")).unwrap();
    to_server.extend_from_slice(&out[..sealed]);
    if let Ok((consumed, _)) = server.recv_bytes(now, to_server) {
        to_server.drain(..consumed);
    }
    let sealed = server.seal(now, &mut out).unwrap();
    to_client.extend_from_slice(&out[..sealed]);
    server.flushed();
    if let Ok((consumed, _)) = client.recv_bytes(now, to_client) {
        to_client.drain(..consumed);
    }
}

#[test]
fn a_write_that_makes_no_progress_for_a_lifetime_ends_the_connection() {
    let keys = (noise_client(7), noise_server(7));
    let (mut client, mut server) = pair((&keys.0, &keys.1));
    server.blocked(ms(100));
    client.blocked(ms(100));
    // A repeated call starts no new time. A write that makes progress does.
    server.blocked(ms(5_000));
    client.wrote();
    client.blocked(ms(200));
    let due = ms(9_100);
    assert_eq!(server.handle_timeout(ms(8_999)), Ok(()));
    // Without input the lifetime ends before that. This is about the write only.
    assert!(server.poll_timeout().is_some_and(|at| at <= due));
    assert_eq!(server.connection().end(), None);
    assert_eq!(server.handle_timeout(due), Err(ConnectionError::Stalled));
    // Its own deadline has passed as well, and has ended it.
    assert_eq!(server.connection().end(), Some(ConnectionError::Expired));
    assert_eq!(client.handle_timeout(ms(9_200)), Err(ConnectionError::Stalled));
    // Before a late poll nothing was written.
    let (_, mut server) = pair((&keys.0, &keys.1));
    server.blocked(ms(100));
    let now = ms(9_151);
    assert_eq!(server.handle_timeout(now), Ok(()));
    assert_eq!(server.handle_timeout(now + LIFETIME), Err(ConnectionError::Stalled));
}

/// The process was stopped, or its thread did not run. A thread that only writes asks the same as
/// one that keeps deadlines.
#[test]
fn a_late_poll_of_a_blocked_write_moves_its_deadline_by_a_lifetime_once() {
    let keys = (noise_client(7), noise_server(7));
    let (mut client, mut server) = pair((&keys.0, &keys.1));
    client.blocked(ms(100));
    server.blocked(ms(100));
    assert!(!client.is_stalled(ms(9_099), None) && !server.is_stalled(ms(9_099), None));
    // No later than a timer may be.
    let (mut punctual, _) = pair((&keys.0, &keys.1));
    punctual.blocked(ms(100));
    assert!(punctual.is_stalled(ms(9_150), None));
    let late = ms(9_151);
    assert!(!client.is_stalled(late, None) && !server.is_stalled(late, None));
    let due = late + LIFETIME;
    assert!(!client.is_stalled(ms(18_150), None) && !server.is_stalled(ms(18_150), None));
    assert!(client.is_stalled(due, None) && server.is_stalled(due, None));
    // One that is always late ends as well.
    let later = due + LIFETIME;
    assert!(client.is_stalled(later, None) && server.is_stalled(later, None));
    assert_eq!(server.handle_timeout(later), Err(ConnectionError::Stalled));
    // The next blocked write has the same.
    server.wrote();
    server.blocked(later);
    assert!(!server.is_stalled(later + LIFETIME + Duration::from_millis(51), None));
}

#[test]
fn a_late_poll_moves_a_deadline_so_that_what_has_arrived_is_read_first() {
    let keys = (noise_client(7), noise_server(7));
    // No later than a timer may be.
    let (_, mut server) = pair((&keys.0, &keys.1));
    assert_eq!(server.poll_timeout(), Some(ms(9_000)));
    assert_eq!(server.handle_timeout(ms(9_050)), Err(ConnectionError::Expired));
    // A late poll: what has arrived is read first, and the connection lives on.
    let (mut client, mut server) = pair((&keys.0, &keys.1));
    let now = ms(9_051);
    assert!(client.ping(Call::new(0, (), ())).is_ok());
    let mut out = [0; 100];
    let sealed = client.seal(ms(8_000), &mut out, |(), error| panic!("{error}")).unwrap();
    assert_eq!(server.handle_timeout(now), Ok(()));
    assert!(server.recv_bytes(now, &mut out[..sealed]).is_ok());
    assert_eq!(server.poll_timeout(), Some(now + LIFETIME));
    // If nothing has arrived, it ends a moment later.
    let (_, mut server) = pair((&keys.0, &keys.1));
    assert_eq!(server.handle_timeout(now), Ok(()));
    let due = server.poll_timeout().unwrap();
    assert!(due > now && due <= ms(9_060), "{due:?}");
    assert_eq!(server.handle_timeout(due), Err(ConnectionError::Expired));
}

/// A ping that the client seals at `at`.
fn ping_at<C: ClientKeyRef>(client: &mut Client<C>, at: Instant) -> Vec<u8> {
    assert!(client.ping(Call::new(0, (), ())).is_ok());
    let mut out = [0; 100];
    let sealed = client.seal(at, &mut out, |(), error| panic!("{error}")).unwrap();
    out[..sealed].to_vec()
}

/// As adapters are woken: by bytes, or by a timer that is late by a moment or by much.
const LATE: [u64; 4] = [0, 1, 60, 5_000];

#[test]
fn a_late_poll_that_begins_with_recv_reads_the_bytes_at_hand() {
    let keys = (noise_client(7), noise_server(7));
    for late in LATE {
        let (mut client, mut server) = pair((&keys.0, &keys.1));
        let mut ping = ping_at(&mut client, ms(8_000));
        let now = ms(9_000 + late);
        let step = server.recv_bytes(now, &mut ping);
        assert!(matches!(step, Ok((_, ServerStep::Skip))), "{late}: {step:?}");
        assert_eq!(server.poll_timeout(), Some(now + LIFETIME), "{late}");
        assert_eq!(server.handle_timeout(now), Ok(()), "{late}");
        // The PONG, for which the client waits for a third of its lifetime.
        let mut out = [0; 100];
        let sealed = server.seal(now, &mut out).unwrap();
        let now = ms(11_000 + late);
        assert_eq!(client.poll_timeout(), Some(ms(3_000)), "a keep-alive");
        let step = client.recv_bytes(now, &mut out[..sealed]);
        assert!(matches!(step, Ok((_, ClientStep::Pong { .. }))), "{late}: {step:?}");
        assert_eq!(client.handle_timeout(now), Ok(()), "{late}");
    }
}

#[test]
fn a_late_poll_that_begins_with_recv_reads_what_is_still_in_the_stream() {
    let keys = (noise_client(7), noise_server(7));
    let mut out = [0; 100];
    for late in LATE {
        let (mut client, mut server) = pair((&keys.0, &keys.1));
        let mut ping = ping_at(&mut client, ms(8_000));
        // In the order of falco-tokio: what is at hand, what is to be written, then the stream.
        let now = ms(9_000 + late);
        assert!(matches!(
            server.recv_bytes(now, &mut []),
            Ok((_, ServerStep::NeedMore { .. }))
        ));
        server.set_reading(now, false);
        server.set_reading(now, true);
        assert_eq!(server.seal(now + Duration::from_millis(1), &mut out), Ok(0), "{late}");
        // Reading takes a while.
        let now = now + Duration::from_millis(300);
        let step = server.recv_bytes(now, &mut ping);
        assert!(matches!(step, Ok((_, ServerStep::Skip))), "{late}: {step:?}");
        assert_eq!(server.poll_timeout(), Some(now + LIFETIME), "{late}");
        // The end of the stream is the more precise reason than the lifetime.
        let (mut client, mut server) = pair((&keys.0, &keys.1));
        let now = ms(9_000 + late);
        assert!(client.recv_bytes(now, &mut []).is_ok() && server.recv_bytes(now, &mut []).is_ok());
        let truncated = Err(ConnectionError::Truncated);
        assert_eq!(Err(client.end_of_stream(now, &[])), truncated, "{late}");
        assert_eq!(server.end_of_stream(now, &[]), truncated, "{late}");
    }
}

#[test]
fn a_deadline_counts_at_once_when_all_is_read() {
    let keys = (noise_client(7), noise_server(7));
    let mut out = [0; 100];
    for late in LATE {
        let (mut client, mut server) = pair((&keys.0, &keys.1));
        let now = ms(9_000 + late);
        assert!(server.recv_bytes(now, &mut []).is_ok());
        assert_eq!(server.seal(now, &mut out), Ok(0));
        assert!(server.poll_timeout().is_some_and(|due| due <= now), "{late}");
        assert_eq!(server.handle_timeout(now), Err(ConnectionError::Expired), "{late}");
        // A PING of the client that is not answered.
        client.handle_timeout(ms(3_000)).unwrap();
        assert!(client.seal(ms(3_000), &mut out, |(), error| panic!("{error}")).unwrap() > 0);
        let now = ms(6_000 + late.min(2_000));
        assert!(client.recv_bytes(now, &mut []).is_ok());
        assert_eq!(client.seal(now, &mut out, |(), error| panic!("{error}")), Ok(0));
        assert!(client.poll_timeout().is_some_and(|due| due <= now), "{late}");
        let end = client.handle_timeout(now);
        assert_eq!(end, Err(ConnectionError::PeerDead), "{late}");
    }
}

#[test]
fn bytes_that_are_no_sign_of_life_move_the_end_by_a_second() {
    let keys = (noise_client(7), noise_server(7));
    let (mut client, mut server) = pair((&keys.0, &keys.1));
    let ping = ping_at(&mut client, ms(8_000));
    // A byte now and then, and the adapter does not come to its deadlines.
    let first = 9_500;
    let ended = (first..20_000).step_by(100).find(|now| {
        let read = (ping.len() - 1).min(usize::try_from(now - first).unwrap() / 100);
        server.recv_bytes(ms(*now), &mut ping[..read].to_vec()).is_err()
    });
    assert_eq!(server.connection().end(), Some(ConnectionError::Expired));
    assert_eq!(ended, Some(first + 1_100));
    // A poll that is a whole lifetime late has no grace period.
    let (mut client, mut server) = pair((&keys.0, &keys.1));
    let mut ping = ping_at(&mut client, ms(8_000));
    let end = server.recv_bytes(ms(18_000), &mut ping);
    assert!(matches!(end, Err(ConnectionError::Expired)), "{end:?}");
}

#[test]
fn last_answers_may_take_a_lifetime_to_write_and_other_last_output_a_second() {
    let keys = (noise_client(7), noise_server(7));
    let (client, server) = pair((&keys.0, &keys.1));
    let until = |ending: Ending| ending.poll_timeout();
    let all = self::keys();
    let mut answering = queued(&all);
    assert!(answering.seal(100_000) > 30_000);
    let answering = &answering.mux;
    assert_eq!(until(answering.ending(ConnectionError::Closed, ms(5))), Some(ms(9_005)));
    assert_eq!(
        until(answering.ending(ConnectionError::HandlerFailed, ms(5))),
        Some(ms(9_005))
    );
    assert_eq!(
        until(answering.ending(ConnectionError::Expired, ms(5))),
        Some(ms(1_005))
    );
    // A CLOSE without answers is none.
    assert_eq!(until(server.ending(ConnectionError::Closed, ms(5))), Some(ms(1_005)));
    assert_eq!(until(server.ending(ConnectionError::Expired, ms(5))), Some(ms(1_005)));
    assert_eq!(until(client.ending(ConnectionError::Closed, ms(5))), Some(ms(1_005)));
    // After an end that is not graceful nothing is waited for, nor for an unauthenticated client.
    assert_eq!(until(server.ending(ConnectionError::Tampered, ms(5))), None);
    let stranger = Ending::new(ConnectionError::Closed, false, ms(5) + LIFETIME);
    assert_eq!((stranger.step(ms(5)), until(stranger)), (LastStep::DropArrived, None));
}

/// The deadline of `ending`, and that of a thread that waits in a write.
#[test]
fn the_last_bytes_have_one_write_deadline() {
    let keys = (noise_client(7), noise_server(7));
    let (mut client, mut server) = pair((&keys.0, &keys.1));
    assert_eq!(
        (client.writes_until(ms(5), None), server.writes_until(ms(5), None)),
        (ms(9_005), ms(9_005))
    );
    client.blocked(ms(2));
    assert_eq!(client.writes_until(ms(5), None), ms(9_002));
    client.wrote();
    server.close(ms(5), CloseReason::Done);
    assert!(server.seal(ms(5), &mut [0; 100]).unwrap() > 0);
    assert_eq!(server.connection().end(), Some(ConnectionError::Closed));
    let ending = server.ending(ConnectionError::Closed, ms(5));
    assert_eq!(ending.poll_timeout(), Some(server.writes_until(ms(5), None)));
    assert_eq!(server.writes_until(ms(5), None), ms(1_005));
    client.close(ms(5), CloseReason::Done);
    assert_eq!(client.closes_at(), Some(ms(1_005)));
    // After the end no progress extends it, nor is it necessary that the stream was blocked.
    let of_client = client.ending(ConnectionError::Closed, ms(5));
    let until = (
        client.writes_until(ms(500), Some(of_client)),
        server.writes_until(ms(500), Some(ending)),
    );
    assert_eq!(until, (ms(1_005), ms(1_005)));
    for (now, stalled) in [(1_004, false), (1_005, true)] {
        assert_eq!(client.is_stalled(ms(now), Some(of_client)), stalled);
        assert_eq!(server.is_stalled(ms(now), Some(ending)), stalled);
    }
}

/// A stream that is closed with bytes unread is reset, which could destroy the CLOSE, or keep a
/// client from knowing that nothing was processed.
#[test]
fn a_client_without_the_key_and_one_whose_key_is_revoked_are_not_reset() {
    let keys = (noise_client(7), noise_server(7));
    let machine = ServerConnection::new(&keys.1, &Settings::new(), ms(0), &mut CountingRng::new(2)).unwrap();
    let mut half_open = Server::new(machine, (), &Settings::new());
    for end in [ConnectionError::Refused, ConnectionError::Closed] {
        let ending = half_open.ending(end, ms(5));
        for now in [5, 100_000] {
            assert_eq!(ending.step(ms(now)), LastStep::DropArrived, "{end}");
        }
        assert_eq!(ending.poll_timeout(), None, "{end}");
    }
    let ending = half_open.revoke(ms(5));
    assert_eq!(ending.step(ms(5)), LastStep::DropArrived);
    // The CLOSE with the reason is written, if the stream accepts it soon.
    let (_, mut server) = pair((&keys.0, &keys.1));
    let mut ending = server.revoke(ms(5));
    assert_eq!(
        (ending.step(ms(5)), ending.poll_timeout()),
        (LastStep::Write, Some(ms(25)))
    );
    assert!(server.seal(ms(5), &mut [0; 100]).unwrap() > 0);
    assert_eq!(ending.step(ms(25)), LastStep::DropArrived);
    ending.written();
    assert_eq!(
        (ending.step(ms(6)), ending.poll_timeout()),
        (LastStep::DropArrived, None)
    );
    // An established one that is no longer protected is closed at once, as before.
    let (_, server) = pair((&keys.0, &keys.1));
    let ending = server.ending(ConnectionError::Tampered, ms(5));
    assert_eq!(ending.step(ms(5)), LastStep::Close);
}

#[test]
fn each_step_of_an_end_follows_the_one_before() {
    let mut ending = Ending::new(ConnectionError::Closed, true, ms(0) + LIFETIME);
    // Out of order it changes nothing.
    ending.shut(ms(1));
    assert_eq!(ending.step(ms(1)), LastStep::Write);
    ending.written();
    ending.written();
    assert_eq!(ending.step(ms(8_999)), LastStep::ShutDown);
    assert_eq!(ending.step(ms(9_000)), LastStep::Close, "its time is over");
    ending.shut(ms(8_000));
    assert_eq!(ending.step(ms(8_999)), LastStep::DropInput);
    assert_eq!(ending.step(ms(9_000)), LastStep::Close);
    ending.input_ended();
    assert_eq!(ending.step(ms(8_001)), LastStep::Close);
    // A peer that has ended first is not waited for.
    let mut ending = Ending::new(ConnectionError::Closed, true, ms(0) + LIFETIME);
    ending.input_ended();
    ending.written();
    ending.shut(ms(1));
    assert_eq!((ending.step(ms(1)), ending.poll_timeout()), (LastStep::Close, None));
}

/// A server with 20 answers of 30,000 bytes in its queue, none of which is sealed.
fn queued(keys: &Keys) -> Served<'_, ()> {
    let settings = Settings::new().with_lifetime(LIFETIME).unwrap();
    let mut served = Served::new(keys, &settings, ());
    let asked = (1..=20).map(|number| raw_frame(MESSAGE, number, b"?"));
    for number in served.receive(&asked.collect::<Vec<_>>().concat()) {
        served.answer(number, 30_000);
    }
    served
}

#[test]
fn a_client_that_keeps_taking_bytes_does_not_expire() {
    for reads in [true, false] {
        let keys = keys();
        let mut served = queued(&keys);
        served.mux.set_reading(ms(0), reads);
        // It takes an output in four seconds, and sends nothing.
        for second in 0..=76 {
            served.now = ms(second * 1_000);
            assert_eq!(served.mux.handle_timeout(served.now), Ok(()), "after {second} s");
            if second % 4 == 0 {
                assert!(served.seal(30_036) > 30_000);
            }
        }
        // No answer is queued behind the last output, so the server cannot know whether the client
        // reads it.
        assert_eq!(served.seal(100_000), 0);
        let paused = if reads { Duration::ZERO } else { LIFETIME };
        let end = served.now + LIFETIME + paused;
        assert_eq!(served.mux.poll_timeout(), Some(end));
        assert_eq!(served.mux.handle_timeout(end), Err(ConnectionError::Expired));
    }
}

#[test]
fn a_client_that_stops_taking_bytes_expires_a_lifetime_after_the_last_output_it_took() {
    let keys = keys();
    let mut served = queued(&keys);
    for second in 0..=5 {
        served.now = ms(second * 1_000);
        assert!(served.seal(30_036) > 30_000);
    }
    served.mux.blocked(served.now);
    // Bytes that are taken of this output are none.
    served.mux.wrote();
    served.mux.blocked(ms(9_000));
    assert_eq!(served.mux.handle_timeout(ms(13_999)), Ok(()));
    assert_eq!(served.mux.handle_timeout(ms(14_000)), Err(ConnectionError::Expired));
}

#[test]
fn the_last_queued_answer_does_not_show_that_the_client_reads() {
    let keys = keys();
    let settings = Settings::new().with_lifetime(LIFETIME).unwrap();
    let mut served = Served::new(&keys, &settings, ());
    let asked = (1..=9).map(|number| raw_frame(MESSAGE, number, b"?"));
    let numbers = served.receive(&asked.collect::<Vec<_>>().concat());
    for (number, second) in numbers.into_iter().zip(0..) {
        served.now = ms(second * 1_000);
        assert_eq!(served.mux.handle_timeout(served.now), Ok(()));
        served.answer(number, 1_000);
        assert!(served.seal(60_000) > 1_000);
        assert_eq!(served.seal(60_000), 0);
    }
    assert_eq!(served.mux.handle_timeout(ms(9_000)), Err(ConnectionError::Expired));
}

/// Its PING is behind what the link has not carried yet, and so is the answer.
#[test]
fn a_server_that_keeps_taking_bytes_does_not_count_as_dead() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 1 << 20);
    for ticket in 1..=90 {
        scene.request(ticket, 900);
    }
    let mut out = [0; 950];
    // It takes an output of about one request in four seconds, and is not heard.
    for second in 0..=200 {
        let now = ms(second * 1_000);
        assert_eq!(scene.mux.handle_timeout(now), Ok(()), "after {second} s");
        if second % 4 == 0 {
            assert!(scene.mux.seal(now, &mut out, |_, error| panic!("{error}")).unwrap() > 0);
        }
    }
    // It takes the rest at once. Behind the last output nothing is queued.
    let now = ms(200_000);
    while scene.mux.seal(now, &mut out, |_, error| panic!("{error}")).unwrap() > 0 {}
    assert!(!scene.mux.has_unsent());
    let (ping, dead) = (now + Duration::from_secs(20), now + Duration::from_secs(40));
    assert_eq!(scene.mux.poll_timeout(), Some(ping));
    assert_eq!(scene.mux.handle_timeout(ping), Ok(()));
    let sealed = scene.mux.seal(ping, &mut out, |_, error| panic!("{error}"));
    assert!(sealed.unwrap() > 0);
    assert_eq!(scene.mux.poll_timeout(), Some(dead));
    assert_eq!(scene.mux.handle_timeout(dead), Err(ConnectionError::PeerDead));
}
