"""List, watch and calls against the lab's Kubernetes API over real sockets, and against servers that misbehave."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from vpccni.lab.kube.resources import BY_PATH
from vpccni.lab.kube.server import merge_patch, serve
from vpccni.lab.kube.store import ApiError, Store
from vpccni.shared.backoff import Backoff
from vpccni.shared.kube import EVENTS, PODS, Change, Kube, KubeRefused, Pace, Resource, Watch, Wire
from vpccni.shared.kube.follow import SHORTEST_WATCH_S
from vpccni.shared.kube.objects import Key
from vpccni.shared.loop import Loop

WITHIN_S = 5.0
QUICK = Pace(list_timeout_s=0.5, silence_s=8.0, pauses=Backoff(0.02, 0.1, jitter=0.5), absent_s=0.1)


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    node_name: str = ""


class PodWire(Wire, frozen=True):
    spec: Spec = Spec()


@dataclass(frozen=True)
class Pod:
    name: str
    colour: str


def pod_of(wire: PodWire) -> Pod | None:
    if wire.metadata.labels.get("colour") == "poison":
        raise ValueError("no such colour")
    return Pod(wire.metadata.name, wire.metadata.labels.get("colour", ""))


class Server:
    """The lab's API on a port of its own, stopped and started at will; its objects stay."""

    def __init__(self) -> None:
        self.store = Store(history=50)
        self.port = 0
        self._servers: list[Any] = []
        self.start()

    def start(self) -> None:
        self._servers = serve(self.store, ("127.0.0.1", self.port), None)
        self.port = self._servers[0].server_address[1]

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.close_all()
            server.server_close()
        self._servers = []

    def fault(self, status: int | None) -> None:
        self._servers[0].faults.status = status

    def put(self, name: str, colour: str) -> None:
        pods = BY_PATH[("", "v1", "pods")]
        body = {"metadata": {"name": name, "labels": {"colour": colour}}, "spec": {"nodeName": "node-1"}}
        try:
            self.store.create(pods, "default", body)
        except ApiError:  # it exists
            self.store.update(pods, "default", name, lambda before: merge_patch(before, {"metadata": body["metadata"]}))

    def remove(self, name: str) -> None:
        self.store.delete(BY_PATH[("", "v1", "pods")], "default", name)


class Seen:
    """A process's view: the loop, what was counted, what is degraded, the changes heard."""

    def __init__(self, port: int, tmp_path: Any) -> None:
        self.loop = Loop()
        self.counted: dict[str, float] = {}
        self.reasons: dict[str, str] = {}
        self.batches: list[Sequence[Change[Pod]]] = []
        config = tmp_path / "kubeconfig"
        config.write_text(json.dumps(kubeconfig(f"http://127.0.0.1:{port}")))
        self.kube = Kube(
            self.loop, {"KUBECONFIG": str(config)}, user_agent="test", count=self._count,
            degraded=self.reasons.__setitem__, healthy=self._healthy,
        )  # fmt: skip

    def _count(self, name: str, value: float = 1, **labels: str) -> None:
        self.counted[name] = self.counted.get(name, 0) + value

    def _healthy(self, key: str) -> None:
        self.reasons.pop(key, None)

    def watch(self, **more: Any) -> Watch[Pod]:
        return self.kube.watch(
            PODS, wire=PodWire, project=pod_of, changed=self.batches.append, **{"pace": QUICK, **more}
        )

    def until(self, holds: Callable[[], bool], what: str = "it") -> None:
        deadline = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < deadline, (
                f"{what} did not come; degraded: {self.reasons}, counted: {self.counted}"
            )
            self.loop.run_until(self.loop.sleep(0.01), timeout_s=1)

    def idle(self, seconds: float) -> None:
        self.loop.run_until(self.loop.sleep(seconds), timeout_s=seconds + 1)

    def close(self) -> None:
        self.kube.stop()
        self.loop.close()


def kubeconfig(server: str) -> dict[str, Any]:
    return {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def seen(server: Server, tmp_path: Any) -> Iterator[Seen]:
    seen = Seen(server.port, tmp_path)
    yield seen
    seen.close()


def names(watch: Watch[Pod]) -> dict[str, str]:
    return {pod.name: pod.colour for pod in watch.objects.values()}


def test_a_watch_lists_and_then_hears_each_change_once(server: Server, seen: Seen) -> None:
    server.put("a", "red")
    watch = seen.watch()
    seen.until(lambda: names(watch) == {"a": "red"})
    server.put("b", "blue")
    server.put("a", "green")
    seen.until(lambda: names(watch) == {"a": "green", "b": "blue"})
    server.remove("b")
    seen.until(lambda: names(watch) == {"a": "green"})
    changes = [change for batch in seen.batches for change in batch]
    assert changes[1:] == [
        Change(Key("default", "b"), None, Pod("b", "blue")),
        Change(Key("default", "a"), Pod("a", "red"), Pod("a", "green")),
        Change(Key("default", "b"), Pod("b", "blue"), None),
    ]


def test_an_empty_list_is_told_once_so_that_nothing_there_differs_from_nothing_known(
    server: Server, seen: Seen
) -> None:
    watch = seen.watch()
    assert not watch.synced
    seen.until(lambda: watch.synced)
    assert seen.batches == [[]]


def test_a_change_outside_the_projection_is_no_change(server: Server, seen: Seen) -> None:
    server.put("a", "red")
    watch = seen.watch()
    seen.until(lambda: watch.synced)
    server.store.update(BY_PATH[("", "v1", "pods")], "default", "a", lambda o: {**o, "spec": {"nodeName": "elsewhere"}})
    server.put("b", "red")
    seen.until(lambda: "b" in names(watch))
    assert [change.key.name for batch in seen.batches for change in batch] == ["a", "b"]


def test_what_changed_while_the_api_was_away_is_heard_when_it_is_back(server: Server, seen: Seen) -> None:
    server.put("a", "red")
    server.put("b", "red")
    watch = seen.watch()
    seen.until(lambda: len(names(watch)) == 2)
    server.stop()
    server.remove("a")
    server.put("c", "red")
    seen.until(lambda: bool(seen.reasons))
    assert names(watch) == {"a": "red", "b": "red"}
    assert "in force" in seen.reasons["kubernetes pods"]
    server.start()
    seen.until(lambda: names(watch) == {"b": "red", "c": "red"} and not seen.reasons)


def test_a_compacted_history_costs_a_new_list_and_loses_no_deletion(server: Server, seen: Seen) -> None:
    server.put("a", "red")
    server.put("b", "red")
    watch = seen.watch()
    seen.until(lambda: len(names(watch)) == 2)
    server.stop()
    server.remove("a")
    server.store.forget_history()
    server.start()
    seen.until(lambda: names(watch) == {"b": "red"})
    server.put("c", "red")
    seen.until(lambda: "c" in names(watch))


def test_a_projection_that_raises_costs_that_object_and_a_counter(server: Server, seen: Seen) -> None:
    for name, colour in (("a", "red"), ("b", "poison"), ("c", "red")):
        server.put(name, colour)
    watch = seen.watch()
    seen.until(lambda: set(names(watch)) == {"a", "c"})
    server.put("c", "poison")
    server.put("b", "blue")
    seen.until(lambda: names(watch) == {"a": "red", "b": "blue"})
    assert seen.counted["vpccni_kube_bad_objects"] == 2
    assert not seen.reasons


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_refusal_is_told_with_its_status_and_ends_by_itself(server: Server, seen: Seen, status: int) -> None:
    server.fault(status)
    watch = seen.watch()
    seen.until(lambda: bool(seen.reasons))
    assert str(status) in seen.reasons["kubernetes pods"]
    server.put("a", "red")
    server.fault(None)
    seen.until(lambda: names(watch) == {"a": "red"} and not seen.reasons)


def test_a_kind_that_is_not_installed_is_empty_and_no_trouble(server: Server, seen: Seen) -> None:
    watch = seen.kube.watch(
        Resource("example.com", "v1", "things"), wire=PodWire, project=pod_of, changed=seen.batches.append, pace=QUICK
    )
    seen.until(lambda: watch.synced)
    assert (watch.objects, watch.installed, seen.reasons) == ({}, False, {})


def test_pages_of_a_long_list_are_put_together(server: Server, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpccni.shared.kube.follow.PAGE", 3)
    for number in range(8):
        server.put(f"p{number}", "red")
    watch = seen.watch()
    seen.until(lambda: len(watch.objects) == 8)


class Script:
    """A server that answers each connection with the next prepared bytes; after the last one it hangs."""

    def __init__(self, *answers: bytes, hold_open: bool = False) -> None:
        script = self
        self.asked: list[str] = []
        self._left = list(answers)
        self._over = threading.Event()

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                request: socket.socket = self.request
                text = b""
                while b"\r\n\r\n" not in text:
                    piece = request.recv(65536)
                    if not piece:
                        return
                    text += piece
                script.asked.append(text.split(b"\r\n", 1)[0].decode())
                if not script._left:
                    script._over.wait(WITHIN_S)
                    return
                answer = script._left.pop(0)
                request.sendall(answer)
                if b"chunked" in answer and not answer.endswith(b"0\r\n\r\n"):
                    script._over.wait(WITHIN_S)

        class Threads(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def listed(*pods: str, version: str = "7") -> bytes:
    items = [{"metadata": {"name": name, "namespace": "default", "labels": {"colour": "red"}}} for name in pods]
    return http(json.dumps({"metadata": {"resourceVersion": version}, "items": items}).encode())


def streamed(*lines: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%s\n\r\n" % (len(line) + 1, line) for line in lines)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + b"0\r\n\r\n"


def event(kind: str, name: str, version: str) -> bytes:
    meta = {"name": name, "namespace": "default", "resourceVersion": version, "labels": {"colour": "red"}}
    return json.dumps({"type": kind, "object": {"metadata": meta}}).encode()


@pytest.fixture
def scripted(tmp_path: Any) -> Iterator[Callable[..., tuple[Script, Seen]]]:
    made: list[tuple[Script, Seen]] = []

    def make(*answers: bytes) -> tuple[Script, Seen]:
        script = Script(*answers)
        seen = Seen(script.port, tmp_path)
        made.append((script, seen))
        return script, seen

    yield make
    for script, seen in made:
        script.close()
        seen.close()


@pytest.mark.parametrize(
    "garbage",
    [b"<html>sign in</html>", b"[" * 5000, b"\xff\xfe", b'{"items": 7}', b"null", b""],
    ids=["html", "deep", "no text", "wrong type", "null", "empty"],
)
def test_garbage_instead_of_a_list_is_told_and_asked_again(scripted: Any, garbage: bytes) -> None:
    _, seen = scripted(http(garbage), http(garbage), listed("a"))
    watch = seen.watch()
    seen.until(lambda: bool(seen.reasons))
    assert "cannot be read" in seen.reasons["kubernetes pods"]
    seen.until(lambda: names(watch) == {"a": "red"} and not seen.reasons)


def test_garbage_in_a_stream_goes_on_from_the_last_version_and_at_last_lists_again(scripted: Any) -> None:
    bad = streamed(b"{]")
    script, seen = scripted(listed("a"), streamed(event("ADDED", "b", "8"), b"{]"), bad, bad, listed("c", version="9"))
    watch = seen.watch()
    seen.until(lambda: names(watch) == {"c": "red"})
    asked = [line.split("?")[1].split(" ")[0] for line in script.asked]
    assert ["watch" in line for line in asked[:5]] == [False, True, True, True, False]
    assert "resourceVersion=7" in asked[1]
    assert "resourceVersion=8" in asked[2]


def test_an_object_of_a_wrong_shape_in_a_stream_costs_only_itself(scripted: Any) -> None:
    odd = b'{"type": "ADDED", "object": {"metadata": {"name": "odd", "labels": 7}}}'
    _, seen = scripted(listed("a"), streamed(odd, event("ADDED", "b", "9")))
    watch = seen.watch()
    seen.until(lambda: set(names(watch)) == {"a", "b"})
    assert seen.counted["vpccni_kube_bad_objects"] == 1


def test_an_error_in_the_stream_with_410_lists_again(scripted: Any) -> None:
    gone = b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}'
    script, seen = scripted(listed("a"), streamed(gone), listed("b"))
    watch = seen.watch()
    seen.until(lambda: names(watch) == {"b": "red"})
    assert ["watch=true" in line for line in script.asked[:3]] == [False, True, False]


def test_a_bookmark_moves_the_version_on_and_one_from_the_past_lists_again(scripted: Any) -> None:
    script, seen = scripted(
        listed("a"), streamed(event("BOOKMARK", "", "20")), streamed(event("BOOKMARK", "", "5")), listed("b")
    )
    watch = seen.watch()
    seen.until(lambda: names(watch) == {"b": "red"})
    assert "resourceVersion=20" in script.asked[2]


def test_a_server_that_hangs_is_left_after_the_time_out(scripted: Any) -> None:
    script, seen = scripted()
    seen.watch(pace=Pace(list_timeout_s=0.1, pauses=Backoff(0.02, 0.05, jitter=0.5)))
    seen.until(lambda: len(script.asked) > 2 and bool(seen.reasons))
    assert "no answer in time" in seen.reasons["kubernetes pods"]


def test_a_stream_that_falls_silent_is_left_and_taken_up_again(scripted: Any) -> None:
    open_stream = streamed(event("ADDED", "b", "8")).removesuffix(b"0\r\n\r\n").replace(b"Connection: close\r\n", b"")
    script, seen = scripted(listed("a"))
    script._left.append(open_stream)
    watch = seen.watch(pace=Pace(silence_s=0.2, pauses=Backoff(0.02, 0.05, jitter=0.5)))
    seen.until(lambda: set(names(watch)) == {"a", "b"})
    seen.until(lambda: any("resourceVersion=8" in line for line in script.asked))


def test_a_kind_that_nothing_happens_to_is_no_failure(scripted: Any) -> None:
    quiet = streamed().removesuffix(b"0\r\n\r\n").replace(b"Connection: close\r\n", b"")
    script, seen = scripted(listed("a"))
    script._left.extend([quiet] * 4)
    seen.watch(pace=Pace(silence_s=SHORTEST_WATCH_S + 0.05, pauses=Backoff(0.02, 0.05, jitter=0.5)))
    seen.until(lambda: len(script.asked) >= 4)
    assert seen.reasons == {}


def test_a_proxy_that_ends_each_stream_at_once_is_not_asked_without_pause(scripted: Any) -> None:
    script, seen = scripted(listed("a"), *[streamed()] * 500)
    seen.watch(pace=Pace(pauses=Backoff(0.1, 0.2, jitter=0.5)))
    seen.idle(1.0)
    assert 3 < len(script.asked) < 20
    assert "ends at once" in seen.reasons["kubernetes pods"]


def test_with_the_api_away_the_processor_rests(seen: Seen, server: Server) -> None:
    watch = seen.watch(pace=Pace())
    seen.until(lambda: watch.synced)
    server.stop()
    seen.until(lambda: bool(seen.reasons))
    begun = time.process_time()
    seen.idle(2.0)
    assert time.process_time() - begun < 0.1


def test_without_any_configuration_the_reason_says_what_is_missing(tmp_path: Any) -> None:
    seen = Seen(1, tmp_path)
    seen.kube._raw = {}
    watch = seen.watch()
    seen.until(lambda: bool(seen.reasons))
    assert "KUBERNETES_SERVICE_HOST" in seen.reasons["kubernetes pods"]
    assert not watch.synced
    seen.close()


# -- single calls


def test_get_create_and_patch(server: Server, seen: Seen) -> None:
    server.put("a", "red")

    async def talk() -> tuple[PodWire | None, PodWire | None]:
        await seen.kube.patch(PODS, {"metadata": {"labels": {"colour": "blue"}}}, name="a", namespace="default")
        await seen.kube.create(PODS, {"metadata": {"name": "b"}}, namespace="default")
        found = await seen.kube.get(PODS, PodWire, name="a", namespace="default")
        assert await seen.kube.get(PODS, PodWire, name="b", namespace="default") is not None
        return found, await seen.kube.get(PODS, PodWire, name="nobody", namespace="default")

    found, missing = seen.loop.run_until(seen.loop.spawn(talk(), name="talk"), timeout_s=WITHIN_S)
    assert found is not None
    assert (found.metadata.labels, found.spec.node_name, missing) == ({"colour": "blue"}, "node-1", None)


def test_a_call_ends_at_its_deadline_even_behind_one_that_hangs(scripted: Any) -> None:
    _, seen = scripted()

    async def ask(timeout_s: float) -> float:
        begun = time.monotonic()
        with pytest.raises(KubeRefused) as refused:
            await seen.kube.get(PODS, PodWire, name="a", namespace="default", timeout_s=timeout_s)
        assert refused.value.status == 0
        return time.monotonic() - begun

    first = seen.loop.spawn(ask(1.0), name="first")
    second = seen.loop.spawn(ask(0.2), name="second")
    assert seen.loop.run_until(second, timeout_s=WITHIN_S) < 0.5
    assert seen.loop.run_until(first, timeout_s=WITHIN_S) < 1.5


def test_a_refused_call_tells_status_and_reason(server: Server, seen: Seen) -> None:
    async def ask() -> None:
        await seen.kube.create(EVENTS, {"metadata": {}}, namespace="default")

    with pytest.raises(KubeRefused, match="Required value") as refused:
        seen.loop.run_until(seen.loop.spawn(ask(), name="ask"), timeout_s=WITHIN_S)
    assert (refused.value.status, refused.value.is_final) == (422, True)
