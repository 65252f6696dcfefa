//! No request reaches a handler before the answer to the client's first PING is flushed.

use falco_core::mux::{ServerMux, ServerStep};
use falco_core::testing::{CountingRng, RecvBytes, classic_key, raw_frame};
use falco_core::{ClientConnection, ConnectionError, Instant, Received, ServerConnection, Settings};

use crate::served::{MESSAGE, PONG, Served, keys};

#[test]
fn no_request_reaches_a_handler_before_the_greeting_is_flushed() {
    let keys = keys();
    let mut served = Served::greeting(&keys, &Settings::new(), ());
    let request = raw_frame(MESSAGE, 1, b"?");
    assert_eq!(served.receive(&request), []);
    assert!(!served.mux.may_read(), "the PONG is not sealed");
    assert_eq!(served.sealed(1_000), [(PONG, 0, 8)]);
    for _ in 0..2 {
        assert_eq!(served.requests(), [], "the stream has not accepted it");
        assert!(matches!(
            served.mux.recv_bytes(served.now, &mut []),
            Ok((_, ServerStep::TransmitFirst))
        ));
        assert!(!served.mux.may_handle() && !served.mux.may_read() && !served.mux.has_request());
        // A stream that has accepted the bytes may not have flushed them.
        served.mux.wrote();
    }
    served.mux.flushed();
    assert_eq!(served.requests(), [1]);
    // From then on nothing waits for the stream.
    served.answer(1, 10);
    assert!(served.seal(1_000) > 0);
    assert_eq!(served.receive(&raw_frame(MESSAGE, 2, b"?")), [2]);
}

#[test]
fn on_the_classic_wire_the_greeting_is_the_accept() {
    let (own, theirs, now) = (classic_key(7), classic_key(7), Instant::ZERO);
    let settings = Settings::new();
    let machine = ServerConnection::new(&own, &settings, now, &mut CountingRng::new(1)).unwrap();
    let mut mux = ServerMux::<_, Vec<u8>, _>::new(machine, (), &settings);
    let mut client = ClientConnection::new(&theirs, &settings, now, &mut CountingRng::new(2)).unwrap();
    let mut out = vec![0; 1_000];
    let hello = client.poll_transmit(now, &mut out).unwrap();
    let step = mux.recv_bytes(now, &mut out[..hello]);
    assert!(matches!(step, Ok((_, ServerStep::Established))));
    let accept = mux.seal(now, &mut out).unwrap();
    let step = client.recv_bytes(now, &mut out[..accept]);
    assert!(matches!(step, Ok((_, Received::Event(_)))));
    let mut request = client.request(1).unwrap();
    let count = client.seal(now, [(&mut request, &b"?"[..])], &mut out).unwrap();
    assert!(matches!(
        mux.recv_bytes(now, &mut out[..count]),
        Ok((_, ServerStep::TransmitFirst))
    ));
    mux.flushed();
    assert!(matches!(
        mux.recv_bytes(now, &mut out[..count]),
        Ok((_, ServerStep::Request { .. }))
    ));
}

#[test]
fn an_end_is_reported_although_the_greeting_is_not_flushed() {
    let keys = keys();
    let mut served = Served::greeting(&keys, &Settings::new(), ());
    let end = served.mux.end_of_stream(served.now, &[]);
    assert_eq!(end, Err(ConnectionError::Truncated));
    assert!(matches!(
        served.mux.recv_bytes(served.now, &mut []),
        Err(ConnectionError::Truncated)
    ));
}
