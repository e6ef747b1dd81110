"""What `carbyne loadgen` sends, read by Python: lines, and frames as carbon-relay pickles them."""

import json
import pickle
import socket
import struct
import subprocess
import threading

import node as nodes

START = 1_700_000_000


def received(count, *arguments):
    """Runs the sender against plain sockets; what each of its connections sent, and the summary."""
    listener = socket.create_server(("127.0.0.1", 0))
    streams = [bytearray() for _ in range(count)]

    def read(connection, stream):
        with connection:
            while piece := connection.recv(1 << 16):
                stream += piece

    command = nodes.real_command() + [
        "loadgen", "--json", "--carbon", f"127.0.0.1:{listener.getsockname()[1]}",
        "--agents", str(count), "--start", str(START), "--step", "60", *arguments]
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    threads = []
    for stream in streams:
        listener.settimeout(30)
        threads.append(threading.Thread(target=read, args=(listener.accept()[0], stream)))
        threads[-1].start()
    summary = json.loads(sender.communicate(timeout=60)[0])
    for thread in threads:
        thread.join()
    assert sender.returncode == 0
    assert summary["bytes"] == sum(map(len, streams))
    return [bytes(stream) for stream in streams], summary


def frames(stream):
    while stream:
        length, = struct.unpack_from("!L", stream)
        yield stream[4:4 + length]
        stream = stream[4 + length:]


def by_agent(points):
    """Checks that the points of a round follow one another; gives the agent's number."""
    agents = {name.split(".")[3] for name, _ in points}
    assert len(agents) == 1
    return agents.pop()


def test_pickles_are_those_of_carbon_relay():
    streams, summary = received(2, "--protocol", "pickle", "--metrics", "1101", "--rounds", "3")
    assert summary["points"] == 2 * 3 * 1101
    for stream in streams:
        decoded = [pickle.loads(frame) for frame in frames(stream)]
        assert [len(points) for points in decoded] == [500, 500, 101] * 3
        # carbon's client pickles a list of (metric, (timestamp, value)) with protocol 2.
        for frame, points in zip(frames(stream), decoded):
            assert frame == pickle.dumps(points, protocol=2)
        agent = by_agent([point for points in decoded for point in points])
        for round_, first in enumerate(range(0, 9, 3)):
            points = sum(decoded[first:first + 3], [])
            for index, (name, (timestamp, value)) in enumerate(points):
                assert name == f"carbyne.loadgen.agent.{agent}.metrics.{index}"
                assert timestamp == START + 60 * round_ and 100 <= value < 1000


def test_a_single_point_is_pickled_as_python_does():
    (stream,), _ = received(1, "--protocol", "pickle", "--metrics", "1", "--rounds", "1")
    (frame,) = frames(stream)
    assert frame == pickle.dumps(pickle.loads(frame), protocol=2)


def test_lines_and_pickles_say_the_same():
    options = ["--metrics", "700", "--rounds", "4", "--churn", "0.1", "--leaves", "10"]
    (lines,), _ = received(1, *options)
    (pickles,), _ = received(1, "--protocol", "pickle", *options)
    from_lines = []
    for line in lines.decode().splitlines():
        name, value, timestamp = line.split(" ")
        from_lines.append((name, (float(timestamp), float(value))))
    from_pickles = [point for frame in frames(pickles) for point in pickle.loads(frame)]
    assert from_lines == from_pickles
    # A tenth of the metrics is new in each round but the first.
    assert len({name for name, _ in from_lines}) == 700 + 3 * 70
    assert len({point for _, point in from_lines}) > 2000
