"""The Kubernetes API with the official client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch  # noqa: TID253  (a client from outside)
from kubernetes.client.exceptions import ApiException  # noqa: TID253

from vpccni.lab.kube.resources import BY_PATH
from vpccni.lab.kube.server import serve
from vpccni.lab.kube.store import Store


@pytest.fixture
def store() -> Store:
    return Store(history=50)


@pytest.fixture
def api(store: Store) -> Iterator[client.ApiClient]:
    (server,) = serve(store, ("127.0.0.1", 0), None)
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{server.server_address[1]}"
    with client.ApiClient(configuration) as one:
        yield one
        one.rest_client.pool_manager.clear()
    server.shutdown()
    server.server_close()


@pytest.fixture
def core(api: client.ApiClient) -> Any:
    return client.CoreV1Api(api)


def new_watch() -> Any:
    """Return the client's watch, which it does not type."""
    kind: Any = watch.Watch
    return kind()


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
    }


def test_create_get_patch_status_and_delete(core: Any) -> None:
    made = core.create_namespaced_pod("default", pod("a"))
    assert made.metadata.uid
    core.patch_namespaced_pod("a", "default", {"metadata": {"annotations": {"x": "y"}}})
    core.patch_namespaced_pod_status("a", "default", {"status": {"podIP": "10.0.0.9"}})
    seen = core.read_namespaced_pod("a", "default")
    assert (seen.metadata.annotations, seen.status.pod_ip) == ({"x": "y"}, "10.0.0.9")
    core.patch_namespaced_pod("a", "default", [{"op": "remove", "path": "/metadata/annotations/x"}])
    core.delete_namespaced_pod("a", "default")
    with pytest.raises(ApiException) as error:
        core.read_namespaced_pod("a", "default")
    assert error.value.status == 404


def test_a_second_create_and_a_stale_update_conflict(core: Any) -> None:
    first = core.create_namespaced_pod("default", pod("a"))
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod("a"))
    assert (error.value.status, "AlreadyExists" in str(error.value.body)) == (409, True)
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"n": "1"}}})
    with pytest.raises(ApiException) as error:
        core.replace_namespaced_pod("a", "default", first)
    assert error.value.status == 409


def test_selectors_of_labels_and_fields(core: Any) -> None:
    for name, tier in (("a", "web"), ("b", "db"), ("c", "web")):
        core.create_namespaced_pod("default", pod(name, tier=tier))

    def names(**query: str) -> list[str]:
        return [item.metadata.name for item in core.list_pod_for_all_namespaces(**query).items]

    assert names(label_selector="tier=web") == ["a", "c"]
    assert names(label_selector="tier in (db, x)") == ["b"]
    assert names(label_selector="!tier") == []
    assert names(field_selector="spec.nodeName=node-1,metadata.name!=b") == ["a", "c"]
    assert len(core.list_pod_for_all_namespaces(limit=2).items) == 2


def test_a_finalizer_holds_an_object_until_it_is_removed(core: Any) -> None:
    core.create_namespaced_pod("default", {**pod("a"), "metadata": {"name": "a", "finalizers": ["lab/x"]}})
    core.delete_namespaced_pod("a", "default")
    assert core.read_namespaced_pod("a", "default").metadata.deletion_timestamp
    core.patch_namespaced_pod("a", "default", {"metadata": {"finalizers": None}})
    assert core.list_pod_for_all_namespaces().items == []


def test_a_watch_tells_changes_and_what_leaves_the_selection(core: Any) -> None:
    version = core.list_pod_for_all_namespaces().metadata.resource_version
    core.create_namespaced_pod("default", pod("a", on="yes"))
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"on": "no"}}})
    core.create_namespaced_pod("default", pod("b", on="yes"))
    core.delete_namespaced_pod("b", "default")
    stream = new_watch().stream(
        core.list_pod_for_all_namespaces, label_selector="on=yes", resource_version=version, timeout_seconds=1
    )
    assert [(e["type"], e["object"].metadata.name) for e in stream] == [
        ("ADDED", "a"),
        ("DELETED", "a"),
        ("ADDED", "b"),
        ("DELETED", "b"),
    ]


def test_a_watch_hears_of_a_change_at_once(core: Any) -> None:
    heard: list[str] = []
    version = core.list_pod_for_all_namespaces().metadata.resource_version

    def listen() -> None:
        one = new_watch()
        for event in one.stream(core.list_pod_for_all_namespaces, resource_version=version, timeout_seconds=10):
            heard.append(event["object"].metadata.name)
            one.stop()

    thread = threading.Thread(target=listen)
    thread.start()
    core.create_namespaced_pod("default", pod("late"))
    thread.join(5)
    assert heard == ["late"]


def test_a_version_that_history_lost_is_gone(core: Any, store: Store) -> None:
    version = core.list_pod_for_all_namespaces().metadata.resource_version
    core.create_namespaced_pod("default", pod("a"))
    store.forget_history()
    with pytest.raises(ApiException) as error:
        list(new_watch().stream(core.list_pod_for_all_namespaces, resource_version=version, timeout_seconds=1))
    assert error.value.status == 410
    fresh = core.list_pod_for_all_namespaces().metadata.resource_version
    assert list(new_watch().stream(core.list_pod_for_all_namespaces, resource_version=fresh, timeout_seconds=1)) == []


def test_custom_resources_and_namespaces_are_served(api: client.ApiClient, core: Any, store: Store) -> None:
    store.create(BY_PATH[("", "v1", "namespaces")], "", {"metadata": {"name": "shop"}})
    custom: Any = client.CustomObjectsApi(api)
    body = {"metadata": {"name": "node-1"}, "spec": {"features": []}}
    custom.create_cluster_custom_object("vpcresources.k8s.aws", "v1alpha1", "cninodes", body)
    seen = custom.get_cluster_custom_object("vpcresources.k8s.aws", "v1alpha1", "cninodes", "node-1")
    assert seen["apiVersion"] == "vpcresources.k8s.aws/v1alpha1"
    core.patch_namespace("shop", {"metadata": {"labels": {"a": "b"}}})
    assert core.read_namespace("shop").metadata.labels == {"a": "b"}
    assert client.VersionApi(api).get_code().major == "1"
