//! Servers behind a proxy: whose address a connection has, and how it counts.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::time::Duration;
use std::io;

#[cfg(target_os = "linux")]
use common::child::{self, Child, next_order, say};
use common::log::Log;
use common::{Running, key};
use falco_tokio::{Client, Request, Server, ServerBuilder};
use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CLIENT: &str = "203.0.113.9:1234";

/// Answers with the address of the client.
async fn start(builder: ServerBuilder) -> Running {
    Running::start(builder, |request: Request| async move {
        Ok(format!("{:?}", request.peer()))
    })
    .await
}

fn proxied() -> ServerBuilder {
    Server::builder(key(1)).trust_proxy([127, 0, 0, 0].into(), 8)
}

fn header(version: u8) -> Vec<u8> {
    let to: SocketAddr = "198.51.100.1:4287".parse().unwrap();
    let header = ProxyHeader::with_address(ProxiedAddress::stream(CLIENT.parse().unwrap(), to));
    let mut bytes = Vec::new();
    match version {
        1 => header.encode_v1(&mut bytes).unwrap(),
        _ => header.encode_v2(&mut bytes).unwrap(),
    }
    bytes
}

/// The longest header that a server reads.
const LONGEST: usize = 16 << 10;

/// A header of this length, whose last extension is of this type.
fn with_extension(kind: u8, length: usize) -> Vec<u8> {
    let mut bytes = header(2);
    let extension = u16::try_from(length - bytes.len() - 3).unwrap();
    bytes.push(kind);
    bytes.extend(extension.to_be_bytes());
    bytes.resize(length, b'x');
    let all = u16::try_from(length - 16).unwrap();
    bytes.splice(14..16, all.to_be_bytes());
    bytes
}

/// What a client is told its address is, behind a proxy that sends this first, in pieces.
async fn seen(server: &Running, first: &[u8], piece: usize) -> Result<String, falco_tokio::Error> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in first.chunks(piece) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let client = Client::builder(key(1)).over(stream).await?;
    let seen = client.request("who am I").await?;
    client.close().await;
    Ok(String::from_utf8(seen.to_vec()).unwrap())
}

#[tokio::test]
async fn a_trusted_proxy_names_the_client() {
    let server = start(proxied()).await;
    let named = format!("Some({CLIENT})");
    for version in [1, 2] {
        let header = header(version);
        for piece in [1, 7, header.len()] {
            assert_eq!(seen(&server, &header, piece).await.unwrap(), named, "{version} {piece}");
        }
    }
    // Without an address, as in a health check, it is that of the proxy.
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local).unwrap();
    assert!(seen(&server, &local, 99).await.unwrap().starts_with("Some(127.0.0.1:"));
    let unknown = b"PROXY UNKNOWN\r\n";
    assert!(seen(&server, unknown, 99).await.unwrap().starts_with("Some(127.0.0.1:"));
    server.stop().await;
}

/// Such as those of `HAProxy` with `send-proxy-v2-ssl-cn`, and certificates of clients.
#[tokio::test]
async fn a_header_may_have_long_extensions() {
    const SSL: u8 = 0x20;
    let server = start(proxied()).await;
    let named = format!("Some({CLIENT})");
    for length in [300, 511, 512, 513, 2048, 2049, 9000, LONGEST] {
        let header = with_extension(SSL, length);
        for piece in [length, length.div_ceil(3)] {
            assert_eq!(seen(&server, &header, piece).await.unwrap(), named, "{length} {piece}");
        }
    }
    assert!(seen(&server, &with_extension(SSL, LONGEST + 1), 99_999).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn without_a_header_a_trusted_proxy_is_closed_and_with_one_anybody_else_is() {
    let builder = proxied().handshake_timeout(Duration::from_millis(300));
    let server = start(builder).await;
    for first in [
        &b""[..],
        b"PROXY nonsense\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\xff\xff\xff\xff",
        &[b'x'; 5000],
    ] {
        assert!(seen(&server, first, 5000).await.is_err(), "{first:?}");
    }
    // One that is silent is closed at the handshake timeout, and one in the middle of its header.
    for first in [&b""[..], b"PROXY TCP4 203.0.113.9"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(first).await.unwrap();
        let end = timeout(Duration::from_secs(5), stream.read_u8())
            .await
            .expect("it is closed");
        assert!(end.is_err());
    }
    assert_eq!(server.stop().await.stats.established, 0);

    let others = Server::builder(key(1)).trust_proxy([192, 0, 2, 1].into(), 32);
    let server = start(others).await;
    assert!(seen(&server, &header(2), 99).await.unwrap_err().is_refused());
    assert!(seen(&server, b"", 99).await.unwrap().starts_with("Some(127.0.0.1:"));
    server.stop().await;
}

#[tokio::test]
async fn a_proxy_without_headers_is_in_the_log_and_does_not_fill_it() {
    let lines = async |first: &[u8], stays: bool| {
        let (log, _guard) = Log::warnings();
        let builder = proxied().handshake_timeout(Duration::from_millis(50));
        let server = start(builder).await;
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(first).await.unwrap();
            if stays {
                let _ = timeout(Duration::from_secs(5), stream.read_u8())
                    .await
                    .expect("it is closed");
            }
        }
        server.stop().await;
        log.text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let too_long = with_extension(2, LONGEST + 1);
    for (first, message) in [
        (&b"PROXY nonsense\r\n"[..], "it has no PROXY header"),
        (b"PROXY TCP4 203", "its PROXY header has not arrived"),
        (&too_long, "its PROXY header is longer than 16,384 bytes"),
    ] {
        let lines = lines(first, true).await;
        let (mut logged, mut left_out) = (0, 0);
        for line in &lines {
            if line.contains("further warnings were left out") {
                assert!(line.contains("without a valid PROXY header"), "{line}");
            } else {
                assert!(line.contains(message) && line.contains("proxy=127.0.0.1:"), "{line}");
                logged += 1;
            }
            let (_, count) = line.split_once("left_out=").unwrap();
            left_out += count.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
        assert_eq!(logged + left_out, 20, "{lines:?}");
        assert!(logged < 5, "{lines:?}");
    }
    // A check whether the port is open.
    assert_eq!(lines(b"", false).await, [""; 0]);
}

#[tokio::test]
async fn limits_count_by_the_address_of_the_client() {
    let server = start(proxied().max_half_open_per_source(1)).await;
    // Two half-open connections of one client are as many as it may have.
    let mut half_open = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&header(2)).await.unwrap();
        half_open.push(stream);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let stats = server.handle.stats();
    assert!(
        stats.half_open <= 2 && stats.half_open_dropped + stats.rejected >= 4,
        "{stats:?}"
    );
    // Another client of the same proxy is not affected.
    let other = b"PROXY TCP4 203.0.113.10 198.51.100.1 1 2\r\n";
    assert_eq!(seen(&server, other, 99).await.unwrap(), "Some(203.0.113.10:1)");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_passed_in_with_an_address_counts_like_any_other() {
    let server = Server::builder(key(1)).max_connections(1).unbound().unwrap();
    let server = std::sync::Arc::new(server);
    let serve = |stream| {
        let server = std::sync::Arc::clone(&server);
        tokio::spawn(async move {
            let handler = |request: Request| async move { Ok(format!("{:?}", request.peer())) };
            server
                .serve_connection_from(stream, CLIENT.parse().unwrap(), handler)
                .await
        })
    };
    let (near, far) = tokio::io::duplex(4096);
    let first = serve(far);
    let client = Client::builder(key(1)).over(near).await.unwrap();
    assert_eq!(client.request("who am I").await.unwrap(), format!("Some({CLIENT})"));
    assert_eq!(server.handle().stats().connections, 1);
    // There is no place for another.
    let (near, far) = tokio::io::duplex(4096);
    let refused = serve(far).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(Client::builder(key(1)).over(near).await.unwrap_err().is_refused());
    client.close().await;
    first.await.unwrap().unwrap();
    assert_eq!(server.handle().stats().connections, 0);
}

/// With fewer than 16 half-open places, none is kept free.
#[tokio::test]
async fn silent_streams_that_are_passed_in_keep_nobody_out() {
    const MINUTE: Duration = Duration::from_secs(60);
    for places in [1, 15, 100] {
        let builder = Server::builder(key(1)).max_half_open(places).handshake_timeout(MINUTE);
        let server = std::sync::Arc::new(builder.unbound().unwrap());
        let serve = |stream, peer: SocketAddr| {
            let server = std::sync::Arc::clone(&server);
            tokio::spawn(async move {
                let handler = |request: Request| async move { Ok(request.into_body()) };
                server.serve_connection_from(stream, peer, handler).await
            })
        };
        let mut silent = Vec::new();
        for number in 0..200_u8 {
            let (near, far) = tokio::io::duplex(64);
            let peer = SocketAddr::from(([198, 51, 100, number], 1));
            silent.push((near, serve(far, peer)));
            tokio::task::yield_now().await;
        }
        let (near, far) = tokio::io::duplex(4096);
        let serving = serve(far, CLIENT.parse().unwrap());
        let connecting = Client::builder(key(1)).handshake_timeout(MINUTE).over(near);
        let client = timeout(MINUTE / 2, connecting).await.unwrap().unwrap();
        assert_eq!(client.request("let in").await.unwrap(), "let in");
        client.close().await;
        serving.await.unwrap().unwrap();
        let stats = server.handle().stats();
        let places = u64::try_from(places).unwrap();
        assert_eq!((stats.rejected, stats.established), (0, 1), "{stats:?}");
        assert!(
            stats.half_open <= places && stats.half_open_dropped >= 200 - places,
            "{stats:?}"
        );
        drop(silent);
    }
}

#[tokio::test]
async fn a_stream_that_is_passed_in_is_not_dropped_while_it_has_unread_bytes() {
    let server = Server::builder(key(1)).max_half_open(1).unbound().unwrap();
    let serve = |stream| {
        let handler = |request: Request| async move { Ok(request.into_body()) };
        Box::pin(server.serve_connection_from(stream, CLIENT.parse().unwrap(), handler))
    };
    let ((near, far), (_other, silent)) = (tokio::io::duplex(4096), tokio::io::duplex(4096));
    let (mut first, mut second) = (serve(far), serve(silent));
    let moment = Duration::from_millis(10);
    // The server waits for the first client. Its hello arrives, and is not read.
    assert!(timeout(moment, &mut first).await.is_err());
    let client = tokio::spawn(async { Client::builder(key(1)).over(near).await });
    tokio::time::sleep(moment).await;
    // The second one needs its place.
    assert!(timeout(moment, &mut second).await.is_err());
    let asking = async {
        let client = client.await.unwrap().unwrap();
        assert_eq!(client.request("let in").await.unwrap(), "let in");
        client.close().await;
    };
    let (ended, ()) = tokio::join!(first, asking);
    ended.unwrap();
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    if child::role().is_none() {
        return;
    }
    rlimit::setrlimit(rlimit::Resource::NOFILE, 256, 256).unwrap();
    common::scene::runtime().block_on(async {
        let server = start(proxied().max_connections(1000).max_half_open(800)).await;
        say(server.address);
        let handle = server.handle.clone();
        let orders = tokio::task::spawn_blocking(move || {
            while next_order().is_some() {
                let (stats, open) = (handle.stats(), std::fs::read_dir("/dev/fd").unwrap().count());
                say(format!("{} {} {open}", stats.max_connections, stats.accept_errors));
            }
        });
        orders.await.unwrap();
    });
}

/// Connections whose header has not arrived also leave descriptors to the rest of the process.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn strangers_without_headers_leave_descriptors_to_the_rest_of_the_process() {
    let mut child = Child::spawn("server", "");
    let address: SocketAddr = child.line().parse().unwrap();
    let mut ask = || -> [usize; 3] {
        let answer = child.ask("limits");
        let numbers: Vec<_> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    };
    let [max_connections, ..] = ask();
    assert!((100..150).contains(&max_connections), "{max_connections}");
    let mut clients = Vec::new();
    for _ in 0..max_connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&header(2)).await.unwrap();
        let client = Client::builder(key(1)).over(stream).await.unwrap();
        client.request("who am I").await.unwrap();
        clients.push(client);
    }
    let mut strangers = Vec::new();
    for _ in 0..150 {
        strangers.push(TcpStream::connect(address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let [_, accept_errors, open] = ask();
    assert_eq!(accept_errors, 0);
    assert!(open <= 256 - 60, "{open}");
    drop((clients, strangers));
}
