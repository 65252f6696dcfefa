//! Noise by snow, with ring's AES-256-GCM and the raw loop of plain TCP. A length of two bytes
//! precedes each Noise message.

use core::net::SocketAddr;
use std::net::TcpListener;

use snow::{Builder, HandshakeState, TransportState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::framing::{Framed, Inbox, Pipe, echo};
use super::{KEY, plain};
use crate::Failure;
use crate::load::Peer;

/// The handshake of the noise wire.
const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Bytes of the length before each Noise message.
const HEADER: usize = 2;
/// The largest Noise message, and the most that one carries.
const MAX_RECORD: usize = 65_535;
const MAX_TEXT: usize = MAX_RECORD - TAG;
const TAG: usize = 16;

pub(super) async fn serve(listener: TcpListener) -> Result<(), Failure> {
    super::accept(listener, |mut stream| async {
        let mut handshake = builder()?.build_responder()?;
        receive(&mut stream, &mut handshake).await?;
        send(&mut stream, &mut handshake).await?;
        echo(Noise::new(stream, handshake.into_transport_mode()?)).await
    })
    .await
}

/// Connects over Noise.
#[derive(Debug)]
pub(super) struct Dialer {
    address: SocketAddr,
}

impl Dialer {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self { address }
    }
}

impl Peer for Dialer {
    type Connection = Framed<Noise>;

    async fn connect(&self) -> Result<Self::Connection, Failure> {
        let mut stream = plain::connect(self.address).await?;
        let mut handshake = builder()?.build_initiator()?;
        send(&mut stream, &mut handshake).await?;
        receive(&mut stream, &mut handshake).await?;
        Ok(Framed::new(Noise::new(stream, handshake.into_transport_mode()?)))
    }
}

fn builder() -> Result<Builder<'static>, Failure> {
    Ok(Builder::new(PATTERN.parse()?).psk(0, &KEY)?)
}

async fn send(stream: &mut TcpStream, handshake: &mut HandshakeState) -> Result<(), Failure> {
    let mut message = [0; HEADER + 128];
    let (header, text) = message.split_at_mut(HEADER);
    let length = handshake.write_message(&[], text)?;
    header.copy_from_slice(&u16::try_from(length)?.to_be_bytes());
    Ok(stream
        .write_all(message.get(..HEADER + length).unwrap_or_default())
        .await?)
}

async fn receive(stream: &mut TcpStream, handshake: &mut HandshakeState) -> Result<(), Failure> {
    let mut message = [0; 128];
    let length = usize::from(stream.read_u16().await?);
    let message = message.get_mut(..length).ok_or("a handshake message is too long")?;
    stream.read_exact(message).await?;
    handshake.read_message(message, &mut [0; 128])?;
    Ok(())
}

/// A stream with a Noise session.
pub(super) struct Noise {
    stream: TcpStream,
    state: TransportState,
    records: Inbox,
    sealed: Vec<u8>,
}

impl Noise {
    fn new(stream: TcpStream, state: TransportState) -> Self {
        Self {
            stream,
            state,
            records: Inbox::default(),
            sealed: Vec::new(),
        }
    }

    /// The length of the first record without its header, once the header is there.
    fn record(&self) -> Option<usize> {
        let header = self.records.unread().first_chunk::<HEADER>()?;
        Some(u16::from_be_bytes(*header).into())
    }

    /// Decrypts all complete records. Returns how many bytes they carried.
    fn open(&mut self, inbox: &mut Inbox, total: usize) -> Result<usize, Failure> {
        let mut opened = 0;
        while let Some(length) = self.record() {
            let Some(record) = self.records.unread().get(HEADER..HEADER + length) else {
                break;
            };
            let unread = inbox.unread().len();
            let text = inbox.space(total.max(unread + length));
            let count = self.state.read_message(record, text)?;
            inbox.fill(count);
            opened += count;
            self.records.consume(HEADER + length);
        }
        Ok(opened)
    }
}

impl Pipe for Noise {
    async fn read(&mut self, inbox: &mut Inbox, total: usize) -> Result<usize, Failure> {
        loop {
            let opened = self.open(inbox, total)?;
            if opened > 0 {
                return Ok(opened);
            }
            let wanted = HEADER + self.record().unwrap_or_default();
            let count = self.stream.read(self.records.space(wanted)).await?;
            if count == 0 {
                return Ok(0);
            }
            self.records.fill(count);
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        for text in bytes.chunks(MAX_TEXT) {
            let length = text.len() + TAG;
            if self.sealed.len() < HEADER + length {
                self.sealed.resize(HEADER + length, 0);
            }
            let (header, record) = self.sealed.split_at_mut(HEADER);
            header.copy_from_slice(&u16::try_from(length)?.to_be_bytes());
            self.state.write_message(text, record)?;
            self.stream
                .write_all(self.sealed.get(..HEADER + length).unwrap_or_default())
                .await?;
        }
        Ok(())
    }

    async fn close(mut self) -> Result<(), Failure> {
        Ok(self.stream.shutdown().await?)
    }
}
