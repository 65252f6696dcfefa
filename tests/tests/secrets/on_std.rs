//! A server and a client of falco-std.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::thread;

use falco_std::{Client, HandlerError, Request, Server, Settings, StreamRequest};

use super::control::Control;
use super::draws::{Who, entropy, key};
use super::on_devices::only_hello;
use super::{MANY, PIECES, REKEYED, SETTLED};

#[allow(clippy::unnecessary_wraps, clippy::needless_pass_by_value, reason = "a handler")]
fn reverse(request: Request) -> Result<Vec<u8>, HandlerError> {
    Ok(request.body().iter().rev().copied().collect())
}

fn exchange(client: &Client, times: usize) {
    for number in 0..times {
        let answer = client.request(format!("{number:04}")).expect("it is answered");
        let expected: String = format!("{number:04}").chars().rev().collect();
        assert_eq!(answer, expected.as_bytes());
    }
}

/// If `revoke`, the server ends the connections of the key instead of draining them.
pub(crate) fn noise(control: &mut Control, revoke: bool) {
    let server = Server::builder(key(1)).key(key(2)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = thread::spawn(move || server.serve(reverse));
    let builder = Client::builder(key(1)).entropy(entropy(Who::Client));
    let client = builder.connect(address).expect("it has the key");
    control.look("live 0");
    exchange(&client, 1);
    control.look("live 0");
    exchange(&client, MANY);
    control.look(&format!("{REKEYED} 0"));
    // The ring grows, and refuses a key that it has.
    assert!(handle.add_key(key(1)).is_err());
    for number in 10..60 {
        handle.add_key(key(number)).expect("it is new");
    }
    control.look(&format!("{REKEYED} 0"));
    let id = key(1).id();
    assert!(if revoke {
        handle.revoke_key(id)
    } else {
        handle.retire_key(id)
    });
    while handle.stats().connections > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(SETTLED);
    control.look("retired");
    client.set_key(key(2)).expect("the server has it");
    exchange(&client, 1);
    control.look("replaced 1");
    client.close();
    drop(client);
    handle.shutdown();
    serving.join().expect("no panic").expect("it ends in order");
    drop(handle);
    // The client's threads end on their own.
    thread::sleep(SETTLED);
    control.look("gone");
}

fn echo(mut request: StreamRequest) -> Result<(), HandlerError> {
    while let Some(piece) = request.body.next() {
        request.answer.send(piece?)?;
    }
    Ok(request.answer.finish()?)
}

/// Two open requests with open answers: one is cancelled, and the other one ends after two new
/// keys.
pub(crate) fn open(control: &mut Control) {
    let server = Server::builder(key(1)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = thread::spawn(move || server.serve_streams(reverse, echo));
    let builder = Client::builder(key(1)).entropy(entropy(Who::Client));
    let client = builder.connect(address).expect("it has the key");
    let mut calls = Vec::new();
    for first in ["kept", "left"] {
        let mut call = client.open(first).expect("the server takes it");
        let answered = call.next().expect("an answer begins").expect("it goes on");
        assert_eq!(answered, first.as_bytes());
        calls.push(call);
    }
    thread::sleep(SETTLED);
    control.look("live 0");
    drop(calls.pop());
    while handle.stats().cancelled == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(SETTLED);
    control.look("live 0");
    let mut call = calls.pop().expect("one is left");
    for number in 0..PIECES {
        let piece = format!("{number:04}");
        call.send(piece.clone()).expect("the request is open");
        let answered = call.next().expect("the answer is open").expect("it goes on");
        assert_eq!(answered, piece.as_bytes());
    }
    thread::sleep(SETTLED);
    control.look(&format!("{REKEYED} 0"));
    call.finish().expect("the request is open");
    assert!(call.next().is_none());
    drop(call);
    thread::sleep(SETTLED);
    control.look(&format!("{REKEYED} 0"));
    client.close();
    drop(client);
    handle.shutdown();
    serving.join().expect("no panic").expect("it ends in order");
    drop(handle);
    // The client's threads end on their own.
    thread::sleep(SETTLED);
    control.look("gone");
}

/// A client whose key the server does not have.
pub(crate) fn refused(control: &mut Control) {
    let server = Server::builder(key(1)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = thread::spawn(move || server.serve(reverse));
    let builder = Client::builder(key(2)).entropy(entropy(Who::Client));
    let error = builder.connect(address).expect_err("the server has another key");
    assert!(error.is_refused(), "{error}");
    thread::sleep(SETTLED);
    control.look("refused");
    handle.shutdown();
    serving.join().expect("no panic").expect("it ends in order");
    drop(handle);
    thread::sleep(SETTLED);
    control.look("gone");
}

pub(crate) fn classic(control: &mut Control) {
    let server = Server::classic(key(1)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = server.local_addr().expect("it is bound");
    let handle = server.handle();
    let serving = thread::spawn(move || server.serve(reverse));
    let builder = Client::classic(key(1)).entropy(entropy(Who::Client));
    let client = builder.connect(address).expect("it has the key");
    exchange(&client, 3);
    control.look("classic");
    client.close();
    drop(client);
    handle.shutdown();
    serving.join().expect("no panic").expect("it ends in order");
    drop(handle);
    // The client's threads end on their own.
    thread::sleep(SETTLED);
    control.look("gone");
}

/// A hello after which nothing follows, as in a replay: the server answers it, and ends the
/// connection at the deadline.
pub(crate) fn replayed(control: &mut Control) {
    let settings = Settings::new().with_handshake_timeout(SETTLED).expect("it is in range");
    let server = Server::builder(key(1)).settings(settings).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = thread::spawn(move || server.serve(reverse));
    only_hello(address);
    while handle.stats().unauthenticated == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(SETTLED);
    control.look("refused");
    handle.shutdown();
    serving.join().expect("no panic").expect("it ends in order");
    drop(handle);
    thread::sleep(SETTLED);
    control.look("gone");
}

/// Long messages, and a shutdown that cuts a request off.
pub(crate) fn dropped(control: &mut Control) {
    let server = Server::builder(key(1)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = thread::spawn(move || {
        server.serve(|request: Request| {
            while request.body().len() == 5 && !request.is_cancelled() {
                thread::sleep(Duration::from_millis(2));
            }
            Ok(request.into_body())
        })
    });
    let builder = Client::builder(key(1)).entropy(entropy(Who::Client));
    let client = builder.connect(address).expect("it has the key");
    let body = vec![7; 1_000_000];
    assert_eq!(client.request(body.clone()).expect("it is answered"), body);
    thread::sleep(SETTLED);
    control.look(&format!("{REKEYED} 0"));
    let waiting = client.clone();
    let waiting = thread::spawn(move || waiting.request("never").is_ok());
    thread::sleep(SETTLED);
    control.look(&format!("{REKEYED} 0"));
    handle.shutdown_within(Duration::ZERO);
    serving.join().expect("no panic").expect("it ends in order");
    drop(handle);
    client.close();
    drop(client);
    let _ = waiting.join();
    thread::sleep(SETTLED);
    control.look("gone");
}
