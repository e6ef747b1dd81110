//! The limits of this process's control groups: memory and CPU quota.
//!
//! /proc/self/cgroup says which groups the process is in, /proc/self/mountinfo where their
//! directories are. A limit of a group holds for every group below it, so all limits count from
//! the process's own group up to the top of the mount, in v1 and in v2, and the tightest decides.
//! In a container the top of the mount is the container's group, and in a cgroup namespace both
//! files name paths as seen from the namespace.
//!
//! Everything is read below a root directory, "/" on a real machine, so that tests can pass their
//! own trees. It is read once, at the start, without locks or changes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// Bytes read of one file at most. A host with 10,000 containers has a mountinfo of a few MB;
/// longer ones are truncated, and limits of later mounts are not found.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// From here on an amount of memory means "no limit": v1 writes the greatest signed number, rounded
/// down to whole pages.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// One limit, and the file that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// How much is allowed.
    pub amount: u64,
    /// The kernel's file with the limit.
    pub file: PathBuf,
}

/// The tightest limits of the groups that the process is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: Option<Limit>,
    /// Time on processors, in thousandths of a processor.
    pub cpu_millis: Option<Limit>,
    /// Why limits may be missing here, a sentence each; few, for a path has few parts.
    pub problems: Vec<String>,
}

/// The limits of this process, with /proc and all mount points below `root`.
pub fn limits(root: &Path) -> Limits {
    let mut finder = Finder { root, limits: Limits::default() };
    let groups = finder.read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = finder.read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount> = lines(&mounts).filter_map(Mount::parse).collect();
    let group_in = |hierarchy: Hierarchy| lines(&groups).find_map(|line| hierarchy.group(line));
    let of_v1 =
        [Hierarchy::Memory, Hierarchy::Cpu].map(|hierarchy| (hierarchy, group_in(hierarchy)));
    // A controller is in one tree: that of v2 limits nothing here when v1 has both.
    let is_v1_alone = of_v1.iter().all(|(_, group)| group.is_some());
    let unified = group_in(Hierarchy::Unified).filter(|_| !is_v1_alone);
    for (hierarchy, group) in of_v1.into_iter().chain([(Hierarchy::Unified, unified)]) {
        if let Some(group) = group {
            finder.hierarchy(hierarchy, &group, &mounts);
        }
    }
    finder.limits
}

/// A tree of groups with a limit that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hierarchy {
    /// That of v2, with all controllers that v1 does not have.
    Unified,
    /// That of v1 with the memory controller.
    Memory,
    /// That of v1 with the cpu controller.
    Cpu,
}

impl Hierarchy {
    /// The controller that tells a tree of v1 from the others.
    fn controller(self) -> Option<&'static [u8]> {
        match self {
            Hierarchy::Unified => None,
            Hierarchy::Memory => Some(b"memory"),
            Hierarchy::Cpu => Some(b"cpu"),
        }
    }

    /// The group in this tree, if a line of /proc/self/cgroup is about it:
    /// `number:controllers:path`.
    fn group(self, line: &[u8]) -> Option<PathBuf> {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_here = match self.controller() {
            None => number == b"0" && controllers.is_empty(),
            Some(controller) => has_word(controllers, controller),
        };
        (is_here && path.starts_with(b"/")).then(|| path_of(path.to_vec()))
    }
}

/// A mounted tree of groups, or a part of one.
#[derive(Debug)]
struct Mount {
    /// The group that is the top of the mount.
    top: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
    /// The controllers of a tree of v1, comma-separated among other options; none for v2.
    options: Option<Vec<u8>>,
}

impl Mount {
    /// Reads a line of /proc/self/mountinfo; `None` for a file system of another kind:
    /// `id parent device top point options tag... - type source options`.
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (top, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|field| *field == b"-")?;
        let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
        let options = match kind {
            b"cgroup2" => None,
            b"cgroup" => Some(options.to_vec()),
            _ => return None,
        };
        Some(Mount { top: path_of(unescaped(top)), point: path_of(unescaped(point)), options })
    }

    fn is_of(&self, hierarchy: Hierarchy) -> bool {
        match (&self.options, hierarchy.controller()) {
            (None, None) => true,
            (Some(options), Some(controller)) => has_word(options, controller),
            _ => false,
        }
    }

    /// What of a group the mount shows.
    fn view(&self, group: &Path) -> View {
        let is_up = |part: &Component<'_>| *part == Component::ParentDir;
        if let Ok(rest) = group.strip_prefix(&self.top) {
            let leaves = rest.components().any(|part| is_up(&part));
            return if leaves { View::Nothing } else { View::From(self.point.join(rest)) };
        }
        // A cgroup namespace was entered and its mounts are from before: "/../.." is two levels
        // above the namespace, and the kernel does not say which names lead from there to the
        // group.
        let up = |path: &Path| path.components().filter(is_up).count();
        let is_above = self.top.components().skip(1).all(|part| is_up(&part));
        if is_above && up(group) < up(&self.top) { View::TopOnly } else { View::Nothing }
    }
}

/// What a mount shows of a group and the groups above it.
enum View {
    /// All from this directory up to the mount point.
    From(PathBuf),
    /// Only the top of the mount, which is above the group.
    TopOnly,
    /// The group is elsewhere.
    Nothing,
}

/// What has been found.
struct Finder<'r> {
    root: &'r Path,
    limits: Limits,
}

impl Finder<'_> {
    /// Takes the limits of a group and of those above it, through every mount that shows them:
    /// one mount may hide another, and whatever any of them shows holds.
    fn hierarchy(&mut self, hierarchy: Hierarchy, group: &Path, mounts: &[Mount]) {
        let (mut is_whole, mut is_seen) = (false, false);
        for mount in mounts.iter().filter(|mount| mount.is_of(hierarchy)) {
            is_seen = true;
            let lowest = match mount.view(group) {
                View::From(directory) => {
                    is_whole |= self.on_disk(&directory).is_dir();
                    directory
                }
                View::TopOnly => mount.point.clone(),
                View::Nothing => continue,
            };
            let shown = lowest.ancestors().take_while(|path| path.starts_with(&mount.point));
            shown.for_each(|directory| self.directory(hierarchy, directory));
            if hierarchy == Hierarchy::Memory {
                self.account(&lowest);
            }
        }
        // Without any mount a process of the top group is not limited, as far as it can know.
        if !is_whole && (is_seen || group != Path::new("/")) {
            let tree = match hierarchy {
                Hierarchy::Unified => "",
                Hierarchy::Memory => " of memory",
                Hierarchy::Cpu => " of cpu",
            };
            let group = group.display();
            self.problem(format!("control group {group}{tree} is not mounted here as a whole"));
        }
    }

    /// Takes the limits of one group.
    fn directory(&mut self, hierarchy: Hierarchy, directory: &Path) {
        match hierarchy {
            Hierarchy::Unified => {
                // At `high` the kernel makes the process wait, which is a limit as well.
                for name in ["memory.max", "memory.high"] {
                    self.memory(directory.join(name), |text| text);
                }
                self.quota_and_period(directory.join("cpu.max"));
            }
            Hierarchy::Memory => self.memory(directory.join("memory.limit_in_bytes"), |text| text),
            Hierarchy::Cpu => self.quota(directory),
        }
    }

    /// Takes v1's own account of the groups above, also of those outside the mount. It comes after
    /// the files that set limits, so that of equal amounts one of those is named.
    fn account(&mut self, directory: &Path) {
        const KEY: &str = "hierarchical_memory_limit ";
        self.memory(directory.join("memory.stat"), |text| {
            text.lines().find_map(|line| line.strip_prefix(KEY)).unwrap_or("max")
        });
    }

    /// Takes a limit of memory, which `select` finds in the text of the file.
    fn memory(&mut self, file: PathBuf, select: impl Fn(&str) -> &str) {
        let Some(text) = self.read_text(&file) else { return };
        match select(text.trim()) {
            "max" => {}
            number => match number.parse() {
                Ok(bytes) if bytes >= UNLIMITED_BYTES => {}
                Ok(bytes) => tighten(&mut self.limits.memory_bytes, bytes, file),
                Err(_) => self.unreadable(&file, "bytes or max", number),
            },
        }
    }

    /// Takes the limit of a cpu.max: `quota period`, both in microseconds, or `max period`.
    fn quota_and_period(&mut self, file: PathBuf) {
        let Some(text) = self.read_text(&file) else { return };
        let (quota, period) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if quota != "max" {
            self.cpu(file, quota, period);
        }
    }

    /// Takes the limit of v1, where quota and period are files of their own and -1 is no limit.
    fn quota(&mut self, directory: &Path) {
        let file = directory.join("cpu.cfs_quota_us");
        let Some(quota) = self.read_text(&file).filter(|text| text.trim() != "-1") else { return };
        let period = self.read_text(&directory.join("cpu.cfs_period_us")).unwrap_or_default();
        self.cpu(file, quota.trim(), period.trim());
    }

    fn cpu(&mut self, file: PathBuf, quota: &str, period: &str) {
        match (quota.parse::<u64>(), period.parse::<u64>()) {
            (Ok(quota_us), Ok(period_us)) if period_us > 0 => {
                let millis = quota_us.saturating_mul(1_000).div_ceil(period_us);
                tighten(&mut self.limits.cpu_millis, millis, file);
            }
            _ => {
                let found = format!("{quota} {period}");
                self.unreadable(&file, "a quota and a period in microseconds", &found);
            }
        }
    }

    /// Where a path of the machine is.
    fn on_disk(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn read_text(&mut self, file: &Path) -> Option<String> {
        let bytes = self.read(file)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes of a file; nothing if it is not there, which is usual: the top group has no
    /// limits, and a tree of v2 not every controller.
    fn read(&mut self, file: &Path) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let opened = File::open(self.on_disk(file));
        match opened.and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
            Ok(_) => Some(bytes),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                None
            }
            Err(error) => {
                self.problem(format!("read {}: {error}", file.display()));
                None
            }
        }
    }

    fn unreadable(&mut self, file: &Path, expected: &str, found: &str) {
        let found: String = found.chars().take(60).collect();
        self.problem(format!("{}: expected {expected}, found {found:?}", file.display()));
    }

    fn problem(&mut self, text: String) {
        if !self.limits.problems.contains(&text) {
            self.limits.problems.push(text);
        }
    }
}

/// Puts a tighter limit in the place of another. Of equal ones the first, lowest group stays.
fn tighten(tightest: &mut Option<Limit>, amount: u64, file: PathBuf) {
    if tightest.as_ref().is_none_or(|limit| amount < limit.amount) {
        *tightest = Some(Limit { amount, file });
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

fn has_word(list: &[u8], word: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|each| each == word)
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Fills in what mountinfo writes as `\` and three octal digits: blanks, line ends, backslashes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|_| first == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A directory with files of the kernel, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(files: &[(&str, &str)]) -> Tree {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("carbyne-cgroup-{}-{number}", std::process::id());
            let tree = Tree(std::env::temp_dir().join(name));
            for (path, text) in files {
                let path = tree.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            tree
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MEMINFO_BYTES: u64 = 1 << 50;

    /// The limits as `memory file` and `millis file`, then the problems, one a line.
    #[track_caller]
    fn check(groups: &str, mounts: &[&str], files: &[(&str, &str)], want: &[&str]) {
        let mounts = mounts.join("\n") + "\n";
        let mut all = vec![("proc/self/cgroup", groups), ("proc/self/mountinfo", &mounts)];
        all.extend(files);
        let tree = Tree::new(&all);
        let found = limits(&tree.0);
        let say = |limit: &Option<Limit>| {
            let limit = limit.as_ref()?;
            assert!(limit.amount < MEMINFO_BYTES, "{limit:?}");
            Some(format!("{} {}", limit.amount, limit.file.display()))
        };
        let lines = [say(&found.memory_bytes), say(&found.cpu_millis)].into_iter().flatten();
        let root = tree.0.display().to_string();
        let problems = found.problems.iter().map(|text| text.replace(&root, ""));
        assert_eq!(lines.chain(problems).collect::<Vec<_>>(), want, "{groups}{mounts}");
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
    const V1_MEMORY: &str =
        "35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory";
    const V1_CPU: &str =
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct";

    #[test]
    fn v2_takes_the_tightest_group_on_the_way_up() {
        let groups = "0::/a.slice/b.service/leaf\n";
        let at = |name: &'static str, text: &'static str| (name, text);
        let top = [
            at("sys/fs/cgroup/a.slice/memory.max", "1073741824\n"),
            at("sys/fs/cgroup/a.slice/memory.high", "max\n"),
            at("sys/fs/cgroup/a.slice/cpu.max", "max 100000\n"),
            at("sys/fs/cgroup/a.slice/b.service/cpu.max", "150000 100000\n"),
            at("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n"),
            at("sys/fs/cgroup/a.slice/b.service/leaf/memory.max", "2147483648\n"),
            at("sys/fs/cgroup/a.slice/b.service/leaf/cpu.max", "200000 100000\n"),
        ];
        let cpu = "1500 /sys/fs/cgroup/a.slice/b.service/cpu.max";
        check(groups, &[V2], &top, &["1073741824 /sys/fs/cgroup/a.slice/memory.max", cpu]);
        // The limit at which the kernel makes the process wait is one as well.
        let mut high = top.to_vec();
        high.push(at("sys/fs/cgroup/a.slice/b.service/memory.high", "536870912\n"));
        let want = "536870912 /sys/fs/cgroup/a.slice/b.service/memory.high";
        check(groups, &[V2], &high, &[want, cpu]);
        // Groups beside the way do not count, nor what is above the mount point.
        let mut beside = top.to_vec();
        beside.push(at("sys/fs/cgroup/a.slice/c.service/memory.max", "4096\n"));
        beside.push(at("sys/fs/memory.max", "4096\n"));
        check(groups, &[V2], &beside, &["1073741824 /sys/fs/cgroup/a.slice/memory.max", cpu]);
        // Of equal limits the lowest group is named.
        let mut equal = top.to_vec();
        equal[5].1 = "1073741824\n";
        let want = "1073741824 /sys/fs/cgroup/a.slice/b.service/leaf/memory.max";
        check(groups, &[V2], &equal, &[want, cpu]);
    }

    #[test]
    fn v1_takes_the_tightest_group_on_the_way_up() {
        let groups = "9:name=systemd:/x\n4:memory:/out/in\n2:cpu,cpuacct:/out/in\n0::/\n";
        let mounts = [V1_MEMORY, V1_CPU];
        let files = [
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/out/memory.limit_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/memory/out/in/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/out/in/memory.stat", "cache 4\nrss 0\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/out/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/out/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/out/in/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/out/in/cpu.cfs_period_us", "100000\n"),
        ];
        let memory = "268435456 /sys/fs/cgroup/memory/out/memory.limit_in_bytes";
        let cpu = "500 /sys/fs/cgroup/cpu,cpuacct/out/cpu.cfs_quota_us";
        check(groups, &mounts, &files, &[memory, cpu]);
        // The kernel tells of a tighter group that is outside of what is mounted.
        let mut outside = files.to_vec();
        outside[3].1 = "cache 4\nhierarchical_memory_limit 134217728\nrss 0\n";
        let want = "134217728 /sys/fs/cgroup/memory/out/in/memory.stat";
        check(groups, &mounts, &outside, &[want, cpu]);
        outside[3].1 = "hierarchical_memory_limit 9223372036854771712\n";
        check(groups, &mounts, &outside, &[memory, cpu]);
    }

    #[test]
    fn hybrid_takes_each_controller_where_it_is() {
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let cpu = [
            ("sys/fs/cgroup/cpu,cpuacct/g/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/g/cpu.cfs_period_us", "200000\n"),
        ];
        let cpu_want = "1500 /sys/fs/cgroup/cpu,cpuacct/g/cpu.cfs_quota_us";
        // Memory is in v2, the processors in v1.
        let mut files = cpu.to_vec();
        files.push(("sys/fs/cgroup/unified/h/memory.max", "1000000\n"));
        let want = ["1000000 /sys/fs/cgroup/unified/h/memory.max", cpu_want];
        check("2:cpu,cpuacct:/g\n0::/h\n", &[V1_CPU, unified], &files, &want);
        // Both are in v1: that the tree of v2 is mounted nowhere is no problem.
        let mut files = cpu.to_vec();
        files.push(("sys/fs/cgroup/memory/g/memory.limit_in_bytes", "2000000\n"));
        let want = ["2000000 /sys/fs/cgroup/memory/g/memory.limit_in_bytes", cpu_want];
        let groups = "4:memory:/g\n2:cpu,cpuacct:/g\n0::/h\n";
        check(groups, &[V1_CPU, V1_MEMORY], &files, &want);
    }

    #[test]
    fn containers_and_namespaces() {
        let limit = |path: &'static str| (path, "5000000\n");
        // A container in the host's namespace: its group is the top of the mount.
        let inside = "50 49 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let file = limit("sys/fs/cgroup/memory/memory.limit_in_bytes");
        let want = ["5000000 /sys/fs/cgroup/memory/memory.limit_in_bytes"];
        check("4:memory:/docker/abc\n", &[inside], &[file], &want);
        let file = limit("sys/fs/cgroup/memory/sub/memory.limit_in_bytes");
        let want = ["5000000 /sys/fs/cgroup/memory/sub/memory.limit_in_bytes"];
        check("4:memory:/docker/abc/sub\n", &[inside], &[file], &want);
        // A namespace of its own, mounted elsewhere, at a path with a blank.
        let elsewhere = r"50 49 0:32 / /my\040groups rw,nosuid master:5 tag - cgroup2 none rw";
        let file = limit("my groups/memory.max");
        check("0::/\n", &[elsewhere], &[file], &["5000000 /my groups/memory.max"]);
        // The whole tree is mounted over the container's part of it.
        let over = "51 49 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let file = limit("sys/fs/cgroup/memory/docker/memory.limit_in_bytes");
        let own = ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "6000000\n");
        let want = ["5000000 /sys/fs/cgroup/memory/docker/memory.limit_in_bytes"];
        check("4:memory:/docker/abc\n", &[inside, over], &[file, own], &want);
        // A mount from before the namespace was entered: the way down from its top is not known,
        // but what is said at the top holds.
        let before = "51 47 0:32 /../.. /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let file = limit("sys/fs/cgroup/memory/memory.limit_in_bytes");
        let top = "5000000 /sys/fs/cgroup/memory/memory.limit_in_bytes";
        let problem = "control group / of memory is not mounted here as a whole";
        check("4:memory:/\n", &[before], &[file], &[top, problem]);
        let problem = "control group /g of memory is not mounted here as a whole";
        check("4:memory:/g\n", &[before], &[file], &[top, problem]);
        // Groups above or beside the namespace.
        let problem = "control group /../../x of memory is not mounted here as a whole";
        let file = limit("sys/fs/cgroup/memory/x/memory.limit_in_bytes");
        let want = ["5000000 /sys/fs/cgroup/memory/x/memory.limit_in_bytes"];
        check("4:memory:/../../x\n", &[before], &[file], &want);
        check("4:memory:/../../x\n", &[V1_MEMORY], &[file], &[problem]);
        let problem = "control group /../../.. of memory is not mounted here as a whole";
        let file = limit("sys/fs/cgroup/memory/memory.limit_in_bytes");
        check("4:memory:/../../..\n", &[before], &[file], &[problem]);
        // The mount shows another container's part.
        let problem = "control group /docker/xyz of memory is not mounted here as a whole";
        check("4:memory:/docker/xyz\n", &[inside], &[file], &[problem]);
    }

    #[test]
    fn what_is_missing_or_garbage_is_no_limit() {
        check("0::/\n", &[V2], &[("sys/fs/cgroup/cgroup.procs", "1\n")], &[]);
        check("", &[], &[], &[]);
        check("0::/\n", &[], &[], &[]);
        let problem = "control group /a of memory is not mounted here as a whole";
        check("4:memory:/a\n", &["", "22 27 0:21 / /proc rw - proc proc rw"], &[], &[problem]);
        let cut = ["30 23 0:26 / /sys/fs/cgroup", "1 2 3 / /x - cgroup2", "\u{fffd}", "- - - -"];
        check("\n::\n0:\n0::x\n:memory\n7:memoryx,cpus:/a\n", &cut, &[], &[]);

        let group = |name: &'static str, text: &'static str| (name, text);
        let garbage = [
            group("sys/fs/cgroup/a/memory.max", "-1\n"),
            group("sys/fs/cgroup/a/memory.high", ""),
            group("sys/fs/cgroup/a/cpu.max", "5 0\n"),
            group("sys/fs/cgroup/a/b/cpu.max", "99999999999999999999 1\n"),
            group("sys/fs/cgroup/a/b/memory.max", "18446744073709551615\n"),
            group("sys/fs/cgroup/cpu.max", "7000\n"),
            group("sys/fs/cgroup/memory.max", "4k\n"),
        ];
        let cpu = "expected a quota and a period in microseconds, found";
        let want = [
            format!("/sys/fs/cgroup/a/b/cpu.max: {cpu} \"99999999999999999999 1\""),
            "/sys/fs/cgroup/a/memory.max: expected bytes or max, found \"-1\"".to_owned(),
            "/sys/fs/cgroup/a/memory.high: expected bytes or max, found \"\"".to_owned(),
            format!("/sys/fs/cgroup/a/cpu.max: {cpu} \"5 0\""),
            "/sys/fs/cgroup/memory.max: expected bytes or max, found \"4k\"".to_owned(),
            format!("/sys/fs/cgroup/cpu.max: {cpu} \"7000 \""),
        ];
        check("0::/a/b\n", &[V2], &garbage, &want.each_ref().map(String::as_str));

        // Limits that are zero, tiny or huge are what they say.
        let edges = [
            group("sys/fs/cgroup/a/memory.max", "0\n"),
            group("sys/fs/cgroup/a/cpu.max", "1 1000000\n"),
            group("sys/fs/cgroup/cpu.max", "18446744073709551615 1\n"),
        ];
        let want = ["0 /sys/fs/cgroup/a/memory.max", "1 /sys/fs/cgroup/a/cpu.max"];
        check("0::/a\n", &[V2], &edges, &want);
    }

    #[test]
    fn a_limit_that_cannot_be_read_is_told() {
        // A directory in the place of a file fails for root as well.
        let files = [("sys/fs/cgroup/a/memory.max/x", "1\n")];
        let want = "read /sys/fs/cgroup/a/memory.max: Is a directory (os error 21)";
        check("0::/a\n", &[V2], &files, &[want]);
    }

    #[test]
    fn escapes() {
        for (field, want) in [
            (r"/a\040b\134\012", &b"/a b\\\n"[..]),
            (r"\04", br"\04"),
            (r"\999\400\", br"\999\400\"),
            (r"\303\251", "\u{e9}".as_bytes()),
        ] {
            assert_eq!(unescaped(field.as_bytes()), want, "{field}");
        }
    }
}
