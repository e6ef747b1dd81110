"""The protocols as a client speaks them. Everything goes to loopback and every wait has an end."""

import pickle
import socket
import struct

SECONDS_MAX = 20


def line(name, value, timestamp):
    """One datapoint of the line protocol, with its newline."""
    return f"{name} {value} {timestamp}\n".encode()


def lines(points):
    return b"".join(line(*point) for point in points)


def frame(body):
    """A message of the pickle and carbonlink ports."""
    return struct.pack("!L", len(body)) + body


def pickled(points, protocol=2):
    """(name, value, timestamp) points as one message of the pickle port."""
    return frame(pickle.dumps([(name, (timestamp, value)) for name, value, timestamp in points],
                              protocol=protocol))


def connect(port, seconds=SECONDS_MAX):
    connection = socket.create_connection(("127.0.0.1", port), timeout=seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(port, data, seconds=SECONDS_MAX):
    """Sends everything on a connection of its own. An early close by the other side is no error:
    what arrived is checked by reading it back."""
    with connect(port, seconds) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise
        except OSError:
            pass  # reset, broken, or not connected any more


def send_udp(port, datagrams):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for datagram in datagrams:
            out.sendto(datagram, ("127.0.0.1", port))


def receive_exactly(connection, size):
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            raise ConnectionError(f"closed after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


def receive_frame(connection):
    return receive_exactly(connection, struct.unpack("!L", receive_exactly(connection, 4))[0])


def ask(connection, request, protocol=2):
    """One carbonlink question on an open connection."""
    connection.sendall(frame(pickle.dumps(request, protocol=protocol)))
    return pickle.loads(receive_frame(connection))


def ask_once(port, request, protocol=2):
    with connect(port) as connection:
        return ask(connection, request, protocol)


def read_to_end(connection):
    """Everything until the other side closes, at most 16 MB; a reset counts as a close."""
    data = bytearray()
    try:
        while len(data) < 1 << 24:
            part = connection.recv(1 << 16)
            if not part:
                break
            data += part
    except ConnectionResetError:
        pass
    return bytes(data)
