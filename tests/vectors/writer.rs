//! The writer's two ways, by plain calls and through the ring, on real files: both leave the bytes
//! that the format's own functions leave, and say the same about each file.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::whisper_file::File;
use carbyne::disk::writer::{FileWriter, WriteMode, WriterOptions};
use carbyne::metric::point::{Arrival, Point};
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::shard::flush::{FlushJob, Known, Limit, Outcome, Written};
use carbyne::sys::new_file::Layout;
use carbyne::whisper::Update;

const NOW_S: u32 = 1_800_000_000;
const SHAPE: [(u32, u32); 3] = [(10, 360), (60, 1_000), (600, 500)];
const FILES: usize = 200;

fn spec(shape: &[(u32, u32)]) -> SeriesSpec {
    let retention = |&(step_s, slot_count): &(u32, u32)| Retention { step_s, slot_count };
    SeriesSpec {
        retentions: shape.iter().map(retention).collect(),
        x_files_factor: 0.2,
        aggregation: Aggregation::Sum,
    }
}

/// Points of one update of one file: runs with gaps, and now and then one that is too old.
fn points(file: usize, round: u32) -> Vec<Point> {
    let number = u32::try_from(file).unwrap();
    let at = |n: u32| NOW_S - 3_000 + round * 170 + number % 7 * 10 + n * 10 + n / 4 * 30;
    let mut points: Vec<Point> = (0..3 + number % 20)
        .map(|n| Point { timestamp_s: at(n), value: f64::from(number + n * round) })
        .collect();
    if file.is_multiple_of(11) {
        points.insert(0, Point { timestamp_s: 1_000_000, value: 1.0 });
    }
    points
}

/// Points that all arrive now.
fn arrivals(points: &[Point]) -> Vec<Arrival> {
    points.iter().map(|&point| Arrival::new(point, NOW_S)).collect()
}

struct World {
    directory: PathBuf,
    writer: FileWriter,
    mode: WriteMode,
    known: Vec<Option<Known>>,
}

impl World {
    fn new(mode: WriteMode) -> World {
        World::in_directory("bytes", mode)
    }

    fn in_directory(label: &str, mode: WriteMode) -> World {
        let label = format!("carbyne-writer-{}-{label}-{mode:?}", std::process::id());
        let directory = std::env::temp_dir().join(label);
        fs::create_dir_all(&directory).unwrap();
        let options =
            WriterOptions { layout: Layout::Reserved, flock: true, follow_symlinks: false };
        let writer = FileWriter::new(&directory, options, None).unwrap();
        World { directory, writer, mode, known: vec![None; FILES] }
    }

    /// Writes one round to every file; returns what is said of each.
    fn round(&mut self, round: u32, create: bool) -> Vec<String> {
        let mut jobs: Vec<FlushJob> = (0..FILES)
            .map(|file| {
                let mut job = FlushJob::empty();
                job.path = format!("{}\0", path_of(file)).into_bytes();
                job.points = arrivals(&points(file, round));
                job.known = self.known[file].take();
                job.create = create.then(|| spec(&SHAPE));
                job.limit = Limit { is_alone: true, ..Limit::default() };
                job
            })
            .collect();
        self.writer.write_by(self.mode, &mut jobs).unwrap();
        for (job, known) in jobs.iter().zip(&mut self.known) {
            *known = job.known.clone().filter(|_| matches!(job.outcome, Outcome::Written(_)));
        }
        let text = |job: FlushJob| match job.outcome {
            Outcome::Written(Written { checked, created, too_old_count, .. }) => {
                said(checked, created, too_old_count)
            }
            other => format!("{other:?}"),
        };
        jobs.into_iter().map(text).collect()
    }

    fn at(&self, file: usize) -> PathBuf {
        self.directory.join(path_of(file))
    }

    fn bytes(&self, file: usize) -> Vec<u8> {
        fs::read(self.at(file)).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn path_of(file: usize) -> String {
    format!("tree/{}/m{file}.wsp", file / 10)
}

fn said(checked: bool, created: bool, too_old_count: u32) -> String {
    format!("written checked={checked} created={created} too_old={too_old_count}")
}

fn written(checked: bool, created: bool, file: usize) -> String {
    let too_old_count = u32::from(file.is_multiple_of(11));
    said(checked, created, too_old_count)
}

/// A file with other archives than it had, whole and under the same name.
fn replace(path: &Path, shape: &[(u32, u32)]) -> File {
    let file = File::create(shape, 0.2, Aggregation::Max);
    let beside = path.with_extension("new");
    fs::write(&beside, &file.bytes).unwrap();
    fs::rename(&beside, path).unwrap();
    file
}

fn check(mode: WriteMode) {
    let mut world = World::new(mode);
    let mut models: Vec<File> =
        (0..FILES).map(|_| File::create(&SHAPE, 0.2, Aggregation::Sum)).collect();
    let mut job = Update::new();
    for round in 0..6 {
        if round == 4 {
            // Everything is forgotten, as after a restart.
            world.known.fill(None);
        }
        let said = world.round(round, round == 0);
        for (file, said) in said.iter().enumerate() {
            assert_eq!(*said, written(round == 4, round == 0, file), "{mode:?} {round} {file}");
            models[file].update_arrivals(&mut job, &arrivals(&points(file, round)));
            assert!(world.bytes(file) == models[file].bytes, "{mode:?} {round} {file}");
        }
    }
    fs::remove_file(world.at(3)).unwrap();
    fs::write(world.at(4), b"no Whisper file").unwrap();
    fs::remove_file(world.at(5)).unwrap();
    fs::create_dir(world.at(5)).unwrap();
    models[6] = replace(&world.at(6), &[(10, 100), (100, 50)]);
    let holder = fs::File::open(world.at(7)).unwrap();
    holder.try_lock().unwrap();
    let said = world.round(6, false);
    assert_eq!(said[3], "Missing", "{mode:?}");
    assert!(said[4].starts_with("SetAside"), "{mode:?} {}", said[4]);
    assert!(said[5].starts_with("Failed") && said[5].contains("is_own_fault: true"), "{}", said[5]);
    assert_eq!(said[7], "Locked", "{mode:?}");
    for file in (0..FILES).filter(|file| ![3, 4, 5, 7].contains(file)) {
        assert_eq!(said[file], written(file == 6, false, file), "{mode:?} {file}");
        models[file].update_arrivals(&mut job, &arrivals(&points(file, 6)));
        assert!(world.bytes(file) == models[file].bytes, "{mode:?} {file}");
    }
    assert!(world.bytes(7) == models[7].bytes, "a locked file is left alone");
}

#[test]
fn plain_calls_leave_whispers_bytes() {
    check(WriteMode::Plain);
}

#[test]
fn the_ring_leaves_whispers_bytes() {
    check(WriteMode::Ring);
}

/// A name that is taken costs its file nothing, and the points go there; a file whose points are
/// all too old is made all the same.
#[test]
fn new_files_whose_name_is_taken_and_whose_points_are_too_old() {
    for mode in [WriteMode::Plain, WriteMode::Ring] {
        let mut world = World::in_directory("taken", mode);
        let mut models: Vec<File> =
            (0..FILES).map(|_| File::create(&SHAPE, 0.2, Aggregation::Sum)).collect();
        let mut update = Update::new();
        world.round(0, true);
        world.known.fill(None);
        let said = world.round(1, true);
        for (file, (said, model)) in said.iter().zip(&mut models).enumerate() {
            assert_eq!(*said, written(true, false, file), "{mode:?} {file}");
            model.update_arrivals(&mut update, &arrivals(&points(file, 0)));
            model.update_arrivals(&mut update, &arrivals(&points(file, 1)));
            assert!(world.bytes(file) == model.bytes, "{mode:?} {file}");
        }
        let mut job = FlushJob::empty();
        job.path = b"old/file.wsp\0".to_vec();
        job.points = arrivals(&[1, 2].map(|timestamp_s| Point { timestamp_s, value: 1.0 }));
        job.create = Some(spec(&SHAPE));
        let mut jobs = [job];
        world.writer.write_by(mode, &mut jobs).unwrap();
        let (count, is_near, checked, created) = (2, true, false, true);
        let want = Written { count, is_near, checked, created, too_old_count: 2 };
        let want = Outcome::Written(want);
        assert_eq!(format!("{:?}", jobs[0].outcome), format!("{want:?}"), "{mode:?}");
        let empty = File::create(&SHAPE, 0.2, Aggregation::Sum);
        assert!(fs::read(world.directory.join("old/file.wsp")).unwrap() == empty.bytes, "{mode:?}");
    }
}

/// A batch of three files in one directory; what is said of them.
fn batch(world: &mut World, name: &str, create: bool) -> Vec<Outcome> {
    let mut jobs: Vec<FlushJob> = (0..3).map(|_| FlushJob::empty()).collect();
    for (number, job) in jobs.iter_mut().enumerate() {
        job.path = format!("new/{name}-{number}.wsp\0").into_bytes();
        // Nearly as many as the finest archive holds, which is more than a page.
        let at = |n: u32| Point { timestamp_s: NOW_S - n * 10, value: 1.0 };
        job.points = arrivals(&(0..350).map(at).collect::<Vec<_>>());
        job.create = create.then(|| spec(&SHAPE));
        job.limit = Limit { is_alone: true, ..Limit::default() };
    }
    world.writer.write_by(world.mode, &mut jobs).unwrap();
    let mut model = File::create(&SHAPE, 0.2, Aggregation::Sum);
    model.update_arrivals(&mut Update::new(), &jobs[0].points);
    for job in jobs.iter().filter(|job| matches!(job.outcome, Outcome::Written(_))) {
        let path = std::str::from_utf8(&job.path).unwrap().trim_end_matches('\0');
        assert!(fs::read(world.directory.join(path)).unwrap() == model.bytes, "{path}");
    }
    jobs.into_iter().map(|job| job.outcome).collect()
}

/// Whatever became of its last directory, the next batch goes where its names say.
#[test]
fn each_batch_looks_for_its_directories_anew() {
    for mode in [WriteMode::Plain, WriteMode::Ring] {
        let mut world = World::in_directory("directories", mode);
        let directory = world.directory.join("new");
        let is_created =
            |said: &Outcome| matches!(said, Outcome::Written(Written { created: true, .. }));
        let is_updated =
            |said: &Outcome| matches!(said, Outcome::Written(Written { created: false, .. }));
        let is_missing = |said: &Outcome| matches!(said, Outcome::Missing);
        assert!(batch(&mut world, "a", true).iter().all(is_created), "{mode:?}");
        fs::rename(&directory, world.directory.join("elsewhere")).unwrap();
        assert!(batch(&mut world, "b", true).iter().all(is_created), "{mode:?}");
        assert!(batch(&mut world, "b", false).iter().all(is_updated), "{mode:?}");
        fs::rename(&directory, world.directory.join("somewhere")).unwrap();
        assert!(batch(&mut world, "b", false).iter().all(is_missing), "{mode:?}");
        assert!(batch(&mut world, "b", true).iter().all(is_created), "{mode:?}");
    }
}
