"""Adapter: a candidate for a Lease, over calls of its own, so that no other traffic to the API holds up its renewal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from vpccni.shared.clock import wall_ns
from vpccni.shared.kube.api import Kube
from vpccni.shared.kube.election import (  # fmt: skip
    RETRY_S,
    Elector,
    Lease,
    LeaseWire,
    Move,
    lease_of,
    lease_spec,
    micro_time,
    released_spec,
)
from vpccni.shared.kube.errors import KubeRefused
from vpccni.shared.kube.resources import LEASES
from vpccni.shared.log import Log

CALL_TIMEOUT_S: Final = 3.0


class Leader:
    """Stands for a lease until it is lost. `begins` and `lost` are called once each, in the loop."""

    def __init__(
        self, kube: Kube, log: Log, *, name: str, namespace: str, identity: str,
        begins: Callable[[], None], lost: Callable[[], None],
    ) -> None:  # fmt: skip
        self.elector = Elector(identity)
        self._kube, self._log, self._name, self._namespace = kube, log, name, namespace
        self._begins, self._lost = begins, lost
        self._lease: Lease | None = None
        self._ended = False

    @property
    def leads(self) -> bool:
        return self.elector.leads(self._kube.loop.clock())

    def start(self) -> None:
        self._kube.loop.spawn(self._stand(), name="leader")

    async def release(self) -> None:
        """Stand no longer, and give the lease back if it is ours. Failing that it runs out."""
        self._ended = True
        lease, led = self._lease, self.leads
        self.elector.released()
        if led and lease is not None:
            spec = released_spec(lease.transitions, now=micro_time(wall_ns()))
            try:
                await self._put(spec, lease)
                self._log.info("leadership given back", on=self._name)
            except KubeRefused as error:
                self._log.warning("leadership not given back", on=self._name, error=str(error))

    async def _stand(self) -> None:
        loop = self._kube.loop
        while not self._ended:
            try:
                await self._turn()
                self._kube.healthy("leader election")
            except KubeRefused as error:
                self._lease = None  # whatever we knew of it may be old
                self._kube.count("vpccni_leader_errors", 1, status=str(error.status or "none"))
                self._kube.degraded("leader election", f"The lease {self._name} cannot be kept. {error}")
            if self.elector.has_lost(loop.clock()) and not self._ended:
                self._ended = True
                self._lost()
            await loop.sleep(RETRY_S)

    async def _turn(self) -> None:
        loop, led = self._kube.loop, self.leads
        if self._lease is None or self._lease.holder != self.elector.identity:
            wire = await self._kube.get(LEASES, LeaseWire, name=self._name, namespace=self._namespace, timeout_s=CALL_TIMEOUT_S)  # fmt: skip
            self._lease = lease_of(wire) if wire is not None else None
        move = self.elector.seen(self._lease, loop.clock())
        if move is Move.WAIT or self._ended:
            return
        asked_at = loop.clock()
        self._lease = await self._write(move)
        self.elector.written(asked_at)
        if not led:
            self._log.info("leads", on=self._name, what=self.elector.identity)
            self._begins()

    async def _write(self, move: Move) -> Lease:
        spec = lease_spec(move, self.elector.identity, self._lease, now=micro_time(wall_ns()))
        return await self._put(spec, None if move is Move.CREATE else self._lease)

    async def _put(self, spec: dict[str, object], lease: Lease | None) -> Lease:
        """Create the lease, or replace the one we know: 409 when somebody was faster."""
        path = LEASES.path(namespace=self._namespace, name=self._name if lease is not None else "")
        version = {"resourceVersion": lease.version} if lease is not None else {}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace, **version},
            "spec": spec,
        }
        reply = await self._kube.call("PUT" if lease is not None else "POST", path, body=body, timeout_s=CALL_TIMEOUT_S)
        try:
            return lease_of(msgspec.json.decode(reply.body, type=LeaseWire))
        except msgspec.MsgspecError as error:
            raise KubeRefused(
                "the Kubernetes API's answer cannot be read", status=0, on=path, why=str(error)
            ) from error
