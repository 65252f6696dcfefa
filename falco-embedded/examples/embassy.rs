//! Two devices under Embassy, each a task: one reads a sensor and reports, the other is the server. Pipes of Embassy stand for the serial port between them, and the host's executor for the
//! chip's; nothing else would be written otherwise on a chip.
//!
//! ```sh
//! cargo run -p falco-embedded --example embassy
//! ```

use core::fmt::Debug;
use core::time::Duration;
use std::process::ExitCode;

use embassy_executor::{Executor, Spawner};
use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::channel::Channel;
use embassy_sync::pipe::Pipe;
use embassy_time::Timer;
use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::{Key, Refusal, RustCrypto, Settings, SettingsError};
use falco_embedded::asynchronous::{Client, Pump, Server};
use falco_embedded::{ClientLine, Clock, EmbassyClock, ServerLine};
use getrandom::SysRng;
use static_cell::StaticCell;

/// One record with its length.
const BUFFER: usize = 514;
/// The largest message.
const MESSAGE: usize = 1024;

// Tasks are not generic, so everything that they hold has a name.
type ClientKey = NoiseClient<FixedTable<1>, RustCrypto>;
type ServerKey = NoiseServer<FixedTable<1>, KeyRing<[Option<NoiseSecret>; 1]>, RustCrypto>;
/// Where the bytes of one direction wait: the buffer of a serial port.
type Wire = Pipe<CriticalSectionRawMutex, 64>;
/// One end of the serial port.
type Port = Pump<&'static Wire, &'static Wire, EmbassyClock>;
/// A connection with its buffers. It may be held in a task, in a `StaticCell`, or in a struct.
type DeviceClient = Client<Port, &'static ClientKey, [u8; BUFFER], [u8; BUFFER]>;
type DeviceServer = Server<Port, &'static ServerKey, [u8; BUFFER], [u8; BUFFER], [u8; MESSAGE], [u8; MESSAGE]>;

static TO_SERVER: StaticCell<Wire> = StaticCell::new();
static TO_CLIENT: StaticCell<Wire> = StaticCell::new();
static CLIENT_KEY: StaticCell<ClientKey> = StaticCell::new();
static SERVER_KEY: StaticCell<ServerKey> = StaticCell::new();
static EXECUTOR: StaticCell<Executor> = StaticCell::new();

/// What the sensor reads, in tenths of a degree.
static READINGS: Channel<CriticalSectionRawMutex, u16, 4> = Channel::new();
/// How each of the two devices ended. Firmware has no such thing: it goes on.
static ENDS: Channel<CriticalSectionRawMutex, Result<(), Trouble>, 2> = Channel::new();

/// Something that was not foreseen, and is to be seen by whoever looks after the device.
struct Trouble;

impl<E: Debug> From<E> for Trouble {
    fn from(error: E) -> Self {
        println!("trouble: {error:?}");
        Self
    }
}

/// A short lifetime, so that the connection would not outlive the silence between two readings by itself.
fn settings() -> Result<Settings, SettingsError> {
    Settings::new()
        .with_max_record(512)?
        .with_max_message(1024)
        .with_max_in_flight(1)?
        .with_lifetime(Duration::from_secs(1))
}

fn connect(key: &'static ClientKey, reader: &'static Wire, writer: &'static Wire) -> Result<DeviceClient, Trouble> {
    let (inbox, outbox) = ([0; BUFFER], [0; BUFFER]);
    let line = ClientLine::start(key, &settings()?, EmbassyClock.now(), &mut SysRng, inbox, outbox)?;
    Ok(Client::new(line, reader, writer, EmbassyClock))
}

#[embassy_executor::task]
async fn sensor() {
    READINGS.send(215).await;
    Timer::after_millis(2500).await;
    READINGS.send(219).await;
}

#[embassy_executor::task]
async fn reporter(key: &'static ClientKey, reader: &'static Wire, writer: &'static Wire) {
    ENDS.send(report(key, reader, writer).await).await;
}

async fn report(key: &'static ClientKey, reader: &'static Wire, writer: &'static Wire) -> Result<(), Trouble> {
    let mut client = connect(key, reader, writer)?;
    let mut answer = [0; MESSAGE];
    for _ in 0..2 {
        let reading = loop {
            // While there is nothing to report the connection is kept. Either future may be dropped.
            let until = EmbassyClock.now() + Duration::from_secs(3600);
            match select(READINGS.receive(), client.idle(until)).await {
                Either::First(reading) => break reading,
                Either::Second(idled) => idled?,
            }
        };
        let length = client.request(&reading.to_be_bytes(), &mut answer).await?;
        println!("client: {}", answer.get(..length).unwrap_or_default().escape_ascii());
    }
    client.close().await?;
    println!("client: closed");

    // The same port again.
    let mut client = connect(key, reader, writer)?;
    let length = client.request(&220_u16.to_be_bytes(), &mut answer).await?;
    println!("client: {}", answer.get(..length).unwrap_or_default().escape_ascii());
    client.close().await?;
    println!("client: closed");
    Ok(())
}

#[embassy_executor::task]
async fn collector(key: &'static ServerKey, reader: &'static Wire, writer: &'static Wire) {
    ENDS.send(collect(key, reader, writer).await).await;
}

async fn collect(key: &'static ServerKey, reader: &'static Wire, writer: &'static Wire) -> Result<(), Trouble> {
    // A device does so for ever.
    for _ in 0..2 {
        let (buffers, memory) = (([0; BUFFER], [0; BUFFER]), ([0; MESSAGE], [0; MESSAGE]));
        let line = ServerLine::start(key, &settings()?, EmbassyClock.now(), &mut SysRng, buffers, memory)?;
        let mut server: DeviceServer = Server::new(line, reader, writer, EmbassyClock);
        server.serve(note).await?;
        println!("server: the client has closed");
    }
    Ok(())
}

/// The handler. It may wait for other tasks.
async fn note(request: &[u8], answer: &mut [u8]) -> Result<usize, Refusal> {
    let reading = u16::from_be_bytes(request.try_into().map_err(|_| Refusal::Failed)?);
    Timer::after_millis(10).await;
    let text = format!("{}.{} degrees noted", reading / 10, reading % 10);
    let place = answer.get_mut(..text.len()).ok_or(Refusal::AnswerTooLarge)?;
    place.copy_from_slice(text.as_bytes());
    Ok(text.len())
}

fn spawn(spawner: Spawner) -> Result<(), Trouble> {
    let secret = || Key::from_bytes([7; 32]);
    let (to_server, to_client) = (&*TO_SERVER.init(Pipe::new()), &*TO_CLIENT.init(Pipe::new()));
    let client_key = CLIENT_KEY.init(NoiseClient::new(secret()?, &b""[..], RustCrypto)?);
    let ring = KeyRing::new([Some(NoiseSecret::derive(secret()?, &RustCrypto))], &mut SysRng)?;
    let server_key = SERVER_KEY.init(NoiseServer::new(ring, &b""[..], RustCrypto)?);
    spawner.spawn(sensor()?);
    spawner.spawn(collector(server_key, to_server, to_client)?);
    spawner.spawn(reporter(client_key, to_client, to_server)?);
    Ok(())
}

fn main() -> ExitCode {
    let (mut running, mut failed) = (2, false);
    EXECUTOR.init(Executor::new()).run_until(
        |spawner| {
            if let Err(trouble) = spawn(spawner) {
                let _ = ENDS.try_send(Err(trouble));
            }
        },
        || {
            while let Ok(end) = ENDS.try_receive() {
                running -= 1;
                failed |= end.is_err();
            }
            failed || running == 0
        },
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
