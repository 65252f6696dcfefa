//! gRPC by tonic over rustls: one method, and a codec for bodies that are bytes.

use core::convert::Infallible;
use core::future::{Ready, ready};
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::net::TcpListener;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tower_service::Service;

use super::tls::{self, NAME};
use super::{MAX_MESSAGE, asynchronous};
use crate::Failure;
use crate::load::{Connection, Peer, tasks};
use crate::window::Window;

const PATH: &str = "/peers.Echo/Echo";

/// Windows that a whole message fits in.
const STREAM_WINDOW: u32 = 32 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Leaves bytes as they are.
#[derive(Clone, Copy, Debug)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The service, as generated code would have it.
#[derive(Clone, Copy, Debug)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "peers.Echo";
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let mut grpc = tonic::server::Grpc::new(Plain).max_decoding_message_size(MAX_MESSAGE);
            Ok(grpc.unary(Self, request).await)
        })
    }
}

/// tonic's server takes its cryptography from the process.
fn install() {
    // An error means that it is there already.
    let _ = tls::provider().install_default();
}

pub(super) async fn serve(listener: TcpListener, identity: &tls::Identity) -> Result<(), Failure> {
    install();
    let identity = Identity::from_pem(identity.certificate(), identity.key());
    let incoming = TcpIncoming::from(asynchronous(listener)?).with_nodelay(Some(true));
    Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(Echo)
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// Connects over TLS.
#[derive(Debug)]
pub(super) struct Dialer {
    endpoint: Endpoint,
}

impl Dialer {
    pub(super) fn new(address: SocketAddr, certificate: &str) -> Result<Self, Failure> {
        install();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(certificate))
            .domain_name(NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Ok(Self { endpoint })
    }
}

impl Peer for Dialer {
    type Connection = Caller;

    async fn connect(&self) -> Result<Caller, Failure> {
        let grpc = tonic::client::Grpc::new(self.endpoint.connect().await?).max_decoding_message_size(MAX_MESSAGE);
        Ok(Caller { grpc })
    }
}

/// A client with its connection.
#[derive(Debug)]
pub(super) struct Caller {
    grpc: tonic::client::Grpc<Channel>,
}

async fn call(grpc: &mut tonic::client::Grpc<Channel>, body: Bytes) -> Result<Bytes, Failure> {
    grpc.ready().await?;
    let path = PathAndQuery::from_static(PATH);
    Ok(grpc.unary(Request::new(body), path, Plain).await?.into_inner())
}

impl Connection for Caller {
    type Message = Bytes;

    fn message(body: Vec<u8>) -> Bytes {
        body.into()
    }

    async fn call<R: Send>(&mut self, message: &Bytes, look: impl FnOnce(&[u8]) -> R + Send) -> Result<R, Failure> {
        Ok(look(&call(&mut self.grpc, message.clone()).await?))
    }

    async fn pipeline(&mut self, message: &Bytes, depth: usize, window: Window) -> Result<u64, Failure> {
        let (grpc, size, message) = (self.grpc.clone(), message.len(), message.clone());
        tasks(depth, size, window, move || {
            let (mut grpc, message) = (grpc.clone(), message.clone());
            async move { call(&mut grpc, message).await }
        })
        .await
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
