//! The file of a Unix socket: how a server creates it, replaces that of a dead server, and removes
//! its own. It never removes the socket of another server that listens.

use core::time::Duration;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, RawMode, flock};
use rustix::io::Errno;
use rustix::process::umask;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::time::{Instant, sleep};

use crate::at_path::{self, AtPath};
use crate::log;

/// How long to wait for another server that holds the lock on the directory. A server holds it for
/// a fraction of this time.
const TURN: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(5);
/// The pause between two connection attempts. Both have to be rejected before a socket counts as
/// dead, because a server that has bound its socket rejects connections until it listens.
const SETTLE: Duration = Duration::from_millis(100);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The file that this process has bound, as opposed to another file of the same name.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// None once it was removed.
    own: Option<Pinned>,
}

impl SocketFile {
    /// Binds the socket, after removing the socket of a dead server if there is one. `mode` has the
    /// permissions of the file; without it the umask decides.
    pub(crate) async fn bind(path: &Path, mode: Option<u16>) -> io::Result<(UnixListener, Self)> {
        let lock = Lock::take(path).await;
        if !matches!(lock, Lock::Busy)
            && let Some(dead) = dead_socket(path).await
        {
            // If this fails, binding fails, and its error is returned.
            let _ = remove_if(path, dead);
        }
        listen(path, mode)
    }

    /// Removes the file, unless another one has replaced it.
    ///
    /// Call this while the socket still listens: until then no other server replaces the file.
    pub(crate) fn remove(&mut self) {
        let Some(own) = self.own.take() else { return };
        // If it cannot be removed, the next server replaces it as the socket of a dead server.
        let _ = remove_if(&self.path, own.identity);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn listen(path: &Path, mode: Option<u16>) -> io::Result<(UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    // Sets the umask instead of calling chmod: the file never has other permissions, and a file
    // that replaces it does not get them. Nothing else creates files now, and no command runs yet.
    let before = mode.map(|mode| umask(Mode::from_raw_mode(RawMode::from(0o777 & !mode))));
    let bound = socket.bind(&address);
    if let Some(before) = before {
        umask(before);
    }
    bound?;
    // From here on, an error removes the file.
    let file = SocketFile {
        path: path.to_owned(),
        own: Some(Pinned::of(path)?),
    };
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Which file it is: device and inode.
type Identity = (u64, u64);

/// A file that keeps its inode number as long as this exists, even after it was removed and its
/// socket was closed. Without that, the file of another server could have the same number.
#[derive(Debug)]
struct Pinned {
    identity: Identity,
    #[expect(dead_code, reason = "the inode exists as long as this is open")]
    open: Option<File>,
}

impl Pinned {
    #[cfg(target_os = "linux")]
    fn of(path: &Path) -> io::Result<Self> {
        use rustix::fs::{OFlags, open};

        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(open(path, flags, Mode::empty())?);
        Ok(Self {
            identity: identity(&file.metadata()?),
            open: Some(file),
        })
    }

    /// A socket cannot be opened here: its own descriptor alone keeps the number.
    #[cfg(not(target_os = "linux"))]
    fn of(path: &Path) -> io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(path)?);
        Ok(Self { identity, open: None })
    }
}

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// The file at `path` if it is a socket on which no program listens.
async fn dead_socket(path: &Path) -> Option<Identity> {
    let found = fs::symlink_metadata(path).ok()?;
    if at_path::look(path) != AtPath::DeadSocket {
        return None;
    }
    sleep(SETTLE).await;
    (at_path::look(path) == AtPath::DeadSocket).then_some(identity(&found))
}

/// Removes the file at `path` if it is this one.
fn remove_if(path: &Path, which: Identity) -> io::Result<()> {
    if identity(&fs::symlink_metadata(path)?) != which {
        return Ok(());
    }
    remove_compared(path, which)
}

/// Removes the file at `path`, whose identity was just compared with `which`. Another server may
/// have put its own socket at `path` since then, and the system cannot compare and remove in one
/// step. So this moves the file aside, compares again, and moves it back if it is another file.
fn remove_compared(path: &Path, which: Identity) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.old", std::process::id()));
    let aside = path.with_file_name(name);
    fs::rename(path, &aside)?;
    if identity(&fs::symlink_metadata(&aside)?) == which {
        return fs::remove_file(&aside);
    }
    let back = move_back(&aside, path);
    if back.is_err() {
        // A third file is there already.
        log::warn(&format_args!(
            "warning: {} was replaced twice while this server removed its socket; the first replacement is now {}",
            path.display(),
            aside.display()
        ));
    }
    back
}

/// Renames, and replaces nothing.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn move_back(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn move_back(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// A lock on the directory of the socket. Several servers that start at once take turns: each looks
/// for a dead socket and binds before the next. The lock leaves no file behind.
#[derive(Debug)]
enum Lock {
    Held(#[expect(dead_code, reason = "the lock lasts as long as this is open")] File),
    /// The file system has no locks, or the directory cannot be read.
    Unavailable,
    /// Another process holds the lock.
    Busy,
}

impl Lock {
    async fn take(path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) else {
            return Self::Unavailable;
        };
        let deadline = Instant::now() + TURN;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self::Held(directory),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => sleep(AGAIN).await,
                Err(Errno::WOULDBLOCK) => return Self::Busy,
                Err(_) => return Self::Unavailable,
            }
        }
    }
}

#[cfg(test)]
mod tests;
