//! Errors of the API, which change no state: limits, lengths, small outputs, requests of other
//! connections.

use core::time::Duration;

use crate::common::{Ends, client, ends, ends_with, handle, ms, pending_output};
use falco_core::testing::RecvBytes;
use falco_core::testing::classic_answer_size as answer_size;
use falco_core::{
    BufferSizes, ClientWait, ConnectionError, Error, Instant, Misuse, OutputTooSmall, Received, Refusal, ReplyError,
    RequestError, RequestId, SealError, ServerEvent, Settings, SettingsError, Status,
};

const NOW: Instant = ms(0);

fn limited(max_message: u32) -> Ends {
    ends_with(&handle(), &handle(), &Settings::new().with_max_message(max_message), 1)
}

#[test]
fn sizes_are_those_of_the_wire() {
    assert_eq!(BufferSizes::TRANSMIT, 157);
    assert_eq!(
        (
            BufferSizes::classic_request(0),
            BufferSizes::classic_request(5),
            BufferSizes::classic_request(usize::MAX)
        ),
        (37, 42, usize::MAX)
    );
    assert_eq!(
        (answer_size(0), answer_size(5), answer_size(usize::MAX)),
        (36, 41, usize::MAX)
    );
}

#[test]
fn a_body_over_the_limit_is_refused_with_both_numbers_and_nothing_is_sent() {
    for limit in [0_u32, 1, 1_000] {
        let fits = usize::try_from(limit).unwrap();
        let mut both = limited(limit);
        let length = u64::from(limit) + 1;
        let too_large = RequestError::TooLarge {
            length,
            limit: length - 1,
        };
        assert_eq!(both.client.request(fits + 1).unwrap_err(), Error::Request(too_large));
        let request = both.request(&vec![1; fits]);
        let (id, body) = both.receive_request(&request);
        assert_eq!(body.len(), fits);
        assert_eq!(
            both.server.answer(id, fits + 1).unwrap_err(),
            ReplyError::Request(too_large)
        );
        // It is still open for another answer.
        let answer = both.answer(id, &vec![2; fits]);
        assert_eq!(both.receive_answer(&answer).1.len(), fits);
    }
    let too_large = RequestError::TooLarge {
        length: u64::try_from(usize::MAX).unwrap(),
        limit: 16 << 20,
    };
    assert_eq!(ends().client.request(usize::MAX).unwrap_err(), too_large.into());
}

#[test]
fn a_body_of_another_length_than_announced_is_refused_and_changes_nothing() {
    let mut both = ends();
    let (mut message, mut out) = (both.client.request(5).unwrap(), [0; 100]);
    for given in [0, 4, 6, 50] {
        let misuse = Misuse::BodyLength { announced: 5, given };
        assert_eq!(
            both.client.seal(NOW, [(&mut message, &[1; 50][..given])], &mut out),
            Err(misuse.into())
        );
    }
    assert_eq!((message.sealed(), message.length(), message.id()), (0, 5, None));
    assert_eq!(
        both.client.seal(NOW, [(&mut message, [1; 5].as_slice())], &mut out),
        Ok(42)
    );
    assert_eq!((message.sealed(), message.is_done()), (5, true));
    let (id, _) = both.receive_request(&out[..42]);
    assert_eq!(message.id().map(RequestId::number), Some(id.number()));
    let mut answer = both.server.answer(id, 2).unwrap();
    let misuse = Misuse::BodyLength { announced: 2, given: 3 };
    assert_eq!(
        both.server.seal(NOW, [(&mut answer, [1; 3].as_slice())], &mut out),
        Err(misuse.into())
    );
    assert_eq!(
        (answer.sealed(), answer.length(), answer.id(), answer.is_done()),
        (0, 2, id, false)
    );
    assert_eq!(
        both.server.seal(NOW, [(&mut answer, [1; 2].as_slice())], &mut out),
        Ok(38)
    );
    assert_eq!((answer.sealed(), answer.is_done()), (2, true));
}

#[test]
fn output_that_is_too_small_is_refused_with_the_size_that_is_exactly_enough() {
    let mut fresh = client(&handle(), &Settings::new(), 1);
    let small = |needed, given| Err(OutputTooSmall { needed, given });
    for given in 0..157 {
        assert_eq!(fresh.poll_transmit(NOW, &mut vec![0; given]), small(157, given));
    }
    assert_eq!(fresh.seal_size(10), 157 + 47);
    assert_eq!(fresh.poll_transmit(NOW, &mut [0; 157]), Ok(157));
    assert_eq!(fresh.poll_transmit(NOW, &mut []), Ok(0), "nothing is sent twice");

    let mut both = ends();
    both.client.ping().unwrap();
    assert_eq!(both.client.poll_transmit(NOW, &mut []), small(1, 0));
    assert_eq!(both.client.seal_size(3), 41, "the ping goes first");
    let mut message = both.client.request(3).unwrap();
    let mut out = [0; 41];
    assert_eq!(
        both.client
            .seal(NOW, [(&mut message, [7; 3].as_slice())], &mut out[..40]),
        Ok(1)
    );
    assert!(!message.is_done());
    assert_eq!(both.client.seal_size(3), 40);
    let refused = both
        .client
        .seal(NOW, [(&mut message, [7; 3].as_slice())], &mut out[1..40]);
    assert_eq!(refused, small(40, 39).map_err(SealError::from));
    assert_eq!(
        both.client
            .seal(NOW, [(&mut message, [7; 3].as_slice())], &mut out[1..]),
        Ok(40)
    );
    let event = (1, Received::Event(ServerEvent::Ping));
    assert_eq!(both.server.recv_bytes(NOW, &mut out[..1]), Ok(event));
    let (id, _) = both.receive_request(&out[1..]);
    let mut answer = both.server.answer(id, 3).unwrap();
    assert_eq!(both.server.seal_size(3), 39);
    for given in 0..39 {
        let refused = both
            .server
            .seal(NOW, [(&mut answer, [7; 3].as_slice())], &mut vec![0; given]);
        assert_eq!(refused, small(39, given).map_err(SealError::from));
    }
    assert_eq!(
        both.server.seal(NOW, [(&mut answer, [7; 3].as_slice())], &mut [0; 39]),
        Ok(39)
    );
}

#[test]
fn requests_of_one_connection_are_foreign_to_another() {
    let settings = Settings::new();
    let (mut one, mut two) = (ends(), ends_with(&handle(), &handle(), &settings, 2));
    let (mut out, body) = ([0; 100], b"?".as_slice());
    let mut message = one.client.request(1).unwrap();
    assert_eq!(
        two.client.seal(NOW, [(&mut message, body)], &mut out),
        Err(Misuse::Foreign.into())
    );
    assert_eq!((two.client.in_flight(), message.is_done()), (0, false));
    let requests = (one.request(b"1"), two.request(b"2"));
    let (id, other) = (one.receive_request(&requests.0).0, two.receive_request(&requests.1).0);
    assert_eq!((id.number(), other.number()), (1, 1));
    assert_ne!(id, other);
    assert_eq!(two.server.answer(id, 1).unwrap_err(), Misuse::Foreign.into());
    assert_eq!(two.server.refuse(id, Refusal::Failed), Err(Misuse::Foreign.into()));
    let mut answer = one.server.answer(id, 1).unwrap();
    assert_eq!(
        two.server.seal(NOW, [(&mut answer, body)], &mut out),
        Err(Misuse::Foreign.into())
    );
    assert_eq!((two.server.in_flight(), answer.is_done()), (1, false));
    assert_eq!(two.server.status(), Status::Established);
}

#[test]
fn a_request_begins_when_it_is_sealed_and_one_that_is_dropped_before_leaves_no_trace() {
    let mut both = ends();
    drop(both.client.request(7).unwrap());
    let kept = both.client.request(1).unwrap();
    assert_eq!((kept.id(), both.client.in_flight()), (None, 0));
    let request = both.request(b"2");
    assert_eq!(both.client.in_flight(), 1);
    assert_eq!(
        both.receive_request(&request).0.number(),
        1,
        "numbers are given when sealed"
    );
}

#[test]
fn pings_that_are_not_sent_yet_are_combined() {
    let mut both = ends();
    let first = both.client.ping().unwrap();
    assert_eq!(both.client.ping().unwrap(), first);
    assert_eq!(pending_output(&mut both.client, NOW), [2]);
    assert!(both.client.ping().unwrap() > first);
    assert_eq!(pending_output(&mut both.client, NOW), [2]);
}

#[test]
fn a_client_reads_nothing_before_its_hello_is_sent() {
    let mut fresh = client(&handle(), &Settings::new(), 1);
    assert_eq!(fresh.status(), Status::Handshaking);
    for bytes in [[].as_mut_slice(), &mut [0xFF], &mut [0, 1, 2]] {
        assert_eq!(
            fresh.recv_bytes(NOW, bytes),
            Ok((0, Received::Wait(ClientWait::TransmitFirst)))
        );
    }
    assert_eq!(pending_output(&mut fresh, NOW).len(), 157);
    assert_eq!(fresh.status(), Status::Handshaking);
    assert_eq!(
        fresh.recv_bytes(NOW, &mut [0x00]),
        Err(ConnectionError::Refused),
        "as the Python server says no"
    );
}

#[test]
fn settings_out_of_range_are_refused() {
    let fresh = Settings::new;
    assert_eq!(fresh().with_max_in_flight(0), Err(SettingsError::MaxInFlight));
    assert_eq!(fresh().with_max_in_flight(1).unwrap().max_in_flight(), 1);
    for (millis, right) in [
        (0, false),
        (999, false),
        (1_000, true),
        (4_294_967_295, true),
        (4_294_967_296, false),
    ] {
        let lifetime = Duration::from_millis(millis);
        let set = fresh().with_lifetime(lifetime);
        let expected = if right {
            Ok(lifetime)
        } else {
            Err(SettingsError::Lifetime(lifetime))
        };
        assert_eq!(set.map(|settings| settings.lifetime()), expected);
    }
    for (micros, right) in [(0, false), (999, false), (1_000, true), (u64::MAX, true)] {
        let timeout = Duration::from_micros(micros);
        let set = fresh().with_handshake_timeout(timeout);
        let expected = if right {
            Ok(timeout)
        } else {
            Err(SettingsError::HandshakeTimeout(timeout))
        };
        assert_eq!(set.map(|settings| settings.handshake_timeout()), expected);
    }
    let defaults = (
        fresh().max_message(),
        fresh().max_in_flight(),
        fresh().lifetime(),
        fresh().handshake_timeout(),
    );
    assert_eq!(
        defaults,
        (16 << 20, 1024, Duration::from_secs(60), Duration::from_secs(5))
    );
    assert_eq!(fresh(), Settings::default());
}
