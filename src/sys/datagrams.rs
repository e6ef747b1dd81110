//! Many datagrams in one system call.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Most datagrams of one call; more are left for the next.
pub const DATAGRAMS_MAX: usize = 64;

/// Sends datagrams over a connected socket, at most [`DATAGRAMS_MAX`] of them; returns how many.
///
/// # Errors
/// The first could not be sent. `WouldBlock` when the socket's timeout has passed.
pub fn send(socket: &UdpSocket, datagrams: &[&[u8]]) -> io::Result<usize> {
    let datagrams = &datagrams[..datagrams.len().min(DATAGRAMS_MAX)];
    let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; DATAGRAMS_MAX];
    for (part, datagram) in parts.iter_mut().zip(datagrams) {
        // The kernel only reads what is sent; iovec is one type for both directions.
        part.iov_base = datagram.as_ptr().cast_mut().cast();
        part.iov_len = datagram.len();
    }
    let mut messages = parts.map(|_| empty_message());
    for (message, part) in messages.iter_mut().zip(&mut parts) {
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = libc::c_uint::try_from(datagrams.len()).expect("at most 64");
    // SAFETY: the first `count` messages each point to one element of `parts`, which points to one
    // of `datagrams`; all three live until the call returns.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: an all-zero mmsghdr has no address, no parts and no control data.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive_one_by_one() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        sender.connect(receiver.local_addr().expect("bound")).expect("connect");
        assert_eq!(send(&sender, &[b"one", b"", b"three"]).expect("send"), 3);
        let mut buffer = [0; 16];
        for want in [&b"one"[..], b"", b"three"] {
            let count = receiver.recv(&mut buffer).expect("receive");
            assert_eq!(&buffer[..count], want);
        }
        let many = vec![&b"x"[..]; DATAGRAMS_MAX + 1];
        assert_eq!(send(&sender, &many).expect("send"), DATAGRAMS_MAX);
    }
}
