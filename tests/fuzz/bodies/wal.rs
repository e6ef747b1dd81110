//! Any bytes as the segments of a write-ahead log, and as the names of its files.
//!
//! ```text
//! input    blocks, each: kind u8 (bits below), length u16, then that many bytes of 4,096; the
//!          others are zeros. What is left over is text: file names, one a line.
//! kind     1 points, not names    2 the first block of the next segment    4 checksums stay
//! ```
//! A checksum would stop nearly every change, so those of a segment are made right before it is
//! read, unless a bit says otherwise.

use carbyne::metric::point::Arrival;
use carbyne::wal::{
    BLOCK_BYTES, BootId, Confirmed, FileName, Kind, LogFiles, Replay, Report, SegmentId, logs,
};

/// The run and shard that all segments are of.
const RUN: u64 = 1;
const SHARD: u16 = 0;

const POINTS: u8 = 1;
const NEXT_SEGMENT: u8 = 2;
const KEEP_CHECKSUMS: u8 = 4;

/// Most segments of an input.
const SEGMENTS_MAX: usize = 16;

struct Segment {
    id: SegmentId,
    bytes: Vec<u8>,
}

/// Takes the blocks off the input; what is left is text.
fn segments(mut data: &[u8]) -> (Vec<Segment>, &[u8]) {
    let mut segments: Vec<Segment> = Vec::new();
    let (mut names_count, mut points_count) = (0, 0);
    let mut keeps_checksums = false;
    while let Some((&[flags, high, low], rest)) = data.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if flags >= 8 || length > BLOCK_BYTES {
            break;
        }
        let Some((content, rest)) = rest.split_at_checked(length) else { break };
        data = rest;
        let kind = if flags & POINTS == 0 { Kind::Names } else { Kind::Points };
        let is_next = flags & NEXT_SEGMENT != 0
            || segments.last().is_none_or(|segment| segment.id.kind != kind);
        if is_next {
            if segments.len() == SEGMENTS_MAX {
                break;
            }
            let count = if kind == Kind::Names { &mut names_count } else { &mut points_count };
            *count += 1;
            let id = SegmentId { run: RUN, shard: SHARD, kind, number: *count };
            segments.push(Segment { id, bytes: Vec::new() });
        }
        keeps_checksums |= flags & KEEP_CHECKSUMS != 0;
        let segment = segments.last_mut().expect("there is one now");
        let end = segment.bytes.len() + BLOCK_BYTES;
        segment.bytes.extend_from_slice(content);
        segment.bytes.resize(end, 0);
    }
    if !keeps_checksums {
        segments.iter_mut().for_each(|segment| mend(&mut segment.bytes));
    }
    (segments, data)
}

/// Makes the checksums of a segment right: of its header, of each frame and of its records.
fn mend(bytes: &mut [u8]) {
    for start in (0..bytes.len()).step_by(BLOCK_BYTES) {
        let rest = &mut bytes[start..];
        if rest.starts_with(b"CBYNELOG") {
            let sum = checksum(&[&rest[..12], &rest[16..72]]);
            rest[12..16].copy_from_slice(&sum);
        } else if rest.starts_with(b"CBL\x02") {
            let length = u32::from_le_bytes(rest[28..32].try_into().expect("four bytes"));
            let end = usize::try_from(length).expect("32 bits").saturating_add(64);
            if let Some(records) = rest.get(64..end) {
                let sum = checksum(&[records]);
                rest[32..36].copy_from_slice(&sum);
            }
            let sum = checksum(&[&rest[..4], &rest[8..64]]);
            rest[4..8].copy_from_slice(&sum);
        }
    }
}

fn checksum(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

fn bytes_of(segments: &[Segment], id: SegmentId) -> &[u8] {
    let found = segments.iter().find(|segment| segment.id == id);
    found.expect("only what was named is read").bytes.as_slice()
}

fn open(segments: &[Segment], log: &LogFiles) -> Replay {
    let mut replay = Replay::new(log.clone());
    log.names.iter().for_each(|id| replay.add_names(*id, bytes_of(segments, *id)));
    let _ = log.points.iter().rev().find(|id| replay.look(**id, bytes_of(segments, **id)));
    replay
}

/// A replay, as recovery does it: the points it hands out and its report. Without a boot identity
/// nothing counts as confirmed.
fn replay(segments: &[Segment], boot_id: Option<BootId>) -> (Vec<(Vec<u8>, Arrival)>, Report) {
    let files: Vec<FileName> = segments.iter().map(|one| FileName::Segment(one.id)).collect();
    let mut points = Vec::new();
    let found = logs(&files);
    assert!(found.len() <= 1, "one run and shard is one log");
    let Some(log) = found.first() else { return (points, Report::default()) };
    let mut confirmed = Confirmed::new(boot_id.unwrap_or_default());
    if boot_id.is_some() {
        let mut survey = open(segments, log);
        for &id in &log.points {
            survey.survey(id, bytes_of(segments, id), &mut confirmed);
        }
        survey.end_survey(&mut confirmed);
        confirmed.end_survey();
    }
    let mut replay = open(segments, log);
    replay.resolve(&confirmed);
    for &id in &log.points {
        let bytes = bytes_of(segments, id);
        let mut cursor = replay.begin(id, bytes);
        let mut take = |name: &[u8], point: Arrival, _| points.push((name.to_vec(), point));
        while replay.next_frame(&mut cursor, bytes, &confirmed, &mut take) {}
    }
    (points, replay.finish())
}

/// Points by their bits, so that "not a number" equals itself.
fn bits(points: &[(Vec<u8>, Arrival)]) -> Vec<(&[u8], u32, u32, u64)> {
    let bits = points.iter().map(|(name, point)| {
        (name.as_slice(), point.timestamp_s, point.arrived_s, point.value.to_bits())
    });
    bits.collect()
}

/// Whether one list is the other one without some of its points, in the same order.
fn is_part(part: &[(Vec<u8>, Arrival)], whole: &[(Vec<u8>, Arrival)]) -> bool {
    let whole = bits(whole);
    let mut rest = whole.iter();
    bits(part).iter().all(|point| rest.any(|other| other == point))
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let (segments, text) = segments(data);
    let (points, report) = replay(&segments, None);
    assert_eq!(u64::try_from(points.len()), Ok(report.points), "every point is counted");
    let bytes: usize = segments.iter().map(|segment| segment.bytes.len()).sum();
    assert!(points.len() <= bytes, "a point takes at least a byte");
    assert!(u64::try_from(report.problems.len()).is_ok_and(|kept| kept <= report.problem_count));
    report.problems.iter().for_each(|problem| assert!(!problem.to_string().contains('\n')));
    let (again, report_again) = replay(&segments, None);
    assert_eq!(bits(&points), bits(&again), "replayed again it is the same");
    assert_eq!(report, report_again);
    // Under the kernel that wrote it more is known to be in files than under another one.
    let [same, other] = [1, 2].map(|boot| replay(&segments, Some(BootId([boot; 16]))));
    for (left, report) in [&same, &other] {
        assert!(is_part(left, &points), "what is left was there, in this order");
        assert_eq!(u64::try_from(left.len()), Ok(report.points));
    }

    let text = String::from_utf8_lossy(text);
    let files: Vec<FileName> = text.lines().take(64).filter_map(FileName::parse).collect();
    for file in &files {
        assert_eq!(FileName::parse(&file.to_string()), Some(*file), "a name is read as written");
    }
    let found = logs(&files);
    let in_logs: usize = found.iter().map(|log| log.names.len() + log.points.len()).sum();
    assert!(in_logs <= files.len());
}
