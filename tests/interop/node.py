"""One running node, real or fake, and everything a test may ask of it.

The settings are go-carbon.conf's sections and keys as nested dicts; what a test does not name has
the test default below. The node lives in a directory of its own and listens on loopback only.
"""

import json
import os
import pathlib
import re
import resource
import signal
import struct
import subprocess
import sys
import time

import wire
from checks import wait_until

PREFIX = "carbon.agents.test"
KINDS = {"line": ("tcp", "line tcp"), "udp": ("udp", "line udp"),
         "pickle": ("pickle", "pickle tcp"), "carbonlink": ("carbonlink", "carbonlink")}
# Why a node drops a point, as the last part of `<prefix>.dropped.<reason>`.
REASONS = [
    "line_fields", "bad_value", "bad_timestamp", "line_too_long", "line_unfinished",
    "datagram_cut", "pickle_item", "pickle_message", "line_no_memory", "pickle_no_memory",
    "name_empty", "name_too_long", "name_component", "name_too_deep", "name_control", "name_utf8",
    "value_nan",
    "timestamp_not_finite", "timestamp_negative", "timestamp_future", "cache_full", "too_old",
    "name_reserved", "quarantine", "stopped", "kernel_datagrams", "new_names", "forgotten"]
# One-second steps keep every point of a test apart; the retention outlasts any run.
SCHEMAS = [("carbon", r"^carbon\.", "1s:10m"), ("everything", ".*", "1s:1h")]


def schema_text(rules):
    return "".join(f"[{name}]\npattern = {pattern}\nretentions = {retentions}\n\n"
                   for name, pattern, retentions in rules)


def aggregation_text(rules):
    return "".join(f"[{name}]\npattern = {pattern}\nxFilesFactor = {xff}\n"
                   f"aggregationMethod = {method}\n\n" for name, pattern, xff, method in rules)


def toml(settings):
    lines = []
    for section, keys in settings.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def read_file(path):
    """All points of a whisper file's finest archive as {timestamp: value}, whatever their age."""
    raw = path.read_bytes()
    offset, _, points = struct.unpack_from("!3L", raw, 16)
    found = {}
    for timestamp, value in struct.iter_unpack("!Ld", raw[offset:offset + 12 * points]):
        if timestamp:
            found[timestamp] = value
    return found


class Node:
    def __init__(self, command, home, settings, schemas=None, aggregation=(), data=None):
        self.command, self.home = command, home
        home.mkdir(parents=True, exist_ok=True)
        self.data = data or home / "data"
        self.schemas_file = home / "storage-schemas.conf"
        self.aggregation_file = home / "storage-aggregation.conf"
        self.schemas_file.write_text(schema_text(schemas or SCHEMAS))
        self.aggregation_file.write_text(aggregation_text(aggregation))
        self.settings = {
            "common": {"graph-prefix": PREFIX, "metric-interval": "1s"},
            "whisper": {"data-dir": str(self.data), "schemas-file": str(self.schemas_file),
                        "aggregation-file": str(self.aggregation_file), "flush-interval": "1s"},
            "cache": {}, "logging": {}}
        if not self.fake:
            self.settings["common"]["shards"] = 2
            self.settings["cache"]["memory-budget"] = "64MiB"
            # Not beside the data directory: on a disk with trouble the log is only when asked for.
            self.settings["wal"] = {"directory": str(home / "log")}
        for section, _ in KINDS.values():
            self.settings[section] = {"enabled": True, "listen": "127.0.0.1:0"}
        for section, keys in settings.items():
            self.settings.setdefault(section, {}).update(keys)
        self.allowed_errors = None  # a pattern for ERROR lines that the test provokes
        self.status_at_stop = 0
        self.process = None
        self.stopped = False  # on purpose

    @property
    def fake(self):
        return "fake_node" in " ".join(self.command)

    # --- life

    def launch(self, arguments=None):
        """Starts the process without waiting for it."""
        if arguments is None:
            self.config = self.home / ("config.json" if self.fake else "config.toml")
            self.config.write_text(
                json.dumps(self.settings) if self.fake else toml(self.settings))
            arguments = ["-c", str(self.config)]
            if not self.fake:
                arguments = ["serve"] + arguments
        self.out, self.err = self.home / "stdout", self.home / "stderr"
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.out_start, self.err_start = out.tell(), err.tell()
            self.stopped = False
            self.process = subprocess.Popen(
                self.command + arguments, cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, preexec_fn=raise_file_limit)
        return self

    def start(self, arguments=None):
        self.launch(arguments)
        wait_until(self.ready, lambda: f"the node does not start: {self.log()[-2000:]}",
                   60, patient=True)
        self.hwm_at_start = self.hwm_bytes()
        return self

    def ready(self):
        assert self.alive(), f"the node ended at once: {self.log()[-2000:]}"
        self.ports = {}
        for kind, address in re.findall(
                r"^\s*(line tcp|line udp|pickle tcp|carbonlink)\s+(\S+:\d+)", self.stdout(), re.M):
            self.ports[kind] = int(address.rsplit(":", 1)[1])
        for section, kind in KINDS.values():
            if self.settings[section]["enabled"] and kind not in self.ports:
                return False
        try:
            for kind, port in self.ports.items():
                if kind != "line udp":
                    wire.connect(port).close()
        except OSError:
            return False
        return True

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def runs(self):
        """Whether it does anything: a process that has ended is alive until it is waited for, and
        one that is traced until its tracer lets it go."""
        try:
            stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        except FileNotFoundError:
            return False
        return self.alive() and stat.rsplit(") ", 1)[1][0] != "Z"

    def assert_up(self):
        assert self.alive(), (
            f"the node died with status {self.process.poll()}: {self.log()[-2000:]}")

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, seconds=60, number=None):
        """A drain, and the end it must lead to: everything written, status 0, no complaints. Points
        whose file can never be written, as some tests arrange, end in `status_at_stop`. SIGTERM as
        `number` leaves the points to the log, for the next start."""
        self.assert_up()
        self.stopped = True
        number = number or (signal.SIGTERM if self.fake else signal.SIGUSR1)
        self.signal(number)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the node has not stopped {seconds} s after {number!r}") from None
        assert status in (0, self.status_at_stop), (
            f"status {status} after {number!r}: {self.log()[-2000:]}")
        self.assert_quiet_log()

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    # --- what it says

    def stdout(self):
        return self.out.read_bytes()[self.out_start:].decode(errors="replace")

    def log(self):
        return self.err.read_bytes()[self.err_start:].decode(errors="replace")

    def assert_quiet_log(self):
        for text in self.log().splitlines():
            if re.match(r"(\S+ )?ERROR\b", text) or "panicked at" in text:
                allowed = self.allowed_errors and re.search(self.allowed_errors, text)
                assert allowed, f"unexpected log line: {text}"

    def status_bytes(self, key):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{key}:\s+(\d+) kB", text, re.M).group(1)) * 1024

    def hwm_bytes(self):
        """The most memory the process has had at once."""
        return self.status_bytes("VmHWM")

    def assert_memory(self, more_bytes, why):
        """That the process never grew by more than this since it was ready."""
        self.assert_up()
        grown = self.hwm_bytes() - self.hwm_at_start
        assert grown <= more_bytes, f"memory grew by {grown >> 20} MB, {why}"

    # --- talking

    def port(self, kind):
        return self.ports[KINDS[kind][1]]

    def send(self, points):
        wire.send(self.port("line"), wire.lines(points))

    def cached(self, name):
        return self.cached_of([name])[name]

    def cached_of(self, names):
        """What waits in memory, {name: {timestamp: value}}, by single questions on one connection
        so that nothing rests on the bulk question."""
        try:
            with wire.connect(self.port("carbonlink")) as connection:
                return {name: {int(t): v for t, v in wire.ask(
                    connection, {"type": "cache-query", "metric": name})["datapoints"]}
                    for name in names}
        except (OSError, EOFError) as error:
            self.assert_up()
            raise AssertionError(f"the cache question failed: {error!r}") from None

    def path(self, name):
        return self.data / (name.replace(".", "/") + ".wsp")

    def on_disk(self, name):
        try:
            return read_file(self.path(name))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, struct.error):
            return {}

    def points(self, name):
        return self.points_of([name])[name]

    def points_of(self, names):
        """Cache and file together. The cache is read first: a point only moves the other way."""
        found = self.cached_of(names)
        for name in names:
            found[name] = {**self.on_disk(name), **found[name]}
        return found

    # --- its own statistics

    def stat(self, name):
        """The newest value of a counter that never restarts, or of a level; 0 before the first."""
        points = self.points(f"{PREFIX}.{name}")
        return points[max(points)] if points else 0

    def stat_sum(self, name):
        """All of a counter that is reported per interval."""
        return sum(self.points(f"{PREFIX}.{name}").values())

    def dropped(self):
        """Every point or datagram the node says it did not keep, by reason."""
        found = self.points_of([f"{PREFIX}.dropped.{reason}" for reason in REASONS])
        return {reason: points[max(points)] for reason, points in zip(REASONS, found.values())
                if points and points[max(points)]}

    def dropped_sum(self):
        return sum(self.dropped().values())

    def reported(self):
        """Waits for a whole report after now: counters read later include all that went before."""
        name, now = f"{PREFIX}.metricsReceived", time.time() + 1
        wait_until(lambda: max(self.points(name), default=0) > now,
                   "the node does not report its statistics")


def raise_file_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def fake_command(bug):
    here = pathlib.Path(__file__).parent
    return [sys.executable, str(here / "fake_node.py")] + (["--bug", bug] if bug else [])


def real_command():
    binary = os.environ.get("CARBYNE_BIN")
    return [binary or str(pathlib.Path(__file__).parents[2] / "target/debug/carbyne")]
