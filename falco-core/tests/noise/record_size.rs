//! How long the records are that a side sends: so short that several fit a lifetime on a slow link.

use core::time::Duration;

use crate::common::noise::{MESSAGE, at_client_with, at_server_with, honest};
use falco_core::testing::{raw_frame, raw_settings};
use falco_core::{SealError, Settings};

const BODY: usize = 200_000;

/// The lengths of the records in `bytes`.
fn lengths(mut bytes: &[u8]) -> Vec<u16> {
    let mut lengths = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        lengths.push(u16::from_be_bytes(*length));
        bytes = &rest[usize::from(u16::from_be_bytes(*length))..];
    }
    lengths
}

/// Seals all of a message with outputs of the size that is asked for, and returns the longest
/// record.
fn longest(size: usize, mut seal: impl FnMut(&mut [u8]) -> Result<usize, SealError>) -> u16 {
    let (mut out, mut sealed, mut longest) = (vec![0; size], 0, 0);
    while sealed < BODY {
        let count = seal(&mut out).unwrap();
        assert!(count > 0, "{sealed} bytes are sealed");
        longest = longest.max(lengths(&out[..count]).into_iter().max().unwrap());
        sealed += count;
    }
    longest
}

/// The longest record to a peer with these settings, from a side with a lifetime of `own` seconds:
/// as a client and as a server.
fn records(own: u64, theirs: [u8; 16]) -> [u16; 2] {
    let settings = Settings::new().with_lifetime(Duration::from_secs(own)).unwrap();
    let mut handshake = honest();
    handshake.settings = theirs;
    let body = vec![7; BODY];
    let mut client = at_client_with(&settings, &handshake);
    let mut request = client.machine.request(BODY).unwrap();
    let (needed, now) = (client.machine.seal_size(BODY), client.now);
    let from_client = longest(needed, |out| client.machine.seal(now, [(&mut request, &body[..])], out));
    let mut server = at_server_with(&settings, &handshake);
    server.receive(&raw_frame(MESSAGE, 1, b"?"));
    let mut answer = server.machine.answer(server.ids[&1], BODY).unwrap();
    let (needed, now) = (server.machine.seal_size(BODY), server.now);
    let from_server = longest(needed, |out| server.machine.seal(now, [(&mut answer, &body[..])], out));
    [from_client, from_server]
}

#[test]
fn records_are_cut_so_that_four_fit_a_lifetime_at_16_kilobytes_per_second() {
    let accepts = |max_record, lifetime| raw_settings(max_record, 10, 1 << 20, lifetime);
    // The smaller lifetime of both sides counts.
    assert_eq!(records(60, accepts(u16::MAX, 1_000)), [4_000; 2]);
    assert_eq!(records(2, accepts(u16::MAX, 60_000)), [8_000; 2]);
    assert_eq!(records(60, accepts(u16::MAX, 60_000)), [u16::MAX; 2]);
    assert_eq!(records(16, accepts(u16::MAX, u32::MAX)), [64_000; 2]);
    assert_eq!(records(17, accepts(u16::MAX, 17_000)), [u16::MAX; 2]);
    // The reader's own limit holds as well.
    assert_eq!(records(60, accepts(1_000, 1_000)), [1_000; 2]);
}
