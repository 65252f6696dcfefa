//! When requests that wait for the client are passed to the workers.

use core::sync::atomic::AtomicUsize;

use falco_core::keys::Secrets;
use falco_core::mux::{Body, ServerStep};
use falco_core::testing::{CountingRng, NoiseTestClient, key, noise_client};
use falco_core::{ClientConnection, Unread};

use super::*;
use crate::shared::Output;

const NOW: Instant = Instant::ZERO;
const SIZE: usize = 6_000;

/// A connection whose bound on queued answers is less than two answers, and its client.
struct Scene {
    state: State,
    client: ClientConnection<Arc<NoiseTestClient>>,
    submitted: Arc<AtomicUsize>,
}

impl Scene {
    fn new() -> Self {
        let secrets = Secrets {
            noise: vec![key(7)],
            ..Secrets::default()
        };
        let keys = Arc::new(secrets.into_server(&mut CountingRng::new(1)).expect("one key"));
        let settings = Settings::new().with_max_message(10_000).with_max_held(10_000);
        let machine = ServerConnection::new(keys, &settings, NOW, &mut CountingRng::new(2));
        let client = ClientConnection::new(Arc::new(noise_client(7)), &settings, NOW, &mut CountingRng::new(3));
        let budget = SharedBudget::new(1 << 20);
        let options = (Duration::from_secs(5), None);
        let mut state = State::new(machine.expect("entropy"), budget, &settings, options);
        let submitted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&submitted);
        state.set_submit(Arc::new(move || _ = counter.fetch_add(1, Ordering::Relaxed)));
        let mut scene = Self {
            state,
            client: client.expect("entropy"),
            submitted,
        };
        for _ in 0..2 {
            let mut out = [0; 100];
            let count = scene.client.poll_transmit(NOW, &mut out).expect("there is room");
            assert_eq!(scene.receive(&mut out[..count]), 0);
            let mut out = Vec::new();
            let count = scene.state.seal(NOW, &mut out);
            assert!(scene.client.recv(NOW, Unread::new(&mut out[..count], &mut 0)).is_ok());
        }
        assert!(scene.state.drained(NOW).is_none(), "it goes on");
        scene
    }

    /// The server reads `bytes`. Returns how many requests are in the queue for workers.
    fn receive(&mut self, bytes: &mut [u8]) -> usize {
        let (mut requests, mut start) = (0, 0);
        loop {
            let unread = Unread::new(bytes, &mut start);
            match self.state.mux.recv(NOW, unread).expect("it goes on") {
                ServerStep::Request { id, body } => {
                    let _ = self.state.push(NOW, id, Body::into_vec(body));
                    requests += 1;
                }
                ServerStep::Skip | ServerStep::Hello { .. } | ServerStep::Established => {}
                ServerStep::NeedMore { .. }
                | ServerStep::TransmitFirst
                | ServerStep::AnswerFirst
                | ServerStep::Cancelled { .. }
                | ServerStep::Closing { .. }
                | _ => return requests,
            }
        }
    }

    /// The client sends a request. Returns whether it is in the queue for workers.
    fn ask(&mut self) -> bool {
        let mut out = [0; 100];
        let mut request = self.client.request(1).expect("it is established");
        let sealed = self.client.seal(NOW, [(&mut request, &b"?"[..])], &mut out);
        self.receive(&mut out[..sealed.expect("there is room")]) == 1
    }

    /// A worker takes a request and answers it. Returns whether there was one.
    fn work(&mut self) -> bool {
        let (job, _) = self.state.pop();
        let Some(job) = job else { return false };
        let answered = self.state.answer(job.id, Ok(vec![7; SIZE]));
        assert!(matches!(answered, Ok(true)));
        self.state.job_done();
        true
    }

    /// Seals once. Returns how often the connection was submitted to the pool.
    fn seal(&mut self) -> usize {
        assert!(self.state.seal(NOW, &mut Vec::new()) > SIZE);
        if let Some(submit) = self.state.after_seal() {
            submit();
        }
        self.submitted.swap(0, Ordering::Relaxed)
    }
}

#[test]
fn a_deferred_request_gets_to_the_workers_from_the_thread_that_writes() {
    let mut scene = Scene::new();
    assert!(scene.ask() && scene.ask());
    assert!(scene.work() && scene.work());
    assert!(!scene.ask() && !scene.ask(), "they are deferred");
    assert!(!scene.work());
    assert_eq!(scene.seal(), 1);
    assert!(scene.work() && scene.work());
}

#[test]
fn a_request_that_was_in_the_queue_gets_to_the_workers_again() {
    let mut scene = Scene::new();
    assert!(scene.ask() && scene.ask() && scene.ask());
    assert!(scene.work() && scene.work());
    assert_eq!(scene.state.overdue_at(), None, "it waits for the client");
    assert!(!scene.work());
    assert_eq!(scene.seal(), 1);
    assert!(scene.state.overdue_at().is_some());
    assert!(scene.work());
    // Nothing waits any more.
    assert_eq!(scene.seal(), 0);
}

#[test]
fn a_write_of_a_process_that_was_stopped_has_another_lifetime() {
    let mut state = Scene::new().state;
    let (since, lifetime) = (Instant::from_millis(100), Duration::from_secs(60));
    assert!(!state.blocked(since, since + Duration::from_secs(59)));
    let late = since + lifetime + Duration::from_secs(1);
    assert!(!state.blocked(since, late));
    assert!(!state.blocked(since, late + Duration::from_secs(59)));
    assert!(state.blocked(since, late + lifetime));
}

#[test]
fn the_last_write_of_a_stream_that_does_not_split_has_no_longer_than_its_end() {
    let mut state = Scene::new().state;
    let lifetime = NOW + Duration::from_secs(60);
    assert_eq!(state.writes_until(NOW), lifetime);
    state.mux.close(NOW, CloseReason::Done);
    assert!(state.seal(NOW, &mut Vec::new()) > 0, "the CLOSE");
    assert_eq!(state.writes_until(NOW), NOW + Settings::LINGER);
}
