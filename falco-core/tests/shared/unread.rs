//! The guard over the unread bytes: what `recv` consumed is no longer unread, and nothing else.

use falco_core::testing::raw_frame;
use falco_core::{ConnectionError, Instant, Received, RecvBuf, ServerEvent, Settings, Unread};

use crate::common::noise::{MESSAGE, at_server_with, honest};
use crate::common::{ends_with, handle};

const NOW: Instant = Instant::ZERO;

#[test]
fn recv_discards_what_it_consumed_and_nothing_else() {
    let mut both = ends_with(&handle(), &handle(), &Settings::new(), 1);
    let (one, two) = (both.request(b"one"), both.request(b"two!"));
    let mut inbox = RecvBuf::new(vec![0; one.len() + two.len()]);
    inbox.filled(usize::MAX);
    inbox.unread().copy_from_slice(&[one, two.clone()].concat());
    let server = &mut both.server;
    let body = match server.recv(NOW, inbox.unread()).unwrap() {
        Received::Event(ServerEvent::Request { body, .. }) => body,
        other => panic!("{other:?}"),
    };
    assert_eq!(body, b"one");
    assert_eq!(*inbox.unread(), *two);
    // A part of a frame stays.
    let mut part = RecvBuf::with_unread(two.clone(), two.len() - 1);
    let total = two.len();
    let received = server.recv(NOW, part.unread());
    assert_eq!(received, Ok(Received::NeedMore { total }));
    assert_eq!(*part.unread(), two[..total - 1]);
    let received = server.recv(NOW, inbox.unread());
    assert!(matches!(
        received,
        Ok(Received::Event(ServerEvent::Request { body: b"two!", .. }))
    ));
    assert!(inbox.is_empty());
}

#[test]
fn a_buffer_of_ones_own_is_read_from_a_position_that_moves() {
    let mut both = ends_with(&handle(), &handle(), &Settings::new(), 1);
    let (one, two) = (both.request(b"one"), both.request(b"two!"));
    let (mut buffer, mut start) = ([one.clone(), two].concat(), 0);
    for (body, end) in [(&b"one"[..], one.len()), (b"two!", buffer.len())] {
        let received = both.server.recv(NOW, Unread::new(&mut buffer, &mut start));
        assert!(matches!(received, Ok(Received::Event(ServerEvent::Request { body: came, .. })) if came == body));
        assert_eq!(start, end);
    }
    assert!(Unread::new(&mut buffer, &mut start).is_empty());
    let beyond = &mut (start + 1);
    assert!(Unread::new(&mut buffer, beyond).is_empty(), "a position behind the end");
    assert_eq!(
        format!("{:?}", Unread::new(&mut buffer, &mut 1)),
        format!("Unread {{ bytes: {}, .. }}", start - 1)
    );
}

#[test]
fn a_caller_that_takes_unread_bytes_away_ends_the_connection_and_consumes_nothing() {
    let mut server = at_server_with(&Settings::new(), &honest());
    let frames = [raw_frame(MESSAGE, 1, b"one"), raw_frame(MESSAGE, 2, b"two")].concat();
    let (mut record, mut start) = (server.raw.seal(&frames), 0);
    let first = server.machine.recv(server.now, Unread::new(&mut record, &mut start));
    assert!(matches!(
        first,
        Ok(Received::Event(ServerEvent::Request { body: b"one", .. }))
    ));
    // The last byte of the tag, which was checked with the first frame.
    record.pop();
    let before = start;
    let second = server.machine.recv(server.now, Unread::new(&mut record, &mut start));
    assert_eq!(second, Err(ConnectionError::Tampered));
    assert_eq!(start, before);
}
