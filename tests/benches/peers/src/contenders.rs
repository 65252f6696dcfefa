//! The contenders: a server and a client of each.

mod falco_core_loop;
mod falco_std;
mod falco_tokio;
mod falcotcp;
mod framing;
mod plain;
mod plain_std;
mod rustls;
mod snow;
mod tarpc;
mod tls;
mod tonic;

use core::net::Ipv4Addr;
use core::time::Duration;
use std::net::TcpListener;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use crate::args::{LoadArgs, ServeArgs};
use crate::contender::Contender;
use crate::pair::{Announcement, announce};
use crate::workload::Workload;
use crate::{Failure, blocking_load, load, usage};

/// The key that both sides of the contenders with a shared key have.
const KEY: [u8; 32] = *b"a key for measurements, not more";

/// More connections than any workload opens.
const MAX_CONNECTIONS: usize = 20_000;

/// The largest body of any workload.
const MAX_MESSAGE: usize = 16 << 20;

/// Runs the server of a contender until `run` ends it.
pub(crate) fn serve(order: &ServeArgs) -> Result<(), Failure> {
    order.core.map_or(Ok(()), usage::pin)?;
    usage::raise_descriptors()?;
    order.provider.check()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let identity = order.contender.has_tls().then(tls::Identity::generate).transpose()?;
    announce(&Announcement {
        address: listener.local_addr()?,
        certificate: identity.as_ref().map(tls::Identity::certificate),
    })?;
    let identity = || identity.as_ref().ok_or("only TLS has an identity");
    match order.contender {
        Contender::Plain => runtime()?.block_on(plain::serve(listener)),
        Contender::Rustls | Contender::RustlsFirst => runtime()?.block_on(rustls::serve(listener, identity()?)),
        Contender::Snow => runtime()?.block_on(snow::serve(listener)),
        Contender::Tarpc => runtime()?.block_on(tarpc::serve(listener, identity()?)),
        Contender::Tonic => runtime()?.block_on(tonic::serve(listener, identity()?)),
        Contender::Falcotcp => runtime()?.block_on(falcotcp::serve(listener)),
        Contender::FalcoTokio => runtime()?.block_on(falco_tokio::serve(listener)),
        Contender::FalcoCore => runtime()?.block_on(falco_core_loop::serve(listener)),
        Contender::PlainStd => plain_std::serve(&listener),
        Contender::FalcoStd => falco_std::serve(listener),
    }
}

/// Runs the client of a contender, which reports to `run`.
pub(crate) fn load(order: &LoadArgs) -> Result<(), Failure> {
    order.core.map_or(Ok(()), usage::pin)?;
    usage::raise_descriptors()?;
    order.provider.check()?;
    let (address, workload) = (order.address, order.workload);
    let length = Duration::try_from_secs_f64(order.seconds)?;
    let certificate = || order.certificate.as_deref().ok_or("TLS needs the server's certificate");
    match order.contender {
        Contender::Plain => drive(plain::Dialer::new(address), workload, length),
        Contender::Rustls => {
            let peer = rustls::Dialer::new(address, certificate()?)?;
            drive(peer, workload, length)
        }
        Contender::RustlsFirst => {
            let peer = rustls::Dialer::without_resumption(address, certificate()?)?;
            drive(peer, workload, length)
        }
        Contender::Snow => drive(snow::Dialer::new(address), workload, length),
        Contender::Tarpc => {
            let peer = tarpc::Dialer::new(address, certificate()?)?;
            drive(peer, workload, length)
        }
        Contender::Tonic => {
            let peer = tonic::Dialer::new(address, certificate()?)?;
            drive(peer, workload, length)
        }
        Contender::Falcotcp => drive(falcotcp::Dialer::new(address), workload, length),
        Contender::FalcoTokio => drive(falco_tokio::Dialer::new(address)?, workload, length),
        Contender::FalcoCore => drive(falco_core_loop::Dialer::new(address)?, workload, length),
        Contender::PlainStd => blocking_load::run(&plain_std::Dialer::new(address), workload, length),
        Contender::FalcoStd => blocking_load::run(&falco_std::Dialer::new(address)?, workload, length),
    }
}

/// Runs a client as a task of its runtime, as services do. A future that `block_on` runs itself
/// costs a second poll for I/O events whenever another task wakes it.
fn drive<P: load::Peer>(peer: P, workload: Workload, length: Duration) -> Result<(), Failure> {
    runtime()?.block_on(async { tokio::spawn(load::run(peer, workload, length)).await? })
}

/// The runtime of every contender on Tokio: one thread.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Makes a listener of the standard library one of Tokio's.
fn asynchronous(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Serves each connection in a task of its own. How one ends is up to the client, which notices.
async fn accept<F, E>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Send + 'static,
{
    let listener = asynchronous(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}
