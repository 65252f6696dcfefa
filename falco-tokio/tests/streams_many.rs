//! A thousand open requests on one connection: all of them go on at once, and the memory that they
//! take is within what `docs/streams.md` names.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::key;
use common::streaming::{Streaming, echo, server, soon};
use falco_tokio::{Call, Client};

const STREAMS: usize = 1000;
const WINDOW: u32 = 16 << 10;

async fn client(server: &Streaming) -> Client {
    let builder = Client::builder(key(1)).max_outstanding(2000).stream_window(WINDOW);
    server.client_of(builder).await
}

#[tokio::test]
async fn a_thousand_streams_share_a_connection() {
    let server = Streaming::start(server().streams(WINDOW, 1000).max_in_flight(1001), echo).await;
    let client = client(&server).await;
    let mut calls: Vec<Call> = Vec::new();
    for number in 0..STREAMS {
        calls.push(soon(client.open(format!("{number}"))).await.unwrap());
    }
    // One more waits for a place.
    let opener = client.clone();
    let waiting = tokio::spawn(async move { opener.open("waits").await.unwrap() });
    for round in 0..3 {
        for (number, call) in calls.iter_mut().enumerate() {
            if round == 0 {
                assert_eq!(soon(call.next()).await.unwrap().unwrap(), format!("{number}"));
            }
            call.send(format!("{number} {round}")).await.unwrap();
        }
        for (number, call) in calls.iter_mut().enumerate() {
            assert_eq!(soon(call.next()).await.unwrap().unwrap(), format!("{number} {round}"));
        }
    }
    assert_eq!(server.handle.stats().requests, 1000);
    assert!(!waiting.is_finished());
    let mut first = calls.pop().unwrap();
    first.finish().unwrap();
    assert!(soon(first.next()).await.is_none());
    let (mut sending, mut receiving) = soon(waiting).await.unwrap().split();
    assert_eq!(soon(receiving.next()).await.unwrap().unwrap(), "waits");
    sending.finish().unwrap();
    drop(calls);
    assert!(soon(receiving.next()).await.is_none());
    assert_eq!(soon(client.request("whole")).await.unwrap(), "whole");
    drop((first, sending, receiving));
    assert_eq!(client.stats().outstanding, 0);
    server.stop().await;
}

#[cfg(target_os = "linux")]
mod memory {
    use std::sync::Arc;

    use bytes::Bytes;
    use falco_tokio::{Client, Error, HandlerError, RecvStream, SendStream, StreamRequest};
    use tokio::runtime::Builder;
    use tokio::sync::watch;
    use tokio::task::JoinSet;

    use super::common::peak::{MIB, alone, assert_grown, reset_peak};
    use super::common::streaming::{Streaming, server};
    use super::{STREAMS, WINDOW, client};

    const CHUNK: usize = 8 << 10;
    /// What each side sends on a stream: more than is held of it while it is not read.
    const LENGTH: usize = 192 << 10;
    /// What the two ends of a stream may hold of one body: its window at the reader; at the writer
    /// what is on its way to the socket, and a chunk.
    const HELD: usize = (16 << 10) + (128 << 10) + CHUNK;
    /// What a stream may take besides at both ends, with the tasks of this test.
    const BESIDES: usize = 16 << 10;

    /// The byte at a place of the body that is sent `up` or down on a stream.
    fn byte(number: u32, up: bool, at: usize) -> u8 {
        (at / 251 + at + usize::from(up) * 127 + usize::try_from(number).unwrap() * 7).to_le_bytes()[0]
    }

    async fn write(to: &mut SendStream, number: u32, up: bool) -> Result<(), Error> {
        for from in (0..LENGTH).step_by(CHUNK) {
            let chunk: Vec<u8> = (from..from + CHUNK).map(|at| byte(number, up, at)).collect();
            to.send(chunk).await?;
        }
        Ok(())
    }

    /// Reads a body once it may, and compares every byte. The first bytes may have been read.
    async fn read(
        mut from: RecvStream,
        (number, up): (u32, bool),
        begins: Bytes,
        mut may: watch::Receiver<bool>,
    ) -> Result<(), HandlerError> {
        may.wait_for(|may| *may).await?;
        let mut at = 0;
        let mut bytes = begins;
        loop {
            for found in &bytes {
                assert_eq!(*found, byte(number, up, at), "at {at} of {number}");
                at += 1;
            }
            match from.next().await {
                Some(next) => bytes = next?,
                None => break,
            }
        }
        assert_eq!(at, LENGTH, "the body of {number} is whole");
        Ok(())
    }

    async fn handle(request: StreamRequest, may: watch::Receiver<bool>) -> Result<(), HandlerError> {
        let StreamRequest {
            mut body, mut answer, ..
        } = request;
        // The first bytes are the number of the stream.
        let mut begins = body.next().await.ok_or("there is no number")??;
        let number = u32::from_le_bytes(begins.split_to(4)[..].try_into()?);
        let (written, read) = tokio::join!(
            write(&mut answer, number, false),
            read(body, (number, true), begins, may)
        );
        written?;
        read?;
        // It ends the request: the rest of its body would not be sent.
        Ok(answer.finish()?)
    }

    #[test]
    fn a_thousand_streams_that_nobody_reads_take_what_the_windows_allow_and_then_all_arrive() {
        if !alone("memory::a_thousand_streams_that_nobody_reads_take_what_the_windows_allow_and_then_all_arrive") {
            return;
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (go, may) = watch::channel(false);
        let (server, client) = runtime.block_on(async {
            let may = may.clone();
            let builder = server().streams(WINDOW, 1000).max_in_flight(1000);
            let server = Streaming::start(builder, move |request| handle(request, may.clone())).await;
            let client = client(&server).await;
            assert_eq!(client.request("whole").await.unwrap(), "whole");
            (server, client)
        });
        let before = reset_peak();
        let client = Arc::new(client);
        let mut streams = JoinSet::new();
        for number in 0..u32::try_from(STREAMS).unwrap() {
            let (client, may): (Arc<Client>, _) = (Arc::clone(&client), may.clone());
            let stream = async move {
                let call = client.open(number.to_le_bytes().to_vec()).await?;
                let (mut sending, receiving) = call.split();
                let writing = async {
                    write(&mut sending, number, true).await?;
                    sending.finish()
                };
                let read = read(receiving, (number, false), Bytes::new(), may);
                let (written, read) = tokio::join!(writing, read);
                written?;
                read
            };
            streams.spawn_on(stream, runtime.handle());
        }
        let bound = STREAMS * (2 * HELD + BESIDES) + 4 * MIB;
        assert_grown(before, bound, "1,000 streams that nobody reads");
        assert_eq!(
            server.handle.stats().requests,
            1 + 1000,
            "all have reached their handlers"
        );
        assert_eq!(server.handle.stats().answers, 1, "none has completed");
        go.send(true).unwrap();
        runtime.block_on(async {
            while let Some(ended) = streams.join_next().await {
                ended.unwrap().unwrap();
            }
        });
        assert_grown(before, bound, "1,000 streams at full speed");
        assert_eq!(runtime.block_on(server.stop()).stats.answers, 1001);
    }
}
