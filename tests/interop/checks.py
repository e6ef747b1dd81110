"""How a check is written, and how it is itself checked.

    @check(bug="no-lock", sees="both run")
    def test_second_instance_is_refused(start): ...

`start` starts a node with the settings it is given and returns it. The test then runs three times:
against the node under test; against the fake node as it is, where it must pass; and against the
fake node with `bug` planted, where it must fail with an assertion whose text matches `sees`.
`clean=False` leaves out the second run, with a reason beside it.
"""

import functools
import re
import threading
import time

import pytest

import wire

# The longest wait for a condition. A planted bug shows as a wait in vain, which need not be long.
# Set by the `start` fixture.
patience_s = 600


def check(bug, sees, clean=True):
    def decorate(function):
        @functools.wraps(function)
        def run(*arguments, start, **others):
            if start.bug is None:
                return blaming(start, function, *arguments, **others)
            try:
                blaming(start, function, *arguments, **others)
            except AssertionError as failure:
                assert re.search(sees, str(failure)), (
                    f"the planted bug {start.bug!r} was seen by the wrong assertion: {failure}")
                return None
            pytest.fail(f"the check passes although the bug {start.bug!r} is planted")
        run.runs = [("carbyne", None), (f"bug {bug}", bug)] + [("no bug", None)] * clean
        return run
    return decorate


def blaming(start, function, *arguments, **others):
    """Calls the check. A connection that fails because its node is gone is the node's failure."""
    try:
        return function(*arguments, start=start, **others)
    except (OSError, EOFError):
        for node in start.nodes:
            if node.process is not None and not node.stopped:
                node.assert_up()
        raise


def wait_until(condition, what, seconds=30, patient=False):
    """Polls until `condition()` is true and returns what it returned; fails with `what` (text, or a
    function that makes it). `patient` waits as long for a fake node's sake as for a real one's."""
    deadline = time.monotonic() + (seconds if patient else min(seconds, patience_s))
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)


def wait_for_points(node, points, what="points are missing", seconds=30):
    """Waits until every (name, value, timestamp) can be read, from the cache or from the file."""
    wanted = {}
    for name, value, timestamp in points:
        wanted.setdefault(name, {})[timestamp] = value
    missing = dict(wanted)

    def complete():
        found = node.points_of(list(missing))
        for name in list(missing):
            if all(found[name].get(t) == v for t, v in missing[name].items()):
                del missing[name]
        return not missing

    def describe():
        name = next(iter(missing))
        have = node.points(name)
        lost = sum(have.get(t) != v for t, v in wanted[name].items())
        return (f"{what}: {len(missing)} of {len(wanted)} metrics incomplete, e.g. {name} lacks "
                f"{lost} of {len(wanted[name])} points; has {list(have.items())[:3]}")

    wait_until(complete, describe, seconds)


class Probe:
    """Good traffic beside a fault: ten points a second on one connection that must stay open, each
    of them readable in the end; and the newest readable all the time, within `answer_seconds`."""

    def __init__(self, node, answer_seconds=10):
        self.node = node
        self.answer_seconds = answer_seconds
        self.points = []
        self.failure = None
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.connection = wire.connect(self.node.port("line"))
        self.question = wire.connect(self.node.port("carbonlink"), self.answer_seconds)
        self.thread.start()
        return self

    def run(self):
        try:
            sent = 0
            while not self.stop.wait(0.1):
                point = (f"probe.{sent % 10}", sent, int(time.time()))
                self.connection.sendall(wire.line(*point))
                self.points.append(point)
                sent += 1
                if sent % 5 == 0:
                    wire.ask(self.question, {"type": "cache-query", "metric": point[0]})
        except (OSError, EOFError) as error:
            self.failure = f"probe traffic was disturbed: {error!r}"

    def __exit__(self, kind, error, trace):
        self.stop.set()
        self.thread.join(self.answer_seconds + 5)
        self.connection.close()
        self.question.close()

    def arrived(self):
        """Call after the `with` block."""
        assert not self.failure, self.failure
        assert not self.thread.is_alive(), "probe traffic was disturbed: its thread hangs"
        newest = {}
        for name, value, timestamp in self.points:
            newest[name, timestamp] = value
        points = [(name, value, timestamp) for (name, timestamp), value in newest.items()]
        wait_for_points(self.node, points, "probe traffic was disturbed")


def closed_within(connection, what, seconds=20):
    """Waits until the other side has closed; anything it still sends is thrown away."""
    connection.settimeout(0.2)

    def closed():
        try:
            return connection.recv(65_536) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    wait_until(closed, what, seconds)


def real(function):
    """For a check that only the real node can take, because the fake one has no log. Such a check
    has a control of its own beside it: the same trouble where it must do harm."""
    function.runs = [("carbyne", None)]
    return function
