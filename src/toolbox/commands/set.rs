//! `carbyne whisper set-xff` and `set-aggregation`: the 16 bytes in front of the archives.
//!
//! Points that are there stay as they are; only what is written from now on follows.

use std::path::Path;

use crate::metric::series::Aggregation;
use crate::whisper::Header;

use crate::toolbox::args::{Args, flag};
use crate::toolbox::file::{Access, Held, Refusal};
use crate::toolbox::output::json::Json;
use crate::toolbox::output::python;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const SET_XFF: Subcommand = Subcommand {
    name: "set-xff",
    help: "\
Usage: carbyne whisper set-xff [--json] FILE XFF

Sets the xFilesFactor of a file, a number from 0 to 1. Its points stay as they are.
Holds the file's exclusive flock; see `carbyne whisper --help` on running nodes.
",
    options: &[flag("json")],
    run: set_xff,
};

pub(crate) const SET_AGGREGATION: Subcommand = Subcommand {
    name: "set-aggregation",
    help: "\
Usage: carbyne whisper set-aggregation [--json] FILE METHOD [XFF]

Sets the aggregation method of a file, and with XFF its xFilesFactor: average, sum, last, max,
min, avg_zero, absmax or absmin. Its points stay as they are.
Holds the file's exclusive flock; see `carbyne whisper --help` on running nodes.
",
    options: &[flag("json")],
    run: set_aggregation,
};

/// An xFilesFactor as given and as a file holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XFilesFactor {
    pub given: f64,
    pub stored: f32,
}

/// Reads an xFilesFactor, which is rounded twice, to f64 and to f32, as Python does.
pub(crate) fn read_x_files_factor(text: &str) -> Result<XFilesFactor, Failure> {
    let given: Option<f64> = text.trim().parse().ok();
    let Some(given) = given.filter(|given| (0.0..=1.0).contains(given)) else {
        return Err(Failure::Usage(format!("xFilesFactor `{text}` is not a number from 0 to 1")));
    };
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the file's f32 is meant")]
    let stored = given as f32;
    Ok(XFilesFactor { given, stored })
}

/// Reads the name of an aggregation method.
pub(crate) fn read_aggregation(name: &str) -> Result<Aggregation, Failure> {
    Aggregation::from_name(name)
        .ok_or_else(|| Failure::Usage(format!("unknown aggregation method `{name}`")))
}

fn set_xff(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let path = args.path()?;
    let texts = args.texts(1)?;
    let [text] = texts.as_slice() else {
        return Err(Failure::Usage("takes a file and a number".to_owned()));
    };
    let new = read_x_files_factor(text)?;
    let old =
        rewrite(&path, |header| header.x_files_factor = new.stored).map_err(Failure::at(&path))?;
    let old = f64::from(old.x_files_factor);
    if args.has("json") {
        return report_json(session, &path, Json::Float(old), Json::Float(new.given));
    }
    let (old, new) = (python::repr(old), python::repr(new.given));
    writeln!(session.out, "Updated xFilesFactor: {} ({old} -> {new})", path.display())?;
    Ok(0)
}

fn set_aggregation(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let path = args.path()?;
    let texts = args.texts(1)?;
    let (name, x_files_factor) = match texts.as_slice() {
        [name] => (*name, None),
        [name, text] => (*name, Some(read_x_files_factor(text)?.stored)),
        _ => return Err(Failure::Usage("takes a file, a method and an xFilesFactor".to_owned())),
    };
    let aggregation = read_aggregation(name)?;
    let old = rewrite(&path, |header| {
        header.aggregation = aggregation;
        header.x_files_factor = x_files_factor.unwrap_or(header.x_files_factor);
    })
    .map_err(Failure::at(&path))?;
    let old = old.aggregation.name();
    if args.has("json") {
        let (old, new) = (Json::Text(old.to_owned()), Json::Text(name.to_owned()));
        return report_json(session, &path, old, new);
    }
    writeln!(session.out, "Updated aggregation method: {} ({old} -> {name})", path.display())?;
    Ok(0)
}

/// Changes the header of a file under its lock; gives the former one.
fn rewrite(path: &Path, change: impl FnOnce(&mut Header)) -> Result<Header, Refusal> {
    let held = Held::open(path, Access::Change)?;
    let old = held.read_header()?;
    let mut new = old.clone();
    change(&mut new);
    held.write_at(&new.encode_metadata16(), 0)?;
    Ok(old)
}

fn report_json(
    session: &mut Session<'_>,
    path: &Path,
    old: Json,
    new: Json,
) -> Result<u8, Failure> {
    let fields = vec![("path", Json::path(path)), ("old", old), ("new", new)];
    session.out.write_all(Json::Object(fields).to_text(": ").as_bytes())?;
    Ok(0)
}

/// What a file keeps or gets besides its archives.
pub(crate) struct Methods {
    pub(crate) aggregation: Option<Aggregation>,
    pub(crate) x_files_factor: Option<XFilesFactor>,
}

impl Methods {
    pub(crate) fn read(args: &Args) -> Result<Methods, Failure> {
        let aggregation = args.text("aggregationMethod")?.map(read_aggregation).transpose()?;
        let x_files_factor = args.text("xFilesFactor")?.map(read_x_files_factor).transpose()?;
        Ok(Methods { aggregation, x_files_factor })
    }

    /// Gives a header what was asked for, and for the rest what the old one says.
    pub(crate) fn apply(&self, header: &mut Header, old: &Header) {
        header.aggregation = self.aggregation.unwrap_or(old.aggregation);
        header.x_files_factor = self.x_files_factor.map_or(old.x_files_factor, |new| new.stored);
    }
}
