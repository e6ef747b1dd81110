"""What clients send and do not read, in a node whose memory the kernel limits: it stays within its
budget, answers others, and forgets what it held when they are gone."""

import contextlib
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import wire
from cgroups import memory_cgroup  # noqa: F401, a fixture
from checks import Probe, closed_within, real, wait_for_points, wait_until
from node import raise_file_limit

NOW = int(time.time())
KEEP = {"flush-interval": "1h"}
BUDGET = 256 << 20
# Beside the budget: code, stacks, rings, one large request taken apart per core, and what the
# allocator keeps of pieces it has been given back.
CONSTANT = 64 << 20
MIB = 1 << 20


def start_in(group, start, budget=BUDGET, **settings):
    node = start(cache={"memory-budget": f"{budget >> 20}MiB"}, whisper=KEEP, **settings)
    group.limit(1 << 30)
    group.add(node.process.pid)
    return node


@contextlib.contextmanager
def clients(node, kind, count, receive_bytes=None):
    """So many connections, which do nothing by themselves and are closed at the end."""
    raise_file_limit()
    made = []
    try:
        for _ in range(count):
            client = socket.socket()
            made.append(client)
            if receive_bytes:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            client.settimeout(10)
            client.connect(("127.0.0.1", node.port(kind)))
            client.setblocking(False)
        yield made
    finally:
        for client in made:
            client.close()


def push(made, data, seconds):
    """Sends to all of them what each takes, in turns; how many are left and still open."""
    sent = {client: 0 for client in made}
    deadline = time.monotonic() + seconds
    view = memoryview(data)
    while time.monotonic() < deadline and any(done < len(data) for done in sent.values()):
        moved = False
        for client in list(sent):
            try:
                if sent[client] < len(data):
                    sent[client] += client.send(view[sent[client]:sent[client] + 65_536])
                    moved = True
            except BlockingIOError:
                pass
            except OSError:
                del sent[client]
        if not moved:
            time.sleep(0.01)
    return list(sent)


def assert_within(node, group, budget=BUDGET):
    node.assert_up()
    assert group.kills() == 0, "the node was killed for want of memory"
    most = node.hwm_bytes()
    print(f"at most {most >> 20} MB of {budget >> 20}")
    assert most <= budget + CONSTANT, f"the node took {most >> 20} MB of {budget >> 20}"


def assert_forgotten(node):
    node.reported()
    wait_until(lambda: node.stat("accounting.connection_bytes") == 0,
               lambda: f"{node.stat('accounting.connection_bytes')} bytes are held for clients "
                       "that are gone", 20)


def counted(node, name):
    wait_until(lambda: node.stat(f"accounting.{name}") > 0, f"{name} does not count", 40)


def query(name):
    return wire.frame(pickle.dumps({"type": "cache-query", "metric": name}, protocol=2))


def ask(node, name, seconds=5):
    with wire.connect(node.port("carbonlink"), seconds) as connection:
        return wire.ask(connection, {"type": "cache-query", "metric": name})["datapoints"]


class Latency:
    """Asks for one metric, fifty times a second, beside an attack. It fails when an answer is wrong
    or does not come; the times are told, not judged."""

    def __init__(self, node, name, want):
        self.node, self.name, self.want = node, name, want
        self.times, self.failure = [], None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def run(self):
        try:
            with wire.connect(self.node.port("carbonlink"), 10) as connection:
                while not self.stop.wait(0.02):
                    since = time.perf_counter()
                    answer = wire.ask(connection, {"type": "cache-query", "metric": self.name})
                    self.times.append(time.perf_counter() - since)
                    assert answer["datapoints"] == self.want, answer
        except (OSError, EOFError, AssertionError) as error:
            self.failure = repr(error)

    def __exit__(self, kind, error, trace):
        self.stop.set()
        self.thread.join(15)
        times = sorted(self.times) or [0]
        print(f"{len(times)} answers, p50 {times[len(times) // 2] * 1e3:.1f} ms, "
              f"p99 {times[len(times) * 99 // 100] * 1e3:.1f} ms, max {times[-1] * 1e3:.1f} ms")
        if kind is None:
            assert not self.failure, f"an answer beside the attack: {self.failure}"
            assert len(self.times) > 10, f"{len(self.times)} answers beside the attack"


def send_plain(node):
    node.send([("plain.m", 7.5, NOW)])
    wait_for_points(node, [("plain.m", 7.5, NOW)])
    return [(NOW, 7.5)]


@real
def test_the_kernel_kills_what_outgrows_the_cgroup(memory_cgroup, start):  # noqa: F811
    """The control of the others: a process that holds as much as they send is killed."""
    code = "import sys; sys.stdin.read(1); held = [b'1' * (1 << 20) for _ in range(1500)]"
    memory_cgroup.limit(1 << 30)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.DEVNULL) as process:
        memory_cgroup.add(process.pid)
        process.communicate(b"x")
    assert process.returncode == -9 and memory_cgroup.kills() == 1


@real
def test_half_sent_questions(memory_cgroup, start):  # noqa: F811
    node = start_in(memory_cgroup, start)
    want = send_plain(node)
    half = struct.pack("!L", MIB) + bytes(7 * MIB // 10)
    with clients(node, "carbonlink", 1_500) as made, Latency(node, "plain.m", want):
        push(made, half, 10)
        assert_within(node, memory_cgroup)
        assert ask(node, "plain.m") == want
        counted(node, "requests_given_up")
    assert_within(node, memory_cgroup)
    assert_forgotten(node)


@real
def test_answers_that_nobody_reads(memory_cgroup, start):  # noqa: F811
    node = start_in(memory_cgroup, start)
    want = send_plain(node)
    values = random.Random(12)
    points = [("long.m", values.random(), NOW - 500_000 + age) for age in range(500_000)]
    node.send(points)
    node.send([("long.m", 1.0, NOW)])
    wait_until(lambda: ask(node, "long.m", 30)[-1] == (NOW, 1.0), "the points have not come", 60)
    with clients(node, "carbonlink", 300, 4_096) as made, Latency(node, "plain.m", want):
        push(made, query("long.m"), 5)
        counted(node, "slow_readers")
        assert_within(node, memory_cgroup)
    assert ask(node, "long.m", 30) == [
        *((timestamp, value) for _, value, timestamp in points), (NOW, 1.0)]
    assert_within(node, memory_cgroup)
    assert_forgotten(node)


@real
def test_many_large_bulk_questions(memory_cgroup, start):  # noqa: F811
    node = start_in(memory_cgroup, start)
    want = send_plain(node)
    names = [f"b.{number:05}" for number in range(60_000)]
    points = [(name, number, NOW - age) for age in range(2) for number, name in enumerate(names)]
    node.send(points)
    wait_for_points(node, points[:1] + points[-1:])
    question = wire.frame(pickle.dumps({"type": "cache-query-bulk", "metrics": names}, protocol=2))
    answers, lock = [], threading.Lock()

    def ask_bulk(number):
        with wire.connect(node.port("carbonlink"), 60) as connection:
            connection.sendall(question)
            if number == 0:
                answer = pickle.loads(wire.receive_frame(connection))
                ok = answer["datapointsByMetric"] == {
                    name: [(NOW - 1, value), (NOW, value)] for value, name in enumerate(names)}
            else:
                ok = len(wire.receive_frame(connection)) > 60_000 * 60
        with lock:
            answers.append(ok)

    threads = [threading.Thread(target=ask_bulk, args=(number,)) for number in range(60)]
    with Latency(node, "plain.m", want):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert answers == [True] * 60, f"{answers.count(True)} of 60 bulk answers are whole"
    assert_within(node, memory_cgroup)
    assert_forgotten(node)


@real
def test_an_answer_larger_than_its_share_is_refused(memory_cgroup, start):  # noqa: F811
    budget = 64 << 20
    node = start_in(memory_cgroup, start, budget)
    want = send_plain(node)
    node.send([("long.m", age / 3, NOW - 200_000 + age) for age in range(200_000)])
    wait_until(lambda: node.stat("accounting.waiting") > 200_000, "the points have not come", 60)
    for request in ({"type": "cache-query", "metric": "long.m"},
                    {"type": "cache-query-bulk", "metrics": ["plain.m", "long.m"]}):
        answer = wire.ask_once(node.port("carbonlink"), request)
        assert "memory-budget" in answer.get("error", ""), str(answer)[:200]
    counted(node, "answers_too_large")
    assert ask(node, "plain.m") == want
    assert_forgotten(node)


@real
def test_a_flood_at_one_port_takes_nothing_from_the_others(memory_cgroup, start):  # noqa: F811
    node = start_in(memory_cgroup, start, 64 << 20)
    want = send_plain(node)
    large = [(f"flood.large.m{number}", number, NOW) for number in range(60_000)]
    floods = {
        "pickle": struct.pack("!L", 4 * MIB) + bytes(3 * MIB),
        "carbonlink": struct.pack("!L", MIB) + bytes(7 * MIB // 10),
        "line": b"n" * 16_000,
    }
    drops = {"pickle": "pickle_no_memory", "line": "line_no_memory"}
    for kind, data in floods.items():
        with clients(node, kind, 200 if kind != "line" else 2_000) as made:
            push(made, data, 3)
            with Probe(node) as probe:
                assert ask(node, "plain.m") == want
                batch = large if kind != "pickle" else large[:1]
                wire.send(node.port("pickle"), wire.pickled(batch))
                wait_for_points(node, batch[::1_000], f"a pickle beside a flood of {kind}")
            probe.arrived()
            if kind in drops:
                wait_until(lambda: node.dropped().get(drops[kind], 0) > 0,
                           f"{drops[kind]} does not count", 20)
            else:
                counted(node, "requests_given_up")
        assert_forgotten(node)
    assert_within(node, memory_cgroup, 64 << 20)
