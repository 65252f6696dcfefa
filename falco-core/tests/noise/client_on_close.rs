//! What a CLOSE, the server's or its own, does to a client.

use std::rc::Rc;

use crate::common::noise::{
    AtClient, BEGIN, CANCEL, CLOSE, MESSAGE, NoiseEvent, PART, PING, REFUSE, asking, at_client, begin, client_keys,
    honest,
};
use crate::common::{ms, pending_output};
use falco_core::testing::{CountingRng, raw_frame};
use falco_core::{ClientConnection, CloseReason, ConnectionError, Error, Refusal, SealError, Settings, Status};

/// The answer to request 1 has arrived in part (4 of 8 bytes), 2 is answered, 3 to 5 have no answer
/// yet.
fn busy() -> AtClient {
    let mut rig = asking(5);
    rig.receive(&raw_frame(BEGIN, 1, &begin(8, b"half")));
    rig.receive(&raw_frame(MESSAGE, 2, b"two"));
    assert_eq!(rig.machine.in_flight(), 4);
    rig
}

#[test]
fn after_the_servers_close_requests_up_to_its_last_complete_and_later_ones_are_not_processed() {
    for (code, reason) in [
        (0, CloseReason::Done),
        (2, CloseReason::ShuttingDown),
        (3, CloseReason::KeyRetired),
        (9, CloseReason::Done),
    ] {
        let mut rig = busy();
        let expected = [
            NoiseEvent::Closing(reason),
            NoiseEvent::Refused(4, Refusal::NotProcessed),
            NoiseEvent::Refused(5, Refusal::NotProcessed),
        ];
        assert_eq!(rig.receive(&raw_frame(CLOSE, 3, &[code])), expected);
        assert_eq!((rig.machine.status(), rig.machine.in_flight()), (Status::Draining, 2));
        assert_eq!(rig.machine.request(1).unwrap_err(), Error::Closing);
        rig.receive(&raw_frame(PART, 1, b"rest"));
        assert_eq!(rig.machine.end(), None);
        assert_eq!(
            rig.receive(&raw_frame(REFUSE, 3, &[3])),
            [NoiseEvent::Refused(3, Refusal::Failed)]
        );
        assert_eq!(rig.sent(), []);
        rig.assert_ended(ConnectionError::Closed);
    }
    for after in [
        raw_frame(CLOSE, 3, &[0]),
        raw_frame(MESSAGE, 4, b"was not processed"),
        raw_frame(REFUSE, 5, &[5]),
    ] {
        // In the same record, and in the next: there are no events of it.
        let mut rig = busy();
        assert_eq!(rig.receive(&[raw_frame(CLOSE, 3, &[0]), after.clone()].concat()), []);
        assert_eq!(rig.sent(), [(CLOSE, 5, vec![4])]);
        rig.assert_ended(ConnectionError::Protocol);
        let mut rig = busy();
        rig.receive(&raw_frame(CLOSE, 3, &[0]));
        assert_eq!(rig.receive(&after), []);
        assert_eq!(rig.sent(), [(CLOSE, 5, vec![4])]);
    }
}

#[test]
fn a_client_without_request_ids_closes_by_itself_and_ends() {
    let keys = Rc::new(client_keys().with_requests_begun(u32::MAX - 1));
    let mut machine = ClientConnection::new(keys, &Settings::new(), ms(0), &mut CountingRng::new(1)).unwrap();
    let hello = pending_output(&mut machine, ms(0));
    let (welcome, raw) = honest().server(&hello).unwrap();
    let mut rig = AtClient::new(machine, raw);
    assert_eq!(rig.bytes(&welcome), [NoiseEvent::Established]);
    rig.sent();
    rig.request(b"the last");
    assert_eq!(rig.sent(), [(MESSAGE, u32::MAX, b"the last".to_vec())]);
    let mut message = rig.machine.request(4).unwrap();
    // Nothing fits, so the error says how much room the CLOSE needs.
    let sealed = rig.machine.seal(rig.now, [(&mut message, &b"more"[..])], &mut []);
    assert!(matches!(sealed, Err(SealError::OutputTooSmall(_))), "{sealed:?}");
    rig.seal_request(&mut message, b"more");
    assert_eq!(rig.sent(), [(CLOSE, u32::MAX, vec![0])]);
    assert_eq!((message.id(), rig.machine.status()), (None, Status::Draining));
    assert_eq!(rig.machine.request(1).unwrap_err(), Error::Closing);
    assert_eq!(rig.machine.poll_timeout(), Some(ms(20_000)), "a keep-alive");
    rig.receive(&raw_frame(MESSAGE, u32::MAX, b"answer"));
    rig.receive(&raw_frame(CLOSE, u32::MAX, &[0]));
    rig.assert_ended(ConnectionError::Closed);
}

#[test]
fn a_close_that_ends_at_once_says_which_requests_were_not_processed() {
    for (code, end) in [
        (1, ConnectionError::PeerExpired),
        (4, ConnectionError::PeerReportsProtocolError),
    ] {
        let mut rig = busy();
        let record = [raw_frame(MESSAGE, 3, b"before"), raw_frame(CLOSE, 4, &[code])].concat();
        let expected = [
            NoiseEvent::Whole(3, b"before".to_vec()),
            NoiseEvent::Refused(5, Refusal::NotProcessed),
        ];
        assert_eq!(rig.receive(&record), expected);
        assert_eq!(rig.sent(), []);
        rig.assert_ended(end);
    }
}

#[test]
fn after_its_own_close_a_client_completes_its_requests_and_begins_no_new_ones() {
    let body = vec![1; 100_000];
    let mut rig = at_client(&Settings::new());
    let mut half = rig.machine.request(body.len()).unwrap();
    let mut never = rig.machine.request(1).unwrap();
    rig.seal_request(&mut half, &body);
    rig.opened();
    rig.machine.close(rig.now, CloseReason::Done);
    rig.machine.close(rig.now, CloseReason::ShuttingDown);
    assert_eq!(rig.machine.request(1).unwrap_err(), Error::Closing);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![0])], "one, with its last");
    assert_eq!(rig.seal_request(&mut never, b"n"), 0);
    rig.seal_request(&mut half, &body);
    assert_eq!(rig.opened()[0].0, PART);
    rig.machine.ping().unwrap();
    rig.machine.cancel(half.id().unwrap()).unwrap();
    let kinds: Vec<u8> = rig.sent().iter().map(|frame| frame.0).collect();
    assert_eq!(kinds, [PING, CANCEL]);
    assert_eq!(
        rig.receive(&raw_frame(REFUSE, 1, &[4])),
        [NoiseEvent::Refused(1, Refusal::Cancelled)]
    );
    assert_eq!(rig.machine.status(), Status::Draining, "until the server has closed");
    assert_eq!(
        rig.receive(&raw_frame(CLOSE, 1, &[0])),
        [NoiseEvent::Closing(CloseReason::Done)]
    );
    rig.assert_ended(ConnectionError::Closed);
    // A frame that breaks the rules after the own CLOSE causes no second one.
    let mut rig = asking(1);
    rig.machine.close(rig.now, CloseReason::Done);
    rig.sent();
    rig.receive(&raw_frame(0, 0, &[]));
    assert_eq!(rig.sent(), []);
    rig.assert_ended(ConnectionError::Protocol);
}

#[test]
fn a_close_of_the_server_with_a_request_that_has_not_begun_breaks_the_rules() {
    for code in [0, 1, 2, 3, 4, 9] {
        for last in [6, 7, u32::MAX] {
            let mut rig = busy();
            assert_eq!(rig.receive(&raw_frame(CLOSE, last, &[code])), [], "{code} {last}");
            assert_eq!(rig.sent(), [(CLOSE, 5, vec![4])], "{code} {last}");
            rig.assert_ended(ConnectionError::Protocol);
        }
        // The last request that has begun, or 0.
        let mut rig = busy();
        assert!(!rig.receive(&raw_frame(CLOSE, 5, &[code])).is_empty() || matches!(code, 1 | 4));
        assert_ne!(rig.machine.end(), Some(ConnectionError::Protocol));
        let mut rig = at_client(&Settings::new());
        rig.receive(&raw_frame(CLOSE, 0, &[code]));
        assert_ne!(rig.machine.end(), Some(ConnectionError::Protocol));
    }
}
