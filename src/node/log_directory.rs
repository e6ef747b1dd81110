//! The log directory of the node: checks it before the start, hands the segments of earlier runs to
//! the cores for replay, and deletes them when every point of them is on stable storage.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use rtrb::RingBuffer;

use crate::config::{Config, SyncMode};
use crate::disk::checkpoint::{self, CheckpointAsker, Request};
use crate::disk::recovery::{self, Feeder, Recovered};
use crate::disk::wal_writer::WalWriterOptions;
use crate::fatal::{Fatal, die};
use crate::node::log_note;
use crate::node::sizes::{LogSizes, Sizes};
use crate::sys::clock;
use crate::sys::doorbell::Doorbell;
use crate::sys::file_systems::{FileSystems, Newcomers, file_systems};
use crate::sys::lock::{DirectoryLock, lock_directory};
use crate::sys::log_files::{Durability, LogDirectory};
use crate::sys::process;
use crate::tasks::wal_handle::WalPlan;
use crate::wal::{self, BLOCK_BYTES, BootId, FileName, HeaderError, SegmentHeader, SegmentId};

/// The open log directory, and what is needed to plan the logs of the cores.
pub(crate) struct NodeLog {
    path: PathBuf,
    directory: LogDirectory,
    file_systems: Option<FileSystems>,
    newcomers: Newcomers,
    durability: Durability,
    interval: Duration,
    checkpoint_interval: Duration,
    sizes: LogSizes,
    shards: u16,
    run: u64,
    /// Segments and settled marks of earlier runs.
    inherited: Vec<FileName>,
    spares: Vec<FileName>,
    /// Damaged segments, which may hold more than was read, and the names that they get.
    damaged: Vec<(String, String)>,
    feeders: Vec<Feeder>,
    askers: Vec<CheckpointAsker>,
    requests: Sender<Request>,
    requested: Option<Receiver<Request>>,
    _lock: DirectoryLock,
}

impl NodeLog {
    /// Locks and opens the log directory, unless the log is off, and lists its files, which
    /// [`examine`] has checked. Must run before the first write to the data directory.
    pub(crate) fn open(config: &Config, sizes: &Sizes) -> Option<NodeLog> {
        let durability = match config.wal.sync_mode {
            SyncMode::Off => return None,
            SyncMode::Process => Durability::Process,
            SyncMode::Power => Durability::Power,
        };
        let path = config.wal.directory.clone();
        let fail = |error: &dyn std::fmt::Display| -> ! {
            let text = format!("log directory {} ([wal] directory): {error}", path.display());
            die(Fatal::Preflight, &text)
        };
        let lock = lock_directory(&path).unwrap_or_else(|error| {
            let text = format!("log directory {}: {error}", path.display());
            die(Fatal::Locked, &text)
        });
        let directory = LogDirectory::open(&path).unwrap_or_else(|error| fail(&error));
        if let Err(error) = log_note::note(&config.whisper.data_dir, &path) {
            // Not fatal: a node must start on a full disk, because it has points to write.
            log::warn!("write note of the log directory failed error={error}");
        }
        let names = directory.names().unwrap_or_else(|error| fail(&error));
        let files: Vec<FileName> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        let (spares, inherited): (Vec<FileName>, Vec<FileName>) =
            files.iter().partition(|file| matches!(file, FileName::Spare { .. }));
        let (file_systems, newcomers) =
            file_systems(&config.whisper.data_dir).unwrap_or_else(|error| fail(&error));
        let (requests, requested) = mpsc::channel();
        Some(NodeLog {
            path,
            directory,
            file_systems: Some(file_systems),
            newcomers,
            durability,
            interval: config.wal.commit_interval,
            checkpoint_interval: config.wal.checkpoint_interval,
            sizes: sizes.log?,
            shards: u16::try_from(sizes.shards()).expect("the configuration limits the shards"),
            run: files.iter().map(FileName::run).max().unwrap_or(0) + 1,
            inherited,
            spares,
            damaged: Vec::new(),
            feeders: Vec::new(),
            askers: Vec::new(),
            requests,
            requested: Some(requested),
            _lock: lock,
        })
    }

    /// The log options of a shard.
    pub(crate) fn shard_options(&self, shard: u16) -> wal::Options {
        let inherited = self.inherited.len().div_ceil(usize::from(self.shards));
        let inherited = u32::try_from(inherited).unwrap_or(u32::MAX);
        wal::Options {
            run: self.run,
            shard,
            shard_count: self.shards,
            segment_bytes: self.sizes.segment_bytes,
            segments_max: self.sizes.segments_max,
            buffer_bytes: self.sizes.buffer_bytes,
            inherited_segments: (inherited > 0).then_some(inherited),
            boot_id: BootId(process::page_cache_id()),
        }
    }

    /// The log plan of the core that runs this shard and has this doorbell. Must be called once for
    /// each shard, in order.
    pub(crate) fn core_plan(&mut self, shard: u16, bell: Doorbell) -> WalPlan {
        let (answers, checkpointed) = RingBuffer::new(1);
        self.askers.push(CheckpointAsker { answers, bell: bell.clone() });
        let inheritance = (!self.inherited.is_empty()).then(|| {
            let (feeder, heir) = recovery::link(bell);
            self.feeders.push(feeder);
            heir
        });
        let all = (0..self.shards).cycle().zip(&self.spares);
        let spares = all.filter(|(owner, _)| *owner == shard).map(|(_, spare)| *spare).collect();
        WalPlan {
            directory: self.path.clone(),
            writer: WalWriterOptions {
                run: self.run,
                shard,
                segment_bytes: u64::from(self.sizes.segment_bytes),
                durability: self.durability,
                spares,
            },
            interval: self.interval,
            checkpoint_interval: self.checkpoint_interval,
            checkpoints: self.requests.clone(),
            checkpointed,
            inheritance,
        }
    }

    /// The end over which a writer reports file systems.
    pub(crate) fn newcomers(&self) -> Newcomers {
        self.newcomers.clone()
    }

    /// Starts the checkpoint thread. Every core must have its plan.
    pub(crate) fn start_checkpoints(&mut self) {
        let Some(requested) = self.requested.take() else { return };
        let askers = std::mem::take(&mut self.askers);
        let file_systems = self.file_systems.take().expect("as the requests");
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || checkpoint::run(file_systems, &requested, askers));
        thread.unwrap_or_else(|error| die(Fatal::Writer, &format!("checkpoint: {error}")));
    }

    /// Whether earlier runs left files.
    pub(crate) fn is_heir(&self) -> bool {
        !self.inherited.is_empty()
    }

    /// Replays the segments of earlier runs to the cores, see [`recovery::recover`].
    pub(crate) fn recover(&mut self, pause: impl FnMut(Duration)) -> Recovered {
        let mut feeders = std::mem::take(&mut self.feeders);
        let (directory, files) = (&self.directory, &self.inherited);
        let boot_id = BootId(process::page_cache_id());
        let mut recovered = recovery::recover(directory, files, boot_id, &mut feeders, pause);
        let now_s = clock::now_s();
        let aside = |id: SegmentId| (id.to_string(), format!("{id}.damaged-{now_s}"));
        self.damaged = recovered.damaged.drain(..).map(aside).collect();
        recovered
    }

    /// Deletes the segments of earlier runs. Every point that was read from them must be on stable
    /// storage in its file; damaged segments may hold more and are renamed. Returns false after a
    /// failure: the caller tries again.
    pub(crate) fn drop_inheritance(&mut self) -> bool {
        let names: Vec<String> = self.inherited.iter().map(FileName::to_string).collect();
        if let Err(error) = self.settle(self.run, &names) {
            log::warn!("delete replayed log files failed error={error}");
            return false;
        }
        log::info!("replayed log deleted files={}", names.len());
        self.damaged.clear();
        self.inherited.clear();
        true
    }

    /// Deletes all segments, of this run too, after a drain has written every point to its file.
    pub(crate) fn drop_all(&mut self) -> std::io::Result<()> {
        let (sender, synced) = mpsc::channel();
        let is_asked = self.requests.send(Request::Last(sender)).is_ok();
        let result = if is_asked { synced.recv().ok() } else { None };
        result.unwrap_or_else(|| Err(std::io::Error::other("the checkpoint thread has ended")))?;
        let names = self.directory.names()?;
        let is_segment = |name: &String| {
            FileName::parse(name).is_some_and(|file| !matches!(file, FileName::Spare { .. }))
        };
        let names: Vec<String> = names.into_iter().filter(is_segment).collect();
        self.settle(self.run + 1, &names)
    }

    fn settle(&self, run: u64, names: &[String]) -> std::io::Result<()> {
        let word = FileName::Settled { run }.to_string();
        self.directory.remove_all(&word, names, &self.damaged)?;
        for (_, aside) in &self.damaged {
            log::warn!("damaged log segment kept aside file={}", self.path.join(aside).display());
        }
        Ok(())
    }
}

/// Checks the files of earlier runs before the first step that cannot be undone, such as stopping
/// the node that is replaced. An error says why a node must not start with this configuration.
pub(crate) fn examine(config: &Config) -> Result<(), String> {
    let path = &config.wal.directory;
    let describe = |error: &dyn std::fmt::Display| {
        format!("log directory {} ([wal] directory): {error}", path.display())
    };
    examine_abandoned(config)?;
    if !path.try_exists().map_err(|error| describe(&error))? {
        return Ok(());
    }
    let directory = LogDirectory::open(path).map_err(|error| describe(&error))?;
    let left = segments(&directory).map_err(|error| describe(&error))?;
    if let Some(text) = unknown_version(&directory, &left) {
        return Err(describe(&text));
    }
    if config.wal.sync_mode == SyncMode::Off && !left.is_empty() {
        let text = format!(
            "{} files of an earlier run hold points that may be in no Whisper file yet, and the \
             log is off now ([wal] sync-mode, or [whisper] enabled): start with it on and then \
             `carbyne drain`, or move these files away and lose their points",
            left.len()
        );
        return Err(describe(&text));
    }
    Ok(())
}

/// Fails if the last run used another log directory and segments are left there.
fn examine_abandoned(config: &Config) -> Result<(), String> {
    let data = &config.whisper.data_dir;
    let Some(path) = log_note::abandoned(data, &config.wal.directory) else { return Ok(()) };
    let left = LogDirectory::open(&path).and_then(|directory| segments(&directory));
    let found = match left {
        Ok(left) if left.is_empty() => return Ok(()),
        Ok(left) => format!("{} files there hold", left.len()),
        Err(error) => format!("it cannot be read ({error}) and may hold"),
    };
    Err(format!(
        "the log of data directory {} was in {}: {found} points that may be in no Whisper file \
         yet, and [wal] directory is {} now: start with the former one and then `carbyne drain`, \
         or move its files to the new one, or delete them and lose their points",
        data.display(),
        path.display(),
        config.wal.directory.display()
    ))
}

fn segments(directory: &LogDirectory) -> std::io::Result<Vec<SegmentId>> {
    let names = directory.names()?;
    let segment = |name: &String| match FileName::parse(name) {
        Some(FileName::Segment(id)) => Some(id),
        _ => None,
    };
    Ok(names.iter().filter_map(segment).collect())
}

/// Describes the first segment whose format is unknown or whose header cannot be read.
fn unknown_version(directory: &LogDirectory, segments: &[SegmentId]) -> Option<String> {
    segments.iter().find_map(|&id| {
        let first = match directory.read_first(&id.to_string(), BLOCK_BYTES) {
            Ok(first) => first,
            // The node that is replaced still runs and deletes segments.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                return Some(format!(
                    "read log segment {id}: {error}; make it readable, or move it away and lose \
                     what is in it"
                ));
            }
        };
        match SegmentHeader::decode(&first, id) {
            Err(HeaderError::Version(version)) => Some(format!(
                "{id} has format version {version}, which this release does not know: drain the \
                 node with the release that wrote it, or move the directory away and lose what is \
                 in it"
            )),
            _ => None,
        }
    })
}
