"""Files: what the node writes is, byte for byte, what Python whisper writes for each point alone, in
the order they were sent in.

A test sends everything while the flush interval is far away and then stops the node, so that each
metric is written once per run of the node: how many points an update has changes nothing.
"""

import hashlib
import random
import struct
import time

import pytest
import whisper

import wire
from checks import check, wait_for_points

METHODS = ["average", "sum", "last", "max", "min", "avg_zero", "absmax", "absmin"]
FAR_FLUSH = {"flush-interval": "1h"}


def canonical(raw):
    """A digest that two rotations of the same rings share: the spec's `canonical`."""
    count = struct.unpack_from("!L", raw, 12)[0]
    digest = hashlib.sha256()
    for index in range(count):
        offset, _, points = struct.unpack_from("!3L", raw, 16 + 12 * index)
        slots = [raw[at:at + 12] for at in range(offset, offset + 12 * points, 12)]
        slots = sorted(slot for slot in slots if slot[:4] != bytes(4))
        digest.update(struct.pack("!2L", index, len(slots)) + b"".join(slots))
    return digest.hexdigest()


def slots(raw):
    """Used slots by archive, to show a difference."""
    found = []
    for index in range(struct.unpack_from("!L", raw, 12)[0]):
        offset, step, points = struct.unpack_from("!3L", raw, 16 + 12 * index)
        ring = struct.iter_unpack("!Ld", raw[offset:offset + 12 * points])
        found.append((step, [(slot, t, v) for slot, (t, v) in enumerate(ring) if t]))
    return found


def write_alone(path, points, now=None):
    """What a file says is what whisper makes of its points one after the other."""
    for _, value, timestamp in points:
        whisper.update_many(str(path), [(timestamp, value)], now)


def assert_same_file(node, name, reference):
    ours, theirs = node.path(name).read_bytes(), reference.read_bytes()
    if ours == theirs:
        return
    assert ours[:16] == theirs[:16], (
        f"{name} has another header: {ours[:16].hex()} for {theirs[:16].hex()}")
    assert len(ours) == len(theirs), f"{name} is {len(ours)} bytes long, not {len(theirs)}"
    turned = "only rotated" if canonical(ours) == canonical(theirs) else "other content"
    differing = [f"step {step}: {[s for s in mine if s not in its][:4]} "
                 f"for {[s for s in its if s not in mine][:4]}"
                 for (step, mine), (_, its) in zip(slots(ours), slots(theirs)) if mine != its]
    raise AssertionError(f"{name} has other bytes than whisper's ({turned}): {differing}")


def run_batches(start, tmp_path, batches, retentions, xff=0.5, method="average"):
    """Sends each batch {name: points} to one run of a node, and gives the reference the same."""
    archives = [whisper.parseRetentionDef(part) for part in retentions.split(",")]
    options = {"whisper": FAR_FLUSH, "schemas": [("all", ".*", retentions)],
               "aggregation": [("all", ".*", xff, method)]}
    node = None
    for batch in batches:
        node = start(data=node and node.data, **options)
        points = [point for of_metric in batch.values() for point in of_metric]
        node.send(points)
        last = {(name, timestamp): value for name, value, timestamp in points}
        wait_for_points(node, [(name, value, t) for (name, t), value in last.items()])
        node.stop()
        for name, of_metric in batch.items():
            reference = tmp_path / f"{name}.reference"
            if not reference.exists():
                whisper.create(str(reference), archives, xFilesFactor=xff,
                               aggregationMethod=method)
            write_alone(reference, of_metric)
            assert_same_file(node, name, reference)
    return node


def series(name, ages, seed=1):
    """Integers and halves: sums of them are exact in any order and in any Python."""
    dice = random.Random(seed)
    now = int(time.time())
    return [(name, dice.randrange(-40, 41) / 2, now - age) for age in ages]


@pytest.mark.parametrize("method", METHODS)
@check(bug="always-average", sees="another header")
def test_bytes_by_aggregation_method(start, tmp_path, method):
    if start.bug and method == "average":
        method = "sum"
    batch = {"m.dense": series("m.dense", range(600, 0, -1)),
             "m.gaps": series("m.gaps", [age for age in range(600, 0, -1) if age % 7 < 4], 2),
             "m.single": series("m.single", [30], 3)}
    run_batches(start, tmp_path, [batch], "1s:20m,10s:1h,1m:6h", 0.3, method)


@pytest.mark.parametrize("xff", [0, 0.1, 0.5, 0.7, 1])
@check(bug="xff-zero", sees="another header")
def test_bytes_by_x_files_factor(start, tmp_path, xff):
    if start.bug:
        xff = xff or 0.2
    ages = [age for age in range(500, 0, -1) if (age // 10) % 10 >= age % 10]
    batch = {"x.partial": series("x.partial", ages), "x.one": series("x.one", [100])}
    run_batches(start, tmp_path, [batch], "1s:20m,10s:1h", xff)


@check(bug="first-duplicate-wins", sees="incomplete|other bytes")
def test_bytes_of_disorder_duplicates_and_gaps(start, tmp_path):
    dice = random.Random(7)
    first, second = {}, {}
    for number in range(30):
        name = f"disorder.m{number}"
        ages = [dice.randrange(5, 900) for _ in range(dice.randrange(1, 120))]
        first[name] = series(name, ages + ages[:10], number)
        second[name] = series(name, [dice.randrange(5, 900) for _ in range(40)], number + 100)
    run_batches(start, tmp_path, [first, second], "1s:20m,10s:1h,1m:6h", 0.2, "sum")


@check(bug="first-duplicate-wins", sees="incomplete|other bytes")
def test_bytes_of_points_older_than_the_finest_archive(start, tmp_path):
    # 45 s from every edge between archives: the clock may move on between the two writers.
    ages = [age for low, high in ((5, 75), (165, 555), (645, 3000)) for age in range(low, high, 13)]
    batch = {"old.m": series("old.m", ages + ages[::2])}
    run_batches(start, tmp_path, [batch], "1s:2m,10s:10m,1m:2h", 0.0, "max")


RULES = [("first", r"^rules\.first\.", "1s:1m,10s:10m"), ("count", r"\.count$", "10s:100"),
         ("tagless", r"^rules\.[a-z]+$", "5s:5m,1m:1h,5m:1d"), ("rest", ".*", "1m:1d")]
METHOD_RULES = [("counts", r"\.count$", 0, "sum"), ("top", r"\.max$", 0.25, "max"),
                ("rest", ".*", 0.5, "last")]
EXPECTED = {"rules.first.count": ("1s:1m,10s:10m", 0, "sum"),
            "rules.second.count": ("10s:100", 0, "sum"),
            "rules.second.max": ("1m:1d", 0.25, "max"),
            "rules.plain": ("5s:5m,1m:1h,5m:1d", 0.5, "last"),
            "rules.Other": ("1m:1d", 0.5, "last")}


@check(bug="one-schema", sees="has retentions")
def test_each_metric_gets_the_first_rule_that_matches(start):
    node = start(schemas=RULES, aggregation=METHOD_RULES, whisper=FAR_FLUSH)
    points = [(name, 1, int(time.time())) for name in EXPECTED]
    node.send(points)
    wait_for_points(node, points)
    node.stop()
    for name, (retentions, xff, method) in EXPECTED.items():
        info = whisper.info(str(node.path(name)))
        assert info, f"no file for {name}"
        archives = [(a["secondsPerPoint"], a["points"]) for a in info["archives"]]
        wanted = [whisper.parseRetentionDef(part) for part in retentions.split(",")]
        assert archives == wanted, f"{name} has retentions {archives}, not {wanted}"
        assert (info["xFilesFactor"], info["aggregationMethod"]) == (xff, method), name


@pytest.mark.parametrize("sparse", [False, True])
@check(bug="first-item-lost", sees="incomplete|differ")
def test_whisper_reads_back_what_was_sent(start, sparse):
    node = start(whisper={"sparse-create": sparse, "flock": True, "flush-interval": "1s"})
    sent = series("read.back", range(300, 5, -1))
    wire.send(node.port("pickle"), wire.pickled(sent))
    wait_for_points(node, sent)
    node.stop()
    newest = sent[-1][2]
    (first, _, step), values = whisper.fetch(str(node.path("read.back")), sent[0][2] - 1, newest)
    found = {first + step * slot: value for slot, value in enumerate(values)}
    for _, value, timestamp in sent:
        assert found[timestamp] == value, f"read values differ at {timestamp}"
