//! `carbyne whisper create`: a new file, or an estimate of what files will need.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::metric::series::{Aggregation, Retention, SeriesSpec};
use crate::schema::retention::read_as_whisper;
use crate::sys::new_file;
use crate::whisper::Header;

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::commands::set::{read_aggregation, read_x_files_factor};
use crate::toolbox::output::json::Json;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const CREATE: Subcommand = Subcommand {
    name: "create",
    help: "\
Usage: carbyne whisper create [OPTION...] FILE RETENTION...
       carbyne whisper create --estimate RETENTION...

Creates a file. A RETENTION is a step and a number of points or a span of time, as in 60:1440,
15m:8, 1h:7d or 5min:2years.

  --xFilesFactor NUMBER     share of known points that a coarser point needs (default: 0.5)
  --aggregationMethod NAME  average, sum, last, max, min, avg_zero, absmax or absmin
                            (default: average)
  --overwrite               puts the new file in the place of one that exists
  --sparse                  leaves the blocks to be found when points come
  --fallocate               reserves the blocks without writing them
  --estimate                creates nothing and says how much room files would take
  --json                    JSON
",
    options: &[
        value("xFilesFactor"),
        value("aggregationMethod"),
        flag("overwrite"),
        flag("sparse"),
        flag("fallocate"),
        flag("estimate"),
        flag("json"),
    ],
    run,
};

/// Bytes written at once into a file without holes.
const CHUNK_BYTES: usize = 16 << 10;

/// How a new file gets its blocks.
#[derive(Clone, Copy)]
enum Room {
    Written,
    Sparse,
    Reserved,
}

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    if args.has("estimate") {
        return estimate(args, session);
    }
    let path = args.path()?;
    let retentions = read_archives(&args.texts(1)?)?;
    let x_files_factor = args.text("xFilesFactor")?.unwrap_or("0.5");
    let aggregation = args.text("aggregationMethod")?.unwrap_or(Aggregation::Average.name());
    let spec = SeriesSpec {
        retentions,
        x_files_factor: read_x_files_factor(x_files_factor)?.stored,
        aggregation: read_aggregation(aggregation)?,
    };
    let header = Header::new(&spec).map_err(Failure::at(&path))?;
    let room = match (args.has("fallocate"), args.has("sparse")) {
        (true, _) => Room::Reserved,
        (false, true) => Room::Sparse,
        (false, false) => Room::Written,
    };
    let exists = fs::symlink_metadata(&path).is_ok();
    let is_json = args.has("json");
    if exists && args.has("overwrite") {
        if !is_json {
            writeln!(session.out, "Overwriting existing file: {}", path.display())?;
        }
        fs::remove_file(&path).map_err(Failure::at(&path))?;
    }
    create(&path, &header, room).map_err(Failure::at(&path))?;
    let (shown, bytes) = (path.display(), header.file_bytes());
    if is_json {
        let fields = vec![
            ("path", Json::path(&path)),
            ("fileSize", Json::Integer(bytes)),
            ("overwritten", Json::Bool(exists)),
        ];
        session.out.write_all(Json::Object(fields).to_text(": ").as_bytes())?;
    } else {
        writeln!(session.out, "Created: {shown} ({bytes} bytes)")?;
    }
    Ok(0)
}

/// Makes a file that did not exist, all of it or nothing.
fn create(path: &Path, header: &Header, room: Room) -> io::Result<()> {
    let file = File::options().write(true).create_new(true).open(path)?;
    let written = file.lock().and_then(|()| write(&file, header, room));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    }
    written
}

fn write(mut file: &File, header: &Header, room: Room) -> io::Result<()> {
    let bytes = header.file_bytes();
    match room {
        Room::Written => {}
        Room::Sparse => file.set_len(bytes)?,
        Room::Reserved => new_file::reserve(file, bytes)?,
    }
    let mut head = Vec::new();
    header.encode(&mut head);
    file.write_all(&head)?;
    if matches!(room, Room::Written) {
        let zeros = io::repeat(0);
        let mut rest = io::Read::take(zeros, bytes - header.header_bytes());
        io::copy(&mut rest, &mut io::BufWriter::with_capacity(CHUNK_BYTES, file))?;
    }
    Ok(())
}

/// Reads the archives of a new file; Python too puts them into order before it looks at them.
pub(crate) fn read_archives(texts: &[&str]) -> Result<Vec<Retention>, Failure> {
    let mut retentions = read_retentions(texts)?;
    retentions.sort_by_key(|retention| retention.step_s);
    Ok(retentions)
}

fn read_retentions(texts: &[&str]) -> Result<Vec<Retention>, Failure> {
    if texts.is_empty() {
        return Err(Failure::Usage("needs a retention such as 60:1440".to_owned()));
    }
    let read = |text: &&str| {
        read_as_whisper(text)
            .map_err(|error| Failure::Usage(format!("retention `{text}`: {error}")))
    };
    texts.iter().map(read).collect()
}

/// What files of these retentions need; like whisper-create.py it checks no rules.
fn estimate(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let mut texts = args.texts(0)?;
    if let [list] = texts.as_slice() {
        texts = list.split(',').collect();
    }
    let retentions = read_retentions(&texts)?;
    let archive_count = u64::try_from(retentions.len()).expect("as many as arguments");
    let point_count: u64 = retentions.iter().map(|r| u64::from(r.slot_count)).sum();
    let file_bytes = 16 + 12 * archive_count + 12 * point_count;
    let disk_bytes = file_bytes.div_ceil(4_096) * 4_096;
    if args.has("json") {
        let fields = vec![
            ("points", Json::Integer(point_count)),
            ("fileSize", Json::Integer(file_bytes)),
            ("diskSize", Json::Integer(disk_bytes)),
        ];
        session.out.write_all(Json::Object(fields).to_text(": ").as_bytes())?;
        return Ok(0);
    }
    for (at, Retention { step_s, slot_count }) in retentions.iter().enumerate() {
        writeln!(session.out, "Archive {at}: {slot_count} points of {step_s}s precision")?;
    }
    let size = in_units(u128::from(file_bytes));
    write!(session.out, "\nEstimated Whisper DB Size: {size} ({disk_bytes} bytes on disk ")?;
    writeln!(session.out, "with 4k blocks)\n")?;
    for thousands in [1_u128, 5, 10, 50, 100, 500] {
        let size = in_units(thousands * 1_000 * u128::from(disk_bytes));
        writeln!(session.out, "Estimated storage requirement for {thousands}k metrics: {size}")?;
    }
    Ok(0)
}

/// A number of bytes in the greatest unit that it fills, at most GB.
fn in_units(bytes: u128) -> String {
    let mut number = bytes as f64;
    for unit in ["bytes", "KB", "MB"] {
        if number < 1_024.0 {
            return format!("{number:.3}{unit}");
        }
        number /= 1_024.0;
    }
    format!("{number:.3}GB")
}
