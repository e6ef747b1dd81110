"""A small cache node in Python: what the checks are tested against.

A check that has never failed proves little. Each check runs against this program three ways: as it
is (must pass), with the one bug planted that the check is there for (must fail, with the message
the check gives for that bug), and the real node takes its place for the real run. It speaks line,
UDP, pickle and carbonlink, writes files with the real whisper library, and publishes the statistics
that the checks read. It is no product: one thread, no crash safety.

    fake_node.py [-c FILE.json] [--bug NAME]
"""

import argparse
import asyncio
import collections
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import pathlib
import pickle
import pickletools
import re
import signal
import socket
import stat
import struct
import sys
import time

import whisper

DEFAULTS = {
    "common": {"graph-prefix": "carbon.agents.fake", "metric-interval": "1s"},
    "whisper": {"data-dir": "carbyne-data", "schemas-file": "", "aggregation-file": "",
                "max-updates-per-second": 0, "max-creates-per-second": 0, "enabled": True,
                "hash-filenames": True, "flush-interval": "1s"},
    "cache": {"max-size": 1_000_000},
    "tcp": {"listen": "127.0.0.1:2003", "enabled": True},
    "udp": {"listen": "127.0.0.1:2003", "enabled": True},
    "pickle": {"listen": "127.0.0.1:2004", "enabled": True, "max-message-size": 67_108_864},
    "carbonlink": {"listen": "127.0.0.1:7002", "enabled": True},
}
LINE_BYTES_MAX = 16_384
REASONS = ["name_control", "value_nan", "timestamp_future", "line_fields", "line_too_long",
           "datagram_cut", "pickle_item", "pickle_message", "quarantine", "cache_full",
           "kernel_datagrams"]
SAFE_OPCODES = set(
    "MARK STOP POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT LONG BININT BININT1 BININT2 LONG1 LONG4 "
    "FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT "
    "DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE PROTO FRAME"
    .split())


def seconds(text):
    """`1s`, `200ms`, `2m` or `1h` as a number of seconds."""
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m|h)", text).groups()
    return float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def log(level, message):
    print(level, message, file=sys.stderr, flush=True)


class BadPickle(Exception):
    pass


def safe_loads(body):
    """Data only: an opcode that could run code, or a claim larger than the message, is refused."""
    depth = 0
    try:
        for opcode, argument, _ in pickletools.genops(body):
            if opcode.name not in SAFE_OPCODES:
                raise BadPickle(opcode.name)
            if opcode.name == "LONG_BINPUT" and argument > len(body):
                raise BadPickle("memo index")
            depth += opcode.name in ("MARK", "EMPTY_LIST", "EMPTY_TUPLE")
        if depth > 4 * len(body) ** 0.5 + 1_000_000:
            raise BadPickle("depth")
        return pickle.Unpickler(io.BytesIO(body)).load()
    except BadPickle:
        raise
    except Exception as error:
        raise BadPickle(str(error)) from error


class Node:
    def __init__(self, config, bug):
        self.bug = bug
        self.config = {key: dict(value) for key, value in DEFAULTS.items()}
        for section, keys in config.items():
            self.config.setdefault(section, {}).update(keys)
        self.data = pathlib.Path(self.config["whisper"]["data-dir"])
        self.cache = collections.OrderedDict()  # name -> {timestamp: value}
        self.arrived = collections.defaultdict(list)  # name -> its points not written, in order
        self.size = 0
        self.total = collections.Counter()      # since start
        self.dropped = collections.Counter()    # since start, by reason
        self.published = collections.Counter()  # what `total` was at the last report
        self.files = set()
        self.rules = []
        self.active = 0
        self.dripping = []
        self.updates = [0.0, 0.0]  # tokens, time: the update limit
        self.creates = [0.0, 0.0]
        self.stopping = asyncio.Event()
        self.reload()

    # --- storage rules

    def reload(self):
        """Reads both rule files; a broken one keeps what is in force."""
        try:
            schemas = self.sections(self.config["whisper"]["schemas-file"])
            rules = [(re.compile(keys["pattern"]),
                      [whisper.parseRetentionDef(part) for part in keys["retentions"].split(",")])
                     for keys in schemas]
            methods = [(re.compile(keys["pattern"]), float(keys.get("xfilesfactor", 0.5)),
                        keys.get("aggregationmethod", "average"))
                       for keys in self.sections(self.config["whisper"]["aggregation-file"])]
            self.rules, self.methods = rules, methods
            log("INFO", "rules read")
        except Exception as error:
            log("WARN", f"storage rules rejected, the old ones stay in force error={error}")
            if self.bug == "bad-reload-drops-rules":
                self.rules = []

    @staticmethod
    def sections(path):
        found = []
        for line in pathlib.Path(path).read_text().splitlines() if path else []:
            if line.startswith("["):
                found.append({})
            elif line.strip() and not line.startswith("#"):
                key, equals, value = line.partition("=")
                if not equals:
                    raise ValueError(line)
                found[-1][key.strip().lower()] = value.strip()
        return found

    def creation(self, name):
        archives = [(60, 10080)]
        rules = self.rules[-1:] if self.bug == "one-schema" else self.rules
        for pattern, retentions in rules:
            if pattern.search(name):
                archives = retentions
                break
        xff, method = 0.5, "average"
        for pattern, rule_xff, rule_method in self.methods:
            if pattern.search(name):
                xff, method = rule_xff, rule_method
                break
        if self.bug == "always-average":
            method = "average"
        if self.bug == "xff-zero":
            xff = 0.0
        return archives, xff, method

    # --- names and points

    def canonical(self, raw):
        """The name as stored, or None: one file has one name."""
        if isinstance(raw, bytes):
            try:
                raw = raw.decode()
            except UnicodeDecodeError:
                return None
        if not isinstance(raw, str) or not raw or len(raw.encode()) > 4000:
            return None
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in raw):
            return None
        if self.bug in ("alias-keys", "slash-names"):
            return raw
        if ";" in raw:
            metric, *tags = raw.split(";")
            if self.bug != "tags-unsorted":
                tags.sort()
            return ";".join([metric] + tags)
        parts = [part for part in re.split(r"[./]", raw) if part]
        if not parts or len(parts) > (10_000 if self.bug == "deep-names" else 64):
            return None
        return ".".join(parts) if all(len(p.encode()) <= 251 for p in parts) else None

    def path(self, name):
        if ";" in name:
            digest = hashlib.sha256(name.encode()).hexdigest()
            return self.data / "_tagged" / digest[:3] / digest[3:6] / f"{digest}.wsp"
        if self.bug == "slash-names" and "/" in name:
            return pathlib.Path(os.path.join(self.data, name + ".wsp"))
        return self.data / (name.replace(".", "/").lstrip("/") + ".wsp")

    def admit(self, raw, value, timestamp):
        """A point as (name, value, timestamp), or None after counting why not."""
        name = self.canonical(raw)
        if name is None:
            self.dropped["name_control"] += 1
            return None
        if math.isnan(value) and self.bug != "nan-kept":
            self.dropped["value_nan"] += 1
            return None
        if self.bug == "wrap-timestamps" and math.isfinite(timestamp):
            return name, value, int(timestamp) & 0xFFFF_FFFF
        stale = timestamp < time.time() - 400 * 86400 and self.bug != "udp-cut-accepted"
        if not math.isfinite(timestamp) or stale or timestamp > time.time() + 3600:
            self.dropped["timestamp_future"] += 1
            return None
        return name, value, int(timestamp)

    def insert(self, name, value, timestamp):
        points = self.cache.setdefault(name, {})
        if timestamp in points and self.bug == "first-duplicate-wins":
            return
        self.size += timestamp not in points
        if self.bug != "replaced-uncounted":
            self.total["replaced"] += timestamp in points
        points[timestamp] = value
        self.arrived[name].append((timestamp, value))
        self.total["metricsReceived"] += 1

    def full(self):
        return self.size >= self.config["cache"]["max-size"]

    async def accept(self, raw, value, timestamp):
        """For streams: waits for room, so that the sender is slowed down."""
        point = self.admit(raw, value, timestamp)
        if point is None:
            return
        if self.full() and self.bug == "silent-overflow":
            return
        while self.full():
            await asyncio.sleep(0.005)
        self.insert(*point)

    def parse(self, line):
        fields = line.split()
        if not fields:
            return None
        try:
            name, value, timestamp = fields
            if not value.isascii() or not timestamp.isascii():
                raise ValueError(value)
            return name, float(value), float(timestamp)
        except ValueError:
            self.dropped["line_fields"] += 1
            self.total["errors"] += 1
            return None

    # --- receiving

    def message_seconds(self, section):
        key = "read-timeout" if section == "carbonlink" else "message-timeout"
        return seconds(self.config[section].get(key, "30s"))

    async def next_bytes(self, reader, section, started):
        """Waits for input within the idle limit, or within the rest of the message's own limit."""
        config = self.config[section]
        limit = seconds(config.get("idle-timeout", "2m"))
        if started is not None:
            limit = self.message_seconds(section)
            if self.bug != "deadline-per-byte":
                limit = max(0.0, started + limit - time.monotonic())
        if self.bug == "idle-forever":
            limit = None
        if self.bug == "closes-idle" and section == "carbonlink":
            limit = 0.5
        return await asyncio.wait_for(reader.read(262_144), limit)

    async def line_connection(self, reader, writer):
        buffer, started = b"", None
        while True:
            data = await self.next_bytes(reader, "tcp", started)
            if not data:
                return
            buffer += data
            *lines, rest = buffer.split(b"\n")
            if self.bug == "relay-loses":
                lines = lines[1:]
            for line in lines:
                if self.bug == "bad-utf8-closes":
                    line.decode()
                if self.bug == "garbage-kills" and b"\xff" in line:
                    os._exit(3)
                point = self.parse(line)
                if point:
                    await self.accept(*point)
            if len(rest) > LINE_BYTES_MAX and self.bug != "endless-line":
                self.dropped["line_too_long"] += 1
                return
            started = (started if not lines else None) or time.monotonic() if rest else None
            buffer = rest

    def datagram(self, data):
        self.total["udp_datagrams"] += 1
        lines = data.split(b"\n")
        if self.bug == "udp-bad-line-drops-rest":
            lines[-1:] = []
            for line in lines:
                point = self.parse(line)
                if point is None or not math.isfinite(point[2]):
                    return
                self.datagram_point(point)
            return
        if lines.pop() and self.bug != "udp-cut-accepted":
            self.dropped["datagram_cut"] += 1
        elif self.bug == "udp-cut-accepted":
            lines = data.split(b"\n")
        for line in lines:
            point = self.parse(line)
            if point:
                self.datagram_point(point)

    def datagram_point(self, point):
        point = self.admit(*point)
        if point and self.full():
            self.dropped["cache_full"] += 1
        elif point:
            self.insert(*point)

    def kernel_drops(self):
        """Datagrams that the kernel threw away because nobody read them in time."""
        inode = os.fstat(self.udp.fileno()).st_ino
        for row in pathlib.Path("/proc/net/udp").read_text().splitlines()[1:]:
            fields = row.split()
            if int(fields[9]) == inode:
                return int(fields[-1])
        return 0

    def udp_ready(self):
        for _ in range(500):
            try:
                self.datagram(self.udp.recv(65_536))
            except BlockingIOError:
                return

    async def frames(self, reader, section, limit):
        """Yields the bodies of length-prefixed messages."""
        buffer, started = bytearray(), None
        while True:
            while len(buffer) >= 4:
                size = int.from_bytes(buffer[:4], "big")
                if size > limit:
                    self.dropped["pickle_message"] += 1
                    return
                if len(buffer) < 4 + size:
                    break
                body = bytes(buffer[4:4 + size])
                del buffer[:4 + size]
                started = None
                yield body
            data = await self.next_bytes(reader, section, started)
            if not data:
                return
            started = started or time.monotonic()
            buffer += data
            if self.bug == "unfinished-message-blocks" and len(buffer) > 1 << 24:
                time.sleep(30)

    async def pickle_connection(self, reader, writer):
        limit = self.config["pickle"]["max-message-size"]
        if self.bug == "big-pickle-refused":
            limit = 1_048_576
        async for body in self.frames(reader, "pickle", limit):
            if self.bug == "pickle-bomb" and body[:1] == b"T":
                self.bomb = bytearray(b"x" * 200_000_000)
            try:
                items = pickle.loads(body) if self.bug == "pickle-executes" else safe_loads(body)
            except Exception:
                self.dropped["pickle_message"] += 1
                continue
            await self.pickle_items(items)

    async def pickle_items(self, items):
        good = []
        for item in items if isinstance(items, (list, tuple)) else []:
            try:
                name, (timestamp, value) = item
                good.append((name, float(value), float(timestamp)))
                if self.bug == "bad-item-drops-frame" and not math.isfinite(good[-1][2]):
                    raise ValueError(timestamp)
            except (TypeError, ValueError):
                self.dropped["pickle_item"] += 1
                if self.bug == "bad-item-drops-frame":
                    return
        for point in good[1:] if self.bug in ("first-item-lost", "relay-loses") else good:
            await self.accept(*point)

    async def carbonlink_connection(self, reader, writer):
        if self.bug == "unbounded-output":
            writer.transport.set_write_buffer_limits(high=1 << 40)
        async for body in self.frames(reader, "carbonlink", 1_048_576):
            if self.bug == "carbonlink-dies" and body == b"\x80\x04":
                os._exit(2)
            if self.bug == "old-protocols-only" and body[1:2] > b"\x02":
                return
            try:
                answer = pickle.dumps(self.answer(safe_loads(body)), protocol=2)
            except (BadPickle, KeyError, TypeError, AttributeError):
                return
            writer.write(struct.pack("!L", len(answer)) + answer)
            await asyncio.wait_for(writer.drain(), self.message_seconds("carbonlink"))

    def answer(self, request):
        kind = request["type"]
        if kind == "cache-query":
            return {"datapoints": self.waiting(request["metric"])}
        if kind == "cache-query-bulk" and self.bug != "no-bulk":
            return {"datapointsByMetric": {m: self.waiting(m) for m in request["metrics"]}}
        if kind in ("get-metadata", "set-metadata"):
            path = str(self.path(request["metric"]))
            try:
                old = whisper.info(path)["aggregationMethod"]
                if kind == "get-metadata":
                    return {"value": old}
                if self.bug != "metadata-ignored":
                    whisper.setAggregationMethod(path, request["value"])
                return {"old_value": old, "new_value": request["value"]}
            except (OSError, TypeError, whisper.WhisperException) as error:
                return {"error": str(error)}
        return {"error": f'Invalid request type "{kind}"'}

    def waiting(self, name):
        if self.bug == "cache-hidden":
            return []
        if self.bug == "carbon-names-hidden" and name.startswith("carbon"):
            return []
        return [(float(t), v) for t, v in sorted(self.cache.get(name, {}).items())]

    # --- writing

    def sound(self, path):
        """Whether the file can be written: a regular file with a believable header."""
        with open(path, "rb") as file:
            raw = file.read(16)
            if len(raw) < 16:
                return False
            method, _, xff, count = struct.unpack("!2LfL", raw)
            if not 1 <= method <= 8 or not 0 <= xff <= 1 or not 1 <= count <= 16:
                return False
            table = file.read(12 * count)
        end, last = 16 + 12 * count, 0
        for offset, step, points in struct.iter_unpack("!3L", table[:len(table) // 12 * 12]):
            if offset != end or step <= last or not points or step > 2**30:
                return False
            end, last = end + 12 * points, step
        return len(table) == 12 * count and end <= os.path.getsize(path)

    def write(self, name, points, arrived):
        """Writes one metric's points; says what became of them."""
        path = self.path(name)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            mode = None
        inside = os.path.realpath(path.parent).startswith(os.path.realpath(self.data))
        if (mode is not None and not stat.S_ISREG(mode)) or (
                not inside and self.bug != "slash-names"):
            self.dropped["quarantine"] += len(points)
            return "dropped"
        if mode is not None and not self.sound(path):
            if self.bug == "damaged-file-sticks":
                return "later"
            os.rename(path, f"{path}.damaged")
            mode = None
        if mode is None:
            archives, xff, method = self.creation(name)
            for directory in reversed(path.parents):
                directory.mkdir(exist_ok=True)
            try:
                whisper.create(str(path), archives, xFilesFactor=xff, aggregationMethod=method)
                # The library does not look whether all of its bytes were taken.
                if path.stat().st_size < 12 * sum(points for _, points in archives):
                    raise OSError(errno.ENOSPC, "no room for a whole file")
            except OSError:
                path.unlink(missing_ok=True)
                if self.bug == "dead-files":
                    path.touch()
                raise
            self.total["creates"] += 1
        for point in arrived:
            whisper.update_many(str(path), [point])
        self.total["updateOperations"] += 1
        self.total["committedPoints"] += len(points)
        return "stored"

    def allowed(self, bucket, key):
        limit = self.config["whisper"][key]
        if not limit:
            return True
        now = time.monotonic()
        bucket[0] = min(limit, bucket[0] + (now - bucket[1]) * limit) if bucket[1] else limit / 10
        bucket[1] = now
        if bucket[0] < 1:
            return False
        bucket[0] -= 1
        return True

    async def flush(self, everything=False):
        loop, told = asyncio.get_running_loop(), set()
        for name in list(self.cache):
            if not everything:
                fresh = not self.path(name).exists()
                if fresh and not self.allowed(self.creates, "max-creates-per-second"):
                    if self.bug == "create-limit-drops":
                        self.size -= len(self.cache.pop(name))
                        self.arrived.pop(name)
                        self.total["droppedCreates"] += 1
                    continue
                if self.bug != "ignores-update-limit":
                    while not self.allowed(self.updates, "max-updates-per-second"):
                        await asyncio.sleep(0.005)
            if self.bug == "ignores-update-limit":
                self.total["updateOperations"] += len(self.cache[name]) - 1
            points, arrived = dict(self.cache[name]), list(self.arrived[name])
            try:
                if self.bug == "blocks-on-disk":
                    outcome = self.write(name, points, arrived)
                else:
                    outcome = await loop.run_in_executor(None, self.write, name, points, arrived)
            except (OSError, whisper.WhisperException) as error:
                cause = getattr(error, "errno", None)
                if cause not in told or self.bug == "log-per-failure":
                    log("WARN", f"file not written error={error} metric={name}")
                told.add(cause)
                if self.bug != "error-drops-points" and cause not in (
                        errno.ENAMETOOLONG, errno.ENOTDIR):
                    continue
                outcome = "dropped"
            if outcome == "later":
                continue
            del self.arrived[name][:len(arrived)]
            kept = self.cache[name]
            for timestamp, value in points.items():
                if kept.get(timestamp) == value or math.isnan(value):
                    del kept[timestamp]
                    self.size -= 1
            if not kept:
                del self.cache[name]

    async def flush_loop(self):
        interval = seconds(self.config["whisper"]["flush-interval"])
        while self.config["whisper"]["enabled"]:
            await asyncio.sleep(interval)
            await self.flush()

    # --- reporting

    def report(self):
        prefix, now = self.config["common"]["graph-prefix"], int(time.time())
        if self.bug != "udp-silent" and hasattr(self, "udp"):
            self.dropped["kernel_datagrams"] = self.kernel_drops()
        delta = self.total - self.published
        self.published = self.total.copy()
        flat = {key: delta[key] for key in (
            "metricsReceived", "committedPoints", "updateOperations", "creates", "errors",
            "droppedCreates")}
        flat.update({"cache.size": self.size, "cache.queues": len(self.cache),
                     "activeConnections": self.active, "cache.overflow": 0,
                     "pointsPerUpdate": delta["committedPoints"]
                     / max(1, delta["updateOperations"]),
                     "tcp.metricsReceived": delta["metricsReceived"],
                     "persister.committedPoints": delta["committedPoints"],
                     "persister.updateOperations": delta["updateOperations"],
                     "accounting.received": self.total["metricsReceived"],
                     "accounting.accepted": self.total["metricsReceived"],
                     "accounting.replaced": self.total["replaced"],
                     "accounting.stored": self.total["committedPoints"],
                     "accounting.writing": 0, "accounting.waiting": self.size})
        flat.update({f"dropped.{reason}": self.dropped[reason] for reason in REASONS})
        if self.bug == "no-self-stats":
            return
        for key, value in flat.items():
            self.insert(f"{prefix}.{key}", value, now)

    async def report_loop(self):
        interval = seconds(self.config["common"]["metric-interval"])
        while True:
            due = time.time() + interval
            await asyncio.sleep(interval)
            while self.bug == "wall-timers" and time.time() < due:
                await asyncio.sleep(0.05)
            self.report()

    async def spin_without_descriptors(self):
        while True:
            await asyncio.sleep(0.001)
            try:
                os.close(os.dup(0))
            except OSError as error:
                log("WARN", f"accept failed error={error}")

    # --- life

    def listener(self, section, kind, name):
        host, port = self.config[section]["listen"].rsplit(":", 1)
        sock = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, int(port)))
        except OSError:
            if self.bug == "taken-port-kills":
                log("ERROR", f"port is taken listen={host}:{port}")
                sys.exit(1)
            sock.bind((host, 0))
        sock.setblocking(False)
        self.ports.append(f"{name} {host}:{sock.getsockname()[1]}")
        return sock

    def guarded(self, handler):
        async def run(reader, writer):
            self.active += 1
            try:
                await handler(reader, writer)
            except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, UnicodeError):
                pass
            finally:
                self.active -= 1
                writer.transport.abort() if writer.transport.get_write_buffer_size() else \
                    writer.close()
        return run

    def lock(self):
        self.data.mkdir(parents=True, exist_ok=True)
        if self.bug == "no-lock":
            return
        self.lock_file = open(self.data / ".fake-lock", "w")
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log("ERROR", f"another node holds the lock on the data directory path={self.data}")
            sys.exit(1)

    async def run(self):
        self.lock()
        self.ports = []
        handlers = {"tcp": (self.line_connection, "line tcp"),
                    "pickle": (self.pickle_connection, "pickle tcp"),
                    "carbonlink": (self.carbonlink_connection, "carbonlink")}
        loop = asyncio.get_running_loop()
        # Without descriptors asyncio tries an accept `backlog` times and logs each.
        loop.set_exception_handler(lambda _, context: None if getattr(
            context.get("exception"), "errno", None) == errno.EMFILE
            else loop.default_exception_handler(context))
        if self.config["udp"]["enabled"]:
            self.udp = self.listener("udp", socket.SOCK_DGRAM, "line udp")
            loop.add_reader(self.udp, self.udp_ready)
        for section, (handler, name) in handlers.items():
            if self.config[section]["enabled"]:
                sock = self.listener(section, socket.SOCK_STREAM, name)
                await asyncio.start_server(self.guarded(handler), sock=sock, backlog=512)
        print("\n".join(self.ports), flush=True)
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        if self.bug != "ignores-hup":
            loop.add_signal_handler(signal.SIGHUP, self.reload)
        else:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        tasks = [asyncio.create_task(self.flush_loop()), asyncio.create_task(self.report_loop())]
        if self.bug == "emfile-spins":
            tasks.append(asyncio.create_task(self.spin_without_descriptors()))
        await self.stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.config["whisper"]["enabled"] and self.bug != "term-loses-cache":
            await self.flush(everything=True)
        sys.stdout.flush()
        os._exit(0)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("-c", dest="config")
    arguments.add_argument("--bug", default="")
    options = arguments.parse_args()
    config = json.loads(pathlib.Path(options.config).read_text()) if options.config else {}

    async def start():
        await Node(config, options.bug).run()

    asyncio.run(start())


if __name__ == "__main__":
    main()
