//! The outcome of a request when its handler ends.

use core::fmt;

use falco_core::testing::raw_frame;
use falco_core::{NoAnswer, Refusal, RequestError, Settings};

use crate::served::{MESSAGE, REFUSE, Served, keys};

/// The server may send so much.
const LIMIT: u32 = 1_000;

fn settings() -> Settings {
    Settings::new().with_max_message(LIMIT)
}

#[test]
fn each_end_of_a_handler_completes_its_request() {
    let (keys, settings) = (keys(), settings());
    let mut served = Served::new(&keys, &settings, ());
    let too_large = RequestError::TooLarge {
        length: 1_001,
        limit: LIMIT.into(),
    };
    let failed = NoAnswer::Failed(&fmt::Error);
    let busy = NoAnswer::Failed(&Refusal::Busy);
    let cancelled = NoAnswer::Failed(&Refusal::Cancelled);
    let refused = |refusal| (Err(RequestError::Refused(refusal)), REFUSE);
    let rows = [
        // An answer is sent although the request was cancelled.
        (Ok(vec![7; 1_000]), false, (Ok(true), MESSAGE)),
        (Ok(vec![7; 1_000]), true, (Ok(true), MESSAGE)),
        (Ok(vec![7; 1_001]), false, (Err(too_large), REFUSE)),
        (Ok(vec![7; 1_001]), true, (Err(too_large), REFUSE)),
        (Err(failed), false, refused(Refusal::Failed)),
        (Err(failed), true, (Ok(false), REFUSE)),
        (Err(busy), false, refused(Refusal::Busy)),
        (Err(busy), true, (Ok(false), REFUSE)),
        // Its own choice, and no cancellation.
        (Err(cancelled), false, refused(Refusal::Cancelled)),
        (Err(NoAnswer::Panicked), false, refused(Refusal::Failed)),
        (Err(NoAnswer::Panicked), true, refused(Refusal::Failed)),
        (Err(NoAnswer::Dropped), false, refused(Refusal::Failed)),
        (Err(NoAnswer::Dropped), true, (Ok(false), REFUSE)),
    ];
    for (number, (result, was_cancelled, (handled, kind))) in (1..).zip(rows) {
        assert_eq!(served.receive(&raw_frame(MESSAGE, number, b"?")), [number]);
        let said = served.mux.complete(served.ids[&number], result.clone(), was_cancelled);
        assert_eq!(said, handled, "{result:?} {was_cancelled}");
        let sealed = served.sealed(2_000);
        assert!(
            matches!(sealed[..], [(own, id, _)] if (own, id) == (kind, number)),
            "{sealed:?}"
        );
        // A second end of the same request changes nothing.
        for result in [Ok(vec![7]), Err(NoAnswer::Panicked)] {
            assert_eq!(served.mux.complete(served.ids[&number], result, false), Ok(false));
        }
        assert_eq!((served.sealed(2_000), served.mux.unanswered()), (vec![], 0));
    }
}

#[test]
fn after_the_end_of_the_connection_no_answer_counts_as_sent() {
    let (keys, settings) = (keys(), settings());
    for result in [Ok(vec![7]), Err(NoAnswer::Dropped)] {
        let mut served = Served::new(&keys, &settings, ());
        assert_eq!(served.receive(&raw_frame(MESSAGE, 1, b"?")), [1]);
        assert!(served.mux.end_of_stream(served.now, &[]).is_err());
        let said = served.mux.complete(served.ids[&1], result, true);
        assert_eq!((said, served.mux.unanswered()), (Ok(false), 0));
    }
}
