//! What a client and a server do, written once for both kinds of streams: the two differ in who waits, and in nothing else.

/// Makes `Client` and `Server` over a `Pump`, which moves bytes and waits.
macro_rules! drivers {
    (
        generics: [$($generics:tt)*],
        parts: [$($part:ident: $type:ty),*],
        pump: $pump:ty,
        error: $error:ty,
        words: [$($async:tt)*] [$($await:tt)*] $handler:ident,
        client: $client:literal,
        server: $server:literal,
    ) => {
        #[doc = $client]
        pub struct Client<P, H: Deref<Target: ClientWire>, I, O> {
            line: ClientLine<H, I, O>,
            pump: P,
        }

        impl<P, H: Deref<Target: ClientWire>, I, O> fmt::Debug for Client<P, H, I, O> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Client").field("line", &self.line).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H, I, O> Client<$pump, H, I, O>
        where
            H: Deref<Target: ClientWire>,
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

            /// Waits until the server has proved that it has the key. Not needed: a request waits for it too.
            ///
            /// # Errors
            /// What ended the connection; [`ConnectionError::Refused`] where the server has another key.
            pub $($async)* fn establish(&mut self) -> Result<(), Error<$error>> {
                while !self.line.is_established() {
                    self.drive(None)$($await)*?;
                }
                Ok(())
            }

            /// Sends a request and waits for its answer, which then stands at the front of `answer`. Says how long it is.
            ///
            /// # Errors
            /// What befell the request, or what ended the connection.
            pub $($async)* fn request(&mut self, body: &[u8], answer: &mut [u8]) -> Result<usize, Error<$error>> {
                let mut ask = self.line.ask(body, answer).map_err(Error::widen)?;
                loop {
                    if let Some(length) = ask.answered().map_err(Error::widen)? {
                        return Ok(length);
                    }
                    let now = self.pump.now();
                    if !self.line.step(now, Some(&mut ask)).map_err(Error::widen)? {
                        self.pump.wait(self.line.line_mut(), None)$($await)*?;
                    }
                }
            }

            /// Sends a ping, which begins the lifetime anew.
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn ping(&mut self) -> Result<PingId, Error<$error>> {
                let ping = self.line.ping().map_err(Error::widen)?;
                self.flush()$($await)*?;
                Ok(ping)
            }

            /// Waits for the answer to a ping. On the classic wire there is none.
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn pong(&mut self, ping: PingId) -> Result<(), Error<$error>> {
                while self.line.last_pong().is_none_or(|last| last < ping) {
                    self.drive(None)$($await)*?;
                }
                Ok(())
            }

            /// Has nothing to ask until this time, and keeps the connection meanwhile, if the settings say so.
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn idle(&mut self, until: Instant) -> Result<(), Error<$error>> {
                while self.pump.now() < until {
                    self.drive(Some(until))$($await)*?;
                }
                Ok(())
            }

            /// Ends the connection in good order. The stream is the caller's to close.
            ///
            /// # Errors
            /// What ended it instead.
            pub $($async)* fn close(&mut self) -> Result<(), Error<$error>> {
                self.line.close(self.pump.now(), CloseReason::Done);
                loop {
                    match self.drive(None)$($await)* {
                        Ok(()) => {}
                        Err(Error::Connection(ConnectionError::Closed)) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }

            $($async)* fn flush(&mut self) -> Result<(), Error<$error>> {
                loop {
                    self.drive_once().map_err(Error::widen)?;
                    if self.line.line().unsent().is_empty() {
                        return Ok(());
                    }
                    self.pump.wait(self.line.line_mut(), None)$($await)*?;
                }
            }

            fn drive_once(&mut self) -> Result<bool, Error> {
                self.line.step(self.pump.now(), None::<&mut Ask<&[u8], &mut [u8]>>)
            }

            $($async)* fn drive(&mut self, until: Option<Instant>) -> Result<(), Error<$error>> {
                if !self.drive_once().map_err(Error::widen)? {
                    self.pump.wait(self.line.line_mut(), until)$($await)*?;
                }
                Ok(())
            }
        }

        #[doc = $server]
        pub struct Server<P, H: Deref<Target: ServerWire>, I, O, M, A> {
            line: ServerLine<H, I, O, M, A>,
            pump: P,
        }

        impl<P, H: Deref<Target: ServerWire>, I, O, M, A> fmt::Debug for Server<P, H, I, O, M, A> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Server").field("line", &self.line).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H, I, O, M, A> Server<$pump, H, I, O, M, A>
        where
            H: Deref<Target: ServerWire>,
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

            /// Handles requests, one after the other, until the connection ends. The handler is given a request and the memory for its answer, and says how long the
            /// answer is, or why there is none. While it runs nothing is read: what takes longer than a third of the lifetime is taken for death by the client.
            ///
            /// # Errors
            /// What ended the connection, unless it ended in good order.
            pub $($async)* fn serve(
                &mut self,
                mut handler: impl $handler(&[u8], &mut [u8]) -> Result<usize, Refusal>,
            ) -> Result<(), Error<$error>> {
                loop {
                    match self.line.step(self.pump.now()) {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(Error::Connection(ConnectionError::Closed)) => return Ok(()),
                        Err(error) => return Err(error.widen()),
                    }
                    if let Some((request, answer)) = self.line.request() {
                        let handled = handler(request, answer)$($await)*;
                        let now = self.pump.now();
                        match handled {
                            Ok(length) => self.line.answer(now, length).map_err(Error::widen)?,
                            Err(refusal) => self.line.refuse(now, refusal),
                        }
                        continue;
                    }
                    match self.pump.wait(self.line.line_mut(), None)$($await)* {
                        Ok(()) => {}
                        Err(Error::Connection(ConnectionError::Closed)) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }

            /// Ends the connection in good order, as soon as the request that is being answered has had its answer: call
            /// [`serve`](Self::serve) for the rest. The stream is the caller's to close.
            pub fn close(&mut self, reason: CloseReason) {
                self.line.close(self.pump.now(), reason);
            }
        }
    };
}

pub(crate) use drivers;
