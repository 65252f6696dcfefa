//! Answers are sent in the order of the requests, once each, for at most as many requests as may be
//! in flight.

use crate::common::{Ends, asked, ends, ends_with, handle, ms, pending_output, server};
use falco_core::testing::RecvBytes;
use falco_core::{
    Instant, OutputTooSmall, Received, Refusal, ReplyError, SealError, ServerEvent, ServerWait, Settings, Status,
};

const NOW: Instant = ms(0);

fn in_flight(allowed: u16) -> Ends {
    let settings = Settings::new().with_max_in_flight(allowed).unwrap();
    ends_with(&handle(), &handle(), &settings, 1)
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in of.iter().enumerate() {
        let rest = [&of[..at], &of[at + 1..]].concat();
        all.extend(
            permutations(&rest)
                .into_iter()
                .map(|rest| [[*first].as_slice(), &rest].concat()),
        );
    }
    all
}

#[test]
fn answers_are_sent_in_the_order_of_the_requests_whatever_order_they_are_given_in() {
    for order in permutations(&[0, 1, 2, 3]) {
        let (mut both, ids) = asked(4);
        let (mut stream, mut ready) = (Vec::new(), Vec::new());
        let mut out = [0; 4 * 37];
        for at in order {
            ready.push((
                both.server.answer(ids[at], 1).unwrap(),
                [u8::try_from(at + 11).unwrap()],
            ));
            // Several calls, because those whose turn is later are in front in the list.
            loop {
                let messages = ready.iter_mut().map(|(message, body)| (message, body.as_slice()));
                let length = both.server.seal(NOW, messages, &mut out).unwrap();
                if length == 0 {
                    break;
                }
                stream.extend_from_slice(&out[..length]);
            }
        }
        assert!(ready.iter().all(|(message, _)| message.is_done()));
        for (answer, number) in stream.chunks(37).zip(1..) {
            let (id, body) = both.receive_answer(answer);
            assert_eq!((id.number(), body), (number, vec![u8::try_from(number + 10).unwrap()]));
        }
        assert_eq!(
            (stream.len(), both.client.in_flight(), both.server.in_flight()),
            (4 * 37, 0, 0)
        );
    }
}

#[test]
fn one_seal_takes_as_many_answers_as_fit() {
    for room in 36..=3 * 37 + 5 {
        let (mut both, ids) = asked(3);
        let mut ready: Vec<_> = ids.iter().map(|id| both.server.answer(*id, 1).unwrap()).collect();
        let messages = ready.iter_mut().map(|message| (message, [9].as_slice()));
        let sealed = both.server.seal(NOW, messages, &mut vec![0; room]);
        let fitting = (room / 37).min(3);
        let expected = match fitting {
            0 => Err(OutputTooSmall { needed: 37, given: 36 }.into()),
            count => Ok(count * 37),
        };
        assert_eq!(sealed, expected);
        assert_eq!(ready.iter().filter(|message| message.is_done()).count(), fitting);
        assert_eq!(both.server.in_flight(), 3 - fitting);
    }
    // Requests too.
    let mut both = ends();
    let (mut one, mut two) = (both.client.request(1).unwrap(), both.client.request(2).unwrap());
    let mut out = [0; 100];
    let messages = [(&mut one, b"1".as_slice()), (&mut two, b"22".as_slice())];
    assert_eq!(both.client.seal(NOW, messages, &mut out), Ok(38 + 39));
    assert_eq!(
        (both.receive_request(&out[..38]).1, both.receive_request(&out[38..77]).1),
        (b"1".to_vec(), b"22".to_vec())
    );
}

#[test]
fn a_request_is_answered_once() {
    let (mut both, ids) = asked(2);
    let mut twice = both.server.answer(ids[0], 1).unwrap();
    both.answer(ids[0], b"!");
    let not_waiting = ReplyError::NotWaiting(ids[0]);
    assert_eq!(both.server.answer(ids[0], 1).unwrap_err(), not_waiting);
    assert_eq!(both.server.refuse(ids[0], Refusal::Failed), Err(not_waiting));
    assert_eq!(
        both.server.seal(NOW, [(&mut twice, b"!".as_slice())], &mut [0; 99]),
        Err(SealError::NotWaiting(ids[0]))
    );
    assert_eq!(
        (both.server.status(), both.server.in_flight()),
        (Status::Established, 1)
    );
    // An answer that was sent is skipped, whatever its body.
    let mut last = both.server.answer(ids[1], 1).unwrap();
    assert_eq!(
        both.server.seal(NOW, [(&mut last, b"!".as_slice())], &mut [0; 99]),
        Ok(37)
    );
    assert_eq!(
        both.server.seal(NOW, [(&mut last, b"!?".as_slice())], &mut [0; 99]),
        Ok(0)
    );
}

#[test]
fn the_accept_goes_before_the_first_answer() {
    let both = ends();
    let mut server = server(&handle(), &Settings::new(), 2);
    assert!(server.recv_bytes(NOW, &mut both.hello.clone()).is_ok());
    assert_eq!(server.status(), Status::Established);
    let mut both = Ends { server, ..both };
    let request = both.request(b"?");
    let (id, _) = both.receive_request(&request);
    let mut answer = both.server.answer(id, 1).unwrap();
    assert_eq!(both.server.seal_size(1), 38);
    let small = OutputTooSmall { needed: 1, given: 0 };
    assert_eq!(
        both.server.seal(NOW, [(&mut answer, b"!".as_slice())], &mut []),
        Err(small.into())
    );
    let mut out = [0; 38];
    assert_eq!(
        both.server.seal(NOW, [(&mut answer, b"!".as_slice())], &mut out),
        Ok(38)
    );
    assert_eq!(out[0], 0xFF);
    assert_eq!(both.receive_answer(&out[1..]).1, b"!");
}

#[test]
fn a_client_has_no_more_requests_in_flight_than_its_settings_allow() {
    for allowed in [1_u16, 2, 5] {
        let mut both = in_flight(allowed);
        let requests: Vec<_> = (0..allowed).map(|_| both.request(b"?")).collect();
        assert_eq!(both.client.in_flight(), requests.len());
        let (mut over, mut out) = (both.client.request(1).unwrap(), [0; 100]);
        assert_eq!(both.client.seal(NOW, [(&mut over, b"?".as_slice())], &mut out), Ok(0));
        both.client.ping().unwrap();
        assert_eq!(pending_output(&mut both.client, NOW), [2], "a ping may go");
        let ids: Vec<_> = requests.iter().map(|request| both.receive_request(request).0).collect();
        let answer = both.answer(ids[0], b"!");
        both.receive_answer(&answer);
        assert_eq!(both.client.seal(NOW, [(&mut over, b"?".as_slice())], &mut out), Ok(38));
    }
}

#[test]
fn a_server_at_its_in_flight_limit_reads_pings_and_no_requests() {
    for allowed in [1_u16, 2, 5] {
        let mut both = in_flight(allowed);
        // The client ignores the limit.
        let other = ends_with(&handle(), &handle(), &Settings::new(), 1);
        both.client = other.client;
        let ids: Vec<_> = (0..allowed).map(|_| both.request(b"?")).map(|_| ()).collect();
        let requests: Vec<_> = ids.iter().map(|()| both.request(b"?")).collect();
        let ids: Vec<_> = requests.iter().map(|request| both.receive_request(request).0).collect();
        let mut over = both.request(b"over");
        assert_eq!(
            both.server.recv_bytes(NOW, &mut over),
            Ok((0, Received::Wait(ServerWait::AnswerFirst)))
        );
        assert_eq!(
            both.server.recv_bytes(NOW, &mut over),
            Ok((0, Received::Wait(ServerWait::AnswerFirst))),
            "it stays where it is"
        );
        assert_eq!(
            both.server.recv_bytes(NOW, &mut over[..9]),
            Ok((0, Received::Wait(ServerWait::AnswerFirst))),
            "its head is enough"
        );
        let event = (1, Received::Event(ServerEvent::Ping));
        assert_eq!(both.server.recv_bytes(NOW, &mut [2]), Ok(event));
        assert_eq!(both.server.in_flight(), ids.len());
        both.answer(ids[0], b"!");
        assert_eq!(both.receive_request(&over).1, b"over");
    }
}
