//! What `falco serve` or `falco forward` and its supervisor tell each other, as systemd defines it:
//! sockets that are passed on, readiness, and keep-alives for the watchdog. Without a supervisor,
//! nothing happens.

#[cfg(not(unix))]
pub(crate) use self::none::{ready, reloading, stopping, watch};
#[cfg(unix)]
pub(crate) use self::systemd::{Passed, passed, ready, reloading, stopping, watch};

#[cfg(unix)]
mod systemd {
    use std::io;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use listenfd::ListenFd;
    use sd_notify::NotifyState;

    use crate::failure::{Code, Failure};

    /// A listener that the supervisor has bound.
    pub(crate) enum Passed {
        Tcp(TcpListener),
        Unix(UnixListener),
    }

    /// The socket that the supervisor passes.
    pub(crate) fn passed() -> Result<Passed, Failure> {
        let failed = |message: &str| Failure::new(Code::Unreachable, format_args!("--socket-activation: {message}"));
        let mut sockets = ListenFd::from_env();
        if sockets.len() != 1 {
            return Err(failed(match sockets.len() {
                0 => "no socket was passed (LISTEN_FDS): is this started by a socket unit?",
                _ => "more than one socket was passed: use a service for each",
            }));
        }
        // It is one of the two, and the other attempt fails.
        let passed = match sockets.take_unix_listener(0) {
            Ok(Some(listener)) => listener.set_nonblocking(true).map(|()| Passed::Unix(listener)),
            Ok(None) | Err(_) => match sockets.take_tcp_listener(0) {
                Ok(Some(listener)) => listener.set_nonblocking(true).map(|()| Passed::Tcp(listener)),
                Ok(None) => Err(io::ErrorKind::NotFound.into()),
                Err(error) => Err(error),
            },
        };
        passed.map_err(|error| failed(&error.to_string()))
    }

    fn tell(state: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(state) {
            tracing::debug!(%error, "cannot notify the supervisor");
        }
    }

    /// Reports that the process accepts connections.
    pub(crate) fn ready() {
        tell(&[NotifyState::Ready]);
    }

    /// Reports that the process reads its keys again. Call [`ready`] afterwards.
    pub(crate) fn reloading() {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// Reports that the process drains.
    pub(crate) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    /// Sends keep-alives to the supervisor's watchdog, if it has one. Never returns. Run it on a
    /// separate task, so that it stops if the runtime does.
    pub(crate) async fn watch() {
        let Some(limit) = sd_notify::watchdog_enabled() else {
            return core::future::pending().await;
        };
        loop {
            tell(&[NotifyState::Watchdog]);
            tokio::time::sleep(limit / 2).await;
        }
    }
}

#[cfg(not(unix))]
mod none {
    pub(crate) const fn ready() {}

    pub(crate) const fn reloading() {}

    pub(crate) const fn stopping() {}

    pub(crate) async fn watch() {
        core::future::pending().await
    }
}
