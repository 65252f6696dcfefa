//! Tower's layers work on both sides.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use common::key;
use falco_tokio::{Client, Error, Fate, Handle, HandlerError, Refusal, Request, RequestError, Server};
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::timeout::error::Elapsed;
use tower::{Service, ServiceBuilder, ServiceExt};

/// How many handlers ran at once, at the most, and how many ran in all.
#[derive(Clone, Default)]
struct Watch {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Watch {
    async fn run(self, request: Request) -> Result<Bytes, HandlerError> {
        self.all.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let millis = u64::from(request.body()[0]);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(request.into_body())
    }
}

async fn serve<S>(service: S) -> (Client, Handle)
where
    S: Service<Request, Response = Bytes> + Clone + Send + 'static,
    S::Error: Into<HandlerError>,
    S::Future: Send + 'static,
{
    let server = Server::builder(key(1)).bind("127.0.0.1:0").await.unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.handle());
    tokio::spawn(server.serve_service(service));
    (Client::builder(key(1)).connect(address).await.unwrap(), handle)
}

fn refusal(error: &Error) -> Refusal {
    let Error::Request(RequestError::Refused(refusal)) = error else {
        panic!("{error}");
    };
    *refusal
}

#[tokio::test]
async fn a_limit_on_the_server_lets_so_many_run_and_sheds_the_rest_unprocessed() {
    let watch = Watch::default();
    let own = watch.clone();
    let service = ServiceBuilder::new()
        .load_shed()
        .layer(ConcurrencyLimitLayer::new(3))
        .service_fn(move |request| own.clone().run(request));
    let (client, handle) = serve(service).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { client.request(vec![100]).await }
            })
        })
        .collect();
    let (mut answered, mut shed) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => {
                assert_eq!((refusal(&error), error.fate()), (Refusal::Busy, Fate::NotProcessed));
                shed += 1;
            }
        }
    }
    assert_eq!((answered, shed), (3, 7));
    assert_eq!(
        (watch.most.load(Ordering::SeqCst), watch.all.load(Ordering::SeqCst)),
        (3, 3)
    );
    // The permits were returned.
    assert_eq!(client.request(vec![0]).await.unwrap(), vec![0]);
    assert_eq!(handle.stats().refusals, 7);
}

#[tokio::test]
async fn a_limit_on_the_server_without_shedding_makes_requests_wait() {
    let watch = Watch::default();
    let own = watch.clone();
    let service = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(2))
        .service_fn(move |request| own.clone().run(request));
    let (client, _handle) = serve(service).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn({
                let client = client.clone();
                async move { client.request(vec![10]).await.unwrap() }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(
        (watch.most.load(Ordering::SeqCst), watch.all.load(Ordering::SeqCst)),
        (2, 10)
    );
}

#[tokio::test]
async fn a_timeout_on_the_server_fails_the_request_and_drops_its_handler() {
    let watch = Watch::default();
    let own = watch.clone();
    let service = ServiceBuilder::new()
        .timeout(Duration::from_millis(20))
        .service_fn(move |request| own.clone().run(request));
    let (client, handle) = serve(service).await;
    let error = client.request(vec![200]).await.unwrap_err();
    assert_eq!((refusal(&error), error.fate()), (Refusal::Failed, Fate::MaybeProcessed));
    assert_eq!(client.request(vec![1]).await.unwrap(), vec![1]);
    assert_eq!(handle.stats().failed, 1);
}

#[tokio::test]
async fn layers_on_the_client_limit_shed_and_time_out() {
    let watch = Watch::default();
    let own = watch.clone();
    let (client, handle) = serve(tower::service_fn(move |request| own.clone().run(request))).await;

    let limited = ServiceBuilder::new()
        .load_shed()
        .layer(ConcurrencyLimitLayer::new(2))
        .service(client.clone());
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(limited.clone().oneshot(Bytes::from_static(&[80]))))
        .collect();
    let (mut answered, mut shed) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => {
                assert!(error.is::<Overloaded>(), "{error}");
                shed += 1;
            }
        }
    }
    assert_eq!((answered, shed), (2, 3));
    assert_eq!(watch.all.load(Ordering::SeqCst), 2, "what was shed was never sent");

    let mut timed = ServiceBuilder::new()
        .timeout(Duration::from_millis(20))
        .service(client.clone());
    let error = timed
        .ready()
        .await
        .unwrap()
        .call(Bytes::from_static(&[200]))
        .await
        .unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");
    // Tower has dropped the call, and that has cancelled the request.
    tokio::time::timeout(Duration::from_secs(5), async {
        while handle.stats().cancelled == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(client.stats().outstanding, 0);
}

#[tokio::test]
async fn poll_ready_reserves_a_place_and_gives_it_back() {
    let server = common::Running::echo(Server::builder(key(1))).await;
    let client = Client::builder(key(1))
        .max_outstanding(1)
        .connect(server.address)
        .await
        .unwrap();
    let mut reserved = client.clone();
    reserved.ready().await.unwrap();
    // The one place is taken, also for those who do not ask for it by poll_ready.
    let mut other = client.clone();
    assert!(
        tokio::time::timeout(Duration::from_millis(20), other.ready())
            .await
            .is_err()
    );
    assert!(client.request_within("x", Duration::from_millis(20)).await.is_err());
    // A clone has not reserved what the original has; dropping that gives it back.
    drop(reserved.clone());
    assert!(client.request_within("x", Duration::from_millis(20)).await.is_err());
    drop(reserved);
    assert_eq!(
        other
            .ready()
            .await
            .unwrap()
            .call(Bytes::from_static(b"now"))
            .await
            .unwrap(),
        "now"
    );
    assert_eq!(client.request("again").await.unwrap(), "again");
    client.close().await;
    assert!(matches!(other.ready().await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_balancer_leaves_a_client_without_a_connection_alone_until_it_has_one_again() {
    use tower::balance::p2c::Balance;
    use tower::discover::ServiceList;
    use tower::load::{CompleteOnResponse, PendingRequests};

    let one = common::Running::echo(Server::builder(key(1))).await;
    let two = common::Running::echo(Server::builder(key(1))).await;
    let address = two.address;
    let client = async |address| {
        let builder = Client::builder(key(1)).fail_fast(true);
        let pauses = (Duration::from_millis(50), Duration::from_millis(200));
        let client = builder.backoff(pauses.0, pauses.1).connect(address).await.unwrap();
        PendingRequests::new(client, CompleteOnResponse::default())
    };
    let services = vec![client(one.address).await, client(two.address).await];
    let mut balance = Balance::new(ServiceList::new::<Bytes>(services));
    let mut run = async |requests: usize| {
        let mut failed = 0;
        for _ in 0..requests {
            let answered = balance.ready().await.unwrap().call(Bytes::from_static(b"x")).await;
            failed += usize::from(answered.is_err());
        }
        failed
    };
    assert_eq!(run(1000).await, 0);
    assert!(two.handle.stats().requests > 200, "both are used");
    two.stop().await;
    // The first that fails says that there is no server any more; attempts go on in the background.
    let failed = run(5000).await;
    assert!(failed <= 2, "{failed}");
    let two = common::Running::echo_at(Server::builder(key(1)), address).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(run(1000).await, 0);
    assert!(two.handle.stats().requests > 200, "it is used again");
}

#[tokio::test]
async fn a_client_that_fails_fast_fails_at_once_during_the_pause_and_is_not_ready() {
    let pause = Duration::from_secs(60);
    let mut client = Client::builder(key(1))
        .fail_fast(true)
        .backoff(pause, pause)
        .connect_lazy("127.0.0.1:1")
        .unwrap();
    // Nothing is known yet.
    assert!(!client.is_connected());
    client.ready().await.unwrap();
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        let error = client.request("x").await.unwrap_err();
        assert_eq!(error.fate(), Fate::NotProcessed);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let moment = Duration::from_millis(100);
    let mut other = client.clone();
    assert!(tokio::time::timeout(moment, other.ready()).await.is_err());
    client.close().await;
    let closed = tokio::time::timeout(moment, other.ready()).await.expect("it is told");
    assert!(matches!(closed, Err(Error::Closed)));
}
