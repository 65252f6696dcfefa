//! What counts towards the bounds on memory: the requests of handlers that run on after their
//! connection, and messages of the classic wire that have arrived in part.

use core::time::Duration;

use falco_core::mux::{Call, ClientMux, ClientStep, MustClose, ServerMux, ServerStep, SharedBudget};
use falco_core::testing::{CountingRng, RecvBytes, classic_key, noise_client, noise_server};
use falco_core::{
    ClientConnection, ClientKeyRef, CloseReason, ConnectionError, Instant, LastStep, RequestId, ServerConnection,
    ServerKeyRef, Settings, Unread,
};

const NOW: Instant = Instant::ZERO;
const BUDGET: usize = 300_000;
/// What a request counts besides its body.
const PER_REQUEST: usize = 1 << 10;

struct Pair<C: ClientKeyRef, S: ServerKeyRef> {
    client: ClientMux<C, Vec<u8>, ()>,
    server: ServerMux<S, Vec<u8>, SharedBudget>,
    budget: SharedBudget,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    answers: Vec<Vec<u8>>,
    tickets: u64,
}

impl<C: ClientKeyRef, S: ServerKeyRef> Pair<C, S> {
    fn new(client: C, server: S, settings: &Settings) -> Self {
        Self::with_budget(client, server, settings, BUDGET)
    }

    fn with_budget(client: C, server: S, settings: &Settings, budget: usize) -> Self {
        let budget = SharedBudget::new(budget);
        let client = ClientConnection::new(client, settings, NOW, &mut CountingRng::new(1)).unwrap();
        let server = ServerConnection::new(server, settings, NOW, &mut CountingRng::new(2)).unwrap();
        let mut pair = Self {
            client: ClientMux::new(client, &Settings::new()),
            server: ServerMux::new(server, budget.clone(), settings),
            budget,
            to_server: Vec::new(),
            to_client: Vec::new(),
            answers: Vec::new(),
            tickets: 0,
        };
        for _ in 0..3 {
            pair.send();
            assert_eq!(pair.serve(), (vec![], Ok(())));
            pair.receive();
        }
        assert!(pair.client.is_established() && pair.server.is_established());
        pair
    }

    fn request(&mut self, length: usize) {
        self.tickets += 1;
        assert!(
            self.client
                .request(Call::new(self.tickets, vec![7; length], ()))
                .is_ok()
        );
    }

    /// All that the client has to send is under way.
    fn send(&mut self) {
        let mut out = vec![0; 2 << 20];
        for _ in 0..100 {
            match self.client.seal(NOW, &mut out, |(), error| panic!("{error}")).unwrap() {
                0 => return,
                sealed => self.to_server.extend_from_slice(&out[..sealed]),
            }
        }
    }

    /// The server receives what is under way. Returns the requests and what it waits for.
    fn serve(&mut self) -> (Vec<(RequestId, usize)>, Result<(), ConnectionError>) {
        let arrived = core::mem::take(&mut self.to_server);
        self.arrive(arrived)
    }

    /// Only these bytes have arrived, and stay unread until they are consumed.
    fn arrive(&mut self, mut unread: Vec<u8>) -> (Vec<(RequestId, usize)>, Result<(), ConnectionError>) {
        let (mut requests, mut out) = (Vec::new(), vec![0; 1 << 20]);
        let mut result = Ok(());
        for _ in 0..100 {
            let mut consumed = 0;
            match self.server.recv(NOW, Unread::new(&mut unread, &mut consumed)) {
                Ok(ServerStep::Request { id, body }) => {
                    requests.push((id, body.bytes().len()));
                }
                Ok(_) => {}
                Err(end) => {
                    result = Err(end);
                    break;
                }
            }
            unread.drain(..consumed);
            let sealed = self.server.seal(NOW, &mut out).unwrap();
            self.to_client.extend_from_slice(&out[..sealed]);
            self.server.flushed();
            if consumed == 0 && sealed == 0 {
                break;
            }
        }
        (requests, result)
    }

    fn receive(&mut self) {
        for _ in 0..100 {
            let mut consumed = 0;
            match self.client.recv(NOW, Unread::new(&mut self.to_client, &mut consumed)) {
                Ok(ClientStep::Answer { body, .. }) => {
                    self.answers.push(body.into_vec());
                }
                Ok(ClientStep::Skip | ClientStep::Established | ClientStep::Pong { .. }) => {}
                _ => return,
            }
            self.to_client.drain(..consumed);
        }
    }
}

#[test]
fn bytes_taken_for_a_handler_come_back_when_it_ends_and_not_before() {
    let keys = (noise_client(7), noise_server(7));
    for end in ["answered", "refused", "finished", "dropped"] {
        let mut pair = Pair::new(&keys.0, &keys.1, &Settings::new());
        let budget = pair.budget.clone();
        pair.request(1_000);
        pair.request(500);
        pair.send();
        let (requests, _) = pair.serve();
        assert_eq!(budget.left(), BUDGET - 1_500 - 2 * PER_REQUEST);
        let held = pair.server.take_held(requests[0].0);
        // A second value has nothing to give back.
        drop(pair.server.take_held(requests[0].0));
        match end {
            "answered" => {
                pair.server.answer(requests[0].0, vec![1; 10]).unwrap();
                assert!(pair.serve().1.is_ok());
                assert_eq!(
                    (pair.server.unanswered(), budget.left()),
                    (1, BUDGET - 1_500 - 2 * PER_REQUEST),
                    "{end}"
                );
            }
            "refused" => {
                pair.server.refuse(requests[0].0, falco_core::Refusal::Failed);
                assert!(pair.serve().1.is_ok());
                assert_eq!(
                    (pair.server.unanswered(), budget.left()),
                    (1, BUDGET - 1_500 - 2 * PER_REQUEST),
                    "{end}"
                );
            }
            "finished" => {
                pair.server.finish();
                assert_eq!(
                    budget.left(),
                    BUDGET - 1_000 - PER_REQUEST,
                    "{end}: the other's are given back"
                );
            }
            _ => {}
        }
        drop(pair);
        assert_eq!(budget.left(), BUDGET - 1_000 - PER_REQUEST, "{end}");
        drop(held);
        assert_eq!(budget.left(), BUDGET, "{end}");
    }
}

#[test]
fn requests_without_bodies_are_bounded_over_all_connections() {
    let keys = (noise_client(7), noise_server(7));
    let mut pair = Pair::with_budget(&keys.0, &keys.1, &Settings::new(), 10 * PER_REQUEST);
    let budget = pair.budget.clone();
    for _ in 0..12 {
        pair.request(0);
    }
    pair.send();
    let (requests, _) = pair.serve();
    assert_eq!((requests.len(), pair.server.take_busy(), budget.left()), (10, 2, 0));
    let held: Vec<_> = requests[..4].iter().map(|(id, _)| pair.server.take_held(*id)).collect();
    for (id, _) in &requests[..6] {
        pair.server.answer(*id, vec![]).unwrap();
    }
    assert!(pair.serve().1.is_ok());
    assert_eq!(budget.left(), 2 * PER_REQUEST, "handlers of four run on");
    drop(pair);
    assert_eq!(budget.left(), 6 * PER_REQUEST);
    drop(held);
    assert_eq!(budget.left(), 10 * PER_REQUEST);
}

#[test]
fn a_revoked_connection_sends_no_answer_and_says_why() {
    let keys = (noise_client(7), noise_server(7));
    let mut pair = Pair::new(&keys.0, &keys.1, &Settings::new());
    for _ in 0..3 {
        pair.request(1_000);
    }
    pair.send();
    let (requests, _) = pair.serve();
    pair.server.answer(requests[0].0, vec![1; 10]).unwrap();
    pair.server.answer(requests[1].0, vec![1; 100_000]).unwrap();
    pair.server.revoke(NOW);
    assert_eq!((pair.server.unanswered(), pair.budget.left()), (0, BUDGET));
    // One whose handler ends later is dropped too.
    pair.server.answer(requests[2].0, vec![1; 10]).unwrap();
    pair.arrive(Vec::new()).1.unwrap();
    let step = pair.client.recv_bytes(NOW, &mut pair.to_client);
    assert!(
        matches!(
            step,
            Ok((
                _,
                ClientStep::Closing {
                    reason: CloseReason::KeyRetired,
                    ..
                }
            ))
        ),
        "{step:?}"
    );
    assert!(pair.answers.is_empty());
}

#[test]
fn a_connection_that_may_not_stay_is_told_why() {
    for (why, reason) in [
        (MustClose::KeyRetired, CloseReason::KeyRetired),
        (MustClose::ShuttingDown, CloseReason::ShuttingDown),
        (MustClose::OverLimit, CloseReason::Done),
    ] {
        let keys = (noise_client(7), noise_server(7));
        let mut pair = Pair::new(&keys.0, &keys.1, &Settings::new());
        pair.server.close_for(NOW, why);
        assert_eq!(pair.arrive(Vec::new()).1, Err(ConnectionError::Closed));
        let step = pair.client.recv_bytes(NOW, &mut pair.to_client);
        assert!(
            matches!(step, Ok((_, ClientStep::Closing { reason: own, .. })) if own == reason),
            "{step:?}"
        );
        let ending = pair.server.ending(pair.server.connection().end().unwrap(), NOW);
        let time = match why {
            MustClose::OverLimit => Duration::from_millis(20),
            MustClose::KeyRetired | MustClose::ShuttingDown => Settings::LINGER,
        };
        assert_eq!(ending.poll_timeout(), Some(NOW + time), "{why:?}");
    }
}

/// A client that does not end its stream does not keep the place of one that may not stay.
#[test]
fn a_connection_that_is_closed_at_once_has_little_time_to_end() {
    let keys = (noise_client(7), noise_server(7));
    for at_once in [true, false] {
        let mut pair = Pair::new(&keys.0, &keys.1, &Settings::new());
        if at_once {
            pair.server.close_for(NOW, MustClose::OverLimit);
        } else {
            pair.server.close(NOW, CloseReason::Done);
        }
        assert_eq!(pair.arrive(Vec::new()).1, Err(ConnectionError::Closed));
        let step = pair.client.recv_bytes(NOW, &mut pair.to_client);
        let reason = CloseReason::Done;
        assert!(
            matches!(step, Ok((_, ClientStep::Closing { reason: own, .. })) if own == reason),
            "{step:?}"
        );
        let mut ending = pair.server.ending(pair.server.connection().end().unwrap(), NOW);
        ending.written();
        ending.shut(NOW);
        let closes_at = ending.poll_timeout();
        assert_eq!(
            (ending.step(NOW), closes_at),
            if at_once {
                (LastStep::DropArrived, None)
            } else {
                (LastStep::DropInput, Some(NOW + Settings::LINGER))
            }
        );
        // One whose stream accepts nothing.
        let ending = pair.server.ending(pair.server.connection().end().unwrap(), NOW);
        let time = if at_once {
            Duration::from_millis(20)
        } else {
            Settings::LINGER
        };
        assert_eq!(ending.poll_timeout(), Some(NOW + time));
    }
}

/// Nothing more is sent to its client, and the stream of one that is not authenticated is not
/// reset.
#[test]
fn a_connection_that_is_cut_ends_at_once() {
    let keys = (noise_client(7), noise_server(7));
    let mut pair = Pair::new(&keys.0, &keys.1, &Settings::new());
    assert_eq!(pair.server.cut(NOW).step(NOW), LastStep::Close);
    // It does not matter that the connection has ended in order before.
    pair.server.close(NOW, CloseReason::Done);
    assert_eq!(pair.arrive(Vec::new()).1, Err(ConnectionError::Closed));
    assert_eq!(pair.server.cut(NOW).step(NOW), LastStep::Close);
    let machine = ServerConnection::new(&keys.1, &Settings::new(), NOW, &mut CountingRng::new(3)).unwrap();
    let half_open = ServerMux::<_, Vec<u8>, _>::new(machine, pair.budget.clone(), &Settings::new());
    assert_eq!(half_open.cut(NOW).step(NOW), LastStep::DropArrived);
}

#[test]
fn a_classic_message_in_part_counts_as_much_as_a_buffer_reserves_for_it() {
    let keys = (classic_key(7), classic_key(7));
    let settings = Settings::new().with_max_message(1 << 20);
    let mut pair = Pair::new(&keys.0, &keys.1, &settings);
    let budget = pair.budget.clone();
    pair.request(200_000);
    pair.send();
    let all = core::mem::take(&mut pair.to_server);
    // A whole record's length does not count, since the noise wire needs as much.
    assert_eq!(pair.arrive(all[..30_000].to_vec()), (vec![], Ok(())));
    assert_eq!(budget.left(), BUDGET);
    for arrived in [60_000, 90_000, 150_000] {
        assert_eq!(pair.arrive(all[..arrived].to_vec()), (vec![], Ok(())));
        let counted = (2 * arrived).min(all.len()) - 65_537;
        assert_eq!(budget.left(), BUDGET - counted, "{arrived}");
    }
    // The whole counts once.
    let (requests, _) = pair.arrive(all);
    assert_eq!((requests.len(), budget.left()), (1, BUDGET - 200_000 - PER_REQUEST));
    pair.request(200_000);
    pair.server.answer(requests[0].0, vec![1]).unwrap();
    assert_eq!(pair.serve(), (vec![], Ok(())));
    assert_eq!(budget.left(), BUDGET);
    // What has arrived in part of a connection that ends is given back.
    pair.send();
    let all = core::mem::take(&mut pair.to_server);
    assert_eq!(pair.arrive(all[..150_000].to_vec()), (vec![], Ok(())));
    assert!(budget.left() < BUDGET);
    drop(pair);
    assert_eq!(budget.left(), BUDGET);
}

#[test]
fn a_classic_connection_over_the_bound_answers_what_it_has_and_ends() {
    let settings = Settings::new().with_max_message(1 << 20);
    // The bound of all connections, then that of one.
    for (budget, first) in [(BUDGET, 100), (1 << 30, 500_000)] {
        let (keys, settings) = ((classic_key(7), classic_key(7)), settings.with_max_held(1 << 20));
        let mut pair = Pair::with_budget(&keys.0, &keys.1, &settings, budget);
        pair.request(first);
        pair.request(1 << 20);
        pair.send();
        let mut all = core::mem::take(&mut pair.to_server);
        let second = all.split_off(all.len() - (1 << 20) - 37);
        let (requests, goes_on) = pair.arrive(all);
        assert_eq!(
            (requests.len(), goes_on, pair.budget.left()),
            (1, Ok(()), budget - first - PER_REQUEST)
        );
        let arrived = second[..600_000].to_vec();
        assert_eq!(
            pair.arrive(arrived.clone()),
            (vec![], Ok(())),
            "the first has no answer yet"
        );
        assert_eq!(pair.server.take_busy(), 1);
        pair.server.answer(requests[0].0, vec![1; 10]).unwrap();
        assert_eq!(pair.arrive(arrived), (vec![], Err(ConnectionError::Closed)));
        pair.receive();
        assert_eq!(pair.answers, [[1; 10]]);
        let left = pair.budget.clone();
        drop(pair);
        assert_eq!(left.left(), budget);
    }
}

/// On the classic wire an answer is sealed as a whole. It counts until the client has taken it.
#[test]
fn a_sealed_answer_counts_until_the_stream_has_accepted_it() {
    let (keys, settings) = ((classic_key(7), classic_key(7)), Settings::new());
    let mut pair = Pair::new(&keys.0, &keys.1, &settings);
    let budget = pair.budget.clone();
    let is_counted = || budget.answers().abs_diff(400_000) < 16 << 10;
    pair.request(1);
    pair.request(1);
    pair.send();
    let second = pair.to_server.split_off(pair.to_server.len() / 2);
    let (requests, _) = pair.serve();
    pair.server.answer(requests[0].0, vec![1; 400_000]).unwrap();
    let mut out = vec![0; 500_000];
    assert!(pair.server.seal(NOW, &mut out).unwrap() > 400_000);
    // Its bytes are still in the output.
    assert!(is_counted(), "{}", budget.answers());
    assert!(!pair.server.may_handle() && !pair.server.may_read());
    let mut unread = second.clone();
    let step = pair.server.recv_bytes(NOW, &mut unread);
    assert!(matches!(step, Ok((_, ServerStep::TransmitFirst))), "{step:?}");
    // The stream has accepted all of it.
    assert_eq!(pair.server.seal(NOW, &mut out), Ok(0));
    assert_eq!(budget.answers(), 0);
    let (requests, _) = pair.arrive(second);
    assert_eq!(requests.len(), 1);
    // The end of the connection does not free the output.
    pair.server.answer(requests[0].0, vec![1; 400_000]).unwrap();
    pair.server.seal(NOW, &mut out).unwrap();
    pair.server.finish();
    assert!(is_counted(), "{}", budget.answers());
    drop(pair);
    assert_eq!(budget.answers(), 0);
}

#[test]
fn a_sealed_answer_counts_towards_the_bound_of_its_connection() {
    let settings = Settings::new().with_max_message(500_000).with_max_held(500_000);
    let keys = (classic_key(7), classic_key(7));
    let mut pair = Pair::with_budget(&keys.0, &keys.1, &settings, 1 << 30);
    pair.request(1);
    pair.request(1);
    pair.send();
    let (requests, _) = pair.serve();
    for (id, _) in requests {
        pair.server.answer(id, vec![1; 300_000]).unwrap();
    }
    let mut out = vec![0; 400_000];
    assert!(pair.server.seal(NOW, &mut out).unwrap() > 300_000);
    assert!(!pair.server.may_handle(), "one is in the output and one in the queue");
    assert!(pair.server.seal(NOW, &mut out).unwrap() > 300_000);
    assert!(pair.server.may_handle());
}

/// Records of the noise wire are short, and so is the output that waits.
#[test]
fn output_on_the_noise_wire_does_not_count() {
    let keys = (noise_client(7), noise_server(7));
    let mut pair = Pair::new(&keys.0, &keys.1, &Settings::new());
    pair.request(1);
    pair.send();
    let (requests, _) = pair.serve();
    pair.server.answer(requests[0].0, vec![1; 65_000]).unwrap();
    let mut out = vec![0; 70_000];
    assert!(pair.server.seal(NOW, &mut out).unwrap() > 65_000);
    assert_eq!(pair.budget.answers(), 0);
    assert!(pair.server.may_handle() && pair.server.may_read());
}
