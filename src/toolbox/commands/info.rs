//! `carbyne whisper info`: what a file says about itself.

use crate::whisper::{Archive, Header};

use crate::toolbox::args::{Args, Opt, flag};
use crate::toolbox::file;
use crate::toolbox::output::json::Json;
use crate::toolbox::output::python;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const INFO: Subcommand = Subcommand {
    name: "info",
    help: "\
Usage: carbyne whisper info [--json] FILE [FIELD]

Prints the header of a file, or one FIELD of it: aggregationMethod, maxRetention, xFilesFactor,
archives or fileSize.
",
    options: &[JSON],
    run,
};

const JSON: Opt = flag("json");

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let path = args.path()?;
    let texts = args.texts(1)?;
    if texts.len() > 1 {
        return Err(Failure::Usage("takes a file and a field".to_owned()));
    }
    let (header, bytes) = file::read_header(&path).map_err(Failure::at(&path))?;
    if let Some(field) = texts.first() {
        let unknown = || {
            Failure::at(&path)(format!(
                "unknown field `{field}`, valid are aggregationMethod, maxRetention, \
                 xFilesFactor, archives, fileSize"
            ))
        };
        let text = match args.has("json") {
            true => {
                let mut fields = all_fields(&header, bytes).into_iter();
                fields.find(|(key, _)| key == field).map(|(_, value)| value.to_text(": "))
            }
            false => field_text(&header, bytes, field).map(|text| text + "\n"),
        };
        session.out.write_all(text.ok_or_else(unknown)?.as_bytes())?;
        return Ok(0);
    }
    if args.has("json") {
        let fields = all_fields(&header, bytes);
        session.out.write_all(Json::Object(fields).to_text(": ").as_bytes())?;
        return Ok(0);
    }
    for field in ["aggregationMethod", "maxRetention", "xFilesFactor", "fileSize"] {
        let text = field_text(&header, bytes, field).expect("a known field");
        writeln!(session.out, "{field}: {text}")?;
    }
    writeln!(session.out)?;
    for (at, archive) in header.archives().iter().enumerate() {
        writeln!(session.out, "Archive {at}")?;
        for (key, number) in archive_fields(archive) {
            writeln!(session.out, "{key}: {number}")?;
        }
        writeln!(session.out)?;
    }
    Ok(0)
}

/// What the JSON of a file has.
fn all_fields(header: &Header, bytes: u64) -> Vec<(&'static str, Json)> {
    let mut fields = header_fields(header);
    let archives = header.archives().iter().map(|archive| Json::Object(archive_json(archive)));
    fields.push(("archives", Json::List(archives.collect())));
    fields.push(("fileSize", Json::Integer(bytes)));
    fields
}

/// One field of the header as Python prints it.
fn field_text(header: &Header, bytes: u64, field: &str) -> Option<String> {
    let text = match field {
        "aggregationMethod" => header.aggregation.name().to_owned(),
        "maxRetention" => header.retention_s_max.to_string(),
        "xFilesFactor" => python::repr(f64::from(header.x_files_factor)),
        "fileSize" => bytes.to_string(),
        "archives" => {
            let archives = header.archives().iter().map(|archive| {
                let fields = archive_fields(archive);
                format!("{{{}}}", fields.map(|(key, n)| format!("'{key}': {n}")).join(", "))
            });
            format!("[{}]", archives.collect::<Vec<_>>().join(", "))
        }
        _ => return None,
    };
    Some(text)
}

/// The fields in front of the list of archives.
pub(crate) fn header_fields(header: &Header) -> Vec<(&'static str, Json)> {
    vec![
        ("aggregationMethod", Json::Text(header.aggregation.name().to_owned())),
        ("maxRetention", Json::Integer(u64::from(header.retention_s_max))),
        ("xFilesFactor", Json::Float(f64::from(header.x_files_factor))),
    ]
}

/// The fields of an archive.
pub(crate) fn archive_json(archive: &Archive) -> Vec<(&'static str, Json)> {
    let fields = archive_fields(archive);
    fields.into_iter().map(|(key, number)| (key, Json::Integer(number))).collect()
}

/// What whisper says of an archive.
pub(crate) fn archive_fields(archive: &Archive) -> [(&'static str, u64); 5] {
    [
        ("offset", u64::from(archive.offset)),
        ("secondsPerPoint", u64::from(archive.step_s)),
        ("points", u64::from(archive.slot_count)),
        ("retention", archive.span_s()),
        ("size", archive.end() - u64::from(archive.offset)),
    ]
}
