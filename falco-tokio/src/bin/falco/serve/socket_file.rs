//! The file of a Unix socket: how a server comes by it, and how it goes. It belongs to whichever
//! server has bound it; no server takes away the file of another that still listens, or of one that
//! has taken its place.

use core::time::Duration;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use falco_tokio::{Error, Server, ServerBuilder};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::time::{Instant, sleep};

/// How long to wait for another that looks at the same directory, which takes a moment.
const TURN: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(5);

/// The file that this process has bound, and not another of the same name.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Binds, in the place of a server that is gone if there was one.
    pub(super) async fn bind(builder: ServerBuilder, path: &Path) -> Result<(Server, Self), Error> {
        let turn = Turn::take(path).await;
        if !matches!(turn, Turn::NotMine) && is_stale(path) {
            let _ = fs::remove_file(path);
        }
        let server = builder.bind_unix(path)?;
        let identity = fs::symlink_metadata(path).ok().as_ref().map(identity);
        let path = path.to_owned();
        Ok((server, Self { path, identity }))
    }

    /// Removes it, unless another has taken its place.
    ///
    /// This is to be called while the socket still listens: until then the system gives its inode
    /// to no other file, and until it is called no other server takes the path.
    pub(super) fn remove(&mut self) {
        let Some(own) = self.identity.take() else { return };
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whether it is a socket on which nobody listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && probe(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Connects without waiting: a server that listens and takes nobody is there all the same.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The right to replace a stale file, which servers that start at once have one after the other:
/// else one could remove what the other has just bound. It is a lock on the directory, and leaves
/// nothing.
#[derive(Debug)]
enum Turn {
    Mine(#[expect(dead_code, reason = "the lock lasts as long as this is open")] File),
    /// The file system has no locks, or the directory cannot be read.
    Nobodys,
    /// Somebody else does not let go of it.
    NotMine,
}

impl Turn {
    async fn take(path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) else {
            return Self::Nobodys;
        };
        let deadline = Instant::now() + TURN;
        loop {
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self::Mine(directory),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => sleep(AGAIN).await,
                Err(Errno::WOULDBLOCK) => return Self::NotMine,
                Err(_) => return Self::Nobodys,
            }
        }
    }
}
