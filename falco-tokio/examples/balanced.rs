//! Several servers behind a balancer of tower: of two servers chosen at random, a request goes to
//! the one with the lower load, here the shorter time to answer ("power of two choices"). A server
//! that fails is not tried for a while (back-off), and what it has not processed goes to another
//! one.
//!
//! [`ClientBuilder::connect_any`](falco_tokio::ClientBuilder::connect_any) needs no tower: it
//! spreads its connections over the servers, and each request goes to the connection with the
//! fewest outstanding ones. This is for services that combine the balancer with other layers of
//! tower, or measure the load in another way.
//!
//! Run it with `cargo run -p falco-tokio --example balanced`.

use core::future::{Ready, ready};
use core::net::SocketAddr;
use core::time::Duration;

use bytes::Bytes;
use falco_tokio::{Client, Error, Fate, Key, Request, Server};
use tokio::task::JoinHandle;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};
use tower::retry::Policy;
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

/// The time to answer that a server is assumed to have before it has answered, and the nanoseconds
/// after which a measured one counts little.
const LOAD: (Duration, f64) = (Duration::from_millis(1), 1e9);
/// How many requests may wait for a server.
const WAITING: usize = 1024;
/// How often a request is sent again.
const AGAIN: u32 = 3;

/// All servers as one service. Clones share the connections.
type Servers = BoxCloneService<Bytes, Bytes, BoxError>;

fn balanced(key: Key, servers: &[SocketAddr]) -> Result<Servers, Error> {
    // Without a connection such a client is not ready, and the balancer takes another. It connects
    // again in the background.
    let builder = Client::builder(key).fail_fast(true);
    let client = |server| {
        let client = builder.clone().connect_lazy(server)?;
        Ok(PeakEwma::new(client, LOAD.0, LOAD.1, CompleteOnResponse::default()))
    };
    let clients = servers.iter().map(client).collect::<Result<Vec<_>, Error>>()?;
    let service = ServiceBuilder::new()
        .retry(Unprocessed(AGAIN))
        .buffer(WAITING)
        .service(Balance::new(ServiceList::new::<Bytes>(clients)));
    Ok(service.boxed_clone())
}

/// Sends what no server has processed again, so many times. What may have been processed is for the
/// caller to decide about.
#[derive(Clone)]
struct Unprocessed(u32);

impl Policy<Bytes, Bytes, BoxError> for Unprocessed {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Bytes, result: &mut Result<Bytes, BoxError>) -> Option<Self::Future> {
        let error = result.as_ref().err()?.downcast_ref::<Error>()?;
        self.0 = self.0.checked_sub(1)?;
        (error.fate() == Fate::NotProcessed).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Bytes) -> Option<Bytes> {
        Some(request.clone())
    }
}

/// The key of this example. In a service: one from `falco keygen`.
fn key() -> Result<Key, BoxError> {
    Ok(Key::from_bytes([7; 32])?)
}

/// A server that answers with its name. It ends at once when its task is aborted.
async fn start(name: &'static str, address: &str) -> Result<(SocketAddr, JoinHandle<()>), BoxError> {
    let server = Server::builder(key()?).bind(address).await?;
    let address = server.local_addr()?;
    let serving = tokio::spawn(async move {
        let report = server.serve(move |_: Request| async move { Ok(name) }).await;
        println!("{name} has ended: {report:?}");
    });
    Ok((address, serving))
}

/// How often each server has answered so many requests, and the errors.
async fn ask(servers: &mut Servers, requests: u32) -> ([u32; 2], Vec<BoxError>) {
    let (mut answers, mut errors) = ([0; 2], Vec::new());
    for _ in 0..requests {
        let answer = match servers.ready().await {
            Ok(servers) => servers.call(Bytes::from_static(b"who are you?")).await,
            Err(error) => Err(error),
        };
        match answer.as_deref() {
            Ok(b"one") => answers[0] += 1,
            Ok(_) => answers[1] += 1,
            Err(_) => errors.extend(answer.err()),
        }
    }
    (answers, errors)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (one, _) = start("one", "127.0.0.1:0").await?;
    let (two, serving) = start("two", "127.0.0.1:0").await?;
    let mut servers = balanced(key()?, &[one, two])?;
    println!("{:?}", ask(&mut servers, 1000).await);
    serving.abort();
    println!("{:?}", ask(&mut servers, 1000).await);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_go_on_when_one_of_two_servers_is_killed_and_when_it_is_back() -> Result<(), BoxError> {
        let (one, _) = start("one", "127.0.0.1:0").await?;
        let (two, serving) = start("two", "127.0.0.1:0").await?;
        let mut servers = balanced(key()?, &[one, two])?;
        // The first request to a server takes as long as connecting, and this counts for about a
        // second.
        let mut answers = [0; 2];
        for _ in 0..100 {
            let errors;
            (answers, errors) = ask(&mut servers, 1000).await;
            assert!(errors.is_empty(), "{errors:?}");
            if answers.iter().all(|count| *count > 100) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(answers.iter().all(|count| *count > 100), "both are used: {answers:?}");

        let asking: Vec<_> = (0..8)
            .map(|_| {
                let mut servers = servers.clone();
                tokio::spawn(async move { ask(&mut servers, 1000).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        serving.abort();
        let mut cut = 0;
        for task in asking {
            let (answers, errors) = task.await?;
            assert!(answers[0] > 0, "{answers:?}");
            // Each task has one request at a time. Only one that the server had may have been lost.
            assert!(errors.len() <= 1, "{errors:?}");
            for error in &errors {
                let error = error.downcast_ref::<Error>().ok_or("it comes from a client")?;
                assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
            }
            cut += errors.len();
        }
        println!("{cut} requests may have been processed");
        let (answers, errors) = ask(&mut servers, 1000).await;
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(answers, [1000, 0]);

        let (_, _serving) = start("two", &two.to_string()).await?;
        let mut used = 0;
        for _ in 0..200 {
            let (answers, errors) = ask(&mut servers, 100).await;
            assert!(errors.is_empty(), "{errors:?}");
            used = answers[1];
            if used > 10 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(used > 10, "it is used again");
        Ok(())
    }
}
