//! What is printed of a step shows no byte of a body.

#[path = "../common/shows.rs"]
mod shows;

use falco_core::Refusal;
use falco_core::mux::{Body, Call, ClientStep, ServerStep};

use super::duo::opened;
use shows::{printed, shows};

type Step<'u> = ClientStep<'u, Vec<u8>, u64>;

#[test]
fn no_step_shows_a_byte_of_a_body() {
    let body: Vec<u8> = (131..=180).collect();
    let id = opened().id(1);
    let ticket = 7;
    let client: [Step<'_>; 5] = [
        ClientStep::Answer {
            waiter: 1,
            body: Body::Lent(&body),
        },
        ClientStep::Answer {
            waiter: 1,
            body: Body::Whole(body.clone()),
        },
        ClientStep::Refused {
            call: Call::new(ticket, body.clone(), 1),
            refusal: Refusal::Busy,
            retry: true,
        },
        ClientStep::Opened { ticket, body: &body },
        ClientStep::Part { ticket, body: &body },
    ];
    let server = [
        ServerStep::Request {
            id,
            body: Body::Lent(&body),
        },
        ServerStep::Opened {
            id,
            body: Body::Whole(body.clone()),
        },
        ServerStep::Part { id, body: &body },
    ];
    let steps = client.iter().map(|step| printed(step));
    for text in steps.chain(server.iter().map(|step| printed(step))) {
        assert!(!shows(&text, &body), "{text}");
        assert!(text.contains('{'), "fields are shown: {text}");
    }
    assert!(shows(&printed(&body), &body), "it would be found");
}
