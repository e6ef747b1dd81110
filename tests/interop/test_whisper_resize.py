"""`carbyne whisper resize`: one file byte for byte as whisper-resize.py leaves it, and a tree as a
model in a few lines of Python says.

`SEED=n tests/run -k whisper_resize` repeats a run.
"""

import contextlib
import io
import json
import os
import pathlib
import random
import runpy
import shutil
import struct
import subprocess
import sys
import time

import whisper

import sequences
from checks import wait_for_points, wait_until
from node import real_command
from test_whisper_files import slots

SEED = int(os.environ.get("SEED") or random.randrange(1 << 32))
AGAIN = f"again with: SEED={SEED} tests/run -k whisper_resize"
FILES = 200
TREE_FILES = 60
TOOL = pathlib.Path(sys.executable).parent / "whisper-resize.py"


def run(*arguments):
    return subprocess.run(real_command() + ["whisper", *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def python_resize(monkeypatch, now, *arguments):
    """whisper-resize.py in this process, so that its clock can be set; gives what it prints."""
    monkeypatch.setattr(time, "time", lambda: now + 0.5)
    monkeypatch.setattr(sys, "argv", ["whisper-resize.py", *map(str, arguments)])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            runpy.run_path(str(TOOL), run_name="__main__")
        except SystemExit as end:
            assert not end.code, f"whisper-resize.py ends with {end.code}"
        finally:
            monkeypatch.undo()
    return printed.getvalue()


def our_text(printed, theirs, ours):
    """What whisper-resize.py printed, as we print it: with our names; without the lists that it
    prints of every timestamp when it aggregates; and without the copy that we do not make."""
    printed = printed.replace(str(theirs) + ".tmp", str(ours) + ".carbyne-resize")
    printed = printed.replace(str(theirs).replace(".theirs", ".their-new"),
                              str(ours).replace(".wsp", ".new"))
    lines = printed.replace(str(theirs), str(ours)).splitlines(keepends=True)
    if any(line.startswith("Unlinking backup") for line in lines):
        lines = [line for line in lines if ".bak" not in line]
    return "".join(line for line in lines
                   if not line.startswith(("oldtimestamps", "timepoints_to_update", "(")))


def some_layout(dice):
    while True:
        archives = sequences.layout(dice)
        if archives[-1][0] * archives[-1][1] < 1 << 24 and sum(p for _, p in archives) < 2000:
            return archives


def some_file(dice, path, archives, now, kind="halves", method=None, xff=None):
    """A file with a few batches in it, the last of them near `now`."""
    whisper.create(str(path), archives, dice.choice(sequences.X_FILES_FACTORS) if xff is None
                   else xff, method or dice.choice(sequences.METHODS))
    reach = archives[-1][0] * archives[-1][1]
    for back in sorted((dice.randrange(reach) for _ in range(4)), reverse=True):
        then = now - back
        times = [t for t in sequences.draw_times(dice, archives, then) if t <= then]
        whisper.update_many(str(path), [(t, sequences.value(dice, kind)) for t in times], then)


def text_of(archives):
    return [f"{step}:{points}" for step, points in archives]


def test_one_file_as_whisper_resize_leaves_it(tmp_path, monkeypatch):
    dice = random.Random(SEED)
    for number in range(FILES):
        now = 1_700_000_000 + dice.randrange(1 << 16)
        ours, theirs = tmp_path / f"{number}.wsp", tmp_path / f"{number}.theirs"
        old, new = some_layout(dice), some_layout(dice)
        some_file(dice, ours, old, now, dice.choice(["halves", "floats", "wild"]))
        before = ours.read_bytes()
        shutil.copy(ours, theirs)
        options = ["--aggregate"] if dice.random() < 0.5 else []
        if dice.random() < 0.3:
            options += ["--xFilesFactor", dice.choice([0, 0.1, 0.3, 0.5, 1])]
        if dice.random() < 0.3:
            options += [f"--aggregationMethod={dice.choice(sequences.METHODS)}"]
        ending = dice.choice([[], ["--nobackup"], ["--newfile"], ["--force"]])
        our_end = ending + [tmp_path / f"{number}.new"] if ending == ["--newfile"] else ending
        their_end = ending + [tmp_path / f"{number}.their-new"] if our_end != ending else ending
        printed = python_resize(monkeypatch, now, theirs, *text_of(new), *options, *their_end)
        done = run("resize", ours, *text_of(new), *options, *our_end, "--now", now)
        told = f"file {number}, {old} to {new}, {options}, {ending}; {AGAIN}"
        assert done.returncode == 0, f"{done.stderr}: {told}"
        assert done.stdout == our_text(printed, theirs, ours), told
        pairs = [(ours, theirs), (f"{ours}.bak", f"{theirs}.bak"), (our_end[-1:], their_end[-1:])]
        for our, their in pairs:
            if isinstance(our, list):
                if our_end == ending:
                    continue
                our, their = our[0], their[0]
            our, their = pathlib.Path(our), pathlib.Path(their)
            assert our.exists() == their.exists(), f"{our.name}: {told}"
            if our.exists() and our.read_bytes() != their.read_bytes():
                differing = [[s for s in a if s not in b][:3] + [s for s in b if s not in a][:3]
                             for (_, a), (_, b) in zip(slots(our.read_bytes()),
                                                       slots(their.read_bytes()))]
                raise AssertionError(f"{our.name} has other bytes: {told}: {differing}")
        if our_end != ending:
            assert ours.read_bytes() == before, told


def known(path):
    """[(step, slots, {interval: value})] of a file."""
    raw = path.read_bytes()
    found = []
    for index in range(struct.unpack_from("!L", raw, 12)[0]):
        offset, step, points = struct.unpack_from("!3L", raw, 16 + 12 * index)
        ring = struct.iter_unpack("!Ld", raw[offset:offset + 12 * points])
        found.append((step, points, {time: value for time, value in ring if time}))
    return found


def migrated(old, archives, method, xff, now):
    """What each new archive must hold, [{interval: value}]: see src/whisper/migrate.rs."""
    old = [(step, {t: v for t, v in values.items() if t >= now - step * points})
           for step, points, values in old]
    xff = struct.unpack("!f", struct.pack("!f", xff))[0]

    def window(values, step, start, end):
        return [values.get(t) for t in range(-(-start // step) * step, end, step)]

    def one(time, step):
        same = [values for other, values in old if other == step]
        if same and time in same[0]:
            return same[0][time]
        finer = [pair for pair in old if pair[0] < step]
        if finer:
            all_values = window(finer[-1][1], finer[-1][0], time, time + step)
            values = [value for value in all_values if value is not None]
            if values and len(values) / len(all_values) >= xff:
                return whisper.aggregate(method, values, all_values)
        for at, (other, values) in enumerate(old):
            first = -(-time // other) * other
            if other > step and first < time + step and first in values:
                if not any(value is not None for finer_step, finer_values in old[:at]
                           for value in window(finer_values, finer_step, first, first + other)):
                    return values[first]
        return None

    found = []
    for step, points in archives:
        newest = now - now % step
        times = range(newest - (points - 1) * step, newest + 1, step)
        found.append({time: one(time, step) for time in times if one(time, step) is not None})
    return found


def test_a_tree_as_the_model_says(tmp_path):
    dice = random.Random(SEED)
    now = 1_700_000_000 + dice.randrange(1 << 16)
    tree, before, rules, methods, wanted = tmp_path / "tree", {}, "", "", {}
    for number in range(TREE_FILES):
        path = tree / f"group{number % 7}" / f"m{number}.wsp"
        path.parent.mkdir(parents=True, exist_ok=True)
        some_file(dice, path, some_layout(dice), now)
        new, method = some_layout(dice), dice.choice(sequences.METHODS)
        xff = dice.choice(sequences.X_FILES_FACTORS)
        pattern = rf"\.m{number}$"
        rules += f"[r{number}]\npattern = {pattern}\nretentions = {','.join(text_of(new))}\n"
        methods += (f"[r{number}]\npattern = {pattern}\nxFilesFactor = {xff}\n"
                    f"aggregationMethod = {method}\n")
        before[path], wanted[path] = known(path), (new, method, xff)
    schemas, aggregation = tmp_path / "schemas", tmp_path / "aggregation"
    schemas.write_text(rules)
    aggregation.write_text(methods)
    arguments = ["resize", tree, "--schemas", schemas, "--aggregation", aggregation, "--json",
                 "--now", now, "--jobs", 2]
    done = run(*arguments)
    assert done.returncode == 0, f"{done.stderr}{done.stdout}; {AGAIN}"
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["resized"] + counts["fit"] == TREE_FILES, counts
    for path, (new, method, xff) in wanted.items():
        info = whisper.info(str(path))
        told = f"{path.name}, {before[path]} to {new} {method} {xff} at {now}; {AGAIN}"
        assert info["aggregationMethod"] == method, told
        assert [(a["secondsPerPoint"], a["points"]) for a in info["archives"]] == new, told
        got = [values for _, _, values in known(path)]
        assert got == migrated(before[path], new, method, xff, now), told
        # Bases and slots are where whisper looks for them.
        for step, points in new:
            (start, end, _), values = whisper.fetch(str(path), now - step * points, now, now,
                                                    f"{step}s")
            wanted_values = got[[a[0] for a in new].index(step)]
            read = {t: v for t, v in zip(range(start, end, step), values) if v is not None}
            assert read == {t: v for t, v in wanted_values.items() if t >= start}, told
    counts = json.loads(run(*arguments).stdout.splitlines()[-1])
    assert (counts["resized"], counts["fit"]) == (0, TREE_FILES), "the second run does nothing"


def test_no_point_is_lost_under_a_running_node(start, tmp_path):
    """The node writes every second while its tree is resized again and again."""
    node = start(whisper={"flock": True, "flush-interval": "1s"})
    first = int(time.time())
    names = [f"busy.m{number}" for number in range(300)]
    node.send([(name, 0, first) for name in names])
    wait_for_points(node, [(name, 0, first) for name in names])
    wait_until(lambda: all(node.path(name).exists() for name in names), "files are missing")
    schemas, sent, resized, turn = tmp_path / "schemas", [], 0, 0
    # Eight seconds, or on a busy machine as long as it takes to resize each file five times.
    begun = time.monotonic()
    while time.monotonic() < begun + (8 if resized > 5 * len(names) else 120) and turn < 600:
        schemas.write_text(f"[all]\npattern = ^busy\nretentions = 1s:{1 + turn % 3}h,1m:1d\n")
        points = [(name, turn, first - 3000 + 4 * turn + second)
                  for second in range(4) for name in names]
        node.send(points)
        sent += points
        done = run("resize", node.data, "--schemas", schemas, "--json")
        assert done.returncode == 0, done.stderr + done.stdout[-2000:]
        resized += json.loads(done.stdout.splitlines()[-1])["resized"]
        turn += 1
    wait_for_points(node, sent)
    node.stop()
    assert resized > 5 * len(names), f"only {resized} files were resized"
    lost = sum(node.on_disk(name).get(t) != value for name, value, t in sent)
    assert lost == 0, f"{lost} of {len(sent)} points are lost"


# The fake node has no writer of its own that would lock.
test_no_point_is_lost_under_a_running_node.runs = [("carbyne", None)]
