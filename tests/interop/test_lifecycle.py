"""Starting, stopping, reloading, and the two limits on writing."""

import signal
import socket
import time

import whisper

import wire
from checks import check, wait_for_points, wait_until
from node import PREFIX, read_file, schema_text

NOW = int(time.time())


def load(metrics, points_each, prefix="load"):
    """Points of the last `points_each` seconds, the metrics in turn."""
    return [(f"{prefix}.m{metric}", metric * 1000 + age, NOW - age)
            for age in range(points_each) for metric in range(metrics)]


@check(bug="term-loses-cache", sees="not kept")
def test_sigterm_keeps_a_full_cache(start):
    node = start(whisper={"flush-interval": "1h"}, schemas=[("all", ".*", "1s:30m")])
    points = load(2000, 50)
    node.send(points)
    wait_for_points(node, points)
    assert not node.path("load.m0").exists(), "written too early: this test needs a full cache"
    node.stop(10, signal.SIGTERM)
    node.start()
    wait_for_points(node, points, "not kept over SIGTERM")
    node.stop()
    lost = sum(len(node.on_disk(name)) != 50 for name in {name for name, _, _ in points})
    assert lost == 0, f"not kept over SIGTERM, or not written: {lost} metrics"


@check(bug="no-lock", sees="both run")
def test_row_24_second_node_on_a_data_directory_is_refused(start):
    first = start()
    second = start.make(data=first.data).launch()
    wait_until(lambda: not second.alive(), "both run on one data directory", 10)
    assert second.process.returncode not in (0, -signal.SIGSEGV, -signal.SIGABRT)
    complaint = second.log() + second.stdout()
    assert str(first.data) in complaint, f"the refusal does not name the directory: {complaint}"
    point = ("one.owner", 1, NOW)
    first.send([point])
    wait_for_points(first, [point])


@check(bug="ignores-hup", sees="new rule")
def test_sighup_brings_new_storage_rules(start):
    node = start()
    node.send([("before.a", 1, NOW)])
    wait_until(lambda: node.path("before.a").exists(), "no file for before.a")
    node.schemas_file.write_text(schema_text([("new", ".*", "7s:7m")]))
    node.signal(signal.SIGHUP)
    # The signal is asynchronous: a name made before the reload keeps the old rule, so try new ones.
    for attempt in range(5):
        name = f"after.a{attempt}"
        node.send([(name, 1, NOW)])
        wait_until(lambda: node.path(name).exists(), f"no file for {name}")
        step = whisper.info(str(node.path(name)))["archives"][0]["secondsPerPoint"]
        if step == 7:
            break
    assert step == 7, "a new metric does not get the new rule"
    assert whisper.info(str(node.path("before.a")))["archives"][0]["secondsPerPoint"] == 1


BROKEN = {
    "regular expression": "[broken]\npattern = (((\nretentions = 7s:7m\n",
    "retentions": "[broken]\npattern = .*\nretentions = seven\n",
    "not a rule file": "\x00\x01 no rules here\n",
}


@check(bug="bad-reload-drops-rules", sees="old rules are gone")
def test_row_25_broken_rules_on_reload_keep_the_old_ones(start):
    node = start()
    for number, text in enumerate(BROKEN.values()):
        before = len(node.log())
        node.schemas_file.write_text(text)
        node.signal(signal.SIGHUP)
        wait_until(lambda: len(node.log()) > before, "the reload is not reported")
        name = f"after.broken{number}"
        node.send([(name, 1, NOW)])
        wait_until(lambda: node.path(name).exists(), f"no file for {name}")
        step = whisper.info(str(node.path(name)))["archives"][0]["secondsPerPoint"]
        assert step == 1, f"the old rules are gone: step {step}"
    node.allowed_errors = "(?i)schema|rule|reload|storage"


@check(bug="taken-port-kills", sees="ended at once|does not start")
def test_start_without_arguments(start):
    taken = socket.socket()
    try:
        taken.bind(("0.0.0.0", 2003))
        taken.listen()
    except OSError:
        pass  # already taken by someone else, which is the case we need
    with taken:
        node = start.make()
        for rule_file in (node.schemas_file, node.aggregation_file):
            rule_file.unlink()
        node.start(arguments=[])
        assert node.port("line") != 2003, "listens on a taken port"
        node.send([("default.start", 1, NOW)])
        wait_until(lambda: list(node.home.rglob("default/start.wsp")), "no file appears", 90)
        node.stop()


@check(bug="ignores-update-limit", sees="updates for")
def test_update_limit_coalesces_and_loses_nothing(start):
    node = start(whisper={"max-updates-per-second": 10, "flush-interval": "1s"})
    points = []
    with wire.connect(node.port("line")) as connection:
        for age in range(60, 0, -1):  # 600 points in 6 s: too many for 10 updates a second
            part = [(f"limited.m{metric}", age, NOW - age) for metric in range(10)]
            connection.sendall(wire.lines(part))
            points += part
            time.sleep(0.1)  # spreads the load; nothing waits for it
    wait_for_points(node, points)
    wait_until(lambda: all(len(node.on_disk(f"limited.m{m}")) == 60 for m in range(10)),
               "not everything is written", 60)
    node.reported()
    updates = node.stat_sum("updateOperations")
    assert 0 < updates <= 300, f"{updates} updates for 600 points of 10 metrics: not coalesced"


@check(bug="create-limit-drops", sees="incomplete")
def test_create_limit_delays_and_loses_nothing(start):
    node = start(whisper={"max-creates-per-second": 10})
    points = load(40, 5, "created")
    node.send(points)
    wait_for_points(node, points)

    def files():
        return len(list(node.data.rglob("created/*.wsp")))

    wait_until(lambda: files() > 0, "no file is created")
    early = files()
    assert early < 40, "the limit on creates does not limit"
    wait_for_points(node, points)
    wait_until(lambda: files() == 40, lambda: f"{files()} of 40 files created", 60)
    wait_for_points(node, points, seconds=10)
    assert node.dropped_sum() == 0, f"delaying is not dropping: {node.dropped()}"


@check(bug="no-self-stats", sees="does not report")
def test_statistics_under_both_families_of_names(start):
    node = start()
    points = load(20, 10, "counted")
    node.send(points)
    wait_until(lambda: all(node.path(f"counted.m{m}").exists() for m in range(20)), "no files")
    node.reported()
    wait_until(lambda: node.path("carbon.agents.test.committedPoints").exists(), "no own files")
    for flat, nested in (("metricsReceived", "tcp.metricsReceived"),
                         ("committedPoints", "persister.committedPoints"),
                         ("updateOperations", "persister.updateOperations")):
        wait_until(lambda: node.stat_sum(flat) > 0 and node.stat_sum(nested) > 0,
                   f"{flat} or {nested} stays 0")
    assert node.stat_sum("tcp.metricsReceived") >= len(points)
    wait_until(lambda: node.stat("accounting.received") >= len(points), "received is not counted")
    wait_until(lambda: node.stat("accounting.stored") >= len(points), "stored is not counted")
    assert read_file(node.path("counted.m0"))


@check(bug="replaced-uncounted", sees="do not balance")
def test_every_accepted_point_is_accounted_for(start):
    node = start()
    points = load(50, 20, "balance")
    for _ in range(3):  # the second and third time replace what still waits, or write it again
        node.send(points)
    wait_for_points(node, points)
    node.reported()
    parts = ["replaced", "waiting", "writing", "stored"]
    names = {part: f"{PREFIX}.accounting.{part}" for part in ["accepted"] + parts}

    def balance():
        found = node.points_of(list(names.values()))
        shared = set.intersection(*(set(found[name]) for name in names.values()))
        at = {part: found[name][max(shared)] for part, name in names.items()} if shared else {}
        late = sum(node.dropped().get(reason, 0) for reason in ("too_old", "quarantine"))
        return at, at and at["accepted"] == late + sum(at[part] for part in parts)

    wait_until(lambda: balance()[1], lambda: f"accepted points do not balance: {balance()[0]}")
    assert balance()[0]["accepted"] >= 3 * len(points)
