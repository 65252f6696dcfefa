//! Slow links and streams without timeouts. A request that was sent is reported as sent, a shutdown
//! loses no answer, and every connection ends.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
#[cfg(unix)]
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(unix)]
use std::sync::Arc;
use std::thread;

use common::{Running, bounded, echo, key, millis};
use falco_core::testing::{CountingRng, replay_cache};
use falco_core::{ClassicKey, ClientConnection, Unread};
#[cfg(unix)]
use falco_std::Request;
use falco_std::{Client, Server, Settings, Stream};

/// A link that accepts 4 KiB at a time, slowly.
struct Slow(TcpStream);

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Slow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() > 1_000 {
            thread::sleep(millis(120));
        }
        self.0.write(buf.get(..4096).unwrap_or(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Stream for Slow {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

#[test]
fn a_request_that_takes_longer_than_a_lifetime_to_send_is_answered() {
    bounded(|| {
        let server = Running::echo();
        let settings = Settings::new().with_lifetime(Duration::from_secs(1)).expect("a second");
        let stream = Slow(TcpStream::connect(server.address).expect("it listens"));
        let client = Client::classic(key())
            .settings(settings)
            .over(stream)
            .expect("the right key");
        assert_eq!(client.request(vec![1; 40_000]).expect("an answer"), vec![1; 40_000]);
    });
}

#[test]
fn a_client_that_sends_no_request_has_completed_its_handshake() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(millis(300))
            .expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings), echo);
        let stream = Slow(TcpStream::connect(server.address).expect("it listens"));
        let client = Client::builder(key()).over(stream).expect("the right key");
        thread::sleep(millis(700));
        assert_eq!(client.request("hello").expect("an answer"), b"hello");
        assert_eq!(server.stop().stats.established, 1);
    });
}

/// Sends a request. Its answer is read later.
fn asked(server: SocketAddr) -> TcpStream {
    let now = falco_core::Instant::ZERO;
    let key = ClassicKey::new(key(), replay_cache(8));
    let mut machine = ClientConnection::new(&key, &Settings::new(), now, &mut CountingRng::new(9)).expect("entropy");
    let (mut stream, mut buffer) = (TcpStream::connect(server).expect("it listens"), [0; 200]);
    let sent = machine.poll_transmit(now, &mut buffer).expect("there is room");
    stream.write_all(&buffer[..sent]).expect("it goes");
    stream.read_exact(&mut buffer[..1]).expect("it is accepted");
    machine
        .recv(now, Unread::new(&mut buffer[..1], &mut 0))
        .expect("it is accepted");
    let mut request = machine.request(1).expect("it is established");
    let sent = machine
        .seal(now, [(&mut request, &b"x"[..])], &mut buffer)
        .expect("there is room");
    stream.write_all(&buffer[..sent]).expect("it goes");
    stream
}

#[test]
fn a_shutdown_destroys_no_answer_when_the_client_still_sends() {
    bounded(|| {
        const SIZE: usize = 3 << 20;
        let server = Running::start(Server::classic(key()), |_| Ok(vec![0; SIZE]));
        let mut stream = asked(server.address);
        // The answer is in the buffers of the system now.
        thread::sleep(if cfg!(debug_assertions) {
            millis(2_000)
        } else {
            millis(400)
        });
        server.handle.shutdown();
        thread::sleep(millis(100));
        stream.write_all(&[2]).expect("a ping");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("all of it");
        assert_eq!(answer.len(), SIZE + 36);
    });
}

#[cfg(unix)]
#[test]
fn connections_end_over_streams_without_timeouts() {
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use falco_std::Blocking;

    bounded(|| {
        let start = Instant::now();
        for fails in [false, true] {
            let (near, far) = UnixStream::pair().expect("a pair");
            let server = Server::classic(key()).unbound().expect("it is made");
            let handler = move |request: Request| {
                if fails {
                    Err("no".into())
                } else {
                    Ok(request.into_body())
                }
            };
            let serving = thread::spawn(move || server.serve_connection(Blocking(far), handler));
            let client = Client::classic(key()).over(Blocking(near)).expect("the right key");
            assert_eq!(client.request("a").is_err(), fails);
            client.close();
            serving.join().expect("it does not panic").expect("it has an end");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

#[cfg(unix)]
#[test]
fn a_blocked_write_ends_after_the_agreed_lifetime() {
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use falco_core::noise::{FixedTable, NoiseClient};
    use falco_core::{Received, RecvBuf, RustCrypto};
    use falco_std::ConnectionError;

    bounded(|| {
        let (mut near, far) = UnixStream::pair().expect("a pair");
        let server = Server::builder(key()).unbound().expect("it is made");
        let serving = thread::spawn(move || {
            let start = Instant::now();
            let ended = server.serve_connection(far, |_| Ok(vec![7; 4 << 20]));
            (ended, start.elapsed())
        });
        // A client with a lifetime of a second, which reads no byte of its answer and keeps
        // sending. Its own clock stands still, so that it does not end the connection itself.
        let now = falco_core::Instant::ZERO;
        let client_key = NoiseClient::<FixedTable<4>, _>::new(key(), &b""[..], RustCrypto).expect("no context");
        let short = Settings::new().with_lifetime(Duration::from_secs(1)).expect("a second");
        let mut client =
            ClientConnection::new(&client_key, &short, now, &mut CountingRng::new(5)).expect("it does not fail");
        let (mut inbox, mut out) = (RecvBuf::new(Vec::new()), [0; 400]);
        let hello = client.poll_transmit(now, &mut out).expect("there is room");
        near.write_all(&out[..hello]).expect("it is taken");
        while !matches!(client.recv(now, inbox.unread()), Ok(Received::Event(_))) {
            let count = near.read(inbox.space(64).expect("it grows")).expect("a welcome");
            inbox.filled(count);
        }
        let body = vec![3; 1 << 20];
        let (mut asked, mut large) = (client.request(1).unwrap(), client.request(body.len()).unwrap());
        let asking = client
            .seal(now, [(&mut asked, &b"a"[..])], &mut out)
            .expect("there is room");
        near.write_all(&out[..asking]).expect("it is taken");
        near.set_write_timeout(Some(millis(100))).expect("it is a socket");
        for _ in 0..100 {
            if serving.is_finished() {
                break;
            }
            let part = client
                .seal(now, [(&mut large, &body[..])], &mut out)
                .expect("there is room");
            let _ = near.write_all(&out[..part]);
            thread::sleep(millis(200));
        }
        let (ended, took) = serving.join().expect("it does not panic");
        assert_eq!(ended.expect("the stream works"), ConnectionError::Stalled);
        assert!(took >= millis(900) && took < millis(5_000), "{took:?}");
    });
}

/// One end of a Unix socket that takes this many bytes per millisecond, and while it is `choked`,
/// one byte in 300 ms.
#[cfg(unix)]
struct Metered {
    stream: std::os::unix::net::UnixStream,
    bytes_per_milli: u64,
    choked: Arc<AtomicBool>,
}

#[cfg(unix)]
impl Read for Metered {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

#[cfg(unix)]
impl Write for Metered {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.choked.load(Ordering::SeqCst) {
            thread::sleep(millis(300));
            return self.stream.write(&buf[..1]);
        }
        let part = &buf[..buf.len().min(16 << 10)];
        let micros = u64::try_from(part.len()).unwrap() * 1_000 / self.bytes_per_milli;
        thread::sleep(Duration::from_micros(micros));
        self.stream.write_all(part).map(|()| part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(unix)]
impl Stream for Metered {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, _timeout: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }

    fn split(&self) -> io::Result<Option<falco_std::BoxedStream>> {
        Ok(Some(Box::new(Self {
            stream: self.stream.try_clone()?,
            bytes_per_milli: self.bytes_per_milli,
            choked: Arc::clone(&self.choked),
        })))
    }
}

/// A client that takes bytes all the time is alive, whether it sends PINGs or not, and the server
/// reads its PINGs.
#[cfg(unix)]
#[test]
fn a_slow_download_of_a_hundred_answers_is_not_cut_off() {
    use std::os::unix::net::UnixStream;

    bounded(|| {
        const SIZE: usize = 64 << 10;
        for keep_alive in [true, false] {
            let (near, stream) = UnixStream::pair().unwrap();
            let settings = common::lifetime(millis(1_500)).with_max_message(64 << 10);
            let server = Server::builder(key()).settings(settings.with_max_held(2 << 16));
            let server = server.unbound().unwrap();
            // It takes three lifetimes.
            let slow = Metered {
                stream,
                bytes_per_milli: 1_400,
                choked: Arc::default(),
            };
            let serving = thread::spawn(move || server.serve_connection(slow, |_| Ok(vec![7; SIZE])));
            let client = Client::builder(key()).settings(settings.with_keep_alive(keep_alive));
            let client = client.request_timeout(None).over(near).unwrap();
            let own = client.clone();
            let ends = common::at_once(100, move || own.request("?"));
            let failed = ends.iter().filter_map(|(end, _)| end.as_ref().err());
            let failed: Vec<_> = failed.collect();
            assert!(
                failed.is_empty(),
                "{keep_alive}: {} failed: {:?}",
                failed.len(),
                failed[0]
            );
            let slowest = ends.iter().map(|(_, took)| *took).max().unwrap();
            assert!(slowest > millis(4_000), "{slowest:?}");
            client.close();
            serving.join().unwrap().unwrap();
        }
    });
}

/// Carries 1,200 bytes in 10 ms. What is before it waits in the buffers of the system.
#[cfg(unix)]
fn carry_slowly(mut from: std::os::unix::net::UnixStream, mut to: std::os::unix::net::UnixStream) {
    let mut bytes = [0; 1_200];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        thread::sleep(millis(10));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// The PING of a client is behind more than the link carries until its PONG is due.
#[cfg(unix)]
#[test]
fn a_slow_upload_of_large_requests_is_not_cut_off() {
    use std::os::unix::net::UnixStream;

    bounded(|| {
        const SIZE: usize = 200_000;
        let (near, client_side) = UnixStream::pair().unwrap();
        let (server_side, far) = UnixStream::pair().unwrap();
        let (from_client, to_server) = (client_side.try_clone().unwrap(), server_side.try_clone().unwrap());
        thread::spawn(move || carry_slowly(from_client, to_server));
        thread::spawn(move || carry_slowly(server_side, client_side));
        let settings = common::lifetime(millis(3_000)).with_max_message(1 << 20);
        let server = Server::builder(key()).settings(settings.with_max_held(8 << 20));
        let server = server.unbound().unwrap();
        let serving = thread::spawn(move || server.serve_connection(far, |_| Ok(vec![7])));
        let client = Client::builder(key()).settings(settings.with_max_held(8 << 20));
        let client = client.request_timeout(None).over(near).unwrap();
        let own = client.clone();
        let ends = common::at_once(4, move || own.request(vec![7; SIZE]));
        for (end, took) in &ends {
            assert!(end.is_ok(), "{end:?} after {took:?}");
        }
        client.close();
        serving.join().unwrap().unwrap();
    });
}

/// A server that has to write a refusal before it can read does not read. It does not take the
/// client for silent meanwhile.
#[cfg(unix)]
#[test]
fn a_write_that_waits_pauses_the_lifetime() {
    use std::os::unix::net::UnixStream;

    use falco_core::RustCrypto;
    use falco_core::testing::{RawHandshake, raw_frame};

    bounded(|| {
        let (mut near, stream) = UnixStream::pair().unwrap();
        let settings = common::lifetime(millis(1_000)).with_max_in_flight(1).unwrap();
        let server = Server::builder(key()).settings(settings).unbound().unwrap();
        let choked = Arc::<AtomicBool>::default();
        let slow = Metered {
            stream,
            bytes_per_milli: 1_000,
            choked: Arc::clone(&choked),
        };
        let handler = |request: Request| {
            if request.body() == b"slow" {
                thread::sleep(millis(1_700));
            }
            echo(request)
        };
        let serving = thread::spawn(move || server.serve_connection(slow, handler));
        let handshake = RawHandshake::new(RustCrypto, 7);
        near.write_all(&handshake.hello()).unwrap();
        let mut welcome = [0; 64];
        near.read_exact(&mut welcome).unwrap();
        let mut raw = handshake.client(&welcome).unwrap();
        near.write_all(&raw.seal(&raw_frame(6, 0, &[1; 8]))).unwrap();
        let mut pong = [0; 33];
        near.read_exact(&mut pong).unwrap();
        // One handler runs, and all other requests are refused: more than the server can queue.
        choked.store(true, Ordering::SeqCst);
        let busy = (2..40).map(|number| raw_frame(1, number, b"?"));
        let frames: Vec<_> = [raw_frame(1, 1, b"slow")].into_iter().chain(busy).collect();
        near.write_all(&raw.seal(&frames.concat())).unwrap();
        thread::sleep(millis(1_500));
        assert!(!serving.is_finished(), "it has not read for 1.5 lifetimes");
        choked.store(false, Ordering::SeqCst);
        let mut answers = pong.to_vec();
        let (mut refused, mut answered, mut unread) = (0, false, [0; 4096]);
        while !answered || refused < 38 {
            let count = near.read(&mut unread).unwrap();
            assert!(count > 0, "the connection lives: {refused} are refused");
            answers.extend_from_slice(&unread[..count]);
            while let Some(frames) = raw.open(&mut answers) {
                let mut rest = &frames[..];
                while let [kind, _, _, _, _, high, low, ..] = *rest {
                    refused += usize::from(kind == 4);
                    answered |= kind == 1;
                    rest = &rest[7 + usize::from(u16::from_be_bytes([high, low]))..];
                }
            }
        }
        drop(near);
        serving.join().unwrap().unwrap();
    });
}
