//! A side that takes no open bodies, whether it announces no window or is built without them: it
//! knows neither their frames nor the window of its peer.

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CLOSE, CREDIT, END, MESSAGE, NoiseEvent, OPEN, PART, REFUSE, at_client_with,
    at_server_with, begin, honest,
};
use falco_core::testing::{RawHandshake, raw_frame, raw_streams};
use falco_core::{ConnectionError, Settings};

/// A peer that takes open bodies.
fn peer() -> RawHandshake<falco_core::testing::NoSecurity> {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 2, 3);
    handshake
}

fn server() -> AtServer {
    at_server_with(&Settings::new(), &peer())
}

fn client() -> AtClient {
    at_client_with(&Settings::new(), &peer())
}

fn open(id: u32, first: &[u8]) -> Vec<u8> {
    raw_frame(BEGIN, id, &begin(OPEN, first))
}

#[test]
fn it_announces_no_window_and_no_open_requests() {
    assert_eq!(server().raw.theirs()[12..], [0; 4]);
    assert_eq!(client().raw.theirs()[12..], [0; 4]);
}

#[test]
fn a_server_refuses_an_open_request_as_too_large_and_skips_the_rest_of_it() {
    for first in [0, 5_000] {
        let mut rig = server();
        assert_eq!(rig.receive(&open(1, &vec![1; first])), []);
        assert_eq!(rig.sent(), [(REFUSE, 1, vec![2])]);
        assert_eq!(rig.receive(&raw_frame(PART, 1, b"part")), []);
        let whole = NoiseEvent::Whole(2, b"whole".to_vec());
        assert_eq!(rig.receive(&raw_frame(MESSAGE, 2, b"whole")), [whole]);
        rig.answer(2, b"answer");
        assert_eq!(rig.opened(), [(MESSAGE, 2, b"answer".to_vec())]);
    }
}

/// Asserts that the frames are a protocol error, as others that the side does not know.
fn assert_broken_at_server(mut rig: AtServer, frames: &[u8]) {
    rig.receive(&raw_frame(MESSAGE, 1, b"one"));
    assert_eq!(rig.receive(frames), []);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![4])], "{frames:02x?}");
    rig.assert_ended(ConnectionError::Protocol);
}

fn assert_broken_at_client(mut rig: AtClient, frames: &[u8]) {
    rig.request(b"?");
    rig.sent();
    assert_eq!(rig.receive(frames), []);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![4])], "{frames:02x?}");
    rig.assert_ended(ConnectionError::Protocol);
}

#[test]
fn all_other_frames_of_open_bodies_break_the_rules() {
    assert_broken_at_server(server(), &raw_frame(END, 1, b""));
    for frames in [open(1, b""), raw_frame(END, 1, b"")] {
        assert_broken_at_client(client(), &frames);
    }
    // A side that takes none may write some if its peer takes them. CREDIT is then known.
    let credit = raw_frame(CREDIT, 1, &[0, 0, 0, 1]);
    assert_broken_at_server(at_server_with(&Settings::new(), &honest()), &credit);
    assert_broken_at_client(at_client_with(&Settings::new(), &honest()), &credit);
    if cfg!(not(feature = "streams")) {
        assert_broken_at_server(server(), &credit);
        assert_broken_at_client(client(), &credit);
    }
}
