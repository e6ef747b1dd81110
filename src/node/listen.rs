//! Binds every listener once per core.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::config::{Config, Listener, listen_address};
use crate::node::sizes::Sizes;
use crate::sys::port_group::{PortKind, give_to_all, give_to_youngest, members};
use crate::sys::socket::{Sharing, bind_datagrams, bind_listeners};
use crate::tasks::core::Protocol;

/// Longest wait for the kernel to close the sockets of the process that was replaced, and the
/// time between two checks.
const ALONE_TIME: Duration = Duration::from_secs(5);
const ALONE_PAUSE: Duration = Duration::from_millis(1);

/// Longest time that a taken port is tried again, and the time between two tries: the kernel may
/// close the sockets of a killed process some time after its end.
const BUSY_TIME: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The bound sockets of each core.
pub(crate) struct Sockets {
    pub(crate) per_core: Vec<CoreSockets>,
    /// Labels and addresses for the start-up message.
    pub(crate) announced: Vec<(&'static str, SocketAddr)>,
}

/// One core's sockets.
#[derive(Default)]
pub(crate) struct CoreSockets {
    pub(crate) listeners: Vec<(Socket, Protocol)>,
    pub(crate) datagrams: Option<Socket>,
}

/// Binds every enabled listener; with `sharing`, beside the node that has the ports now.
pub(crate) fn bind(config: &Config, sizes: &Sizes, sharing: Sharing) -> Result<Sockets, String> {
    let (count, until) = (sizes.shards(), Instant::now() + BUSY_TIME);
    let mut sockets = Sockets {
        per_core: (0..count).map(|_| CoreSockets::default()).collect(),
        announced: Vec::new(),
    };
    let kinds: [(&'static str, &'static str, &Listener, Protocol); 3] = [
        ("line tcp", "tcp", &config.tcp, Protocol::Lines),
        ("pickle tcp", "pickle", &config.pickle.listener, Protocol::Pickles),
        ("carbonlink", "carbonlink", &config.carbonlink, Protocol::Carbonlink),
    ];
    for (label, section, listener, protocol) in kinds {
        if !listener.enabled {
            continue;
        }
        let bound = bind_one(section, &listener.listen, config.embedded, until, |address| {
            let old = others(address, PortKind::Listeners, sharing)?;
            let bound = bind_listeners(address, count, listener.backlog, sharing)?;
            prefer(&bound, old)?;
            Ok(bound)
        })?;
        sockets.announce(label, &bound);
        for (core, socket) in sockets.per_core.iter_mut().zip(bound) {
            core.listeners.push((socket, protocol));
        }
        if label == "line tcp" && config.udp.enabled {
            bind_udp(config, count, sharing, until, &mut sockets)?;
        }
    }
    if config.udp.enabled && !config.tcp.enabled {
        bind_udp(config, count, sharing, until, &mut sockets)?;
    }
    Ok(sockets)
}

/// Binds the UDP sockets. Where an embedded configuration got a free port for lines over TCP, UDP
/// uses the same port.
fn bind_udp(
    config: &Config,
    count: usize,
    sharing: Sharing,
    until: Instant,
    sockets: &mut Sockets,
) -> Result<(), String> {
    let replaced = sockets.announced.first().map(|(_, address)| address.to_string());
    let listen = match replaced {
        Some(address) if config.embedded => address,
        _ => config.udp.listen.clone(),
    };
    let bound = bind_one("udp", &listen, config.embedded, until, |address| {
        let old = others(address, PortKind::Datagrams, sharing)?;
        let bound = bind_datagrams(address, count, config.udp.receive_buffer, sharing)?;
        prefer(&bound, old)?;
        Ok(bound)
    })?;
    sockets.announce("line udp", &bound);
    for (core, socket) in sockets.per_core.iter_mut().zip(bound) {
        core.datagrams = Some(socket);
    }
    Ok(())
}

/// Counts the sockets of other processes at a shared address.
fn others(address: SocketAddr, kind: PortKind, sharing: Sharing) -> io::Result<u32> {
    match sharing {
        Sharing::Refused => Ok(0),
        Sharing::Wanted => members(address, kind),
    }
}

/// Directs new connections and datagrams to these sockets if other processes share the address.
fn prefer(bound: &[Socket], old: u32) -> io::Result<()> {
    let new = u32::try_from(bound.len()).expect("the configuration limits the shards");
    match bound.first() {
        Some(first) if old > 0 => give_to_youngest(first, old, new),
        _ => Ok(()),
    }
}

impl Sockets {
    /// Waits until no other process has the ports, then lets the kernel distribute among all
    /// sockets again. The kernel closes the sockets of an ended process after its rings are gone.
    pub(crate) fn be_alone(&self) {
        let Some(first) = self.per_core.first() else { return };
        let listeners = first.listeners.iter().map(|(socket, _)| (socket, PortKind::Listeners));
        let datagrams = first.datagrams.iter().map(|socket| (socket, PortKind::Datagrams));
        for (socket, kind) in listeners.chain(datagrams) {
            if let Err(error) = self.wait_until_alone(socket, kind) {
                log::warn!("count the sockets of a port failed error={error}");
            }
            // Fails where no program was attached: the port was free before.
            if let Err(error) = give_to_all(socket) {
                log::debug!("detach program from port failed error={error}");
            }
        }
    }

    fn wait_until_alone(&self, socket: &Socket, kind: PortKind) -> io::Result<()> {
        let Some(address) = socket.local_addr()?.as_socket() else { return Ok(()) };
        let deadline = Instant::now() + ALONE_TIME;
        while members(address, kind)? as usize > self.per_core.len() {
            if Instant::now() >= deadline {
                log::warn!("another process listens on this address too address={address}");
                break;
            }
            std::thread::sleep(ALONE_PAUSE);
        }
        Ok(())
    }

    fn announce(&mut self, label: &'static str, bound: &[Socket]) {
        let address = bound.first().and_then(|socket| socket.local_addr().ok()?.as_socket());
        if let Some(address) = address {
            self.announced.push((label, address));
        }
    }
}

/// Binds one address. With `or_free`, a free port replaces one that is still taken at `until`.
fn bind_one(
    section: &str,
    listen: &str,
    or_free: bool,
    until: Instant,
    bind: impl Fn(SocketAddr) -> io::Result<Vec<Socket>>,
) -> Result<Vec<Socket>, String> {
    let fail = |error: &dyn std::fmt::Display| format!("listen [{section}] {listen}: {error}");
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses(listen).map_err(|error| fail(&error))? {
        match patiently(until, || bind(address)) {
            Ok(sockets) => return Ok(sockets),
            Err(error) if or_free && error.kind() == io::ErrorKind::AddrInUse => {
                log::info!("port taken, using a free one section={section} port={address}");
                let free = SocketAddr::new(address.ip(), 0);
                return bind(free).map_err(|error| fail(&error));
            }
            Err(error) => last = error,
        }
    }
    Err(fail(&last))
}

/// Tries again while the port is taken, `until` that time.
fn patiently(
    until: Instant,
    bind: impl Fn() -> io::Result<Vec<Socket>>,
) -> io::Result<Vec<Socket>> {
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(BUSY_PAUSE);
            }
            bound => return bound,
        }
    }
}

/// The addresses to try, in order. Without a host these are all interfaces, first over IPv6, whose
/// socket takes IPv4 too, as in go-carbon.
fn addresses(listen: &str) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = listen_address(listen)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an address"))?;
    if host.is_empty() {
        return Ok(vec![
            SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)),
            SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port)),
        ]);
    }
    Ok((host, port).to_socket_addrs()?.collect())
}
