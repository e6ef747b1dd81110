"""The relays that stand in front of a node: every point they take arrives."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

import wire
from checks import check, wait_for_points, wait_until
from node import SCHEMAS, schema_text

NOW = int(time.time())
POINTS = [(f"relayed.m{metric}", metric * 100 + age, NOW - age)
          for age in range(40) for metric in range(100)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Relay:
    """A relay process that listens on `port`; use with `with`."""

    def __init__(self, command, home, port, environment=None):
        self.port = port
        self.output = home / "relay.log"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                command, cwd=home, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})

    def __enter__(self):
        wait_until(self.accepts, lambda: f"the relay does not start: {self.text()}",
                   60, patient=True)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def text(self):
        return self.output.read_text(errors="replace")[-2000:]

    def accepts(self):
        assert self.process.poll() is None, f"the relay ended: {self.text()}"
        try:
            wire.connect(self.port).close()
            return True
        except OSError:
            return False


def carbon_relay(home, node, protocol):
    """carbon-relay with one destination, as carbon's own script starts it."""
    port, destination = free_port(), node.port("pickle" if protocol == "pickle" else "line")
    home.mkdir()
    # carbon reads the rules of a cache before it knows that it is a relay.
    (home / "storage-schemas.conf").write_text(schema_text(SCHEMAS))
    (home / "relay.conf").write_text(f"""[relay]
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = 0
RELAY_METHOD = consistent-hashing
DESTINATIONS = 127.0.0.1:{destination}:a
DESTINATION_PROTOCOL = {protocol}
MAX_QUEUE_SIZE = 100000
CARBON_METRIC_INTERVAL = 0
""")
    script = pathlib.Path(sys.executable).parent / "carbon-relay.py"
    command = [sys.executable, str(script), f"--config={home}/relay.conf", "--nodaemon",
               f"--pidfile={home}/relay.pid", f"--logdir={home}", "start"]
    return Relay(command, home, port, {
        "GRAPHITE_ROOT": str(home), "GRAPHITE_CONF_DIR": str(home),
        "GRAPHITE_STORAGE_DIR": str(home)})


def carbon_c_relay(home, node):
    port = free_port()
    home.mkdir()
    (home / "relay.conf").write_text(
        f"cluster node carbon_ch 127.0.0.1:{node.port('line')};\n"
        "match * send to node stop;\n"
        f"listen type linemode 127.0.0.1:{port} proto tcp;\n")
    return Relay(["carbon-c-relay", "-f", str(home / "relay.conf"), "-w", "2", "-s"], home, port)


def forward(relay, node):
    """Sends through the relay and waits until all of it can be read from the node."""
    with relay:
        with wire.connect(relay.port) as connection:
            connection.sendall(wire.lines(POINTS))
            wait_for_points(node, POINTS, "points were lost behind the relay", 90)
        node.assert_up()


@pytest.mark.parametrize("protocol", ["pickle", "line"])
@check(bug="relay-loses", sees="lost behind the relay")
def test_carbon_relay(start, tmp_path, protocol):
    node = start()
    forward(carbon_relay(tmp_path / "relay", node, protocol), node)


@check(bug="relay-loses", sees="lost behind the relay")
def test_carbon_c_relay(start, tmp_path):
    node = start()
    forward(carbon_c_relay(tmp_path / "relay", node), node)
