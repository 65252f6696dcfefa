//! Error messages are all different, contain their numbers, and have one line.

use core::error::Error as _;
use core::time::Duration;

use crate::common::{asked, ms};
use falco_core::crypto::AeadError;
use falco_core::{
    ConnectionError, Error, Key, KeyError, Misuse, OutputTooSmall, Partial, Reassembly, RecvBuf, Refusal, ReplyError,
    RequestError, SealError, Settings,
};

#[test]
fn each_end_of_a_connection_has_its_own_message_with_its_numbers() {
    use ConnectionError as E;
    let ends: [(E, &[&str]); 18] = [
        (E::UnknownWire { first: 0x16 }, &["0x16"]),
        (E::Unauthenticated, &["hello"]),
        (E::Refused, &["refused"]),
        (E::HandshakeTimeout, &["deadline"]),
        (E::Expired, &["lifetime"]),
        (E::Tampered, &["decrypt"]),
        (E::Replayed, &["replayed"]),
        (
            E::FrameLength {
                length: 12,
                min: 28,
                max: 1_028,
            },
            &["12", "28 to 1028"],
        ),
        (E::UnknownType { found: 0x07 }, &["0x07"]),
        (E::UnexpectedAnswer, &["answer"]),
        (E::AnswersOutOfStep, &["answers"]),
        (E::Stalled, &["no progress"]),
        (E::HandlerFailed, &["handler"]),
        (E::KeyExhausted, &["key"]),
        (E::RequestIdsExhausted, &["request ids"]),
        (E::Truncated, &["cut off"]),
        (E::ClosedByPeer, &["peer"]),
        (E::Closed, &["closed"]),
    ];
    let mut texts: Vec<_> = ends.iter().map(|(end, _)| end.to_string()).collect();
    for ((end, parts), text) in ends.iter().zip(&texts) {
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        assert!(!text.contains('\n'));
        assert_eq!(Error::from(*end).to_string(), *text);
        assert!(end.source().is_none());
    }
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), ends.len());
}

#[test]
fn misuse_and_refusals_show_their_numbers() {
    let (mut both, ids) = asked(2);
    both.answer(ids[0], b"");
    let not_waiting = both.server.answer(ids[0], 0).unwrap_err().to_string();
    assert!(not_waiting.contains("request 1 "), "{not_waiting}");
    assert_eq!(SealError::NotWaiting(ids[0]).to_string(), not_waiting);
    assert!(ReplyError::TransmitFirst.to_string().contains("poll_transmit"));
    let small = OutputTooSmall { needed: 157, given: 31 };
    let text = SealError::from(small).to_string();
    assert!(text.contains("157") && text.contains("31"), "{text}");
    assert_eq!(small.to_string(), text);
    let too_large = RequestError::TooLarge {
        length: 70_001,
        limit: 70_000,
    };
    let cases: [(Error, &[&str]); 5] = [
        (
            Misuse::BodyLength {
                announced: 5,
                given: 66,
            }
            .into(),
            &["5", "66"],
        ),
        (Misuse::Foreign.into(), &["another connection"]),
        (Error::Closing, &["closing"]),
        (too_large.into(), &["70001", "70000"]),
        (
            RequestError::Refused(Refusal::Failed).into(),
            &["refused", "handler failed"],
        ),
    ];
    for (error, parts) in cases {
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    assert!(both.server.handle_timeout(ms(0)).is_ok(), "the connection lives");
}

#[test]
fn errors_before_a_connection_say_why() {
    let settings = Settings::new;
    let long = settings()
        .with_lifetime(Duration::from_millis(999))
        .unwrap_err()
        .to_string();
    assert!(long.contains("999 ms") && long.contains("1000"), "{long}");
    assert!(
        settings()
            .with_max_in_flight(0)
            .unwrap_err()
            .to_string()
            .contains("in flight")
    );
    let short = settings()
        .with_handshake_timeout(Duration::ZERO)
        .unwrap_err()
        .to_string();
    assert!(short.contains("handshake") && short.contains("1 ms"), "{short}");
    assert!("abc".parse::<Key>().unwrap_err().to_string().contains("3 characters"));
    assert!(KeyError::AllZero.to_string().contains("zero"));
    assert!(KeyError::Entropy.to_string().contains("generator"));
    assert!(AeadError::default().to_string().contains("refused"));
}

#[test]
fn a_count_of_one_is_singular() {
    let one_of_two = |length, limit| RequestError::TooLarge { length, limit };
    let storage_full = RecvBuf::new([0; 0]).space(1).unwrap_err();
    let no_room = Reassembly::new([Partial::new([0; 0])])
        .begin(asked(1).1[0], 1, b"")
        .unwrap_err();
    let texts = [
        (
            one_of_two(2, 1).to_string(),
            "a message of 2 bytes is over the limit of 1 byte",
        ),
        (
            one_of_two(1, 0).to_string(),
            "a message of 1 byte is over the limit of 0 bytes",
        ),
        (
            Misuse::BodyLength { announced: 0, given: 1 }.to_string(),
            "the body has 1 byte, but its announced length is 0",
        ),
        (
            OutputTooSmall { needed: 1, given: 0 }.to_string(),
            "the output needs 1 byte and has 0",
        ),
        (
            ConnectionError::FrameLength {
                length: 1,
                min: 17,
                max: 64,
            }
            .to_string(),
            "a frame claims 1 byte; 17 to 64 are allowed",
        ),
        (
            "a".parse::<Key>().unwrap_err().to_string(),
            "a key is 64 hexadecimal digits; this text has 1 character",
        ),
        (storage_full.to_string(), "the storage has 0 bytes and needs 1 at once"),
        (no_room.to_string(), "the storage has 0 bytes and needs 1 at once"),
    ];
    for (text, expected) in texts {
        assert_eq!(text, expected);
    }
}
