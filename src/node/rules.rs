//! The schema and aggregation files on disk: reading them and noticing that they changed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, load_rules};
use crate::schema::Rules;

/// What tells two versions of a file apart: inode, length, seconds and nanoseconds of its change.
type Version = Option<(u64, u64, i64, i64)>;

/// The files the rules come from.
#[derive(Debug)]
pub(crate) struct RuleFiles {
    config: Config,
    paths: Vec<PathBuf>,
    versions: Vec<Version>,
}

impl RuleFiles {
    pub(crate) fn of(config: &Config) -> RuleFiles {
        let schemas = match &config.whisper.schemas {
            crate::config::SchemasSource::File(path) => Some(path.clone()),
            crate::config::SchemasSource::Embedded => None,
        };
        let paths: Vec<PathBuf> =
            schemas.into_iter().chain(config.whisper.aggregation_file.clone()).collect();
        RuleFiles { config: config.clone(), versions: vec![None; paths.len()], paths }
    }

    /// Reads the rules; also returns what an operator should know about them.
    pub(crate) fn load(&mut self) -> Result<(Rules, Vec<String>), Vec<String>> {
        self.versions = self.look();
        load_rules(&self.config)
    }

    /// Whether a file is another one than when it was last read.
    pub(crate) fn have_changed(&self) -> bool {
        self.look() != self.versions
    }

    fn look(&self) -> Vec<Version> {
        self.paths.iter().map(|path| version(path)).collect()
    }
}

fn version(path: &Path) -> Version {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
