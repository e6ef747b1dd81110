//! `carbyne whisper update`: points into a file.

use std::io::{self, BufRead, Read};

use crate::limits::TOOL_POINTS_MAX;
use crate::metric::point::Point;
use crate::whisper::{Bases, Update};

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::file::{Access, Held};
use crate::toolbox::output::json::Json;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const UPDATE: Subcommand = Subcommand {
    name: "update",
    help: "\
Usage: carbyne whisper update [--now TIME] [--json] FILE [TIME:VALUE...]

Writes points into a file, all in one batch. Without points they are read from standard input, one
a line. A TIME of N is now.

A batch drops points older than every archive, and says so; a single point that lies in the future
or is too old is an error.

  --now TIME  the time to work at (default: the clock)
  --json      JSON; without it a success prints nothing

Holds the file's exclusive flock; see `carbyne whisper --help` on running nodes.
",
    options: &[value("now"), flag("json")],
    run,
};

/// Longest line of standard input; no point takes more.
const LINE_BYTES_MAX: u64 = 4_096;

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let path = args.path()?;
    let now_s = args.now_s()?;
    let texts = args.texts(1)?;
    let points = if texts.is_empty() {
        read_points(&mut io::stdin().lock(), now_s)?
    } else {
        texts.iter().map(|text| read_point(text, now_s)).collect::<Result<_, _>>()?
    };
    let held = Held::open(&path, Access::Change).map_err(Failure::at(&path))?;
    let header = held.read_header().map_err(Failure::at(&path))?;
    let mut job = Update::new();
    // whisper-update.py tells one point from several in the same way.
    match points.as_slice() {
        [point] => {
            job.begin_one(&header, &Bases::UNKNOWN, *point, now_s).map_err(Failure::at(&path))?
        }
        points => job.begin_many(&header, &Bases::UNKNOWN, points, now_s),
    }
    let outcome = held.run(&mut job).map_err(Failure::at(&path))?;
    if outcome.points_too_old > 0 {
        let (shown, dropped) = (path.display(), outcome.points_too_old);
        let count = points.len();
        writeln!(
            session.err,
            "carbyne: {shown}: {dropped} of {count} points dropped, older than every archive"
        )?;
    }
    if args.has("json") {
        let fields = vec![
            ("path", Json::path(&path)),
            ("pointsUsed", Json::count(outcome.points_used)),
            ("pointsTooOld", Json::count(outcome.points_too_old)),
        ];
        session.out.write_all(Json::Object(fields).to_text(": ").as_bytes())?;
    }
    Ok(0)
}

/// Reads points, one a line.
fn read_points(input: &mut dyn BufRead, now_s: u32) -> Result<Vec<Point>, Failure> {
    let mut points = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        let read = input.take(LINE_BYTES_MAX).read_line(&mut line);
        let number = points.len() + 1;
        let at_line = |reason: &str| {
            Failure::at("standard input".as_ref())(format!("line {number}: {reason}"))
        };
        if read.map_err(|error| at_line(&error.to_string()))? == 0 {
            return Ok(points);
        }
        if points.len() == TOOL_POINTS_MAX {
            return Err(at_line(&format!("more than {TOOL_POINTS_MAX} points")));
        }
        match read_point(&line, now_s) {
            Ok(point) => points.push(point),
            Err(Failure::Usage(problem)) => return Err(at_line(&problem)),
            Err(other) => return Err(other),
        }
    }
}

/// Reads `TIME:VALUE`. Any number that Python accepts is a value, NaN too: the owner may write
/// what he wants.
fn read_point(text: &str, now_s: u32) -> Result<Point, Failure> {
    let wrong = || Failure::Usage(format!("`{}` is not TIME:VALUE", text.trim_end()));
    let (time, value) = text.split_once(':').ok_or_else(wrong)?;
    let timestamp_s = match time.trim() {
        "N" => now_s,
        time => time.parse().map_err(|_| wrong())?,
    };
    let value = value.trim().parse().map_err(|_| wrong())?;
    Ok(Point { timestamp_s, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points() {
        let check = |text: &str, want: Option<(u32, f64)>| {
            let got = read_point(text, 77).ok().map(|point| (point.timestamp_s, point.value));
            assert_eq!(got, want, "{text:?}");
        };
        check("1700000000:1.5", Some((1_700_000_000, 1.5)));
        check(" 60 : -1e3\r\n", Some((60, -1_000.0)));
        check("N:inf", Some((77, f64::INFINITY)));
        check("4294967295:0", Some((u32::MAX, 0.0)));
        check("4294967296:0", None);
        check("-1:0", None);
        check("1.5:0", None);
        check("1:2:3", None);
        check("1", None);
        check("", None);
        check("1:", None);
        check(":1", None);
    }

    #[test]
    fn lines_are_numbered_and_bounded() {
        let read = |text: &str| match read_points(&mut text.as_bytes(), 7) {
            Ok(points) => points.len().to_string(),
            Err(Failure::Failed(problem)) => problem,
            Err(other) => format!("{other:?}"),
        };
        assert_eq!(read(""), "0");
        assert_eq!(read("1:2\nN:3"), "2");
        assert_eq!(read("1:2\n\n"), "standard input: line 2: `` is not TIME:VALUE");
        let long = read(&format!("1:{}", "1".repeat(5_000)));
        assert!(long.starts_with("standard input: line 2: `1111"), "{long}");
    }
}
