//! The handshake timeout, which nothing moves; times other than the defaults; the arithmetic of
//! instants.

use core::time::Duration;

use crate::common::{assert_ended, client, ends_with, handle, ms, pending_output, server, span};
use falco_core::testing::RecvBytes;
use falco_core::{ClientEvent, ClientWait, ConnectionError, Instant, OutputTooSmall, Received, ServerEvent, Settings};

const LIFETIME: u64 = 60_000;
const HANDSHAKE: u64 = 5_000;
const EXPIRED: ConnectionError = ConnectionError::Expired;

#[test]
fn nothing_moves_the_handshake_deadline_of_a_server() {
    let hello = pending_output(&mut client(&handle(), &Settings::new(), 1), ms(0));
    let mut slow = server(&handle(), &Settings::new(), 1);
    for (length, at) in (0..hello.len()).zip((0..HANDSHAKE).step_by(31)) {
        let mut hello = hello[..length].to_vec();
        let received = slow.recv_bytes(ms(at), &mut hello);
        assert_eq!(received, Ok((0, Received::NeedMore { total: 157 })));
        assert_eq!(slow.poll_timeout(), Some(ms(HANDSHAKE)));
    }
    assert_eq!(slow.handle_timeout(ms(HANDSHAKE - 1)), Ok(()));
    assert_eq!(
        slow.recv_bytes(ms(HANDSHAKE), &mut hello.clone()),
        Err(ConnectionError::HandshakeTimeout)
    );
    assert_ended(&mut slow, ms(HANDSHAKE), ConnectionError::HandshakeTimeout);

    let mut timely = server(&handle(), &Settings::new(), 1);
    let established = (157, Received::Event(ServerEvent::Established));
    assert_eq!(
        timely.recv_bytes(ms(HANDSHAKE - 1), &mut hello.clone()),
        Ok(established)
    );
    assert_eq!(timely.poll_timeout(), Some(ms(HANDSHAKE - 1 + LIFETIME)));
}

#[test]
fn nothing_moves_the_handshake_deadline_of_a_client() {
    let mut slow = client(&handle(), &Settings::new(), 1);
    slow.ping().unwrap();
    assert_eq!(
        slow.recv_bytes(ms(1), &mut [0xFF]),
        Ok((0, Received::Wait(ClientWait::TransmitFirst)))
    );
    assert_eq!(
        pending_output(&mut slow, ms(4_000)).len(),
        157,
        "the hello and no ping yet"
    );
    let mut message = slow.request(1).unwrap();
    assert_eq!(
        slow.seal(ms(4_500), [(&mut message, [1].as_slice())], &mut [0; 300]),
        Ok(0)
    );
    assert_eq!(
        slow.recv_bytes(ms(HANDSHAKE - 1), &mut []),
        Ok((0, Received::NeedMore { total: 1 }))
    );
    assert_eq!(slow.poll_timeout(), Some(ms(HANDSHAKE)));
    assert_eq!(
        slow.handle_timeout(ms(HANDSHAKE)),
        Err(ConnectionError::HandshakeTimeout)
    );
    assert_ended(&mut slow, ms(HANDSHAKE), ConnectionError::HandshakeTimeout);

    let mut timely = client(&handle(), &Settings::new(), 1);
    pending_output(&mut timely, ms(0));
    let established = (1, Received::Event(ClientEvent::Established));
    assert_eq!(timely.recv_bytes(ms(HANDSHAKE - 1), &mut [0xFF]), Ok(established));
    assert_eq!(timely.poll_timeout(), Some(ms(HANDSHAKE - 1 + LIFETIME)));

    // After the deadline no hello is sent.
    let mut late = client(&handle(), &Settings::new(), 1);
    assert_eq!(late.poll_transmit(ms(HANDSHAKE), &mut [0; 157]), Ok(0));
    assert_ended(&mut late, ms(HANDSHAKE), ConnectionError::HandshakeTimeout);
}

#[test]
fn shorter_times_are_as_exact() {
    let settings = Settings::new().with_lifetime(Duration::from_micros(1_000_500)).unwrap();
    let settings = settings.with_handshake_timeout(span(1)).unwrap();
    assert_eq!(client(&handle(), &settings, 1).poll_timeout(), Some(ms(1)));
    let mut both = ends_with(&handle(), &handle(), &settings, 1);
    assert_eq!(
        both.server.handle_timeout(ms(1_000)),
        Ok(()),
        "a deadline is never early"
    );
    assert_eq!(both.server.handle_timeout(ms(1_001)), Err(EXPIRED));
    assert_eq!(both.client.poll_timeout(), Some(ms(1_001)));
    assert_eq!(both.client.seal(ms(0), [], &mut []), Ok(0));
    both.client.ping().unwrap();
    let small = OutputTooSmall { needed: 1, given: 0 };
    assert_eq!(both.client.seal(ms(9), [], &mut []), Err(small.into()));
    assert_eq!(
        both.client.poll_timeout(),
        Some(ms(1_001)),
        "a ping that found no room counts for nothing"
    );
}

#[test]
fn instants_round_up_and_saturate() {
    assert_eq!(ms(5) + Duration::from_nanos(1), ms(6));
    assert_eq!(ms(5) + Duration::from_nanos(999_999), ms(6));
    assert_eq!(ms(5) + Duration::from_nanos(1_000_001), ms(7));
    assert_eq!(ms(5) + Duration::ZERO, ms(5));
    assert_eq!(ms(u64::MAX - 1) + Duration::MAX, ms(u64::MAX));
    assert_eq!(ms(7).since(ms(5)), span(2));
    assert_eq!(ms(5).since(ms(7)), Duration::ZERO);
    assert_eq!((Instant::ZERO, Instant::default()), (ms(0), ms(0)));
}
