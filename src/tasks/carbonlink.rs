//! Questions to the cache, from graphite-web and scripts.
//!
//! Answers come in the order of the requests; the next request is looked at when the answer to the
//! last is written, so a client that does not read holds up only itself. An idle connection
//! stays open unless `idle-timeout` is set: graphite-web keeps its connections and does not repeat
//! a request when one turns out to be closed.
//!
//! What a client may hold is bounded whatever it sends. Of a request its first bytes are read
//! ([`REQUEST_BEGINNING_BYTES`]); the rest of a long one only when no other on this core is being
//! received and answered. Requests, like answers, have a share of the memory budget; a connection
//! that finds it used up by unfinished requests gives up its own and is closed.

use std::io;
use std::time::Instant;

use crate::limits::{
    READ_BYTES, REPLY_PIECE_BYTES, REQUEST_BEGINNING_BYTES, REQUEST_SMALL_BYTES, REQUEST_TURN_MAX,
    REQUEST_TURN_STALL, SHARD_REQUESTS_MAX, SMALL_REPLY_BYTES,
};
use crate::metric::owner::ShardId;
use crate::metric::series::Aggregation;
use crate::shard::memory::Share;
use crate::shard::query::{Page, RequestId, ShardRequest, ShardResponse, unpacked};
use crate::sys::executor::{take_turn, yield_if_needed};
use crate::sys::socket::Stream;
use crate::tasks::answer_memory::{Held, NoMemory};
use crate::tasks::core::{ConnectionOptions, Core};
use crate::tasks::event::Turn;
use crate::tasks::gather::{Gathered, entries, gather, points_of};
use crate::tasks::links;
use crate::tasks::read_deadline::ReadDeadline;
use crate::tasks::receive_pickle::{check_length, message_bytes};
use crate::tasks::reply::{Closed, Writing};
use crate::wire::carbonlink::{self as wire, Reply, ReplySize, Request, RequestError};
use crate::wire::pickle::{HEADER_BYTES, PickleDecoder, arena_bytes_max};

/// A request that is answered in a few bytes or with one metric's points.
enum Asked {
    Query(Vec<u8>),
    Bulk,
    GetMethod(Vec<u8>),
    SetMethod(Vec<u8>, Aggregation),
    Refused(String),
    UnknownType(String),
}

/// Answers requests until the connection ends.
pub async fn answer(core: &Core, stream: Stream, options: ConnectionOptions) {
    let mut client = Client {
        core,
        stream,
        options,
        deadline: ReadDeadline::new(options),
        received: Vec::new(),
        start: 0,
        accounted_bytes: 0,
        turn: None,
        is_late: false,
    };
    // Whichever way it has ended, and why, is counted.
    let _ = client.serve().await;
    client.received = Vec::new();
    client.start = 0;
    client.account();
    core.memory_freed();
}

/// A turn to receive a long request.
struct Receiving<'c> {
    _turn: Turn<'c>,
    since: Instant,
}

/// One connection.
struct Client<'c> {
    core: &'c Core,
    stream: Stream,
    options: ConnectionOptions,
    deadline: ReadDeadline,
    /// Requests as they came, those before `start` are answered.
    received: Vec<u8>,
    start: usize,
    accounted_bytes: usize,
    turn: Option<Receiving<'c>>,
    /// The request had its turn and did not come in time.
    is_late: bool,
}

impl Client<'_> {
    async fn serve(&mut self) -> Result<(), Closed> {
        loop {
            while let Some(bytes) = self.whole_request()? {
                self.answer_one(bytes).await?;
                yield_if_needed().await;
            }
            self.received.drain(..self.start);
            self.start = 0;
            self.account();
            if self.receive().await?.is_none() {
                return Ok(());
            }
            yield_if_needed().await;
        }
    }

    /// Bytes of the next request, with its header, if it is whole.
    fn whole_request(&self) -> Result<Option<usize>, Closed> {
        let rest = &self.received[self.start..];
        if check_length(rest, self.options.message_bytes_max).is_err() {
            return Err(bad_request(self.core, "it is too long"));
        }
        Ok(message_bytes(rest).filter(|&bytes| bytes <= rest.len()))
    }

    /// Receives more of a request; `None` when the client has closed the connection.
    async fn receive(&mut self) -> Result<Option<()>, Closed> {
        let whole_bytes = message_bytes(&self.received).unwrap_or(HEADER_BYTES);
        let is_long = whole_bytes > REQUEST_SMALL_BYTES;
        let since = Instant::now();
        if is_long && self.turn.is_none() && !self.is_late {
            let turn = self.core.large_requests.take().await;
            take_turn().await;
            self.turn = Some(Receiving { _turn: turn, since: Instant::now() });
        }
        let timeout = self.deadline.timeout(since.elapsed());
        let stall_max = self.turn.as_ref().map(|_| REQUEST_TURN_STALL);
        let wait_max = [timeout, stall_max].into_iter().flatten().min();
        // No more than the request: what comes behind it waits in the kernel.
        let missing_bytes = whole_bytes - self.received.len();
        let bytes_max = match self.received.len() {
            0..HEADER_BYTES => REQUEST_BEGINNING_BYTES,
            _ => missing_bytes.min(READ_BYTES),
        };
        let read = self.stream.read_at_most(bytes_max, &self.core.read_buffer, wait_max).await;
        match read {
            Ok(0) => Ok(None),
            Ok(count) => self.take(count, missing_bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && wait_max != timeout => {
                self.lose_turn();
                Ok(Some(()))
            }
            Err(error) => {
                self.core.count_if_timeout(&error);
                Err(Closed)
            }
        }
    }

    /// Takes what was read. An unfinished request is given up when there is no memory for it.
    fn take(&mut self, count: usize, missing_bytes: usize) -> Result<(), Closed> {
        // Memory is taken for what has come, not for what a header promises.
        if self.received.len() + count >= missing_bytes / 4 {
            self.received.reserve_exact(count.max(missing_bytes));
        }
        self.received.extend_from_slice(&self.core.read_buffer.borrow()[..count]);
        self.account();
        let is_whole = self.whole_request()?.is_some();
        self.deadline.unfinished(!is_whole, self.received.len() <= count);
        let has_too_much = |share| self.core.shard.borrow().has_too_much_unfinished(share);
        if !is_whole && has_too_much(Share::Requests) {
            self.core.with_shard(|shard| shard.counters.requests_given_up += 1);
            return Err(Closed);
        }
        if self.turn.as_ref().is_some_and(|it| it.since.elapsed() >= REQUEST_TURN_MAX) && !is_whole
        {
            self.lose_turn();
        }
        Ok(())
    }

    fn lose_turn(&mut self) {
        self.turn = None;
        self.is_late = true;
    }

    fn account(&mut self) {
        let (before, after) = (self.accounted_bytes, self.received.len());
        self.core.with_shard(|shard| shard.account_connection(Share::Requests, before, after));
        self.accounted_bytes = after;
    }

    /// Answers the next request. `bytes` is its length with the header.
    async fn answer_one(&mut self, bytes: usize) -> Result<(), Closed> {
        let core = self.core;
        let body = &self.received[self.start + HEADER_BYTES..self.start + bytes];
        let found = find(core, body).await;
        // The request is no longer needed, and its answer may take long.
        self.start += bytes;
        if self.start == self.received.len() {
            (self.received, self.start) = (Vec::new(), 0);
            self.account();
        }
        (self.turn, self.is_late) = (None, false);
        let mut writing = Writing::begin(core, &mut self.stream);
        match found.map_err(|error| bad_request(core, error))? {
            Found::Text(reply, _held) => writing.all(&reply).await,
            Found::Points(page, held) => write_points(page, held, &mut writing).await,
            Found::Bulk(gathered, held) => write_bulk(gathered, held, &mut writing).await,
        }
    }
}

fn bad_request(core: &Core, error: impl std::fmt::Display) -> Closed {
    log::debug!("carbonlink request refused error={error}");
    core.with_shard(|shard| shard.counters.bad_requests += 1);
    Closed
}

/// What a request is answered with, and the memory for it.
enum Found<'c> {
    Text(Vec<u8>, Option<Held<'c>>),
    Points(Page, Held<'c>),
    Bulk(Gathered, Held<'c>),
}

/// Looks for the answer to a request.
async fn find<'c>(core: &'c Core, body: &[u8]) -> Result<Found<'c>, RequestError> {
    if body.len() > REQUEST_SMALL_BYTES - HEADER_BYTES {
        return find_large(core, body).await;
    }
    let asked = understand(Request::parse(&mut core.decoder.borrow_mut(), body));
    match asked? {
        Asked::Bulk => find_large(core, body).await,
        asked => Ok(find_small(core, asked).await.unwrap_or_else(|error| refused(core, error))),
    }
}

async fn find_small<'c>(core: &'c Core, asked: Asked) -> Result<Found<'c>, NoMemory> {
    if let Asked::Query(name) = asked {
        core.shard.borrow_mut().counters.queries += 1;
        let (held, page) = points_of(core, &name).await?;
        return Ok(Found::Points(page, held));
    }
    let mut held = Held::take(core, Share::SmallAnswers, SMALL_REPLY_BYTES).await?;
    let reply = match asked {
        Asked::Query(_) | Asked::Bulk => unreachable!("it is answered with points"),
        Asked::GetMethod(name) => match method_of(core, &name, None).await {
            Ok(method) => wire::value_reply(method.name()),
            Err(text) => wire::error_reply(&text),
        },
        Asked::SetMethod(name, method) => match method_of(core, &name, Some(method)).await {
            Ok(old) => wire::set_reply(old.name(), method.name()),
            Err(text) => wire::error_reply(&text),
        },
        Asked::Refused(text) => wire::error_reply(&text),
        Asked::UnknownType(kind) => wire::unknown_type_reply(&kind),
    };
    held.shrink_to(reply.len());
    Ok(Found::Text(reply, Some(held)))
}

/// A long request, or one for many metrics: taken apart and looked for when no other such one is.
async fn find_large<'c>(core: &'c Core, body: &[u8]) -> Result<Found<'c>, RequestError> {
    let turn = core.bulk_questions.take().await;
    take_turn().await;
    let mut decoder = PickleDecoder::new();
    let metrics = match Request::parse(&mut decoder, body)? {
        Request::CacheQueryBulk { metrics } => metrics,
        request => {
            let asked = understand(Ok(request))?;
            drop(turn);
            let found = find_small(core, asked).await;
            return Ok(found.unwrap_or_else(|error| refused(core, error)));
        }
    };
    let mut work = Held::count(core, Share::Work, arena_bytes_max(body.len()));
    core.shard.borrow_mut().counters.bulk_queries += 1;
    let found = async {
        let mut held = Held::take(core, Share::LargeAnswers, REPLY_PIECE_BYTES).await?;
        Ok(Found::Bulk(gather(core, metrics, &mut held, &mut work).await?, held))
    };
    Ok(found.await.unwrap_or_else(|error| refused(core, error)))
}

/// A question that is not answered for want of memory: an error says so, and the client may go on.
fn refused(core: &Core, error: NoMemory) -> Found<'_> {
    core.with_shard(|shard| match error {
        NoMemory::TooLarge { .. } => shard.counters.answers_too_large += 1,
        NoMemory::PutOff => shard.counters.answers_put_off += 1,
    });
    Found::Text(wire::error_reply(&error.text()), None)
}

fn understand(request: Result<Request<'_>, RequestError>) -> Result<Asked, RequestError> {
    let bytes = |name: &str| name.as_bytes().to_vec();
    Ok(match request? {
        Request::CacheQuery { metric } => Asked::Query(bytes(metric)),
        Request::CacheQueryBulk { .. } => Asked::Bulk,
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

/// Writes the answer to a query.
async fn write_points(
    page: Page,
    mut held: Held<'_>,
    writing: &mut Writing<'_>,
) -> Result<(), Closed> {
    // A name that cannot exist has no place in a page.
    let packed = page.metrics().next().unwrap_or(&[]);
    let points = unpacked(packed);
    let count = u32::try_from(points.len()).expect("a page has less than 4 GiB");
    let Ok(mut reply) = Reply::begin(ReplySize::datapoints(count)) else {
        return writing.all(&wire::error_reply("answer too large")).await;
    };
    reply.datapoints(count);
    writing.points(&mut reply, points).await?;
    reply.end();
    if held.bytes() <= SMALL_REPLY_BYTES {
        drop(page);
        held.shrink_to(reply.written().len());
    }
    writing.all(reply.written()).await
}

/// Writes the answer to a bulk query, and gives its memory back meanwhile.
async fn write_bulk(
    mut gathered: Gathered,
    mut held: Held<'_>,
    writing: &mut Writing<'_>,
) -> Result<(), Closed> {
    let Ok(mut reply) = Reply::begin(gathered.size) else {
        return writing.all(&wire::error_reply("answer too large, ask for fewer metrics")).await;
    };
    while let Some(chunk) = gathered.pop() {
        for (name, packed) in entries(&chunk) {
            let points = unpacked(packed);
            let count = u32::try_from(points.len()).expect("a page has less than 4 GiB");
            reply.metric(name, count);
            writing.points(&mut reply, points).await?;
            writing.piece_if_full(&mut reply).await?;
        }
        drop(chunk);
        held.shrink_to(gathered.bytes() + REPLY_PIECE_BYTES);
    }
    reply.end();
    writing.all(reply.written()).await
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
    let request_id =
        ask(core, owner, |request_id| ShardRequest::Metadata(request_id, name, change)).await;
    let ShardResponse::Metadata(_, result) = core.response_to(request_id).await else {
        unreachable!("a question for metadata is answered with metadata")
    };
    result
}

/// Asks the owner as soon as few enough questions are open.
pub(crate) async fn ask(
    core: &Core,
    owner: ShardId,
    question: impl FnOnce(RequestId) -> ShardRequest,
) -> RequestId {
    core.answered.until(|| core.open_requests() < SHARD_REQUESTS_MAX).await;
    let request_id = core.new_request_id();
    links::ask(core, owner, question(request_id));
    request_id
}
