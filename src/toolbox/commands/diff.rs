//! `carbyne whisper diff`: the points in which two files differ.

use std::io::{self, Write};

use crate::whisper::{self, ArchiveDiff};

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::file;
use crate::toolbox::output::json::Json;
use crate::toolbox::output::python;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const DIFF: Subcommand = Subcommand {
    name: "diff",
    help: "\
Usage: carbyne whisper diff [OPTION...] FILE FILE

Prints the points in which two files with the same archives differ.

  --summary       prints how many points differ
  --ignore-empty  leaves out points that one of the files does not know
  --columns       prints simple columns
  --no-headers    prints no names of columns
  --until TIME    end of the range (default: now)
  --now TIME      the time to work at (default: the clock)
  --json          JSON; values that JSON cannot spell are null
",
    options: &[
        flag("summary"),
        flag("ignore-empty"),
        flag("columns"),
        flag("no-headers"),
        value("until"),
        value("now"),
        flag("json"),
    ],
    run,
};

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let [path_a, path_b] = args.paths()?;
    let now_s = args.now_s()?;
    // For Python an end of 0 is none.
    let until_s = args.time_s("until")?.filter(|until_s| *until_s != 0);
    let until_s = until_s.unwrap_or(i64::from(now_s));
    let a = file::read(&path_a).map_err(Failure::at(&path_a))?;
    let b = file::read(&path_b).map_err(Failure::at(&path_b))?;
    let found = whisper::diff(&a, &b, args.has("ignore-empty"), until_s, now_s);
    let found = found.map_err(Failure::at(&path_b))?;
    let is_summary = args.has("summary");
    if args.has("json") {
        let archives = found.iter().map(|archive| archive_json(archive, is_summary)).collect();
        let fields = vec![
            ("archives", Json::List(archives)),
            ("path_a", Json::path(&path_a)),
            ("path_b", Json::path(&path_b)),
        ];
        session.out.write_all(Json::Object(fields).to_text(" : ").as_bytes())?;
        return Ok(0);
    }
    let (columns, headers) = (args.has("columns"), !args.has("no-headers"));
    if is_summary {
        print_summary(&found, columns, headers, session.out)?;
    } else {
        print_points(&found, columns, headers, session.out)?;
    }
    Ok(0)
}

/// Keys in the order of the alphabet, as whisper-diff.py sorts them.
fn archive_json(archive: &ArchiveDiff, is_summary: bool) -> Json {
    let mut fields = vec![("archive", Json::count(archive.archive_index))];
    if !is_summary {
        let points = archive.differences.iter().map(|point| {
            Json::Object(vec![
                ("timestamp", Json::Signed(point.timestamp_s)),
                ("value_a", Json::maybe(point.value_a)),
                ("value_b", Json::maybe(point.value_b)),
            ])
        });
        fields.push(("datapoint", Json::List(points.collect())));
    }
    fields.push(("points", Json::count(archive.differences.len())));
    fields.push(("total", Json::count(archive.point_count)));
    Json::Object(fields)
}

fn print_points(
    found: &[ArchiveDiff],
    columns: bool,
    headers: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let names = ["timestamp", "value_a", "value_b"].map(str::to_owned);
    if headers {
        print_row("archive", &names, columns, out)?;
    }
    for archive in found {
        let at = archive.archive_index.to_string();
        if !columns {
            let (differing, total) = (archive.differences.len(), archive.point_count);
            writeln!(out, "Archive {at} ({differing} of {total} datapoints differ)")?;
            print_row("", &names, columns, out)?;
        }
        for point in &archive.differences {
            let value = |value: Option<f64>| value.map_or("None".to_owned(), python::repr);
            let cells = [point.timestamp_s.to_string(), value(point.value_a), value(point.value_b)];
            print_row(if columns { &at } else { "" }, &cells, columns, out)?;
        }
    }
    Ok(())
}

fn print_row(
    first: &str,
    [timestamp, a, b]: &[String; 3],
    columns: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    if columns {
        writeln!(out, "{first} {timestamp} {a} {b}")
    } else {
        writeln!(out, "{first:>7} {timestamp:>11} {a:>13} {b:>13}")
    }
}

fn print_summary(
    found: &[ArchiveDiff],
    columns: bool,
    headers: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut print = |archive: &str, total: &str, differing: &str| {
        if columns {
            writeln!(out, "{archive} {total} {differing}")
        } else {
            writeln!(out, "{archive:>7} {total:>9} {differing:>9}")
        }
    };
    if headers {
        print("archive", "total", "differing")?;
    }
    for archive in found {
        let numbers = [archive.archive_index, archive.point_count, archive.differences.len()];
        let [at, total, differing] = numbers.map(|number| number.to_string());
        print(&at, &total, &differing)?;
    }
    Ok(())
}
