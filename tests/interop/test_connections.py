"""Clients that misbehave on a connection: endless, random, idle, slow, malformed, deaf."""

import pickle
import random
import select
import socket
import struct
import time

import wire
from checks import Probe, check, closed_within, wait_for_points, wait_until
from node import raise_file_limit

NOW = int(time.time())
STREAMS = ["line", "pickle", "carbonlink"]


def push(connection, data, bytes_max):
    """Sends `data` again and again until the other side closes or `bytes_max` are out."""
    sent = 0
    try:
        while sent < bytes_max:
            sent += connection.send(data)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return sent


@check(bug="endless-line", sees="endless line")
def test_row_26_endless_line(start):
    node = start()
    endless = (64 if start.real else 16) << 20
    with Probe(node) as probe:
        for _ in range(3):
            with wire.connect(node.port("line")) as connection:
                sent = push(connection, b"x" * 65_536, endless)
                assert sent < endless, "an endless line is read for ever"
    probe.arrived()
    node.assert_memory(32 << 20, "by endless lines")
    assert len(node.log()) < 1 << 18, "the line is logged"


@check(bug="garbage-kills", sees="died|disturbed")
def test_row_27_binary_garbage(start):
    node = start()
    dice = random.Random(27)
    with Probe(node) as probe:
        for kind in STREAMS:
            for _ in range(4 if kind == "line" else 1):
                with wire.connect(node.port(kind)) as connection:
                    push(connection, dice.randbytes(4 << 20), 4 << 20)
            # and inside a frame of the right length
            if kind != "line":
                wire.send(node.port(kind), b"".join(
                    wire.frame(dice.randbytes(dice.randrange(1, 2000))) for _ in range(200)))
        wire.send_udp(node.port("udp"), [dice.randbytes(dice.randrange(1, 1400))
                                         for _ in range(3000)])
        node.assert_up()
    probe.arrived()
    node.reported()
    assert node.dropped_sum() > 0, "garbage is not counted"
    node.assert_memory(64 << 20, "by garbage")
    assert len(node.log()) < 1 << 18, "garbage is logged line by line"


# Not run clean: a Python server needs more than the 4 KB a connection that a node may use.
@check(bug="idle-forever", sees="still open", clean=False)
def test_row_28_ten_thousand_idle_connections(start):
    raise_file_limit()
    count = 10_000 if start.real else 200
    node = start(tcp={"max-connections": 12_000, "idle-timeout": "5s"})
    connections = []
    try:
        with Probe(node) as probe:
            for _ in range(count):
                connections.append(wire.connect(node.port("line"), 60))
            wanted = (count * 4 << 10) + (16 << 20)
            if start.real:
                node.assert_memory(wanted, f"by {count} idle connections")
            poll = select.poll()
            still_open = {connection.fileno() for connection in connections}
            for number in still_open:
                poll.register(number, select.POLLIN)

            def all_closed():
                for number, _ in poll.poll(100):
                    poll.unregister(number)
                    still_open.discard(number)
                return not still_open

            wait_until(all_closed, lambda: f"{len(still_open)} idle connections are still open", 90)
        probe.arrived()
    finally:
        for connection in connections:
            connection.close()


SLOW = {"message-timeout": "2s", "idle-timeout": "2m"}
DRIPS = {"line": (b"", b"m"), "pickle": (struct.pack("!L", 50_000), b"("),
         "carbonlink": (struct.pack("!L", 900), b"(")}


@check(bug="deadline-per-byte", sees="still dripping")
def test_row_29_slow_senders(start):
    node = start(tcp=SLOW, pickle=SLOW, carbonlink={"read-timeout": "2s", "idle-timeout": "2m"})
    dripping = []
    with Probe(node) as probe:
        for kind, (first, drip) in DRIPS.items():
            for _ in range(100):
                connection = wire.connect(node.port(kind))
                connection.sendall(first)
                dripping.append((kind, connection, drip))
        deadline = time.monotonic() + (40 if start.real else 8)
        while dripping and time.monotonic() < deadline:
            for entry in list(dripping):
                try:
                    entry[1].send(entry[2])
                except OSError:
                    entry[1].close()
                    dripping.remove(entry)
            time.sleep(0.25)  # the drip
        kinds = sorted({kind for kind, _, _ in dripping})
        assert not dripping, f"{len(dripping)} slow senders are still dripping on {kinds}"
    probe.arrived()
    node.assert_memory(32 << 20, "by slow senders")


def requests():
    for protocol in range(6):
        yield pickle.dumps({"type": "cache-query", "metric": "mutated.m"}, protocol=protocol)
        yield pickle.dumps({"type": "cache-query-bulk", "metrics": ["mutated.m", "b"]},
                           protocol=protocol)
        yield pickle.dumps({"type": "get-metadata", "metric": "mutated.m",
                            "key": "aggregationMethod"}, protocol=protocol)


def malformed():
    """Every prefix, and every byte changed in three ways, of valid requests."""
    for body in requests():
        for length in range(len(body)):
            yield body[:length]
        for at in range(len(body)):
            for changed in (body[at] ^ 1, 0x00, 0xFF):
                yield body[:at] + bytes([changed]) + body[at + 1:]


@check(bug="carbonlink-dies", sees="died")
def test_row_30_malformed_carbonlink_requests(start):
    node = start()
    cases = sorted(set(malformed()))
    if not start.real:
        cases = cases[::20] + [b"\x80\x04"]
    with Probe(node) as probe:
        for body in cases:
            try:
                with wire.connect(node.port("carbonlink")) as connection:
                    connection.sendall(wire.frame(body))
                    connection.shutdown(socket.SHUT_WR)
                    wire.read_to_end(connection)
            except TimeoutError:
                raise AssertionError(f"neither answered nor closed: {body.hex()}") from None
            except OSError:
                node.assert_up()
            if not node.alive():
                node.assert_up()
        for head in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x10\x00\x01"):
            with wire.connect(node.port("carbonlink")) as connection:
                connection.sendall(head)
                closed_within(connection, f"a frame of {head.hex()} bytes is waited for")
    probe.arrived()
    node.assert_memory(32 << 20, "by malformed requests")


def held(port, client_port):
    """Whether the node's process still owns its end of the connection."""
    for row in open("/proc/net/tcp", encoding="ascii"):
        fields = row.split()
        if fields[1].endswith(f":{port:04X}") and fields[2].endswith(f":{client_port:04X}"):
            return fields[9] != "0"  # the inode: an end without a process has none
    return False


@check(bug="unbounded-output", sees="memory grew")
def test_row_31_client_that_never_reads(start):
    node = start(whisper={"flush-interval": "1h"}, schemas=[("all", ".*", "1s:3h")],
                 carbonlink={"read-timeout": "3s"})
    points = [("deaf.m", age, NOW - age) for age in range(5000)]
    node.send(points)
    wait_for_points(node, points)
    question = wire.frame(pickle.dumps({"type": "cache-query", "metric": "deaf.m"}, protocol=2))
    queries = question * (20_000 if start.real else 3000)
    with Probe(node) as probe, wire.connect(node.port("carbonlink"), 3) as connection:
        client_port = connection.getsockname()[1]
        wait_until(lambda: held(node.port("carbonlink"), client_port), "never accepted")
        try:
            connection.sendall(queries)
        except OSError:
            pass  # not read any more, or closed: both are fine
        wait_until(lambda: not held(node.port("carbonlink"), client_port),
                   lambda: f"still held; memory grew by "
                   f"{(node.hwm_bytes() - node.hwm_at_start) >> 20} MB", 150)
    probe.arrived()
    node.assert_memory(32 << 20, "by answers that nobody reads")
