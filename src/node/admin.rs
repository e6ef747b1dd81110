//! Starts the admin thread, which answers on a Unix socket that only the node's user can open.

use std::path::Path;

use crate::sys::admin_socket::{SocketName, listen};
use crate::tasks::admin;
use crate::tasks::admin_line::CoreLine;

/// Listens at this path until the returned name is dropped. After a failure the node runs without
/// an admin socket.
pub(crate) fn start(path: &Path, cores: Vec<CoreLine>) -> Option<SocketName> {
    let started = listen(path).and_then(|(listener, name)| {
        let thread = std::thread::Builder::new().name("admin".to_owned());
        thread.spawn(move || admin::run(&listener, cores)).map(|_| name)
    });
    started
        .inspect_err(|error| {
            let path = path.display();
            log::warn!("no admin socket ([common] admin-socket) path={path} error={error}");
        })
        .ok()
}
