//! What a client and a server do, written once for both kinds of streams: the two differ in who
//! waits, and in nothing else.

/// Makes `Client` and `Server` over a `Pump`, which moves bytes and waits.
macro_rules! drivers {
    (
        generics: [$($generics:tt)*],
        parts: [$($part:ident: $type:ty),*],
        pump: $pump:ty,
        error: $error:ty,
        words: [$($async:tt)*] [$($await:tt)*] $handler:ident,
        client: [$(#[$client:meta])*],
        server: [$(#[$server:meta])*],
        serve: [$(#[$serve:meta])*],
    ) => {
        $(#[$client])*
        pub struct Client<P, H: ClientKeyRef, I, O> {
            line: ClientLine<H, I, O>,
            pump: P,
        }

        impl<P, H: ClientKeyRef, I, O> fmt::Debug for Client<P, H, I, O> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Client").field("line", &self.line).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H, I, O> Client<$pump, H, I, O>
        where
            H: ClientKeyRef,
            I: Storage,
            O: AsRef<[u8]> + AsMut<[u8]>,
        {
            /// A client on `line`, over a stream that is connected. Nothing is sent yet.
            pub fn new(line: ClientLine<H, I, O>, $($part: $type),*) -> Self {
                let pump = Pump::new($($part),*);
                Self { line, pump }
            }

            /// The line, to be asked how it is.
            pub const fn line(&self) -> &ClientLine<H, I, O> {
                &self.line
            }

            /// The stream and the clock, for another connection. What this one had under way is
            /// lost.
            pub fn into_parts(self) -> ($($type),*) {
                self.pump.into_parts()
            }

            /// Waits until the server has proved that it has the key, and this side's own proof has
            /// gone to it. Not needed: a request waits for it too.
            ///
            /// # Errors
            /// What ended the connection: [`ConnectionError::Refused`] or
            /// [`HandshakeTimeout`](ConnectionError::HandshakeTimeout) where it was not let in,
            /// which has more causes than another key.
            pub $($async)* fn establish(&mut self) -> Result<(), Error<$error>> {
                self.begin();
                self.settle()$($await)*
            }

            /// Sends a request and waits for its answer, which then stands at the front of
            /// `answer`. Says how many bytes it has. Bodies are of any length up to the largest
            /// message that the server reads, which it has told.
            ///
            /// # Errors
            /// What befell the request, or what ended the connection: [`ConnectionError::Closed`],
            /// too, where the server takes no more of them and has others to end.
            ///
            /// Where the connection has ended, [`ClientLine::fate`] says whether the request may be
            /// sent again.
            ///
            /// A request that was given up keeps the server busy until its handler is done or the
            /// server has let go of it; the next one waits for that.
            pub $($async)* fn request(&mut self, body: &[u8], answer: &mut [u8]) -> Result<usize, Error<$error>> {
                self.begin();
                let mut ask = match self.line.ask(body, answer) {
                    Ok(ask) => ask,
                    Err(error) => return Err(self.refused(error)$($await)*),
                };
                loop {
                    if let Some(length) = ask.answered().map_err(Error::widen)? {
                        return Ok(length);
                    }
                    let stepped = self.line.step(self.pump.looked(), Some(&mut ask));
                    self.after(stepped, None)$($await)*?;
                }
            }

            /// Sends a ping, which begins the lifetime anew. Says which it is, for
            /// [`pong`](Self::pong).
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn ping(&mut self) -> Result<PingId, Error<$error>> {
                self.begin();
                let ping = match self.line.ping() {
                    Ok(ping) => ping,
                    Err(error) => return Err(self.refused(error)$($await)*),
                };
                self.settle()$($await)*?;
                Ok(ping)
            }

            /// Waits for the answer to a ping.
            ///
            /// # Errors
            /// [`Error::NoPongs`] on the classic wire, which has none, or what ended the
            /// connection.
            pub $($async)* fn pong(&mut self, ping: PingId) -> Result<(), Error<$error>> {
                if !self.line.line().machine().answers_pings() {
                    return Err(Error::NoPongs);
                }
                self.begin();
                while self.line.last_pong().is_none_or(|last| last < ping) {
                    self.drive(None)$($await)*?;
                }
                Ok(())
            }

            /// Keeps the connection alive until this time without a request, if the settings say
            /// so. A connection that is not driven expires with its lifetime.
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn idle(&mut self, until: Instant) -> Result<(), Error<$error>> {
                self.begin();
                let mut waited = false;
                loop {
                    let now = self.pump.looked();
                    let stepped = self.line.step_idle(now);
                    let rests = matches!(stepped, Ok(false));
                    // An end is told, whatever time it is, once its last words have gone.
                    let ended = self.line.line().machine().end().is_some();
                    // Whoever comes late has what lies there looked at, too.
                    if rests && waited && now >= until && !ended {
                        if !self.line.line().is_broken() {
                            return Ok(());
                        }
                        self.pump.tell_broken(self.line.line_mut())?;
                    }
                    waited |= rests;
                    self.after(stepped, (!ended).then_some(until))$($await)*?;
                }
            }

            /// Ends the connection in good order: a request that was given up is cancelled, and
            /// what is owed goes. The stream is the caller's to close.
            ///
            /// # Errors
            /// What ended it instead.
            pub $($async)* fn close(&mut self) -> Result<(), Error<$error>> {
                self.begin();
                self.line.close(self.pump.looked(), CloseReason::Done);
                loop {
                    match self.drive(None)$($await)* {
                        Ok(()) => {}
                        Err(Error::Connection(ConnectionError::Closed)) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }

            /// Nobody was here since the last call: what has come since was not read late by the
            /// peer's fault.
            fn begin(&mut self) {
                let now = self.pump.look();
                self.line.line_mut().handle_late_poll(now);
            }

            /// Waits until the connection stands and everything that is owed has gone out of the
            /// stream: on the noise wire the proof that the welcome could be read, too.
            $($async)* fn settle(&mut self) -> Result<(), Error<$error>> {
                loop {
                    let stepped = self.line.step_idle(self.pump.looked());
                    // A step that found nothing to do left nothing owed.
                    let rests = matches!(stepped, Ok(false)) && self.line.line().is_sent() && self.pump.is_flushed();
                    if rests && self.line.is_established() {
                        return Ok(());
                    }
                    self.after(stepped, None)$($await)*?;
                }
            }

            /// Why nothing new is taken: of a connection that has ended once its last words have
            /// gone.
            $($async)* fn refused(&mut self, error: Error) -> Error<$error> {
                match error {
                    Error::Connection(_) => loop {
                        if let Err(end) = self.drive(None)$($await)* {
                            return end;
                        }
                    },
                    Error::Closing => Error::Connection(ConnectionError::Closed),
                    other => other.widen(),
                }
            }

            $($async)* fn drive(&mut self, until: Option<Instant>) -> Result<(), Error<$error>> {
                let stepped = self.line.step_idle(self.pump.looked());
                self.after(stepped, until)$($await)*
            }

            /// What follows a step: another, or bytes that move, or what is due; or the end, whose
            /// last words have been taken by the stream.
            $($async)* fn after(&mut self, stepped: Result<bool, Error>, until: Option<Instant>) -> Result<(), Error<$error>> {
                match stepped {
                    Ok(true) => Ok(()),
                    Ok(false) => self.pump.wait(self.line.line_mut(), until)$($await)*,
                    Err(end) => Err(self.pump.finish(self.line.line_mut(), end)$($await)*),
                }
            }
        }

        $(#[$server])*
        pub struct Server<P, H: ServerKeyRef, I, O, M, A> {
            line: ServerLine<H, I, O, M, A>,
            pump: P,
        }

        impl<P, H: ServerKeyRef, I, O, M, A> fmt::Debug for Server<P, H, I, O, M, A> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Server").field("line", &self.line).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H, I, O, M, A> Server<$pump, H, I, O, M, A>
        where
            H: ServerKeyRef,
            I: Storage,
            O: AsRef<[u8]> + AsMut<[u8]>,
            M: Storage,
            A: AsRef<[u8]> + AsMut<[u8]>,
        {
            /// A server on `line`, over a stream that was accepted.
            pub fn new(line: ServerLine<H, I, O, M, A>, $($part: $type),*) -> Self {
                let pump = Pump::new($($part),*);
                Self { line, pump }
            }

            /// The line, to be asked how it is.
            pub const fn line(&self) -> &ServerLine<H, I, O, M, A> {
                &self.line
            }

            /// The stream and the clock, for another connection. What this one had under way is
            /// lost.
            pub fn into_parts(self) -> ($($type),*) {
                self.pump.into_parts()
            }

            $(#[$serve])*
            ///
            /// # Errors
            /// What ended the connection, unless it ended in good order. On the classic wire a
            /// client goes without a word, which is told as [`ConnectionError::ClosedByPeer`].
            pub $($async)* fn serve(
                &mut self,
                mut handler: impl $handler(&[u8], &mut [u8]) -> Result<usize, Refusal>,
            ) -> Result<(), Error<$error>> {
                let now = self.pump.look();
                self.line.line_mut().handle_late_poll(now);
                self.line.give_up();
                loop {
                    match self.advance(&mut handler)$($await)* {
                        Ok(()) => {}
                        Err(Error::Connection(ConnectionError::Closed)) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }

            $($async)* fn advance(
                &mut self,
                handler: &mut impl $handler(&[u8], &mut [u8]) -> Result<usize, Refusal>,
            ) -> Result<(), Error<$error>> {
                match self.line.step(self.pump.looked()) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(end) => return Err(self.pump.finish(self.line.line_mut(), end)$($await)*),
                }
                if !self.pump.lets_begin(&mut self.line) {
                    return self.pump.wait(self.line.line_mut(), None)$($await)*;
                }
                let Some((request, answer, desk)) = self.line.take_up() else {
                    return self.pump.wait(self.line.line_mut(), None)$($await)*;
                };
                let handled = self.pump.meanwhile(desk, handler(request, answer))$($await)*?;
                let now = self.pump.look();
                self.line.line_mut().handle_late_poll(now);
                match handled {
                    Ok(length) => self.line.answer(length),
                    Err(refusal) => self.line.refuse(refusal),
                }
                Ok(())
            }

            /// Ends the connection in good order, as soon as the request that is being answered has
            /// had its answer: call [`serve`](Self::serve) for the rest. The stream is the caller's
            /// to close.
            pub fn close(&mut self, reason: CloseReason) {
                let now = self.pump.look();
                self.line.line_mut().handle_late_poll(now);
                self.line.close(now, reason);
            }
        }
    };
}

pub(crate) use drivers;
