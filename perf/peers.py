"""Peers under the same load, where they can be had: carbon-cache of tests/.venv."""

import shutil
import socket
import subprocess
import time

from machine import ROOT, before_start, cores, cpu_s, fail, loadgen, resident_bytes
from workloads import Row, floor_a, micros

VENV = ROOT / "tests" / ".venv" / "bin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def carbon_cache(setup):
    """carbon-cache (Python): CPU per received point, cache only, 4 connections"""
    if not (VENV / "carbon-cache.py").exists():
        fail("--peers needs tests/.venv: run tests/run interop once")
    home = setup.home / "carbon"
    for name in ["conf", "whisper", "log"]:
        (home / name).mkdir(parents=True)
    line, other = free_port(), [free_port() for _ in range(3)]
    (home / "conf" / "carbon.conf").write_text(
        f"[cache]\nLOCAL_DATA_DIR = {home}/whisper\nLOG_DIR = {home}/log\nPID_DIR = {home}\n"
        f"CONF_DIR = {home}/conf\nSTORAGE_DIR = {home}\nMAX_CACHE_SIZE = inf\n"
        f"MAX_UPDATES_PER_SECOND = 1\nMAX_CREATES_PER_MINUTE = inf\nENABLE_LOGROTATION = False\n"
        f"LINE_RECEIVER_INTERFACE = 127.0.0.1\nLINE_RECEIVER_PORT = {line}\n"
        f"PICKLE_RECEIVER_PORT = {other[0]}\nCACHE_QUERY_PORT = {other[1]}\n"
        f"ENABLE_UDP_LISTENER = False\nLOG_UPDATES = False\nUSE_FLOW_CONTROL = False\n")
    (home / "conf" / "storage-schemas.conf").write_text(
        "[all]\npattern = .*\nretentions = 60s:12h,5m:2d\n")
    command = [VENV / "python", VENV / "carbon-cache.py", f"--config={home}/conf/carbon.conf",
               f"--pidfile={home}/pid", "--nodaemon", "start"]
    with open(home / "out", "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out,
                                   env={"GRAPHITE_ROOT": str(home), "GRAPHITE_NO_PREFIX": "True"},
                                   preexec_fn=before_start(cores()[:1], None))
    try:
        return measured(setup, process, line, home)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def measured(setup, process, line, home):
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", line)).close()
            break
        except OSError:
            if time.monotonic() > until or process.poll() is not None:
                fail(f"carbon-cache does not start: {(home / 'out').read_text()[-1000:]}")
            time.sleep(0.1)
    target = f"127.0.0.1:{line}"
    loadgen(target, *setup.stream(4, 1, setup.start_s), cpus=cores()[1:])
    rest(process.pid)
    before, bytes_before = cpu_s(process.pid), resident_bytes(process.pid)
    sent = loadgen(target, *setup.stream(4, 4, setup.start_s + 60, 60), cpus=cores()[1:])
    rest(process.pid)
    us = micros(cpu_s(process.pid) - before, sent["points"])
    per_point = (resident_bytes(process.pid) - bytes_before) / sent["points"]
    base = floor_a(setup)
    return [Row("CPU per point", "µs", [us], [us / base["us"]]),
            Row("memory per waiting point, 2nd to 5th", "B", [per_point], digits=0)]


def rest(pid):
    """Waits until a process uses less than a fifth of a core for half a second."""
    while True:
        before = cpu_s(pid)
        time.sleep(0.5)
        if cpu_s(pid) - before < 0.1:
            return
