//! The key of a direction is replaced after 2^20 records, or after fewer if a test sets it.
//! Counters continue.

use crate::common::noise::{NoiseEvent, at_client, at_server, client_keys};
use falco_core::testing::{ClientLog, Pair, RecvBytes, noise_client, noise_server, raw_frame};
use falco_core::{BufferSizes, ConnectionError, Settings};

fn answers(log: &[ClientLog]) -> usize {
    log.iter()
        .filter(|entry| matches!(entry, ClientLog::Answer(..)))
        .count()
}

#[test]
fn several_boundaries_are_crossed_in_both_directions_at_once() {
    for period in [1, 2, 3, 7] {
        let (client, server) = (
            noise_client(7).with_rekey_period(period),
            noise_server(7).with_rekey_period(period),
        );
        let settings = Settings::new().with_max_record(100).unwrap();
        let mut pair = Pair::new(&client, &server, &settings, period).unwrap();
        for length in [0, 1, 50, 500, 2_000] {
            // One answer is still in transit together with the next requests.
            pair.request(&vec![1; length]).unwrap();
            pair.request(&vec![2; length / 2]).unwrap();
            let _ = pair.ping();
            pair.settle().unwrap();
        }
        assert_eq!(answers(&pair.client_log), 10, "period {period}");
        assert_eq!((pair.client().end(), pair.server().end()), (None, None));
    }
}

#[test]
fn sides_with_different_rekey_periods_fail_at_the_first_boundary_and_not_before() {
    for (ours, theirs, answered) in [(5, 9, 3), (9, 5, 3), (5, 1 << 20, 3), (1 << 20, 6, 4)] {
        let (client, server) = (
            noise_client(7).with_rekey_period(ours),
            noise_server(7).with_rekey_period(theirs),
        );
        let mut pair = Pair::new(&client, &server, &Settings::new(), 1).unwrap();
        for _ in 0..10 {
            if pair.request(b"?").is_err() {
                break;
            }
            pair.settle().unwrap();
        }
        // The first record of each side is the PING and its PONG, or has the first message as well.
        let ends = (pair.client().end(), pair.server().end());
        assert!(
            ends.0 == Some(ConnectionError::Tampered) || ends.1 == Some(ConnectionError::Tampered),
            "{ends:?}"
        );
        let got = answers(&pair.client_log);
        assert!(
            (answered..=answered + 1).contains(&got),
            "{ours} and {theirs}: {got} were answered"
        );
    }
}

/// The peer of this test is independent of the connection, and replaces its keys as the Noise
/// specification says.
#[test]
fn each_record_around_each_boundary_opens_on_the_other_side() {
    let mut rig = at_server(&Settings::new());
    for id in 1..=20 {
        assert_eq!(
            rig.receive(&raw_frame(1, id, b"?")),
            [NoiseEvent::Whole(id, b"?".to_vec())]
        );
    }
    let client = client_keys().with_rekey_period(4);
    let mut pair = falco_core::ClientConnection::new(
        &client,
        &Settings::new(),
        crate::common::ms(0),
        &mut falco_core::testing::CountingRng::new(1),
    )
    .unwrap();
    let (mut welcome, mut raw) = crate::common::noise::honest()
        .server(&crate::common::pending_output(&mut pair, crate::common::ms(0)))
        .unwrap();
    raw.set_rekey_period(4);
    pair.recv_bytes(crate::common::ms(0), &mut welcome).unwrap();
    let mut out = [0; BufferSizes::TRANSMIT];
    for number in 0..30 {
        let length = pair.poll_transmit(crate::common::ms(0), &mut out).unwrap();
        let mut record = out[..length].to_vec();
        assert!(
            raw.open(&mut record).is_some_and(|text| text.len() == 15),
            "record {number}"
        );
        assert!(
            pair.recv_bytes(crate::common::ms(0), &mut raw.seal(&raw_frame(200, 0, b"")))
                .is_ok()
        );
        pair.ping().unwrap();
    }
}

#[test]
fn the_key_changes_after_record_2_to_the_20_minus_1() {
    const PERIOD: u64 = 1 << 20;
    let mut rig = at_client(&Settings::new());
    let mut out = [0; BufferSizes::TRANSMIT];
    // The first PING was record 0.
    for number in 1..PERIOD + 2 {
        rig.machine.ping().unwrap();
        let length = rig.machine.poll_transmit(rig.now, &mut out).unwrap();
        if number == PERIOD - 1 {
            rig.raw.set_rekey_period(PERIOD);
        }
        rig.out.extend_from_slice(&out[..length]);
        assert!(rig.raw.open(&mut rig.out).is_some(), "record {number}");
    }
    // The other direction.
    let mut rig = at_server(&Settings::new());
    rig.raw.set_rekey_period(PERIOD);
    for number in 1..PERIOD + 2 {
        let mut record = rig.raw.seal(&raw_frame(200, 0, b""));
        assert!(rig.machine.recv_bytes(rig.now, &mut record).is_ok(), "record {number}");
    }
}
