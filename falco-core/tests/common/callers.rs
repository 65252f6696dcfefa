//! Callers that react to events, and two ways to pass a stream to a connection: in one piece, or in
//! reads over some storage.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else there is does not come on this wire"
)]

use falco_core::{
    ClientEvent, ClientWait, Connection, ConnectionError, Instant, KeyRef, OutgoingAnswer, Received, RecvBuf, Refusal,
    Role, ServerEvent, ServerWait, Storage, Unread,
};

use super::{ClientEnd, Handle, ServerEnd, pending_output};

/// The in-flight limit of these callers.
pub(crate) const IN_FLIGHT: u16 = 3;
const NOW: Instant = Instant::from_millis(5);

/// Everything that a connection returned.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) events: Vec<(u32, Event)>,
    pub(crate) output: Vec<u8>,
    pub(crate) end: Option<ConnectionError>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Established,
    Body(Vec<u8>),
    Ping,
    Refused(Refusal),
    /// On the noise wire.
    NoiseEvent(super::noise::NoiseEvent),
}

/// One side with a caller that only reacts to events.
pub(crate) trait Caller {
    type Role: Role;
    type Handle: KeyRef<Self::Role>;
    fn machine(&mut self) -> &mut Connection<Self::Role, Self::Handle>;
    /// Notes an event and reacts to it.
    fn event(&mut self, event: <Self::Role as Role>::Event<'_>, seen: &mut Seen);
    /// Something has to happen before the connection reads on. Pending output is sent in any case.
    fn wait(&mut self, wait: <Self::Role as Role>::Wait, seen: &mut Seen);
}

/// Answers its requests once there are three of them, the last one first.
pub(crate) struct Serving {
    pub(crate) machine: ServerEnd,
    pub(crate) ready: Vec<(OutgoingAnswer, Vec<u8>)>,
}

impl Caller for Serving {
    type Role = falco_core::ServerSide;
    type Handle = Handle;

    fn machine(&mut self) -> &mut ServerEnd {
        &mut self.machine
    }

    fn event(&mut self, event: ServerEvent<'_>, seen: &mut Seen) {
        match event {
            ServerEvent::Established => seen.events.push((0, Event::Established)),
            ServerEvent::Request { id, body } => {
                let body = body.to_vec();
                self.ready
                    .insert(0, (self.machine.answer(id, body.len()).unwrap(), body.clone()));
                seen.events.push((id.number(), Event::Body(body)));
            }
            ServerEvent::Ping => seen.events.push((0, Event::Ping)),
            other => panic!("{other:?}"),
        }
    }

    fn wait(&mut self, wait: ServerWait, seen: &mut Seen) {
        if wait != ServerWait::AnswerFirst {
            return;
        }
        assert_eq!(self.ready.len(), 3, "as many as may be in flight");
        let mut out = [0; 600];
        for _ in 0..3 {
            let ready = self.ready.iter_mut().map(|(message, body)| (message, body.as_slice()));
            let length = self.machine.seal(NOW, ready, &mut out).unwrap();
            seen.output.extend_from_slice(&out[..length]);
        }
        self.ready.retain(|(message, _)| !message.is_done());
        assert!(
            self.ready.is_empty(),
            "each call takes at least the one whose turn it is"
        );
    }
}

/// Has three requests in flight from the start, and sends one more after some answers.
pub(crate) struct Asking(pub(crate) ClientEnd);

impl Asking {
    fn ask(&mut self, seen: &mut Seen) {
        let Ok(mut message) = self.0.request(2) else { return };
        let mut out = [0; 64];
        let length = self.0.seal(NOW, [(&mut message, [1, 2].as_slice())], &mut out).unwrap();
        seen.output.extend_from_slice(&out[..length]);
    }
}

impl Caller for Asking {
    type Role = falco_core::ClientSide;
    type Handle = Handle;

    fn machine(&mut self) -> &mut ClientEnd {
        &mut self.0
    }

    fn event(&mut self, event: ClientEvent<'_>, seen: &mut Seen) {
        match event {
            ClientEvent::Established => {
                seen.events.push((0, Event::Established));
                (0..3).for_each(|_| self.ask(seen));
            }
            ClientEvent::Answer { id, body } => {
                seen.events.push((id.number(), Event::Body(body.to_vec())));
                // Only after every other answer, so that some answers arrive without a request.
                if id.number() % 2 == 0 {
                    self.ask(seen);
                }
            }
            ClientEvent::Refused { id, refusal } => seen.events.push((id.number(), Event::Refused(refusal))),
            other => panic!("{other:?}"),
        }
    }

    fn wait(&mut self, _wait: ClientWait, _seen: &mut Seen) {}
}

/// What `recv` returns.
type Got<'u, R> = Received<<R as Role>::Event<'u>, <R as Role>::Wait>;

/// Reacts to `received`. Fails with how many unread bytes are needed, if that is known.
fn act<K: Caller>(
    caller: &mut K,
    seen: &mut Seen,
    received: Result<Got<'_, K::Role>, ConnectionError>,
) -> Result<(), Option<usize>> {
    match received {
        Ok(Received::NeedMore { total }) => return Err(Some(total)),
        Ok(Received::Wait(wait)) => caller.wait(wait, seen),
        Ok(Received::Skip) => {}
        Ok(Received::Event(event)) => caller.event(event, seen),
        Ok(other) => panic!("{other:?}"),
        Err(_) => return Err(None),
    }
    seen.output.extend(pending_output(caller.machine(), NOW));
    Ok(())
}

fn finish<K: Caller>(caller: &mut K, mut seen: Seen) -> Seen {
    seen.end = caller.machine().end();
    seen
}

/// Passes the stream in one piece, without a buffer.
pub(crate) fn at_once<K: Caller>(mut caller: K, stream: &[u8]) -> Seen {
    let (mut seen, mut stream) = (Seen::default(), stream.to_vec());
    let mut start = 0;
    loop {
        let received = caller.machine().recv(NOW, Unread::new(&mut stream, &mut start));
        if let Err(needed) = act(&mut caller, &mut seen, received) {
            let unread = &stream[start..];
            assert!(needed.is_none_or(|needed| needed > unread.len()));
            let _ = caller.machine().end_of_stream(NOW, unread);
            return finish(&mut caller, seen);
        }
    }
}

/// Passes the stream in reads of these sizes, again and again. A read of 0 bytes calls `recv` once
/// more. A patient caller reads until as many bytes have arrived as are needed.
pub(crate) fn in_reads<K: Caller, S: Storage>(
    mut caller: K,
    stream: &[u8],
    cuts: &Cuts,
    largest: usize,
    mut inbox: RecvBuf<S>,
) -> Seen {
    let mut seen = Seen::default();
    let (mut sizes, mut at) = (cuts.sizes.iter().cycle(), 0);
    loop {
        let received = caller.machine().recv(NOW, inbox.unread());
        let needed = match act(&mut caller, &mut seen, received) {
            Ok(()) => continue,
            Err(None) => return finish(&mut caller, seen),
            Err(Some(needed)) => needed,
        };
        assert!(
            needed > inbox.len() && needed <= largest,
            "{needed} bytes wanted, {} there",
            inbox.len()
        );
        if at == stream.len() {
            let _ = caller.machine().end_of_stream(NOW, &inbox.unread());
            return finish(&mut caller, seen);
        }
        loop {
            let space = inbox.space(needed).expect("storage for the largest frame suffices");
            let read = space.len().min(*sizes.next().unwrap()).min(stream.len() - at);
            space[..read].copy_from_slice(&stream[at..at + read]);
            inbox.filled(read);
            at += read;
            if !cuts.patient || inbox.len() >= needed || at == stream.len() {
                break;
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Cuts {
    pub(crate) sizes: Vec<usize>,
    pub(crate) patient: bool,
}
