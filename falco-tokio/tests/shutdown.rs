//! A shutdown and a change of keys under load: no request that was accepted is lost, and no other
//! fails but as not processed.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use common::{Running, key};
use falco_tokio::{Client, ClientBuilder, Error, Fate, Handler, Request, Server};
use tokio::task::JoinSet;

const CLIENTS: usize = 6;
const TASKS: usize = 12;
/// How long requests are made before something happens, and after it.
const WHILE: Duration = Duration::from_millis(300);

/// Requests by their numbers.
type Numbers = Arc<Mutex<HashSet<u64>>>;

/// Answers after a while, and notes what it has answered.
fn noting(done: &Numbers) -> impl Handler + use<> {
    let done = Arc::clone(done);
    move |request: Request| {
        let done = Arc::clone(&done);
        async move {
            let number: u64 = str::from_utf8(request.body())?.parse()?;
            if !number.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_millis(number % 10)).await;
            }
            // The last thing it does.
            assert!(done.lock().unwrap().insert(number), "{number} is processed twice");
            Ok(request.into_body())
        }
    }
}

/// Clients, each with many tasks that send one request after another.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: JoinSet<Vec<(u64, Result<(), Error>)>>,
}

impl Load {
    fn start(clients: &[Client]) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (answered, mut tasks) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        for client in clients.iter().flat_map(|client| core::iter::repeat_n(client, TASKS)) {
            let (client, stop, next) = (client.clone(), Arc::clone(&stop), Arc::clone(&next));
            let answered = Arc::clone(&answered);
            tasks.spawn(async move {
                let mut ends = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let end = client.request(number.to_string()).await;
                    let failed = end.is_err();
                    answered.fetch_add(u64::from(!failed), Ordering::Relaxed);
                    ends.push((number, end.map(|answer| assert_eq!(answer, number.to_string()))));
                    // There is no server any more.
                    if failed {
                        break;
                    }
                }
                ends
            });
        }
        Self { stop, answered, tasks }
    }

    /// Stops, and returns the outcome of each request.
    async fn ends(self) -> Vec<(u64, Result<(), Error>)> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = tokio::time::timeout(Duration::from_secs(20), self.tasks.join_all());
        ended
            .await
            .expect("each request is to end")
            .into_iter()
            .flatten()
            .collect()
    }
}

async fn clients(running: &Running, builder: impl Fn() -> ClientBuilder) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(builder().connect(running.address).await.unwrap());
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_loses_no_request_that_was_accepted() {
    for round in 0..5 {
        let done = Numbers::default();
        let server = Running::start(Server::builder(key(1)), noting(&done)).await;
        let clients = clients(&server, || Client::builder(key(1)).fail_fast(true)).await;
        let load = Load::start(&clients);
        tokio::time::sleep(WHILE).await;
        server.handle.shutdown();
        let report = tokio::time::timeout(Duration::from_secs(10), server.task)
            .await
            .unwrap()
            .unwrap();
        let ends = load.ends().await;
        let done = done.lock().unwrap();
        let mut answered = HashSet::new();
        for (number, end) in &ends {
            match end {
                Ok(()) => assert!(answered.insert(*number) && done.contains(number)),
                Err(error) => {
                    assert_eq!(error.fate(), Fate::NotProcessed, "{number}: {error}");
                    assert!(!done.contains(number), "{number} was processed: {error}");
                }
            }
        }
        let lost: Vec<_> = done.difference(&answered).collect();
        assert!(lost.is_empty(), "{lost:?} of {}: {report:?}", done.len());
        assert_eq!((report.cut_connections, report.cut_requests), (0, 0));
        assert_eq!(report.stats.answers, u64::try_from(answered.len()).unwrap());
        println!(
            "round {round}: {} answered, {} not processed",
            answered.len(),
            ends.len() - answered.len()
        );
        assert!(answered.len() > CLIENTS * TASKS && answered.len() < ends.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_on_with_the_next_server_on_the_same_port() {
    // Both servers write into the same set, so that a request that both process is noticed.
    let done = Numbers::default();
    let mut server = Running::start(Server::builder(key(1)), noting(&done)).await;
    let backoff = Duration::from_millis(20);
    let clients = clients(&server, || Client::builder(key(1)).backoff(backoff, backoff)).await;
    let load = Load::start(&clients);
    for _ in 0..4 {
        tokio::time::sleep(WHILE).await;
        let before = load.answered.load(Ordering::Relaxed);
        server.handle.shutdown();
        // The next server starts as soon as the port is free, while the previous one still drains.
        let next = loop {
            match Server::builder(key(1)).bind(server.address).await {
                Ok(next) => break next,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let (handle, handler) = (next.handle(), noting(&done));
        let task = tokio::spawn(async move { next.serve(handler).await.unwrap() });
        let last = core::mem::replace(&mut server.task, task);
        server.handle = handle;
        assert_eq!(last.await.unwrap().cut_requests, 0);
        tokio::time::sleep(WHILE).await;
        assert!(load.answered.load(Ordering::Relaxed) > before + 100, "they go on");
    }
    let ends = load.ends().await;
    for (number, end) in &ends {
        assert!(end.is_ok(), "{number}: {end:?}");
    }
    assert_eq!(done.lock().unwrap().len(), ends.len());
    println!("{} requests through four changes of servers", ends.len());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_keys_under_load_fails_no_request() {
    let done = Numbers::default();
    let server = Running::start(Server::builder(key(1)), noting(&done)).await;
    let clients = clients(&server, || Client::builder(key(1))).await;
    let load = Load::start(&clients);
    for new in 2..6 {
        tokio::time::sleep(WHILE).await;
        let added = server.handle.add_key(key(new)).unwrap();
        assert_eq!(added, key(new).id());
        for client in &clients {
            client.set_key(key(new)).await.unwrap();
        }
        let before = load.answered.load(Ordering::Relaxed);
        assert!(server.handle.retire_key(key(new - 1).id()));
        let late = Client::builder(key(new - 1)).connect(server.address).await;
        assert!(late.unwrap_err().is_refused());
        tokio::time::sleep(WHILE).await;
        assert!(load.answered.load(Ordering::Relaxed) > before + 100, "they go on");
    }
    let ends = load.ends().await;
    for (number, end) in &ends {
        assert!(end.is_ok(), "{number}: {end:?}");
    }
    assert_eq!(done.lock().unwrap().len(), ends.len());
    println!("{} requests through four changes of keys", ends.len());
    let report = server.stop().await;
    assert_eq!(
        (report.cut_requests, report.stats.answers),
        (0, u64::try_from(ends.len()).unwrap())
    );
}

#[tokio::test]
async fn a_guest_whose_future_is_dropped_while_the_server_runs_was_not_cut_off() {
    let server = Server::builder(key(1)).unbound().unwrap();
    let handle = server.handle();
    let (near, far) = tokio::io::duplex(4096);
    let never = |_: Request| async move { Ok(core::future::pending::<Vec<u8>>().await) };
    let serving = server.serve_connection(far, never);
    let asking = async {
        let client = Client::builder(key(1)).over(near).await.unwrap();
        client.request("never").await
    };
    let begun = async {
        while handle.stats().requests == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        end = serving => panic!("{end:?}"),
        answer = asking => panic!("{answer:?}"),
        () = begun => {}
    }
    handle.shutdown();
    let report = server.serve(never).await.unwrap();
    assert_eq!((report.cut_connections, report.cut_requests), (0, 0));
    assert_eq!((report.stats.requests, report.stats.cancelled), (1, 1));
}
