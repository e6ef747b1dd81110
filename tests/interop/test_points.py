"""Times and values that are no good, and datagrams: floods and cuts."""

import math
import time

import wire
from checks import Probe, check, wait_for_points, wait_until

NOW = int(time.time())
BAD_TIMES = {"milliseconds": NOW * 1000, "year_3000": 32503680000, "wrapped": NOW + 2**32,
             "negative": -5, "infinite": "inf", "minus_infinite": "-inf", "nan": "nan",
             "huge": "1e300", "past_2038": 2**31 + 86400 * 365, "sixty_four_bits": 2**64,
             "in_a_day": NOW + 86_400}


@check(bug="wrap-timestamps", sees="readable")
def test_row_40_impossible_timestamps(start):
    node = start(schemas=[("times", r"^time\.", "60s:4h"), ("all", ".*", "1s:10m")],
                 whisper={"flush-interval": "1s"})
    minute = int(time.time()) // 60 * 60
    early = [minute - 60 * age for age in range(30)]
    late = [minute - 60 * age for age in range(230)]
    wanted = {}
    with Probe(node) as probe:
        for kind, bad in BAD_TIMES.items():
            # A bad point first, in a file of its own making; and after the good ones.
            with wire.connect(node.port("line")) as connection:
                connection.sendall(f"time.first_{kind} 666 {bad}\n".encode())
            node.send([(f"time.last_{kind}", 1, timestamp) for timestamp in late])
            wanted[f"time.first_{kind}"], wanted[f"time.last_{kind}"] = early, late
        node.reported()
        wait_until(lambda: all(len(node.on_disk(name)) >= 230 for name in wanted
                               if "last" in name), "good points are not in their file")
        for kind, bad in BAD_TIMES.items():
            node.send([(f"time.first_{kind}", 1, timestamp) for timestamp in early])
            wire.send(node.port("line"), f"time.last_{kind} 666 {bad}\n".encode())
            if isinstance(bad, int):
                wire.send(node.port("pickle"), wire.pickled([(f"time.last_{kind}", 666, bad)]))
        wait_until(lambda: all(len(node.on_disk(name)) >= len(times)
                               for name, times in wanted.items()),
                   lambda: "not all good points are readable: " + str(
                       {name: len(node.on_disk(name)) for name, times in wanted.items()
                        if len(node.on_disk(name)) < len(times)}))
        node.reported()
    probe.arrived()
    node.stop()
    for name, times in wanted.items():
        found = node.on_disk(name)
        readable = sum(found.get(timestamp) == 1 for timestamp in times)
        assert readable == len(times), f"{readable} of {len(times)} readable in {name}"


VALUES = ["1", "-1", "1.5", ".5", "5.", "1e3", "1E3", "+7", "-0.0", "1e-400", "0" * 30 + "1",
          "1e400", "-1e400", "inf", "-inf", "Infinity", "nan", "NaN", "-nan", "0x10", "0x1p3",
          "1_000", "1__0", "_1", "1,5", "1.5.5", "--1", "e5", "1e", "true", "none",
          "\u0661\u0662", "\uff11\uff12", "1\u00a0", "\u2212" + "1", "1f", "1d", "0b1", "1 "]
NUMBERS = {"1": 1, "-1": -1, "1.5": 1.5, ".5": 0.5, "1e3": 1000, "1E3": 1000, "+7": 7, "-0.0": 0}
REFUSED = ["nan", "NaN", "-nan", "1,5", "1.5.5", "--1", "e5", "1e", "true", "none", "0x10", "1f",
           "0b1", "\u0661\u0662", "\uff11\uff12", "\u2212" + "1"]


@check(bug="nan-kept", sees="is kept")
def test_row_41_one_table_of_values(start):
    node = start(whisper={"flush-interval": "1h"})
    texts = dict(enumerate(VALUES))
    with Probe(node) as probe:
        for number, text in texts.items():
            node.send([(f"value.line{number}", text, NOW)])
            wire.send_udp(node.port("udp"), [wire.line(f"value.udp{number}", text, NOW)])
            # One message each: some decoders refuse a whole message for one item.
            wire.send(node.port("pickle"), wire.pickled([(f"value.text{number}", text, NOW)]))
        floats = {"nan": math.nan, "inf": math.inf, "minus_inf": -math.inf}
        for label, value in floats.items():
            wire.send(node.port("pickle"), wire.pickled([(f"value.float_{label}", value, NOW)]))
        node.send([("value.done", 1, NOW)])
        wait_for_points(node, [("value.done", 1, NOW)])
        node.reported()
    probe.arrived()
    names = [f"value.{kind}{number}" for number in texts for kind in ("line", "udp", "text")]
    found = node.cached_of(names + [f"value.float_{label}" for label in floats])
    table = {}
    for number, text in texts.items():
        line, udp, pickled = (found[f"value.{kind}{number}"].get(NOW)
                              for kind in ("line", "udp", "text"))
        table[text] = line
        line, udp, pickled = repr(line), repr(udp), repr(pickled)  # NaN differs from itself
        assert line == udp, f"{text!r} is {line} by TCP and {udp} by UDP"
        if text.strip() == text and text.isascii():
            assert line == pickled, f"{text!r} is {line} as a line and {pickled} as a pickle"
    for text, value in NUMBERS.items():
        assert table[text] == value, f"{text!r} is read as {table[text]}"
    for text in REFUSED:
        assert table[text] is None, f"{text!r} is kept as {table[text]}"
    assert not found["value.float_nan"], "a NaN from a pickle is kept"
    assert bool(found["value.float_inf"]) == (table["inf"] is not None), "inf depends on the port"


@check(bug="udp-silent", sees="unaccounted")
def test_row_42_flood_of_datagrams(start):
    node = start(schemas=[("carbon", "^carbon", "1s:10m"), ("all", ".*", "1s:1h")],
                 whisper={"flush-interval": "1s"})
    count = 180_000 if start.real else 20_000
    names = [f"flood.m{metric}" for metric in range(500)]
    node.reported()
    before = node.dropped_sum()
    with Probe(node) as probe:
        # One point a datagram, so that a datagram the kernel drops is a point.
        wire.send_udp(node.port("udp"), (
            wire.line(names[number % 500], number, NOW - 400 + number // 500)
            for number in range(count)))
        nudges = []

        def stored():
            return sum(len(points) for points in node.points_of(names).values())

        def lost():
            return count - stored() - (node.dropped_sum() - before)

        def accounted():
            # The kernel tells about its drops with the next datagram.
            wire.send_udp(node.port("udp"), [wire.line("flood_end.m", 1, NOW)])
            nudges.append(1)
            return -len(nudges) <= lost() <= 0

        wait_until(accounted, lambda: f"{lost()} of {count} points unaccounted for: stored "
                   f"{stored()}, dropped {node.dropped()}", 60)
    probe.arrived()
    node.assert_memory(96 << 20, "by a flood of datagrams")


@check(bug="udp-cut-accepted", sees="cut")
def test_row_43_datagram_cut_in_a_line(start):
    node = start()
    whole = b"cut.m%d 123 " + str(NOW).encode() + b"\n"
    good, datagrams = [], []
    for number, keep in enumerate([1, 4, 7, 9, 11, 13, 14, 20]):
        good.append((f"cut.whole{number}", number, NOW))
        datagrams.append(wire.line(*good[-1]) + (whole % number)[:keep])
    with Probe(node) as probe:
        wire.send_udp(node.port("udp"), datagrams)
        wait_for_points(node, good, "the whole lines of a datagram with a cut one")
        node.reported()
        wait_until(lambda: all(node.path(name).exists() for name, _, _ in good), "no files")
    probe.arrived()
    node.stop()
    made = [path.stem for path in (node.data / "cut").iterdir() if "whole" not in path.name]
    assert not made, f"a line that was cut is stored: {made}"
