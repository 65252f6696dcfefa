//! Two devices under Embassy, each a task: one reads a sensor and reports, the other is the server.
//! Pipes of Embassy replace the serial port between them, and the executor is the host's. The rest
//! is as on a chip.
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
use embassy_sync::pipe::{Pipe, Reader, Writer};
use embassy_time::Timer;
use falco_embedded::asynchronous::{Client, Server, Transport};
use falco_embedded::falco_core::noise::{KeyRing, NoiseSecret};
use falco_embedded::falco_core::{Key, Refusal, RustCrypto, Settings, SettingsError};
use falco_embedded::{BufferedClient, BufferedServer, Clock, EmbassyClock, NoiseClientKey, NoiseServerKey};
use getrandom::SysRng;
use static_cell::StaticCell;

/// One record with its length.
const BUFFER: usize = 514;
/// The largest message.
const MESSAGE: usize = 1024;

// Tasks cannot be generic, so all their types are named.
/// One direction, with the buffer of a serial port.
type Wire = Pipe<CriticalSectionRawMutex, 64>;
type Rx = Reader<'static, CriticalSectionRawMutex, 64>;
type Tx = Writer<'static, CriticalSectionRawMutex, 64>;
/// A device's end of the serial port, and memory for one connection after the other.
struct Board {
    reader: Rx,
    writer: Tx,
    inbox: [u8; BUFFER],
    outbox: [u8; BUFFER],
}
/// A server's memory for a request, and for its answer.
type Bodies = [[u8; MESSAGE]; 2];
/// The halves of the port and the timer.
type Port<'b> = Transport<&'b mut Rx, &'b mut Tx, EmbassyClock>;
/// Port and buffers are borrowed, so that connections are small: the arguments of an `async fn` are
/// part of its future.
type Lent<'b> = (&'b mut [u8], &'b mut [u8]);
type DeviceClient<'b> = Client<Port<'b>, &'static NoiseClientKey, Lent<'b>>;
type DeviceServer<'b> = Server<Port<'b>, &'static NoiseServerKey<1>, Lent<'b>, Lent<'b>>;

static TO_SERVER: StaticCell<Wire> = StaticCell::new();
static TO_CLIENT: StaticCell<Wire> = StaticCell::new();
static CLIENT_KEY: StaticCell<NoiseClientKey> = StaticCell::new();
static SERVER_KEY: StaticCell<NoiseServerKey<1>> = StaticCell::new();
static CLIENT: StaticCell<Board> = StaticCell::new();
static SERVER: StaticCell<Board> = StaticCell::new();
static BODIES: StaticCell<Bodies> = StaticCell::new();
static EXECUTOR: StaticCell<Executor> = StaticCell::new();

/// What the sensor reads, in tenths of a degree.
static READINGS: Channel<CriticalSectionRawMutex, u16, 4> = Channel::new();
/// How each of the two devices ended. Firmware does not end.
static ENDS: Channel<CriticalSectionRawMutex, Result<(), Trouble>, 2> = Channel::new();

/// An unexpected error, which was logged.
struct Trouble;

impl<E: Debug> From<E> for Trouble {
    fn from(error: E) -> Self {
        println!("trouble: {error:?}");
        Self
    }
}

/// A lifetime that is shorter than the silence between two readings, so that keep-alive is needed.
fn settings() -> Result<Settings, SettingsError> {
    let settings = Settings::new().with_max_record(512)?.with_max_message(1024);
    settings.with_lifetime(Duration::from_secs(1))
}

fn connect<'b>(key: &'static NoiseClientKey, board: &'b mut Board) -> Result<DeviceClient<'b>, Trouble> {
    let (inbox, outbox) = (&mut board.inbox[..], &mut board.outbox[..]);
    let buffered = BufferedClient::start(key, &settings()?, EmbassyClock.now(), &mut SysRng, (inbox, outbox))?;
    Ok(Client::new(
        buffered,
        &mut board.reader,
        &mut board.writer,
        EmbassyClock,
    ))
}

fn listen<'b>(
    key: &'static NoiseServerKey<1>,
    board: &'b mut Board,
    [request, answer]: &'b mut Bodies,
) -> Result<DeviceServer<'b>, Trouble> {
    let buffers = (&mut board.inbox[..], &mut board.outbox[..]);
    let bodies = (&mut request[..], &mut answer[..]);
    let buffered = BufferedServer::start(key, &settings()?, EmbassyClock.now(), &mut SysRng, buffers, bodies)?;
    Ok(Server::new(
        buffered,
        &mut board.reader,
        &mut board.writer,
        EmbassyClock,
    ))
}

#[embassy_executor::task]
async fn sensor() {
    READINGS.send(215).await;
    Timer::after_millis(2500).await;
    READINGS.send(219).await;
    READINGS.send(220).await;
}

#[embassy_executor::task]
async fn reporter(key: &'static NoiseClientKey, board: &'static mut Board) {
    let reports = async {
        // One connection after the other, over the same port and memory.
        for readings in [2, 1] {
            let mut client = connect(key, board)?;
            for _ in 0..readings {
                let reading = loop {
                    // Keeps the connection alive until there is a reading. Either future may be
                    // dropped.
                    let until = EmbassyClock.now() + Duration::from_secs(3600);
                    match select(READINGS.receive(), client.idle(until)).await {
                        Either::First(reading) => break reading,
                        Either::Second(idled) => idled?,
                    }
                };
                let mut answer = [0; 64];
                let length = client.request(&reading.to_be_bytes(), &mut answer).await?;
                println!("client: {}", answer.get(..length).unwrap_or_default().escape_ascii());
            }
            client.close().await?;
            println!("client: closed");
        }
        Ok(())
    };
    ENDS.send(reports.await).await;
}

#[embassy_executor::task]
async fn collector(key: &'static NoiseServerKey<1>, board: &'static mut Board, bodies: &'static mut Bodies) {
    let connections = async {
        // A device would continue, also after an error.
        for _ in 0..2 {
            listen(key, board, bodies)?.serve(note).await?;
            println!("server: the client has closed");
        }
        Ok(())
    };
    ENDS.send(connections.await).await;
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
    let (server_reader, client_writer) = TO_SERVER.init(Pipe::new()).split();
    let (client_reader, server_writer) = TO_CLIENT.init(Pipe::new()).split();
    let client_key = &*CLIENT_KEY.init(NoiseClientKey::new(secret()?, b"", RustCrypto)?);
    let ring = KeyRing::new([Some(NoiseSecret::derive(secret()?, &RustCrypto))], &mut SysRng)?;
    let server_key = &*SERVER_KEY.init(NoiseServerKey::new(ring, b"", RustCrypto)?);
    let (inbox, outbox) = ([0; BUFFER], [0; BUFFER]);
    let board = |reader, writer| Board {
        reader,
        writer,
        inbox,
        outbox,
    };
    let client = CLIENT.init(board(client_reader, client_writer));
    let server = SERVER.init(board(server_reader, server_writer));
    let bodies = BODIES.init([[0; MESSAGE]; 2]);
    spawner.spawn(sensor()?);
    spawner.spawn(collector(server_key, server, bodies)?);
    spawner.spawn(reporter(client_key, client)?);
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
