"""The wall clock of nodes, by libfaketime: it stands still where a test sets it, and a running node
follows at once. What the node waits with is another clock, which goes on."""

import glob

# The times of files stay true: a node that compares them sees what the kernel wrote.
SETTINGS = {"FAKETIME_FMT": "%s", "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1"}


class Clock:
    """The clock of all nodes that are started from here on."""

    def __init__(self, monkeypatch, home, now=None):
        found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        assert found, "needs libfaketime: apt-get update && apt-get install -y libfaketime"
        self.path, self.now = home / "clock", None
        preload = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": str(self.path)}
        for name, value in {**preload, **SETTINGS}.items():
            monkeypatch.setenv(name, value)
        if now is not None:
            self.set(now)

    def set(self, now):
        written = self.path.with_suffix(".new")
        written.write_text(f"{now}\n")
        written.rename(self.path)
        self.now = now

    def move(self, seconds):
        self.set(self.now + seconds)
