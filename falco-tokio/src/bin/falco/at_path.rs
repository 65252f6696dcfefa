//! What is at the path of a Unix socket.

use std::path::Path;

/// Something that is in the way of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(unix), expect(dead_code, reason = "there are no sockets at paths"))]
pub(crate) enum AtPath {
    /// A socket on which a program listens, as far as this user can tell.
    Server,
    /// A socket on which no program listens.
    DeadSocket,
    /// Something else, a symbolic link included.
    NoSocket,
}

#[cfg(unix)]
pub(crate) fn look(path: &Path) -> AtPath {
    use std::os::unix::fs::FileTypeExt;

    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    match connect(path) {
        _ if !is_socket => AtPath::NoSocket,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => AtPath::DeadSocket,
        Ok(()) | Err(_) => AtPath::Server,
    }
}

/// Connects without waiting. If a server listens but its backlog is full, the error differs from
/// that of a dead socket.
#[cfg(unix)]
fn connect(path: &Path) -> std::io::Result<()> {
    use socket2::{Domain, SockAddr, Socket, Type};

    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(not(unix))]
pub(crate) fn look(_: &Path) -> AtPath {
    AtPath::NoSocket
}
