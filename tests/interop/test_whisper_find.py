"""`carbyne whisper find` beside graphite-web's StandardFinder: the same leaves and branches for a
table of patterns, for made-up ones, and for classes of all kinds.

`SEED=n tests/run -k whisper_find` repeats a run.
"""

import json
import os
import random
import subprocess

import django
import pytest
import whisper

from node import real_command

django.setup()

from graphite.finders.standard import StandardFinder  # noqa: E402  (needs django.setup)
from graphite.storage import FindQuery  # noqa: E402

SEED = int(os.environ.get("SEED") or random.randrange(1 << 32))
AGAIN = f"again with: SEED={SEED} tests/run -k whisper_find"
PATTERNS = 500
CLASSES = 500

NAMES = ["a.b.c", "a.b.d", "a.b", "a.c", "a.bb.c", "a.bc", "b.a.c", "b.c", "c", "ab", "abc.d.e.f.a",
         "servers.web01.cpu.user", "servers.web01.cpu.sys", "servers.web02.cpu.user",
         "servers.db1.cpu.user", "servers.web01.load", "{a.b,c}", "{a", "b}", "a,b", "[a.b]", "a[",
         "[", "]", "a]b", "[!]", "*", "a*b", "?", "^", "!a", "-", "a-c", "\u00e9", "\u00e9\u00e9.a",
         "a\u00e9b", "\u4e2d.\u6587", "\U0001f600", "A.B", "x y.z", "a&b|c~d", "a;b", "#.$.%",
         "carbon.agents.one-a.cpuUsage", "d.d.d.d.d", "d.d.a.d.a", "a.a.a"]
TAGGED = ["_tagged.eff.aae.effaae5b55950b150a7493d2f5430772ca2460bf7cccb4d9e523643df54c010f",
          "_tagged.117.540.a_DOT_b;x=y_DOT_z"]

TABLE = """
    a a.b a.* *.b * *.* *.*.* **  **.* a.** **.c **.a a.**.c **.d.** d.**.d **.d.d x.** **.** none
    a.{b,c} {a,b}.c {a,b}.* a.{b,bb}.c {a,{b,c}} {a,b{c,b}}.* {a.b,c} {a {a,b b} a,b [a.b] a[ a[*
    {ab,a.b} a{b,c a}b {a,b}} {{a,b} {a,{b,c} {}a {,a}b a.{,b}.c a{,.b} {,b}.c {,a}.{,b}.c {*,b}
    {**,a}.c {a*,[b]}.* {a,b}{b,c} [{a,b}] {[,a]} {a*,*b}.{c,d} {a,a}.{b,b} {a,}b.*
    [ab] [a-c] [!a] [!a-c] [^a] [ab [] []] []a] [!]a] [!]] [!] [ ] [[] []-a] [a-] [-a] [!-a] [a-c-e]
    [c-a] [!c-a] [c-ab] [z-a!b] [z-a!-c] [z-a^b] [a-a] [--a] [*] [?] [*]* a[*]b [a]* *[a] *[b]*
    [&&] [~~] [||] [a&&b] a[&]b[|]c[~]d [\u00e9] [\u00e0-\u00ff] [!\u00e9] [\u4e00-\u9fff].*
    ? ?? ??? a?b a?* *? ?* *?* \u00e9 \u00e9* *\u00e9 *\u00e9* ?.? [\U0001f600] ? \u4e2d.?
    a* *a a*b *a*b* a**b *** ***.c a.*.*  A.* a.B *.B x?y.z x*.z #.*.% $ a;b? a&b*
    servers.web*.cpu.* servers.*.cpu.{user,sys} servers.{web01,db1}.cpu.user servers.web[0-9]?.load
    servers.web0[!1].**  servers.*.{cpu,load} carbon.agents.*.cpuUsage **.cpu.user {servers,carbon}.**
    a..b .a ..a.b a..* *..c *...c a/b \\a a\\b a.\\b {a\\,b} [\\a] **.nothing nothing.** [a.*
    _tagged _tagged.* _tagged.*.*.* _tagged.eff.** _tagged.117.540.a_DOT_b;x=y_DOT_z _tag*.1*.**
""".split() + ["x y.z", "x*y.?"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The directory, and what asks both programs."""
    root = tmp_path_factory.mktemp("find") / "tree"
    master = root.parent / "master.wsp"
    whisper.create(str(master), [(60, 1)])
    for name in NAMES + TAGGED:
        path = root / (name.replace(".", "/") + ".wsp")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(master, path)
    return root


def theirs(root, pattern):
    nodes = StandardFinder([str(root)]).find_nodes(FindQuery(pattern, None, None))
    return {(node.path, node.is_leaf) for node in nodes}


def ours(root, *patterns):
    command = real_command() + ["whisper", "find", root, "--json", "--branches", "--", *patterns]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert not done.stderr, f"{patterns}: {done.stderr}; {AGAIN}"
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if found else 1), f"{patterns}; {AGAIN}"
    pairs = [(line["name"], line["isLeaf"]) for line in found]
    assert len(set(pairs)) == len(pairs), f"{patterns} found something twice; {AGAIN}"
    for line in found:
        path = line["path"]
        assert os.path.isfile(path) if line["isLeaf"] else os.path.isdir(path), line
    keys = [(name.encode().split(b"."), not is_leaf) for name, is_leaf in pairs]
    assert keys == sorted(keys), f"{patterns} out of order; {AGAIN}"
    return set(pairs)


def compare(root, pattern):
    """Gives how many nodes both have found."""
    want = theirs(root, pattern)
    got = ours(root, pattern)
    assert got == want, f"{pattern!r}; {AGAIN}"
    return len(want)


# With a second `**`, graphite-web looks for directories by names without their first letter.
CUT_OFF = {"**.d.**", "**.**"}


def test_a_table_of_patterns(tree):
    counts = {pattern: compare(tree, pattern) for pattern in TABLE if pattern not in CUT_OFF}
    assert sum(count > 0 for count in counts.values()) > 130, counts
    assert sum(count == 0 for count in counts.values()) > 15, counts


def test_two_patterns_of_any_depth(tree):
    assert ours(tree, "**.**") == ours(tree, "**") == theirs(tree, "**")
    want = {name for name, is_leaf in theirs(tree, "**") if is_leaf and ".d." in f".{name}"}
    assert {name for name, is_leaf in ours(tree, "**.d.**") if is_leaf} == want != set()


@pytest.mark.parametrize("pattern, want", [
    ("servers.web*.cpu.user", {"servers"}),
    # All its components are named: they are looked up.
    ("servers.{web01,db1}.cpu.{user,sys}", set()),
    # One list costs less than so many looks.
    ("servers.{web01,web02,%s}.load" % ",".join(f"other{n}" for n in range(15)), {"servers"}),
    ("servers.web*.*.user", {"servers", "servers/web01", "servers/web02"}),
    ("*.b", {""}),
    ("abc.**", {"abc", "abc/d", "abc/d/e", "abc/d/e/f"}),
    ("s*.db1.none.*", {""}),
])
def test_only_directories_that_can_match_are_read(tree, tmp_path, pattern, want):
    trace = tmp_path / "trace"
    done = subprocess.run(["strace", "-f", "-qq", "-y", "-e", "trace=getdents64", "-o", trace,
                           *real_command(), "whisper", "find", tree, pattern],
                          stdout=subprocess.PIPE, text=True)
    found = set(done.stdout.split())
    assert found == {name for name, is_leaf in theirs(tree, pattern) if is_leaf}
    assert done.returncode == (0 if found else 1)
    read = {os.path.relpath(line.split("<")[1].split(">")[0], tree)
            for line in trace.read_text().splitlines() if "<" in line}
    assert {"" if path == "." else path for path in read} == want


def test_several_patterns_are_one_answer(tree):
    patterns = ["a.*", "a.b*", "servers.**.user", "nothing"]
    want = set().union(*(theirs(tree, pattern) for pattern in patterns))
    assert ours(tree, *patterns) == want


def segment(dice):
    """Some text with what patterns are made of, mostly from a real name."""
    text = dice.choice(dice.choice(NAMES).split("."))
    for _ in range(dice.choice([0, 1, 1, 2, 3])):
        at = dice.randrange(len(text) + 1)
        end = min(len(text), at + dice.randrange(3))
        piece = text[at:end]
        new = dice.choice(["*", "*", "?", f"[{piece}]", "[!b]", "[a-c]", f"{{{piece},b}}", "{a,b}",
                           f"{{{piece}*,{{x,?}}}}", "[", "]", "{", "}", ",", f"{{,{piece}}}", "{}"])
        text = text[:at] + new + text[end:]
    return text


def pattern_of(dice):
    parts = [segment(dice) for _ in range(dice.choice([1, 2, 2, 3, 3, 4]))]
    if dice.random() < 0.5:
        name = dice.choice(NAMES).split(".")
        parts = [dice.choice([part, part, "*", part[:1] + "*", segment(dice)]) for part in name]
    if dice.random() < 0.15:
        parts[dice.randrange(len(parts))] = "**"
    return ".".join(parts)


def is_same(pattern):
    """Whether graphite-web's answer to a pattern means something: with an empty last segment it
    finds directories under names that end in a dot, and with an empty or second `**` segment in
    front of one it cuts off letters."""
    from graphite.finders import expand_braces
    parts = [expand_braces(part) for part in pattern.split(".")]
    if "" in parts[-1] or all(part == [""] for part in parts):
        return False
    deep = [at for at, part in enumerate(parts) if "**" in part]
    return not deep or (len(deep) == 1 and not any("" in part for part in parts)
                        and parts[deep[0]] == ["**"])


def test_made_up_patterns(tree):
    dice = random.Random(SEED)
    found = done = 0
    while done < PATTERNS:
        pattern = pattern_of(dice)
        if is_same(pattern) and ";" not in pattern:
            found += compare(tree, pattern) > 0
            done += 1
    assert found > PATTERNS // 5, f"only {found} patterns found something; {AGAIN}"


def test_made_up_classes(tmp_path):
    """All that may stand between brackets, beside files of one character each."""
    dice = random.Random(SEED)
    signs = "!-]^[abcdxyz0&~|,\u00e9\u4e2d"
    root = tmp_path / "tree"
    root.mkdir()
    for sign in signs:
        whisper.create(str(root / f"{sign}.wsp"), [(60, 1)])
    found = 0
    for _ in range(CLASSES):
        inside = "".join(dice.choice(signs + "----!]") for _ in range(dice.randrange(1, 8)))
        found += compare(root, f"[{inside}]") > 0
    assert found > CLASSES // 3, f"only {found} classes found something; {AGAIN}"


def test_a_tagged_series_by_its_name(tree):
    """graphite-web gives the name as it was asked; ours is in the order of the file."""
    for name in ["some.metric;tag1=value2;tag2=value.2", "a.b;x=y.z"]:
        assert ours(tree, name) == theirs(tree, name) == {(name, True)}
    assert ours(tree, "none;x=y") == theirs(tree, "none;x=y") == set()
    assert ours(tree, "some.*;tag1=value2;tag2=value.2") == set()
