//! What a node says on standard output when it is ready.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::Config;
use crate::node::sizes::Sizes;

/// Says where everything listens and how to try it.
pub(crate) fn announce(config: &Config, sizes: &Sizes, listening: &[(&'static str, SocketAddr)]) {
    // A closed standard output is no reason to stop a node.
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

/// Where a client on this machine reaches a listener: all addresses is none to connect to.
fn to_try(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
