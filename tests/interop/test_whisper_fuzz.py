"""Files: random updates leave what Python whisper leaves, in the library and through the node.

`SEED=n tests/run -k whisper_fuzz` repeats a run, `SEQUENCES=n` sets its length. The node's clock
cannot be set, so there only the batches repeat, at other times.
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
from test_whisper_files import FAR_FLUSH, assert_same_file, batch_of

ROOT = pathlib.Path(__file__).parents[2]
SEED = int(os.environ.get("SEED") or random.randrange(1 << 32))
AGAIN = f"again with: SEED={SEED} tests/run -k whisper_fuzz"
SEQUENCES = int(os.environ.get("SEQUENCES") or 20_000)


def run_sequences(path):
    environment = {**os.environ, "CARBYNE_SEQUENCES": str(path)}
    return subprocess.run(["cargo", "test", "--test", "whisper_sequences"], cwd=ROOT,
                          env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace")


def test_random_sequences(tmp_path):
    path = tmp_path / "sequences"
    with open(path, "w") as out:
        counts = sequences.write(SEED, SEQUENCES, out)
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"seed {SEED}: {told}")
    done = run_sequences(path)
    assert done.returncode == 0, f"{AGAIN}\n{told}\n{done.stdout[-20_000:]}"


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


# Wide enough that a minute's distance from every edge leaves room: the clock moves on between the
# two writers, and what they must agree on is which archive a point is for.
LAYOUTS = [[(1, 300)], [(1, 240), (10, 120)], [(2, 300), (20, 60), (60, 120)],
           [(5, 60), (30, 30), (300, 40), (600, 60)], [(60, 10), (120, 60)]]
EDGE_S = 60


def some_points(dice, name, archives, now):
    """A batch of which no point is near an edge between archives, nor one run near its ring's end
    because of what lies in the future."""
    reach = min(step * points for step, points in archives) - EDGE_S
    edges = [step * points for step, points in archives]
    times = []
    while not times:
        if dice.random() < 0.6:
            step, length = dice.choice(archives)[0], dice.randrange(1, 80)
            times = [now - step * back for back in range(length)]
        times += [now - dice.randrange(edges[-1] + 600) for _ in range(dice.randrange(30))]
        times += [now - dice.randrange(-20, reach) for _ in range(dice.randrange(10))]
        times = [t for t in times if all(abs(now - t - edge) > EDGE_S for edge in edges)]
    times += dice.choices(times, k=len(times) // 4)
    if dice.random() < 0.5:
        dice.shuffle(times)
    # Halves: sums of them are the same in any Python.
    return [(name, dice.randrange(-40, 41) / 2, t) for t in times]


def metrics(dice):
    """{name: (archives, method, xff)}: four metrics of each of forty rules."""
    found = {}
    for group in range(40):
        rule = (LAYOUTS[group % len(LAYOUTS)], sequences.METHODS[group % len(sequences.METHODS)],
                dice.choice(sequences.X_FILES_FACTORS))
        found.update({f"fuzz.g{group}.m{metric}": rule for metric in range(4)})
    return found


def pattern(name):
    """Of the rule of a metric."""
    return name.rsplit(".", 1)[0].replace(".", r"\.") + r"\."


@check(bug="first-duplicate-wins", sees="incomplete|other bytes")
def test_random_batches_through_the_node(start, tmp_path):
    dice = random.Random(SEED)
    found = metrics(dice)
    firsts = [(name, *rule) for name, rule in found.items() if name.endswith(".m0")]
    schemas = [(name, pattern(name), ",".join(f"{step}:{points}" for step, points in archives))
               for name, archives, _, _ in firsts] + [("rest", ".*", "1s:10m")]
    methods = [(name, pattern(name), xff, method) for name, _, method, xff in firsts]
    node = None
    for turn in range(2):
        node = start(data=node and node.data, schemas=schemas, aggregation=methods,
                     whisper=FAR_FLUSH)
        now = int(time.time())
        batches = {name: some_points(dice, name, found[name][0], now) for name in found}
        points = [point for batch in batches.values() for point in batch]
        node.send(points)
        last = {(name, timestamp): value for name, value, timestamp in points}
        wait_for_points(node, [(name, value, t) for (name, t), value in last.items()])
        node.stop()
        for name, (archives, method, xff) in found.items():
            reference = tmp_path / f"{name}.reference"
            if not reference.exists():
                whisper.create(str(reference), list(archives), xff, method)
            whisper.update_many(str(reference), batch_of(batches[name]))
            try:
                assert_same_file(node, name, reference)
            except AssertionError as failure:
                raise AssertionError(f"{failure}, turn {turn}; {AGAIN}") from None
