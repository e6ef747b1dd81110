"""Random sequences of updates and fetches, with what Python whisper makes of them.

A sequence is one file: its layout, operations one after the other, and fetches at the end. `want`
is what whisper did: the file's SHA-256 after each operation, the text of each answer. Sequences are
JSON, one a line, for tests/vectors/sequences.rs. tests/data/whisper-sequences.jsonl is made by

    tests/.venv/bin/python tests/interop/sequences.py SEED COUNT > FILE

Not drawn, and counted, is what src/whisper does otherwise on purpose: runs of future points that
are longer than their ring, and answers with more nulls than an empty ring has slots. Times lie
behind the first step after the epoch from the start.
"""

import collections
import functools
import hashlib
import json
import operator
import os
import pathlib
import random
import struct
import sys
import tempfile

import whisper

METHODS = ["average", "sum", "last", "max", "min", "avg_zero", "absmax", "absmin"]
X_FILES_FACTORS = [0, 0, 0.1, 0.2, 0.3, 0.5, 0.5, 0.7, 0.9, 1]
TIME_MAX = (1 << 32) - 1
POINTS_MAX = 150

# From 3.12 on, sum() compensates, and whisper's files depend on the Python that wrote them. Ours
# are those of the plain sum that all others have.
if sys.version_info >= (3, 12):
    whisper.sum = lambda values: functools.reduce(operator.add, values, 0)


def bits(value):
    return struct.pack("!d", value).hex()


def layout(dice):
    """Archives that whisper accepts, as tight as it accepts them or a little wider."""
    if dice.random() < 0.02:
        return dice.choice([[(1, 1800), (60, 180)], [(10, 360), (60, 600), (600, 300)]])
    steps = [dice.choice([1, 1, 2, 5, 7, 10, 60])]
    for _ in range(dice.choice([0, 1, 1, 1, 2, 2, 3, 4, 15])):
        steps.append(steps[-1] * (dice.choice([2, 2, 3, 4, 5, 6, 10, 12]) if len(steps) < 5 else 2))
    archives, span = [], 0
    for step, coarser in zip(steps, steps[1:] + [None]):
        least = max(span // step + 1, coarser // step if coarser else 1)
        points = least + dice.choice([0, 0, 1, dice.randrange(30)])
        span = step * points
        archives.append((step, points))
    # A quarter of what 32 bits hold: two of them and a future point remain a time.
    return archives if span < 1 << 30 else layout(dice)


def value(dice, kind):
    if kind == "halves":
        return dice.randrange(-20, 21) / 2
    if kind == "floats":
        return dice.uniform(-1, 1) * 10.0 ** dice.randrange(-3, 4)
    if kind == "wild":
        return dice.choice([0.0, -0.0, 1e300, -1e300, 5e-324, 0.1, 1e16, 1.0, -1e16])
    # Not both: which NaN a sum of two different ones is, is the processor's choice.
    return dice.choice([float(kind), dice.choice([1, -1]) * float(kind), 1.0, -2.5])


def draw_times(dice, archives, now):
    """Times for one batch, as they may come in: runs, gaps, edges, the future, repetitions."""
    times = []
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        step, points = archives[min(int(dice.expovariate(1)), len(archives) - 1)]
        shape = dice.choice(["run", "run", "gaps", "scattered", "edges", "future", "one"])
        if shape in ("run", "gaps"):
            newest = now - dice.choice([0, 0, dice.randrange(step * points + 1)])
            length = dice.randrange(1, min(points + points // 4, POINTS_MAX) + 2)
            run = [newest - step * back for back in range(length)]
            times += run if shape == "run" else [t for t in run if dice.random() < 0.6]
        elif shape == "scattered":
            reach = step * points * 5 // 4 + 2
            times += [now - dice.randrange(reach) for _ in range(dice.randrange(1, 60))]
        elif shape == "edges":
            times += [now - step * points + dice.choice([-step, -1, 0, 1, step])
                      for step, points in archives]
        elif shape == "future":
            times += [now + dice.randrange(1, 3 * archives[0][0] + 2)
                      for _ in range(dice.randrange(1, 6))]
        else:
            times.append(now - dice.choice([0, 1, dice.randrange(step * points)]))
    if dice.random() < 0.3:
        times += dice.choices(times, k=len(times) // 2) if times else []
    order = dice.randrange(4)
    if order == 0:
        times.sort()
    elif order == 1:
        times.sort(reverse=True)
    elif order == 2:
        dice.shuffle(times)
    return [t for t in times if 0 <= t <= TIME_MAX][:POINTS_MAX]


def overruns(archive, times, now):
    """Whether a run of intervals in the finest archive may be too long for its ring."""
    step, points = archive
    intervals = sorted({t - t % step for t in times if now - t <= step * points})
    longest = length = 0
    for before, interval in zip([None] + intervals, intervals):
        length = length + 1 if before is not None and interval == before + step else 1
        longest = max(longest, length)
    return longest > points + 1


class Maker:
    """Draws sequences and has whisper carry them out; `counts` says how many of what."""

    def __init__(self, seed, directory):
        self.dice = random.Random(seed)
        self.path = str(pathlib.Path(directory) / "reference.wsp")
        self.counts = collections.Counter()

    def sequence(self, number):
        dice = self.dice
        archives, method = layout(dice), dice.choice(METHODS)
        xff = dice.choice(X_FILES_FACTORS + [dice.random()])
        if os.path.exists(self.path):
            os.unlink(self.path)
        whisper.create(self.path, archives, xFilesFactor=xff, aggregationMethod=method)
        kind = dice.choice(["halves", "halves", "floats", "floats", "wild", "inf", "nan"])
        retention = max(step * points for step, points in archives)
        first = retention + archives[-1][0]
        now = dice.choice([1_700_000_000 + dice.randrange(1 << 20), first + dice.randrange(1000),
                           TIME_MAX - dice.randrange(3 * retention)])
        operations = []
        for _ in range(dice.choice([1, 2, 3, 5, 8])):
            operations.append(self.operation(archives, kind, now))
            span = dice.choice(archives)
            moved = now + dice.choice([0, 1, span[0], dice.randrange(2 * span[0] * span[1]),
                                       dice.randrange(3 * retention), -dice.randrange(span[0] + 1)])
            now = max(first, min(moved, TIME_MAX))
        fetches = [self.fetch(archives, retention, now) for _ in range(3)]
        self.counts["sequences"] += 1
        return {"sequence": number, "archives": archives, "method": method,
                "xff": struct.unpack("!L", struct.pack("!f", xff))[0],
                "ops": operations, "fetches": [fetch for fetch in fetches if fetch]}

    def operation(self, archives, kind, now):
        dice, path = self.dice, self.path
        made = {"op": dice.choice(["many"] * 8 + ["one"] * 4 + ["meta"]), "now": now,
                "forget": dice.random() < 0.5}
        if made["op"] == "meta":
            made["method"], xff = dice.choice(METHODS), dice.choice(X_FILES_FACTORS)
            made["xff"] = struct.unpack("!L", struct.pack("!f", xff))[0]
            whisper.setAggregationMethod(path, made["method"], xff)
        elif made["op"] == "one":
            time = (draw_times(dice, archives, now) or [now])[0]
            point = (time, value(dice, kind))
            made["points"] = [(point[0], bits(point[1]))]
            try:
                whisper.update(path, point[1], point[0], now)
                made["covered"] = True
            except whisper.TimestampNotCovered:
                made["covered"] = False
        else:
            times = draw_times(dice, archives, now)
            if overruns(archives[0], times, now):
                self.counts["overruns avoided"] += 1
                times = [t for t in times if t <= now]
            points = [(time, value(dice, kind)) for time in times]
            made["points"] = [(time, bits(number)) for time, number in points]
            whisper.update_many(path, points, now)
        made["want"] = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        self.counts[f"operations '{made['op']}'"] += 1
        return made

    def fetch(self, archives, retention, now):
        dice = self.dice
        start = max(0, now - dice.randrange(-3, retention * 5 // 4 + 2))
        until = start + dice.choice([0, now - start, dice.randrange(-1, retention + 1)])
        step = dice.choice([None, None, dice.choice(archives)[0], 999_983])
        try:
            got = whisper.fetch(self.path, start, until, now, step and f"{step}s")
        except (whisper.InvalidTimeInterval, ValueError) as error:
            want = type(error).__name__
        else:
            want = "none"
            if got:
                slots = next(points for a_step, points in archives if a_step == got[0][2])
                if len(got[1]) > slots:
                    self.counts["answers of too many nulls avoided"] += 1
                    return None
                values = ["-" if one is None else bits(one) for one in got[1]]
                want = " ".join(map(str, got[0])) + " " + ",".join(values)
        self.counts["fetches"] += 1
        return {"from": start, "until": until, "now": now, "step": step, "want": want}


def write(seed, count, out):
    """Writes sequences, one a line, and returns how many of what there are."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="sequences-", dir=memory) as directory:
        maker = Maker(seed, directory)
        for number in range(count):
            print(json.dumps(maker.sequence(number), separators=(",", ":")), file=out)
    return maker.counts


if __name__ == "__main__":
    write(int(sys.argv[1]), int(sys.argv[2]), sys.stdout)
