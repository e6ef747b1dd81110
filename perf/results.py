"""Prints tables, and keeps those of the last run of each kind in perf/results.md."""

import os
import re
import shlex
import subprocess
import sys

from machine import ROOT, cores, model

FILE = ROOT / "perf" / "results.md"
HEAD = ["what", "median (least–greatest)", "ratio to floor", "target", "note"]


def show(name, title, rows, took_s):
    print(f"\n{name}: {title} ({took_s:.0f} s)")
    cells = [HEAD] + [row.cells() for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    for line in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    sys.stdout.flush()


def table(title, rows):
    lines = [HEAD, ["---"] * len(HEAD)] + [row.cells() for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"### {title}\n\n{text}\n"


def commit():
    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True,
                              check=False).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!perf/results.md")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "") or "unknown"


def write(given, tables, date, others, took_s):
    """Replaces the section of this kind of run, or appends it."""
    # Where the files were is no part of the kind of run.
    options = [word for before, word in zip(sys.argv, sys.argv[1:])
               if not word.startswith("--dir") and before != "--dir"]
    command = shlex.join(["perf/run", *options])
    kind = f"`{command}`"
    begin, end = f"<!-- {command}: begin -->", f"<!-- {command}: end -->"
    section = "\n".join([
        begin, f"## {kind}", "",
        f"{date}, commit {commit()}, {len(cores())} cores of {model()}, Linux "
        f"{os.uname().release}, {given.metrics:,} metrics, files on "
        f"{given.fs if given.fs != 'none' else 'the file system of the directory'}. Everything else "
        f"on the machine, kernel threads included, used {others:.2f} cores meanwhile. It took "
        f"{took_s:.0f} s.", "",
        *(table(title, rows) for _, title, rows in tables), end]) + "\n"
    text = FILE.read_text() if FILE.exists() else ""
    old = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.S)
    if old.search(text):
        text = old.sub(lambda _: section, text)
    else:
        text = text.rstrip("\n") + "\n\n" + section
    FILE.write_text(text)
    print(f"written: {FILE.relative_to(ROOT)}")
