"""Fixtures: `start` makes nodes and sees that each ends well; see checks.py for how a test runs."""

import atexit
import os
import shutil
import tempfile

import pytest

import checks
import node as nodes
from disks import disks  # noqa: F401, a fixture

os.environ.setdefault("GRAPHITE_SETTINGS_MODULE", "graphite_settings")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "graphite.settings")
os.environ["GRAPHITE_STORAGE_DIR"] = tempfile.mkdtemp(prefix="graphite-")
atexit.register(shutil.rmtree, os.environ["GRAPHITE_STORAGE_DIR"], ignore_errors=True)


def pytest_generate_tests(metafunc):
    runs = getattr(metafunc.function, "runs", None)
    if runs:
        metafunc.parametrize("start", runs, indirect=True, ids=[kind for kind, _ in runs])


class Starter:
    """Starts nodes of one kind. `idle_seconds` is how long a test of idleness should last."""

    def __init__(self, kind, bug, home):
        self.kind, self.bug, self.home = kind, bug, home
        self.real = kind == "carbyne"
        self.idle_seconds = 36 if self.real else 2
        self.nodes = []

    def make(self, schemas=None, aggregation=(), data=None, **settings):
        """A node that is configured but not started."""
        command = nodes.real_command() if self.real else nodes.fake_command(self.bug)
        made = nodes.Node(command, self.home / f"node-{len(self.nodes)}",
                          settings, schemas, aggregation, data)
        self.nodes.append(made)
        return made

    def __call__(self, **options):
        return self.make(**options).start()

    def finish(self):
        """Stops what still runs; only a node without a planted bug must end cleanly."""
        for made in self.nodes:
            if made.alive() and self.bug is None:
                made.stop()

    def kill_all(self):
        for made in self.nodes:
            made.kill()


@pytest.fixture
def start(request, tmp_path):
    kind, bug = request.param
    starter = Starter(kind, bug, tmp_path)
    checks.patience_s = 5 if bug else 600
    try:
        yield starter
        if not request.node.stash.get(FAILED, False):
            starter.finish()
    finally:
        starter.kill_all()


FAILED = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.stash[FAILED] = report.failed
