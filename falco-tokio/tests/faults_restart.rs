//! A server that is killed and restarted while a client sends requests: the client recovers by
//! itself, no request is processed twice, and each lost request is reported.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use common::child::{self, Child, next_order, say};
use common::{key, scene};
use falco_tokio::{Client, Fate, Request, Server};

const TASKS: usize = 16;
const KILLS: usize = 4;

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    if let Some((_, arguments)) = child::role() {
        server(&arguments);
    }
}

/// Notes each request before it is answered, where a kill does not reach it.
fn server(arguments: &str) {
    let (address, path) = arguments.split_once(' ').unwrap();
    let noted = Arc::new(OpenOptions::new().append(true).open(path).unwrap());
    let handler = move |request: Request| {
        let noted = Arc::clone(&noted);
        async move {
            let line = format!("{}\n", str::from_utf8(request.body())?);
            (&*noted).write_all(line.as_bytes())?;
            // Some are answered at once; the handlers of others run when the server is killed.
            if request.body().last().is_some_and(|last| last % 2 == 0) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(request.into_body())
        }
    };
    let runtime = scene::runtime();
    let server = runtime.block_on(Server::builder(key(1)).bind(address)).unwrap();
    say(server.local_addr().unwrap());
    std::thread::spawn(|| while next_order().is_some() {});
    runtime.block_on(server.serve(handler)).unwrap();
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Failed(Fate),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_when_its_server_was_killed() {
    let path: PathBuf = std::env::temp_dir().join(format!("falco-restart-{}", std::process::id()));
    File::create(&path).unwrap();
    let spawn = |address: &str| Child::spawn("server", &format!("{address} {}", path.display()));
    let mut server = spawn("127.0.0.1:0");
    let address = server.line();
    let backoff = (Duration::from_millis(10), Duration::from_millis(100));
    let client = Client::builder(key(1))
        .backoff(backoff.0, backoff.1)
        .connect(&address)
        .await
        .unwrap();

    let (stop, numbers, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::default(),
        Arc::new(AtomicU64::new(0)),
    );
    let ends: Arc<Mutex<HashMap<u64, End>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (client, stop, numbers) = (client.clone(), Arc::clone(&stop), Arc::<AtomicU64>::clone(&numbers));
        let (ends, answered) = (Arc::clone(&ends), Arc::clone(&answered));
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let end = match client.request(number.to_string()).await {
                    Ok(answer) => {
                        assert_eq!(answer, number.to_string());
                        answered.fetch_add(1, Ordering::Relaxed);
                        End::Answered
                    }
                    Err(error) => End::Failed(error.fate()),
                };
                ends.lock().unwrap().insert(number, end);
            }
        });
    }
    for kill in 0..KILLS {
        more_are_answered(&answered).await;
        server.kill();
        // For a while there is no server, and then a new one.
        tokio::time::sleep(Duration::from_millis([0, 20, 100, 300].get(kill).copied().unwrap())).await;
        server = spawn(&address);
        assert_eq!(server.line(), address);
    }
    more_are_answered(&answered).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let stats = client.stats();
    assert!(stats.connected > u64::try_from(KILLS).unwrap(), "{stats:?}");
    assert_eq!((stats.outstanding, stats.requests), (0, stats.answers + stats.errors));

    let mut processed = HashMap::<u64, usize>::new();
    for line in std::fs::read_to_string(&path).unwrap().lines() {
        *processed.entry(line.parse().unwrap()).or_default() += 1;
    }
    std::fs::remove_file(&path).unwrap();
    let ends = ends.lock().unwrap();
    assert_eq!(
        u64::try_from(ends.len()).unwrap(),
        numbers.load(Ordering::Relaxed),
        "each had an end"
    );
    let mut unknown = 0;
    for (number, end) in &*ends {
        let times = processed.get(number).copied().unwrap_or(0);
        match end {
            End::Answered => assert_eq!(times, 1, "{number} was answered"),
            End::Failed(Fate::NotProcessed) => assert_eq!(times, 0, "{number} was not to be processed"),
            End::Failed(_) => {
                unknown += 1;
                assert!(times <= 1, "{number} was processed {times} times");
            }
        }
    }
    println!(
        "{} requests through {KILLS} kills: {unknown} of unknown fate; {stats:?}",
        ends.len()
    );
    // Only requests in flight can have been lost.
    assert!(unknown <= TASKS * KILLS, "{unknown}");
}

/// Waits until the client is served again.
async fn more_are_answered(answered: &AtomicU64) {
    let (before, limit) = (
        answered.load(Ordering::Relaxed),
        Instant::now() + Duration::from_secs(20),
    );
    while answered.load(Ordering::Relaxed) < before + 200 {
        assert!(Instant::now() < limit, "the client does not recover");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
