//! The first bytes that each side sends, and that a side that ends before them sends nothing.

use crate::common::noise::{CLOSE, PING, PONG, at_client, first_ping, honest, noise_client_end, noise_server_end};
use crate::common::{ms, pending_output};
use falco_core::testing::{RecvBytes, raw_frame};
use falco_core::{CloseReason, Received, Settings, Status};

#[test]
fn before_it_is_established_a_side_that_closes_or_times_out_sends_nothing() {
    // A server that has read a hello has a pending welcome, which it drops at its end.
    for late in [false, true] {
        let mut machine = noise_server_end(&Settings::new(), 1);
        let mut hello = honest().hello();
        assert_eq!(machine.recv_bytes(ms(0), &mut hello), Ok((74, Received::Skip)));
        let now = if late { ms(5_000) } else { ms(1) };
        if !late {
            machine.close(now, CloseReason::Done);
        }
        assert_eq!(pending_output(&mut machine, now), [], "late: {late}");
    }
    let mut client = noise_client_end(&Settings::new(), 1);
    client.close(ms(0), CloseReason::Done);
    assert_eq!(pending_output(&mut client, ms(0)), []);
    // A client that ends before its first PING is sealed sends no other record.
    for way in 0..2 {
        let mut client = noise_client_end(&Settings::new(), 1);
        let hello = pending_output(&mut client, ms(0));
        let (mut welcome, mut raw) = honest().server(&hello).unwrap();
        client.recv_bytes(ms(0), &mut welcome).unwrap();
        let end = if way == 0 {
            client.handle_timeout(ms(60_000)).unwrap_err()
        } else {
            client
                .recv_bytes(ms(0), &mut raw.seal(&raw_frame(0, 0, b"")))
                .unwrap_err()
        };
        assert_eq!(pending_output(&mut client, ms(60_000)), [], "{end}");
    }
}

#[test]
fn a_close_before_the_first_ping_is_sent_after_it() {
    let mut client = noise_client_end(&Settings::new(), 1);
    let hello = pending_output(&mut client, ms(0));
    let (mut welcome, mut raw) = honest().server(&hello).unwrap();
    client.recv_bytes(ms(0), &mut welcome).unwrap();
    client.close(ms(0), CloseReason::Done);
    let mut said = pending_output(&mut client, ms(0));
    assert_eq!(raw.open(&mut said).unwrap()[..7], first_ping()[..7]);
    assert_eq!(raw.open(&mut said).unwrap(), raw_frame(CLOSE, 0, &[0]));
    assert_eq!(at_client(&Settings::new()).machine.status(), Status::Established);
}

#[test]
fn the_first_record_has_one_ping_whatever_the_server_has_sent() {
    let mut client = noise_client_end(&Settings::new(), 1);
    let hello = pending_output(&mut client, ms(0));
    let (mut welcome, mut raw) = honest().server(&hello).unwrap();
    client.recv_bytes(ms(0), &mut welcome).unwrap();
    client
        .recv_bytes(ms(0), &mut raw.seal(&raw_frame(PING, 0, b"too soon")))
        .unwrap();
    let mut said = pending_output(&mut client, ms(0));
    let first = raw.open(&mut said).unwrap();
    assert_eq!((first.len(), &first[..7]), (15, &first_ping()[..7]));
    assert_eq!(raw.open(&mut said).unwrap(), raw_frame(PONG, 0, b"too soon"));
}
