//! What becomes of a request that gets no answer.

use core::fmt;

use falco_core::{ConnectionError, Misuse, NoAnswer, Refusal, ReplyError, RequestError};

#[test]
fn each_request_without_an_answer_has_one_refusal() {
    use Refusal as R;
    let rows: [(NoAnswer<'_>, R, R); 12] = [
        // Why, its refusal, and its refusal if the request was cancelled.
        (NoAnswer::Busy, R::Busy, R::Busy),
        (NoAnswer::TooLarge, R::TooLarge, R::TooLarge),
        (NoAnswer::OpenBody, R::TooLarge, R::TooLarge),
        (NoAnswer::Cancelled, R::Cancelled, R::Cancelled),
        (NoAnswer::Failed(&fmt::Error), R::Failed, R::Cancelled),
        (NoAnswer::Failed(&R::Busy), R::Busy, R::Cancelled),
        (NoAnswer::Refused(R::NotProcessed), R::NotProcessed, R::Cancelled),
        (NoAnswer::Refused(R::Failed), R::Failed, R::Cancelled),
        (NoAnswer::Refused(R::Cancelled), R::Cancelled, R::Cancelled),
        (NoAnswer::Panicked, R::Failed, R::Failed),
        (NoAnswer::Dropped, R::Failed, R::Cancelled),
        (NoAnswer::NoRoom, R::AnswerTooLarge, R::AnswerTooLarge),
    ];
    for (why, refusal, of_cancelled) in rows {
        assert_eq!(why.refusal(false), refusal, "{why:?}");
        assert_eq!(why.refusal(true), of_cancelled, "{why:?}, cancelled");
    }
}

#[test]
fn only_an_answer_that_is_too_large_is_refused_in_its_place() {
    let too_large = RequestError::TooLarge { length: 9, limit: 8 };
    let failure = NoAnswer::after(ReplyError::Request(too_large));
    assert!(matches!(failure, Some(NoAnswer::NoRoom)), "{failure:?}");
    let others = [
        ReplyError::TransmitFirst,
        ReplyError::Connection(ConnectionError::Expired),
        ReplyError::Misuse(Misuse::Foreign),
    ];
    for error in others {
        assert!(NoAnswer::after(error).is_none(), "{error:?}");
        assert_eq!(error.waits_for_output(), error == ReplyError::TransmitFirst);
    }
}
