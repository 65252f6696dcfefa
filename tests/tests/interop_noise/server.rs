//! A server on the crate snow: one connection, answered until the client closes. It prints a line
//! for each event.

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::TcpListener;

use super::link::{Frame, Link, Next, kind};
use super::mail::{Inbox, Outbox};
use super::pipe::Pipe;
use super::{Options, PATIENCE, bodies};

const OWN_PING: &[u8; 8] = b"stranger";

struct Serving<'s> {
    link: Link,
    inbox: Inbox,
    outbox: Outbox,
    /// Requests that are answered by nothing but a cancellation.
    held: BTreeSet<u32>,
    /// The last request begun.
    begun: u32,
    closing: bool,
    say: &'s dyn Fn(String),
}

/// Serves the first that connects.
pub(super) fn serve(listener: &TcpListener, options: &Options, say: &dyn Fn(String)) {
    let (stream, _) = listener.accept().expect("a client connects");
    let mut link = match Link::accept(Pipe::new(stream), options) {
        Ok(link) => link,
        Err(why) => return say(format!("refused {why}")),
    };
    let Next::Frame(first) = link.next(PATIENCE) else {
        return say("no first record".to_owned());
    };
    assert_eq!((first.kind, first.id, first.body.len()), (kind::PING, 0, 8));
    assert!(link.is_between_records(), "the PING is alone in its record");
    let pong = Frame::new(kind::PONG, 0, &first.body);
    // A frame of an unknown kind is to be skipped.
    link.send(&[pong, Frame::new(200, 7, b"later"), Frame::new(kind::PING, 0, OWN_PING)]);
    say("established".to_owned());
    let mut serving = Serving {
        link,
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        held: BTreeSet::new(),
        begun: 0,
        closing: false,
        say,
    };
    serving.run();
    say(format!("between {}", serving.inbox.between));
    say(format!("records {} {}", serving.link.sent, serving.link.received));
}

impl Serving<'_> {
    fn run(&mut self) {
        while !self.closing || !self.outbox.is_empty() || !self.held.is_empty() {
            let patience = if self.outbox.is_empty() {
                PATIENCE
            } else {
                Duration::ZERO
            };
            match self.link.next(patience) {
                Next::Frame(frame) => self.take(frame),
                Next::Nothing if !self.outbox.is_empty() => self.outbox.turn(&mut self.link),
                next @ (Next::Nothing | Next::End) => return (self.say)(format!("without a close: {next:?}")),
            }
        }
        self.link.send(&[Frame::new(kind::CLOSE, self.begun, &[0])]);
        self.link.finish();
        (self.say)("end".to_owned());
    }

    fn take(&mut self, frame: Frame) {
        let id = frame.id;
        match (frame.kind, frame.body.as_slice()) {
            (kind::PING, bytes) => self.link.send(&[Frame::new(kind::PONG, 0, bytes)]),
            (kind::PONG, bytes) => {
                assert_eq!(bytes, OWN_PING);
                (self.say)("ponged".to_owned());
            }
            (kind::MESSAGE | kind::BEGIN, _) => {
                assert!(id > self.begun && !self.closing, "request {id} after {}", self.begun);
                self.begun = id;
                self.part(frame);
            }
            (kind::PART, _) => self.part(frame),
            (kind::CANCEL, []) => {
                if self.held.remove(&id) | self.inbox.forget(id) {
                    (self.say)("cancelled".to_owned());
                    self.link.send(&[Frame::new(kind::REFUSE, id, &[4])]);
                }
            }
            (kind::CLOSE, [code]) => {
                assert_eq!(id, self.begun);
                (self.say)(format!("closing {code}"));
                self.closing = true;
            }
            _ => panic!("from a client: {frame:?}"),
        }
    }

    fn part(&mut self, frame: Frame) {
        let id = frame.id;
        let Some(body) = self.inbox.take(frame, id <= self.begun) else {
            return;
        };
        (self.say)(bodies::report("handled", &body));
        if body == b"hold" {
            self.held.insert(id);
        } else if let Some(code) = body.strip_prefix(b"refuse ") {
            let code = core::str::from_utf8(code).ok().and_then(|code| code.parse().ok());
            self.link
                .send(&[Frame::new(kind::REFUSE, id, &[code.expect("a code")])]);
        } else {
            // The latest request first: answers come in another order than requests.
            self.outbox.post(id, bodies::transform(&body), true);
        }
    }
}
