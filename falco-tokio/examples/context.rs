//! Deadlines and trace context, passed through three services: a front end, a back end and a
//! database. An envelope around each body carries the remaining time and the trace.
//!
//! Run it with `cargo run -p falco-tokio --example context`; it needs no sockets.

use core::future::Future;
use core::time::Duration;

use bytes::Bytes;
use falco_tokio::{Client, HandlerError, Key, Refusal, Request, Server};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument;

type Answer<T> = Result<T, HandlerError>;

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<'e> {
    /// How long the caller still waits, in milliseconds. A time span, because clocks differ.
    left: u32,
    /// As W3C Trace Context has it, so that OpenTelemetry's propagators can read and write it.
    traceparent: String,
    #[serde(borrow)]
    body: &'e [u8],
}

/// What a handler knows of the request that it works for.
struct Context {
    deadline: Instant,
    /// The trace, in hexadecimal digits, and the span of the caller.
    trace: String,
    parent: String,
    /// The span of this service.
    span: u64,
}

impl Context {
    /// For a request that begins here.
    fn new(limit: Duration) -> Answer<Self> {
        Ok(Self {
            deadline: Instant::now() + limit,
            trace: format!("{:016x}{:016x}", getrandom::u64()?, getrandom::u64()?),
            parent: String::new(),
            span: getrandom::u64()?,
        })
    }

    /// Opens the envelope. What cannot be read, or comes too late, is refused as not processed.
    fn open(request: &Request) -> Answer<(Self, &[u8])> {
        let envelope: Envelope<'_> = postcard::from_bytes(request.body()).map_err(|_| Refusal::NotProcessed)?;
        let mut fields = envelope.traceparent.split('-').skip(1).map(str::to_owned);
        let (Some(trace), Some(parent), 1..) = (fields.next(), fields.next(), envelope.left) else {
            return Err(Refusal::NotProcessed.into());
        };
        let context = Self {
            deadline: Instant::now() + Duration::from_millis(envelope.left.into()),
            trace,
            parent,
            span: getrandom::u64()?,
        };
        Ok((context, envelope.body))
    }

    /// Calls another service on behalf of this request, with what is left of its time.
    async fn call(&self, service: &Client, body: &[u8]) -> Answer<Bytes> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let envelope = Envelope {
            left: u32::try_from(left.as_millis())?,
            traceparent: format!("00-{}-{:016x}-01", self.trace, self.span),
            body,
        };
        Ok(service.request_within(postcard::to_stdvec(&envelope)?, left).await?)
    }

    /// Does the work of a handler in a span with the trace, until the deadline.
    async fn run<T>(&self, service: &str, work: impl Future<Output = Answer<T>>) -> Answer<T> {
        let span = tracing::info_span!("request", service, trace = self.trace, parent = self.parent);
        let done = timeout_at(self.deadline, work).instrument(span);
        done.await.unwrap_or_else(|_| Err("the caller no longer waits".into()))
    }
}

async fn front(back: Client, request: Request) -> Answer<Vec<u8>> {
    let (context, name) = Context::open(&request)?;
    let work = async {
        tracing::info!("looks up a customer");
        let found = context.call(&back, name).await?;
        Ok([b"found ", &*found].concat())
    };
    context.run("front", work).await
}

async fn back(database: Client, request: Request) -> Answer<Bytes> {
    let (context, name) = Context::open(&request)?;
    let work = async {
        sleep(Duration::from_millis(30)).await;
        tracing::info!("asks the database");
        context.call(&database, name).await
    };
    context.run("back", work).await
}

/// Takes `time`. The answer says how much time was left for it.
async fn database(time: Duration, request: Request) -> Answer<String> {
    let (context, name) = Context::open(&request)?;
    let left = context.deadline - Instant::now();
    let work = async {
        sleep(time).await;
        tracing::info!("reads a row");
        Ok(format!("{}, {left:?} left", str::from_utf8(name)?))
    };
    context.run("database", work).await
}

/// Begins to serve with a handler, and returns a client of that.
async fn start(handler: impl falco_tokio::Handler) -> Answer<Client> {
    // In a service: a key from `falco keygen`, `bind`, and `connect` on another machine.
    let key = || Key::from_bytes([7; 32]);
    let server = Server::builder(key()?).unbound()?;
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(async move { server.serve_connection(far, handler).await });
    Ok(Client::builder(key()?).over(near).await?)
}

/// The front of a chain whose database takes this time.
async fn chain(time: Duration) -> Answer<Client> {
    let to_database = start(move |request| database(time, request)).await?;
    let to_back = start(move |request| back(to_database.clone(), request)).await?;
    start(move |request| front(to_back.clone(), request)).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Answer<()> {
    tracing_subscriber::fmt().with_target(false).without_time().init();
    for time in [Duration::from_millis(10), Duration::from_secs(10)] {
        let (to_front, context) = (chain(time).await?, Context::new(Duration::from_secs(1))?);
        println!("{:?}", context.call(&to_front, b"Ada").await);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::sync::Arc;

    use super::*;

    /// A request in an envelope, as the front receives it.
    fn request(left: u32) -> Answer<Request> {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
        let envelope = Envelope {
            left,
            traceparent,
            body: b"Ada",
        };
        Ok(Request::new(postcard::to_stdvec(&envelope)?))
    }

    // One test, since a subscriber of one thread can miss events that another thread has first.
    #[tokio::test(start_paused = true)]
    async fn all_services_know_the_deadline_and_the_trace() -> Answer<()> {
        let (log, mut end) = std::io::pipe()?;
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(Arc::new(end.try_clone()?));
        let _guard = tracing::subscriber::set_default(subscriber.finish());

        // Each service hands on what is left.
        let (to_front, context) = (chain(Duration::ZERO).await?, Context::new(Duration::from_secs(1))?);
        assert_eq!(context.call(&to_front, b"Ada").await?, "found Ada, 970ms left");
        writeln!(end, "end")?;
        let lines: Vec<_> = BufReader::new(log)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "end")
            .collect();
        for (service, event) in [("front", "looks up"), ("back", "asks"), ("database", "reads a row")] {
            let line = lines.iter().find(|line| line.contains(event)).ok_or(event)?;
            let (service, trace) = (format!("service={service:?}"), format!("trace={:?}", context.trace));
            assert!(
                line.contains(&service) && line.contains(&trace),
                "{service} {trace} in {line}"
            );
        }

        // A handler gives up at its deadline, and does not begin after it.
        let began = Instant::now();
        let given_up = database(Duration::from_secs(10), request(200)?).await;
        assert!(given_up.is_err_and(|error| error.to_string().contains("no longer waits")));
        assert_eq!(began.elapsed().as_millis(), 200);
        let refused = database(Duration::ZERO, request(0)?).await;
        let refusal = refused.as_ref().err().and_then(|error| error.downcast_ref());
        assert_eq!(refusal, Some(&Refusal::NotProcessed));
        Ok(())
    }
}
