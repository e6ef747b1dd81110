"""Carbonlink: graphite-web's own client and reader, and raw frames for what it never sends."""

import time

import django
import pytest

import wire
from checks import check, wait_for_points, wait_until
from node import PREFIX, read_file

django.setup()

from django.conf import settings  # noqa: E402  (needs django.setup)
from graphite import carbonlink  # noqa: E402
from graphite.finders.standard import StandardFinder  # noqa: E402
from graphite.finders.utils import FindQuery  # noqa: E402

NOW = int(time.time())
KEEP = {"flush-interval": "1h"}


def pool_for(node):
    return carbonlink.CarbonLinkPool([("127.0.0.1", node.port("carbonlink"), None)], 5.0)


@check(bug="cache-hidden", sees="incomplete|answers")
def test_graphite_web_asks_for_one_metric(start):
    node = start(whisper=KEEP)
    node.send([("link.three", 1, NOW), ("link.three", 2, NOW + 1), ("link.three", 3, NOW - 1)])
    node.send([("link.one", 1.5, NOW)])
    wait_for_points(node, [("link.three", 3, NOW - 1), ("link.one", 1.5, NOW)])
    pool = pool_for(node)
    answer = pool.query("link.three")
    assert sorted(answer) == [(NOW - 1, 3.0), (NOW, 1.0), (NOW + 1, 2.0)], f"answers {answer}"
    assert answer == sorted(answer), "points are not in order of time: the merge takes the last"
    assert all(isinstance(t, float) for t, _ in answer), "whole seconds after 2038 turn negative"
    assert pool.query("link.one") == [(NOW, 1.5)]
    assert pool.query("link.unknown") == []
    assert len(pool.connections[("127.0.0.1", None)]) == 1, "the connection was not kept"


@pytest.mark.parametrize("protocol", [-1, 0, 1, 2, 3, 4, 5])
@check(bug="old-protocols-only", sees="protocol")
def test_every_pickle_protocol_of_the_client(start, protocol, monkeypatch):
    if start.bug and 0 <= protocol <= 2:
        protocol = 4
    node = start(whisper=KEEP)
    node.send([("link.protocol", 1.5, NOW)])
    wait_for_points(node, [("link.protocol", 1.5, NOW)])
    monkeypatch.setattr(settings, "CARBONLINK_PICKLE_PROTOCOL", protocol)
    assert pool_for(node).query("link.protocol") == [(NOW, 1.5)], f"protocol {protocol}: no answer"


@check(bug="no-bulk", sees="bulk")
def test_bulk_question(start):
    node = start(whisper=KEEP)
    points = [(f"bulk.m{number}", number, NOW) for number in range(50)]
    node.send(points)
    wait_for_points(node, points)
    names = [name for name, _, _ in points] + ["bulk.unknown"]
    answer = wire.ask_once(node.port("carbonlink"),
                           {"type": "cache-query-bulk", "metrics": names})
    by_name = answer.get("datapointsByMetric")
    assert by_name is not None, f"no bulk answer: {answer}"
    wanted = {name: [(NOW, float(value))] for name, value, _ in points}
    assert by_name == {**wanted, "bulk.unknown": []}


@check(bug="tags-unsorted", sees="tagged")
def test_tagged_series(start):
    node = start(whisper=KEEP)
    node.send([("disk.used;server=web01;datacenter=dc1;rack=a1", 7, NOW)])
    stored = "disk.used;datacenter=dc1;rack=a1;server=web01"
    pool = pool_for(node)
    wait_until(lambda: pool.query(stored) == [(NOW, 7.0)], "no answer for the tagged series")
    node.stop()
    # The hash of the canonical name, as graphite-web computes it.
    digest = "e9a90f9ab08ad206ecfb30c241e0285a7c36479ca423d74260b2614cb98c1eec"
    path = node.data / "_tagged/e9a/90f" / f"{digest}.wsp"
    assert read_file(path) == {NOW: 7.0}


@check(bug="metadata-ignored", sees="aggregation method")
def test_metadata_questions(start):
    node = start(aggregation=[("all", ".*", 0.5, "max")])
    node.send([("meta.m", 1, NOW)])
    wait_until(lambda: node.path("meta.m").exists() and node.on_disk("meta.m"), "no file")

    def ask(kind, **more):
        return wire.ask_once(node.port("carbonlink"), {
            "type": kind, "metric": "meta.m", "key": "aggregationMethod", **more})

    assert ask("get-metadata") == {"value": "max"}
    assert ask("set-metadata", value="min") == {"old_value": "max", "new_value": "min"}
    assert ask("get-metadata") == {"value": "min"}, "the aggregation method did not change"
    assert node.path("meta.m").read_bytes()[:4] == b"\0\0\0\5"
    unknown = wire.ask_once(node.port("carbonlink"), {
        "type": "get-metadata", "metric": "meta.none", "key": "aggregationMethod"})
    assert "error" in unknown
    assert "error" in wire.ask_once(node.port("carbonlink"), {"type": "foo", "metric": "meta.m"})


@check(bug="carbon-names-hidden", sees="carbon name")
def test_names_that_graphite_web_asks_of_every_host(start):
    node = start(whisper=KEEP)
    pool = pool_for(node)
    name = f"{PREFIX}.metricsReceived"
    # The client merges only answers of two and more points, into a dict.
    wait_until(lambda: len(pool.query(name)) >= 2, "no points for a carbon name", 60)


@check(bug="closes-idle", sees="pooled connection")
def test_idle_pooled_connection_is_still_good(start):
    node = start(whisper=KEEP)
    node.send([("link.idle", 1, NOW)])
    wait_for_points(node, [("link.idle", 1, NOW)])
    pool = pool_for(node)
    assert pool.query("link.idle")
    time.sleep(start.idle_seconds)  # the idleness is what is tested
    assert pool.query("link.idle"), "a pooled connection was closed while it was idle"


@check(bug="cache-hidden", sees="just-sent|incomplete")
def test_graphite_web_reads_a_just_sent_point(start, monkeypatch):
    node = start(whisper=KEEP)
    node.send([("seen.m", 1, NOW - 2)])
    wait_for_points(node, [("seen.m", 1, NOW - 2)])
    node.stop()
    node = start(whisper=KEEP, data=node.data)
    node.send([("seen.m", 2, NOW - 1)])
    wait_for_points(node, [("seen.m", 2, NOW - 1)])
    assert (NOW - 1) not in node.on_disk("seen.m"), "written too early: the cache must be asked"
    pool = pool_for(node)
    monkeypatch.setattr("graphite.readers.utils.CarbonLink", lambda: pool, raising=False)
    monkeypatch.setattr(carbonlink, "CarbonLink", lambda: pool)
    finder = StandardFinder(directories=[str(node.data)])
    found = list(finder.find_nodes(FindQuery("seen.*", NOW - 60, NOW + 60)))
    assert [leaf.path for leaf in found] == ["seen.m"]
    (first, _, step), values = found[0].reader.fetch(NOW - 10, NOW + 5)
    series = {first + step * slot: value for slot, value in enumerate(values)}
    assert series[NOW - 2] == 1.0
    assert series[NOW - 1] == 2.0, "graphite-web does not see a just-sent point"
