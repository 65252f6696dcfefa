//! Typed requests: a service whose requests and answers are Rust types, and a client of it. Serde
//! and postcard write the types as bytes, which is all that FalcoTCP carries.
//!
//! Run it with `cargo run -p falco-tokio --example typed`. The tests at the end need no sockets.

use core::future::{Ready, ready};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use falco_tokio::{Client, Error, HandlerError, Key, Refusal, Request, Server, generate_key};
use serde::{Deserialize, Serialize};

/// A request: of which article, and how many. Postcard writes a variant as its number, so new ones
/// go to the end, and servers are updated before clients.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Add(String, u32),
    Take(String, u32),
}

/// An answer: how many are left, or why nothing was done.
type Answer = Result<u32, Denied>;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Denied {
    Unknown,
    NotEnough { left: u32 },
}

/// The service.
#[derive(Debug, Default)]
struct Stock(Mutex<HashMap<String, u32>>);

impl Stock {
    /// The handler. A request that it cannot read is refused as not processed.
    fn handle(&self, request: &Request) -> Result<Vec<u8>, HandlerError> {
        let ask = postcard::from_bytes(request.body()).map_err(|_| Refusal::NotProcessed)?;
        Ok(postcard::to_stdvec(&self.answer(ask))?)
    }

    fn answer(&self, ask: Ask) -> Answer {
        let mut stock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match ask {
            Ask::Add(article, count) => {
                let left = stock.entry(article).or_default();
                *left = left.saturating_add(count);
                Ok(*left)
            }
            Ask::Take(article, count) => {
                let left = stock.get_mut(&article).ok_or(Denied::Unknown)?;
                *left = left.checked_sub(count).ok_or(Denied::NotEnough { left: *left })?;
                Ok(*left)
            }
        }
    }
}

/// The typed client. Clones of the inner one are cheap, so any number of these may share it.
struct StockClient(Client);

#[derive(Debug)]
#[expect(dead_code, reason = "main and the tests only print some of it")]
enum CallError {
    /// There is no answer. `Error::fate` says whether the request may have been processed.
    Failed(Error),
    /// The other side speaks another version of the types.
    Unreadable(postcard::Error),
    Denied(Denied),
}

impl StockClient {
    async fn add(&self, article: &str, count: u32) -> Result<u32, CallError> {
        self.call(Ask::Add(article.to_owned(), count)).await
    }

    async fn take(&self, article: &str, count: u32) -> Result<u32, CallError> {
        self.call(Ask::Take(article.to_owned(), count)).await
    }

    async fn call(&self, ask: Ask) -> Result<u32, CallError> {
        let body = postcard::to_stdvec(&ask).map_err(CallError::Unreadable)?;
        let answer = self.0.request(body).await.map_err(CallError::Failed)?;
        let answer: Answer = postcard::from_bytes(&answer).map_err(CallError::Unreadable)?;
        answer.map_err(CallError::Denied)
    }
}

/// The handler as servers take it.
fn handler(stock: &Arc<Stock>) -> impl Fn(Request) -> Ready<Result<Vec<u8>, HandlerError>> + Send + Sync + 'static {
    let stock = Arc::clone(stock);
    move |request| ready(stock.handle(&request))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn core::error::Error>> {
    let mut text = [0; 64];
    generate_key()?.write_hex(&mut text);
    let server = Server::builder(Key::from_hex(&text)?).context("stock 1");
    let server = server.bind("127.0.0.1:0").await?;
    let address = server.local_addr()?;
    tokio::spawn(server.serve(handler(&Arc::default())));

    let client = Client::builder(Key::from_hex(&text)?).context("stock 1");
    let client = StockClient(client.connect(address).await?);
    println!("{:?}", client.add("bolts", 7).await);
    println!("{:?}", client.take("bolts", 3).await);
    client.0.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The handler alone, on a request that the test makes.
    #[test]
    fn the_handler_answers_what_it_can_read() -> Result<(), HandlerError> {
        let stock = Stock::default();
        let body = postcard::to_stdvec(&Ask::Add("bolts".to_owned(), 7))?;
        let answer = stock.handle(&Request::new(body.clone()))?;
        assert_eq!(postcard::from_bytes::<Answer>(&answer)?, Ok(7));
        // Of a newer client, or cut short.
        for unreadable in [&[9_u8, 0][..], body.split_last().map_or(&[], |(_, rest)| rest)] {
            let refused = stock.handle(&Request::new(unreadable.to_vec()));
            let refusal = refused.as_ref().err().and_then(|error| error.downcast_ref());
            assert_eq!(refusal, Some(&Refusal::NotProcessed));
        }
        Ok(())
    }

    /// Client and server over a stream in memory.
    #[tokio::test]
    async fn the_client_gets_typed_answers() -> Result<(), HandlerError> {
        let (near, far) = tokio::io::duplex(4096);
        let server = Server::builder(Key::from_bytes([7; 32])?).unbound()?;
        tokio::spawn(async move { server.serve_connection(far, handler(&Arc::default())).await });
        let client = StockClient(Client::builder(Key::from_bytes([7; 32])?).over(near).await?);

        assert!(matches!(
            client.take("bolts", 1).await,
            Err(CallError::Denied(Denied::Unknown))
        ));
        assert!(matches!(client.add("bolts", 7).await, Ok(7)));
        assert!(matches!(client.take("bolts", 5).await, Ok(2)));
        let denied = client.take("bolts", 3).await;
        assert!(matches!(denied, Err(CallError::Denied(Denied::NotEnough { left: 2 }))));
        Ok(())
    }
}
