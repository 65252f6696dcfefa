//! What the contenders over TLS share: a certificate, and TLS 1.3 with AES-256-GCM and X25519,
//! which the noise wire uses too.

use core::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::plain;
use crate::Failure;

/// The name in the certificate.
pub(super) const NAME: &str = "localhost";

/// A certificate that is its own root, and its key, as PEM.
#[derive(Debug)]
pub(super) struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    pub(super) fn generate() -> Result<Self, Failure> {
        let generated = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        Ok(Self {
            certificate: generated.cert.pem(),
            key: generated.signing_key.serialize_pem(),
        })
    }

    pub(super) fn certificate(&self) -> String {
        self.certificate.clone()
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// The cryptography of all contenders over TLS.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

pub(super) fn acceptor(identity: &Identity) -> Result<TlsAcceptor, Failure> {
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connects over TLS. By default later connections resume the session of an earlier one.
pub(super) struct Connector {
    address: SocketAddr,
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    pub(super) fn new(address: SocketAddr, certificate: &str, resumption: Resumption) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.as_bytes())?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = resumption;
        Ok(Self {
            address,
            tls: Arc::new(config).into(),
            name: NAME.try_into()?,
        })
    }

    pub(super) async fn connect(&self) -> Result<client::TlsStream<TcpStream>, Failure> {
        let stream = plain::connect(self.address).await?;
        Ok(self.tls.connect(self.name.clone(), stream).await?)
    }
}
