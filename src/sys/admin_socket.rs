//! A Unix socket that only the user of the node can reach.
//!
//! It is created under a temporary name, gets its mode, listens, and is then renamed: so no other
//! user can connect meanwhile, and the rename replaces a stale socket atomically. Paths go through
//! `/proc/self/fd` of their directory, because the kernel limits socket paths to 107 bytes.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that may queue; further ones are refused, or wait in `connect`.
const BACKLOG: i32 = 16;

/// How long a stop waits for the removal of the name.
const REMOVAL_WAIT: Duration = Duration::from_millis(200);

/// Only the user of the node, and root.
const MODE: u32 = 0o600;

/// The name of a listening socket, removed when dropped.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
}

impl Drop for SocketName {
    fn drop(&mut self) {
        // On a thread of its own: a disk that hangs must not hold up a stop. A name that stays is
        // replaced by the next node.
        let path = std::mem::take(&mut self.path);
        let (done, end) = mpsc::channel();
        let remove = move || {
            let _ = done.send(std::fs::remove_file(path));
        };
        if std::thread::Builder::new().name("admin-socket".to_owned()).spawn(remove).is_ok() {
            let _ = end.recv_timeout(REMOVAL_WAIT);
        }
    }
}

/// Listens at a path that no other process answers at.
pub fn listen(path: &Path) -> io::Result<(UnixListener, SocketName)> {
    check_free(path)?;
    let mut name = file_name(path)?.to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    with_address(&draft, |address| socket.bind(address))?;
    std::fs::set_permissions(&draft, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    std::fs::rename(&draft, path)?;
    Ok((UnixListener::from(socket), SocketName { path: path.to_owned() }))
}

/// Connects to the socket at a path.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    with_address(path, |address| socket.connect(address))?;
    Ok(UnixStream::from(socket))
}

/// A file that is no socket is not ours to replace, nor is the socket of a process that runs.
fn check_free(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file, no socket"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog also means that a process listens.
    socket.set_nonblocking(true)?;
    match with_address(path, |address| socket.connect(address)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
    }
}

fn with_address<T>(path: &Path, call: impl FnOnce(&SockAddr) -> io::Result<T>) -> io::Result<T> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    let place = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    call(&SockAddr::unix(place.join(file_name(path)?))?)
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_socket_is_private_and_replaces_only_one_that_is_left_over() {
        // Deeper than the kernel takes paths of sockets.
        let name = format!("carbyne-admin-{}", std::process::id());
        let top = std::env::temp_dir().join(name);
        let directory = top.join("x".repeat(150));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();

        let (listener, socket_name) = listen(&path).unwrap();
        let mode = std::fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "no draft is left");
        let mut client = connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        // The process has ended and its socket is left over.
        let (listener, new_name) = listen(&path).unwrap();
        std::mem::forget(socket_name);
        assert!(connect(&path).is_ok());
        drop((listener, new_name));
        // A thread of its own removes it.
        let deadline = Instant::now() + Duration::from_secs(20);
        while path.exists() {
            assert!(Instant::now() < deadline, "the socket is left");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::remove_dir_all(&top).unwrap();
    }
}
