//! Accepting connections: one task a listener.

use std::rc::Rc;
use std::time::Duration;

use socket2::Socket;

use crate::sys::executor::{Task, sleep, spawn, spawn_bulk};
use crate::sys::socket::{Listener, Stream};
use crate::tasks::core::{ConnectionOptions, Core, Protocol, Stage};
use crate::tasks::{carbonlink, receive_pickle, receive_tcp};

/// Pause after an accept that failed, mostly for want of descriptors: others may be closed
/// meanwhile, and an accept loop without a pause takes a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener, the protocol of its connections, and how they are treated.
pub struct Acceptor {
    listener: Listener,
    protocol: Protocol,
    options: ConnectionOptions,
}

impl Acceptor {
    /// Accepts on a socket that listens.
    pub fn new((socket, protocol, options): (Socket, Protocol, ConnectionOptions)) -> Acceptor {
        Acceptor { listener: Listener::adopt(socket), protocol, options }
    }
}

/// Starts accepting connections.
pub fn start(core: &Rc<Core>, acceptor: &Rc<Acceptor>) -> Task<()> {
    let (core, acceptor) = (Rc::clone(core), Rc::clone(acceptor));
    spawn(async move {
        let Acceptor { listener, protocol, options } = &*acceptor;
        while core.stage.get() == Stage::Running {
            core.changed.until(|| core.may_accept(*protocol, *options)).await;
            match listener.accept().await {
                Ok(stream) => serve(&core, stream, *protocol, *options),
                Err(error) => {
                    core.shard.borrow_mut().counters.accept_errors += 1;
                    log::debug!("accept failed protocol={protocol:?} error={error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Accepts what waits, for the last time: it would be reset with what it has sent.
pub fn take_rest(core: &Rc<Core>, acceptor: &Acceptor) {
    while let Some(stream) = acceptor.listener.accept_waiting() {
        serve(core, stream, acceptor.protocol, acceptor.options);
    }
}

fn serve(core: &Rc<Core>, stream: Stream, protocol: Protocol, options: ConnectionOptions) {
    let core = Rc::clone(core);
    // Before its first turn: the stop waits for all that are registered.
    let registration = core.register(&stream, protocol);
    let connection = async move {
        match protocol {
            Protocol::Lines => receive_tcp::receive(&core, stream, options).await,
            Protocol::Pickles => receive_pickle::receive(&core, stream, options).await,
            Protocol::Carbonlink => carbonlink::answer(&core, stream, options).await,
        }
        drop(registration);
    };
    match protocol {
        Protocol::Lines | Protocol::Pickles => spawn_bulk(connection).detach(),
        Protocol::Carbonlink => spawn(connection).detach(),
    };
}
