//! Questions to the cache, from graphite-web and scripts.
//!
//! Answers come in the order of the requests; the next request is looked at when the answer to the
//! last is written, so a client that does not read holds up only itself and one answer's memory.
//! An idle connection is never closed: graphite-web keeps its connections for ever and does not
//! ask again when one turns out to be closed.

use std::collections::HashSet;
use std::time::Duration;

use crate::limits::QUESTIONS_MAX;
use crate::metric::point::Point;
use crate::metric::series::Aggregation;
use crate::shard::query::{Answer, Question, Ticket};
use crate::shard::route::ShardId;
use crate::sys::executor::yield_if_needed;
use crate::sys::socket::Stream;
use crate::tasks::core::{ConnectionOptions, Core};
use crate::tasks::exchange;
use crate::tasks::receive_pickle::{Carry, MessageTooLong, check_length, message_bytes};
use crate::tasks::receive_tcp::Patience;
use crate::wire::carbonlink::{self as wire, BulkReply, Request};

/// A client that takes nothing of an answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Names asked for at once: their answers are found without another task's turn in between, and
/// they have at most this many owners.
const QUESTION_NAMES_MAX: usize = 128;
const _: () = assert!(QUESTION_NAMES_MAX <= QUESTIONS_MAX, "one slice's questions may be open");

/// Why a connection is closed: the client broke the protocol, or is gone.
struct Closed;

impl From<MessageTooLong> for Closed {
    fn from(_: MessageTooLong) -> Closed {
        Closed
    }
}

/// A request, kept while its answer is looked for.
enum Asked {
    Query(Vec<u8>),
    Bulk(Vec<Vec<u8>>),
    GetMethod(Vec<u8>),
    SetMethod(Vec<u8>, Aggregation),
    Refused(String),
    UnknownType(String),
}

/// Answers requests until the connection ends.
pub async fn answer(core: &Core, mut stream: Stream, options: ConnectionOptions) {
    let mut carry = Carry::default();
    let mut reply = Vec::new();
    let mut patience = Patience::new(options);
    loop {
        let timeout = patience.timeout(Duration::ZERO);
        match stream.read_into(&core.read_buffer, timeout).await {
            Ok(0) => break,
            Ok(count) => {
                let before = carry.bytes.len();
                carry.bytes.extend_from_slice(&core.read_buffer.borrow()[..count]);
                let taken = take(core, &mut carry, &mut reply, &mut stream, options).await;
                patience.unfinished(!carry.bytes.is_empty(), carry.bytes.len() <= count);
                let after = carry.bytes.len();
                core.with_shard(|shard| shard.account_connection(before, after));
                if taken.is_err() {
                    core.shard.borrow_mut().counters.bad_requests += 1;
                    break;
                }
            }
            Err(error) => {
                core.count_if_timeout(&error);
                break;
            }
        }
        yield_if_needed().await;
    }
    core.with_shard(|shard| shard.account_connection(carry.bytes.len(), 0));
}

/// Answers all whole requests in `carry`.
async fn take(
    core: &Core,
    carry: &mut Carry,
    reply: &mut Vec<u8>,
    stream: &mut Stream,
    options: ConnectionOptions,
) -> Result<(), Closed> {
    let mut start = 0;
    loop {
        let rest = &carry.bytes[start..];
        check_length(rest, options.message_bytes_max)?;
        let Some(bytes) = message_bytes(rest).filter(|&bytes| bytes <= rest.len()) else { break };
        let body = &rest[crate::wire::pickle::HEADER_BYTES..bytes];
        let asked = understand(core, body)?;
        start += bytes;
        reply.clear();
        find(core, asked, reply).await;
        stream.write_all(reply, WRITE_TIMEOUT).await.map_err(|_| Closed)?;
        yield_if_needed().await;
    }
    carry.bytes.drain(..start);
    carry.bytes.shrink_to(0);
    reply.clear();
    reply.shrink_to(4_096);
    Ok(())
}

fn understand(core: &Core, body: &[u8]) -> Result<Asked, Closed> {
    let mut decoder = core.decoder.borrow_mut();
    let request = Request::parse(&mut decoder, body).map_err(|error| {
        log::debug!("carbonlink request refused error={error}");
        Closed
    })?;
    let bytes = |name: &str| name.as_bytes().to_vec();
    Ok(match request {
        Request::CacheQuery { metric } => Asked::Query(bytes(metric)),
        Request::CacheQueryBulk { metrics } => Asked::Bulk(distinct(metrics)),
        Request::GetMetadata { key, .. } | Request::SetMetadata { key, .. }
            if key != "aggregationMethod" =>
        {
            Asked::Refused(format!("Unsupported metadata key \"{key}\""))
        }
        Request::GetMetadata { metric, .. } => Asked::GetMethod(bytes(metric)),
        Request::SetMetadata { metric, value, .. } => match Aggregation::from_name(value) {
            Some(method) => Asked::SetMethod(bytes(metric), method),
            None => Asked::Refused(format!("Invalid aggregation method \"{value}\"")),
        },
        Request::Unknown { kind } => Asked::UnknownType(kind.to_owned()),
    })
}

/// The names of a bulk query, each once: its answer is a dict.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    names.filter(|name| seen.insert(*name)).map(|name| name.as_bytes().to_vec()).collect()
}

async fn find(core: &Core, asked: Asked, reply: &mut Vec<u8>) {
    match asked {
        Asked::Query(name) => {
            core.shard.borrow_mut().counters.queries += 1;
            let points = points_of(core, std::slice::from_ref(&name)).await;
            if wire::datapoints_reply(reply, &points[0]).is_err() {
                too_large(reply);
            }
        }
        Asked::Bulk(names) => {
            core.with_shard(|shard| {
                shard.counters.bulk_queries += 1;
                shard.counters.bulk_query_metrics += names.len() as u64;
            });
            let points = points_of(core, &names).await;
            let mut bulk = BulkReply::begin(reply, names.len());
            for (name, points) in names.iter().zip(&points) {
                let name = std::str::from_utf8(name).expect("the request's names are UTF-8");
                bulk.metric(name, points);
            }
            if bulk.end().is_err() {
                too_large(reply);
            }
        }
        Asked::GetMethod(name) => match method_of(core, &name, None).await {
            Ok(method) => wire::value_reply(reply, method.name()),
            Err(text) => wire::error_reply(reply, &text),
        },
        Asked::SetMethod(name, method) => match method_of(core, &name, Some(method)).await {
            Ok(old) => wire::set_reply(reply, old.name(), method.name()),
            Err(text) => wire::error_reply(reply, &text),
        },
        Asked::Refused(text) => wire::error_reply(reply, &text),
        Asked::UnknownType(kind) => wire::unknown_type_reply(reply, &kind),
    }
}

fn too_large(reply: &mut Vec<u8>) {
    reply.clear();
    wire::error_reply(reply, "answer too large, ask for fewer metrics");
}

/// The points of each name, wherever it is owned, asked for in slices of names.
async fn points_of(core: &Core, names: &[Vec<u8>]) -> Vec<Vec<Point>> {
    let mut found = Vec::with_capacity(names.len());
    for names in names.chunks(QUESTION_NAMES_MAX) {
        found.extend(points_of_slice(core, names).await);
        yield_if_needed().await;
    }
    found
}

/// One question for each shard that owns some of the names.
async fn points_of_slice(core: &Core, names: &[Vec<u8>]) -> Vec<Vec<Point>> {
    let mut found: Vec<Vec<Point>> = names.iter().map(|_| Vec::new()).collect();
    let mut by_owner: Vec<(ShardId, Vec<usize>, Vec<Vec<u8>>)> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let Some((name, owner)) = core.shard.borrow_mut().locate(name) else { continue };
        match by_owner.iter_mut().find(|(shard, ..)| *shard == owner) {
            Some((_, places, asked)) => {
                places.push(at);
                asked.push(name);
            }
            None => by_owner.push((owner, vec![at], vec![name])),
        }
    }
    // All tickets at once: a task that held some and waited for more could wait for others that do
    // the same.
    let count = by_owner.len();
    core.answered.until(|| core.open_questions() + count <= QUESTIONS_MAX).await;
    let mut tickets = Vec::with_capacity(count);
    for (owner, places, asked) in by_owner {
        let ticket = core.new_ticket();
        exchange::ask(core, owner, Question::Points(ticket, asked));
        tickets.push((ticket, places));
    }
    for (ticket, places) in tickets {
        let Answer::Points(_, points) = core.answer_to(ticket).await else {
            unreachable!("a question for points is answered with points")
        };
        for (place, points) in places.into_iter().zip(points) {
            found[place] = points;
        }
    }
    found
}

/// The aggregation method of a metric's file, changed to `change` if given.
async fn method_of(
    core: &Core,
    name: &[u8],
    change: Option<Aggregation>,
) -> Result<Aggregation, String> {
    let located = core.shard.borrow_mut().locate(name);
    let Some((name, owner)) = located else {
        return Err(format!("no such metric \"{}\"", String::from_utf8_lossy(name)));
    };
    let ticket = ask(core, owner, |ticket| Question::Metadata(ticket, name, change)).await;
    let Answer::Metadata(_, result) = core.answer_to(ticket).await else {
        unreachable!("a question for metadata is answered with metadata")
    };
    result
}

/// Asks the owner as soon as few enough questions are open.
pub(crate) async fn ask(
    core: &Core,
    owner: ShardId,
    question: impl FnOnce(Ticket) -> Question,
) -> Ticket {
    core.answered.until(|| core.open_questions() < QUESTIONS_MAX).await;
    let ticket = core.new_ticket();
    exchange::ask(core, owner, question(ticket));
    ticket
}
