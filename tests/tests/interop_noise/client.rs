//! A client on the crate snow: it carries out its steps over one connection, and prints a line for
//! each event.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::net::TcpStream;

use super::link::{Frame, Link, Next, kind};
use super::mail::{Inbox, Outbox};
use super::pipe::Pipe;
use super::{Options, PATIENCE, bodies};

const OWN_PING: &[u8; 8] = b"stranger";

struct Calling<'s> {
    link: Link,
    inbox: Inbox,
    outbox: Outbox,
    /// The last request begun.
    begun: u32,
    waiting: BTreeSet<u32>,
    ping: Option<[u8; 8]>,
    closed: bool,
    say: &'s dyn Fn(String),
}

/// Does `steps`: `N,N,...` requests of these sizes, all at once; `ping`; `ask=TEXT` a request;
/// `cancel` a request that is held, `cut` one half sent; `close`.
pub(super) fn call(address: SocketAddr, options: &Options, steps: &[String], say: &dyn Fn(String)) {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("the server listens");
    let mut link = match Link::call(Pipe::new(stream), options) {
        Ok(link) => link,
        Err(why) => return say(format!("refused {why}")),
    };
    link.send(&[Frame::new(kind::PING, 0, OWN_PING)]);
    say("established".to_owned());
    let mut calling = Calling {
        link,
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        begun: 0,
        waiting: BTreeSet::new(),
        ping: Some(*OWN_PING),
        closed: false,
        say,
    };
    for step in steps {
        calling.step(step);
    }
    say(format!("between {}", calling.inbox.between));
    say(format!("records {} {}", calling.link.sent, calling.link.received));
}

impl Calling<'_> {
    fn step(&mut self, step: &str) {
        match step.split_once('=') {
            None if step == "ping" => {
                self.ping = Some(*b"are you?");
                self.link.send(&[Frame::new(kind::PING, 0, b"are you?")]);
            }
            None if step == "cancel" => {
                let id = self.number();
                self.link.send(&[Frame::new(kind::MESSAGE, id, b"hold")]);
                self.link.send(&[Frame::new(kind::CANCEL, id, &[])]);
            }
            None if step == "cut" => {
                let id = self.number();
                let first = [&100_000_u32.to_be_bytes()[..], b"no more"].concat();
                // The last part crosses the server's refusal, and is to be passed over.
                self.link.send(&[
                    Frame::new(kind::BEGIN, id, &first),
                    Frame::new(kind::CANCEL, id, &[]),
                    Frame::new(kind::PART, id, b"than that"),
                ]);
            }
            None if step == "close" => {
                self.link.send(&[Frame::new(kind::CLOSE, self.begun, &[0])]);
                while !self.closed {
                    self.receive(PATIENCE);
                }
                return self.link.finish();
            }
            Some(("ask", text)) => self.ask(text.as_bytes().to_vec()),
            _ => step
                .split(',')
                .for_each(|size| self.ask(bodies::body(size.parse().expect("a size")))),
        }
        while !self.outbox.is_empty() {
            self.outbox.turn(&mut self.link);
            while self.receive(Duration::ZERO) {}
        }
        while !self.waiting.is_empty() || self.ping.is_some() {
            assert!(
                self.receive(PATIENCE),
                "nothing more comes; waiting for {:?}",
                self.waiting
            );
        }
    }

    fn number(&mut self) -> u32 {
        self.begun += 1;
        self.waiting.insert(self.begun);
        self.begun
    }

    fn ask(&mut self, body: Vec<u8>) {
        let id = self.number();
        self.outbox.post(id, body, false);
    }

    /// Takes the next frame, if one comes.
    fn receive(&mut self, patience: Duration) -> bool {
        let frame = match self.link.next(patience) {
            Next::Frame(frame) => frame,
            Next::Nothing => return false,
            Next::End => panic!("the stream ends without a close"),
        };
        let id = frame.id;
        match (frame.kind, frame.body.as_slice()) {
            (kind::PING, bytes) => self.link.send(&[Frame::new(kind::PONG, 0, bytes)]),
            (kind::PONG, bytes) => {
                assert_eq!(self.ping.take().as_ref().map(<[u8; 8]>::as_slice), Some(bytes));
                (self.say)("ponged".to_owned());
            }
            (kind::MESSAGE | kind::BEGIN | kind::PART, _) => {
                assert!(self.waiting.contains(&id), "an answer to {id}");
                if let Some(body) = self.inbox.take(frame, false) {
                    self.waiting.remove(&id);
                    (self.say)(bodies::report(&format!("answer {id}"), &body));
                }
            }
            (kind::REFUSE, [code]) => {
                assert!(self.waiting.remove(&id), "a refusal of {id}");
                (self.say)(format!("refused {code}"));
            }
            (kind::CLOSE, [code]) => {
                assert_eq!(id, self.begun);
                (self.say)(format!("closing {code}"));
                self.closed = true;
            }
            _ => panic!("from a server: {frame:?}"),
        }
        true
    }
}
