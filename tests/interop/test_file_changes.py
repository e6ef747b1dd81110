"""Files that others change in place while the node runs: a backup is copied over them, or their
header is set by whisper's own scripts. The next update works on what is there then, and not on what
the node remembers."""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest
import whisper

import wire
from checks import Probe, real, wait_until
from exact import archives_of, differences, slots

RULE = "1s:1h,1m:1d"
SCHEMAS = [("all", ".*", RULE)]
NAMES = [f"changed.m{number}" for number in range(5)]
RESTORED, NEW = 900, 20


def written(node):
    wait_until(lambda: not any(node.cached_of(NAMES).values()), "not written")


def send(node, points):
    """Points that are in the files when this returns."""
    wire.send(node.port("line"), wire.lines(points))
    wait_until(lambda: all(node.points(name).get(timestamp) == value
                           for name, value, timestamp in points), "not received")
    written(node)


def overwrite(backup, live):
    """As `rsync --inplace`: no byte is cut off, and the time of change is the backup's."""
    with open(live, "r+b") as file:
        file.write(backup.read_bytes())
    status = os.stat(backup)
    os.utime(live, ns=(status.st_atime_ns, status.st_mtime_ns))


WAYS = {"cp": lambda backup, live: shutil.copyfile(backup, live),
        "cp -p": lambda backup, live: shutil.copy2(backup, live),
        "rsync --inplace": overwrite,
        # Another file of the same name, which the node knows by its inode.
        "mv": lambda backup, live: os.rename(shutil.copyfile(backup, f"{live}.new"), live)}
# Of one length: with the archives that the live file has, and with others.
BACKUPS = {"the same archives": RULE, "another step": "2s:2h,1m:1d"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backup", BACKUPS)
@real
def test_a_backup_copied_over_a_live_file(start, tmp_path, way, backup):
    """All that is restored stays, and all that comes later can be read."""
    node = start(schemas=SCHEMAS, whisper={"flush-interval": "50ms"})
    # Nothing here is near the edge of an archive, so the second of its arrival does not matter.
    now = int(time.time())
    now -= now % 2
    with Probe(node) as probe:
        for age in (1000, 990, 980):
            send(node, [(name, 1, now - age) for name in NAMES])
        copies = {}
        for name in NAMES:
            copy = copies[name] = tmp_path / f"{name}.backup"
            whisper.create(str(copy), archives_of(BACKUPS[backup]))
            whisper.update_many(str(copy), [(now - 2000 + second, second + 0.5)
                                            for second in range(RESTORED)], now)
            assert copy.stat().st_size == node.path(name).stat().st_size
            WAYS[way](copy, node.path(name))
        for second in range(0, 2 * NEW, 2):
            send(node, [(name, second, now - 500 + second) for name in NAMES])
            for copy in copies.values():
                whisper.update_many(str(copy), [(now - 500 + second, second)], now)
    probe.arrived()
    lost = [text for name, copy in copies.items() for text in lost_points(node, name, copy, now)]
    assert not lost, f"after {way} of {backup}: {lost}"
    for name, copy in copies.items():
        found = differences(node.path(name).read_bytes(), copy.read_bytes())
        assert not found, f"{name} after {way} of {backup}: {len(found)} slots, {found[:3]}"


def lost_points(node, name, copy, now):
    """What a reader of the file misses, in a line."""
    path, wanted = str(node.path(name)), slots(copy.read_bytes())[0][1]
    (first, _, step), values = whisper.fetch(path, now - 2500, now, now)
    read = {first + number * step: value for number, value in enumerate(values)}
    new = [t for t in wanted if t >= now - 500]
    old = [t for t in wanted if t < now - 500]
    missing_new = sum(read.get(t) != t - now + 500 for t in new)
    missing_old = sum(read.get(t) is None for t in old)
    if missing_new or missing_old:
        yield (f"{name}: {missing_new} of {len(new)} new points cannot be read, "
               f"{missing_old} of {len(old)} restored ones are gone")


def script(name, *arguments):
    path = pathlib.Path(sys.executable).parent / name
    subprocess.run([sys.executable, str(path), *map(str, arguments)], check=True,
                   stdout=subprocess.DEVNULL)


METHOD, FACTOR = "whisper-set-aggregation-method.py", "whisper-set-xfilesfactor.py"
# What the rule of new files says, the script and its arguments.
HEADERS = {"method": ((0.0, "average"), METHOD, ["max"]),
           "method and factor": ((1.0, "average"), METHOD, ["sum", "0.2"]),
           "factor down": ((1.0, "max"), FACTOR, ["0.1"]),
           "factor up": ((0.0, "max"), FACTOR, ["1.0"])}


@pytest.mark.parametrize("what", HEADERS)
@real
def test_a_header_set_by_whispers_scripts_counts_from_the_next_update(start, tmp_path, what):
    (factor, method), name, arguments = HEADERS[what]
    node = start(schemas=SCHEMAS, aggregation=[("all", ".*", factor, method)],
                 whisper={"flush-interval": "50ms"})
    now = int(time.time())
    minute = now - now % 60 - 600
    copies = {}
    for metric in NAMES:
        copy = copies[metric] = tmp_path / f"{metric}.copy"
        whisper.create(str(copy), archives_of(RULE), xFilesFactor=factor,
                       aggregationMethod=method)

    def arrive(seconds):
        send(node, [(metric, second, minute + second) for second in seconds for metric in NAMES])
        for copy in copies.values():
            for second in seconds:
                whisper.update_many(str(copy), [(minute + second, second)], now)

    arrive(range(0, 20))
    for metric, copy in copies.items():
        script(name, node.path(metric), *arguments)
        script(name, copy, *arguments)
    # The rest of the minute, and a part of the next one.
    arrive(range(20, 60))
    arrive(range(60, 80))
    for metric, copy in copies.items():
        found = differences(node.path(metric).read_bytes(), copy.read_bytes())
        assert not found, f"{metric}, {what}: {found[:3]}"
