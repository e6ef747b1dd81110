"""The canonical workloads. Each function measures one and returns rows of its table.

A row: what, target, value with its spread, and the ratio to the floor where there is one. A node
and its floor are measured in turns, so that what slows the machine down slows both; only the ratio
inside one turn is to be trusted.
"""

import os
import re
import statistics
import subprocess
import time

from machine import (Cgroup, FloorAnswer, Node, SlowDisk, cores, fail, floor, floor_receive,
                     loadgen, probe, resident_bytes, summary, udp_drops)

HOUR = 3600
CACHE_ONLY = 'flush-interval = "1h"'
BUDGET = '[cache]\nmemory-budget = "8GiB"\n'


class Setup:
    """How large, how often, and where."""

    def __init__(self, home, disk, metrics, turns, cold, slots):
        self.disk = disk
        self.home, self.metrics, self.turns, self.cold = home, metrics, turns, cold
        self.slots, self.file_bytes = slots, 40 + 12 * sum(slots)
        # Points of one turn: some seconds of one core.
        self.rounds = max(2, 2_500_000 // metrics)
        # Aligned to the coarser archive, and far enough back for every round to be in the past.
        self.start_s = int(time.time()) // 300 * 300 - 6 * HOUR

    def stream(self, agents, rounds, start_s, step=1, metrics=None):
        """Arguments of the sender: the metrics are the same however many agents there are not."""
        return ["--agents", agents, "--metrics", (metrics or self.metrics) // agents, "--leaves", 10,
                "--rounds", rounds, "--start", start_s, "--step", step]


class Row:
    def __init__(self, what, unit, values, ratios=(), target="", digits=3, note=""):
        self.what, self.unit, self.target, self.digits = what, unit, target, digits
        self.values, self.ratios, self.note = list(values), list(ratios), note

    def cells(self):
        return [self.what, f"{spread(self.values, self.digits)} {self.unit}".strip(),
                f"{spread(self.ratios, 2)} x" if self.ratios else "", self.target, self.note]


def spread(values, digits):
    """The median, with the least and the greatest."""
    if not values:
        return "—"
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def micros(seconds, count):
    return seconds * 1e6 / count


def receive(setup, shards, agents, port="line tcp", more=(), cpus=None, log="off"):
    """One turn: CPU us a point of metrics that are known, points a second, and of the log bytes
    and points."""
    name, protocol = {"line tcp": ("tcp", "line"), "pickle tcp": ("pickle", "pickle")}[port]
    more = ["--protocol", protocol, *more]
    with Node(setup.home / "node", shards, BUDGET, CACHE_ONLY, log=log) as node:
        loadgen(node.ports[port], *setup.stream(agents, 1, setup.start_s), *more)
        node.wait_for(f"accounting.received_{name}", setup.metrics)
        logged = [node.own(f"wal.{what}") for what in ("bytes", "written_points")]
        before, target = node.settle(), node.ports[port]
        rest = setup.stream(agents, setup.rounds, setup.start_s + 1)
        sent = loadgen(target, *rest, *more, cpus=cpus or (cores()[1:] if shards == 1 else None))
        ended = time.monotonic()
        cpu_s = node.settle() - before
        # The kernel still holds some megabytes when the sender is done.
        took_s = sent["seconds"] + node.rest_s(ended)
        node.wait_for(f"accounting.received_{name}", sent["points"] + setup.metrics)
        if log != "off":
            node.wait_for("wal.written_points", logged[1] + sent["points"])
            logged = [node.own(f"wal.{what}") - first
                      for what, first in zip(("bytes", "written_points"), logged)]
        return {"logged": logged,
                "us": micros(cpu_s, sent["points"]), "per_s": sent["points"] / took_s,
                "sender_us": sent["cpu_us_per_point"]}


def floor_a(setup, agents=4):
    counted = floor_receive(*setup.stream(agents, setup.rounds, setup.start_s + 1))
    return {"us": micros(counted["cpu_s"], counted["lines"]),
            "sender_us": counted["sender"]["cpu_us_per_point"]}


def line_one_shard(setup):
    """CPU per received point, 1 shard, 4 connections, cache only"""
    turns = [(receive(setup, 1, 4), floor_a(setup)) for _ in range(setup.turns)]
    return cpu_rows(turns, "≤ 3 x") + [
        Row("sender: CPU per line", "µs", [base["sender_us"] for _, base in turns],
            target="≤ 0.067", digits=4, note="15 M lines/s per core")]


def cpu_rows(turns, target):
    return [
        Row("node: CPU per point", "µs", [node["us"] for node, _ in turns],
            [node["us"] / base["us"] for node, base in turns], target),
        Row("floor (a): receive, count newlines", "µs", [base["us"] for _, base in turns]),
        Row("throughput", "M points/s", [node["per_s"] / 1e6 for node, _ in turns], digits=2)]


def log(setup):
    """What the log adds, 1 shard, 4 connections, cache only, metrics that the log knows"""
    modes = ["off", "process", "power"]
    turns = [{mode: receive(setup, 1, 4, log=mode) for mode in modes} for _ in range(setup.turns)]
    rows = [Row("node: CPU per point, log off", "µs", [turn["off"]["us"] for turn in turns])]
    for mode in modes[1:]:
        rows.append(Row(
            f"node: CPU per point, sync-mode {mode}", "µs", [turn[mode]["us"] for turn in turns],
            [turn[mode]["us"] / turn["off"]["us"] for turn in turns], "≤ 1.25 x of off"))
        volume = [turn[mode]["logged"] for turn in turns]
        rows.append(Row(f"written per point, sync-mode {mode}", "B",
                        [count / points for count, points in volume], target="≤ 14 B", digits=1,
                        note="whole blocks, commits every 50 ms"))
        rows.append(Row(f"throughput, sync-mode {mode}", "M points/s",
                        [turn[mode]["per_s"] / 1e6 for turn in turns], digits=2))
    return rows


def replay(setup):
    """Start after a crash, 1 shard: what the log holds, replayed before the node takes anything"""
    rounds = max(1, 1_000_000 // setup.metrics)
    empty_s, replayed_s, counts = [], [], []
    for _ in range(setup.turns):
        with Node(setup.home / "node", 1, BUDGET, CACHE_ONLY, log="power") as node:
            node.crash()
            node.start()
            empty_s.append(node.cpu_s())
            target = node.ports["line tcp"]
            loadgen(target, *setup.stream(4, rounds, setup.start_s), cpus=cores()[1:])
            node.wait_for("wal.written_points", setup.metrics * rounds)
            node.crash()
            node.start()
            replayed_s.append(node.cpu_s())
            counts.append(replayed_points(node))
    per_million = [(replayed - empty) * 1e6 / count
                   for replayed, empty, count in zip(replayed_s, empty_s, counts)]
    return [
        Row("CPU per million points", "s", per_million, target="≤ 1 s",
            note=f"{rounds} points of each metric; without that of an empty start"),
        Row("CPU of a start with an empty log", "s", empty_s)]


def replayed_points(node):
    """What the node says that it found in its log at its last start."""
    told = re.findall(r"replayed log .* points=([0-9]+)", (node.home / "log").read_text())
    return int(told[-1])


def line_two_shards(setup):
    """CPU per received point, 2 shards, half the points foreign, 4 connections, cache only"""
    turns = [(receive(setup, 2, 4), floor_a(setup)) for _ in range(setup.turns)]
    return cpu_rows(turns, "≤ 4 x")


def pickle(setup):
    """Pickle frames of 500 points, 1 shard, 4 connections, cache only"""
    turns = [(receive(setup, 1, 4, "pickle tcp"), floor_a(setup)) for _ in range(setup.turns)]
    return [
        Row("node: CPU per point", "µs", [node["us"] for node, _ in turns],
            [node["us"] / base["us"] for node, base in turns], "≤ 0.15 µs"),
        Row("throughput", "M points/s", [node["per_s"] / 1e6 for node, _ in turns], digits=2)]


def udp(setup):
    """Datagrams of 25 lines, 1 shard, 4 senders, cache only"""
    turns = [(udp_turn(setup, 800_000), floor_a(setup)) for _ in range(setup.turns)]
    flood = udp_turn(setup, None)
    return [
        Row("node: CPU per point at 0.8 M points/s", "µs", [node["us"] for node, _ in turns],
            [node["us"] / base["us"] for node, base in turns], "≤ 5 x floor (a)"),
        Row("lost at 0.8 M points/s, counted at the socket", "%",
            [node["lost"] for node, _ in turns], digits=2),
        Row("received at full speed", "M points/s", [flood["per_s"] / 1e6], digits=2,
            note=f"{flood['sent_per_s'] / 1e6:.1f} M points/s sent, {flood['lost']:.0f} % lost")]


def udp_turn(setup, rate):
    with Node(setup.home / "node", 1, BUDGET, CACHE_ONLY) as node:
        loadgen(node.ports["line tcp"], *setup.stream(4, 1, setup.start_s))
        target, before = node.ports["line udp"], node.settle()
        port = int(target.rsplit(":", 1)[1])
        rounds = max(1, setup.rounds // 2)
        pace = ["--rate", rate] if rate else []
        sent = loadgen(target, "--protocol", "udp", *pace,
                       *setup.stream(4, rounds, setup.start_s + 1), cpus=cores()[1:])
        ended = time.monotonic()
        cpu_s = node.settle() - before
        took_s = sent["seconds"] + node.rest_s(ended)
        drops = udp_drops(port)
        # All datagrams but the last of each agent's round hold 25 lines.
        received = node.wait_for("accounting.received_udp", sent["points"] - 25 * drops)
        return {"us": micros(cpu_s, received), "per_s": received / took_s,
                "sent_per_s": sent["points_per_s"],
                "lost": 100 * (sent["points"] - received) / sent["points"]}


class Files:
    """A node that writes files, a sweep every few seconds, and its floor over the same files."""

    def __init__(self, setup):
        self.setup, self.cgroup = setup, None
        if setup.cold:
            self.cgroup = Cgroup(max(256 << 20, setup.metrics * 3_000))
        # A sweep must be over, and the next round received, before the next one begins.
        self.interval_s = max(3, setup.metrics // 100_000) * (4 if setup.cold else 1)
        self.cycle = 0

    def __enter__(self):
        whisper = f'flush-interval = "{self.interval_s}s"\nsparse-create = false'
        self.node = Node(self.setup.home / "files", 1, BUDGET, whisper, cgroup=self.cgroup,
                         slots=self.setup.slots)
        self.base_bytes = resident_bytes(self.node.pid)
        return self

    def __exit__(self, *_):
        self.node.__exit__()
        if self.cgroup:
            self.cgroup.remove()

    def wait_for_tick(self):
        """Sleeps until a sweep has just begun, and, having nothing to write, ended."""
        since = time.monotonic() - self.node.started
        time.sleep(self.interval_s - since % self.interval_s + 0.3)
        return time.monotonic() + self.interval_s - 0.5

    def round(self, count, new=0):
        """Sends `count` rounds between two sweeps, and a point of each of so many new metrics, and
        waits until they are in their files. CPU seconds of receiving and of writing; none when a
        sweep began too early."""
        setup, node = self.setup, self.node
        stored = node.own("accounting.stored") or 0
        until = self.wait_for_tick()
        start_s = setup.start_s + 300 * self.cycle
        self.cycle += 1
        before = node.cpu_s()
        target = node.ports["line tcp"]
        streams = [setup.stream(4, count, start_s, 60)]
        if new:
            prefix = ["--prefix", f"carbyne.new{self.cycle}"]
            streams.append(setup.stream(4, 1, start_s, 60, new) + prefix)
        points = sum(loadgen(target, *each, cpus=cores()[1:])["points"] for each in streams)
        received = node.settle()
        is_early = time.monotonic() > until
        node.wait_for("accounting.stored", stored + points, 600)
        after = node.settle()
        return None if is_early else (received - before, after - received, points)

    def mixed(self, update_s, create_s):
        """A new metric to every ten that are known: CPU seconds of writing both, and how much more
        that is than by what each costs alone."""
        new = self.setup.metrics // 40 * 4
        self.round(1)
        turn = self.round(5, new) or self.round(5, new)
        if not turn:
            fail("the node is too slow to receive five rounds between two sweeps")
        return turn[1], turn[1] / (update_s * self.setup.metrics + create_s * new)

    def floor(self):
        paths = self.setup.home / "paths"
        if not paths.exists():
            with open(paths, "w") as out:
                for top, _, names in os.walk(self.node.data / "carbyne"):
                    top = os.path.relpath(top, self.node.data)
                    out.writelines(f"{top}/{name}\n" for name in names)
        return floor("update", self.node.data, paths, cgroup=self.cgroup)

    def floor_create(self):
        """Floor (d), files of the same length beside the node's."""
        root = self.node.home / "created"
        root.mkdir()
        count = min(100_000, self.setup.metrics)
        return floor("create", root, self.setup.file_bytes, count, cgroup=self.cgroup)

    def bytes_per_metric(self):
        """Resident, and by the node's own count."""
        own = self.node.own("accounting.memory_bytes") or 0
        resident = resident_bytes(self.node.pid) - self.base_bytes
        return resident / self.setup.metrics, own / self.setup.metrics

    def memory_rows(self):
        """Now, with what the next points will need, and after two sweeps that found nothing."""
        written, _ = self.bytes_per_metric()
        self.wait_for_tick()
        self.wait_for_tick()
        time.sleep(1)
        idle, own = self.bytes_per_metric()
        return [
            Row("memory per metric whose 5 points were just written", "B", [written], digits=0,
                note="resident; room for the next points is kept"),
            Row("memory per idle metric", "B", [idle], digits=0, target="≤ 200 B",
                note=f"resident, after two sweeps without points; by the node's own count {own:.0f} B")]


def files(setup):
    """Files of two archives, 1 shard: creates, updates in dense sweeps, end to end"""
    with Files(setup) as it:
        created, base = it.round(1), it.floor_create()
        # Creates push inodes and directories out of memory; a node that has run for a while has
        # them there.
        it.floor()
        turns = []
        for _ in range(setup.turns * 2):
            if len(turns) < setup.turns:
                # The floor has changed the files behind the node's back: it reads them again.
                it.round(1)
                turn = it.round(5)
                turns += [(*turn, it.floor())] if turn else []
        if not created or not turns:
            fail("the node is too slow to receive five rounds between two sweeps")
        memory_rows = it.memory_rows()
        update_s = statistics.median(turn[1] for turn in turns) / setup.metrics
        both_s, both_ratio = it.mixed(update_s, created[1] / setup.metrics)
        stall = stalls(it) if it.setup.metrics <= 200_000 else None
        # A file system that nobody else uses may be slowed down, where the kernel can do that.
        slow = slow_stalls(it) if stall and setup.home != setup.disk else None
    writes = [micros(writing, setup.metrics) for _, writing, _, _ in turns]
    floors = [micros(base["cpu_s"], base["updates"]) for *_, base in turns]
    rows = [
        Row("creates per CPU second", "/s", [setup.metrics / created[1]], digits=0,
            target="≥ 40,000/s", note="with the first point of each in both archives"),
        Row("CPU per create", "µs", [micros(created[1], setup.metrics)],
            [created[1] / setup.metrics * base["creates"] / base["cpu_s"]], digits=1),
        Row("floor (d): open, fallocate, pwrite, close", "µs",
            [micros(base["cpu_s"], base["creates"])], digits=1,
            note="directories included, ten files each"),
        Row("CPU per update of 5 points", "µs", writes,
            [mine / base for mine, base in zip(writes, floors)], "≤ 1.4 x", 2),
        Row("floor (b): open, 2 pwrite, close", "µs", floors, digits=2),
        Row("CPU per update with a new metric to every ten", "µs",
            [micros(both_s, setup.metrics)], [both_ratio], digits=2,
            note="creates included; ratio to updates and creates apart"),
        Row("CPU per point end to end, 5 points an update", "µs",
            [micros(receiving + writing, points) for receiving, writing, points, _ in turns],
            target="≤ 1.3 µs"),
        *memory_rows]
    if stall:
        rows.append(Row("answers of the cache while a sweep runs: p99", "ms",
                        [stall["p99"] / 1e3], target="≤ 1 ms",
                        note=f"p50 {stall['p50']} µs, max {stall['max'] / 1e3:.1f} ms, "
                             f"{stall['answers']} questions, nothing received meanwhile"))
    if stall and not slow:
        rows.append(Row("the same on a slow disk: p99", "ms", [], target="≤ 1 ms",
                        note="not measured: needs root, --fs, and blkio of control groups 1"))
    if slow:
        rows.append(Row("the same, the disk takes 8 MB/s: p99", "ms", [slow["p99"] / 1e3],
                        target="≤ 1 ms",
                        note=f"p50 {slow['p50']} µs, max {slow['max'] / 1e3:.1f} ms, "
                             f"{slow['answers']} questions; {slow['unwritten']:.0f} % of the "
                             "points not written at the end"))
    return rows


def stalls(it):
    """Carbonlink's times over one whole interval with a sweep in it, while nothing is received."""
    setup = it.setup
    it.wait_for_tick()
    loadgen(it.node.ports["line tcp"],
            *setup.stream(4, 5, setup.start_s + 300 * it.cycle, 60), cpus=cores()[1:])
    it.node.settle()
    return probe(it.node.ports["carbonlink"], 500, it.interval_s, some_names(setup))


def slow_stalls(it):
    """Carbonlink's times for as long, from the beginning of a sweep on to a disk that is slow."""
    setup, node = it.setup, it.node
    disk = SlowDisk(setup.home, 8_000_000)
    if not disk.is_possible():
        return None
    node.settle()
    # Only pages that are clean make their writer wait.
    subprocess.run(["sync", "-f", setup.home], check=True)
    stored = node.own("accounting.stored") or 0
    it.cycle += 1
    until = it.wait_for_tick()
    sent = loadgen(node.ports["line tcp"],
                   *setup.stream(4, 5, setup.start_s + 300 * it.cycle, 60), cpus=cores()[1:])
    time.sleep(max(0, until - time.monotonic()))
    with disk:
        answers = probe(node.ports["carbonlink"], 500, it.interval_s, some_names(setup))
        written = (node.own("accounting.stored") or stored) - stored
    return answers | {"unwritten": 100 * (1 - written / sent["points"])}


def some_names(setup):
    per_agent = setup.metrics // 4
    numbers = [number * 7919 % per_agent for number in range(200)]
    return [f"carbyne.loadgen.agent.{index % 4}.metrics.{number // 10}.{number % 10}"
            for index, number in enumerate(numbers)]


def queries(setup):
    """Carbonlink at 1,000 questions a second while lines come at full speed, 2 shards, files on"""
    with Node(setup.home / "queries", 2, BUDGET) as node, FloorAnswer() as other:
        loadgen(node.ports["line tcp"], *setup.stream(4, 1, setup.start_s))
        node.wait_for("accounting.stored", setup.metrics, 600)
        node.settle()
        sender = loadgen(node.ports["line tcp"], *setup.stream(4, 1_000_000, setup.start_s),
                         "--window", 3600, "--duration", 9, background=True, yields=True)
        time.sleep(1)
        answers = probe(node.ports["carbonlink"], 1000, 5, some_names(setup))
        floor_answers = probe(other, 1000, 2, some_names(setup))
        sent = summary(sender)
    return [
        Row("answering time p99", "ms", [answers["p99"] / 1e3],
            [answers["p99"] / floor_answers["p99"]], "≤ 2 ms",
            note=f"p50 {answers['p50']} µs, p90 {answers['p90']} µs, "
                 f"p99.9 {answers['p999'] / 1e3:.1f} ms, max {answers['max'] / 1e3:.1f} ms"),
        Row("floor (e): read the question, send an empty answer: p99", "ms",
            [floor_answers["p99"] / 1e3],
            note=f"beside the node, which goes on receiving: p50 {floor_answers['p50']} µs, "
                 f"p90 {floor_answers['p90']} µs, p99.9 {floor_answers['p999'] / 1e3:.1f} ms"),
        Row("p99 from when a connection was free to ask", "ms", [answers["asked_p99"] / 1e3],
            note=f"p50 {answers['asked_p50']} µs; 32 connections"),
        Row("answers", "/s", [answers["answers"] / 5], digits=0,
            note=f"{answers['unasked']} questions could not be asked in time"),
        Row("sent meanwhile", "M points/s", [sent["points_per_s"] / 1e6], digits=2,
            note="the node, its writers and the questions share two cores; the sender has what "
                 "they leave")]


def memory(setup):
    """Memory of waiting points, 1 shard, cache only"""
    with Node(setup.home / "node", 1, BUDGET, CACHE_ONLY) as node:
        base, at, sent = resident_bytes(node.pid), {}, 0
        for count in [1, 60]:
            loadgen(node.ports["line tcp"],
                    *setup.stream(4, count - sent, setup.start_s + 60 * sent, 60))
            node.settle()
            at[count], sent = resident_bytes(node.pid) - base, count
        node.wait_for("accounting.received_tcp", 60 * setup.metrics)
    per_metric = at[1] / setup.metrics
    return [
        Row("per metric with 1 point", "B", [per_metric], digits=0),
        Row("per waiting point at 60 a metric", "B", [(at[60] - at[1]) / setup.metrics / 59],
            digits=2, target="≤ 8 B", note="the 59 that came after the first"),
        Row("the same with its share of the metric", "B", [at[60] / setup.metrics / 60],
            digits=2)]


def idle(setup):
    """A node that nobody talks to, 2 shards"""
    with Node(setup.home / "node", 2, BUDGET) as node:
        before, then = node.cpu_s(), time.monotonic()
        time.sleep(5)
        share = (node.cpu_s() - before) / (time.monotonic() - then)
    return [Row("CPU of one core", "%", [share * 100], target="≤ 0.5 %", digits=2,
                note="own metrics every second instead of every minute")]


def append(setup):
    """Floor (c): O_DIRECT writes, one behind the other"""
    rows = []
    for kib in [64, 256, 1024]:
        runs = [floor("append", setup.disk / "log", kib << 10, (64 << 10) // kib)
                for _ in range(setup.turns)]
        rows.append(Row(f"CPU per write of {kib} KiB", "µs",
                        [micros(run["cpu_s"], run["writes"]) for run in runs], digits=1,
                        note=f"{64 / statistics.median(run['seconds'] for run in runs):,.0f} "
                             "MiB/s"))
    return rows


WORKLOADS = {
    "line-1-shard": line_one_shard,
    "line-2-shards": line_two_shards,
    "log": log,
    "replay": replay,
    "pickle": pickle,
    "udp": udp,
    "files": files,
    "queries": queries,
    "memory": memory,
    "idle": idle,
    "append": append,
}

# The page cache plays no part in the others.
COLD = ["files"]

# The others are about the ways that points take, which are the same for any number of metrics.
SCALE = ["files", "memory"]
