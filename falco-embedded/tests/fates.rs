//! What ended a connection, and the fate of its request, for each end in each phase: the table of
//! docs/embedded.md, with both drivers.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    reason = "a test that panics has failed"
)]

mod common;

use std::rc::Rc;

use common::{
    Asker, Broken, Lines, MESSAGE, Other, Pipe, Port, RestingClock, VirtualClock, World, Writes, at_once, carry,
    client_key, lines, run, server_key, settings, turn,
};
use falco_core::testing::{CountingRng, RawHandshake, classic_key, raw_frame, raw_settings};
use falco_core::{ConnectionError, Fate, Instant, Refusal, RequestError, RustCrypto, Settings};
use falco_embedded::{BufferedClient, BufferedServer, Error, asynchronous, blocking};

/// The state of the connection when it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The hello was sent.
    Hello,
    /// The request was sent too, and nothing has come after the welcome.
    Unheard,
    /// The request was sent, and a record has come.
    Heard,
    /// A record has come, and part of the request was sent.
    Half,
}

/// What the server, or something between, does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It ends the stream.
    Ends,
    /// It ends the stream inside a record.
    EndsInside,
    /// The stream fails in both directions.
    Breaks,
    /// The stream takes no more bytes.
    TakesNone,
    /// It sends and takes nothing.
    Silent,
    /// It sends something that is no record.
    Foreign,
    /// It closes because it is idle, and has the request.
    ClosesIdle,
    /// It closes, and has not read the request.
    ClosesBefore,
    /// It closes, and ends the stream without the answer.
    ClosesBehind,
}

use Fate::{MaybeProcessed, NotProcessed};

fn connection(error: ConnectionError) -> Error<Broken> {
    Error::Connection(error)
}

/// The error and the fate. `None` if the combination does not exist.
fn expected(phase: Phase, does: Does) -> Option<(Error<Broken>, Fate)> {
    use ConnectionError as E;
    Some(match (phase, does) {
        (Phase::Hello, Does::Ends | Does::EndsInside | Does::Foreign) => (connection(E::Refused), NotProcessed),
        (Phase::Hello, Does::Silent) => (connection(E::HandshakeTimeout), NotProcessed),
        (Phase::Unheard, Does::Ends) => (connection(E::Truncated), NotProcessed),
        (_, Does::Breaks) => (Error::Io(Broken), part(phase)),
        (Phase::Half, Does::TakesNone) => (Error::WriteZero, NotProcessed),
        (Phase::Half, Does::Silent) => (connection(E::Expired), NotProcessed),
        (Phase::Hello, _) | (_, Does::TakesNone) => return None,
        (_, Does::Ends | Does::EndsInside | Does::ClosesBehind) => (connection(E::Truncated), part(phase)),
        (_, Does::Silent) => (connection(E::PeerDead), MaybeProcessed),
        (_, Does::Foreign) => (connection(E::Tampered), part(phase)),
        (_, Does::ClosesIdle) => (connection(E::PeerExpired), part(phase)),
        (_, Does::ClosesBefore) => (
            Error::Request(RequestError::Refused(Refusal::NotProcessed)),
            NotProcessed,
        ),
    })
}

/// The fate of a request of which this much was sent.
const fn part(phase: Phase) -> Fate {
    match phase {
        Phase::Hello | Phase::Half => NotProcessed,
        Phase::Unheard | Phase::Heard => MaybeProcessed,
    }
}

/// The server, by hand.
async fn serve(world: &World, [up, down]: &[Pipe; 2], phase: Phase, does: Does) {
    let hello = come(world, up, 74).await;
    let mut raw = RawHandshake::new(RustCrypto, 7);
    raw.settings = raw_settings(512, 1, MESSAGE.try_into().unwrap(), 60_000);
    let (welcome, mut raw) = raw.server(&hello).unwrap();
    let say = |bytes: &[u8]| {
        down.bytes.borrow_mut().extend(bytes);
        world.stir();
    };
    if phase != Phase::Hello {
        say(&welcome);
        let ping = raw.open(&mut come(world, up, 33).await).unwrap();
        if phase != Phase::Unheard {
            say(&raw.seal(&raw_frame(7, 0, &ping[7..])));
        }
        // A whole record of a large request, or all of a small one.
        come(world, up, if phase == Phase::Half { 514 } else { 18 + 7 + SMALL }).await;
    }
    match does {
        Does::Ends => down.closed.set(true),
        Does::EndsInside => {
            let next = if phase == Phase::Hello {
                welcome
            } else {
                raw.seal(&raw_frame(1, 1, b""))
            };
            say(&next[..20]);
            down.closed.set(true);
        }
        Does::Breaks => {
            down.broken.set(true);
            up.writes.set(Writes::Fails);
        }
        Does::TakesNone => up.writes.set(Writes::Zero),
        Does::Silent => up.writes.set(Writes::Blocked),
        Does::Foreign => say(&[0, 64].repeat(40)),
        Does::ClosesIdle => say(&raw.seal(&raw_frame(8, 1, &[1]))),
        Does::ClosesBefore => say(&raw.seal(&raw_frame(8, 0, &[2]))),
        Does::ClosesBehind => {
            say(&raw.seal(&raw_frame(8, 1, &[2])));
            down.closed.set(true);
        }
    }
    world.stir();
}

/// Waits for bytes.
async fn come(world: &World, from: &Pipe, count: usize) -> Vec<u8> {
    while from.bytes.borrow().len() < count {
        turn(world).await;
    }
    from.bytes.borrow_mut().drain(..count).collect()
}

const NOW: Instant = Instant::ZERO;
/// Bytes of a small request.
const SMALL: usize = 10;

async fn ask(client: &mut dyn Asker, phase: Phase) -> (Result<usize, Error<Broken>>, [Fate; 2]) {
    let body = vec![7; if phase == Phase::Half { MESSAGE } else { SMALL }];
    let asked = client.request(&body, &mut [0; 8]).await;
    let fate = client.fate();
    // Calls after the end do not change the fate. A request after the end was not processed.
    let _ = client.close().await;
    let fates = [fate, client.fate()];
    assert!(client.request(b"more", &mut [0; 8]).await.is_err());
    assert_eq!(client.fate(), NotProcessed);
    (asked, fates)
}

#[test]
fn every_end_is_returned_with_its_fate() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let mut met = 0;
    for phase in [Phase::Hello, Phase::Unheard, Phase::Heard, Phase::Half] {
        for does in [
            Does::Ends,
            Does::EndsInside,
            Does::Breaks,
            Does::TakesNone,
            Does::Silent,
            Does::Foreign,
            Does::ClosesIdle,
            Does::ClosesBefore,
            Does::ClosesBehind,
        ] {
            let Some((error, fate)) = expected(phase, does) else {
                continue;
            };
            for blocks in [false, true] {
                let Lines { world, client, .. } = lines(&client_key, &server_key, &settings());
                // One record of the request fits, and not all of it.
                let pipes = [Pipe::new(&world, 600), Pipe::new(&world, 600)];
                let [up, down] = pipes.clone();
                let serving = serve(&world, &pipes, phase, does);
                let told = if blocks {
                    let other = Other::new(serving);
                    let clock = RestingClock {
                        world: Rc::clone(&world),
                        other: &other,
                    };
                    let mut client = blocking::Client::new(client, Port { from: down, to: up }, clock);
                    at_once(ask(&mut client, phase))
                } else {
                    let clock = VirtualClock(Rc::clone(&world));
                    let mut client = asynchronous::Client::new(client, down, up, clock);
                    run(&world, ask(&mut client, phase), serving).0
                };
                let (told, fates) = told;
                assert_eq!(told, Err(error), "{phase:?} {does:?}, blocking: {blocks}");
                // A refusal has its own fate.
                if !matches!(error, Error::Request(_)) {
                    assert_eq!(fates, [fate; 2], "{phase:?} {does:?}, blocking: {blocks}");
                }
                met += 1;
            }
        }
    }
    assert_eq!(met, 2 * 30);
}

#[test]
fn a_request_that_waits_for_a_cancelled_one_is_not_processed() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    for (second, fate) in [(false, MaybeProcessed), (true, NotProcessed)] {
        let Lines {
            mut client, mut server, ..
        } = lines(&client_key, &server_key, &settings());
        let mut first = client.request(&b"one"[..], [0; 8]).unwrap();
        while server.request().is_none() {
            while client.step(NOW, Some(&mut first)).unwrap() {}
            carry(client.connection_mut(), server.connection_mut(), NOW);
            while server.step(NOW).unwrap() {}
            carry(server.connection_mut(), client.connection_mut(), NOW);
        }
        assert_eq!(client.fate(), MaybeProcessed, "its handler may have begun");
        if second {
            let mut waits = client.request(&b"two"[..], [0; 8]).unwrap();
            while client.step(NOW, Some(&mut waits)).unwrap() {}
        }
        client.connection_mut().end_of_stream();
        let end = loop {
            if let Err(end) = client.step_idle(NOW) {
                break end;
            }
            let count = client.connection().unsent().len();
            client.connection_mut().sent(NOW, count);
        };
        assert_eq!(end, Error::Connection(ConnectionError::Truncated));
        assert_eq!(client.fate(), fate);
    }
}

#[test]
fn on_the_classic_wire_a_request_is_not_processed_only_before_the_accept() {
    let settings = Settings::new().with_max_message(100);
    for (accepted, end, fate) in [
        (false, ConnectionError::Refused, NotProcessed),
        (true, ConnectionError::ClosedByPeer, MaybeProcessed),
    ] {
        let (client_key, server_key) = (classic_key(7), classic_key(7));
        let (mut one, mut two) = (CountingRng::new(1), CountingRng::new(2));
        let (buffers, memory) = (([0; 200], [0; 200]), ([0; 100], [0; 100]));
        let mut client = BufferedClient::start(&client_key, &settings, NOW, &mut one, ([0; 200], [0; 200])).unwrap();
        let mut server = BufferedServer::start(&server_key, &settings, NOW, &mut two, buffers, memory).unwrap();
        let mut ask = client.request(&b"one"[..], [0; 8]).unwrap();
        while server.request().is_none() && accepted {
            while client.step(NOW, Some(&mut ask)).unwrap() {}
            carry(client.connection_mut(), server.connection_mut(), NOW);
            while server.step(NOW).unwrap() {}
            carry(server.connection_mut(), client.connection_mut(), NOW);
        }
        // The hello is sent.
        while client.step(NOW, Some(&mut ask)).unwrap() {}
        let count = client.connection().unsent().len();
        client.connection_mut().sent(NOW, count);
        client.connection_mut().end_of_stream();
        let ended = loop {
            if let Err(end) = client.step(NOW, Some(&mut ask)) {
                break end;
            }
        };
        assert_eq!((ended, client.fate()), (Error::Connection(end), fate));
    }
}

#[test]
fn a_request_that_never_left_is_not_processed_if_the_stream_ended_before_anything_came() {
    let (client_key, server_key) = (client_key(7), server_key(7));
    let Lines {
        mut client, mut server, ..
    } = lines(&client_key, &server_key, &settings());
    let mut ask = client.request(&b"one"[..], [0; 8]).unwrap();
    // The hello and the welcome.
    while client.step(NOW, Some(&mut ask)).unwrap() {}
    carry(client.connection_mut(), server.connection_mut(), NOW);
    while server.step(NOW).unwrap() {}
    carry(server.connection_mut(), client.connection_mut(), NOW);
    while client.step(NOW, Some(&mut ask)).unwrap() {}
    assert_eq!(client.connection().machine().in_flight(), 1);
    // The request is sealed. The stream takes part of it, and ends.
    client.connection_mut().sent(NOW, 20);
    assert!(!client.connection().unsent().is_empty());
    client.connection_mut().end_of_stream();
    let ended = loop {
        if let Err(end) = client.step(NOW, Some(&mut ask)) {
            break end;
        }
    };
    assert_eq!(ended, Error::Connection(ConnectionError::Truncated));
    assert_eq!(client.fate(), NotProcessed);
}
