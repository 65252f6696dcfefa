//! The signals by which a user or a supervisor ends the tool. A thread of its own waits for them,
//! so that they end the process even if everything else is blocked.

use core::time::Duration;
use std::io;
use std::thread;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::failure::{Code, Failure};
use crate::log;

/// How much longer than its own time limit a command may take to end, including its last output.
const LATE: Duration = Duration::from_secs(5);
/// How long it may take to end after a second signal.
const AT_ONCE: Duration = Duration::from_secs(3);
/// How long writing the last message may take.
const LAST_MESSAGE: Duration = Duration::from_millis(100);

/// Receives Ctrl-C and, on Unix, SIGTERM. While this exists, the first signal does not end the
/// process. If the process does not end by itself, it is ended by force: after the time given to
/// [`new`](Self::new) plus [`LATE`] if there is one signal, and [`AT_ONCE`] after a second signal
/// or at a third one.
pub(crate) struct Signals(UnboundedReceiver<()>);

impl Signals {
    /// `ending` is the time limit of the command for an orderly end.
    pub(crate) fn new(ending: Duration) -> Result<Self, Failure> {
        Self::start(ending).map_err(|error| Failure::new(Code::Failed, format_args!("cannot handle signals: {error}")))
    }

    fn start(ending: Duration) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let system = {
            let _entered = runtime.enter();
            System::register()?
        };
        let (to, signals) = unbounded_channel();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || watch(&runtime, system, &to, ending))?;
        Ok(Self(signals))
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The thread that sends ends only with the process.
            core::future::pending::<()>().await;
        }
    }
}

/// Receives SIGHUP. While this exists, SIGHUP does not end the process. Windows has no such signal.
pub(crate) struct Hangups(#[cfg(unix)] tokio::signal::unix::Signal);

impl Hangups {
    #[cfg(unix)]
    pub(crate) fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};

        let hangups = signal(SignalKind::hangup());
        let hangups =
            hangups.map_err(|error| Failure::new(Code::Failed, format_args!("cannot handle signals: {error}")))?;
        Ok(Self(hangups))
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "on Unix it can fail")]
    pub(crate) const fn new() -> Result<Self, Failure> {
        Ok(Self())
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        if self.0.recv().await.is_some() {
            return;
        }
        core::future::pending::<()>().await;
    }
}

/// Passes signals on, and ends the process if the command does not end.
fn watch(runtime: &Runtime, mut system: System, to: &UnboundedSender<()>, ending: Duration) {
    runtime.block_on(async {
        system.next().await;
        let _ = to.send(());
        if timeout(ending.saturating_add(LATE), system.next()).await.is_ok() {
            let _ = to.send(());
            let _ = timeout(AT_ONCE, system.next()).await;
        }
    });
    log::error(&"ended by force, because it did not end in time");
    let _ = log::flush(Some(LAST_MESSAGE));
    std::process::exit(Code::Failed.number().into());
}

/// The signals of the operating system.
struct System {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl System {
    #[cfg(unix)]
    fn register() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(windows)]
    fn register() -> io::Result<Self> {
        Ok(Self {
            interrupt: tokio::signal::windows::ctrl_c()?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(windows)]
        let _ = self.interrupt.recv().await;
    }
}
