//! The rules for new files that a configuration names: read from disk, or the embedded ones.

use std::path::Path;

use super::{Config, EMBEDDED_SCHEMAS, SchemasSource};
use crate::schema::{Rules, Source};

/// Longest schema or aggregation file in bytes; a longer one is refused.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads the rules. Also gives what an operator should know about them, one line each; or every
/// error in them.
pub fn load_rules(config: &Config) -> Result<(Rules, Vec<String>), Vec<String>> {
    let (schemas_label, schemas) = match &config.whisper.schemas {
        SchemasSource::Embedded => ("embedded schemas".to_owned(), EMBEDDED_SCHEMAS.to_owned()),
        SchemasSource::File(path) => read(path).map_err(|error| vec![error])?,
    };
    let aggregation = match &config.whisper.aggregation_file {
        None => None,
        Some(path) => Some(read(path).map_err(|error| vec![error])?),
    };
    let schemas = Source { file: &schemas_label, text: &schemas };
    let aggregation = aggregation.as_ref().map(|(file, text)| Source { file, text });
    match Rules::parse(&schemas, aggregation.as_ref()) {
        Ok((rules, notices)) => Ok((rules, notices.iter().map(ToString::to_string).collect())),
        Err(error) => Err(vec![error.to_string()]),
    }
}

fn read(path: &Path) -> Result<(String, String), String> {
    let label = path.display().to_string();
    let say = |problem: String| format!("{label}: read the rules for new files: {problem}");
    let bytes = std::fs::metadata(path).map_err(|error| say(error.to_string()))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(say(format!("{bytes} bytes, at most {FILE_BYTES_MAX} are allowed")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| say(error.to_string()))?;
    Ok((label, text))
}
