//! Sockets: listeners that every core has for itself (`SO_REUSEPORT`), and streams that read into
//! a buffer shared by all connections of a core, so that an idle connection holds none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWriteExt};
use glommio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// carbon's keep-alive of receivers: dead peers are noticed after about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 2;

/// Whether a port may be one that another process of this user has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// `SO_REUSEPORT` would split the traffic between two nodes silently.
    Refused,
    /// With the node that is taken over from.
    Wanted,
}

/// Binds one TCP listener per core to the same address; port 0 becomes one free port for all.
/// Unless it may be shared, fails with `AddrInUse` when any other socket has the port.
pub fn bind_listeners(
    address: SocketAddr,
    count: usize,
    backlog: u32,
    sharing: Sharing,
) -> io::Result<Vec<Socket>> {
    let address = claim(address, Type::STREAM, Protocol::TCP, sharing)?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(address, Type::STREAM, Protocol::TCP)?;
        socket.listen(backlog)?;
        listeners.push(socket);
    }
    Ok(listeners)
}

/// Binds one UDP socket per core to the same address; see [`bind_listeners`]. `buffer_bytes` is
/// asked of the kernel, which grants at most `net.core.rmem_max` unless we may force it.
pub fn bind_datagrams(
    address: SocketAddr,
    count: usize,
    buffer_bytes: usize,
    sharing: Sharing,
) -> io::Result<Vec<Socket>> {
    let address = claim(address, Type::DGRAM, Protocol::UDP, sharing)?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
        request_buffer(&socket, buffer_bytes);
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Finds out whether the port is free for us alone, and which port a 0 becomes.
fn claim(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    sharing: Sharing,
) -> io::Result<SocketAddr> {
    if sharing == Sharing::Wanted && address.port() != 0 {
        return Ok(address);
    }
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    let local = socket.local_addr()?;
    local.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn request_buffer(socket: &Socket, bytes: usize) {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    // SAFETY: the option's value is one C int, described by the pointer and its size.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const wanted).cast(),
            libc::socklen_t::try_from(size_of::<i32>()).expect("an int has 4 bytes"),
        )
    };
    if forced != 0 {
        // Without the right to force it the kernel cuts the request down; that is no error.
        let _ = socket.set_recv_buffer_size(bytes);
    }
}

/// A listener on its core.
pub struct Listener {
    inner: glommio::net::TcpListener,
    descriptor: RawFd,
}

impl Listener {
    /// Gives a bound listener to the calling core.
    pub fn adopt(socket: Socket) -> Listener {
        let descriptor = socket.into_raw_fd();
        // SAFETY: it is a listening socket that nothing else owns any more.
        let inner = unsafe { glommio::net::TcpListener::from_raw_fd(descriptor) };
        Listener { inner, descriptor }
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> io::Result<Stream> {
        let stream = self.inner.accept().await.map_err(io::Error::from)?;
        let descriptor = stream.as_raw_fd();
        // SAFETY: the descriptor is open as long as `stream`, which outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        set_up(&SockRef::from(&borrowed))?;
        Ok(Stream { inner: stream })
    }

    /// Accepts a connection that waits already, if there is one.
    pub fn accept_waiting(&self) -> Option<Stream> {
        // SAFETY: the descriptor is open as long as `self.inner`, which outlives this borrow.
        let borrowed = unsafe { BorrowedFd::borrow_raw(self.descriptor) };
        let (socket, _) = SockRef::from(&borrowed).accept().ok()?;
        // What cannot be set up has ended already, which its reader will see.
        let _ = set_up(&SockRef::from(&socket)).and_then(|()| socket.set_nonblocking(true));
        // SAFETY: nothing else owns the descriptor any more.
        Some(Stream { inner: unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) } })
    }
}

fn set_up(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_nodelay(true)
}

/// A connection, or a UDP socket, on its core.
pub struct Stream {
    inner: TcpStream,
}

impl Stream {
    /// Gives a bound UDP socket to the calling core; only [`Stream::read_into`] makes sense on it,
    /// which reads one datagram, and its descriptor for [`super::datagrams`].
    pub fn adopt_datagrams(socket: Socket) -> Stream {
        let fd = socket.into_raw_fd();
        // SAFETY: `fd` is a socket that nothing else owns any more; glommio calls only recv and
        // poll on it.
        Stream { inner: unsafe { TcpStream::from_raw_fd(fd) } }
    }

    /// Waits until something can be read and reads it into the core's shared buffer; 0 is the
    /// end of a connection. The buffer is borrowed only while reading: its content is good until
    /// the caller's next await. `timeout` ends the wait with `TimedOut`.
    pub async fn read_into(
        &mut self,
        buffer: &RefCell<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        self.read_when(buffer, timeout, || true).await
    }

    /// As [`Stream::read_into`], but reads at most `bytes_max` bytes.
    pub async fn read_at_most(
        &mut self,
        bytes_max: usize,
        buffer: &RefCell<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        self.inner.set_read_timeout(timeout).map_err(io::Error::from)?;
        poll_fn(|cx| {
            let mut buffer = buffer.borrow_mut();
            let length = buffer.len().min(bytes_max);
            Pin::new(&mut self.inner).poll_read(cx, &mut buffer[..length])
        })
        .await
    }

    /// As [`Stream::read_into`]; but when something can be read and `may_read` is false, it stays
    /// where it is, and the error is `WouldBlock`.
    pub async fn read_when(
        &mut self,
        buffer: &RefCell<Vec<u8>>,
        timeout: Option<Duration>,
        may_read: impl Fn() -> bool,
    ) -> io::Result<usize> {
        self.inner.set_read_timeout(timeout).map_err(io::Error::from)?;
        poll_fn(|cx| {
            if !may_read() {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WouldBlock)));
            }
            let mut buffer = buffer.borrow_mut();
            Pin::new(&mut self.inner).poll_read(cx, &mut buffer)
        })
        .await
    }

    /// Writes as much of it as the kernel takes, at least a byte; `TimedOut` when the peer takes
    /// nothing for `timeout`, after which writing may go on.
    pub async fn write(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<usize> {
        self.inner.set_write_timeout(Some(timeout)).map_err(io::Error::from)?;
        self.inner.write(bytes).await
    }

    /// The socket's number, for [`end_reading`] and [`super::datagrams`].
    pub fn descriptor(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// Datagrams the kernel has dropped at this socket because its buffer was full; 0 where it does not
/// tell.
pub fn kernel_drops(descriptor: RawFd) -> u64 {
    const MEMINFO_WORDS: usize = 9;
    const MEMINFO_DROPS: usize = 8;
    let mut words = [0u32; MEMINFO_WORDS];
    let mut length = libc::socklen_t::try_from(size_of_val(&words)).expect("36 fits");
    // SAFETY: pointer and length describe `words`, which outlives the call.
    let status = unsafe {
        libc::getsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status == 0 { u64::from(words[MEMINFO_DROPS]) } else { 0 }
}

/// Ends the reading side of a connection of this process: what the kernel holds can still be
/// read, then its reader sees the end.
pub fn end_reading(descriptor: RawFd) {
    // SAFETY: shutdown takes any number; a stale one is an error that means nothing here.
    unsafe { libc::shutdown(descriptor, libc::SHUT_RD) };
}
