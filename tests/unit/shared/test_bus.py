"""The bus over real sockets: answers, repetitions, restarts, bad bytes, strangers, gaps."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import pytest
import zmq

from vpccni.shared.bus import AccessControl, Call, Client, Publisher, Server, Subscription, claim
from vpccni.shared.bus.access import endpoint, uid_of
from vpccni.shared.codec import MESSAGE_BYTES_AT_MOST, BadMessage, pack, unpack
from vpccni.shared.errors import PeerRefused, PeerTimeout, SocketTaken
from vpccni.shared.loop import Loop
from vpccni.shared.messages.allocation import PoolState, Release, Released
from vpccni.shared.messages.base import Message, Sandbox
from vpccni.shared.messages.common import GetSnapshot, GetStatus

SANDBOX = Sandbox("c1", "eth0")


class Bench:
    """A loop, a context and counters; servers and clients made on it are closed with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bus").mkdir()
        self.loop = Loop()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.counted: list[str] = []
        self.refused: list[str] = []
        self.access = AccessControl(self.context, self.loop, refused=self.refused.append)

    def count(self, name: str, labels: dict[str, str]) -> None:
        self.counted.append(name)

    def server(self) -> Server:
        return Server(self.context, self.loop, endpoint(self.folder, "peer", "rpc"), count=self.count)

    def client(self) -> Client:
        return Client(self.context, self.loop, "peer", endpoint(self.folder, "peer", "rpc"))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        made = Bench(Path(folder))
        yield made
        made.context.destroy(linger=0)
        made.loop.close()


def test_a_request_is_answered_and_asking_again_under_its_key_runs_the_handler_once(bench: Bench) -> None:
    seen: list[Message] = []

    async def handler(message: Release, call: Call) -> Message:
        seen.append(message)
        return Released(sandbox=message.sandbox, interfaces=[])

    bench.server().handle(Release, handler)
    client = bench.client()
    ask = Release(sandbox=SANDBOX, reason="PodDeleted")
    first = bench.loop.run_until(client.call(ask, timeout_s=2, key="k"), timeout_s=3)
    second = bench.loop.run_until(client.call(ask, timeout_s=2, key="k"), timeout_s=3)
    assert first == second == Released(sandbox=SANDBOX, interfaces=[])
    assert len(seen) == 1


def test_a_request_outlives_the_death_of_its_server(bench: Bench) -> None:
    class Stuck:
        async def __call__(self, message: Release, call: Call) -> Message:
            await bench.loop.sleep(60)
            return Released(sandbox=message.sandbox, interfaces=[])

    async def quick(message: Release, call: Call) -> Message:
        return Released(sandbox=message.sandbox, interfaces=[])

    first = bench.server()
    first.handle(Release, Stuck())
    answer = bench.client().call(Release(sandbox=SANDBOX, reason="PodDeleted"), timeout_s=5)
    with pytest.raises(TimeoutError):
        bench.loop.run_until(answer, timeout_s=0.2)
    first.close()
    bench.server().handle(Release, quick)
    assert isinstance(bench.loop.run_until(answer, timeout_s=4), Released)


def test_all_that_wait_are_served_in_one_batch(bench: Bench) -> None:
    sizes: list[int] = []

    def batch(calls: Sequence[Call]) -> list[Message]:
        sizes.append(len(calls))
        return [Released(sandbox=SANDBOX, interfaces=[]) for _ in calls]

    bench.server().handle_batch(Release, batch)
    client = bench.client()
    bench.loop.run_until(client.call(Release(sandbox=SANDBOX, reason="x"), timeout_s=2), timeout_s=3)
    waiting = [client.call(Release(sandbox=SANDBOX, reason="x"), timeout_s=2) for _ in range(50)]
    for one in waiting:
        bench.loop.run_until(one, timeout_s=3)
    assert sum(sizes) == 51
    assert len(sizes) < 51


def test_no_peer_means_a_timeout_that_names_it(bench: Bench) -> None:
    with pytest.raises(PeerTimeout, match="peer"):
        bench.loop.run_until(bench.client().call(GetStatus(), timeout_s=0.1), timeout_s=2)


def test_a_handler_that_breaks_gives_an_error_and_the_server_goes_on(bench: Bench) -> None:
    async def broken(message: Release, call: Call) -> Message:
        raise ValueError("boom")

    errors: list[str] = []
    bench.loop.on_error = lambda where, error: errors.append(where)
    bench.server().handle(Release, broken)
    client = bench.client()
    for _ in range(2):
        with pytest.raises(PeerRefused, match="boom"):
            bench.loop.run_until(client.call(Release(sandbox=SANDBOX, reason="x"), timeout_s=2), timeout_s=3)
    assert errors == ["allocation.release"] * 2


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x91" * 2000,
        msgpack.packb(None),
        msgpack.packb([1, b"", "", 0, "", {"type": "no.such"}]),
        msgpack.packb([1, b"", "", 0, "", {"type": "allocation.release", "sandbox": 5}]),
        msgpack.packb([2, b"", "", 0, "", {"type": "common.get_status"}]),
        msgpack.packb([1, b"", "", 0, "", [None] * 100_000]),
        b"x" * (MESSAGE_BYTES_AT_MOST + 1),
    ],
)
def test_bad_bytes_are_refused_by_name_and_nothing_else_is_raised(raw: bytes) -> None:
    with pytest.raises(BadMessage):
        unpack(raw)


def test_a_server_answers_after_bad_bytes(bench: Bench) -> None:
    async def handler(message: Release, call: Call) -> Message:
        return Released(sandbox=message.sandbox, interfaces=[])

    bench.server().handle(Release, handler)
    rogue = bench.context.socket(zmq.DEALER)
    rogue.connect(endpoint(bench.folder, "peer", "rpc"))
    for raw in (b"\xc1", b"\x91" * 5000, pack(GetStatus())):
        rogue.send(raw)
    answer = bench.client().call(Release(sandbox=SANDBOX, reason="x"), timeout_s=2)
    assert isinstance(bench.loop.run_until(answer, timeout_s=3), Released)
    assert bench.counted.count("vpccni_bus_bad_messages") == 3
    rogue.close()


def test_another_users_process_is_refused(bench: Bench) -> None:
    bench.server()
    os.chmod(bench.folder, 0o777)
    os.chmod(bench.folder / "bus", 0o777)
    for path in (bench.folder / "bus").iterdir():
        os.chmod(path, 0o777)
    program = (
        "import sys, zmq; s = zmq.Context().socket(zmq.DEALER); s.setsockopt(zmq.LINGER, 0);"
        f"s.connect({endpoint(bench.folder, 'peer', 'rpc')!r}); s.send(b'x'); sys.exit(0 if s.poll(500) == 0 else 1)"
    )
    stranger = subprocess.Popen([sys.executable, "-c", program], user=65534, group=65534, extra_groups=[])
    while stranger.poll() is None:
        with pytest.raises(TimeoutError):
            bench.loop.run_until(bench.loop.sleep(60), timeout_s=0.1)
    assert stranger.returncode == 0
    assert bench.refused


def test_the_uid_is_read_in_both_spellings() -> None:
    assert uid_of(b"0:1:2") == uid_of(b"localhost:0:1:2") == b"0"
    assert uid_of(b"") == b""


def test_a_second_process_of_the_same_name_is_refused_and_names_the_first(tmp_path: Path) -> None:
    lock = claim(tmp_path, "peer")
    with pytest.raises(SocketTaken, match=str(os.getpid())):
        claim(tmp_path, "peer")
    os.close(lock)
    os.close(claim(tmp_path, "peer"))


def pool_state(total: int) -> PoolState:
    return PoolState(ready=True, total=total, assigned=0, assignable=0, cooling=0, fenced=0, unconfirmed=0, max_pods=0)


def test_a_subscriber_gets_what_was_published_before_it_came_and_after_the_owner_restarted(bench: Bench) -> None:
    seen: list[int] = []
    server = bench.server()
    publishers = [Publisher(bench.context, endpoint(bench.folder, "peer", "events"), epoch="one")]

    async def snapshot(message: GetSnapshot, call: Call) -> Message:
        return publishers[-1].snapshot()

    server.handle(GetSnapshot, snapshot)
    publishers[0].publish(pool_state(1))
    Subscription(
        bench.context,
        bench.loop,
        "peer",
        endpoint(bench.folder, "peer", "events"),
        bench.client(),
        {PoolState: lambda state: seen.append(state.total)},
        count=bench.count,
    )

    def settle() -> None:
        bench.loop.run_until(bench.loop.sleep(1.3), timeout_s=3)

    settle()
    assert seen[-1] == 1
    publishers[0].close()
    publishers.append(Publisher(bench.context, endpoint(bench.folder, "peer", "events"), epoch="two"))
    publishers[1].publish(pool_state(2))
    settle()
    publishers[1].publish(pool_state(3))
    settle()
    assert seen[-1] == 3
