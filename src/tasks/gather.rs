//! Finding the points that a carbonlink question asks for, wherever they are owned.
//!
//! They are gathered packed, 12 bytes a point, because a reply begins with its length: it can be
//! written piece by piece only if its points stay as they were counted. All memory for them is
//! taken before they are asked for. A bulk question's names are looked for in slices, with other
//! tasks' turns in between; one bulk question of a core at a time.

use std::collections::{HashSet, VecDeque};

use crate::limits::{
    ANSWER_CHUNK_BYTES, ANSWER_PAGE_BYTES, REPLY_PIECE_BYTES, SHARD_REQUEST_NAMES_MAX,
    SHARD_REQUESTS_MAX, SMALL_ANSWER_BYTES, SMALL_REPLY_BYTES,
};
use crate::metric::owner::ShardId;
use crate::shard::memory::Share;
use crate::shard::query::{POINT_BYTES, Page, ShardRequest, ShardResponse};
use crate::sys::executor::take_turn;
use crate::tasks::answer_memory::{Held, NoMemory};
use crate::tasks::core::Core;
use crate::tasks::links;
use crate::wire::carbonlink::ReplySize;

/// Times that a metric's points are asked for with more memory. Each time there are more only if
/// points have come faster than an eighth of them in the time of an answer.
const TRIES_MAX: u32 = 8;

/// Names looked at in a row when all of them came before.
const REPEATED_NAMES_MAX: usize = 1_024;

/// Memory of a name in the set of those that came: a reference and its place, half of them in use.
const NAME_BYTES: usize = 2 * (size_of::<&str>() + 1);

/// First chunk of a bulk answer.
const CHUNK_BYTES_MIN: usize = 16 << 10;

/// The points of one metric, and the memory that they hold.
pub(crate) async fn points_of<'c>(
    core: &'c Core,
    name: &[u8],
) -> Result<(Held<'c>, Page), NoMemory> {
    let mut held = Held::take(core, Share::SmallAnswers, SMALL_REPLY_BYTES).await?;
    let Some((name, owner)) = core.shard.borrow_mut().locate(name) else {
        return Ok((held, Page::default()));
    };
    let mut bytes_max = SMALL_ANSWER_BYTES;
    for _ in 0..TRIES_MAX {
        let question = vec![(owner, vec![name.clone()], bytes_max)];
        let page = ask_all(core, question).await.pop().expect("one question has one answer");
        if page.metric_count() == 1 {
            if bytes_max > SMALL_ANSWER_BYTES {
                held.shrink_to(page.bytes() + REPLY_PIECE_BYTES);
            }
            return Ok((held, page));
        }
        let needed_bytes = page.needed_bytes();
        drop((held, page));
        let share_bytes = core.shard.borrow().share_bytes_max(Share::LargeAnswers);
        let most_bytes = share_bytes.saturating_sub(REPLY_PIECE_BYTES).max(needed_bytes);
        bytes_max = (needed_bytes / 8 * 9 + POINT_BYTES).min(most_bytes);
        held = Held::take(core, Share::LargeAnswers, bytes_max + REPLY_PIECE_BYTES).await?;
    }
    Err(NoMemory::PutOff)
}

/// The points of a bulk answer, in the order of the request.
pub(crate) struct Gathered {
    /// Entries: the name's length in 2 bytes, the name, the points' number in 4, and the points.
    chunks: VecDeque<Vec<u8>>,
    bytes: usize,
    /// What the reply will consist of.
    pub(crate) size: ReplySize,
}

impl Gathered {
    /// Bytes of a new chunk if this entry needs one.
    fn missing_bytes(&self, name: &str, packed: &[u8]) -> Option<usize> {
        let entry_bytes = 2 + name.len() + 4 + packed.len();
        let chunk_bytes = self.bytes.clamp(CHUNK_BYTES_MIN, ANSWER_CHUNK_BYTES).max(entry_bytes);
        match self.chunks.back() {
            Some(chunk) if chunk.capacity() - chunk.len() >= entry_bytes => None,
            _ => Some(chunk_bytes),
        }
    }

    fn add_chunk(&mut self, bytes: usize) {
        self.chunks.push_back(Vec::with_capacity(bytes));
        self.bytes += bytes;
    }

    fn push(&mut self, name: &str, packed: &[u8]) {
        let chunk = self.chunks.back_mut().expect("there is a chunk with room for it");
        let name_bytes = u16::try_from(name.len()).expect("a request's names are short");
        let point_count = u32::try_from(packed.len() / POINT_BYTES).expect("a page has few points");
        chunk.extend_from_slice(&name_bytes.to_le_bytes());
        chunk.extend_from_slice(name.as_bytes());
        chunk.extend_from_slice(&point_count.to_le_bytes());
        chunk.extend_from_slice(packed);
        self.size.list(name.len(), point_count);
    }

    /// Takes the next chunk out.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.capacity();
        Some(chunk)
    }

    /// Memory of the chunks that are left.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The entries of a chunk: names and packed points.
pub(crate) fn entries(mut chunk: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = chunk.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)));
        let (count, rest) = rest.split_first_chunk::<4>().expect("an entry is whole");
        let (packed, rest) = rest.split_at(u32::from_le_bytes(*count) as usize * POINT_BYTES);
        chunk = rest;
        Some((std::str::from_utf8(name).expect("the request's names are UTF-8"), packed))
    })
}

/// Nothing yet.
fn nothing() -> Gathered {
    Gathered { chunks: VecDeque::new(), bytes: 0, size: ReplySize::bulk() }
}

/// The points of all these metrics, each name once as the answer is a dict. Takes the memory for
/// them in addition to what is held, and counts that of the names as work.
pub(crate) async fn gather<'a>(
    core: &Core,
    mut names: impl Iterator<Item = &'a str>,
    held: &mut Held<'_>,
    work: &mut Held<'_>,
) -> Result<Gathered, NoMemory> {
    let mut seen = HashSet::with_hasher(ahash::RandomState::new());
    let mut gathered = nothing();
    let (base_bytes, work_bytes) = (held.bytes(), work.bytes());
    let mut is_over = false;
    while !is_over {
        let mut slice = Vec::with_capacity(SHARD_REQUEST_NAMES_MAX);
        for _ in 0..REPEATED_NAMES_MAX {
            let Some(name) = names.next() else {
                is_over = true;
                break;
            };
            if seen.insert(name) {
                slice.push(name);
            }
            if slice.len() == SHARD_REQUEST_NAMES_MAX {
                break;
            }
        }
        gather_slice(core, &slice, held, &mut gathered).await?;
        held.shrink_to(base_bytes + gathered.bytes);
        work.recount(work_bytes + seen.capacity() * NAME_BYTES);
        take_turn().await;
    }
    core.shard.borrow_mut().counters.bulk_query_metrics += seen.len() as u64;
    Ok(gathered)
}

/// The names of a slice that one shard owns, and what it has answered.
struct Asked {
    owner: ShardId,
    names: Vec<Vec<u8>>,
    pages: Vec<Page>,
    answered_count: usize,
    /// What the next metric takes, if that is known.
    needed_bytes: usize,
}

/// Adds the points of a slice's metrics.
async fn gather_slice(
    core: &Core,
    names: &[&str],
    held: &mut Held<'_>,
    gathered: &mut Gathered,
) -> Result<(), NoMemory> {
    let mut asked: Vec<Asked> = Vec::new();
    let places: Vec<Option<usize>> = names
        .iter()
        .map(|name| {
            let (name, owner) = core.shard.borrow_mut().locate(name.as_bytes())?;
            Some(add_name(&mut asked, owner, name))
        })
        .collect();
    while ask_for_rest(core, &mut asked, held).await? {}
    let mut found: Vec<_> =
        asked.iter().map(|it| it.pages.iter().flat_map(Page::metrics)).collect();
    for (name, place) in names.iter().zip(places) {
        let packed = match place {
            Some(at) => found[at].next().expect("each metric that was asked for is answered"),
            None => &[],
        };
        if let Some(bytes) = gathered.missing_bytes(name, packed) {
            held.grow(bytes).await?;
            gathered.add_chunk(bytes);
        }
        gathered.push(name, packed);
    }
    Ok(())
}

/// Adds a name to those of its owner; where these are.
fn add_name(asked: &mut Vec<Asked>, owner: ShardId, name: Vec<u8>) -> usize {
    if let Some(at) = asked.iter().position(|it| it.owner == owner) {
        asked[at].names.push(name);
        return at;
    }
    let names = vec![name];
    asked.push(Asked { owner, names, pages: Vec::new(), answered_count: 0, needed_bytes: 0 });
    asked.len() - 1
}

/// Asks each owner for what it has not answered yet; false when nothing is left. Each time all
/// owners together get a page's memory, or what the next metric of each takes.
async fn ask_for_rest(
    core: &Core,
    asked: &mut [Asked],
    held: &mut Held<'_>,
) -> Result<bool, NoMemory> {
    let mut open: Vec<&mut Asked> =
        asked.iter_mut().filter(|it| it.answered_count < it.names.len()).collect();
    if open.is_empty() {
        return Ok(false);
    }
    let share_bytes = ANSWER_PAGE_BYTES / open.len();
    let bytes_max = |it: &Asked| share_bytes.max(it.needed_bytes / 8 * 9 + POINT_BYTES);
    let before_bytes = held.bytes();
    held.grow(open.iter().map(|it| bytes_max(it)).sum()).await?;
    let questions = open
        .iter()
        .map(|it| (it.owner, it.names[it.answered_count..].to_vec(), bytes_max(it)))
        .collect();
    let pages = ask_all(core, questions).await;
    let mut page_bytes = 0;
    for (it, page) in open.iter_mut().zip(pages) {
        it.answered_count += page.metric_count();
        it.needed_bytes = page.needed_bytes();
        page_bytes += page.bytes();
        it.pages.push(page);
    }
    held.shrink_to(before_bytes + page_bytes);
    Ok(true)
}

/// Asks each of these shards for the points of names, and waits for all answers.
async fn ask_all(core: &Core, questions: Vec<(ShardId, Vec<Vec<u8>>, usize)>) -> Vec<Page> {
    // All ids at once: tasks that each held some and waited for more could wait for each other.
    let count = questions.len();
    core.answered.until(|| core.open_requests() + count <= SHARD_REQUESTS_MAX).await;
    let mut request_ids = Vec::with_capacity(count);
    for (owner, names, bytes_max) in questions {
        let request_id = core.new_request_id();
        links::ask(core, owner, ShardRequest::Points(request_id, names, bytes_max));
        request_ids.push(request_id);
    }
    let mut pages = Vec::with_capacity(count);
    for request_id in request_ids {
        let ShardResponse::Points(_, page) = core.response_to(request_id).await else {
            unreachable!("a question for points is answered with points")
        };
        pages.push(page);
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_comes_out_in_order_and_its_memory_is_told() {
        let mut gathered = nothing();
        let metric =
            |number: usize| (format!("m.{number}"), vec![7_u8; number % 900 * POINT_BYTES]);
        let mut told_bytes = 0;
        for number in 0..2_000 {
            let (name, packed) = metric(number);
            if let Some(bytes) = gathered.missing_bytes(&name, &packed) {
                gathered.add_chunk(bytes);
                told_bytes += bytes;
            }
            gathered.push(&name, &packed);
            assert_eq!(gathered.bytes(), told_bytes);
            let real_bytes: usize = gathered.chunks.iter().map(Vec::capacity).sum();
            assert_eq!(gathered.bytes(), real_bytes, "a chunk has grown after {name}");
        }
        let used_bytes: usize =
            (0..2_000).map(metric).map(|(name, packed)| 6 + name.len() + packed.len()).sum();
        assert!(used_bytes > told_bytes / 4 * 3, "{used_bytes} of {told_bytes} bytes are used");
        let mut number = 0;
        while let Some(chunk) = gathered.pop() {
            told_bytes -= chunk.capacity();
            assert_eq!(gathered.bytes(), told_bytes);
            for (name, packed) in entries(&chunk) {
                let (want_name, want_packed) = metric(number);
                assert_eq!((name, packed), (&*want_name, &*want_packed));
                number += 1;
            }
        }
        assert_eq!((number, told_bytes), (2_000, 0));
    }
}
