"""`carbyne whisper` beside Python whisper's tools: the same output, and the same bytes in files.

Every test runs twice: as it is, where it must pass, and with what the command printed or wrote
damaged by one byte, where it must fail. The clock of the Python tools stands still half a second
after `NOW`, which `--now` says to ours. Both work on files of the same names in folders of their own.
"""

import functools
import inspect
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import time

import django
import pytest
import whisper

from checks import wait_for_points

django.setup()

from graphite.readers.utils import merge_with_cache  # noqa: E402  (needs django.setup)

NOW = 1_700_000_000
METHODS = ["average", "sum", "last", "max", "min", "avg_zero", "absmax", "absmin"]
SCRIPTS = {"set-xff": "set-xfilesfactor", "set-aggregation": "set-aggregation-method"}
TAKES_NOW = {"fetch", "update", "merge", "fill", "diff"}
FROZEN = """
import runpy, sys, time
now = float(sys.argv[1])
time.time = lambda: now
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def seen(function):
    """Runs a test with and without damage; damaged, one of its comparisons must see it."""
    @pytest.mark.parametrize("damage", [None, "output", "files"])
    @functools.wraps(function)
    def run(tmp_path, damage, **others):
        sides = Sides(tmp_path, damage)
        if damage is None:
            return function(sides, **others)
        try:
            function(sides, **others)
        except Damaged:
            return None
        if sides.compared[damage]:
            pytest.fail(f"the test passes although the {damage} are damaged")
        return None
    # pytest reads the names of fixtures from the signature of what was wrapped.
    del run.__wrapped__
    run.__signature__ = signature_of(function)
    return run


def signature_of(function):
    signature = inspect.signature(function)
    names = ["tmp_path", "damage", *list(signature.parameters)[1:]]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


class Damaged(AssertionError):
    """A comparison saw a difference."""


class Sides:
    """Our command and the Python tool, each in a folder of its own."""

    def __init__(self, home, damage):
        self.ours, self.theirs, self.damage = home / "ours", home / "theirs", damage
        self.compared = {"output": 0, "files": 0}
        self.ours.mkdir()
        self.theirs.mkdir()

    def our_run(self, command, *arguments, stdin="", now=NOW):
        program = os.environ["CARBYNE_BIN"]
        clock = ["--now", str(now)] if command in TAKES_NOW else []
        return run([program, "whisper", command, *clock, *arguments], self.ours, stdin)

    def their_run(self, command, *arguments, stdin="", now=NOW):
        script = pathlib.Path(sys.executable).parent / f"whisper-{SCRIPTS.get(command, command)}.py"
        python = [sys.executable, "-c", FROZEN, str(now + 0.5), str(script)]
        return run([*python, *arguments], self.theirs, stdin)

    def both(self, command, *arguments, stdin="", now=NOW):
        """Runs both; output and status must be the same, and so must all files afterwards."""
        arguments = [str(argument) for argument in arguments]
        ours = self.our_run(command, *arguments, stdin=stdin, now=now)
        theirs = self.their_run(command, *arguments, stdin=stdin, now=now)
        assert theirs.returncode == 0, theirs.stderr
        assert (ours.returncode, ours.stderr) == (0, ""), f"{command} {arguments}"
        self.compared["output"] += bool(ours.stdout)
        ours_text = ours.stdout[:-1] if self.damage == "output" else ours.stdout
        if ours_text != theirs.stdout:
            raise Damaged(f"{command} {arguments} printed\n{ours_text}for\n{theirs.stdout}")
        self.same_files(f"{command} {arguments}")
        return ours.stdout

    def same_files(self, after):
        names = sorted(path.name for path in self.theirs.iterdir())
        assert sorted(path.name for path in self.ours.iterdir()) == names, after
        for name in names:
            ours, theirs = (self.ours / name).read_bytes(), (self.theirs / name).read_bytes()
            self.compared["files"] += 1
            if self.damage == "files":
                ours = ours[:-1] + bytes([ours[-1] ^ 1])
            if ours != theirs:
                raise Damaged(f"{name} differs after {after}: {difference(ours, theirs)}")

    def write(self, name, write):
        """Makes the same file on both sides with the library."""
        for folder in (self.ours, self.theirs):
            write(str(folder / name))


def run(command, folder, stdin):
    environment = {**os.environ, "TZ": "Europe/Berlin", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, cwd=folder, input=stdin, env=environment, text=True,
                          capture_output=True, timeout=120)


def difference(ours, theirs):
    if len(ours) != len(theirs):
        return f"{len(ours)} bytes for {len(theirs)}"
    at = [place for place, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    return f"{len(at)} bytes, the first at {at[0]}: {ours[at[0]:][:12].hex()}"


def halves(dice, ages):
    """Sums of halves are exact in any order and in any Python."""
    return [(NOW - age, dice.randrange(-40, 41) / 2) for age in ages]


def made(sides, name, retentions, points=(), method="average", xff=0.3):
    archives = [whisper.parseRetentionDef(part) for part in retentions.split()]

    def write(path):
        whisper.create(path, list(archives), xFilesFactor=xff, aggregationMethod=method)
        whisper.update_many(path, list(points), now=NOW)
    sides.write(name, write)


@pytest.mark.parametrize("method", METHODS)
@seen
def test_a_file_through_all_that_changes_it(sides, method):
    dice = random.Random(method)
    sides.both("create", "--xFilesFactor", 0.2, "--aggregationMethod", method,
               "a.wsp", "1s:5min", "10:60", "1min:1hour")
    for age in (0, 1, 59, 300, 301, 599, 600, 3599):
        sides.both("update", "a.wsp", f"{NOW - age}:{age - 17.5}")
    for _ in range(3):
        ages = [dice.randrange(-20, 3601) for _ in range(dice.randrange(2, 60))]
        points = [f"{time}:{value}" for time, value in halves(dice, ages)]
        sides.both("update", "a.wsp", *points)
        sides.both("update", "a.wsp", stdin="\n".join(reversed(points)))
    sides.both("set-xff", "a.wsp", 0.7)
    sides.both("set-aggregation", "a.wsp", "last")
    sides.both("set-aggregation", "a.wsp", method, 0.1)
    for field in ("aggregationMethod", "maxRetention", "xFilesFactor", "archives", "fileSize"):
        sides.both("info", "a.wsp", field)
    for options in ([], ["--json"]):
        sides.both("info", *options, "a.wsp")
    for options in ([], ["--raw"], ["--pretty"], ["-r", "--pretty"]):
        sides.both("dump", *options, "a.wsp")


@pytest.mark.parametrize("method", METHODS)
@seen
def test_merge(sides, method):
    dice = random.Random(method + "merge")
    for number in range(4):
        retentions = ["1s:2m 10s:10m 1m:2h", "10:60", "5s:5min 1min:1hour"][number % 3]
        for name in ("from.wsp", "to.wsp"):
            ages = [dice.randrange(0, 4000) for _ in range(dice.randrange(0, 300))]
            ages += [age for age in range(dice.randrange(100, 600)) if number or name == "to.wsp"]
            made(sides, f"{number}{name}", retentions, halves(dice, ages), method)
        names = [f"{number}from.wsp", f"{number}to.wsp"]
        old = dice.randrange(0, 3000)
        sides.both("merge", "--from", NOW - old, "--until", NOW - old // 2, *names)
        sides.both("merge", "--until", NOW + 77, *names)
        sides.both("merge", *names)
        sides.both("merge", *reversed(names), now=NOW + 1234)


@pytest.mark.parametrize("method", METHODS)
@seen
def test_fill(sides, method):
    dice = random.Random(method + "fill")
    shapes = ["1s:2m 10s:10m 1m:2h", "10:60", "5s:5min 1min:1hour", "1s:1h"]
    for number in range(8):
        for name in ("from.wsp", "to.wsp"):
            ages, age, known = [], 0, True
            while age < 7300:
                length = dice.choice([1, 2, 3, 15, 70, 400])
                ages += range(age, age + length) if known else []
                age, known = age + length, not known
            made(sides, f"{number}{name}", dice.choice(shapes), halves(dice, ages), method)
        names = [f"{number}from.wsp", f"{number}to.wsp"]
        sides.both("fill", *names, now=NOW + dice.choice([0, 0, 1, 61, 599]))
        sides.both("fill", "--lock", *reversed(names))


@seen
def test_create(sides):
    sides.both("create", "plain.wsp", "60:1440")
    sides.both("create", "order.wsp", "1h:7d", "60:1440", "5m:2days")
    sides.both("create", "--sparse", "sparse.wsp", "1s:1d")
    sides.both("create", "--fallocate", "room.wsp", "1s:1d", "--aggregationMethod=absmin")
    sides.both("create", "plain.wsp", "--overwrite", "10s:3y", "--xFilesFactor=1e-3")
    for retentions in (["60:1440"], ["60:1440,1h:7d,1d:9y"], ["1s:40y", "60:1"], ["1s:135y"]):
        sides.both("create", "--estimate", *retentions)
    assert (sides.ours / "sparse.wsp").stat().st_blocks < 64
    assert (sides.ours / "room.wsp").stat().st_blocks >= 2025


@seen
def test_fetch(sides):
    dice = random.Random(5)
    made(sides, "a.wsp", "1s:2m 10s:10m 1m:2h", halves(dice, range(0, 3000, 3)), xff=0)
    made(sides, "empty.wsp", "1s:2m 10s:10m")
    odd = [0.0, -0.0, 1e300, 1.5e-7, math.pi, 12345678901234567890.0, 0.1, -1e15, 1e16]
    made(sides, "odd.wsp", "60:60", [(NOW - 60 * at, value) for at, value in enumerate(odd)])
    kinds = [[], ["--json"], ["--pretty"], ["--drop", "nulls", "--json"], ["-t", "%Y"],
             ["--json", "--drop=empty"], ["--drop", "zeroes", "--json"],
             ["--pretty", "-t", "%Y-%m-%dT%H:%M:%S%z %j"]]
    for name, options_of in (("a.wsp", kinds), ("empty.wsp", kinds[:2]), ("odd.wsp", kinds[:2])):
        for times in ([], ["--from", NOW - 60], ["--from", NOW - 500, "--until", NOW - 100],
                      ["--from", NOW, "--until", NOW], [f"--from={NOW - 100}", "--unt", NOW + 9]):
            for options in options_of:
                sides.both("fetch", *times, *options, name)


def test_fetch_gives_dropped_values_no_time(tmp_path):
    """whisper-fetch.py numbers what is left; we print the times that the values have."""
    sides = Sides(tmp_path, None)
    made(sides, "a.wsp", "60:60", [(NOW - 600, 5.0), (NOW - 60, 7.0)])
    options = ["fetch", "--from", str(NOW - 700), "--drop", "nulls", "a.wsp"]
    ours, theirs = sides.our_run(*options).stdout, sides.their_run(*options).stdout
    whole = sides.our_run("fetch", "--from", str(NOW - 700), "a.wsp").stdout.splitlines()
    assert ours.splitlines() == [line for line in whole if not line.endswith("None")]
    assert [line.split("\t")[1] for line in ours.splitlines()] == ["5.000000", "7.000000"]
    assert [line.split("\t")[1] for line in theirs.splitlines()] == ["5.000000", "7.000000"]
    assert ours != theirs


@seen
def test_dump_of_odd_values(sides):
    odd = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e300, 5e-324, 1.5e-7, 0.1, 1e16, 1e35, 1e34]
    made(sides, "odd.wsp", "60:60", [(NOW - 60 * at, value) for at, value in enumerate(odd)])
    for options in ([], ["--raw"], ["--pretty", "-t", "%d.%m."]):
        sides.both("dump", *options, "odd.wsp")
    text = sides.our_run("dump", "--raw", "odd.wsp").stdout
    points = [line for line in text.splitlines() if not line.startswith("0:")]
    sides.write("again.wsp", lambda path: whisper.create(path, [(60, 60)]))
    sides.both("update", "again.wsp", stdin="\n".join(points))


@seen
def test_diff(sides):
    dice = random.Random(9)
    shape = "1s:2m 10s:10m 1m:2h"
    same = halves(dice, range(0, 3000, 7))
    made(sides, "a.wsp", shape, same + halves(dice, range(0, 1000, 31)))
    made(sides, "b.wsp", shape, same + [(NOW - 77, 0.1), (NOW - 1999, 1e-7), (NOW - 800, -1e22)])
    made(sides, "empty.wsp", shape)
    untils = [[], ["--until", NOW - 50], ["--until", NOW - 700], ["--until", 0]]
    for names, untils_of in ((["a.wsp", "b.wsp"], untils), (["a.wsp", "a.wsp"], [[]]),
                             (["empty.wsp"] * 2, [[]]), (["a.wsp", "empty.wsp"], untils[1:3])):
        for until in untils_of:
            for options in ([], ["--json"], ["--summary"], ["--summary", "--json"],
                            ["--ignore-empty"], ["--columns"], ["--no-headers"],
                            ["--columns", "--no-headers", "--summary"], ["--columns", "--summary"]):
                sides.both("diff", *until, *options, *names)


@pytest.mark.parametrize("method", METHODS)
def test_fetch_with_what_is_not_in_the_file_yet(start, method):
    """A file, and a node that has more; graphite-web lays the one over the other."""
    dice, now = random.Random(method), int(time.time())
    rules = {"schemas": [("all", "^seen", "1s:2m,10s:10m,1m:2h")],
             "aggregation": [("all", ".*", 0.3, method)], "whisper": {"flush-interval": "1h"}}
    node = start(**rules)
    names = [f"seen.m{number}" for number in range(4)]

    def send(ages):
        points = [(name, dice.randrange(-40, 41) / 2, now - age) for name in names for age in ages]
        node.send(points)
        last = {(name, time): value for name, value, time in points}
        wait_for_points(node, [(name, value, time) for (name, time), value in last.items()])
    send(range(100, 3000, 3))
    node.stop()
    node = start(data=node.data, **rules)
    send([dice.randrange(3000) for _ in range(100)])
    compared = 0
    for name in names:
        cached, path = sorted(node.cached(name).items()), node.path(name)
        assert len(cached) > 50
        for old, young in ((60, 0), (115, 20), (500, 100), (590, 0), (3500, 0), (7000, 1000)):
            ends = ["--from", str(now - old), "--until", str(now - young), "--now", str(now)]
            (first, _, step), values = whisper.fetch(str(path), now - old, now - young, now)
            try:
                wanted = merge_with_cache(cached, first, step, values, method, 1)
            except Exception:
                # graphite-web knows no absmax and absmin, and fails.
                assert method.startswith("abs") and step > 1
                continue
            args = ["fetch", "--json", *ends, "--carbonlink", f"127.0.0.1:{node.port('carbonlink')}"]
            by_path = real([*args, str(path.relative_to(node.data))], node.data)
            by_name = real([*args, "--name", name, str(path)], node.home)
            assert by_path == by_name
            assert json.loads(by_path)["values"] == wanted, (name, old, young)
            compared += 1
    assert compared >= 8
    without = json.loads(real(["fetch", "--json", *ends, str(path)], node.home))["values"]
    assert without == whisper.fetch(str(path), now - old, now - young, now)[1]


def real(arguments, folder):
    done = run([os.environ["CARBYNE_BIN"], "whisper", *arguments], folder, "")
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


# The fake node has no command line.
test_fetch_with_what_is_not_in_the_file_yet.runs = [("carbyne", None)]


def test_fetch_says_why_the_cache_does_not_answer(tmp_path):
    sides = Sides(tmp_path, None)
    made(sides, "a.wsp", "60:60", [(NOW - 60, 1.0)])
    for arguments, status, problem in (
            (["a.wsp", "--carbonlink", "127.0.0.1:1"], 1, "127.0.0.1:1: connect: "),
            (["a.wsp", "--carbonlink", "nonsense"], 1, "nonsense: connect: "),
            (["./../a.wsp", "--carbonlink", "127.0.0.1:1"], 1, "use --name"),
            (["a.wsp", "--carbonlink", "127.0.0.1:1", "--name", "x" * 4001], 64, "1 to 4000 bytes")):
        done = sides.our_run("fetch", *arguments)
        assert (done.returncode, done.stdout) == (status, "") and problem in done.stderr, done


@pytest.mark.parametrize("command, text", [
    ("create", ["a.wsp", "60:10", "60:20"]),
    ("create", ["a.wsp", "60:10", "90:20"]),
    ("create", ["a.wsp", "60:20", "120:10"]),
    ("create", ["a.wsp", "60:20"]),
    ("update", ["a.wsp", f"{NOW + 1}:1"]),
    ("update", ["a.wsp", f"{NOW - 3600}:1"]),
    ("update", ["a.wsp", f"{NOW}:one"]),
    ("update", ["missing.wsp", f"{NOW}:1"]),
    ("merge", ["a.wsp", "other.wsp"]),
    ("merge", ["a.wsp", "missing.wsp"]),
    ("fill", ["a.wsp"]),
    ("fetch", ["--until", str(NOW - 7200), "--from", "0", "a.wsp"]),
    ("fetch", ["cut.wsp"]),
    ("info", ["a.wsp", "colour"]),
    ("info", ["missing.wsp"]),
    ("dump", ["missing.wsp"]),
    ("diff", ["a.wsp", "other.wsp"]),
    ("set-xff", ["a.wsp", "1.5"]),
    ("set-aggregation", ["a.wsp", "median"]),
])
def test_both_refuse(tmp_path, command, text):
    """What Python refuses, with words of its own or with a traceback, changes no file here."""
    sides = Sides(tmp_path, None)
    made(sides, "a.wsp", "60:60")
    made(sides, "other.wsp", "60:61")
    sides.write("cut.wsp", lambda path: pathlib.Path(path).write_bytes(b"cut"))
    before = {path.name: path.read_bytes() for path in sides.ours.iterdir()}
    ours, theirs = sides.our_run(command, *text), sides.their_run(command, *text)
    assert theirs.returncode != 0 and ours.returncode in (1, 64), ours
    assert ours.stdout == "" and ours.stderr.startswith("carbyne: "), ours
    assert {path.name: path.read_bytes() for path in sides.ours.iterdir()} == before


def test_json_is_json(tmp_path):
    sides = Sides(tmp_path, None)
    made(sides, "a.wsp", "60:60", [(NOW - 60, math.nan), (NOW - 120, 0.5)])
    made(sides, "b.wsp", "60:60", [(NOW - 60, math.inf)])
    fetched = json.loads(sides.our_run("fetch", "--json", "a.wsp").stdout)
    assert fetched["values"][-3:] == [0.5, None, None]
    dumped = json.loads(sides.our_run("dump", "--json", "a.wsp").stdout)
    assert sorted(slot for slot in dumped["archives"][0]["slots"] if slot[1])[0][2] == 0.5
    points = json.loads(sides.our_run("diff", "--json", "a.wsp", "b.wsp").stdout)
    assert points["archives"][0]["points"] == 2
    for command, arguments, key, value in (
            ("create", ["c.wsp", "60:60"], "fileSize", 748),
            ("create", ["--estimate", "60:60"], "diskSize", 4096),
            ("update", ["c.wsp", f"{NOW}:1"], "pointsUsed", 1),
            ("merge", ["a.wsp", "c.wsp"], "pointsWritten", 2),
            ("fill", ["a.wsp", "c.wsp"], "pointsWritten", 1),
            ("set-xff", ["c.wsp", "0.25"], "old", 0.5),
            ("set-aggregation", ["c.wsp", "max"], "old", "average")):
        answer = json.loads(sides.our_run(command, "--json", *arguments).stdout)
        assert answer[key] == value, (command, answer)
