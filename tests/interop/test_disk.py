"""Trouble under the node: a hung disk, a cache that is full, damaged files."""

import pathlib
import struct
import time

import whisper

import wire
from checks import Probe, check, wait_for_points, wait_until
from node import read_file

NOW = int(time.time())


@check(bug="blocks-on-disk", sees="disturbed|failed")
def test_row_18_hung_disk(disks, start):
    disk = disks()
    node = start(data=disk.path / "data")
    before = [(f"frozen.m{metric}", 1, NOW - 100) for metric in range(200)]
    node.send(before)
    wait_until(lambda: all(node.on_disk(name) for name, _, _ in before), "no files")
    during = []
    disk.freeze()
    try:
        with Probe(node, answer_seconds=4) as probe:
            for second in range(10 if start.real else 5):
                part = [(f"frozen.m{metric}", second, NOW - 90 + second) for metric in range(200)]
                part.append((f"frozen.new{second}", second, NOW))
                wire.send(node.port("line"), wire.lines(part), seconds=5)
                during += part
                time.sleep(1)  # the disk hangs this long; nothing is waited for
    finally:
        disk.thaw()
    probe.arrived()
    wait_for_points(node, during, "lost by the hung disk")
    node.assert_memory(64 << 20, "while the disk hung")
    node.stop()
    for name, value, timestamp in before + during:
        assert read_file(node.path(name)).get(timestamp) == value, f"lost by the hung disk: {name}"


@check(bug="silent-overflow", sees="unaccounted")
def test_row_21_cache_at_its_bound(start):
    metrics = 500 if start.real else 100
    node = start(cache={"max-size": 4 * metrics}, whisper={"max-updates-per-second": 1000},
                 schemas=[("carbon", "^carbon", "1s:10m"), ("all", ".*", "1s:30m")])
    sent = [(f"bound.m{metric}", age, NOW - age) for age in range(40, 0, -1)
            for metric in range(metrics)]
    wire.send(node.port("line"), wire.lines(sent), seconds=120)
    names = [f"bound.m{metric}" for metric in range(metrics)]

    def stored():
        return sum(len(points) for points in node.points_of(names).values())

    def accounted():
        return stored() + node.dropped_sum() >= len(sent)

    wait_until(accounted, lambda: f"{len(sent) - stored() - node.dropped_sum()} of {len(sent)} "
               f"points unaccounted for: stored {stored()}, dropped {node.dropped()}", 60)
    assert node.dropped_sum() == 0, f"TCP must be slowed down, not dropped: {node.dropped()}"
    assert node.log().count("\n") < 200, "a line in the log for each drop"
    node.assert_memory(64 << 20, "with a cache of few points")


def header(method=1, retention=1800, xff=0.5, archives=((28, 1, 1800),), count=None):
    raw = struct.pack("!2LfL", method, retention, xff, len(archives) if count is None else count)
    return raw + b"".join(struct.pack("!3L", *archive) for archive in archives)


BODY = bytes(12 * 1800)
DAMAGED = {
    "zero_length": b"",
    "ten_bytes": header()[:10],
    "header_only_16": header()[:16],
    "archives_max": header(count=2**32 - 1) + BODY,
    "archives_million": header(count=10**6) + BODY,
    "random": bytes((i * 7919 + 13) % 251 + 1 for i in range(5000)),
    "archives_zero": header(count=0) + BODY,
    "step_zero": header(archives=((28, 0, 1800),)) + BODY,
    "points_zero": header(archives=((28, 1, 0),)) + BODY,
    "step_huge": header(archives=((28, 2**31, 1800),)) + BODY,
    "all_zero": bytes(21_628),
    "offset_wild": header(archives=((0xFFFF_FFF0, 1, 1800),)) + BODY,
    "cut_in_data": header() + BODY[:5000],
    "points_max": header(archives=((28, 1, 2**32 - 1),)) + BODY,
}


@check(bug="damaged-file-sticks", sees="not kept in a file")
def test_row_22_damaged_files_are_set_aside(start, tmp_path):
    node = start.make()
    place = node.data / "damaged"
    place.mkdir(parents=True)
    for name, raw in DAMAGED.items():
        (place / f"{name}.wsp").write_bytes(raw)
    outside = tmp_path / "outside.wsp"
    whisper.create(str(outside), [(1, 1800)])
    untouched = outside.read_bytes()
    (place / "a_directory.wsp").mkdir()
    (place / "a_symlink.wsp").symlink_to(outside)
    node.allowed_errors = "damaged|a_directory|a_symlink|could not be written"
    node.status_at_stop = 75  # the points of the directory and of the symlink are left over
    node.start()
    sent = [(f"damaged.{name}", 42, NOW - age) for name in DAMAGED for age in range(10)]
    foreign = [(f"damaged.{name}", 1, NOW) for name in ("a_directory", "a_symlink")]
    with Probe(node) as probe:
        node.send(foreign + sent)

        def kept():
            return [name for name in DAMAGED
                    if len(node.on_disk(f"damaged.{name}")) < 10]

        wait_until(lambda: not kept(), lambda: f"points are not kept in a file: {kept()}", 60)
    probe.arrived()
    node.reported()
    aside = [path.read_bytes() for path in node.data.rglob("*") if path.is_file()
             and not path.is_symlink()]
    for name, raw in DAMAGED.items():
        info = whisper.info(str(node.path(f"damaged.{name}")))
        assert info and info["archives"][0]["points"] == 3600, f"{name} is not recreated"
        assert raw in aside, f"the damaged file of {name} is not set aside"
    assert (place / "a_directory.wsp").is_dir() and not list((place / "a_directory.wsp").iterdir())
    assert (place / "a_symlink.wsp").is_symlink() and outside.read_bytes() == untouched, (
        "a file of someone else was written through a symlink")
    assert node.log().count("\n") < 300, "the log repeats itself"
    node.assert_memory(64 << 20, "on damaged headers")
    node.stop()
    assert pathlib.Path(outside).read_bytes() == untouched
