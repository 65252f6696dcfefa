//! The messages that the peer sends and receives. Large ones are cut into parts and take turns with
//! all others.

use std::collections::{BTreeMap, VecDeque};

use super::link::{Frame, Link, kind};

/// The longest part that is sent of a message that is cut.
const PART: usize = 12_000;
/// Messages of which a frame goes in one turn.
const TURN: usize = 4;

struct Outgoing {
    id: u32,
    body: Vec<u8>,
    sent: usize,
}

/// Messages that are being sent.
#[derive(Default)]
pub(super) struct Outbox(VecDeque<Outgoing>);

impl Outbox {
    /// Takes a message in; it goes before all others or after them.
    pub(super) fn post(&mut self, id: u32, body: Vec<u8>, first: bool) {
        let message = Outgoing { id, body, sent: 0 };
        if first {
            self.0.push_front(message);
        } else {
            self.0.push_back(message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends the next frame of each of a few messages, together.
    pub(super) fn turn(&mut self, link: &mut Link) {
        let mut frames = Vec::new();
        for _ in 0..TURN {
            let Some(mut message) = self.0.pop_front() else { break };
            let (longest, length) = (link.longest_body(), message.body.len());
            let cut = |room: usize| message.body.iter().skip(message.sent).take(room.min(PART)).copied();
            let (kind, body): (u8, Vec<u8>) = if message.sent > 0 {
                (kind::PART, cut(longest).collect())
            } else if length <= longest {
                (kind::MESSAGE, message.body.clone())
            } else {
                let total = u32::try_from(length).expect("a message is short").to_be_bytes();
                (kind::BEGIN, total.into_iter().chain(cut(longest - 4)).collect())
            };
            message.sent += body.len() - if kind == kind::BEGIN { 4 } else { 0 };
            frames.push(Frame::new(kind, message.id, &body));
            if message.sent < length {
                self.0.push_back(message);
            }
        }
        link.send(&frames);
    }
}

/// Messages that are being received.
#[derive(Default)]
pub(super) struct Inbox {
    halves: BTreeMap<u32, (usize, Vec<u8>)>,
    /// Whole messages that stood between the parts of others.
    pub(super) between: usize,
}

impl Inbox {
    /// Takes a MESSAGE, BEGIN or PART, and gives the message back where it is whole. A part of
    /// nothing is passed over where `skip` says so.
    pub(super) fn take(&mut self, frame: Frame, skip: bool) -> Option<Vec<u8>> {
        match frame.kind {
            kind::MESSAGE => {
                self.between += usize::from(!self.halves.is_empty());
                return Some(frame.body);
            }
            kind::BEGIN => {
                let total = frame.body.first_chunk().copied().map(u32::from_be_bytes);
                let total = usize::try_from(total.expect("a total")).expect("it fits");
                let first = frame.body.into_iter().skip(4).collect();
                assert!(self.halves.insert(frame.id, (total, first)).is_none(), "begun twice");
            }
            _ => match self.halves.get_mut(&frame.id) {
                Some((_, body)) => {
                    assert!(!frame.body.is_empty(), "an empty part");
                    body.extend(frame.body);
                }
                None => assert!(skip, "a part of nothing: {}", frame.id),
            },
        }
        let (total, body) = self.halves.get(&frame.id)?;
        assert!(body.len() <= *total, "more than its total");
        let whole = body.len() == *total;
        whole.then(|| self.halves.remove(&frame.id).expect("it was found").1)
    }

    /// Forgets a message half received; says whether there was one.
    pub(super) fn forget(&mut self, id: u32) -> bool {
        self.halves.remove(&id).is_some()
    }
}
