//! What a node says on standard output when it is ready.

use std::io::{self, Write};
use std::net::SocketAddr;

use crate::config::Config;
use crate::node::plan::Sizes;

/// Says where everything listens and how to try it.
pub(crate) fn announce(config: &Config, sizes: &Sizes, listening: &[(&'static str, SocketAddr)]) {
    // A closed standard output is no reason to stop a node.
    let _ = write(config, sizes, listening, &mut io::stdout());
    log::info!("ready shards={} budget_bytes={}", sizes.shards(), sizes.budget_bytes);
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
    let port = |wanted: &str| {
        listening.iter().find(|(label, _)| *label == wanted).map(|(_, address)| address.port())
    };
    if let Some(port) = port("line tcp") {
        let bash = "bash -c";
        let send = format!("{bash} 'echo \"test.me 42 $(date +%s)\" >/dev/tcp/127.0.0.1/{port}'");
        writeln!(out, "  send        {send}")?;
    }
    if let Some(port) = port("carbonlink") {
        let read = format!("carbyne query --carbonlink 127.0.0.1:{port} test.me");
        writeln!(out, "  read        {read}")?;
    }
    out.flush()
}
