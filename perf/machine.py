"""The machine and the processes on it: CPU clocks, memory, the node, its floors, the sender.

CPU time is read from the process's own clock, which counts nanoseconds of user and system time
of all its threads, those of io_uring too.
"""

import fcntl
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
NODE = TARGET / "carbyne"
FLOORS = TARGET / "examples" / "floors"
PROBE = TARGET / "examples" / "probe"

# Slots of a file's two archives, of a minute and of five. Each archive has pages of its own: the
# file's are four. A million such files take more memory than machines for tests have: two do.
SLOTS, SLOTS_SMALL = (720, 576), (420, 144)
# The coarser archive is written at every update, whatever is known of its interval.
AGGREGATION = "[all]\npattern = .*\nxFilesFactor = 0\naggregationMethod = average\n"

# Of ext4 and XFS, from linux/fs.h.
FS_IOC_SHUTDOWN, SHUTDOWN_NO_FLUSH = 0x8004587D, 2


def fail(text):
    sys.exit(f"perf/run: {text}")


def schemas(slots):
    return ("[own]\npattern = ^self\\.\nretentions = 1s:10m\n\n"
            f"[all]\npattern = .*\nretentions = 60:{slots[0]},300:{slots[1]}\n")


def cores():
    return sorted(os.sched_getaffinity(0))


def model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def cpu_s(pid):
    """CPU seconds of a process so far: its CLOCK_PROCESS_CPUTIME, as clock_getcpuclockid gives."""
    return time.clock_gettime((~pid << 3) | 2)


def all_cpu_s():
    """CPU seconds of everything on the machine so far, but for interrupts."""
    user, nice, system = pathlib.Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def own_cpu_s():
    """CPU seconds of this process and of all that it has started and seen the end of."""
    return sum(os.times()[:4])


def free_bytes():
    """Memory that can be had without pushing anything out but cached files."""
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def resident_bytes(pid):
    pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def udp_drops(port):
    """Datagrams that the kernel dropped at the sockets of a port."""
    drops = 0
    for line in pathlib.Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rsplit(":", 1)[1], 16) == port:
            drops += int(fields[-1])
    return drops


# The weakest claim to a processor.
NICE_MAX = 19


def before_start(cpus, cgroup, yields=False):
    def prepare():
        os.sched_setaffinity(0, cpus)
        if yields:
            os.setpriority(os.PRIO_PROCESS, 0, NICE_MAX)
        if cgroup:
            cgroup.join()
    return prepare


class Cgroup:
    """A memory limit for the node and its page cache; version 1 of control groups, or 2."""

    def __init__(self, limit_bytes):
        name = f"carbyne-perf-{os.getpid()}"
        one, two = pathlib.Path("/sys/fs/cgroup/memory"), pathlib.Path("/sys/fs/cgroup")
        try:
            if (one / "memory.limit_in_bytes").exists():
                self.path, limit, self.members = one / name, "memory.limit_in_bytes", "tasks"
            elif "memory" in (two / "cgroup.subtree_control").read_text().split():
                self.path, limit, self.members = two / name, "memory.max", "cgroup.procs"
            else:
                fail("--cold needs the memory controller of control groups, which is not enabled")
            self.path.mkdir()
            (self.path / limit).write_text(str(limit_bytes))
        except OSError as error:
            fail(f"--cold needs root and a memory control group: {error}")

    def join(self):
        (self.path / self.members).write_text(str(os.getpid()))

    def remove(self):
        for _ in range(50):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.1)


class SlowDisk:
    """While entered, a file system's device takes only so many bytes a second, of whoever writes
    them, the kernel's own writing of dirty pages included; and few of its pages may be dirty, so
    that writers wait for it soon. Version 1 of control groups limits the whole machine's writing to
    a device; version 2 only that of some processes, and not what the kernel writes for others."""

    LIMIT = pathlib.Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")

    def __init__(self, path, bytes_per_s):
        device = os.stat(path).st_dev
        self.device, self.bytes_per_s = f"{os.major(device)}:{os.minor(device)}", bytes_per_s
        self.dirty = pathlib.Path("/sys/class/bdi") / self.device

    def is_possible(self):
        return os.geteuid() == 0 and self.LIMIT.exists() and (self.dirty / "strict_limit").exists()

    def __enter__(self):
        (self.dirty / "max_ratio").write_text("1")
        (self.dirty / "strict_limit").write_text("1")
        self.LIMIT.write_text(f"{self.device} {self.bytes_per_s}")

    def __exit__(self, *_):
        self.LIMIT.write_text(f"{self.device} 0")
        (self.dirty / "strict_limit").write_text("0")
        (self.dirty / "max_ratio").write_text("100")


class Node:
    """A node in a directory of its own, on loopback, killed at the end."""

    def __init__(self, home, shards, settings="", whisper="", cpus=None, cgroup=None, log="off",
                 slots=SLOTS):
        self.home = home
        shutil.rmtree(home, ignore_errors=True)
        self.data = home / "whisper"
        self.data.mkdir(parents=True)
        (home / "schemas.conf").write_text(schemas(slots))
        (home / "aggregation.conf").write_text(AGGREGATION)
        listen = "".join(f'[{section}]\nlisten = "127.0.0.1:0"\n'
                         for section in ["tcp", "udp", "pickle", "carbonlink"])
        (home / "node.toml").write_text(
            f'[common]\nshards = {shards}\ngraph-prefix = "self"\nmetric-interval = "1s"\n'
            f'[whisper]\ndata-dir = "{self.data}"\nschemas-file = "{home}/schemas.conf"\n'
            f'aggregation-file = "{home}/aggregation.conf"\n{whisper}\n'
            f'{listen}{settings}\n[wal]\nsync-mode = "{log}"\n[logging]\nfile = "{home}/log"\n')
        self.cpus = cpus or (cores()[:1] if shards == 1 else cores())
        self.busy_until = 0
        self.start(cgroup)
        self.settle()

    def start(self, cgroup=None):
        """Starts the process; returns when it takes connections."""
        self.process = subprocess.Popen(
            [NODE, "serve", "-c", self.home / "node.toml"], stdout=subprocess.PIPE, text=True,
            stderr=open(self.home / "stderr", "w"), preexec_fn=before_start(self.cpus, cgroup))
        self.pid = self.process.pid
        self.ports = {}
        for line in self.process.stdout:
            found = re.match(r"\s*(line tcp|line udp|pickle tcp|carbonlink)\s+(\S+)", line)
            if found:
                self.ports[found[1]] = found[2]
            if len(self.ports) == 4:
                break
        else:
            fail(f"the node does not start: {(self.home / 'stderr').read_text()}")
        self.started = time.monotonic()

    def crash(self):
        """Ends the process as a crash does."""
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Its files go with the whole directory: removing 100,000 of them takes longer than all else.
        self.crash()

    def cpu_s(self):
        return cpu_s(self.pid)

    def settle(self, timeout_s=120):
        """Waits until the node has next to nothing to do; returns its CPU time then. Since when
        it has is kept, to 10 ms."""
        until, quiet = time.monotonic() + timeout_s, 0
        before, then = self.cpu_s(), time.monotonic()
        while quiet < 7:
            time.sleep(0.01)
            if self.process.poll() is not None:
                fail(f"the node died: {(self.home / 'log').read_text()[-2000:]}")
            now, at = self.cpu_s(), time.monotonic()
            quiet = quiet + 1 if now - before < 0.05 * (at - then) else 0
            if quiet == 0:
                self.busy_until = at
            before, then = now, at
            if at > until:
                fail("the node does not come to rest")
        return before

    def rest_s(self, ended):
        """How long the node went on after this moment, to be asked when it has settled."""
        return max(0, self.busy_until - ended)

    def points(self, name):
        """What the cache has of a metric: lines of a timestamp and a value."""
        return subprocess.run(
            [NODE, "query", "--carbonlink", self.ports["carbonlink"], name],
            capture_output=True, text=True, check=True).stdout.splitlines()

    def own(self, name):
        """The newest value of one of the node's own metrics."""
        answer = self.points(f"self.{name}")
        return float(answer[-1].split()[1]) if answer else None

    def wait_for(self, name, least, timeout_s=60):
        """Waits until one of the node's own metrics has reached a value."""
        until, value = time.monotonic() + timeout_s, None
        while value is None or value < least:
            if time.monotonic() > until:
                fail(f"the node's {name} stays at {value}, expected {least}")
            time.sleep(0.05)
            value = self.own(name) or value
        return value


def loadgen(target, *options, cpus=None, background=False, yields=False):
    """Sends, and returns the summary; in the background, the process. With `yields` it has only
    the processor time that nobody else wants."""
    command = [NODE, "loadgen", "--json", "--carbon", target, *map(str, options)]
    prepare = before_start(cpus or cores(), None, yields)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=prepare)
    return process if background else summary(process)


def summary(process):
    out, _ = process.communicate()
    if process.returncode != 0:
        fail(f"{' '.join(map(str, process.args))}: exit status {process.returncode}")
    return json.loads(out)


def floor_receive(*options):
    """Floor (a): the same stream, received and its newlines counted."""
    process = subprocess.Popen([FLOORS, "receive"], stdout=subprocess.PIPE, text=True,
                               preexec_fn=before_start(cores()[:1], None))
    target = json.loads(process.stdout.readline())["listening"]
    sent = loadgen(target, *options, cpus=cores()[1:])
    counted = summary(process)
    assert counted["lines"] == sent["points"], (counted, sent)
    return counted | {"sender": sent}


class FloorAnswer:
    """Floor (e): the same questions, answered by a program that does nothing else."""

    def __enter__(self):
        self.process = subprocess.Popen([FLOORS, "answer"], stdout=subprocess.PIPE, text=True,
                                        preexec_fn=before_start(cores(), None))
        return json.loads(self.process.stdout.readline())["listening"]

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def floor(*arguments, cgroup=None):
    process = subprocess.Popen([FLOORS, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                               preexec_fn=before_start(cores()[:1], cgroup))
    return summary(process)


def probe(target, rate, seconds, names, background=False):
    """Asks the cache at a fixed rate, with priority where that is allowed: the probe's own waits
    for a processor are none of the node's doing."""
    def prepare():
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            pass
    process = subprocess.Popen(
        [PROBE, target, str(rate), str(seconds), "32", *names],
        stdout=subprocess.PIPE, text=True, preexec_fn=prepare)
    return process if background else summary(process)


class Mount:
    """A new file system in a file: what the machine's own has gone through leaves no trace in the
    figures (an ext4 without journal searches long for inodes when many were deleted), and it is
    gone at once with all its files."""

    def __init__(self, directory, kind, size_gb, inodes, needs_disk):
        maker = shutil.which(f"mkfs.{kind}")
        if os.geteuid() != 0 or not maker:
            package = {"xfs": "xfsprogs", "ext4": "e2fsprogs"}.get(kind, f"mkfs.{kind}")
            fail(f"--fs {kind} needs root and mkfs.{kind}: apt-get install -y {package}")
        # What is measured is the CPU time of the node. A disk that the dirty pages must get to only
        # makes the run longer, unless pages are to be read from it.
        memory = pathlib.Path("/dev/shm")
        self.in_memory = (not needs_disk and memory.is_dir()
                          and free_bytes() > size_gb << 30)
        top = memory if self.in_memory else directory
        self.image, self.path = top / f"{directory.name}.{kind}", directory / kind
        self.path.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(size_gb << 30)
        # XFS makes inodes as they are needed.
        options = ["-N", str(inodes)] if kind == "ext4" else []
        subprocess.run([maker, "-q", *options, self.image], check=True)
        mounted = subprocess.run(["mount", "-o", "loop", self.image, self.path], check=False)
        if mounted.returncode != 0:
            self.image.unlink()
            fail(f"--fs {kind} cannot mount {self.image}")

    @staticmethod
    def is_possible(kind):
        return os.geteuid() == 0 and shutil.which(f"mkfs.{kind}") and shutil.which("mount")

    def remove(self):
        # What is not written yet need not be: the whole file system goes.
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NO_FLUSH))
        except OSError:
            pass
        os.close(descriptor)
        # The kernel closes what a killed node's ring had open a little later.
        for _ in range(50):
            if subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        else:
            subprocess.run(["umount", "--lazy", self.path], check=False)
        self.image.unlink()
