//! A connection that drains because it is old.

use core::time::Duration;

use falco_core::mux::ServerMux;
use falco_core::testing::{CountingRng, classic_key, raw_frame};
use falco_core::{Instant, ServerConnection, Settings, Status};

use crate::served::{MESSAGE, Served, keys};

const CLOSE: u8 = 8;
const AGE: Duration = Duration::from_secs(10);

#[test]
fn a_connection_drains_at_its_age_give_or_take_a_tenth() {
    let keys = keys();
    for (random, millis) in [(0, 9_000), (1_000, 10_000), (2_000, 11_000)] {
        let mut served = Served::new(&keys, &Settings::new(), ());
        served.mux.drain_after(served.now, AGE, |bound| {
            assert_eq!(bound, 2_001);
            random
        });
        assert_eq!(served.receive(&raw_frame(MESSAGE, 1, b"?")), [1]);
        let due = Instant::from_millis(millis);
        assert_eq!(served.mux.poll_timeout(), Some(due));
        for (at, status) in [(millis - 1, Status::Established), (millis, Status::Draining)] {
            served.now = Instant::from_millis(at);
            served.mux.handle_timeout(served.now).unwrap();
            assert_eq!(served.mux.status(), status, "{at}");
        }
        // What had begun completes, then the connection ends.
        assert_eq!(served.sealed(1_000), [(CLOSE, 1, 1)]);
        assert!(served.mux.poll_timeout() > Some(due));
        served.answer(1, 10);
        assert_eq!(served.sealed(1_000), [(MESSAGE, 1, 10)]);
        assert_eq!(served.mux.status(), Status::Ended);
    }
}

#[test]
fn the_classic_wire_has_no_age_and_an_overflowing_age_is_none() {
    let (own, settings) = (classic_key(7), Settings::new());
    let machine = ServerConnection::new(&own, &settings, Instant::ZERO, &mut CountingRng::new(1)).unwrap();
    let mut mux = ServerMux::<_, Vec<u8>, _>::new(machine, (), &settings);
    let before = mux.poll_timeout();
    mux.drain_after(Instant::ZERO, Duration::ZERO, |_| panic!("no random number is needed"));
    assert_eq!(mux.poll_timeout(), before);
    let keys = keys();
    let mut served = Served::new(&keys, &Settings::new(), ());
    let before = served.mux.poll_timeout();
    served.mux.drain_after(Instant::ZERO, Duration::MAX, |bound| bound - 1);
    assert_eq!(served.mux.poll_timeout(), before);
}
