"""The oracle of exactness: the file that the real whisper makes when it is given each point alone,
at the second in which it arrived. A node's file must hold the same in every archive, whatever
waiting, limits, crashes, restarts and clocks lay between.

Arrival must be certain: the clock stands still while points are sent, and moves on when the node
is known to have them.
"""

import struct

import whisper

import wire
from checks import wait_until
from node import PREFIX

# When the last points of all these are readable, every shard has taken what was sent before them.
# That one of three shards owns none of so many names has a chance of 1 in 5,000, and the names'
# hash is the same on every machine.
MARKERS = [f"marker.m{number}" for number in range(24)]
MARKER_SCHEMA = ("marker", r"^marker\.", "1s:1h")


def archives_of(retentions):
    """[(step, points)] of a schema's retentions."""
    return [whisper.parseRetentionDef(part) for part in retentions.split(",")]


def slots(raw):
    """[(step, {interval: value as its eight bytes})] of every archive, wherever its ring begins."""
    found = []
    for number in range(struct.unpack_from("!L", raw, 12)[0]):
        offset, step, points = struct.unpack_from("!3L", raw, 16 + 12 * number)
        held = {}
        for at in range(offset, offset + 12 * points, 12):
            interval = struct.unpack_from("!L", raw, at)[0]
            if interval:
                assert interval not in held, f"interval {interval} twice in the {step}s archive"
                held[interval] = raw[at + 4:at + 12]
        found.append((step, held))
    return found


def shown(value):
    return "nothing" if value is None else struct.unpack("!d", value)[0]


def differences(ours, theirs):
    """What an archive holds and should not, or should and does not, one line each."""
    header = 16 + 12 * struct.unpack_from("!L", theirs, 12)[0]
    if ours[:header] != theirs[:header]:
        return [f"header: got {ours[:header].hex()}, want {theirs[:header].hex()}"]
    if len(ours) != len(theirs):
        return [f"length: got {len(ours)}, want {len(theirs)}"]
    return [f"archive {step}s interval {interval}: got {shown(mine.get(interval))}, "
            f"want {shown(its.get(interval))}"
            for (step, mine), (_, its) in zip(slots(ours), slots(theirs))
            for interval in sorted(mine.keys() | its.keys())
            if mine.get(interval) != its.get(interval)]


class Oracle:
    """Whisper's files of the metrics of a test."""

    def __init__(self, home):
        self.home, self.files = home / "oracle", {}
        self.home.mkdir()

    def add(self, name, retentions, xff=0.5, method="average"):
        path = self.files[name] = self.home / f"{name}.wsp"
        whisper.create(str(path), archives_of(retentions), xFilesFactor=xff,
                       aggregationMethod=method)

    def arrive(self, points, now):
        """(name, value, timestamp) points in the order of their arrival, all in one second."""
        for name, value, timestamp in points:
            whisper.update_many(str(self.files[name]), [(timestamp, value)], now)

    def differences(self, node):
        """{name: what is wrong} of the node's files. A metric without a slot needs no file."""
        wrong = {}
        for name, path in self.files.items():
            theirs = path.read_bytes()
            try:
                found = differences(node.path(name).read_bytes(), theirs)
            except FileNotFoundError:
                found = ["there is no file"] if any(held for _, held in slots(theirs)) else []
            if found:
                wrong[name] = found
        return wrong

    def agrees(self, node):
        return not self.differences(node)

    def check(self, node, what):
        wrong = self.differences(node)
        count = sum(map(len, wrong.values()))
        total = sum(len(held) for path in self.files.values()
                    for _, held in slots(path.read_bytes()))
        first = [f"{name} {line}" for name, lines in list(wrong.items())[:3] for line in lines[:3]]
        assert not wrong, "\n".join(
            [f"{what}: {count} slots differ, of {total}, in {len(wrong)} of {len(self.files)} "
             "metrics", *first])

    def same_bytes(self, node):
        """How many files are the same to the last byte: the place of each ring's beginning too."""
        return sum(node.path(name).read_bytes() == path.read_bytes()
                   for name, path in self.files.items() if node.path(name).exists())

    def check_bytes(self, node, what):
        self.check(node, what)
        same = self.same_bytes(node)
        assert same == len(self.files), (
            f"{what}: {len(self.files) - same} of {len(self.files)} files hold the right slots and "
            "begin their rings elsewhere")


class Feed:
    """Sends to a node, second by second of a clock, and keeps the oracle informed."""

    def __init__(self, node, clock, oracle):
        self.node, self.clock, self.oracle = node, clock, oracle
        self.batches = self.sent = 0
        # What an earlier run reported of itself lies before this second.
        self.begun = clock.now

    def send(self, points):
        """All of it arrives now, and the node has it when this returns."""
        self.batches += 1
        markers = [(name, self.batches, self.clock.now) for name in MARKERS]
        self.sent += len(points) + len(markers)
        wire.send(self.node.port("line"), wire.lines([*points, *markers]))
        self.oracle.arrive(points, self.clock.now)

        def has_all():
            found = self.node.points_of(MARKERS)
            return all(found[name].get(self.clock.now) == self.batches for name in MARKERS)

        wait_until(has_all, "the node does not take what was sent")

    def logged(self):
        """Waits until the log has everything, by the node's own count."""
        wait_until(lambda: self.own("wal.synced_points") - self.own("accounting.received_own")
                   >= self.sent, "not in the log")

    def own(self, name):
        """The newest value of a counter of this run; 0 before its first report."""
        points = self.node.points(f"{PREFIX}.{name}")
        newest = max(points, default=0)
        return points[newest] if newest >= self.begun else 0

    def written(self, names):
        """Waits until nothing of these metrics waits in memory any more."""
        wait_until(lambda: not any(self.node.cached_of(names).values()), "not written")


def replayed_points(node):
    """How many points the node's last start took from the log."""
    for line in node.log().splitlines():
        if "replayed log logs=" in line:
            return int(line.split(" points=")[1].split()[0])
    return 0
