"""Losses of power (rows 6 and 7): everything older than the commit interval is found again, nothing
is invented, and every series stores on, also one that was made in the last second.

One image lives through all crashes of a run, its files and its log with it. The sender writes down
what it sent and when; the node's own word on what is safe is read just before the power goes.
"""

import random
import signal
import threading
import time

import pytest
import whisper

import wire
from checks import real, wait_until
from disks import injected
from node import PREFIX

CRASHES = 20
STEADY_METRICS = 100
NEW_METRICS = 2  # in each round
ROUND_SECONDS = 0.02
# A point may be lost that was sent so short before the crash: the longest commit interval used
# here, and what two loaded processors take to run a node, its WAL writers and this sender.
WINDOW_SECONDS = 0.05 + 0.45


class Ledger:
    """What was sent, and what of it must be found."""

    def __init__(self):
        # One round has one timestamp; all of them stay within the retention to the end of the test.
        self.timestamp = int(time.time()) - 1500
        self.sent, self.due, self.serial = {}, {}, 0
        self.oldest_lost = 0.0

    def round(self, names):
        """A point for each of these, with a value that no other point has."""
        self.timestamp += 1
        points = []
        for name in names:
            self.serial += 1
            points.append((name, self.serial, self.timestamp))
            self.sent.setdefault(name, {})[self.timestamp] = self.serial
        return points

    def expect(self, points):
        """These must be found from now on."""
        for name, value, timestamp in points:
            self.due.setdefault(name, {})[timestamp] = value

    def audit(self, node):
        """Looks at everything the node has; what was found once must be found again. Returns how
        many of the points that are due are gone."""
        found, lost = node.points_of(list(self.sent)), 0
        for name, points in found.items():
            for timestamp, value in points.items():
                sent = self.sent[name].get(timestamp)
                assert sent == value, f"invented: {name} has {value} at {timestamp}, sent {sent}"
            due = self.due.setdefault(name, {})
            lost += sum(timestamp not in points for timestamp in due)
            due.update(points)
        return lost


class Load:
    """A sender on a thread of its own: rounds of the same metrics, each with some new ones."""

    def __init__(self, node, ledger):
        self.ledger, self.rounds, self.over = ledger, [], threading.Event()
        self.connection = wire.connect(node.port("line"))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        names = [f"steady.m{number}" for number in range(STEADY_METRICS)]
        try:
            while not self.over.wait(ROUND_SECONDS):
                new = [f"new.m{self.ledger.serial}-{n}" for n in range(NEW_METRICS)]
                points = self.ledger.round(names + new)
                self.connection.sendall(wire.lines(points))
                self.rounds.append((time.monotonic(), points))
        except OSError:
            pass  # the node is gone

    def end(self):
        self.over.set()
        self.thread.join(30)
        self.connection.close()


def own_word(node, born):
    """Points of the sender's that the node says are on stable storage, at least. What it said in
    an earlier life, before `born`, is still there, and means nothing."""
    said = [node.points(f"{PREFIX}.{name}")
            for name in ("wal.synced_points", "accounting.received_own")]
    if any(max(points, default=0) <= born for points in said):
        return 0
    synced, own = [points[max(points)] for points in said]
    return synced - own


def crash(node, disk):
    """The power goes, and comes back."""
    disk.cut_power()
    node.kill()
    disk.unmount()
    disk.mount()


def life_under_load(node, disk, ledger, seconds, born=0):
    """Loads the node, which was started at `born`, and cuts the power. Returns the load's rounds,
    with each one's age at the crash, and what the node had said was safe."""
    load = Load(node, ledger)
    time.sleep(seconds)  # the moment of the crash
    safe, end = own_word(node, born), time.monotonic()
    crash(node, disk)
    load.end()
    return [(end - sent, points) for sent, points in load.rounds], safe


def new_node(start, disk, **wal):
    wal = {"directory": str(disk.path / "log"), "max-size": "24MiB", "segment-size": "1MiB",
           "checkpoint-interval": "500ms", **wal}
    node = start.make(data=disk.path / "data", wal=wal, schemas=[("all", ".*", "1s:30m")],
                      whisper={"flush-interval": "200ms"})
    node.allowed_errors = "."  # of the disk that was switched off under it
    return node


def every_series_stores(node, ledger):
    """One more point for each series there ever was: all of them reach their files."""
    points = ledger.round(list(ledger.sent))
    node.send(points)
    left = list(points)

    def stored():
        left[:] = [(n, v, t) for n, v, t in left if node.on_disk(n).get(t) != v]
        return not left

    wait_until(stored, lambda: f"{len(left)} of {len(points)} series do not store any more: "
               f"{left[:3]}; {node.log()[-500:]}")
    ledger.expect(points)
    for path in node.data.rglob("*.wsp"):
        assert whisper.info(str(path)), f"{path} is no whisper file"
    return points


def check_last_life(ledger, safe, first, rounds):
    """After the audit: what the window allows is missing, and no more."""
    for age, points in rounds:
        missing = sum(t not in ledger.due.get(name, {}) for name, _, t in points)
        assert not missing or age <= WINDOW_SECONDS, (
            f"{missing} of {len(points)} points are lost that were sent {age:.3f} s before")
        if missing:
            ledger.oldest_lost = max(ledger.oldest_lost, age)
    found = sum(t in ledger.due.get(name, {}) for _, points in [(0, first), *rounds]
                for name, _, t in points)
    assert found >= safe, f"{found} points are found, {safe} were said to be safe"


@real
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_rows_6_and_7_power_loss(kind, disks, start):
    disk, dice, ledger = disks(kind), random.Random(kind), Ledger()
    node = new_node(start, disk)
    crashes, last_life, said_safe = 0, None, 0
    while True:
        # Each life has other shards, and another interval.
        node.settings["common"]["shards"] = dice.choice([1, 2, 3])
        node.settings["wal"]["commit-interval"] = dice.choice(["5ms", "50ms"])
        born = time.time()
        node.start()
        lost = ledger.audit(node)
        assert not lost, f"{lost} points are gone after {crashes} crashes: {node.log()[-1000:]}"
        if last_life:
            check_last_life(ledger, *last_life)
        first = every_series_stores(node, ledger)
        if crashes >= CRASHES:
            break
        rounds, safe = life_under_load(node, disk, ledger, dice.uniform(0.5, 1.2), born)
        crashes, last_life, said_safe = crashes + 1, (safe, first, rounds), said_safe + safe
        if dice.random() < 0.25:
            # Once more, in the start, the replay, or the first writes after it.
            node.launch()
            time.sleep(dice.uniform(0, 0.4))
            crash(node, disk)
            crashes += 1
    assert said_safe > 0, "the node has never said that points are safe"
    assert ledger.oldest_lost > 0, "nothing was ever lost: the power was not cut under load"
    print(f"{kind}: {crashes} crashes, {ledger.serial} points in {len(ledger.sent)} series; the "
          f"oldest point lost was sent {ledger.oldest_lost:.3f} s before its crash")


@real
@pytest.mark.parametrize("mode", ["off", "process"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_control_power_loss_without_syncs_loses_points(kind, mode, disks, start):
    disk, ledger = disks(kind), Ledger()
    node = new_node(start, disk, **{"sync-mode": mode}).start()
    first = every_series_stores(node, ledger)
    rounds, _ = life_under_load(node, disk, ledger, 1)
    node.start()
    ledger.audit(node)
    with pytest.raises(AssertionError, match="lost"):
        check_last_life(ledger, 0, first, rounds)


@real
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_control_a_sync_that_does_nothing_loses_points(kind, disks, start):
    """The log of the life before is given up when the files are on stable storage; here the sync
    before that says so and has done nothing."""
    disk, ledger = disks(kind), Ledger()
    node = new_node(start, disk).start()
    every_series_stores(node, ledger)
    life_under_load(node, disk, ledger, 1)
    node.settings["wal"]["checkpoint-interval"] = "2s"
    node.start()
    with injected(node, "syncfs", "retval=0"):
        assert not ledger.audit(node), "lost before the test has begun"
        wait_until(lambda: "replayed log deleted" in node.log(), "the old log stays")
        crash(node, disk)
    node.start()
    assert ledger.audit(node), "nothing is lost without syncs: the files do not matter here"


@real
@pytest.mark.parametrize("way", ["mount", "link"])
@pytest.mark.parametrize("end", ["checkpoint", "drain"])
def test_power_loss_of_another_file_system_in_the_tree(end, way, disks, start):
    """Part of the tree is on a disk of its own, and only that one loses its power: what the log has
    given up must be there."""
    disk, schemas = disks(), [("all", ".*", "1s:30m")]
    # Off while points wait for the node that inherits them.
    node = start.make(schemas=schemas, whisper={"flush-interval": "1h", "follow-symlinks": True},
                      wal={"checkpoint-interval": "500ms"})
    if way == "mount":
        disk.bind(node.data / "inner")
    else:
        node.data.mkdir()
        (node.data / "inner").symlink_to(disk.path)
    now = int(time.time())
    points = [(f"inner.new.m{n}", n, now - age) for n in range(50) for age in (100, 60)]
    node.start()
    node.send(points)
    wait_until(lambda: node.stat("wal.synced_points") > len(points), "not in the log")
    node.kill()
    node.settings["whisper"]["flush-interval"] = "100ms"
    if end == "drain":
        node.settings["wal"]["checkpoint-interval"] = "1h"
    node.start()
    if end == "checkpoint":
        wait_until(lambda: "replayed log deleted" in node.log(), "the old log stays")
    else:
        node.stop(number=signal.SIGUSR1)
    node.allowed_errors = "."
    crash(node, disk)
    node.start()
    found = node.points_of(sorted({name for name, _, _ in points}))
    lost = [(n, v, t) for n, v, t in points if found.get(n, {}).get(t) != v]
    assert not lost, f"{len(lost)} of {len(points)} points are lost, e.g. {lost[:3]}"
