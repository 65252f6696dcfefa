//! The client and the server, written once for both kinds of streams. The blocking and the async
//! driver differ only in how they wait.

/// Defines `Client` and `Server` over a `Transport`, which moves bytes and waits.
macro_rules! drivers {
    (
        generics: [$($generics:tt)*],
        parts: [$($part:ident: $type:ty),*],
        transport: $transport:ty,
        error: $error:ty,
        words: [$($async:tt)*] [$($await:tt)*] $handler:ident,
        client: [$(#[$client:meta])*],
        server: [$(#[$server:meta])*],
        serve: [$(#[$serve:meta])*],
    ) => {
        $(#[$client])*
        pub struct Client<T, H: ClientKeyRef, B: Buffers> {
            buffered: BufferedClient<H, B>,
            transport: T,
        }

        impl<T, H: ClientKeyRef, B: Buffers> fmt::Debug for Client<T, H, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Client").field("buffered", &self.buffered).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H: ClientKeyRef, B: Buffers> Client<$transport, H, B> {
            /// Creates a client from `buffered` and a connected stream. Nothing is sent yet.
            pub fn new(buffered: BufferedClient<H, B>, $($part: $type),*) -> Self {
                let transport = Transport::new($($part),*);
                Self { buffered, transport }
            }

            /// The client without its stream, for its state.
            pub const fn buffered(&self) -> &BufferedClient<H, B> {
                &self.buffered
            }

            /// The stream and the clock, for another connection. Bytes that are pending are lost.
            pub fn into_parts(self) -> ($($type),*) {
                self.transport.into_parts()
            }

            /// Waits until the connection is established and the stream has sent all pending
            /// output. On the noise wire, the server has then proved that it has the key, and the
            /// PING that authenticates this side is sent. The call is optional, because a request
            /// waits for the same.
            ///
            /// # Errors
            /// What ended the connection. [`Refused`](falco_core::ConnectionError::Refused) and
            /// `HandshakeTimeout` have more causes than another key.
            pub $($async)* fn establish(&mut self) -> Result<(), Error<$error>> {
                self.transport.poll_clock();
                self.flush()$($await)*
            }

            /// Sends a request, and waits for its answer. Writes it to the front of `answer`, and
            /// returns its length. The body may be as long as the largest message that the server
            /// reads.
            ///
            /// # Errors
            /// Why the request failed, or what ended the connection.
            /// [`Closed`](falco_core::ConnectionError::Closed) is also returned while the
            /// connection is closing: it accepts no new requests, but may still complete others.
            ///
            /// If the connection has ended, [`BufferedClient::fate`] says whether the request may
            /// be sent again.
            ///
            /// A cancelled request stays in flight until the server answers or refuses it. The next
            /// request waits for that.
            pub $($async)* fn request(&mut self, body: &[u8], answer: &mut [u8]) -> Result<usize, Error<$error>> {
                self.transport.poll_clock();
                let mut request = match self.buffered.request(body, answer) {
                    Ok(request) => request,
                    Err(error) => return Err(self.rejected(error)$($await)*),
                };
                loop {
                    if let Some(length) = request.answered().map_err(Error::widen)? {
                        return Ok(length);
                    }
                    let stepped = self.buffered.step(self.transport.polled_at(), Some(&mut request));
                    self.proceed(stepped, None)$($await)*?;
                }
            }

            /// Sends a ping, which restarts the lifetime. Returns its number, for
            /// [`pong`](Self::pong).
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn ping(&mut self) -> Result<PingId, Error<$error>> {
                self.transport.poll_clock();
                let ping = match self.buffered.ping() {
                    Ok(ping) => ping,
                    Err(error) => return Err(self.rejected(error)$($await)*),
                };
                self.flush()$($await)*?;
                Ok(ping)
            }

            /// Waits for the answer to a ping.
            ///
            /// # Errors
            /// [`Error::NoPongs`] on the classic wire, or what ended the connection.
            pub $($async)* fn pong(&mut self, ping: PingId) -> Result<(), Error<$error>> {
                if !self.buffered.connection().machine().answers_pings() {
                    return Err(Error::NoPongs);
                }
                self.transport.poll_clock();
                while !self.buffered.last_pong().is_some_and(|last| ping.is_answered_by(last)) {
                    self.drive(None)$($await)*?;
                }
                Ok(())
            }

            /// Drives the connection until `until`. This keeps it alive if keep-alive is enabled in
            /// its settings. A connection that is not driven expires after one idle timeout
            /// (`lifetime`).
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn idle(&mut self, until: Instant) -> Result<(), Error<$error>> {
                self.transport.poll_clock();
                let mut waited = false;
                loop {
                    let now = self.transport.polled_at();
                    let stepped = self.buffered.step_idle(now);
                    let idle = matches!(stepped, Ok(false));
                    // An end is returned once its last bytes are sent, even if that is after
                    // `until`.
                    let ended = self.buffered.connection().machine().end().is_some();
                    // Even if `until` has passed at the call, what has arrived is read once.
                    if idle && waited && now >= until && !ended {
                        if !self.buffered.connection().is_broken() {
                            return Ok(());
                        }
                        self.transport.take_write_error(self.buffered.connection_mut())?;
                    }
                    waited |= idle;
                    self.proceed(stepped, (!ended).then_some(until))$($await)*?;
                }
            }

            /// Closes the connection: cancels a request whose future was dropped, sends what is
            /// pending and ends. Close the stream afterwards.
            ///
            /// # Errors
            /// What ended the connection instead.
            pub $($async)* fn close(&mut self) -> Result<(), Error<$error>> {
                self.transport.poll_clock();
                self.buffered.close(self.transport.polled_at(), CloseReason::Done);
                loop {
                    match self.drive(None)$($await)* {
                        Ok(()) => {}
                        Err(Error::Connection(end)) if end.is_orderly() => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }

            /// Waits until the connection is established and the stream has sent everything. On the
            /// noise wire that includes the first PING, which proves that this side has read the
            /// welcome.
            $($async)* fn flush(&mut self) -> Result<(), Error<$error>> {
                loop {
                    let stepped = self.buffered.step_idle(self.transport.polled_at());
                    // The core has no more bytes after a step with nothing to do.
                    let sent = matches!(stepped, Ok(false)) && self.buffered.connection().is_sent();
                    if sent && self.buffered.is_established() {
                        return Ok(());
                    }
                    self.proceed(stepped, None)$($await)*?;
                }
            }

            /// The error of a request or ping that was not accepted. If the connection has ended,
            /// sends its last bytes first.
            $($async)* fn rejected(&mut self, error: Error) -> Error<$error> {
                match error {
                    Error::Connection(_) => loop {
                        if let Err(end) = self.drive(None)$($await)* {
                            return end;
                        }
                    },
                    Error::Closing => falco_core::Error::Closing.end().map_or(Error::Closing, Error::Connection),
                    other => other.widen(),
                }
            }

            $($async)* fn drive(&mut self, until: Option<Instant>) -> Result<(), Error<$error>> {
                let stepped = self.buffered.step_idle(self.transport.polled_at());
                self.proceed(stepped, until)$($await)*
            }

            /// Does what a step needs next: nothing, or wait.
            $($async)* fn proceed(&mut self, stepped: Result<bool, Error>, until: Option<Instant>) -> Result<(), Error<$error>> {
                match stepped {
                    Ok(true) => Ok(()),
                    Ok(false) => self.transport.wait(self.buffered.connection_mut(), until)$($await)*,
                    Err(end) => Err(end.widen()),
                }
            }
        }

        $(#[$server])*
        pub struct Server<T, H: ServerKeyRef, B: Buffers, M: Buffers> {
            buffered: BufferedServer<H, B, M>,
            transport: T,
        }

        impl<T, H: ServerKeyRef, B: Buffers, M: Buffers> fmt::Debug for Server<T, H, B, M> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Server").field("buffered", &self.buffered).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H: ServerKeyRef, B: Buffers, M: Buffers> Server<$transport, H, B, M> {
            /// Creates a server from `buffered` and an accepted stream.
            pub fn new(buffered: BufferedServer<H, B, M>, $($part: $type),*) -> Self {
                let transport = Transport::new($($part),*);
                Self { buffered, transport }
            }

            /// The server without its stream, for its state.
            pub const fn buffered(&self) -> &BufferedServer<H, B, M> {
                &self.buffered
            }

            /// The stream and the clock, for another connection. Bytes that are pending are lost.
            pub fn into_parts(self) -> ($($type),*) {
                self.transport.into_parts()
            }

            $(#[$serve])*
            ///
            /// # Errors
            /// What ended the connection, unless it was closed. The classic wire has no CLOSE;
            /// there the end is [`ClosedByPeer`](falco_core::ConnectionError::ClosedByPeer).
            pub $($async)* fn serve(
                &mut self,
                mut handler: impl $handler(&[u8], &mut [u8]) -> Result<usize, Refusal>,
            ) -> Result<(), Error<$error>> {
                self.transport.poll_clock();
                self.buffered.refuse_dropped();
                loop {
                    match self.advance(&mut handler)$($await)* {
                        Ok(()) => {}
                        Err(Error::Connection(end)) if end.is_orderly() => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }

            $($async)* fn advance(
                &mut self,
                handler: &mut impl $handler(&[u8], &mut [u8]) -> Result<usize, Refusal>,
            ) -> Result<(), Error<$error>> {
                match self.buffered.step(self.transport.polled_at()) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(end) => return Err(end.widen()),
                }
                if !self.transport.may_begin_handler(&mut self.buffered) {
                    return self.transport.wait(self.buffered.connection_mut(), None)$($await)*;
                }
                let Some((request, answer, incoming)) = self.buffered.begin_handler() else {
                    return self.transport.wait(self.buffered.connection_mut(), None)$($await)*;
                };
                let handled = self.transport.run_handler(incoming, handler(request, answer))$($await)*?;
                self.transport.poll_clock();
                match handled {
                    Ok(length) => self.buffered.answer(length),
                    Err(refusal) => self.buffered.refuse(refusal),
                }
                Ok(())
            }

            /// Closes the connection, which ends once the request that is being handled is
            /// completed. Call [`serve`](Self::serve) until then, and close the stream afterwards.
            pub fn close(&mut self, reason: CloseReason) {
                self.transport.poll_clock();
                self.buffered.close(self.transport.polled_at(), reason);
            }
        }
    };
}

pub(crate) use drivers;
