"""A memory limit of the kernel's own, in a cgroup made for one test: v2, or v1's memory controller.

It is made below the group that the tests run in, so that limits on that one hold too; with v2,
where a group with processes cannot have groups with limits below it, beside that one.
"""

import os
import pathlib
import time

import pytest


class MemoryCgroup:
    def __init__(self, directory, limit_name, events_name):
        self.directory = directory
        self.limit_name, self.events_name = limit_name, events_name

    def limit(self, limit_bytes):
        (self.directory / self.limit_name).write_text(str(limit_bytes))

    def add(self, pid):
        """Moves a process, as one with all its threads. What it uses already is not counted."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def kills(self):
        """Processes that the kernel has killed for want of memory."""
        events = (self.directory / self.events_name).read_text().split()
        return int(events[events.index("oom_kill") + 1])

    def remove(self):
        deadline = time.monotonic() + 10
        while True:
            try:
                return self.directory.rmdir()
            except OSError:
                # A process that has ended leaves its group a moment later.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def own_paths():
    """The groups of this process, by their controllers; v2's has no name."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().split()
    return {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}


def mounts():
    """Where each hierarchy is mounted, by its controllers; v2 has no name."""
    found = {}
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, target, kind, options = line.split()[:4]
        if kind == "cgroup2":
            found[""] = pathlib.Path(target)
        elif kind == "cgroup" and "memory" in options.split(","):
            found["memory"] = pathlib.Path(target)
    return found


def make():
    paths, where, problems = own_paths(), mounts(), []
    name = f"carbyne-test-{os.getpid()}-{time.monotonic_ns()}"
    if "memory" in where:
        own = next(path for names, path in paths.items() if "memory" in names.split(","))
        group = MemoryCgroup(where["memory"] / own.lstrip("/") / name,
                             "memory.limit_in_bytes", "memory.oom_control")
    elif "" in where:
        parent = (where[""] / paths[""].lstrip("/")).parent if paths[""] != "/" else where[""]
        group = MemoryCgroup(parent / name, "memory.max", "memory.events")
    else:
        pytest.fail("needs a cgroup with a memory limit, but none is mounted: "
                    "mount -t cgroup2 none /sys/fs/cgroup")
    try:
        group.directory.mkdir()
        if group.limit_name == "memory.max" and not (group.directory / "memory.max").exists():
            (group.directory.parent / "cgroup.subtree_control").write_text("+memory")
        group.limit(1 << 30)
    except OSError as error:
        problems.append(str(error))
        if group.directory.exists():
            group.directory.rmdir()
    if problems:
        pytest.fail(f"needs a cgroup with a memory limit, and cannot make one in "
                    f"{group.directory.parent}: {problems[0]}. Run the tests as root, or in a unit "
                    f"that may: systemd-run --user -p Delegate=yes ...")
    return group


@pytest.fixture
def memory_cgroup():
    group = make()
    yield group
    group.remove()
