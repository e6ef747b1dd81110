//! Accepting connections: one task a listener.

use std::rc::Rc;
use std::time::Duration;

use crate::sys::executor::{Task, sleep, spawn, spawn_bulk};
use crate::sys::socket::{Listener, Stream};
use crate::tasks::core::{ConnectionOptions, Core, Speech, Stage};
use crate::tasks::{carbonlink, receive_pickle, receive_tcp};

/// Pause after an accept that failed, mostly for want of descriptors: others may be closed
/// meanwhile, and an accept loop without a pause takes a whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener, what its connections speak, and how they are treated.
pub struct Door {
    /// The listener.
    pub listener: Listener,
    /// What its connections speak.
    pub speech: Speech,
    /// How they are treated.
    pub options: ConnectionOptions,
}

/// Starts accepting connections.
pub fn start(core: &Rc<Core>, door: &Rc<Door>) -> Task<()> {
    let (core, door) = (Rc::clone(core), Rc::clone(door));
    spawn(async move {
        let Door { listener, speech, options } = &*door;
        while core.stage.get() == Stage::Running {
            core.changed.until(|| core.may_accept(*speech, *options)).await;
            match listener.accept().await {
                Ok(stream) => serve(&core, stream, *speech, *options),
                Err(error) => {
                    core.shard.borrow_mut().counters.accept_errors += 1;
                    log::debug!("accept failed speech={speech:?} error={error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Accepts what waits, for the last time: it would be reset with what it has sent.
pub fn take_rest(core: &Rc<Core>, door: &Door) {
    while let Some(stream) = door.listener.accept_waiting() {
        serve(core, stream, door.speech, door.options);
    }
}

fn serve(core: &Rc<Core>, stream: Stream, speech: Speech, options: ConnectionOptions) {
    let core = Rc::clone(core);
    // Before its first turn: the stop waits for all that are registered.
    let registration = core.register(&stream, speech);
    let connection = async move {
        match speech {
            Speech::Lines => receive_tcp::receive(&core, stream, options).await,
            Speech::Pickles => receive_pickle::receive(&core, stream, options).await,
            Speech::Carbonlink => carbonlink::answer(&core, stream, options).await,
        }
        drop(registration);
    };
    match speech {
        Speech::Lines | Speech::Pickles => spawn_bulk(connection).detach(),
        Speech::Carbonlink => spawn(connection).detach(),
    };
}
