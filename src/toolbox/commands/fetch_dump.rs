//! `carbyne whisper fetch` and `dump`: the values in a file.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::limits::NAME_BYTES_MAX;
use crate::metric::name::name_of_path;
use crate::metric::point::Point;
use crate::query;
use crate::sys::local_time;
use crate::whisper::{Fetch, WholeFile, overlay};

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::commands::info::archive_fields;
use crate::toolbox::file;
use crate::toolbox::file::Opened;
use crate::toolbox::output::json;
use crate::toolbox::output::python;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const FETCH: Subcommand = Subcommand {
    name: "fetch",
    help: "\
Usage: carbyne whisper fetch [OPTION...] FILE

Prints the values of a range of time from the archive that reaches back far enough.

  --from TIME             begin of the range (default: a day ago); its interval is left out
  --until TIME            end of the range (default: now); its interval is included
  --now TIME              the time to work at (default: the clock)
  --drop WHAT             leaves out `nulls`, `zeroes`, or with `empty` both
  --pretty                times as in `Tue Nov 14 22:13:20 2023`, in the local zone
  -t, --time-format TEXT  the format of --pretty times, as of strftime
  --json                  JSON; values that JSON cannot spell are null
  --carbonlink HOST:PORT  lays over them the points that a running node, carbon-cache or go-carbon
                          has not written yet, rolled up where the archive is coarser
  --name NAME             the metric's name there; without it FILE, which must then be a path below
                          the data directory: cd to that
",
    options: &[
        value("carbonlink"),
        value("name"),
        value("from"),
        value("until"),
        value("now"),
        value("drop"),
        flag("pretty"),
        value("time-format").short('t'),
        flag("json"),
    ],
    run: fetch,
};

pub(crate) const DUMP: Subcommand = Subcommand {
    name: "dump",
    help: "\
Usage: carbyne whisper dump [OPTION...] FILE

Prints the header and every slot, those never written too.

  -r, --raw               only TIME:VALUE, one a line, as `update` reads them
  --pretty                times as in `Tue Nov 14 22:13:20 2023`, in the local zone
  -t, --time-format TEXT  the format of --pretty times, as of strftime
  --json                  JSON; a slot is a list of its number, time and value
",
    options: &[
        flag("raw").short('r'),
        flag("pretty"),
        value("time-format").short('t'),
        flag("json"),
    ],
    run: dump,
};

/// What C's `ctime` prints, without its line end.
const CTIME: &str = "%a %b %e %H:%M:%S %Y";

const DAY_S: i64 = 86_400;

/// How times are printed: `None` = as seconds.
struct Times<'a>(Option<&'a str>);

impl Times<'_> {
    fn of(args: &Args) -> Result<Times<'_>, Failure> {
        let format = args.text("time-format")?.filter(|format| !format.is_empty());
        Ok(Times(args.has("pretty").then(|| format.unwrap_or(CTIME))))
    }

    fn text(&self, timestamp_s: i64) -> Result<String, Failure> {
        let (Some(format), Ok(seconds)) = (self.0, u32::try_from(timestamp_s)) else {
            return Ok(timestamp_s.to_string());
        };
        local_time::format(seconds, format)
            .ok_or_else(|| Failure::Usage(format!("--time-format cannot be `{format}`")))
    }
}

/// Which values are kept: all, or those that are not null, not zero, or neither.
fn keeps(drop: Option<&str>) -> Result<fn(Option<f64>) -> bool, Failure> {
    match drop {
        None => Ok(|_| true),
        Some("nulls") => Ok(|value| value.is_some()),
        Some("zeroes") => Ok(|value| value != Some(0.0)),
        Some("empty") => Ok(|value| value.is_some_and(|value| value != 0.0)),
        Some(_) => Err(Failure::Usage("--drop takes nulls, zeroes or empty".to_owned())),
    }
}

fn fetch(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let [path] = args.paths()?;
    let now_s = args.now_s()?;
    let is_kept = keeps(args.text("drop")?)?;
    let times = Times::of(args)?;
    let from_s = args.time_s("from")?.unwrap_or(i64::from(now_s) - DAY_S);
    let until_s = args.time_s("until")?.unwrap_or(i64::from(now_s));
    // The cache first: a point only moves from there into the file.
    let cached = cached_points(args, &path)?;
    let file = Opened::open(&path).map_err(Failure::at(&path))?;
    let planned = Fetch::plan(file.header(), from_s, until_s, now_s, None);
    let planned = planned.map_err(Failure::at(&path))?;
    let fetch = planned.ok_or_else(|| Failure::at(&path)("no data in the range of time"))?;
    let intervals = (fetch.from_s()..).step_by(usize::try_from(fetch.step_s()).expect("32 bits"));
    let mut values = file.values(&fetch).map_err(Failure::at(&path))?;
    overlay(&mut values, &fetch, file.header(), &cached);
    let kept = values.into_iter().zip(intervals);
    let kept = kept.filter(|(value, _)| is_kept(*value));
    if args.has("json") {
        let number = |value: Option<f64>| value.map_or("null".to_owned(), json::number);
        let values: Vec<String> = kept.map(|(value, _)| number(value)).collect();
        let (start, end, step) = (fetch.from_s(), fetch.until_s(), fetch.step_s());
        // The shape, with its odd indentation, is whisper-fetch.py's.
        writeln!(session.out, "{{\n    \"start\" : {start},\n    \"end\" : {end},")?;
        writeln!(session.out, "    \"step\" : {step},")?;
        writeln!(session.out, "    \"values\" : [{}]\n  }}", values.join(", "))?;
        return Ok(0);
    }
    for (value, interval_s) in kept {
        let value = value.map_or("None".to_owned(), python::fixed);
        writeln!(session.out, "{}\t{value}", times.text(interval_s)?)?;
    }
    Ok(0)
}

/// The points in the memory of a running node, if `--carbonlink` is given.
fn cached_points(args: &Args, path: &Path) -> Result<Vec<Point>, Failure> {
    let Some(carbonlink) = args.text("carbonlink")? else { return Ok(Vec::new()) };
    let name = match args.text("name")? {
        Some(name) => name.to_owned(),
        None => name_of_path(path.as_os_str().as_bytes())
            .and_then(|name| String::from_utf8(name).ok())
            .ok_or_else(|| Failure::at(path)("no metric name can be read from this: use --name"))?,
    };
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Err(Failure::Usage(format!("--name takes 1 to {NAME_BYTES_MAX} bytes")));
    }
    query::cached_points(carbonlink, query::TIMEOUT, &name).map_err(Failure::Failed)
}

fn dump(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let [path] = args.paths()?;
    let times = Times::of(args)?;
    let whole = file::read(&path).map_err(Failure::at(&path))?;
    if args.has("json") {
        dump_json(&whole, session.out)?;
        return Ok(0);
    }
    let is_raw = args.has("raw");
    if !is_raw {
        dump_header(&whole, session.out)?;
    }
    for at in 0..whole.header().archives().len() {
        if !is_raw {
            writeln!(session.out, "Archive {at} data:")?;
        }
        for (slot, (interval_s, value)) in whole.slots(at).enumerate() {
            let value = python::general(value, 35);
            if is_raw {
                writeln!(session.out, "{interval_s}:{value}")?;
            } else {
                let time = times.text(i64::from(interval_s))?;
                writeln!(session.out, "{slot}: {time}, {value:>10}")?;
            }
        }
    }
    Ok(0)
}

fn dump_header(whole: &WholeFile, out: &mut dyn Write) -> io::Result<()> {
    let header = whole.header();
    let x_files_factor = python::general(f64::from(header.x_files_factor), 6);
    writeln!(out, "Meta data:\n  aggregation method: {}", header.aggregation.name())?;
    writeln!(out, "  max retention: {}", header.retention_s_max)?;
    writeln!(out, "  xFilesFactor: {x_files_factor}\n")?;
    for (at, archive) in header.archives().iter().enumerate() {
        writeln!(out, "Archive {at} info:")?;
        for (key, number) in archive_fields(archive) {
            let key = if key == "secondsPerPoint" { "seconds per point" } else { key };
            writeln!(out, "  {key}: {number}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Slot by slot, because the text of a large file is greater than the file.
fn dump_json(whole: &WholeFile, out: &mut dyn Write) -> io::Result<()> {
    let header = whole.header();
    writeln!(out, "{{\n  \"aggregationMethod\": \"{}\",", header.aggregation.name())?;
    writeln!(out, "  \"maxRetention\": {},", header.retention_s_max)?;
    let x_files_factor = json::number(f64::from(header.x_files_factor));
    write!(out, "  \"xFilesFactor\": {x_files_factor},\n  \"archives\": [")?;
    for (at, archive) in header.archives().iter().enumerate() {
        write!(out, "{}\n    {{", if at == 0 { "" } else { "," })?;
        for (key, number) in archive_fields(archive) {
            write!(out, "\n      \"{key}\": {number},")?;
        }
        write!(out, "\n      \"slots\": [")?;
        for (slot, (interval_s, value)) in whole.slots(at).enumerate() {
            let comma = if slot == 0 { "" } else { "," };
            write!(out, "{comma}\n        [{slot}, {interval_s}, {}]", json::number(value))?;
        }
        write!(out, "\n      ]\n    }}")?;
    }
    writeln!(out, "\n  ]\n}}")
}
