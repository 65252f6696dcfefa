//! The guard over the unread bytes: what `recv` consumed is no longer unread, and nothing else.

use falco_core::{Instant, Received, RecvBuf, ServerEvent, Settings, Unread};

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
