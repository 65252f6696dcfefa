//! Many clients act at random, on both wires and under limits of all sizes: each request completes
//! once with its own outcome, and nothing hangs.
//!
//! Two seconds in all, or as many as `FALCO_STRESS_SECONDS` says; `FALCO_STRESS_SEED` repeats the
//! choices, though not the times.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use bytes::Bytes;
use common::{Running, key};
use falco_tokio::{
    Client, ClientBuilder, Error, HandlerError, OnCancel, Request, RequestError, Server, ServerBuilder, Settings,
};
use tokio::time::{Instant, sleep, timeout};

/// No single thing may take longer.
const HANGS: Duration = Duration::from_secs(30);

/// Numbers as random as the choices here need.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below<N: TryFrom<u64, Error: core::fmt::Debug>>(&mut self, bound: u32) -> N {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        N::try_from((self.0 >> 32) % u64::from(bound)).unwrap()
    }

    fn body(&mut self, longest: u32) -> Bytes {
        let longest = [0, 1, 50, 3_000, 70_000, 300_000][self.below::<usize>(6)].min(longest);
        let (length, first) = (self.below::<usize>(longest + 1), self.below::<u8>(256));
        (0..length)
            .map(|at| u8::try_from(at % 251).unwrap().wrapping_add(first))
            .collect::<Vec<_>>()
            .into()
    }
}

/// Handles a request as its first byte demands.
async fn handler(request: Request) -> Result<Bytes, HandlerError> {
    let choice = request.body().first().copied().unwrap_or(0);
    match choice % 16 {
        0..4 => sleep(Duration::from_micros(u64::from(choice) * 20)).await,
        4..7 => tokio::task::yield_now().await,
        7 => {
            let _ = timeout(Duration::from_millis(5), request.cancelled()).await;
        }
        _ => {}
    }
    Ok(request.into_body())
}

/// A kind of a server with clients of it.
#[derive(Clone, Copy, Debug)]
struct Kind {
    classic: bool,
    settings: Settings,
    connections: usize,
    outstanding: usize,
    on_cancel: OnCancel,
    spawn: bool,
}

impl Kind {
    fn server(self) -> ServerBuilder {
        let server = if self.classic {
            Server::classic(key(1))
        } else {
            Server::builder(key(1)).key(key(2))
        };
        server
            .settings(self.settings)
            .on_cancel(self.on_cancel)
            .spawn_handlers(self.spawn)
    }

    fn client(self) -> ClientBuilder {
        let client = if self.classic {
            Client::classic(key(1))
        } else {
            Client::builder(key(1))
        };
        client
            .settings(self.settings)
            .connections(self.connections)
            .max_outstanding(self.outstanding)
            .request_timeout(Some(HANGS / 2))
    }
}

/// One request, whose outcome is checked.
async fn ask(client: &Client, body: Bytes, dice: &mut Dice) {
    let sent = body.clone();
    match dice.below::<u32>(8) {
        // Dropped at some point, or done before.
        0..3 => {
            let mut asked = pin!(client.request(body));
            for _ in 0..dice.below::<u32>(6) {
                let polled = poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx))).await;
                if let Poll::Ready(answer) = polled {
                    assert_eq!(answer.unwrap(), sent);
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
        3 => match client
            .request_within(body, Duration::from_micros(3) * dice.below(1000))
            .await
        {
            Ok(answer) => assert_eq!(answer, sent),
            Err(error) => assert!(matches!(error, Error::TimedOut { .. }), "{error}"),
        },
        _ => assert_eq!(client.request(body).await.unwrap(), sent),
    }
}

async fn act(client: &Client, kind: Kind, dice: &mut Dice) {
    let longest = kind.settings.max_message();
    match dice.below::<u32>(40) {
        0 => drop(client.ping().await.unwrap()),
        1 => {
            // Each side knows the other's limit.
            let error = client
                .request(vec![0; usize::try_from(longest).unwrap() + 1])
                .await
                .unwrap_err();
            let too_large = matches!(error, Error::Request(RequestError::TooLarge { .. }));
            assert!(too_large, "{error}");
        }
        2 if !kind.classic => {
            let new = key(1 + dice.below::<u8>(2));
            client.set_key(new).await.unwrap();
        }
        _ => ask(client, dice.body(longest), dice).await,
    }
}

async fn one_of_many(client: Client, kind: Kind, mut dice: Dice, until: Instant) -> u64 {
    let mut acts = 0;
    while Instant::now() < until {
        let acted = timeout(HANGS, act(&client, kind, &mut dice)).await;
        assert!(acted.is_ok(), "it hangs: {kind:?}, {client:?}, {:?}", client.stats());
        acts += 1;
    }
    acts
}

async fn run(kind: Kind, mut dice: Dice, until: Instant) -> u64 {
    let server = Running::start(kind.server(), handler).await;
    let mut tasks = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let client = kind.client().connect(server.address).await.unwrap();
        for _ in 0..6 {
            let dice = Dice(dice.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 | dice.below::<u64>(1 << 20));
            tasks.push(tokio::spawn(one_of_many(client.clone(), kind, dice, until)));
        }
        clients.push(client);
    }
    let mut acts = 0;
    for task in tasks {
        acts += task.await.unwrap();
    }
    for client in &clients {
        assert_eq!(client.stats().outstanding, 0, "{kind:?}");
        assert!(client.request("").await.is_ok(), "{kind:?}");
        timeout(HANGS, client.close()).await.expect("it closes");
    }
    let report = timeout(HANGS, server.stop()).await.expect("it drains");
    assert_eq!(
        (report.cut_connections, report.cut_requests),
        (0, 0),
        "{kind:?}: {report:?}"
    );
    let stats = report.stats;
    assert_eq!(
        stats.requests,
        stats.answers + stats.refusals + stats.cancelled,
        "{kind:?}: {stats:?}"
    );
    acts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_many_clients_do_each_request_has_its_own_end() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seconds = number("FALCO_STRESS_SECONDS").unwrap_or(2);
    let seed = number("FALCO_STRESS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("FALCO_STRESS_SEED={seed}");
    let base = Kind {
        classic: false,
        settings: Settings::new(),
        connections: 1,
        outstanding: 1024,
        on_cancel: OnCancel::Drop,
        spawn: false,
    };
    let one = Settings::new().with_max_in_flight(1).unwrap();
    let tiny = Settings::new().with_max_record(64).unwrap().with_max_message(3_000);
    let kinds = [
        base,
        Kind {
            connections: 3,
            spawn: true,
            ..base
        },
        Kind {
            settings: one,
            on_cancel: OnCancel::Signal,
            ..base
        },
        Kind {
            settings: tiny.with_max_in_flight(2).unwrap(),
            outstanding: 2,
            ..base
        },
        Kind {
            settings: tiny.with_max_message(0),
            connections: 2,
            ..base
        },
        Kind { classic: true, ..base },
        Kind {
            classic: true,
            settings: one,
            connections: 2,
            outstanding: 3,
            ..base
        },
        Kind {
            classic: true,
            settings: tiny.with_max_message(0),
            spawn: true,
            ..base
        },
    ];
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
    let runs: Vec<_> = kinds
        .into_iter()
        .map(|kind| {
            dice.below::<u32>(1);
            tokio::spawn(run(kind, dice.clone(), until))
        })
        .collect();
    let mut acts = 0;
    for run in runs {
        acts += run.await.unwrap();
    }
    println!("{acts} acts");
    assert!(acts > 100, "{acts}");
}
