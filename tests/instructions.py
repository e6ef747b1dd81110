#!/usr/bin/env python3
"""Counts the instructions of each hot function and compares them with those checked in.

  tests/instructions.py            fails with the names of functions that take over 5 % more than
                                   benches/instructions.json says
  tests/instructions.py --write    writes that file anew, for a change that is meant

Counts come from `cargo bench --bench instructions` under valgrind. They do not depend on the
machine's speed or load. The code is built for every x86-64, and of the C library's functions, of
which it has several for different processors, those are taken that run on every one: so they do
not depend on the processor either. Random numbers that key the hash of the name table make them
differ from run to run, by less than 1 %; the compiler's version may make them differ more, and then
the file is to be written anew. gungraun keeps its own baselines below target/, where they cannot be
checked in.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches" / "instructions.json"
RISE_MAX = 0.05

# Without these features the C library's memcpy and memcmp are those for SSE2.
PINNED = "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-AVX512VL,-ERMS"


def fail(text):
    sys.exit(f"tests/instructions.py: {text}")


def count():
    """Instructions of each function."""
    tools = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tools" / "bin"
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    command = ["cargo", "bench", "--bench", "instructions", "--", "--output-format=json"]
    environment = {**os.environ, "PATH": path, "GLIBC_TUNABLES": PINNED}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail(f"{' '.join(command)} ended with status {done.returncode}")
    counts = {}
    for line in done.stdout.splitlines():
        summary = json.loads(line)
        metrics = summary["profiles"][0]["data"]["total"]["metrics"]
        counts[summary["function_name"]] = metrics["Ir"]["values"]["new"]
    return counts


def compare(baseline, counts):
    """Lines of a table, and what is wrong."""
    lines, wrong = [], []
    for name in sorted(baseline.keys() | counts.keys()):
        before, now = baseline.get(name), counts.get(name)
        if before is None or now is None:
            wrong.append(f"{name} is {'new' if now else 'gone'}: write the file anew")
            continue
        change = now / before - 1
        lines.append(f"{name:20} {before:12,} {now:12,} {change:+7.1%}")
        if change > RISE_MAX:
            wrong.append(f"{name} takes {change:.1%} more instructions: {before:,} became {now:,}")
    return lines, wrong


def self_test():
    """What a rise, a fall, a new and a lost function come to."""
    lines, wrong = compare({"a": 1000, "b": 1000, "c": 1000, "d": 1000},
                           {"a": 1051, "b": 1049, "c": 500, "e": 1000})
    assert len(lines) == 3, lines
    assert [text.split()[0] for text in wrong] == ["a", "d", "e"], wrong


def main():
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    self_test()
    counts = count()
    if not counts:
        fail("nothing was counted")
    if sys.argv[1:]:
        BASELINE.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n")
        print(f"wrote {BASELINE.relative_to(ROOT)}")
        return
    lines, wrong = compare(json.loads(BASELINE.read_text()), counts)
    print("\n".join(lines))
    if wrong:
        fail("\n  ".join(["too many instructions, or other functions:", *wrong]))


main()
