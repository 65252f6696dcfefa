//! Metrics of a server or a client in the text format of Prometheus, over HTTP.

use core::net::SocketAddr;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::failure::{Code, Failure};

/// Upper bounds of the histograms of durations, in seconds.
const SECONDS: [f64; 14] = [
    0.000_1, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
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

/// Serves metrics at this address from now on. Call it before the server or the client is built,
/// within the runtime.
pub(crate) fn start(address: SocketAddr) -> Result<(), Failure> {
    let failed = |error: BuildError| {
        let message = format!("cannot serve metrics on {address}: {error}");
        Failure::new(Code::Unreachable, message)
    };
    let (recorder, serving) = PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES))
        .and_then(PrometheusBuilder::build)
        .map_err(failed)?;
    metrics::set_global_recorder(recorder).map_err(|error| Failure::new(Code::Failed, error))?;
    tokio::spawn(async move {
        // It ends with the process.
        if serving.await.is_err() {
            tracing::warn!("metrics are no longer served");
        }
    });
    Ok(())
}
