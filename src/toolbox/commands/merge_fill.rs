//! `carbyne whisper merge` and `fill`: the points of one file into another.

use std::convert::Infallible;

use crate::whisper::{self, WholeFile};

use crate::toolbox::args::{Args, Opt, flag, value};
use crate::toolbox::file::{self, Access, Held};
use crate::toolbox::output::json::Json;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const MERGE: Subcommand = Subcommand {
    name: "merge",
    help: "\
Usage: carbyne whisper merge [OPTION...] FROM TO

Writes the points of FROM over those of TO, archive by archive. The archives must be the same.

  --from TIME   begin of the range (default: 1970); its interval is left out
  --until TIME  end of the range (default: now); its interval is included
  --now TIME    the time to work at (default: the clock)
  --json        JSON; without it a success prints nothing

Holds TO's exclusive flock; see `carbyne whisper --help` on running nodes.
",
    options: &OPTIONS,
    run: merge,
};

pub(crate) const FILL: Subcommand = Subcommand {
    name: "fill",
    help: "\
Usage: carbyne whisper fill [OPTION...] FROM TO

Fills the gaps of TO with the finest points that FROM has, where two or more points in a row are
missing. Points of TO stay, with two exceptions that are whisper-fill.py's: zeros count as missing,
and the point right behind a gap is replaced too. The archives of the two files may differ.

  --from TIME   begin of the range (default: 1970); its interval is left out
  --until TIME  end of the range (default: now); its interval is included
  --now TIME    the time to work at (default: the clock)
  --lock        nothing: TO is always locked
  --json        JSON; without it a success prints nothing

Holds TO's exclusive flock; see `carbyne whisper --help` on running nodes.
",
    options: &OPTIONS,
    run: fill,
};

const OPTIONS: [Opt; 5] = [value("from"), value("until"), value("now"), flag("lock"), flag("json")];

fn merge(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    write_into(args, session, whisper::merge)
}

fn fill(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    write_into(args, session, |source, target, from_s, until_s, now_s| {
        Ok::<_, Infallible>(whisper::fill(source, target, from_s, until_s, now_s))
    })
}

/// Has `act` write points of FROM into TO: from, until and now in seconds since the epoch.
fn write_into<E: ToString>(
    args: &Args,
    session: &mut Session<'_>,
    act: impl FnOnce(&WholeFile, &mut WholeFile, i64, i64, u32) -> Result<usize, E>,
) -> Result<u8, Failure> {
    let [from, to] = args.paths()?;
    let now_s = args.now_s()?;
    let (from_s, until_s) = args.range(i64::from(now_s))?;
    let source = file::read(&from).map_err(Failure::at(&from))?;
    let held = Held::open(&to, Access::Change).map_err(Failure::at(&to))?;
    let mut target = held.read().map_err(Failure::at(&to))?;
    let done = act(&source, &mut target, from_s, until_s, now_s);
    let point_count = done.map_err(Failure::at(&to))?;
    held.write(&mut target).map_err(Failure::at(&to))?;
    report(args, session, point_count)
}

fn report(args: &Args, session: &mut Session<'_>, point_count: usize) -> Result<u8, Failure> {
    if args.has("json") {
        let [from, to] = args.paths()?.map(|path| Json::path(&path));
        let fields = vec![("from", from), ("to", to), ("pointsWritten", Json::count(point_count))];
        session.out.write_all(Json::Object(fields).to_text(": ").as_bytes())?;
    }
    Ok(0)
}
