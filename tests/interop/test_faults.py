"""Disks that are full, read-only, slow or broken, too few descriptors, and a clock that jumps: rows
5, 11 to 17, 19, 20 and 44, and a checkpoint that fails."""

import collections
import contextlib
import itertools
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest
import whisper

import wire
from checks import Probe, check, real, wait_for_points, wait_until
from disks import files_below, injected
from node import PREFIX

NOW = int(time.time())
SCHEMAS = [("all", ".*", "1s:30m")]


def round_of(names, age):
    """One point for each, told from all others by value and time."""
    return [(name, age * 1000 + number, NOW - age) for number, name in enumerate(names)]


def metrics(prefix, count):
    return [f"{prefix}.m{number}" for number in range(count)]


def wait_for_files(node, points, what, seconds=40):
    left = {}
    for name, value, timestamp in points:
        left.setdefault(name, {})[timestamp] = value

    def stored():
        for name in list(left):
            found = node.on_disk(name)
            if all(found.get(timestamp) == value for timestamp, value in left[name].items()):
                del left[name]
        return not left

    wait_until(stored, lambda: f"{what}: {len(left)} metrics are not in their files, e.g. "
               f"{list(left)[:2]}; {node.log()[-500:]}", seconds)


@contextlib.contextmanager
def quiet_log(node):
    """No cause has more than a line a second in the log, whatever happens inside."""
    before, begun = len(node.log()), time.monotonic()
    yield
    seconds = time.monotonic() - begun
    causes = collections.Counter()
    for line in node.log()[before:].splitlines():
        # A cause is a line without its time, its numbers, and the metric or segment it names.
        text = re.sub(r"^\S+Z ", "", line)
        causes[re.sub(r"(metric|segment|file)=\S+|\d+", "", text)] += 1
    most = causes.most_common(1)
    # One more: the first line comes at once. Shards, which are two here, do not know of each other.
    assert not most or most[0][1] <= 2 * (seconds + 2), (
        f"too many log lines in {seconds:.1f} s: {most[0]}")


def frozen_under_load(start, disk, **wal):
    """A node with files, and with points that came while its disk hung."""
    node = start(data=disk.path / "data", schemas=SCHEMAS, wal=wal)
    names = metrics("hung", 200)
    before = round_of(names, 100)
    node.send(before)
    wait_for_files(node, before, "no files")
    node.reported()
    disk.freeze()
    during = round_of(names + metrics("hung.new", 20), 50)
    node.send(during)
    wait_for_points(node, during, "not taken while the disk hangs")
    time.sleep(1.5)  # the writer is stuck in the kernel by then
    return node, before, during


@real
def test_row_5_sigterm_while_the_disk_hangs(disks, start):
    """What waits in the kernel for the disk cannot end before the disk answers, and the process
    number stays as long; but the node has said that everything is in its log."""
    disk = disks()
    node, before, during = frozen_under_load(start, disk)
    begun = time.monotonic()
    node.stopped = True
    node.signal(signal.SIGTERM)
    wait_until(lambda: "stopped received=" in node.log(), "hangs with its disk", 10)
    seconds = time.monotonic() - begun
    logged = int(re.search(r" logged=(\d+)", node.log()).group(1))
    disk.thaw()
    assert node.process.wait(10) == 0, node.log()
    assert seconds <= 2.5, f"the stop took {seconds:.1f} s"
    assert logged >= len(during), f"{logged} of {len(during)} points are in the log"
    node.start()
    wait_for_points(node, before + during, "lost by a stop while the disk hung")
    node.stop()
    wait_for_files(node, before + during, "lost by a stop while the disk hung")


@real
def test_row_5_sigterm_while_the_disk_of_the_log_hangs_too(disks, start):
    disk = disks()
    node, before, during = frozen_under_load(start, disk, directory=str(disk.path / "log"))
    begun = time.monotonic()
    node.stopped = True
    node.signal(signal.SIGTERM)
    told = r"could not be committed to the log count=(\d+)"
    wait_until(lambda: re.search(told, node.log()), "does not give up on its log", 40)
    seconds = time.monotonic() - begun
    count = int(re.search(told, node.log()).group(1))
    disk.thaw()
    assert node.process.wait(10) == 75, node.log()
    assert seconds <= 33, f"it took {seconds:.1f} s"
    assert count >= len(during), f"{count} points are said to be uncommitted, not {len(during)}"
    node.start()
    wait_for_points(node, before, "lost by a stop while the disk hung")


@real
def test_a_failed_checkpoint_ends_the_node_and_loses_nothing(disks, start):
    """A sync that fails says nothing of what it has lost, and the next one would succeed: the node
    ends, and the log has everything at the next start."""
    disk = disks()
    # There is no checkpoint before half of the log's 16 files are in use: 8 MB, for which the oldest
    # point is 100 minutes old when the test begins.
    node = start(data=disk.path / "data", schemas=[("all", ".*", "1s:2h")],
                 whisper={"flush-interval": "200ms"},
                 common={"shards": 1}, wal={"checkpoint-interval": "1h", "max-size": "16MiB",
                                            "segment-size": "1MiB", "commit-interval": "2ms"})
    node.allowed_errors = "."
    names, ages = metrics("sync", 1000), iter(range(6000, 0, -1))
    sent, late = [], []
    for _ in range(250):  # at 5 to 14 bytes a point, more than one file, and fewer than half of 16
        sent += round_of(names, next(ages))
        node.send(sent[-len(names):])
        time.sleep(0.01)
    wait_for_files(node, sent, "no files")
    assert node.stat("wal.checkpoints") == 0, "too slow: this test is to see the first checkpoint"
    deadline = time.monotonic() + 120
    with contextlib.suppress(OSError), injected(node, "syncfs", "error=EIO"), \
            wire.connect(node.port("line")) as connection:
        while node.runs():
            assert time.monotonic() < deadline, "goes on although a sync has failed"
            points = round_of(names, next(ages))
            connection.sendall(wire.lines(points))
            late.append((time.monotonic(), points))
            time.sleep(0.01)
    wait_until(lambda: not node.alive(), "goes on although a sync has failed", 10)
    assert node.process.returncode == 74, node.log()
    assert "checkpoint failed" in node.log(), node.log()
    # What was sent last may have waited in the socket. How long strace takes to end says nothing.
    known = [points for when, points in late if when < late[-1][0] - 1]
    assert known, "the node ended within a second: none of what came meanwhile is known to be there"
    sent += itertools.chain.from_iterable(known)
    disk.cut_power()
    disk.unmount()
    disk.mount()
    node.start()
    wait_for_files(node, sent, "lost by a failed checkpoint")


@real
def test_a_drain_whose_sync_fails_is_none(disks, start):
    disk = disks()
    node = start(data=disk.path / "data", schemas=SCHEMAS, whisper={"flush-interval": "1h"},
                 wal={"checkpoint-interval": "1h"})
    node.allowed_errors = "sync and delete the log failed"
    sent = round_of(metrics("drain", 100), 100)
    node.send(sent)
    wait_for_points(node, sent, "not received")
    with injected(node, "syncfs", "error=EIO"):
        node.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: not node.alive(), "does not end", 60)
    assert node.process.returncode == 75, node.log()
    disk.cut_power()
    disk.unmount()
    disk.mount()
    node.start()
    wait_for_points(node, sent, "lost by a drain whose sync failed")


FULL = {"bytes": ([], lambda disk: disk.fill(2 << 20)),
        "inodes": (["-N", "512"], lambda disk: disk.fill_inodes(60))}


def fill_and_free(disks, start, full):
    options, fill = FULL[full]
    disk = disks(megabytes=16, options=options)
    node = start(data=disk.path / "data", schemas=SCHEMAS)
    node.allowed_errors = "disk full"
    names = metrics("full", 150)
    with Probe(node) as probe, quiet_log(node):
        # What the probe and the node itself need is made before the disk is full.
        wait_until(lambda: node.on_disk("probe.9"), "no files")
        fill(disk)
        first = round_of(names, 100)
        node.send(first)
        time.sleep(3)  # the disk is full for so long
        wait_for_points(node, first, "lost on the full disk")
        made = [path for path in files_below(node.data) if path.suffix == ".wsp"]
        for path in made:
            assert os.path.getsize(path) and whisper.info(str(path)), f"{path}: no whisper file"
        assert not all(node.path(name).exists() for name in names), "the disk was not full"
        own = (".carbyne.lock", ".carbyne.log", ".fake-lock")
        strange = [path for path in files_below(node.data)
                   if path.suffix != ".wsp" and path.name not in own]
        assert not strange, f"left behind on the full disk: {strange}"
        disk.free()
        second = round_of(names, 99)
        node.send(second)
        wait_for_files(node, first + second, "not recovered from the full disk")
    probe.arrived()
    assert node.dropped_sum() == 0, f"dropped: {node.dropped()}"


@check(bug="dead-files", sees="no whisper file")
def test_row_11_disk_full_at_create(disks, start):
    fill_and_free(disks, start, "bytes")


@check(bug="error-drops-points", sees="lost on the full disk")
def test_row_13_no_inodes_left(disks, start):
    fill_and_free(disks, start, "inodes")


@real
def test_row_11_log_on_the_full_disk(disks, start):
    """Nothing that the log has taken is lost, also when the node is killed on the full disk and
    started there again; and it goes on by itself when there is room."""
    disk = disks(megabytes=64)
    node = start(data=disk.path / "data", schemas=SCHEMAS, wal={
        "directory": str(disk.path / "log"), "max-size": "16MiB", "segment-size": "1MiB",
        "checkpoint-interval": "500ms"})
    node.allowed_errors = "."
    names = metrics("full", 300)
    before = round_of(names[:20], 1000)
    node.send(before)
    wait_for_files(node, before, "no files")
    disk.fill()
    taken = before
    with quiet_log(node):
        for age in range(30, 0, -1):
            points = round_of(names, age)
            node.send(points)
            wait_for_points(node, points, "lost on the full disk")
            taken = taken + points
            time.sleep(0.1)  # one commit each
    node.reported()
    synced = node.stat("wal.synced_points") - node.stat("accounting.received_own")
    assert synced >= len(taken), f"no reserve for the log: {synced} of {len(taken)} are synced"
    assert not node.path(names[-1]).exists(), "the disk was not full"
    disk.cut_power()
    node.kill()
    disk.unmount()
    disk.mount()
    disk.fill()  # what had not reached the disk has left some room
    node.start()
    wait_for_points(node, taken, "lost on the full disk, or by starting there")
    disk.free()
    wait_for_files(node, taken, "not recovered from the full disk")
    after = round_of(names, 0)
    node.send(after)
    wait_for_files(node, after, "not recovered from the full disk")


@real
def test_row_12_no_room_for_the_log(disks, start, tmp_path):
    place = tmp_path / "tiny"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], check=True)
    try:
        node = start(schemas=SCHEMAS, wal={"directory": str(place / "log"), "max-size": "32MiB",
                                           "segment-size": "1MiB"})
        node.allowed_errors = "log"
        names = metrics("tiny", 1000)
        first = round_of(names, 100)
        with quiet_log(node):
            node.send(first)
            wait_for_points(node, first, "not served from memory")
            node.reported()
            assert node.stat("wal.synced_points") < len(first), "the log had room"
            assert re.search("(?i)(ERROR|WARN).*log", node.log()), "no alarm"
            # Beyond its buffers the node stops reading instead of growing or dropping.
            connection = wire.connect(node.port("line"), 1)
            flood = wire.lines([(f"flood.m{n}", n, NOW - 50) for n in range(1000)])
            with connection, pytest.raises(TimeoutError):
                for _ in range(5000):
                    connection.sendall(flood)
            time.sleep(2)  # and stays so
            wait_for_points(node, first, "not served from memory")
        node.assert_memory(96 << 20, "without a log")
        assert node.dropped_sum() == 0, f"TCP must be slowed down, not dropped: {node.dropped()}"
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        second = round_of(names, 99)
        wait_until(lambda: node.stat("wal.synced_points") >= len(first), "does not log again")
        node.send(second)
        wait_for_points(node, first + second, "lost without a log")
        node.stop()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def break_calls(start, calls, shows):
    node = start(schemas=SCHEMAS)
    names, others = metrics("bad", 5), metrics("good", 5)
    before = round_of(names + others, 100)
    node.send(before)
    wait_for_files(node, before, "no files")
    if start.real:
        # A node that knows nothing of the files yet has to read them.
        node.stop()
        node.start()
    with Probe(node) as probe, quiet_log(node):
        with injected(node, calls, "error=EIO", [node.path(name) for name in names]):
            during = round_of(names, 99)
            fine = round_of(others, 99)
            node.send(during + fine)
            wait_for_files(node, fine, "the other files are not written")
            wait_until(lambda: re.search(shows, node.log()), "no error is told")
            wait_for_points(node, during, "lost by the error")
            assert not any(node.on_disk(name).get(NOW - 99) for name in names), "nothing failed"
        wait_for_files(node, during, "lost by the error")
    probe.arrived()
    for name, value, timestamp in before:
        assert node.on_disk(name).get(timestamp) == value, "an old point is gone"
    if start.real:
        assert node.stat("accounting.write_errors") > 0, "the errors are not counted"


@check(bug="error-drops-points", sees="lost by the error")
def test_row_14_write_errors(start):
    break_calls(start, "write,pwrite64", "failed|not written")


@check(bug="error-drops-points", sees="lost by the error")
def test_row_16_read_errors(start):
    break_calls(start, "read,pread64", "failed|not written")


@real
def test_row_15_the_disk_of_the_log_fails_for_a_while(disks, start):
    """What could not be written or synced is written once more, elsewhere, and survives a loss of
    power."""
    # The journal lies in front of all files.
    disk = disks(megabytes=64, options=["-E", "packed_meta_blocks=1"])
    node = start(wal={"directory": str(disk.path / "log"), "max-size": "32MiB",
                      "segment-size": "1MiB"}, schemas=SCHEMAS,
                 whisper={"flush-interval": "1h"}, common={"shards": 1})
    node.allowed_errors = "log"
    names = metrics("sync", 500)
    sent = round_of(names, 100)
    node.send(sent)
    wait_until(lambda: node.stat("wal.synced_points") >= len(sent), "not synced")
    segments = files_below(disk.path / "log")
    disk.limit(min(disk.first_block(path) for path in segments if path.suffix != ".lock"))
    with quiet_log(node):
        for age in range(99, 60, -1):
            points = round_of(names, age)
            node.send(points)
            sent += points
            time.sleep(0.05)
        wait_until(lambda: node.stat("wal.failed_commits") > 0, "no commit has failed")
    disk.limit(0)
    node.reported()
    received = node.stat("wal.received_points")
    wait_until(lambda: node.stat("wal.synced_points") >= received, "does not log again")
    assert node.dropped_sum() == 0, node.dropped()
    disk.cut_power()
    node.kill()
    disk.unmount()
    disk.mount()
    node.start()
    wait_for_points(node, sent, "lost, though the node said that it was synced")


@real
def test_row_16_unreadable_sectors(disks, start):
    """The disk's end is gone, and with it what can be read of the file that lies last."""
    disk = disks(megabytes=64, options=["-O", "^has_journal"])
    # A checkpoint would fail, and the node end: files of its own may lie in what is gone.
    node = start(data=disk.path / "data", schemas=SCHEMAS, wal={"checkpoint-interval": "1h"})
    names = metrics("sectors", 50)
    before = round_of(names, 100)
    node.send(before)
    wait_for_files(node, before, "no files")
    node.stop()
    places = {path: disk.first_block(path) for path in files_below(node.data / "sectors")}
    last = max(places, key=places.get)
    # Written anew at each start, and then it may lie anywhere.
    (node.data / ".carbyne.lock").unlink()
    disk.unmount()
    disk.mount()
    disk.limit(places[last])
    with pytest.raises(OSError):
        last.read_bytes()
    bad = ".".join(last.relative_to(node.data).with_suffix("").parts)
    node.start()
    during = round_of([name for name in names if name != bad], 99)
    waiting = (bad, 1, NOW - 99)
    with Probe(node) as probe, quiet_log(node):
        node.send([*during, waiting])
        wait_for_files(node, during, "the other files are not written")
        wait_until(lambda: bad in node.log(), "the unreadable file is not named")
        assert node.cached(bad) == {NOW - 99: 1}, "lost by the unreadable file"
        disk.limit(0)
        wait_for_files(node, [waiting], "lost by the unreadable file")
    probe.arrived()
    for name, value, timestamp in before:
        assert node.on_disk(name).get(timestamp) == value, f"an old point of {name} is gone"
    node.kill()  # what was to be written behind the end, files of its own, may have failed


@check(bug="log-per-failure", sees="too many log lines")
def test_row_17_read_only_for_some_seconds(disks, start):
    disk = disks(megabytes=64)
    # The part of the tree that this is about; in the rest the node's lock is open for writing.
    node = start.make(schemas=SCHEMAS)
    disk.bind(node.data / "here")
    node.start()
    names = metrics("here", 100)
    before = round_of(names, 100)
    node.send(before)
    wait_for_files(node, before, "no files")
    disk.remount("ro")
    during = []
    with Probe(node) as probe, quiet_log(node):
        for age in range(99, 95, -1):
            points = round_of(names + [f"here.new{age}"], age)
            node.send(points)
            wait_for_points(node, points, "lost while read-only")
            during += points
            time.sleep(1)  # read-only for so long
        disk.remount("rw")
    wait_for_files(node, during, "lost while read-only")
    probe.arrived()
    assert node.dropped_sum() == 0, f"dropped: {node.dropped()}"


@contextlib.contextmanager
def throttled(node, device, bytes_per_second):
    """The node may write so much to the device. None: there is no such control group here."""
    numbers = os.stat(device).st_rdev
    numbers = f"{os.major(numbers)}:{os.minor(numbers)}"
    group = pathlib.Path("/sys/fs/cgroup/blkio") / f"carbyne-test-{os.getpid()}"
    file, text = "blkio.throttle.write_bps_device", f"{numbers} {bytes_per_second}"
    if not group.parent.is_dir():
        group = pathlib.Path("/sys/fs/cgroup") / group.name
        (group.parent / "cgroup.subtree_control").write_text("+io")
        file, text = "io.max", f"{numbers} wbps={bytes_per_second}"
    group.mkdir()
    try:
        (group / file).write_text(text)
        for task in os.listdir(f"/proc/{node.process.pid}/task"):
            (group / ("cgroup.procs" if file == "io.max" else "tasks")).write_text(task)
        yield
    finally:
        (group / file).write_text(text.replace(str(bytes_per_second),
                                               "max" if file == "io.max" else "0"))
        (pathlib.Path(group.parent) / "cgroup.procs").write_text(str(node.process.pid))
        wait_until(lambda: not (group / "cgroup.procs").read_text().strip(), "group is not empty")
        group.rmdir()


@real
def test_row_19_slow_log_disk(disks, start):
    disk = disks()
    node = start(wal={"directory": str(disk.path / "log"), "max-size": "32MiB",
                      "segment-size": "1MiB"}, schemas=SCHEMAS)
    names = metrics("slow", 1000)
    sent = []
    with Probe(node) as probe, throttled(node, disk.device(), 300_000):
        node.reported()
        commits, begun = node.stat("wal.commits"), time.monotonic()
        for age in range(100, 60, -1):
            points = round_of(names, age)
            wire.send(node.port("line"), wire.lines(points), seconds=60)
            sent += points
        wait_for_points(node, sent, "lost on the slow disk")
        node.reported()
        received = node.stat("wal.received_points")
        behind = received - node.stat("wal.synced_points")
        wait_until(lambda: node.stat("wal.synced_points") >= received, "not synced", 60)
        commits, seconds = node.stat("wal.commits") - commits, time.monotonic() - begun
    probe.arrived()
    assert seconds > 1.5, f"the disk was not slow: {seconds:.1f} s"
    assert commits < 30 * seconds, f"commits do not grow: {commits} in {seconds:.1f} s"
    print(f"{len(sent)} points in {seconds:.1f} s and {commits} commits, {behind} behind at first")
    node.assert_memory(64 << 20, "with a slow log")
    assert node.dropped_sum() == 0, f"TCP must be slowed down, not dropped: {node.dropped()}"
    node.stop(60, signal.SIGTERM)
    node.start()
    wait_for_points(node, sent, "lost on the slow disk")


def descriptors(node):
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def cpu_seconds(node):
    fields = pathlib.Path(f"/proc/{node.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@check(bug="emfile-spins", sees="too many log lines|busy")
def test_row_20_no_descriptors_left(start):
    node = start(schemas=SCHEMAS)
    node.allowed_errors = "Too many open files"
    limit = descriptors(node) + 40
    connections = []
    with Probe(node) as probe, quiet_log(node):
        asker, sender = wire.connect(node.port("carbonlink")), wire.connect(node.port("line"))
        sender.sendall(wire.lines(round_of(["open.m"], 100)))
        wait_until(lambda: wire.ask(asker, {"type": "cache-query", "metric": "open.m"})
                   ["datapoints"] or node.on_disk("open.m"), "not connected")
        before = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            for _ in range(400 if start.real else 100):
                connections.append(wire.connect(node.port("line")))
            # A call of accept that waits holds one that is not listed.
            wait_until(lambda: descriptors(node) >= limit - 1, "descriptors are left", 10)
            used = cpu_seconds(node)
            # The open connection goes on, although its new metrics cannot have files now.
            points = round_of(metrics("emfile", 50), 100)
            sender.sendall(wire.lines(points))
            time.sleep(3)  # nothing is free for so long
            busy = (cpu_seconds(node) - used) / 3
            assert busy < 0.5 or not start.real, f"busy with nothing: {busy:.0%} of a core"
            for name, value, timestamp in points:
                found = wire.ask(asker, {"type": "cache-query", "metric": name})["datapoints"]
                assert (timestamp, value) in [tuple(point) for point in found], f"{name} is lost"
            assert not any(node.path(name).exists() for name, _, _ in points), "files were made"
        finally:
            for connection in connections:
                connection.close()
        wait_for_files(node, points, "lost for want of descriptors")
        sender.close()
        asker.close()
    probe.arrived()


@real
def test_row_20_too_low_a_limit_is_refused(start):
    node = start.make()
    node.command = ["prlimit", "--nofile=256:256", *node.command]
    node.launch()
    wait_until(lambda: not node.alive(), "runs with 256 descriptors", 20)
    assert "ulimit -n" in node.log(), f"the refusal does not say what to do: {node.log()}"


JUMPS = {"a day forward": 86_400, "an hour back": -3_600, "a day back": -86_400}


@check(bug="wall-timers", sees="stands still")
def test_row_44_clock_jumps(start, monkeypatch, tmp_path):
    found = list(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "needs libfaketime: apt-get update && apt-get install -y libfaketime"
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    for name, value in {"LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(clock),
                        "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}.items():
        monkeypatch.setenv(name, value)
    node = start(schemas=SCHEMAS, cache={"max-future": "10m"})
    for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE"):
        monkeypatch.delenv(name)
    counted = collections.Counter()
    jumps = list(JUMPS.items()) if start.real else [("an hour back", JUMPS["an hour back"])]
    for number, (what, offset) in enumerate(jumps):
        clock.write_text(f"{offset:+d}\n")
        names = metrics(f"clock.jump{number}", 20)
        now = int(time.time()) + offset

        def reports():
            received = node.points(f"{PREFIX}.metricsReceived")
            return len([t for t in received if abs(t - now) < 600]) >= 3

        wait_until(reports, f"the node stands still after {what}", 20)
        # Points of the clock's own time are stored, those of the true time are counted.
        points = [(name, 1, now) for name in names]
        node.send(points)
        wait_for_files(node, points, f"after {what}")
        if start.real:
            reason = "too_old" if offset > 0 else "timestamp_future"
            node.send([(name, 2, int(time.time())) for name in names])
            name = f"{PREFIX}.dropped.{reason}"
            before = counted[reason]
            wait_until(lambda: max(node.points(name).values(), default=0) >= before + len(names),
                       f"points outside of the window are not counted after {what}")
            counted[reason] += len(names)


def strace(node, *options):
    """The node's next start is traced from its first instruction; returns where to."""
    if shutil.which("strace") is None:
        pytest.fail("needs strace: apt-get install -y strace")
    told = node.home / "strace"
    # With -D the node is our child and not strace's.
    node.command = ["strace", "-D", "-f", "-qq", "-y", "-o", str(told), *options, *node.command]
    return told


@real
def test_a_log_segment_that_cannot_be_read_is_not_deleted(start):
    node = start.make(schemas=SCHEMAS, common={"shards": 1}, whisper={"flush-interval": "1h"},
                      wal={"checkpoint-interval": "500ms"})
    points, command = round_of(metrics("unread", 100), 100), node.command
    node.start()
    node.send(points)
    wait_until(lambda: node.stat("wal.synced_points") >= len(points), "not in the log")
    node.kill()
    node.settings["whisper"]["flush-interval"] = "100ms"
    log = pathlib.Path(node.settings["wal"]["directory"])
    segment = max(log.glob("*.points"))
    before = segment.read_bytes()

    # Its format cannot be told: it may be a later one.
    strace(node, "-P", str(segment), "-e", "inject=read,pread64:error=EIO")
    node.launch()
    assert node.process.wait(30) == 71, node.log()
    assert f"read log segment {segment.name}" in node.log(), node.log()
    assert segment.read_bytes() == before

    node.command = command
    strace(node, "-P", str(segment), "-e", "inject=read:error=EIO",
           "-e", "inject=pread64:error=EIO:when=2+")
    node.allowed_errors = "read log segment failed in part"
    node.start()
    assert re.search(rf"WARN.* {segment.name}: \d+ bytes cannot be read", node.log()), node.log()
    assert re.search("WARN.*replayed log", node.log()), node.log()
    wait_until(lambda: "replayed log deleted" in node.log(), "the old log stays")
    assert not segment.exists()
    kept = list(log.glob(f"{segment.name}.damaged-*"))
    assert len(kept) == 1 and str(kept[0]) in node.log(), (kept, node.log())
    node.stop()
    assert kept[0].read_bytes() == before, "not the same bytes"

    # The disk is well again: with their names back, the segment and that of its names are a log.
    for path in log.glob("*.damaged-*"):
        path.rename(path.with_name(path.name.partition(".damaged-")[0]))
    node.command = command
    node.start()
    wait_for_points(node, points, "lost by an error that has passed")
    node.stop()


@real
def test_the_log_directory_is_made_to_stay(start):
    node = start.make(schemas=SCHEMAS)
    log = node.home / "new" / "log"
    node.settings["wal"]["directory"] = str(log)
    told = strace(node, "-e", "trace=mkdir,mkdirat,fsync")
    node.start()
    node.stop()
    calls = told.read_text()
    for made in (log.parent, log):
        order = rf'mkdir\w*\(.*"{made}", 0777\) = 0(?s:.*)fsync\(\d+<{made.parent}>\) = 0'
        assert re.search(order, calls), f"{made.parent} is not synced: {calls[:2000]}"
