//! A server and a client of falco-tokio.

use core::net::Ipv4Addr;
use core::time::Duration;
use std::thread;

use falco_tokio::{Client, HandlerError, Request, Server, StreamRequest};

use super::control::Control;
use super::draws::{Who, entropy, key};
use super::on_devices::only_hello;
use super::{MANY, PIECES, REKEYED, SETTLED};

async fn reverse(request: Request) -> Result<Vec<u8>, HandlerError> {
    Ok(request.body().iter().rev().copied().collect())
}

async fn exchange(client: &Client, times: usize) {
    for number in 0..times {
        let answer = client.request(format!("{number:04}")).await.expect("it is answered");
        let expected: String = format!("{number:04}").chars().rev().collect();
        assert_eq!(answer, expected.as_bytes());
    }
}

/// If `revoke`, the server ends the connections of the key instead of draining them.
pub(crate) fn noise(control: &mut Control, revoke: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(noise_scenario(control, revoke));
    // The client's tasks end on their own.
    thread::sleep(SETTLED);
    control.look("closed");
    drop(runtime);
    control.look("gone");
}

async fn noise_scenario(control: &mut Control, revoke: bool) {
    let server = Server::builder(key(1)).key(key(2)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(reverse));
    let builder = Client::builder(key(1)).entropy(entropy(Who::Client));
    let client = builder.connect(address).await.expect("it has the key");
    control.look("live 0");
    exchange(&client, 1).await;
    control.look("live 0");
    exchange(&client, MANY).await;
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
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(SETTLED).await;
    control.look("retired");
    client.set_key(key(2)).await.expect("the server has it");
    exchange(&client, 1).await;
    control.look("replaced 1");
    client.close().await;
    drop(client);
    handle.shutdown();
    serving.await.expect("no panic").expect("it ends in order");
}

async fn echo(mut request: StreamRequest) -> Result<(), HandlerError> {
    while let Some(piece) = request.body.next().await {
        request.answer.send(piece?).await?;
    }
    Ok(request.answer.finish()?)
}

/// Two open requests with open answers: one is cancelled, and the other one ends after two new
/// keys.
pub(crate) fn open(control: &mut Control) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(open_scenario(control));
    // The client's tasks end on their own.
    thread::sleep(SETTLED);
    control.look("closed");
    drop(runtime);
    control.look("gone");
}

async fn open_scenario(control: &mut Control) {
    let server = Server::builder(key(1)).entropy(entropy(Who::Server));
    let server = server.bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = control.relay(server.local_addr().expect("it is bound"));
    let handle = server.handle();
    let serving = tokio::spawn(server.serve_streams(reverse, echo));
    let builder = Client::builder(key(1)).entropy(entropy(Who::Client));
    let client = builder.connect(address).await.expect("it has the key");
    let mut calls = Vec::new();
    for first in ["kept", "left"] {
        let mut call = client.open(first).await.expect("the server takes it");
        let answered = call.next().await.expect("an answer begins").expect("it goes on");
        assert_eq!(answered, first);
        calls.push(call);
    }
    tokio::time::sleep(SETTLED).await;
    control.look("live 0");
    drop(calls.pop());
    while handle.stats().cancelled == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(SETTLED).await;
    control.look("live 0");
    let mut call = calls.pop().expect("one is left");
    for number in 0..PIECES {
        let piece = format!("{number:04}");
        call.send(piece.clone()).await.expect("the request is open");
        let answered = call.next().await.expect("the answer is open").expect("it goes on");
        assert_eq!(answered, piece);
    }
    tokio::time::sleep(SETTLED).await;
    control.look(&format!("{REKEYED} 0"));
    call.finish().expect("the request is open");
    assert!(call.next().await.is_none());
    drop(call);
    tokio::time::sleep(SETTLED).await;
    control.look(&format!("{REKEYED} 0"));
    client.close().await;
    drop(client);
    handle.shutdown();
    serving.await.expect("no panic").expect("it ends in order");
}

/// A client whose key the server does not have.
pub(crate) fn refused(control: &mut Control) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = Server::builder(key(1)).entropy(entropy(Who::Server));
        let server = server.bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = control.relay(server.local_addr().expect("it is bound"));
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(reverse));
        let builder = Client::builder(key(2)).entropy(entropy(Who::Client));
        let error = builder.connect(address).await.expect_err("the server has another key");
        assert!(error.is_refused(), "{error}");
        tokio::time::sleep(SETTLED).await;
        control.look("refused");
        handle.shutdown();
        serving.await.expect("no panic").expect("it ends in order");
    });
    drop(runtime);
    control.look("gone");
}

pub(crate) fn classic(control: &mut Control) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = Server::classic(key(1)).entropy(entropy(Who::Server));
        let server = server.bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = server.local_addr().expect("it is bound");
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(reverse));
        let builder = Client::classic(key(1)).entropy(entropy(Who::Client));
        let client = builder.connect(address).await.expect("it has the key");
        exchange(&client, 3).await;
        control.look("classic");
        client.close().await;
        drop(client);
        handle.shutdown();
        serving.await.expect("no panic").expect("it ends in order");
    });
    // The client's tasks end on their own.
    thread::sleep(SETTLED);
    control.look("closed");
    drop(runtime);
    control.look("gone");
}

/// A hello after which nothing follows, as in a replay: the server answers it, and ends the
/// connection at the deadline.
pub(crate) fn replayed(control: &mut Control) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = Server::builder(key(1))
            .entropy(entropy(Who::Server))
            .handshake_timeout(SETTLED);
        let server = server.bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = control.relay(server.local_addr().expect("it is bound"));
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(reverse));
        only_hello(address);
        while handle.stats().unauthenticated == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(SETTLED).await;
        control.look("refused");
        handle.shutdown();
        serving.await.expect("no panic").expect("it ends in order");
    });
    drop(runtime);
    control.look("gone");
}

/// Long messages. Then everything is dropped while a request runs.
pub(crate) fn dropped(control: &mut Control) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = Server::builder(key(1)).entropy(entropy(Who::Server));
        let server = server.bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = control.relay(server.local_addr().expect("it is bound"));
        drop(tokio::spawn(server.serve(|request: Request| async move {
            if request.body().len() == 5 {
                core::future::pending::<()>().await;
            }
            Ok::<_, HandlerError>(request.into_body())
        })));
        let builder = Client::builder(key(1)).entropy(entropy(Who::Client));
        let client = builder.connect(address).await.expect("it has the key");
        let body = vec![7; 1_000_000];
        assert_eq!(client.request(body.clone()).await.expect("it is answered"), body);
        tokio::time::sleep(SETTLED).await;
        control.look(&format!("{REKEYED} 0"));
        let waiting = tokio::spawn(async move { client.request("never").await.is_ok() });
        tokio::time::sleep(SETTLED).await;
        control.look(&format!("{REKEYED} 0"));
        drop(waiting);
    });
    drop(runtime);
    control.look("gone");
}
