//! The cost of an output depends on the answers in it, and not on how many others wait.

use core::cell::Cell;
use std::rc::Rc;

use falco_core::mux::{ServerMux, ServerStep};
use falco_core::testing::{CountingRng, RecvBytes, classic_key};
use falco_core::{ClientConnection, ClientEvent, Instant, Received, RequestId, ServerConnection, Settings};

const NOW: Instant = Instant::ZERO;
const COUNT: u32 = 2_000;

/// An answer that counts how often it is passed to the connection.
struct Counted(Vec<u8>, Rc<Cell<usize>>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        self.1.set(self.1.get() + 1);
        &self.0
    }
}

/// On the classic wire, where answers are sent in the order of the requests.
#[test]
fn answers_that_wait_for_an_earlier_one_cost_an_output_nothing() {
    let (own, theirs) = (classic_key(7), classic_key(7));
    let settings = Settings::new().with_max_in_flight(u16::MAX).unwrap();
    let machine = ServerConnection::new(&own, &settings, NOW, &mut CountingRng::new(1)).unwrap();
    let mut mux = ServerMux::<_, Counted, _>::new(machine, (), &settings);
    let mut client = ClientConnection::new(&theirs, &settings, NOW, &mut CountingRng::new(2)).unwrap();
    let mut out = vec![0; 10_000];
    let hello = client.poll_transmit(NOW, &mut out).unwrap();
    assert!(matches!(
        mux.recv_bytes(NOW, &mut out[..hello]),
        Ok((_, ServerStep::Established))
    ));
    let accept = mux.seal(NOW, &mut out).unwrap();
    mux.flushed();
    assert!(client.recv_bytes(NOW, &mut out[..accept]).is_ok());

    let mut ids: Vec<RequestId> = Vec::new();
    for _ in 0..COUNT {
        let mut request = client.request(1).unwrap();
        let count = client.seal(NOW, [(&mut request, &b"?"[..])], &mut out).unwrap();
        match mux.recv_bytes(NOW, &mut out[..count]).unwrap().1 {
            ServerStep::Request { id, .. } => ids.push(id),
            step => panic!("{step:?}"),
        }
    }
    // All but the first are answered, the last of them first.
    let looks = Rc::new(Cell::new(0));
    for id in ids[1..].iter().rev() {
        mux.answer(*id, Counted(id.number().to_be_bytes().to_vec(), Rc::clone(&looks)))
            .unwrap();
        assert_eq!(mux.seal(NOW, &mut out), Ok(0));
    }
    mux.answer(ids[0], Counted(1_u32.to_be_bytes().to_vec(), Rc::clone(&looks)))
        .unwrap();
    let mut unread = Vec::new();
    loop {
        let count = mux.seal(NOW, &mut out).unwrap();
        if count == 0 {
            break;
        }
        unread.extend_from_slice(&out[..count]);
    }
    // One look for the length of an answer, and one or two to seal it.
    let most = 4 * ids.len();
    assert!(looks.get() <= most, "{} looks at {} answers", looks.get(), ids.len());
    for number in 1..=COUNT {
        let Ok((consumed, Received::Event(event))) = client.recv_bytes(NOW, &mut unread) else {
            panic!("answer {number} is missing");
        };
        assert!(matches!(event, ClientEvent::Answer { body, .. } if *body == number.to_be_bytes()));
        unread.drain(..consumed);
    }
    assert_eq!(mux.unanswered(), 0);
}
