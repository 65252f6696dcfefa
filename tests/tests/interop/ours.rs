//! Our side of the interop tests: a server that notes what its handler saw, a client that waits
//! within bounds, and the keys.

use core::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use falco_std::{Client, Error, Handle, Key, Report, Request, Server, Settings};

use super::bodies;
use super::peer::{Kind, PATIENCE};

/// The key of both sides.
pub(crate) const KEY: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
/// That key with its last bit flipped.
pub(crate) const WRONG_KEY: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b555";

fn key(text: &str) -> Key {
    text.parse().expect("a key of 64 digits")
}

/// Our client, connected.
pub(crate) fn connect(address: SocketAddr, text: &str) -> Result<Client, Error> {
    Client::classic(key(text))
        .connect_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        .connect(address)
}

/// Our server, serving on a thread. Dropping it stops it.
pub(crate) struct OurServer {
    pub(crate) address: SocketAddr,
    handle: Handle,
    serving: Option<JoinHandle<Report>>,
    handled: Arc<Mutex<Vec<String>>>,
}

impl OurServer {
    pub(crate) fn start(settings: Settings) -> Self {
        let builder = Server::classic(key(KEY)).settings(settings);
        let server = builder.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let handled = Arc::new(Mutex::new(Vec::new()));
        let address = server.local_addr().expect("a bound socket has an address");
        let handle = server.handle();
        let noted = Arc::clone(&handled);
        let serving = thread::spawn(move || {
            server
                .serve(move |request: Request| {
                    let body = request.into_body();
                    lock(&noted).push(bodies::report("handled", &body));
                    Ok(bodies::transform(&body))
                })
                .expect("it never fails")
        });
        Self {
            address,
            handle,
            serving: Some(serving),
            handled,
        }
    }

    /// What the handler has been given, in its order, since this was last asked.
    pub(crate) fn handled(&self) -> Vec<String> {
        core::mem::take(&mut lock(&self.handled))
    }

    /// Stops in good order.
    pub(crate) fn stop(mut self) -> Report {
        self.handle.shutdown();
        let serving = self.serving.take().expect("it serves until here");
        serving.join().expect("serving does not panic")
    }
}

impl Drop for OurServer {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a test if the peer is to be had on this machine, and fails it when it hangs. What it has
/// started then ends with the test process.
pub(crate) fn test_with(kind: Kind, test: impl FnOnce() + Send + 'static) {
    if !kind.is_here() {
        return;
    }
    let (done, wait) = mpsc::channel::<()>();
    let current = thread::current();
    let name = current.name().unwrap_or("a test").to_owned();
    let running = thread::Builder::new().name(name).spawn(move || {
        let _done = done;
        test();
    });
    let running = running.expect("a thread more");
    let hung = wait.recv_timeout(3 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!hung, "not done after {:?}", 3 * PATIENCE);
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}
