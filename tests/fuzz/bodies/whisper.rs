//! Any bytes as a Whisper file, through everything that reads or changes one.
//!
//! ```text
//! input  u32 clock, u8 count of points, then each: i16 distance from the clock in its own units,
//!        f64 value; what is left is the file
//! ```

use carbyne::metric::point::Point;
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::whisper::{
    self, Fetch, HEADER_BYTES_MAX, Header, Resample, WholeFile, misplaced_slots, overlay,
};

/// Bytes of one point of the input.
const POINT_BYTES: usize = 10;

/// Distances grow by more than lines do, so that two bytes reach from seconds to years.
fn distance_s(code: i16) -> i64 {
    let code = i64::from(code);
    code * code.abs().max(1)
}

fn split(data: &[u8]) -> Option<(u32, Vec<Point>, &[u8])> {
    let (clock, rest) = data.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first()?;
    let now_s = u32::from_be_bytes(*clock);
    let (points, file) = rest.split_at_checked(usize::from(*count) * POINT_BYTES)?;
    let point = |bytes: &[u8]| {
        let code = i16::from_be_bytes([bytes[0], bytes[1]]);
        let time_s = i64::from(now_s) - distance_s(code);
        let timestamp_s = u32::try_from(time_s.clamp(0, i64::from(u32::MAX))).expect("clamped");
        let value = f64::from_be_bytes(bytes[2..POINT_BYTES].try_into().expect("8 bytes"));
        Point { timestamp_s, value }
    };
    Some((now_s, points.chunks_exact(POINT_BYTES).map(point).collect(), file))
}

fn layout() -> Header {
    let retention = |(step_s, slot_count)| Retention { step_s, slot_count };
    let spec = SeriesSpec {
        retentions: [(10, 40), (60, 20), (300, 30)].map(retention).to_vec(),
        x_files_factor: 0.3,
        aggregation: Aggregation::Last,
    };
    Header::new(&spec).expect("valid archives")
}

fn read(whole: &WholeFile, points: &[Point], now_s: u32) {
    let header = whole.header();
    for archive in header.archives() {
        let count = misplaced_slots(whole.bytes(), archive);
        assert!(count <= archive.slot_count);
    }
    let now = i64::from(now_s);
    let times =
        points.iter().map(|point| i64::from(point.timestamp_s)).chain([0, now, now - 3_600]);
    for from_s in times {
        let steps = header.archives().iter().map(|archive| Some(archive.step_s));
        for step_s in steps.chain([None]) {
            let Ok(Some(fetch)) = Fetch::plan(header, from_s, now, now_s, step_s) else { continue };
            let mut values = whole.values(&fetch);
            let slot_count = header.archives()[fetch.archive_index()].slot_count;
            assert!(values.len() <= usize::try_from(slot_count).expect("32 bits"));
            overlay(&mut values, &fetch, header, points);
        }
    }
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let Some((now_s, points, file)) = split(data) else { return };
    let head = &file[..file.len().min(HEADER_BYTES_MAX)];
    let file_bytes = u64::try_from(file.len()).expect("a small file");
    let Ok(header) = Header::parse(head, file_bytes) else { return };
    assert!(header.file_bytes() <= file_bytes);
    let mut again = Vec::new();
    header.encode(&mut again);
    assert_eq!(again, file[..again.len()], "a header is written as it was read");

    let mut whole = WholeFile::parse(file.to_vec()).expect("the header is good");
    read(&whole, &points, now_s);
    whole.update_many(&points, now_s);
    for point in &points {
        whole.update_many(&[*point], now_s);
    }
    read(&whole, &points, now_s);
    assert_eq!(whole.bytes().len(), file.len());
    assert_eq!(whole.header(), &header);

    let new = layout();
    let migrated = whisper::migrate(whole.bytes(), &header, &new, now_s);
    let mut migrated = WholeFile::parse(migrated).expect("a new file is good");
    for how in [Resample::Keep, Resample::Aggregate(0.5)] {
        let resized = whisper::resize(whole.bytes(), &header, &new, how, now_s);
        WholeFile::parse(resized).expect("a new file is good");
    }
    let other = WholeFile::parse(file.to_vec()).expect("the header is good");
    let _ = whisper::diff(&other, &whole, false, i64::from(now_s), now_s);
    let _ = whisper::merge(&other, &mut whole, 0, i64::from(now_s), now_s);
    whisper::fill(&whole, &mut migrated, 0, i64::from(now_s), now_s);
    whisper::fill(&migrated, &mut whole, 0, i64::from(now_s), now_s);
    assert_eq!(whole.bytes().len(), file.len());
}
