"""Files: random updates leave what Python whisper leaves, in the library and through the node.

`SEED=n tests/run -k whisper_fuzz` repeats a run, `SEQUENCES=n` sets its length. The node's clock is
set by libfaketime, so that whisper can be told the same time.
"""

import json
import os
import pathlib
import random
import subprocess
import time

import whisper

import sequences
from checks import check, wait_for_points
from clock import Clock
from test_whisper_files import FAR_FLUSH, assert_same_file, write_alone

ROOT = pathlib.Path(__file__).parents[2]
SEED = int(os.environ.get("SEED") or random.randrange(1 << 32))
AGAIN = f"again with: SEED={SEED} tests/run -k whisper_fuzz"
SEQUENCES = int(os.environ.get("SEQUENCES") or 20_000)


def run_sequences(path):
    environment = {**os.environ, "CARBYNE_SEQUENCES": str(path)}
    return subprocess.run(["cargo", "test", "--test", "vectors", "sequences::"], cwd=ROOT,
                          env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")


def test_random_sequences(tmp_path):
    path = tmp_path / "sequences"
    with open(path, "w") as out:
        counts = sequences.write(SEED, SEQUENCES, out)
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"seed {SEED}: {told}")
    done = run_sequences(path)
    is_good = done.returncode == 0 and "test result: ok. 1 passed" in done.stdout
    assert is_good, f"{AGAIN}\n{told}\n{done.stdout[-20_000:]}"


def test_a_spoiled_sequence_is_found(tmp_path):
    path, lines = tmp_path / "sequences", []
    with open(path, "w") as out:
        sequences.write(SEED, 50, out)
    for text in path.read_text().splitlines():
        lines.append(json.loads(text))
    lines[17]["ops"][-1]["want"] = "0" * 64
    path.write_text("".join(json.dumps(sequence) + "\n" for sequence in lines))
    done = run_sequences(path)
    assert done.returncode != 0, f"a wrong digest was not seen; {AGAIN}"
    assert "1 of 50 sequences differ" in done.stdout, done.stdout[-5_000:]


LAYOUTS = [[(1, 300)], [(1, 240), (10, 120)], [(2, 300), (20, 60), (60, 120)],
           [(5, 60), (30, 30), (300, 40), (600, 60)], [(60, 10), (120, 60)],
           [(1, 6), (6, 5), (30, 4)]]


def some_points(dice, name, archives, now):
    """A batch as the library's sequences have them: runs, gaps, edges of archives, the future."""
    times = []
    while not times:
        times = sequences.draw_times(dice, archives, now)
        if sequences.overruns(archives[0], times, now):
            times = [t for t in times if t <= now]
    # Halves: sums of them are the same in any Python.
    return [(name, dice.randrange(-40, 41) / 2, t) for t in times]


def one_point(dice, name, archives, now, number):
    """A point that the finest archive covers, with a value that no earlier one has."""
    step, points = archives[0]
    age = dice.choice([0, 0, -1, dice.randrange(step * points + 1), step * points])
    return (name, 1000 * number + dice.randrange(40) / 2, now - age)


def metrics(dice):
    """{name: (archives, method, xff)}: four metrics of each of forty rules."""
    found = {}
    for group in range(48):
        rule = (LAYOUTS[group % len(LAYOUTS)], sequences.METHODS[group % len(sequences.METHODS)],
                dice.choice(sequences.X_FILES_FACTORS))
        found.update({f"fuzz.g{group}.m{metric}": rule for metric in range(4)})
    return found


def pattern(name):
    """Of the rule of a metric."""
    return name.rsplit(".", 1)[0].replace(".", r"\.") + r"\."


@check(bug="first-duplicate-wins", sees="incomplete|other bytes")
def test_random_batches_through_the_node(start, tmp_path, monkeypatch):
    """Batches that the node writes as it stops, then points that it writes while it runs, each at
    a time that the clock is set to: the node and whisper work at the same second."""
    dice, clock = random.Random(SEED), Clock(monkeypatch, tmp_path)
    found = metrics(dice)
    firsts = [(name, *rule) for name, rule in found.items() if name.endswith(".m0")]
    schemas = [(name, pattern(name), ",".join(f"{step}:{points}" for step, points in archives))
               for name, archives, _, _ in firsts] + [("rest", ".*", "1s:10m")]
    methods = [(name, pattern(name), xff, method) for name, _, method, xff in firsts]
    references = {name: tmp_path / f"{name}.reference" for name in found}
    for name, (archives, method, xff) in found.items():
        whisper.create(str(references[name]), list(archives), xff, method)

    def assert_same(turn):
        for name, reference in references.items():
            try:
                assert_same_file(node, name, reference)
            except (AssertionError, FileNotFoundError) as failure:
                raise AssertionError(f"{failure}, turn {turn}; {AGAIN}") from None

    node, clock.now = None, 1_700_000_000 + dice.randrange(1 << 20)
    for turn in range(3):
        clock.set(clock.now + dice.choice([1, 7, 300, 4000]))
        node = start(data=node and node.data, schemas=schemas, aggregation=methods,
                     whisper=FAR_FLUSH)
        batches = {name: some_points(dice, name, found[name][0], clock.now) for name in found}
        points = [point for batch in batches.values() for point in batch]
        node.send(points)
        last = {(name, timestamp): value for name, value, timestamp in points}
        wait_for_points(node, [(name, value, t) for (name, t), value in last.items()])
        node.stop()
        for name, reference in references.items():
            write_alone(reference, batches[name], clock.now)
        assert_same(turn)

    node = start(data=node.data, schemas=schemas, aggregation=methods,
                 whisper={"flush-interval": "1s"})
    for turn in range(3, 9):
        clock.set(clock.now + dice.choice([1, 1, 10, 61, 900]))
        points = {name: one_point(dice, name, found[name][0], clock.now, turn) for name in found}
        node.send(list(points.values()))
        for name, (_, value, timestamp) in points.items():
            whisper.update_many(str(references[name]), [(timestamp, value)], clock.now)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert_same(turn)
                break
            except AssertionError:
                # Not written yet, if it is not wrong.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    node.stop()
    assert_same("after the last")
