//! Many datagrams in one system call.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, RawFd};

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

/// Datagrams of one call that receives; more are left for the next. Each has 65 KiB of its own.
pub const RECEIVED_MAX: usize = 32;

/// No datagram is longer: its length has 16 bits.
const DATAGRAM_BYTES_MAX: usize = 1 << 16;

/// From one datagram to the next. Not a power of two, or the beginnings of all datagrams would
/// compete for the same few lines of the processor's caches.
const STRIDE_BYTES: usize = DATAGRAM_BYTES_MAX + 1_600;

/// Datagrams received in one system call. Memory is in use as far as datagrams have filled it.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    lengths: [usize; RECEIVED_MAX],
    count: usize,
}

impl Default for Received {
    fn default() -> Received {
        let bytes = vec![0; RECEIVED_MAX * STRIDE_BYTES];
        Received { bytes, lengths: [0; RECEIVED_MAX], count: 0 }
    }
}

impl Received {
    /// Receives what is there, up to [`RECEIVED_MAX`] datagrams, none of them cut; returns how
    /// many. Does not wait.
    ///
    /// # Errors
    /// Receiving failed; nothing is here then.
    pub fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        self.count = 0;
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RECEIVED_MAX];
        for (part, place) in parts.iter_mut().zip(self.bytes.chunks_exact_mut(STRIDE_BYTES)) {
            part.iov_base = place.as_mut_ptr().cast();
            part.iov_len = DATAGRAM_BYTES_MAX;
        }
        let mut messages = parts.map(|_| empty_message());
        for (message, part) in messages.iter_mut().zip(&mut parts) {
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = libc::c_uint::try_from(RECEIVED_MAX).expect("32");
        let no_timeout = std::ptr::null_mut();
        // SAFETY: each message points to one element of `parts`, which describes a place of its own
        // in `self.bytes`; all three live until the call returns.
        let got = unsafe {
            libc::recvmmsg(socket, messages.as_mut_ptr(), count, libc::MSG_DONTWAIT, no_timeout)
        };
        let Ok(count) = usize::try_from(got) else {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                error => Err(error),
            };
        };
        for (length, message) in self.lengths.iter_mut().zip(&messages[..count]) {
            *length = usize::try_from(message.msg_len).expect("usize has 64 bits");
        }
        self.count = count;
        Ok(count)
    }

    /// The datagrams that the last call has received, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let places = self.bytes.chunks_exact(STRIDE_BYTES);
        places.zip(&self.lengths[..self.count]).map(|(place, &length)| &place[..length])
    }
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

    #[test]
    fn datagrams_are_received_together_and_whole() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        sender.connect(receiver.local_addr().expect("bound")).expect("connect");
        let mut received = Received::default();
        assert_eq!(received.receive(receiver.as_raw_fd()).expect("receive"), 0);
        let longest: Vec<u8> = (0..65_507_u32).map(|n| n.to_le_bytes()[0]).collect();
        let sent: [&[u8]; 4] = [b"one", b"", &longest, b"four"];
        assert_eq!(send(&sender, &sent).expect("send"), 4);
        assert_eq!(received.receive(receiver.as_raw_fd()).expect("receive"), 4);
        assert!(received.iter().eq(sent));
        let many = vec![&b"x"[..]; RECEIVED_MAX + 2];
        assert_eq!(send(&sender, &many).expect("send"), RECEIVED_MAX + 2);
        for want in [RECEIVED_MAX, 2, 0] {
            assert_eq!(received.receive(receiver.as_raw_fd()).expect("receive"), want);
            assert_eq!(received.iter().count(), want);
        }
    }
}
