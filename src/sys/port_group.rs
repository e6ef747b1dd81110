//! `SO_REUSEPORT` groups: which process gets what arrives at a port that several listen on.
//!
//! The kernel distributes new connections and datagrams among all sockets of a group by a hash. A
//! node that replaces another one joins its groups and directs everything to its own sockets; the
//! old ones can then empty their queues and close without a race.
//! Sockets are numbered in the order in which they joined: `reuseport_select_sock` in Linux'
//! net/core/sock_reuseport.c; programs are classic BPF, see Linux' networking/filter.rst.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

/// State of a listener in /proc/net/tcp.
const LISTENS: &str = "0A";

/// How often the kernel's table is read.
const LOOKS: usize = 5;

/// What a group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// TCP listeners.
    Listeners,
    /// UDP sockets.
    Datagrams,
}

/// How many sockets, of this process or others, have the address.
pub fn members(address: SocketAddr, kind: PortKind) -> io::Result<u32> {
    let table = match (kind, address.is_ipv4()) {
        (PortKind::Listeners, true) => "/proc/net/tcp",
        (PortKind::Listeners, false) => "/proc/net/tcp6",
        (PortKind::Datagrams, true) => "/proc/net/udp",
        (PortKind::Datagrams, false) => "/proc/net/udp6",
    };
    // Other sockets that come and go between two reads of the table shift it: a line may be passed
    // over or come twice.
    let mut found = BTreeSet::new();
    for _ in 0..LOOKS {
        found.extend(inodes(&std::fs::read_to_string(table)?, address, kind));
    }
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

/// The inodes of the sockets that have the address.
fn inodes(table: &str, address: SocketAddr, kind: PortKind) -> BTreeSet<String> {
    let wanted = in_table(address);
    let inode_of_member = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let is_ready = kind == PortKind::Datagrams || *state == LISTENS;
        (*local == wanted && is_ready).then(|| (*inode).to_owned())
    };
    table.lines().skip(1).filter_map(inode_of_member).collect()
}

/// An address as the kernel's tables print it: each 32 bits of it as one number.
fn in_table(address: SocketAddr) -> String {
    let octets: Vec<u8> = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.as_chunks::<4>().0.iter();
    let words: String = words.map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect();
    format!("{words}:{:04X}", address.port())
}

/// Directs everything new to the `new` youngest members of the socket's group, which joined after
/// the `old` ones. When a member leaves, the last member gets its number. So only the first
/// `new - old + 1` new members are used: their numbers stay valid until the last old member leaves,
/// if `new >= old`. For a number without a member the kernel chooses among all.
pub fn give_to_youngest(socket: &Socket, old: u32, new: u32) -> io::Result<()> {
    const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();
    let step = |code: u32, k: u32| {
        let code = u16::try_from(code).expect("an operation has 16 bits");
        libc::sock_filter { code, jt: 0, jf: 0, k }
    };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, RANDOM),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, new.saturating_sub(old) + 1),
        step(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, old),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let length = u16::try_from(steps.len()).expect("four steps");
    let program = libc::sock_fprog { len: length, filter: steps.as_mut_ptr() };
    set_option(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Lets the kernel choose among all members of the socket's group again.
pub fn give_to_all(socket: &Socket) -> io::Result<()> {
    set_option(socket, libc::SO_DETACH_REUSEPORT_BPF, &0_i32)
}

fn set_option<T>(socket: &Socket, option: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are short");
    // SAFETY: the pointer and the length describe `value`, which outlives the call; a program's
    // steps are copied by the kernel before it returns, and outlive this call in the caller.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            length,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::{Sharing, bind_datagrams, bind_listeners};
    use std::net::{Ipv6Addr, TcpStream, UdpSocket};

    #[test]
    fn addresses_as_the_kernel_prints_them() {
        let rest = "00000000:00000000 00:00000000 00000000     0        0";
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
             0: 0100007F:07D3 00000000:0000 0A {rest} 811\n   \
             1: 0100007F:07D3 00000000:0000 0A {rest} 812\n   \
             1: 0100007F:07D3 00000000:0000 0A {rest} 812\n   \
             2: 0100007F:07D3 0100007F:D431 01 {rest} 813\n   \
             3: 00000000:07D3 00000000:0000 0A {rest} 814\n"
        );
        let address = |text: &str| text.parse().expect("an address");
        let of = |text| inodes(&table, address(text), PortKind::Listeners).len();
        assert_eq!((of("127.0.0.1:2003"), of("0.0.0.0:2003"), of("127.0.0.1:2004")), (2, 1, 0));
        let local = SocketAddr::from((Ipv6Addr::LOCALHOST, 80));
        assert_eq!(in_table(local), "00000000000000000000000001000000:0050");
    }

    #[test]
    fn the_youngest_get_everything_until_all_do() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let old = bind_listeners(any, 2, 128, Sharing::Refused).expect("bind");
        let address = old[0].local_addr().expect("an address").as_socket().expect("of the net");
        assert_eq!(members(address, PortKind::Listeners).expect("read"), 2);
        let new = bind_listeners(address, 3, 128, Sharing::Wanted).expect("join");
        give_to_youngest(&new[0], 2, 3).expect("attach");
        let clients = |count: usize| -> Vec<TcpStream> {
            (0..count).map(|_| TcpStream::connect(address).expect("connect")).collect()
        };
        let waiting = |sockets: &[Socket]| -> Vec<usize> {
            let count = |socket: &Socket| (0..).take_while(|_| socket.accept().is_ok()).count();
            sockets.iter().map(count).collect()
        };
        let first = clients(60);
        assert_eq!(waiting(&old), [0, 0]);
        assert_eq!(waiting(&new).iter().sum::<usize>(), 60);
        give_to_all(&new[0]).expect("detach");
        let second = clients(60);
        assert!(waiting(&old).iter().sum::<usize>() > 0);
        drop((first, second));
    }

    #[test]
    fn datagrams_too() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let old = bind_datagrams(any, 1, 1 << 16, Sharing::Refused).expect("bind");
        let address = old[0].local_addr().expect("an address").as_socket().expect("of the net");
        assert_eq!(members(address, PortKind::Datagrams).expect("read"), 1);
        let new = bind_datagrams(address, 1, 1 << 16, Sharing::Wanted).expect("join");
        give_to_youngest(&new[0], 1, 1).expect("attach");
        for _ in 0..20 {
            let sender = UdpSocket::bind(any).expect("bind");
            sender.send_to(b"x", address).expect("send");
        }
        assert!(old[0].recv(&mut [std::mem::MaybeUninit::uninit(); 8]).is_err());
        for _ in 0..20 {
            new[0].recv(&mut [std::mem::MaybeUninit::uninit(); 8]).expect("a datagram");
        }
    }
}
