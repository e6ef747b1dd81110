//! The log directory of a node that is down: which frames are where and what is in them, and ways
//! to damage it.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use carbyne::metric::point::Arrival;
use carbyne::wal::{
    BLOCK_BYTES, BootId, Confirmed, FileName, Kind, Replay, Report, SegmentId, logs,
};

/// A point: metric, time, value.
pub(crate) type LoggedPoint = (String, u32, f64);

/// A frame of points.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) id: SegmentId,
    /// Its first byte in the file.
    pub(crate) at: u64,
    /// Its length, whole blocks.
    pub(crate) bytes: u64,
    pub(crate) points: Vec<LoggedPoint>,
}

impl Frame {
    /// The first byte after it.
    pub(crate) fn end(&self) -> u64 {
        self.at + self.bytes
    }
}

/// Where a segment's file is.
pub(crate) fn path_of(directory: &Path, id: SegmentId) -> PathBuf {
    directory.join(FileName::Segment(id).to_string())
}

/// The files of a log directory that are its own.
pub(crate) fn files(directory: &Path) -> Vec<FileName> {
    let entries = fs::read_dir(directory).expect("a log directory");
    let names = entries.map(|entry| entry.expect("a file").file_name());
    let mut files: Vec<FileName> =
        names.filter_map(|name| FileName::parse(name.to_str()?)).collect();
    files.sort_unstable();
    files
}

/// Place and length of the frames of a segment that was not another one before.
pub(crate) fn frame_places(bytes: &[u8]) -> Vec<(u64, u64)> {
    let (mut at, mut places) = (BLOCK_BYTES, Vec::new());
    while bytes.get(at..at + 4) == Some(b"CBL\x02") {
        let length = u32::from_le_bytes(bytes[at + 28..at + 32].try_into().expect("four bytes"));
        let length = (64 + length as usize).next_multiple_of(BLOCK_BYTES);
        places.push((at as u64, length as u64));
        at += length;
    }
    places
}

/// All frames of points, in the order in which they are replayed, and what the replay says.
pub(crate) fn frames(directory: &Path) -> (Vec<Frame>, Vec<Report>) {
    let bytes = |id| fs::read(path_of(directory, id)).expect("read a segment");
    let (mut frames, mut reports) = (Vec::new(), Vec::new());
    // All that is there, whether it is in a file or not.
    let nothing = Confirmed::new(BootId::default());
    for log in logs(&files(directory)) {
        let mut replay = Replay::new(log.clone());
        log.names.iter().for_each(|&id| replay.add_names(id, &bytes(id)));
        let _ = log.points.iter().rev().find(|&&id| replay.look(id, &bytes(id)));
        for &id in &log.points {
            let bytes = bytes(id);
            let mut cursor = replay.begin(id, &bytes);
            for (at, length) in frame_places(&bytes) {
                let mut points = Vec::new();
                let take = |name: &[u8], point: Arrival, _| {
                    let name = String::from_utf8(name.to_vec()).expect("a name of this test");
                    points.push((name, point.timestamp_s, point.value));
                };
                let is_good = replay.next_frame(&mut cursor, &bytes, &nothing, take);
                if is_good {
                    frames.push(Frame { id, at, bytes: length, points });
                }
            }
        }
        reports.push(replay.finish());
    }
    (frames, reports)
}

/// The first segment of this kind and number.
pub(crate) fn segment(directory: &Path, kind: Kind, number: u32) -> SegmentId {
    let found = files(directory).into_iter().find_map(|file| match file {
        FileName::Segment(id) if id.kind == kind && id.number == number => Some(id),
        _ => None,
    });
    found.expect("a segment of this number")
}

/// Inverts a byte.
pub(crate) fn invert(path: &Path, at: u64) {
    let byte = fs::read(path).expect("read a segment")[usize::try_from(at).expect("small")];
    overwrite(path, at, &[!byte]);
}

/// Writes bytes into a file.
pub(crate) fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).expect("open a segment");
    file.seek(SeekFrom::Start(at)).expect("seek");
    file.write_all(bytes).expect("write");
}

/// Cuts a file.
pub(crate) fn cut(path: &Path, bytes: u64) {
    let file = fs::File::options().write(true).open(path).expect("open a segment");
    file.set_len(bytes).expect("cut");
}

/// Makes a directory the same as another one, of files only.
pub(crate) fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("a file");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copy a file");
    }
}
