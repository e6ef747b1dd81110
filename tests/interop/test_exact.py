"""Exactness: when a point is written changes nothing. Every test ends in a comparison of whole
files with those of the real whisper; see exact.py."""

import collections
import random
import re
import signal
import time

import pytest
import whisper

from checks import real, wait_until
from clock import Clock
from exact import MARKER_SCHEMA, Feed, Oracle, archives_of, differences, replayed_points

# In the middle of a day, an hour and a minute of every archive here.
START = 1_700_000_000 - 1_700_000_000 % 86_400 + 43_200
OWN_SCHEMA = ("carbon", r"^carbon\.", "1s:10m")
# How the node says, in its text log, that the clock cannot be right.
CLOCK_WARNING = r"(?i)\bWARN\b.*\bclock\b"
MINUTE, HOUR, DAY = 60, 3600, 86_400
# Small segments: a start reads each that an earlier run has left.
WAL = {"max-size": "64MiB", "segment-size": "1MiB"}
SOON, FAR = {"flush-interval": "100ms"}, {"flush-interval": "1h"}
ENDS = ["stop", "kill"]


def schemas(retentions):
    return [MARKER_SCHEMA, OWN_SCHEMA, ("all", ".*", retentions)]


def metrics(prefix, count):
    return [f"{prefix}.m{number}" for number in range(count)]


class World:
    """A node, its clock and the oracle, all of one schema unless `rules` are given."""

    def __init__(self, start, monkeypatch, home, rules, shards=2, **settings):
        self.clock, self.oracle = Clock(monkeypatch, home, START), Oracle(home)
        for name, rule in rules.items():
            self.oracle.add(name, *rule)
        distinct = sorted({rule for rule in rules.values()})
        parts = {rule: f"rule{number}" for number, rule in enumerate(distinct)}
        if len(distinct) > 1:
            wrong = [name for name, rule in rules.items() if f".{parts[rule]}." not in name]
            assert not wrong, f"names without their rule: {wrong[:3]}"
        patterns = {rule: rf"\.{part}\." if len(distinct) > 1 else ".*"
                    for rule, part in parts.items()}
        self.node = start.make(
            schemas=[MARKER_SCHEMA, OWN_SCHEMA]
            + [(parts[rule], patterns[rule], rule[0]) for rule in distinct],
            aggregation=[(parts[rule], patterns[rule], rule[1], rule[2]) for rule in distinct],
            common={"shards": shards}, wal={**WAL, **settings.pop("wal", {})}, **settings)
        self.begin()

    def begin(self, **whisper_settings):
        self.node.settings["whisper"].update(whisper_settings)
        self.node.start()
        self.feed = Feed(self.node, self.clock, self.oracle)

    def end(self, how):
        """`stop` leaves the points to the log; so does `kill`, when the log has them. `cut` does
        not wait for that."""
        if how == "stop":
            self.node.stop(number=signal.SIGTERM)
            return
        if how == "kill":
            self.feed.logged()
        self.node.stopped = True
        self.node.kill()

    def again(self, how, downtime_s=1, **whisper_settings):
        self.end(how)
        self.clock.move(downtime_s)
        self.begin(**whisper_settings)

    def drain(self):
        """Everything into the files."""
        self.node.stop()

    def check(self, what, in_bytes=False):
        self.drain()
        (self.oracle.check_bytes if in_bytes else self.oracle.check)(self.node, what)


def one_rule(names, retentions, xff=0.5, method="average"):
    return dict.fromkeys(names, (retentions, xff, method))


def test_the_oracle_sees_a_slot_that_is_not_whispers(tmp_path):
    """The control of all tests here: points written together, raw over a rollup, or by the greatest
    timestamp make another file, and the comparison says where."""
    rule = "1s:30s,10s:10m"
    alone, batch = tmp_path / "alone.wsp", tmp_path / "batch.wsp"
    for path in (alone, batch):
        whisper.create(str(path), archives_of(rule), aggregationMethod="sum")
    points = [(START + second, 1.0) for second in range(70)]
    for timestamp, value in points:
        whisper.update_many(str(alone), [(timestamp, value)], timestamp)
    whisper.update_many(str(batch), points, START + 70)
    found = differences(batch.read_bytes(), alone.read_bytes())
    assert f"archive 10s interval {START}: got 1.0, want 10.0" in found, found
    assert not differences(alone.read_bytes(), alone.read_bytes())
    before = alone.read_bytes()
    whisper.update_many(str(alone), points[:1], START + DAY)
    assert differences(alone.read_bytes(), before) == [], "too old for every archive"
    whisper.update_many(str(alone), points[:1], START + 5 * MINUTE)
    found = differences(alone.read_bytes(), before)
    assert found == [f"archive 10s interval {START}: got 1.0, want 10.0"], found


@real
def test_a_restart_after_hours_changes_no_rollup(start, monkeypatch, tmp_path):
    """Half an hour of points is in the files and rolled up, and older than the finest archive when
    the node is stopped and started at once."""
    names = metrics("hours", 30)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "10s:6h,1m:7d"), whisper=SOON)
    dice = random.Random(1)
    for turn in range(180):
        # Some seconds late, so that each minute's average is made of six different values.
        points = [(name, turn % 6, world.clock.now - dice.randrange(4)) for name in names]
        world.feed.send(points)
        world.clock.move(10)
    wait_until(lambda: world.oracle.agrees(world.node), "not written as it came", 20)
    world.clock.move(7 * HOUR)
    world.again("stop")
    world.check("after a stop and a start", in_bytes=True)


@pytest.mark.parametrize("end, downtime_s", [
    ("stop", 1), ("stop", 3 * DAY), ("cut", 1), ("cut", 3 * MINUTE), ("cut", 10 * MINUTE)])
@real
def test_downtime_changes_nothing_of_what_is_written(
        start, monkeypatch, tmp_path, end, downtime_s):
    """A kill right after the last write leaves no time to note that it was made."""
    names = metrics("short", 50)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:30s,10s:10m", 0.5, "sum"),
                  whisper=SOON)
    seventy_seconds(world, names)
    world.feed.written(names)
    world.again(end, downtime_s)
    world.check(f"{end}, started {downtime_s} s later", in_bytes=True)


def seventy_seconds(world, names):
    for _ in range(70):
        world.feed.send([(name, 1, world.clock.now) for name in names])
        world.clock.move(1)


@pytest.mark.parametrize("end, downtime_s", [
    (None, 0), ("stop", 1), ("stop", 3 * DAY), ("kill", 10 * MINUTE)])
@real
def test_points_may_wait_longer_than_the_finest_archive_reaches(
        start, monkeypatch, tmp_path, end, downtime_s):
    names = metrics("waits", 30)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:30s,10s:10m", 0.5, "sum"),
                  whisper=FAR)
    seventy_seconds(world, names)
    if end:
        world.again(end, downtime_s)
    world.check(f"waited, {end}, {downtime_s} s", in_bytes=True)


@real
def test_more_points_than_one_update_takes(start, monkeypatch, tmp_path):
    """An update takes some 16,000 points of a metric. They are filled in without any order, and
    many of a time come twice."""
    world = World(start, monkeypatch, tmp_path, one_rule(["many.m"], "1s:10m,1m:1d", 0.2, "last"),
                  whisper=FAR)
    dice = random.Random(5)
    for _ in range(34):
        world.feed.send([("many.m", dice.randrange(1000), world.clock.now - dice.randrange(1800))
                         for _ in range(500)])
        world.clock.move(20)
    world.again("stop")
    world.check("17,000 points of one metric")


@real
def test_a_kill_between_a_write_and_the_note_of_it(start, monkeypatch, tmp_path):
    """The first points of a slot are known to be written. Those that follow, one write, run so far
    that they overwrite the first in the ring of the finest archive; then the node is killed, before
    its log knows. Who writes them again finds the first ones no more, and has to leave the rollup
    that was made of all."""
    names, ahead = metrics("torn", 20), metrics("ahead", 20)
    world = World(start, monkeypatch, tmp_path,
                  one_rule(names + ahead, "1s:30s,10s:10m", 0.5, "sum"),
                  whisper={"flush-interval": "3s"}, wal={"commit-interval": "1s"})
    for _ in range(5):
        world.feed.send([(name, 1, world.clock.now) for name in names + ahead])
        world.clock.move(1)
    world.feed.written(names + ahead)
    # Five of ten slots are enough for a rollup: also the second five, without the first.
    for _ in range(5):
        world.feed.send([(name, 1, world.clock.now) for name in names + ahead])
        world.clock.move(1)
    world.feed.send([(name, 2, START + 30 + second) for name in ahead for second in range(5)])
    for _ in range(60):
        world.feed.send([(name, 1, world.clock.now) for name in names])
        world.clock.move(1)
    world.feed.written(names + ahead)
    world.again("cut", 3 * MINUTE)
    world.check("written, killed, started 3 minutes later", in_bytes=True)


@real
def test_a_limit_on_updates_changes_nothing(start, monkeypatch, tmp_path):
    """Some metrics are written in time, most are not."""
    names = metrics("limited", 80)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:30s,10s:10m", 0.5, "max"),
                  whisper={"max-updates-per-second": 20, **SOON})
    dice = random.Random(3)
    for _ in range(100):
        world.feed.send([(name, dice.randrange(100), world.clock.now)
                         for name in dice.sample(names, 40)])
        world.clock.move(1)
    world.check("behind a limit on updates")


@pytest.mark.parametrize("between", ["together", "apart", *ENDS])
@pytest.mark.parametrize("end", ["stop", "cut"])
@real
def test_in_one_slot_the_last_arrival_counts(start, monkeypatch, tmp_path, between, end):
    """Two points of a minute, the later one in time first. What was written stays when the log is
    read again."""
    names = metrics("minute", 20)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "60s:1d,1h:30d"),
                  whisper=FAR if between == "together" else SOON)
    begun = START - MINUTE
    world.feed.send([(name, 65, begun + 59) for name in names])
    if between != "together":
        world.feed.written(names)
    if between in ENDS:
        world.again(between)
    world.feed.send([(name, 61, begun + 1) for name in names])
    if between != "together":
        world.feed.written(names)
    elif end == "cut":
        world.feed.logged()
    world.again(end)
    world.check(f"two points of one slot, {between}, {end}", in_bytes=True)


@real
def test_points_that_are_written_one_by_one(start, monkeypatch, tmp_path):
    """Nothing waits, ends or comes twice: what these tests compare is then the same at any time."""
    dice = random.Random(4)
    rules, sent = history_of(dice), collections.defaultdict(list)
    world = World(start, monkeypatch, tmp_path, rules, whisper={"flush-interval": "10ms"})
    for _ in range(40):
        points = [arrivals(dice, name, rule, world.clock.now, sent)
                  for name, rule in rules.items()]
        world.feed.send([dice.choice(of_metric) for of_metric in points if of_metric])
        world.feed.written(list(rules))
        world.clock.move(dice.choice(STEPS))
    world.check("one by one", in_bytes=True)


GEOMETRIES = ["1s:30s,10s:10m", "10s:6h,1m:7d,10m:1y", "60s:1d,1h:30d", "1s:60s,1m:1h,1h:2d"]
METHODS = ["average", "sum", "last", "max", "min", "avg_zero", "absmax", "absmin"]
FACTORS = [0.0, 0.3, 0.5, 1.0]
STEPS = [1, 1, 1, 2, 5, 10, 30, 61, 600, HOUR + 7, 4 * HOUR]
PAUSES = [1, 1, 40, 11 * MINUTE, 5 * HOUR, 3 * DAY]


def history_of(dice):
    """{name: (retentions, xff, method)} of a history: every method, each in two geometries."""
    rules = [(dice.choice(GEOMETRIES), dice.choice(FACTORS), method)
             for method in METHODS for _ in range(2)]
    numbers = {rule: number for number, rule in enumerate(sorted(set(rules)))}
    return {f"history.rule{numbers[rule]}.m{metric}": rule
            for rule in numbers for metric in range(2)}


def arrivals(dice, name, rule, now, sent):
    """Some points of one metric as they may come: in time, late, again, ahead, filled in. `sent`
    remembers the times of each metric."""
    archives = archives_of(rule[0])
    step, points = archives[0]
    times = []
    shape = dice.choice(["now", "now", "now", "late", "run", "again", "ahead", "edge", "old",
                         "once more", ""])
    if shape == "now":
        times = [now]
    elif shape == "late":
        times = [now - dice.randrange(min(step * points, 10 * MINUTE)) for _ in range(3)]
    elif shape == "run":
        length = dice.randrange(2, 40)
        times = [now - step * back for back in range(length, -1, -1)]
        if dice.random() < 0.3:
            dice.shuffle(times)
    elif shape == "again":
        times = [now, now - step, now, now - dice.randrange(2 * step + 1)]
    elif shape == "ahead":
        times = [now + dice.randrange(1, 10 * MINUTE) for _ in range(2)] + [now]
    elif shape == "edge":
        step, points = dice.choice(archives)
        times = [now - step * points + dice.choice([-step, -1, 0, 1, step])]
    elif shape == "old":
        reach = dice.choice([step * points for step, points in archives])
        times = [now - dice.randrange(reach + reach // 4) for _ in range(4)]
    elif shape == "once more":
        # Whatever archive had it before, it may be another one's now.
        times = dice.sample(sent[name], min(3, len(sent[name])))
    times = [min(timestamp, now + 10 * MINUTE) for timestamp in times]
    sent[name] += times
    # Halves: sums of them are the same in any Python.
    return [(name, dice.randrange(-40, 41) / 2, timestamp) for timestamp in times]


@pytest.mark.parametrize("seed", range(1, 6))
@real
def test_random_histories(start, monkeypatch, tmp_path, seed):
    dice = random.Random(seed)
    rules, sent = history_of(dice), collections.defaultdict(list)
    world = World(start, monkeypatch, tmp_path, rules, shards=dice.randrange(1, 4), whisper=SOON)
    lives = []
    for life in range(4):
        for _ in range(12):
            world.feed.send([point for name, rule in rules.items() if dice.random() < 0.6
                             for point in arrivals(dice, name, rule, world.clock.now, sent)])
            world.clock.move(dice.choice(STEPS))
        if life == 3:
            break
        how, pause = dice.choice(ENDS), dice.choice(PAUSES)
        world.node.settings["common"]["shards"] = dice.randrange(1, 4)
        settings = {"flush-interval": dice.choice(["20ms", "1s", "1h"]),
                    "max-updates-per-second": dice.choice([0, 0, 50])}
        lives.append((how, pause, settings))
        world.again(how, pause, **settings)
    world.check(f"seed {seed} of {rules['history.rule0.m0']} and others, lives {lives}")
    same = world.oracle.same_bytes(world.node)
    print(f"seed {seed}: {same} of {len(rules)} files are the same to the last byte")


@pytest.mark.parametrize("end", ENDS)
@real
def test_a_deleted_metric_stays_deleted(start, monkeypatch, tmp_path, end):
    names = metrics("deleted", 20)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:1h,1m:1d"), whisper=SOON)
    for _ in range(10):
        world.feed.send([(name, 1, world.clock.now) for name in names])
        world.clock.move(1)
    world.feed.written(names)
    if end == "kill":
        confirmed(world)
    for name in names[:10]:
        world.node.path(name).unlink()
    world.again(end)
    world.drain()
    back = [name for name in names[:10] if world.node.path(name).exists()]
    assert not back, f"{len(back)} of 10 deleted metrics are back after {end}, e.g. {back[0]}"
    for name in names[:10]:
        del world.oracle.files[name]
    world.oracle.check(world.node, f"the others after {end}")


def confirmed(world):
    """Time for the log to learn what is in the files, which nobody promises to the second: two
    reports of the node, and the commits of their points."""
    for _ in range(2):
        world.clock.move(1)
        world.feed.begun = world.clock.now
        wait_until(lambda: world.feed.own("wal.synced_points"), "the node does not report")
    world.feed.send([])
    world.feed.logged()


@pytest.mark.parametrize("when, end", [("running", "stop"), ("running", "kill"), ("down", "stop")])
@real
def test_a_corrected_value_stays_corrected(start, monkeypatch, tmp_path, when, end):
    names = metrics("corrected", 20)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:1h,1m:1d", 0.0, "max"),
                  whisper=SOON)
    first = world.clock.now
    for _ in range(10):
        world.feed.send([(name, 5, world.clock.now) for name in names])
        world.clock.move(1)
    world.feed.written(names)
    if end == "kill":
        confirmed(world)
    if when == "down":
        world.end(end)
    for name in names:
        for path in (world.node.path(name), world.oracle.files[name]):
            whisper.update(str(path), 1000.0, first + 3, now=world.clock.now)
    if when == "running":
        world.end(end)
    world.clock.move(1)
    world.begin()
    world.check(f"corrected while the node was {when}, {end}", in_bytes=True)


@real
def test_a_point_that_came_after_a_correction_counts(start, monkeypatch, tmp_path):
    names = metrics("corrected", 20)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:1h,1m:1d", 0.0, "sum"),
                  whisper=SOON)
    at = world.clock.now
    world.feed.send([(name, 5, at) for name in names])
    world.feed.written(names)
    for name in names:
        for path in (world.node.path(name), world.oracle.files[name]):
            whisper.update(str(path), 1000.0, at, now=world.clock.now)
    world.clock.move(1)
    world.feed.send([(name, 7, at) for name in names])
    world.again("kill")
    world.check("the last arrival counts", in_bytes=True)


@pytest.mark.parametrize("end", [None, "kill"])
@real
def test_a_clock_that_steps_back_and_forth_while_points_wait(start, monkeypatch, tmp_path, end):
    """An arrival is the second that the clock shows, also when the one before it shows a later."""
    names = metrics("steps", 20)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:1m,10s:1h,1m:1d"),
                  whisper=FAR)
    for number, step in enumerate([1, 30, -HOUR, 1, 40, HOUR, 1, -20, 90, 2 * HOUR]):
        for second in range(12):
            world.feed.send([(name, number * 100 + second, world.clock.now - second % 3)
                             for name in names])
            world.clock.move(1)
        world.clock.move(step)
    if end:
        world.again(end)
    world.check(f"the clock stepped, {end}", in_bytes=True)


CLOCKS = {"1970": lambda now: 10 * DAY, "a year ahead": lambda now: now + 365 * DAY,
          "an hour behind": lambda now: now - HOUR}


@pytest.mark.parametrize("wrong, end", [
    ("1970", "stop"), ("a year ahead", "kill"), ("an hour behind", "stop")])
@real
def test_a_wrong_clock_at_the_start_costs_no_point(start, monkeypatch, tmp_path, wrong, end):
    """The points wait in the log; the clock is set right only some time after the start."""
    names = metrics("clock", 20)
    world = World(start, monkeypatch, tmp_path, one_rule(names, "1s:1m,10s:1h,1m:1d"),
                  whisper=FAR)
    for number in range(90):
        world.feed.send([(name, number, world.clock.now) for name in names])
        world.clock.move(1)
    right = world.clock.now
    world.end(end)
    world.clock.set(CLOCKS[wrong](right))
    world.node.settings["whisper"].update(SOON)
    world.node.launch()
    # It may wait for the right clock, having said so, or go on with the wrong one.
    wait_until(lambda: re.search(CLOCK_WARNING, world.node.log()) or world.node.ready(),
               "neither starts nor says why not")
    if not re.search(CLOCK_WARNING, world.node.log()):
        begun = world.node.points("carbon.agents.test.metricsReceived")
        wait_until(lambda: world.node.points("carbon.agents.test.metricsReceived") != begun,
                   "the node does not report")
    world.clock.set(right + 5)
    wait_until(world.node.ready, "does not go on with the right clock")
    world.feed = Feed(world.node, world.clock, world.oracle)
    world.feed.send([(name, -1, world.clock.now) for name in names])
    world.check(f"started with a clock of {wrong}, {end}")
    assert re.search(CLOCK_WARNING, world.node.log()), (
        f"the node does not say that its clock is wrong ({wrong}): {world.node.log()}")


# So many fit in a segment of 1 MiB, at the 6 bytes that one takes at least. A segment that nobody
# needs is there until a later one says so: two may be, with the one that is being filled.
SEGMENT_POINTS = (1 << 20) // 6
SEGMENTS_LEFT = 2


@real
def test_a_file_that_cannot_be_written_holds_no_points_but_its_own(start, tmp_path):
    """Four segments of points go by after the first point of a metric whose file cannot be written,
    and then the node is killed. Its own points are all there, in the order in which they came,
    wherever the log has them now."""
    node = start.make(schemas=schemas("1s:1h,1m:1d"), common={"shards": 1}, whisper=SOON,
                      wal={"max-size": "32MiB", "segment-size": "1MiB",
                           "checkpoint-interval": "100ms", "sync-mode": "process"})
    node.allowed_errors = "."
    node.path("pinned.m").mkdir(parents=True)
    node.start()
    now, names = int(time.time()), metrics("passing", 600)
    oracle = Oracle(tmp_path)
    oracle.add("pinned.m", "1s:1h,1m:1d")
    for turn in range(12):
        points = [("pinned.m", turn, now - 100), ("pinned.m", turn, now - 90 + turn % 5)]
        node.send(points)
        oracle.arrive(points, now)
        wait_until(lambda: node.cached("pinned.m").get(now - 100) == turn, "not received")
        node.send([(name, turn, now - age) for age in range(100) for name in names])
        wait_until(lambda: node.points(names[-1]).get(now - 99) == turn, "not received")
    wait_until(lambda: not any(node.cached_of(names).values()), "not written")
    node.reported()
    node.reported()
    assert node.stat("wal.received_points") > (SEGMENTS_LEFT + 1) * SEGMENT_POINTS
    node.kill()
    node.start()
    points = replayed_points(node)
    node.path("pinned.m").rmdir()
    node.stop()
    oracle.check(node, "the points whose file could not be written")
    assert points <= SEGMENTS_LEFT * SEGMENT_POINTS, f"{points} points replayed for the sake of one"
