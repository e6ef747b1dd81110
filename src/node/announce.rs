//! The start-up message on standard output: addresses, and one command each to send and to read.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Config;
use crate::node::sizes::Sizes;

/// Prints the addresses and the commands to try, and logs `ready`.
pub(crate) fn announce(config: &Config, sizes: &Sizes, listening: &[(&'static str, SocketAddr)]) {
    // A node runs with a closed standard output too.
    let _ = write(config, sizes, listening, &mut io::stdout());
    let Sizes { shards_by, budget_bytes, budget_by, .. } = sizes;
    let shards = sizes.shards();
    log::info!(
        "ready shards={shards} budget_bytes={budget_bytes} shards_by={shards_by:?} \
         budget_by={budget_by:?}"
    );
}

fn write(
    config: &Config,
    sizes: &Sizes,
    listening: &[(&'static str, SocketAddr)],
    out: &mut dyn Write,
) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let directory = config.whisper.data_dir.display();
    writeln!(out, "carbyne {version}: {} shards, files in {directory}", sizes.shards())?;
    for (label, address) in listening {
        writeln!(out, "  {label:<11} {address}")?;
    }
    let found = |wanted: &str| {
        listening.iter().find(|(label, _)| *label == wanted).map(|(_, address)| to_try(*address))
    };
    if let Some(to) = found("line tcp") {
        let (host, port) = (to.ip(), to.port());
        let send = format!("bash -c 'echo \"test.me 42 $(date +%s)\" >/dev/tcp/{host}/{port}'");
        writeln!(out, "  send        {send}")?;
    }
    if let Some(to) = found("carbonlink") {
        writeln!(out, "  read        carbyne query --carbonlink {to} test.me")?;
    }
    out.flush()
}

/// The address at which a client on this machine reaches a listener on all addresses.
fn to_try(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
