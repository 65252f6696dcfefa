//! Subscriptions of a client, written once for both kinds of streams, as `driver` is.

/// Defines `Subscription`, and how a `Client` makes one.
macro_rules! subscriptions {
    (
        generics: [$($generics:tt)*],
        transport: $transport:ty,
        error: $error:ty,
        words: [$($async:tt)*] [$($await:tt)*],
        subscription: [$(#[$subscription:meta])*],
    ) => {
        $(#[$subscription])*
        #[must_use = "a subscription that is dropped is cancelled by the next call of its client"]
        pub struct Subscription<'c, T, H: ClientKeyRef, B: Buffers> {
            client: &'c mut Client<T, H, B>,
            pending: PendingSubscription<&'c [u8], &'c mut [u8]>,
        }

        impl<T, H: ClientKeyRef, B: Buffers> fmt::Debug for Subscription<'_, T, H, B> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Subscription").field("pending", &self.pending).finish_non_exhaustive()
            }
        }

        impl<$($generics)*, H: ClientKeyRef, B: Buffers> Client<$transport, H, B> {
            /// Sends a request whose answer is read in pieces. The service sends a piece whenever
            /// it has one, without a limit of time. Returns once the request has begun. The
            /// [`Subscription`] sends the rest of a body that is larger than the server's window.
            /// Only the noise wire has subscriptions.
            ///
            /// On the wire this is an open request, which `falco-tokio` and `falco-std` pass to the
            /// handler of `serve_streams`. The [window](falco_core::Settings::with_streams) of this
            /// side bounds what arrives before it is taken. `memory` has to be as large as that
            /// window.
            ///
            /// # Errors
            /// [`Error::Window`] if `memory` is smaller than the window, or the window is 0;
            /// [`RequestError::NoOpenBodies`](falco_core::RequestError::NoOpenBodies) if the
            /// server takes no open requests; what ended the connection, as for
            /// [`request`](Self::request).
            ///
            /// A cancelled request stays in flight until the server answers or refuses it. A new
            /// subscription waits for that.
            pub $($async)* fn subscribe<'c>(
                &'c mut self,
                body: &'c [u8],
                memory: &'c mut [u8],
            ) -> Result<Subscription<'c, $transport, H, B>, Error<$error>> {
                self.transport.poll_clock();
                let mut pending = match self.buffered.subscribe(body, memory) {
                    Ok(pending) => pending,
                    Err(error) => return Err(self.rejected(error)$($await)*),
                };
                loop {
                    let stepped = self.buffered.step_subscription(self.transport.polled_at(), &mut pending);
                    let begun = pending.has_begun().map_err(Error::widen)?;
                    let sent = self.buffered.connection().is_sent();
                    if begun && sent && matches!(stepped, Ok(false)) {
                        return Ok(Subscription { client: self, pending });
                    }
                    self.proceed(stepped, None)$($await)*?;
                }
            }
        }

        impl<$($generics)*, H: ClientKeyRef, B: Buffers> Subscription<'_, $transport, H, B> {
            /// Waits for the next piece of the answer: all bytes that have arrived and were not
            /// returned before. `None` once the answer has ended, and all of it was returned. The
            /// connection is kept alive meanwhile, however long the service is silent.
            ///
            /// The piece that the previous call has returned counts as taken: its memory is free,
            /// and the server may send as many bytes again.
            ///
            /// # Errors
            /// [`Error::Request`] if the answer was cut off or the request refused, or what ended
            /// the connection; each once all bytes before it were returned.
            /// [`Error::AnswerTooLarge`] for an answer of known length that does not fit the
            /// memory.
            #[allow(clippy::should_implement_trait, reason = "its items borrow the subscription")]
            pub $($async)* fn next(&mut self) -> Result<Option<&[u8]>, Error<$error>> {
                self.client.transport.poll_clock();
                while !self.client.buffered.is_ready(&mut self.pending).map_err(Error::widen)? {
                    let now = self.client.transport.polled_at();
                    let stepped = self.client.buffered.step_subscription(now, &mut self.pending);
                    self.client.proceed(stepped, None)$($await)*?;
                }
                Ok(self.pending.lend())
            }

            /// Cancels the request, and returns when the stream has accepted that. If the
            /// subscription is dropped instead, the next call of its client does so. The rest of
            /// the answer is dropped.
            ///
            /// # Errors
            /// What ended the connection.
            pub $($async)* fn cancel(self) -> Result<(), Error<$error>> {
                self.client.transport.poll_clock();
                self.client.flush()$($await)*
            }
        }
    };
}

pub(crate) use subscriptions;
