//! A device subscribes to services of falco-tokio and falco-std, over TCP: what their handlers of
//! open requests send arrives in pieces, and what they cut off does not look like an end.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../../falco-embedded/examples/host/socket.rs"]
mod socket;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use falco_core::testing::key;
use falco_core::{Refusal, RequestError, RustCrypto, Settings};
use falco_embedded::{BufferedClient, Clock, Error, NoiseClientKey, blocking};
use getrandom::SysRng;
use socket::{Socket, StdClock};

/// A body that is far larger than the window of the device.
fn large() -> Vec<u8> {
    (0..=250).cycle().take(100_000).collect()
}

const WITHIN: Duration = Duration::from_secs(30);

type Client<'k> = blocking::Client<blocking::Transport<Socket, StdClock>, &'k NoiseClientKey, ([u8; 514], [u8; 514])>;

/// A device whose window is 1 KiB, with memory for one.
fn device(key: &NoiseClientKey, address: SocketAddr) -> Client<'_> {
    let settings = Settings::new().with_max_record(512).unwrap().with_max_message(1024);
    let clock = StdClock::start();
    let buffers = ([0; 514], [0; 514]);
    let settings = settings.with_streams(1, 0);
    let buffered = BufferedClient::start(key, &settings, clock.now(), &mut SysRng, buffers).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    blocking::Client::new(buffered, Socket::new(stream).unwrap(), clock)
}

/// What the device does with a service, whose handler reports when a request of it was cancelled.
fn subscribe(address: SocketAddr, cancelled: &Receiver<()>) {
    let key = NoiseClientKey::new(key(7), b"", RustCrypto).unwrap();
    let mut client = device(&key, address);
    let mut memory = [0; 1024];

    let mut subscription = client.subscribe(b"all", &mut memory).unwrap();
    let mut whole = Vec::new();
    while let Some(piece) = subscription.next().unwrap() {
        whole.extend_from_slice(piece);
    }
    assert_eq!(whole, large());

    let mut subscription = client.subscribe(b"half", &mut memory).unwrap();
    let mut half = Vec::new();
    let end = loop {
        match subscription.next() {
            Ok(Some(piece)) => half.extend_from_slice(piece),
            Ok(None) => panic!("a truncated answer has no end"),
            Err(error) => break error,
        }
    };
    assert!(large().starts_with(&half));
    assert!(
        matches!(end, Error::Request(RequestError::Refused(Refusal::Failed))),
        "{end:?}"
    );

    let mut subscription = client.subscribe(b"forever", &mut memory).unwrap();
    assert!(subscription.next().unwrap().is_some());
    subscription.cancel().unwrap();
    cancelled.recv_timeout(WITHIN).unwrap();

    // Whole requests go on.
    let length = client.request(b"whole", &mut memory).unwrap();
    assert_eq!(memory.get(..length), Some(&b"whole"[..]));
    client.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_subscribes_to_a_service_on_tokio() {
    use falco_tokio::{OnCancel, Request, Server, StreamRequest};

    let (tell, cancelled): (Sender<()>, _) = channel();
    let builder = Server::builder(key(7)).on_cancel(OnCancel::Signal);
    let server = builder.bind("127.0.0.1:0").await.unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.handle());
    let streams = move |mut request: StreamRequest| {
        let tell = tell.clone();
        async move {
            let what = request.body.collect(100).await?;
            match &what[..] {
                b"all" => {
                    request.answer.send(large()).await?;
                    request.answer.finish()?;
                }
                b"half" => {
                    request.answer.send(large()).await?;
                    return Err("this handler fails".into());
                }
                _ => {
                    while request.answer.send(large()).await.is_ok() {}
                    tell.send(()).unwrap();
                }
            }
            Ok(())
        }
    };
    let echo = |request: Request| async move { Ok(request.into_body()) };
    let serving = tokio::spawn(server.serve_streams(echo, streams));
    tokio::task::spawn_blocking(move || subscribe(address, &cancelled))
        .await
        .unwrap();
    handle.shutdown();
    serving.await.unwrap().unwrap();
}

#[test]
fn a_device_subscribes_to_a_service_on_threads() {
    use falco_std::{Request, Server, StreamRequest};

    let (tell, cancelled): (Sender<()>, _) = channel();
    let server = Server::builder(key(7)).bind("127.0.0.1:0").unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.handle());
    let streams = move |mut request: StreamRequest| {
        let what = request.body.collect(100)?;
        match &what[..] {
            b"all" => {
                request.answer.write_all(&large())?;
                request.answer.finish()?;
            }
            b"half" => {
                request.answer.write_all(&large())?;
                return Err("this handler fails".into());
            }
            _ => {
                while request.answer.send(large()).is_ok() {}
                tell.send(()).unwrap();
            }
        }
        Ok(())
    };
    let echo = |request: Request| Ok(request.into_body());
    let serving = thread::spawn(move || server.serve_streams(echo, streams));
    subscribe(address, &cancelled);
    handle.shutdown();
    serving.join().unwrap().unwrap();
}
