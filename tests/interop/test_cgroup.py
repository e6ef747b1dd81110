"""A node in control groups takes what they allow: the tightest of the groups that it is in decides
how many shards it has and how much memory. The groups are made below the one that the tests run
in."""

import contextlib
import os
import pathlib
import re

import pytest

from checks import real, wait_until

MIB = 1 << 20
QUOTA_US, PERIOD_US = 50_000, 100_000  # half a processor: one shard on any machine

# Enters the groups, then becomes the node.
ENTER = 'for file in $CARBYNE_GROUPS; do echo $$ > $file || exit 90; done; exec "$@"'


def own_group(controller):
    """The directory of our own group with this controller's limits, and whether it is v2."""
    groups, mounts = {}, []
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update({name: path for name in controllers.split(",")})
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        kind, _, options = after.split(" ")
        mounts.append((kind, before.split(" ")[3], before.split(" ")[4], options.split(",")))
    wanted, name = ("cgroup", controller) if controller in groups else ("cgroup2", "")
    for kind, top, point, options in mounts:
        if kind == wanted and (kind == "cgroup2" or controller in options):
            inside = os.path.relpath(groups[name], top)
            assert not inside.startswith(".."), f"{groups[name]} is not below {top}"
            return pathlib.Path(point) / inside, kind == "cgroup2"
    raise AssertionError(f"no control groups with {controller} are mounted")


class Groups:
    """Two groups, one in the other, for each controller. The outer one is tight, the inner one is
    not, and the node lives in the inner one."""

    def __init__(self, name):
        self.name, self.made, self.enter = name, [], {}

    def make(self, controller):
        base, self.is_v2 = own_group(controller)
        if self.is_v2 and (base / "cgroup.type").exists():
            base = base.parent  # a group of v2 with processes cannot have groups with controllers
        outer = base / self.name
        inner = outer / "inner"
        for group in (outer, inner):
            if group in self.made:
                continue
            if self.is_v2:
                (group.parent / "cgroup.subtree_control").write_text("+memory +cpu")
            group.mkdir()
            self.made.append(group)
        self.enter[inner / "cgroup.procs"] = None
        return outer, inner

    def limit_memory(self, outer_bytes, inner_bytes):
        outer, inner = self.make("memory")
        file = "memory.max" if self.is_v2 else "memory.limit_in_bytes"
        (outer / file).write_text(str(outer_bytes))
        (inner / file).write_text(str(inner_bytes))
        return outer / file

    def limit_cpu(self):
        outer, inner = self.make("cpu")
        if self.is_v2:
            (outer / "cpu.max").write_text(f"{QUOTA_US} {PERIOD_US}")
            return outer / "cpu.max"
        (outer / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (outer / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
        return outer / "cpu.cfs_quota_us"

    def remove(self):
        for group in reversed(self.made):
            procs = group / "cgroup.procs"
            wait_until(lambda: not procs.read_text().strip(), f"{group} is not empty")
            group.rmdir()


@pytest.fixture
def groups(request):
    made = Groups(f"carbyne-test-{os.getpid()}-{request.node.name[:20].replace('[', '-')}")
    try:
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def inside(start, groups, prefix=(), **settings):
    """A node that lives in the groups; whatever happens it is gone before they are removed."""
    node = start.make(**settings)
    files = " ".join(str(file) for file in groups.enter)
    node.command = ["env", f"CARBYNE_GROUPS={files}", "sh", "-c", ENTER, "sh",
                    *prefix, *node.command]
    try:
        yield node.start()
        node.stop()
    finally:
        node.kill()


def ready(node):
    """What the node says decided its size."""
    line = re.search(r'ready shards=(\d+) budget_bytes=(\d+) shards_by="(.*?)" budget_by="(.*?)"',
                     node.log())
    assert line, f"the node does not say what decided its size: {node.log()}"
    return int(line[1]), int(line[2]), line[3], line[4]


AUTO = {"common": {"shards": 0}, "cache": {"memory-budget": "auto"}}


@real
def test_the_tightest_group_decides(start, groups):
    memory_file = groups.limit_memory(256 * MIB, 512 * MIB)
    cpu_file = groups.limit_cpu()
    with inside(start, groups, **AUTO) as node:
        shards, budget, shards_by, budget_by = ready(node)
        assert (shards, shards_by) == (1, f"0.500 processors by {cpu_file}")
        assert (budget, budget_by) == (128 * MIB, f"half of {256 * MIB} bytes by {memory_file}")
        threads = pathlib.Path(f"/proc/{node.process.pid}/task")
        names = [(task / "comm").read_text().strip() for task in threads.iterdir()]
        assert [name for name in names if name.startswith("log-writer-")] == ["log-writer-0"], names
        assert "1 shards" in node.stdout()
        # What the shards have for points is the budget without the buffers of the log.
        node.reported()
        of_shards = node.stat("accounting.memory_budget_bytes")
        assert budget / 2 < of_shards <= budget, of_shards


@real
def test_a_tighter_inner_group_decides(start, groups):
    groups.limit_memory(512 * MIB, 192 * MIB)
    with inside(start, groups, **AUTO) as node:
        shards, budget, shards_by, budget_by = ready(node)
        assert budget == 96 * MIB and "/inner/memory." in budget_by, budget_by
        processors = len(os.sched_getaffinity(0))
        want = f"the {processors} processors that the process may use"
        assert (shards, shards_by) == (processors, want)


@real
def test_what_is_configured_counts(start, groups):
    groups.limit_memory(256 * MIB, 512 * MIB)
    groups.limit_cpu()
    settings = {"common": {"shards": 2}, "cache": {"memory-budget": "64MiB"}}
    with inside(start, groups, **settings) as node:
        assert ready(node) == (2, 64 * MIB, "[common] shards", "[cache] memory-budget")
        assert "memory-budget is" not in node.log()
    with inside(start, groups, cache={"memory-budget": "256MiB"}) as node:
        assert "memory-budget is 268435456 bytes, but /" in node.log()


@real
def test_processors_that_the_process_may_run_on(start, groups):
    core = max(os.sched_getaffinity(0))
    with inside(start, groups, prefix=["taskset", "-c", str(core)], **AUTO) as node:
        shards, _, shards_by, _ = ready(node)
        assert (shards, shards_by) == (1, "the 1 processors that the process may use")


@real
def test_a_namespace_that_is_mounted_elsewhere(start, groups, tmp_path):
    """As in a container: the node sees its own group as the top, and groups nowhere else."""
    groups.limit_memory(512 * MIB, 256 * MIB)
    point = tmp_path / "my groups"
    point.mkdir()
    kind = "cgroup2 none" if groups.is_v2 else "cgroup -o memory none"
    script = f"umount -l /sys/fs/cgroup && mount -t {kind} '{point}' && exec \"$@\""
    prefix = ["unshare", "--cgroup", "--mount", "sh", "-c", script, "sh"]
    with inside(start, groups, prefix=prefix, **AUTO) as node:
        _, budget, _, budget_by = ready(node)
        assert budget == 128 * MIB, budget_by
        assert f"bytes by {point}/memory." in budget_by, budget_by


@real
def test_groups_that_a_namespace_hides_are_told(start, groups):
    """The mount is from before the namespace: which group is ours in it cannot be known."""
    groups.limit_memory(512 * MIB, 256 * MIB)
    prefix = ["unshare", "--cgroup"]
    with inside(start, groups, prefix=prefix, **AUTO) as node:
        assert re.search(r"WARN .*limits of memory and processors may be missing: control group / "
                         r".*not mounted here as a whole", node.log()), node.log()
