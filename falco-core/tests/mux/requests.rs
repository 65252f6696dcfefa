//! What the client reports of each request, checked at once.

use std::collections::{BTreeMap, BTreeSet};

use falco_core::Fate;
use falco_core::mux::{Call, Unfinished};

/// The number of a request: the first byte of its body, if it has one. No run has more than fit.
pub(crate) type Ticket = u8;

/// What waits for the answer of a request. It cannot be copied, so it is given back at most once.
pub(crate) struct Waiter(pub(crate) Ticket);

/// What is known of each request.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) asked: BTreeMap<Ticket, Vec<u8>>,
    /// Requests whose waiter was given back.
    pub(crate) ended: BTreeSet<Ticket>,
    /// Requests that the client reports as not processed.
    unprocessed: BTreeSet<Ticket>,
    handed_out: BTreeSet<Ticket>,
    pub(crate) answers: BTreeMap<Ticket, Vec<u8>>,
}

impl Requests {
    pub(crate) fn ends(&mut self, Waiter(ticket): Waiter, fate: Fate) {
        assert!(self.asked.contains_key(&ticket), "{ticket} was asked");
        assert!(self.ended.insert(ticket), "{ticket} is given back once");
        if fate == Fate::NotProcessed {
            assert!(!self.handed_out.contains(&ticket), "{ticket} was handed out before");
            self.unprocessed.insert(ticket);
        }
    }

    pub(crate) fn answered(&mut self, waiter: Waiter, body: &[u8]) {
        let ticket = waiter.0;
        assert!(self.handed_out.contains(&ticket), "{ticket} was handed out");
        let answer = self.answers.get(&ticket);
        assert!(answer.is_some_and(|answer| answer == body), "{ticket} has its answer");
        self.ends(waiter, Fate::MaybeProcessed);
    }

    /// Requests that a connection leaves behind when it ends.
    pub(crate) fn unfinished(&mut self, unfinished: Vec<Unfinished<Call<Vec<u8>, Waiter>>>) {
        assert!(unfinished.is_sorted_by_key(|left| left.call.ticket));
        for Unfinished { call, fate, .. } in unfinished {
            self.returned(call, fate);
        }
    }

    /// Requests of which nothing was sent.
    pub(crate) fn unbegun(&mut self, unbegun: Vec<Call<Vec<u8>, Waiter>>) {
        assert!(unbegun.is_sorted_by_key(|call| call.ticket));
        for call in unbegun {
            self.returned(call, Fate::NotProcessed);
        }
    }

    /// A request that comes back whole.
    pub(crate) fn returned(&mut self, call: Call<Vec<u8>, Waiter>, fate: Fate) {
        assert_eq!(call.ticket, u64::from(call.waiter.0));
        assert!(self.asked.get(&call.waiter.0) == Some(&call.body), "it is its own body");
        self.ends(call.waiter, fate);
    }

    pub(crate) fn handed_out(&mut self, body: &[u8]) -> Ticket {
        let empty = || {
            let empty = self.asked.iter().find(|(_, body)| body.is_empty());
            *empty.expect("one is empty").0
        };
        let ticket = body.first().copied().unwrap_or_else(empty);
        assert!(self.asked.get(&ticket).is_some_and(|asked| asked == body), "{ticket}");
        assert!(self.handed_out.insert(ticket), "{ticket} is handed out once");
        assert!(!self.unprocessed.contains(&ticket), "{ticket} was not to be processed");
        ticket
    }
}
