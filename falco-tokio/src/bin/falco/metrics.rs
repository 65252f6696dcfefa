//! Metrics of a server or a client in the text format of Prometheus, over HTTP. Connecting needs no
//! key. So all connections together take few descriptors, and each lasts a short time.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep, timeout};

use crate::failure::{Code, Failure};

/// Upper bounds of the histograms of durations, in seconds.
const SECONDS: [f64; 16] = [
    0.000_1, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];
/// Upper bounds of the histograms of sizes, in bytes.
const BYTES: [f64; 9] = [
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    16_777_216.0,
];

/// How many connections there are at once. A further one replaces the oldest. The server keeps more
/// descriptors than this beside those of its own connections.
const CONNECTIONS: usize = 16;
/// How long a connection lasts.
const TIME: Duration = Duration::from_secs(5);
/// The longest head of a request.
const LONGEST: usize = 8 << 10;
/// How often what was measured is added to the histograms.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long to wait after accepting has failed, such as for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves metrics at this address from now on. Call it before the server or the client is built,
/// within the runtime.
pub(crate) fn start(address: SocketAddr) -> Result<(), Failure> {
    let failed = |error: &dyn fmt::Display| {
        let message = format!("cannot serve metrics on {address}: {error}");
        Failure::new(Code::Unreachable, message)
    };
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES))
        .map_err(|error| failed(&error))?
        .build_recorder();
    let listener = listen(address).map_err(|error| failed(&error))?;
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| Failure::new(Code::Failed, error))?;
    tokio::spawn(serve(listener, metrics));
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts connections. Never returns.
async fn serve(listener: TcpListener, metrics: PrometheusHandle) {
    let mut connections: VecDeque<JoinHandle<_>> = VecDeque::new();
    let mut upkeep = interval(UPKEEP);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = upkeep.tick() => {
                metrics.run_upkeep();
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
            // Its descriptor is closed once the runtime has dropped it.
            let _ = oldest.await;
        }
        match accepted {
            Ok((stream, _)) => {
                let metrics = metrics.clone();
                connections.push_back(tokio::spawn(timeout(TIME, answer(stream, metrics))));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection to the metrics failed; trying again after a pause");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request, and waits for the end of the connection. An error concerns this connection
/// alone.
async fn answer(mut stream: TcpStream, metrics: PrometheusHandle) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (status, body) = if is_for_metrics(&head) {
        ("200 OK", metrics.render())
    } else {
        ("404 Not Found", "the metrics are at /metrics\n".to_owned())
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await?;
    // A socket that is closed with unread bytes would be reset, and the answer be lost.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

/// Reads to the end of the head of a request.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// Whether it is a GET of `/metrics`, with parameters or without.
fn is_for_metrics(head: &[u8]) -> bool {
    let path = head.strip_prefix(b"GET ").and_then(|rest| {
        let mut parts = rest.split(|byte| matches!(byte, b' ' | b'?'));
        parts.next()
    });
    path == Some(b"/metrics")
}
