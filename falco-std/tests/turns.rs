//! Callers that use one connection after another, because its stream does not split: each gets its
//! turn, whatever the caller before it did.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Running, bounded, echo, key, millis, other_key};
use falco_std::{Client, ClientBuilder, Server, Stream};

/// A TCP stream that does not split.
struct Unsplit {
    stream: TcpStream,
    panic_on_shutdown: Arc<AtomicBool>,
}

impl Read for Unsplit {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Unsplit {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Stream for Unsplit {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        assert!(
            !self.panic_on_shutdown.load(Ordering::SeqCst),
            "the test wants this panic"
        );
        self.stream.shutdown(how)
    }

    fn read_ready(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read_ready(buf)
    }
}

/// Connects over streams that do not split. Their shutdown panics once the flag is set.
fn connect(builder: ClientBuilder, address: SocketAddr) -> (Client, Arc<AtomicBool>) {
    let panic_on_shutdown = Arc::<AtomicBool>::default();
    let flag = Arc::clone(&panic_on_shutdown);
    let client = builder.request_timeout(None).connect_with(move || {
        Ok(Unsplit {
            stream: TcpStream::connect(address)?,
            panic_on_shutdown: Arc::clone(&flag),
        })
    });
    (client.expect("the right key"), panic_on_shutdown)
}

/// Waits until so many callers have begun a request, and have had time to wait for their turn.
fn await_callers(client: &Client, callers: u64) {
    while client.stats().outstanding < callers {
        thread::sleep(millis(1));
    }
    thread::sleep(millis(50));
}

#[test]
fn a_panic_while_a_stream_is_shut_down_leaves_no_caller_waiting() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), |request| {
            if request.body() == b"slow" {
                thread::sleep(millis(500));
            }
            echo(request)
        });
        let (client, panic_on_shutdown) = connect(Client::builder(key()), server.address);
        panic_on_shutdown.store(true, Ordering::SeqCst);
        let own = client.clone();
        let late = thread::spawn(move || own.request_within("slow", millis(200)));
        await_callers(&client, 1);
        let own = client.clone();
        let waits = thread::spawn(move || own.request("waits"));
        late.join().expect_err("the panic reaches the caller");
        let answer = waits.join().expect("it does not panic");
        assert_eq!(answer.expect("a new connection"), b"waits");
        panic_on_shutdown.store(false, Ordering::SeqCst);
        client.close();
        server.stop();
    });
}

#[test]
fn a_caller_does_not_overtake_those_that_wait() {
    bounded(|| {
        let (go, order) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let (own_go, own_order) = (Arc::clone(&go), Arc::clone(&order));
        let server = Running::start(Server::builder(key()), move |request| {
            own_order.lock().unwrap().push(request.body().to_vec());
            while request.body() == b"slow" && !own_go.load(Ordering::SeqCst) {
                thread::sleep(millis(1));
            }
            echo(request)
        });
        let (client, _) = connect(Client::builder(key()), server.address);
        for _ in 0..10 {
            go.store(false, Ordering::SeqCst);
            let own = client.clone();
            let busy = thread::spawn(move || {
                own.request("slow").expect("an answer");
                own.request("again").expect("an answer");
            });
            await_callers(&client, 1);
            let mut waiting = Vec::new();
            for number in 0..3 {
                let own = client.clone();
                waiting.push(thread::spawn(move || own.request([number]).expect("an answer")));
                await_callers(&client, 2 + u64::from(number));
            }
            go.store(true, Ordering::SeqCst);
            busy.join().unwrap();
            for waits in waiting {
                waits.join().unwrap();
            }
            let order = core::mem::take(&mut *order.lock().unwrap());
            assert_eq!(order, [&b"slow"[..], &[0], &[1], &[2], b"again"]);
        }
        server.stop();
    });
}

#[test]
fn callers_that_wait_while_the_key_changes_use_the_new_key() {
    bounded(|| {
        for classic in [false, true] {
            let server = |key| {
                if classic {
                    Server::classic(key)
                } else {
                    Server::builder(key)
                }
            };
            let builder = |key| {
                if classic {
                    Client::classic(key)
                } else {
                    Client::builder(key)
                }
            };
            let go = Arc::<AtomicBool>::default();
            let own = Arc::clone(&go);
            let slow = Running::start(server(key()), move |request| {
                while request.body() == b"slow" && !own.load(Ordering::SeqCst) {
                    thread::sleep(millis(1));
                }
                echo(request)
            });
            let next = Running::start(server(other_key()), |_| Ok(b"the new key".to_vec()));
            let addresses = [slow.address, next.address];
            let dialed = AtomicUsize::new(0);
            let client = builder(key()).request_timeout(None).connect_with(move || {
                let number = dialed.fetch_add(1, Ordering::SeqCst);
                Ok(Unsplit {
                    stream: TcpStream::connect(addresses.get(number).unwrap())?,
                    panic_on_shutdown: Arc::default(),
                })
            });
            let client = client.expect("the right key");
            let own = client.clone();
            let first = thread::spawn(move || own.request("slow"));
            await_callers(&client, 1);
            let own = client.clone();
            let second = thread::spawn(move || own.request("waits"));
            await_callers(&client, 2);
            client.set_key(other_key()).expect("the other server has it");
            go.store(true, Ordering::SeqCst);
            let first = first.join().unwrap().expect("it completes under the old key");
            assert_eq!(first, b"slow", "classic: {classic}");
            let second = second.join().unwrap().expect("an answer");
            assert_eq!(second, b"the new key", "classic: {classic}");
            slow.stop();
            next.stop();
        }
    });
}
