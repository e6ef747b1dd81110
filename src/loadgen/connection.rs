//! Where an agent's bytes go: a TCP connection, or a UDP socket connected to one address.
//!
//! Sends block with a timeout, so that a signal stops the sender even if the node reads nothing.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::loadgen::stream::Stream;
use crate::sys::datagrams::{self, DATAGRAMS_MAX};

/// Longest wait before the stop is looked at again.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A way to the node.
#[derive(Debug)]
pub(super) enum Connection {
    /// Lines or pickle frames in a stream.
    Tcp(TcpStream),
    /// Lines in datagrams.
    Udp(UdpSocket),
}

/// What became of some messages.
#[derive(Debug)]
pub(super) struct Sent {
    /// How many of them are with the kernel as a whole.
    pub(super) messages: usize,
    /// Their bytes, and those of one that was torn.
    pub(super) bytes: usize,
    /// Why it ended early; not when the sender was told to stop.
    pub(super) error: Option<io::Error>,
}

impl Connection {
    /// Connects.
    pub(super) fn open(target: SocketAddr, is_udp: bool) -> io::Result<Connection> {
        if !is_udp {
            let stream = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
            stream.set_write_timeout(Some(SEND_TIMEOUT))?;
            return Ok(Connection::Tcp(stream));
        }
        let any: SocketAddr = if target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(target)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Connection::Udp(socket))
    }

    /// Sends messages until all are gone, the stop is set or something fails.
    pub(super) fn send(
        &mut self,
        stream: &Stream,
        messages: &Range<usize>,
        stop: &AtomicBool,
    ) -> Sent {
        match self {
            Connection::Tcp(socket) => {
                let (bytes, error) = write_all(socket, stream.bytes(messages), stop);
                Sent { messages: stream.complete(messages, bytes), bytes, error }
            }
            Connection::Udp(socket) => send_datagrams(socket, stream, messages, stop),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn write_all(
    socket: &mut TcpStream,
    bytes: &[u8],
    stop: &AtomicBool,
) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while done < bytes.len() {
        match socket.write(&bytes[done..]) {
            Ok(count) => done += count,
            Err(error) if !is_timeout(&error) => return (done, Some(error)),
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(_) => {}
        }
    }
    (done, None)
}

fn send_datagrams(
    socket: &UdpSocket,
    stream: &Stream,
    messages: &Range<usize>,
    stop: &AtomicBool,
) -> Sent {
    let mut sent = Sent { messages: 0, bytes: 0, error: None };
    let mut next = messages.start;
    while next < messages.end {
        let mut parts: [&[u8]; DATAGRAMS_MAX] = [&[]; DATAGRAMS_MAX];
        let count = DATAGRAMS_MAX.min(messages.end - next);
        for (part, message) in parts.iter_mut().zip(next..next + count) {
            *part = stream.bytes(&(message..message + 1));
        }
        match datagrams::send(socket, &parts[..count]) {
            Ok(gone) => {
                next += gone;
                sent.messages += gone;
                sent.bytes += parts[..gone].iter().map(|part| part.len()).sum::<usize>();
            }
            Err(error) if !is_timeout(&error) => {
                sent.error = Some(error);
                break;
            }
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(_) => {}
        }
    }
    sent
}
