"""Metric names from strangers: paths, aliases, control characters, depth."""

import os
import pickle
import subprocess
import time

import wire
from checks import Probe, check, wait_for_points, wait_until

NOW = int(time.time())
UNWRITTEN = 75  # how the node ends when points of a link that is not followed are left over


def tree(root, without):
    """All files and directories under `root` except the node's own."""
    found = set()
    for directory, names, files in os.walk(root):
        if without in directory:
            continue
        found.update(os.path.join(directory, name) for name in names + files)
    return {path for path in found if without not in path}


ESCAPES = ["../../escape.x", "../../../../../../escape.y", "a/../../../escape.z",
           "/tmp/../escape.abs", "..%2f..%2fescape", "a..../escape.dots", "./../escape.dot",
           "linked.escape", "linked.deep.escape", ";../../=escape", "t;../../a=../../../escape"]


@check(bug="slash-names", sees="outside")
def test_row_36_no_way_out_of_the_data_directory(start, tmp_path):
    node = start.make()
    node.data.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (node.data / "linked").symlink_to(outside)
    node.allowed_errors, node.status_at_stop = "linked|escape|could not be written", UNWRITTEN
    node.start()
    before = tree(tmp_path, str(node.home))
    absolute = f"{outside}/absolute"
    with Probe(node) as probe:
        for name in ESCAPES + [absolute]:
            wire.send(node.port("line"), wire.line(name, 1, NOW))
            wire.send(node.port("pickle"), wire.pickled([(name, 1, NOW)]))
            wire.send_udp(node.port("udp"), [wire.line(name, 1, NOW)])
        node.send([("names.done", 1, NOW)])
        wait_until(lambda: node.path("names.done").exists(), "no file for names.done")
        node.reported()
    probe.arrived()
    node.stop()
    new = tree(tmp_path, str(node.home)) - before
    assert not new, f"outside the data directory: {new}"
    beside = [path for path in node.home.rglob("*escape*") if node.data not in path.parents]
    assert not beside, f"outside the data directory: {beside}"


ALIASES = [("alias..double", "alias.double"), ("alias/slash", "alias.slash"),
           (".alias.leading", "alias.leading"), ("alias...many", "alias.many"),
           ("/alias.root", "alias.root"), ("alias./mixed", "alias.mixed")]


@check(bug="alias-keys", sees="second name")
def test_row_37_one_name_for_one_file(start):
    node = start(whisper={"flush-interval": "1h"})
    for alias, _ in ALIASES:
        node.send([(alias, 1, NOW)])
    node.send([("names.done", 1, NOW)])
    wait_for_points(node, [("names.done", 1, NOW)])
    node.reported()
    cached = node.cached_of([name for pair in ALIASES for name in pair])
    for alias, canonical in ALIASES:
        if not cached[canonical]:
            assert not cached[alias], f"{alias} is a second name for the file of {canonical}"
    kept = sum(bool(cached[canonical]) for _, canonical in ALIASES)
    assert kept + node.dropped_sum() >= len(ALIASES), "a refused name is not counted"
    node.stop()
    for alias, canonical in ALIASES:
        if not cached[canonical]:
            assert not node.path(canonical).exists(), f"{alias} is a second name: {canonical}"


BAD_NAMES = [b"bad.\0nul", b"\0", b"bad.\x01control", b"bad.\x1b[2Jescape", b"bad.\x7fdelete",
             b"bad.\xff\xfeutf8", b"bad.\xc3", b"bad.\xed\xa0\x80surrogate",
             b"bad." + b"c" * 252, b"bad." + b"c." * 2100, b"bad." + "\u00e9".encode() * 130,
             b"bad.\xc0\xaeoverlong"]


@check(bug="bad-utf8-closes", sees="connection")
def test_row_38_unusable_names(start):
    node = start()
    node.reported()
    before = node.dropped_sum()
    good = []
    with Probe(node) as probe:
        with wire.connect(node.port("line")) as connection:
            for number, name in enumerate(BAD_NAMES):
                good.append((f"good.after{number}", number, NOW))
                try:
                    connection.sendall(name + b" 1 %d\n" % NOW + wire.line(*good[-1]))
                except OSError:
                    raise AssertionError(f"a bad name closed the connection: {name[:20]}") from None
            wait_for_points(node, good, "the connection is not usable after a bad name")
        for name in BAD_NAMES:
            text = name.decode(errors="surrogateescape")
            try:
                item = pickle.dumps([(text, (NOW, 1))], protocol=2)
            except UnicodeEncodeError:
                item = b"(lp0\n(S'" + name.replace(b"\0", b"\\x00") + b"'\n(I%d\nF1\nttp1\na." % NOW
            wire.send(node.port("pickle"), wire.frame(item))
        wire.send_udp(node.port("udp"), [name + b" 1 %d\n" % NOW for name in BAD_NAMES])
    probe.arrived()
    node.reported()
    counted = node.dropped_sum() - before
    assert counted >= 2 * len(BAD_NAMES), f"only {counted} bad names are counted"
    assert not (node.data / "bad").exists(), "a file for a bad name"
    assert node.log().count("\n") < 100, "a line in the log for each bad name"


@check(bug="deep-names", sees="directories")
def test_row_39_very_deep_names(start):
    node = start()
    depth = 1899 if start.real else 200
    deep = [f"deep{number}." + "d." * depth + "end" for number in range(20)]
    with Probe(node) as probe:
        for name in deep:
            wire.send(node.port("line"), wire.line(name, 1, NOW))
        wire.send(node.port("pickle"), wire.pickled([(name, 1, NOW) for name in deep]))
        node.send([("deepest." + "d." * 60 + "end", 1, NOW)])
        wait_until(lambda: (node.data / "deepest").exists(), "62 components are refused")
        node.reported()
    probe.arrived()
    # `find` walks any depth; Python's own walk would not.
    made = subprocess.run(["find", str(node.data), "-type", "d", "-path", "*/deep[0-9]*"],
                          capture_output=True, check=True).stdout.count(b"\n")
    assert made == 0, f"{made} directories for names that are too deep"
