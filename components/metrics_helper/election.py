"""Adapter: the lease object by which several helpers agree that one publishes (spec operations.md 17.28).

Unlike a controller, which ends when it lost its lease, a helper stands again: it holds nothing that another could spoil. Where the role
allows no leases (the original's does not) it publishes without asking, and says so: one replica then is all there may be, as with the
original. It needs `get`, `create` and `patch` alone.
"""

from __future__ import annotations

from typing import Final

from vpccni.shared.clock import wall_ns
from vpccni.shared.kube import Kube, KubeRefused
from vpccni.shared.kube.election import Elector, Lease, LeaseWire, Move, lease_of, lease_spec, micro_time, released_spec
from vpccni.shared.kube.errors import CONFLICT
from vpccni.shared.kube.resources import LEASES

NAME: Final = "cni-metrics-helper"
ASK_WITHIN_S: Final = 1.9
"""Less than the time between two turns."""
FORBIDDEN: Final = (401, 403, 405)
TROUBLE: Final = "lease"


class Election:
    """One candidate. `turn` every `RETRY_S`; `is_leader` at any moment."""

    def __init__(self, kube: Kube, namespace: str, me: str) -> None:
        self._kube, self._namespace, self._me = kube, namespace, me
        self._elector = Elector(me)
        self._alone = self._turning = False

    def is_leader(self) -> bool:
        """Return whether this one may publish now."""
        return self._alone or self._elector.leads(self._kube.loop.clock())

    async def turn(self) -> None:
        """Renew, take, or look at the lease. What the API refuses is told as health, never raised. One turn at a time."""
        if self._turning:
            return
        self._turning = True
        try:
            await self._stand()
            self._alone = False
            self._kube.healthy(TROUBLE)
        except KubeRefused as error:
            if error.status == CONFLICT:
                return  # another one was faster; the next turn sees who
            self._alone = error.status in FORBIDDEN
            consequence = (
                "this replica publishes without one: run no second" if self._alone else "no replica takes over"
            )
            self._kube.degraded(TROUBLE, f"the lease cannot be used, {consequence}. {error}")
        finally:
            self._turning = False

    async def give_up(self) -> None:
        """Free the lease at the end, so that another need not wait for its duration. Raises KubeRefused."""
        if self._alone or not self.is_leader():
            return
        self._elector.released()
        lease = await self._read()
        if lease is not None and lease.holder == self._me:
            await self._change(released_spec(lease.transitions, now=micro_time(wall_ns())), lease)

    async def _stand(self) -> None:
        now = self._kube.loop.clock()
        if self._elector.has_lost(now):
            self._elector = Elector(self._me)
        lease = await self._read()
        move = self._elector.seen(lease, self._kube.loop.clock())
        if move is Move.WAIT:
            return
        spec = lease_spec(move, self._me, lease, now=micro_time(wall_ns()))
        if lease is None:
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NAME, "namespace": self._namespace},
                "spec": spec,
            }
            await self._kube.create(LEASES, body, namespace=self._namespace, timeout_s=ASK_WITHIN_S)
        else:
            await self._change(spec, lease)
        self._elector.written(now)

    async def _read(self) -> Lease | None:
        found = await self._kube.get(LEASES, LeaseWire, name=NAME, namespace=self._namespace, timeout_s=ASK_WITHIN_S)
        return None if found is None else lease_of(found)

    async def _change(self, spec: dict[str, object], lease: Lease) -> None:
        """Change the lease as it was read: the API refuses (409) when somebody was faster."""
        body = {"metadata": {"resourceVersion": lease.version}, "spec": spec}
        await self._kube.patch(LEASES, body, name=NAME, namespace=self._namespace, timeout_s=ASK_WITHIN_S)
