"""Workloads beside others: hostile clients, and a busy disk.

As a program this is one of the others, until it is killed:

  perf/trouble.py bulk HOST:PORT     bulk questions of 20,000 names, one behind the other
  perf/trouble.py unread HOST:PORT   300 such questions, and reads no answer
  perf/trouble.py busy DIRECTORY     writes that keep a disk busy, synced every 16 MiB
"""

import mmap
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading
import time

from machine import FloorAnswer, Node, fail, loadgen, probe
from workloads import BUDGET, CACHE_ONLY, Row, some_names

NAMES = 20_000
CONNECTIONS = 300
WRITERS = 4
KILLS = 5
POINTS_PER_S = 100_000


def bulk_question():
    names = [f"carbyne.loadgen.agent.{n % 4}.metrics.{n // 40}.{n // 4 % 10}" for n in range(NAMES)]
    body = pickle.dumps({"type": "cache-query-bulk", "metrics": names}, protocol=2)
    return struct.pack("!I", len(body)) + body


def connect(target):
    host, port = target.rsplit(":", 1)
    return socket.create_connection((host, int(port)))


def bulk(target):
    question, buffer = bulk_question(), bytearray(1 << 20)
    connection = connect(target)
    while True:
        connection.sendall(question)
        size = struct.unpack("!I", connection.recv(4, socket.MSG_WAITALL))[0]
        while size > 0:
            size -= connection.recv_into(buffer, min(size, len(buffer)))


def unread(target):
    question = bulk_question()
    connections = [connect(target) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.setblocking(False)
    rests = dict.fromkeys(connections, 0)
    while True:
        for connection, sent in rests.items():
            try:
                rests[connection] = (sent + connection.send(question[sent:])) % len(question)
            except OSError:
                pass
        time.sleep(0.05)


def busy(directory):
    def write(number):
        page = mmap.mmap(-1, 1 << 20)
        page.write(os.urandom(1 << 20))
        flags = os.O_WRONLY | os.O_CREAT | os.O_DIRECT
        file = os.open(os.path.join(directory, f"busy.{number}"), flags)
        while True:
            for place in range(256):
                os.pwrite(file, page, place << 20)
                if place % 16 == 15:
                    os.fsync(file)
    for number in range(WRITERS):
        threading.Thread(target=write, args=(number,), daemon=True).start()
    threading.Event().wait()


class Beside:
    """While entered, one of the above runs."""

    def __init__(self, what, where):
        self.command = [sys.executable, __file__, what, str(where)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command)
        time.sleep(1)
        return self

    def __exit__(self, *_):
        if self.process.poll() is not None:
            fail(f"{' '.join(self.command)} has ended by itself")
        self.process.kill()
        self.process.wait()


def hostile(setup):
    """Carbonlink at 500 questions a second beside hostile clients of it, 2 shards, 5 points waiting"""
    rows = []
    with Node(setup.home / "hostile", 2, BUDGET, CACHE_ONLY) as node, FloorAnswer() as other:
        loadgen(node.ports["line tcp"], *setup.stream(4, 5, setup.start_s, 60))
        node.settle()
        target, names = node.ports["carbonlink"], some_names(setup)
        quiet = probe(target, 500, 3, names)
        rows.append(answer_row("no other client", [quiet], None))
        for what, text in [("bulk", "questions of 20,000 names, one behind the other"),
                           ("unread", "300 such questions, their answers not read")]:
            with Beside(what, target):
                answers, floors = [], []
                for _ in range(setup.turns):
                    answers.append(probe(target, 500, 2, names))
                    floors.append(probe(other, 500, 2, names))
            rows.append(answer_row(text, answers, floors))
    return rows


def answer_row(text, answers, floors):
    p99 = [answer["p99"] / 1e3 for answer in answers]
    ratios = [mine / (base["p99"] / 1e3) for mine, base in zip(p99, floors)] if floors else ()
    middle = sorted(answers, key=lambda answer: answer["p99"])[len(answers) // 2]
    return Row(f"answering time p99: {text}", "ms", p99, ratios, "≤ 10 ms",
               note=f"p50 {middle['p50']} µs, p99.9 {middle['p999'] / 1e3:.1f} ms, "
                    f"max {middle['max'] / 1e3:.1f} ms")


def window(setup):
    """What kill -9 costs, 1 shard, sync-mode power: how far back the first lost point was sent"""
    lost = [kill(setup) for _ in range(KILLS)]
    rows = [lost_row("the log's disk has nothing else to do", lost)]
    with Beside("busy", setup.home):
        lost = [kill(setup) for _ in range(3 * KILLS)]
    return rows + [lost_row("4 other writers keep it busy", lost)]


def kill(setup):
    """One kill of a new node."""
    with Node(setup.home / "window", 1, BUDGET, CACHE_ONLY, log="power") as node:
        return lost_ms(setup, node)


def lost_ms(setup, node):
    """Sends a point a millisecond, beside others, kills the node, and looks what it still has: how
    many milliseconds before its end the first point that is gone was sent."""
    others = loadgen(node.ports["line tcp"], *setup.stream(4, 1_000_000, setup.start_s), "--rate",
                     POINTS_PER_S, "--duration", 60, background=True)
    sent = []
    with connect(node.ports["line tcp"]) as connection:
        until = time.monotonic() + random.uniform(1, 2)
        while (now := time.monotonic()) < until:
            connection.sendall(f"window.point {len(sent)} {setup.start_s + len(sent)}\n".encode())
            sent.append(now)
            time.sleep(0.001)
    ended = time.monotonic()
    node.crash()
    others.kill()
    others.wait()
    node.start()
    # A new point is received when everything is replayed.
    with connect(node.ports["line tcp"]) as connection:
        connection.sendall(f"window.after 1 {setup.start_s}\n".encode())
    while not node.points("window.after"):
        time.sleep(0.05)
    kept = len(node.points("window.point"))
    if not kept:
        fail("none of a second's points is left")
    return 1e3 * (ended - sent[kept]) if kept < len(sent) else 0


def lost_row(text, lost):
    return Row(f"lost before the end: {text}", "ms", lost, digits=0,
               note=f"{len(lost)} kills, {POINTS_PER_S:,} points a second, commits every 50 ms")


WORKLOADS = {"hostile": hostile, "window": window}

if __name__ == "__main__":
    {"bulk": bulk, "unread": unread, "busy": busy}[sys.argv[1]](sys.argv[2])
