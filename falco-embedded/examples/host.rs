//! The drivers on the host, over sockets instead of serial ports and radios. Firmware writes what
//! is in this file. Its board's crate provides what is in `socket`.
//!
//! ```sh
//! cargo run -p falco-embedded --example host
//! ```

use core::error::Error;
use core::net::SocketAddr;
use std::net::{TcpListener, TcpStream};
use std::thread;

use embedded_io_adapters::tokio_1::FromTokio;
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::{Key, Refusal, RustCrypto, Settings, SettingsError};
use falco_embedded::{BufferedClient, BufferedServer, Clock, EmbassyClock, asynchronous, blocking};
use getrandom::SysRng;

#[path = "host/socket.rs"]
mod socket;

use socket::{Socket, StdClock};

/// The shared key.
const KEY: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
/// One record with its length.
const BUFFER: usize = 514;
/// The largest message.
const MESSAGE: usize = 2048;

type Trouble = Box<dyn Error + Send + Sync>;
type ClientKey = NoiseClient<FixedTable<1>, RustCrypto>;
type ServerKey = NoiseServer<FixedTable<1>, KeyRing<[Option<NoiseSecret>; 1]>, RustCrypto>;

/// The limits of this device.
fn settings() -> Result<Settings, SettingsError> {
    Settings::new()
        .with_max_record(512)?
        .with_max_message(2048)
        .with_max_in_flight(1)
}

fn client_key() -> Result<ClientKey, Trouble> {
    Ok(NoiseClient::new(KEY.parse::<Key>()?, &b""[..], RustCrypto)?)
}

fn server_key() -> Result<ServerKey, Trouble> {
    let secret = NoiseSecret::derive(KEY.parse()?, &RustCrypto);
    let ring = KeyRing::new([Some(secret)], &mut SysRng)?;
    Ok(NoiseServer::new(ring, &b""[..], RustCrypto)?)
}

fn main() -> Result<(), Trouble> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || blocking_server(&listener));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async_client(address))?;
    server.join().map_err(|_| "the server panicked")??;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let client = thread::spawn(move || blocking_client(address));
    runtime.block_on(async_server(listener))?;
    client.join().map_err(|_| "the client panicked")?
}

/// A blocking server.
fn blocking_server(listener: &TcpListener) -> Result<(), Trouble> {
    let (key, clock) = (server_key()?, StdClock::start());
    let (stream, _) = listener.accept()?;
    let buffered = BufferedServer::start(
        &key,
        &settings()?,
        clock.now(),
        &mut SysRng,
        ([0; BUFFER], [0; BUFFER]),
        ([0; MESSAGE], [0; MESSAGE]),
    )?;
    let mut server = blocking::Server::new(buffered, Socket::new(stream)?, clock);
    server.serve(upper)?;
    println!("blocking server: the client has closed");
    Ok(())
}

/// An async client, on Embassy's clock.
async fn async_client(address: SocketAddr) -> Result<(), Trouble> {
    let key = client_key()?;
    let (reader, writer) = tokio::net::TcpStream::connect(address).await?.into_split();
    let buffered = BufferedClient::start(
        &key,
        &settings()?,
        EmbassyClock.now(),
        &mut SysRng,
        ([0; BUFFER], [0; BUFFER]),
    )?;
    let mut client = asynchronous::Client::new(buffered, FromTokio::new(reader), FromTokio::new(writer), EmbassyClock);
    let mut answer = [0; MESSAGE];
    let length = client.request(b"hello from a task", &mut answer).await?;
    println!(
        "async client: {}",
        answer.get(..length).unwrap_or_default().escape_ascii()
    );
    let length = client.request(&[b'x'; MESSAGE], &mut answer).await?;
    println!("async client: {length} bytes, in parts");
    let ping = client.ping().await?;
    client.pong(ping).await?;
    println!("async client: the ping was answered");
    Ok(client.close().await?)
}

/// A blocking client.
fn blocking_client(address: SocketAddr) -> Result<(), Trouble> {
    let (key, clock, stream) = (client_key()?, StdClock::start(), TcpStream::connect(address)?);
    let buffered = BufferedClient::start(&key, &settings()?, clock.now(), &mut SysRng, ([0; BUFFER], [0; BUFFER]))?;
    let mut client = blocking::Client::new(buffered, Socket::new(stream)?, clock);
    let mut answer = [0; MESSAGE];
    let length = client.request(b"hello from a loop", &mut answer)?;
    println!(
        "blocking client: {}",
        answer.get(..length).unwrap_or_default().escape_ascii()
    );
    Ok(client.close()?)
}

/// An async server, on Embassy's clock.
async fn async_server(listener: TcpListener) -> Result<(), Trouble> {
    let key = server_key()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (reader, writer) = listener.accept().await?.0.into_split();
    let buffered = BufferedServer::start(
        &key,
        &settings()?,
        EmbassyClock.now(),
        &mut SysRng,
        ([0; BUFFER], [0; BUFFER]),
        ([0; MESSAGE], [0; MESSAGE]),
    )?;
    let mut server = asynchronous::Server::new(buffered, FromTokio::new(reader), FromTokio::new(writer), EmbassyClock);
    server
        .serve(async |request: &[u8], answer: &mut [u8]| upper(request, answer))
        .await?;
    println!("async server: the client has closed");
    Ok(())
}

/// The handler: the request in capitals.
fn upper(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    let place = answer.get_mut(..request.len()).ok_or(Refusal::AnswerTooLarge)?;
    place.copy_from_slice(request);
    place.make_ascii_uppercase();
    Ok(request.len())
}
