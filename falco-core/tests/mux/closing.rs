//! A connection that accepts nothing new, whichever side closes it: what begins no more goes to
//! another connection.

use falco_core::mux::{ClientStep, Ping};
use falco_core::testing::{noise_client, raw_frame};
use falco_core::{CloseReason, Status};

use crate::scene::{NOW, Scene};

const BEGIN: u8 = 2;
const PART: u8 = 3;
const CLOSE: u8 = 8;

#[test]
fn a_client_without_request_numbers_closes_at_once() {
    let keys = noise_client(7).with_requests_begun(u32::MAX - 1);
    let mut scene = Scene::new(&keys, 1 << 20);
    for ticket in 1..=3 {
        scene.request(ticket, 10);
    }
    let sent = scene.sent();
    assert!(sent.contains(&(1, u32::MAX)), "{sent:?}");
    assert_eq!(sent.last(), Some(&(CLOSE, u32::MAX)), "nothing else wakes the writer");
    assert_eq!(scene.mux.machine().status(), Status::Draining);
    assert_eq!(moved(&mut scene), Some(vec![2, 3]));
    assert_eq!(moved(&mut scene), None);
    assert!(
        scene.hear(&raw_frame(1, u32::MAX, b"")).len() == 1,
        "the first completes here"
    );
    assert_eq!(scene.mux.outstanding(), 0);
}

/// The requests that move on.
fn moved(scene: &mut Scene<'_>) -> Option<Vec<u64>> {
    let unbegun = scene.mux.poll_closing()?;
    Some(unbegun.into_iter().map(|call| call.waiter).collect())
}

#[test]
fn what_has_not_begun_moves_on_whichever_side_closes() {
    let keys = noise_client(7);
    for by_server in [false, true] {
        let mut scene = Scene::new(&keys, 500);
        for ticket in 1..=3 {
            scene.request(ticket, 400);
        }
        assert_eq!(scene.begun(), [1]);
        assert_eq!(moved(&mut scene), None, "it is open");
        if by_server {
            let mut close = scene.server.seal(&raw_frame(CLOSE, 1, &[2]));
            let step = scene.mux.recv(NOW, &mut close);
            assert!(matches!(step, Ok(ClientStep::Closing { .. })), "{step:?}");
        } else {
            scene.mux.close(NOW, CloseReason::Done);
        }
        assert_eq!(moved(&mut scene), Some(vec![2, 3]));
        // The other side closes too.
        scene.mux.close(NOW, CloseReason::Done);
        assert_eq!(moved(&mut scene), None);
        assert_eq!(scene.mux.outstanding(), 1);
    }
}

#[test]
fn a_ping_that_a_closing_connection_gives_back_is_not_sent() {
    let keys = noise_client(7);
    let mut scene = Scene::new(&keys, 500);
    scene.request(1, 400);
    assert_eq!(scene.begun(), [1]);
    scene.mux.close(NOW, CloseReason::Done);
    let back = scene.mux.ping(Ping::new(5)).map_err(|ping| ping.waiter);
    assert_eq!(back, Err(5));
    let sent = scene.sent();
    assert_eq!(sent, [(CLOSE, 1)]);
}

#[test]
fn a_request_that_has_begun_is_sent_as_a_whole_beside_one_without_a_number() {
    let keys = noise_client(7).with_requests_begun(u32::MAX - 1);
    let mut scene = Scene::new(&keys, 1 << 20);
    scene.request(1, 900);
    let mut out = vec![0; 400];
    let sealed = scene.mux.seal(NOW, &mut out, |_, error| panic!("{error}")).unwrap();
    let mut bytes = out[..sealed].to_vec();
    while !bytes.is_empty() {
        scene.server.open(&mut bytes).unwrap();
    }
    // It can have no number, and the rest of the first one is behind it.
    scene.request(2, 10);
    let sent = scene.sent();
    assert!(!sent.iter().any(|(kind, _)| *kind == BEGIN), "{sent:?}");
    assert!(
        sent.contains(&(PART, u32::MAX)) && sent.contains(&(CLOSE, u32::MAX)),
        "{sent:?}"
    );
    assert!(scene.mux.has_unbegun());
    assert_eq!(moved(&mut scene), Some(vec![2]));
    assert!(!scene.mux.has_unsent());
}
