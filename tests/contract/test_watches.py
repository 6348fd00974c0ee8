"""Lists and watches: selectors, pages, changes, bookmarks and versions that are too old."""

from __future__ import annotations

import threading
from contextlib import closing

from contract.servers import Client, Object, pod

from vpccni.shared.kube.resources import NETWORK_POLICIES, PODS, POLICY_ENDPOINTS

WATCH_S = 3
WITH_A_BOOKMARK_S = 8
"""A real API server sends a bookmark a minute, and one two seconds before a watch ends."""
TOO_OLD = "1"
"""Of before the definitions: a real API server keeps what came after it began to serve a kind."""


def names(answer: Object) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


def test_selectors_of_labels_and_fields(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace)
    for name, node, tier in (("a", "node-1", "web"), ("b", "node-1", "db"), ("c", "node-2", "web")):
        api.ask("POST", path, pod(name, node=node, tier=tier))
    for query, wanted in (
        ({"labelSelector": "tier=web"}, ["a", "c"]),
        ({"labelSelector": "tier in (db, x)"}, ["b"]),
        ({"labelSelector": "tier notin (db)"}, ["a", "c"]),
        ({"labelSelector": "!tier"}, []),
        ({"labelSelector": "tier,tier!=db"}, ["a", "c"]),
        ({"fieldSelector": "spec.nodeName=node-1"}, ["a", "b"]),
        ({"fieldSelector": "spec.nodeName=node-1,metadata.name!=b"}, ["a"]),
        ({"fieldSelector": "spec.nodeName=node-1", "labelSelector": "tier=db"}, ["b"]),
    ):
        assert names(api.ask("GET", path, **query)) == wanted, query


def test_a_list_comes_in_pages(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace)
    for number in range(5):
        api.ask("POST", path, pod(f"p{number}"))
    found, more = [], ""
    while True:
        page = api.ask("GET", path, limit="2", **({"continue": more} if more else {}))
        found.append(names(page))
        more = page["metadata"].get("continue", "")
        if not more:
            break
    assert found == [["p0", "p1"], ["p2", "p3"], ["p4"]]


def policy(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "labels": labels}, "spec": {"podSelector": {}}}


def test_a_watch_tells_changes_and_what_leaves_the_selection(api: Client, namespace: str) -> None:
    path = NETWORK_POLICIES.path(namespace=namespace)
    since = api.ask("GET", path)["metadata"]["resourceVersion"]
    api.ask("POST", path, policy("a", on="yes"))
    api.merge(f"{path}/a", {"metadata": {"annotations": {"x": "y"}}})
    api.merge(f"{path}/a", {"metadata": {"labels": {"on": "no"}}})
    api.ask("POST", path, policy("b", on="yes"))
    api.ask("POST", path, policy("c", on="no"))
    api.ask("DELETE", f"{path}/b")
    events = list(api.events(path, seconds=WATCH_S, labelSelector="on=yes", resourceVersion=since))
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in events] == [
        ("ADDED", "a"),
        ("MODIFIED", "a"),
        ("DELETED", "a"),
        ("ADDED", "b"),
        ("DELETED", "b"),
    ]
    versions = [int(one["object"]["metadata"]["resourceVersion"]) for one in events]
    assert versions == sorted(set(versions))


def test_a_watch_goes_on_from_a_change_it_told(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace)
    api.ask("POST", path, pod("a"))
    seen = api.merge(f"{path}/a", {"metadata": {"labels": {"n": "1"}}})["metadata"]["resourceVersion"]
    api.ask("POST", path, pod("b"))
    events = list(api.events(path, seconds=WATCH_S, resourceVersion=seen))
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in events] == [("ADDED", "b")]


def test_a_watch_gets_a_bookmark_past_what_it_does_not_select(api: Client, namespace: str) -> None:
    path = PODS.path(namespace=namespace)
    since = api.ask("GET", path)["metadata"]["resourceVersion"]
    late = threading.Timer(1.0, api.ask, ["POST", path, pod("other")])
    with closing(Client(api.server)) as listener:
        late.start()
        asked = {"labelSelector": "on=yes", "resourceVersion": since, "allowWatchBookmarks": "true"}
        events = list(listener.events(path, seconds=WITH_A_BOOKMARK_S, **asked))
    late.join()
    other = api.ask("GET", f"{path}/other")["metadata"]["resourceVersion"]
    assert events
    assert {one["type"] for one in events} == {"BOOKMARK"}
    assert int(events[-1]["object"]["metadata"]["resourceVersion"]) >= int(other)


def test_a_version_that_is_too_old_is_gone(api: Client) -> None:
    events = list(api.events(POLICY_ENDPOINTS.path(), seconds=WATCH_S, resourceVersion=TOO_OLD))
    assert [(one["type"], one["object"]["code"]) for one in events] == [("ERROR", 410)]
