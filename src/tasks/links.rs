//! What this core sends to the others: batches of points, requests and responses.
//!
//! A response always has a place in its ring, so no core waits for another one here. `exchange`
//! empties the other ends of the links.

use std::rc::Rc;
use std::time::Duration;

use crate::disk::metadata::MetadataRequest;
use crate::metric::owner::ShardId;
use crate::shard::query::{ShardRequest, ShardResponse};
use crate::sys::executor::{Task, sleep, spawn};
use crate::tasks::commit;
use crate::tasks::core::Core;

/// How long points may wait for their batch to fill up: a wake-up of a sleeping core costs 80 us,
/// at 500 a second 4 % of a core.
const BATCH_AGE_MAX: Duration = Duration::from_millis(2);

/// Sends full batches at once, and has the rest sent when its points have waited long enough. To be
/// called when a receiver has taken points.
pub fn send_soon(core: &Core) {
    commit::schedule_commit(core);
    let mut shard = core.shard.borrow_mut();
    let (has_ready, has_unsent) = (shard.outbox().has_ready(), shard.outbox().has_unsent());
    drop(shard);
    if has_ready {
        send(core, false);
    }
    if has_unsent {
        core.outgoing.notify();
    }
}

/// Starts sending what is left over in open batches.
pub fn start_sending(core: &Rc<Core>) -> Task<()> {
    let core = Rc::clone(core);
    spawn(async move {
        loop {
            core.outgoing.until(|| core.shard.borrow_mut().outbox().has_unsent()).await;
            sleep(BATCH_AGE_MAX).await;
            send(&core, true);
        }
    })
}

/// Sends what the links have room for.
pub fn send(core: &Core, also_open: bool) {
    let mut shard = core.shard.borrow_mut();
    let mut peers = core.peers.borrow_mut();
    for (number, peer) in (0u16..).zip(peers.iter_mut()) {
        let Some(peer) = peer else { continue };
        let mut sent = false;
        while let Some(batch) = shard.outbox().pop(ShardId(number), also_open) {
            match peer.data_tx.push(batch) {
                Ok(()) => sent = true,
                Err(rtrb::PushError::Full(batch)) => {
                    shard.outbox().unpop(ShardId(number), batch);
                    break;
                }
            }
        }
        if sent {
            peer.bell.ring();
        }
    }
}

/// Sends a request to a shard; the core keeps the response. The caller has made sure that no more
/// than [`SHARD_REQUESTS_MAX`](crate::limits::SHARD_REQUESTS_MAX) requests are open. Points that
/// wait to be sent are sent first, but the response does not wait for them.
pub fn ask(core: &Core, owner: ShardId, request: ShardRequest) {
    let is_own = core.shard.borrow().id() == owner;
    if is_own {
        if let Some(metadata) = respond_here(core, None, request) {
            core.metadata_requests.borrow_mut().push_back(metadata);
            core.own_bell.ring();
        }
        // It may have been points: the node's own.
        commit::schedule_commit(core);
        return;
    }
    send(core, true);
    let mut peers = core.peers.borrow_mut();
    let peer = peers[owner.index()].as_mut().expect("every other shard is a peer");
    peer.ask_tx.push(request).expect("no more requests are open than the ring has places");
    peer.bell.ring();
}

/// Sends a response to the core that asked.
pub fn reply(core: &Core, asker: Option<ShardId>, response: ShardResponse) {
    let Some(asker) = asker else { return core.keep_response(response) };
    let mut peers = core.peers.borrow_mut();
    let peer = peers[asker.index()].as_mut().expect("every other shard is a peer");
    peer.answer_tx.push(response).expect("no more responses are owed than the ring has places");
    peer.bell.ring();
}

/// Responds to a request at once, or says what the writer must do for it.
pub(crate) fn respond_here(
    core: &Core,
    asker: Option<ShardId>,
    request: ShardRequest,
) -> Option<MetadataRequest> {
    let response = match request {
        ShardRequest::Points(request_id, names, bytes_max) => {
            ShardResponse::Points(request_id, core.shard.borrow().page_of(&names, bytes_max))
        }
        ShardRequest::Own(request_id, batch) => {
            core.with_shard(|shard| shard.accept_own_batch(&batch));
            ShardResponse::Own(request_id)
        }
        ShardRequest::Stats(request_id) => ShardResponse::Stats(request_id, Box::new(core.stats())),
        ShardRequest::Metadata(request_id, name, change) => {
            let path = core.shard.borrow().path_of(&name);
            return Some(MetadataRequest { asker, request_id, name, path, change, result: None });
        }
    };
    reply(core, asker, response);
    None
}
