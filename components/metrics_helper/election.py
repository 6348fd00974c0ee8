"""Adapter: the lease object by which several helpers agree that one publishes (spec operations.md 17.28).

Where the role allows no leases (the original's does not) a helper publishes without asking, and says so: one replica then is all there
may be, as with the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from vpccni.components.metrics_helper.lease import DURATION_S, Record, Sighting, holds_until, may_take, sighted
from vpccni.shared.kube import Kube, KubeRefused, Resource, Wire
from vpccni.shared.kube.errors import CONFLICT

LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
NAME: Final = "cni-metrics-helper"
ASK_WITHIN_S: Final = 2.5
FORBIDDEN: Final = (401, 403, 405)
TROUBLE: Final = "lease"


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class LeaseWire(Wire, frozen=True, rename="camel"):
    """A lease as far as it is read."""

    spec: _Spec = _Spec()


class Election:
    """One candidate. `turn` every few seconds; `is_leader` at any moment."""

    def __init__(self, kube: Kube, namespace: str, me: str) -> None:
        self._kube, self._namespace, self._me = kube, namespace, me
        self._sighting: Sighting | None = None
        self._until = 0.0
        self._alone = False

    def is_leader(self) -> bool:
        """Return whether this one may publish now."""
        return self._alone or self._kube.loop.clock() < self._until

    async def turn(self) -> None:
        """Renew, take, or look at the lease. What the API refuses is told as health, never raised."""
        asked_at = self._kube.loop.clock()
        try:
            if await self._take(asked_at):
                self._until = holds_until(asked_at)
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

    async def give_up(self) -> None:
        """Free the lease at the end, so that another need not wait for its duration."""
        if self._alone or not self.is_leader():
            return
        self._until = 0.0
        found = await self._kube.get(LEASES, LeaseWire, name=NAME, namespace=self._namespace, timeout_s=ASK_WITHIN_S)
        if found is not None and found.spec.holder_identity == self._me:
            body = {"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": {"holderIdentity": ""}}
            await self._kube.patch(LEASES, body, name=NAME, namespace=self._namespace, timeout_s=ASK_WITHIN_S)

    async def _take(self, now: float) -> bool:
        found = await self._kube.get(LEASES, LeaseWire, name=NAME, namespace=self._namespace, timeout_s=ASK_WITHIN_S)
        if found is None:
            await self._create()
            return True
        self._sighting = sighted(self._sighting, _record(found), now)
        if not may_take(self._sighting, self._me, now):
            return False
        record = self._sighting.record
        changed = record.holder != self._me
        spec = {**self._renewal(), "leaseTransitions": record.transitions + int(changed)}
        body = {
            "metadata": {"resourceVersion": record.version},
            "spec": {**spec, "acquireTime": spec["renewTime"]} if changed else spec,
        }
        await self._kube.patch(LEASES, body, name=NAME, namespace=self._namespace, timeout_s=ASK_WITHIN_S)
        return True

    async def _create(self) -> None:
        renewal = self._renewal()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self._namespace},
            "spec": {**renewal, "acquireTime": renewal["renewTime"], "leaseTransitions": 0},
        }
        await self._kube.create(LEASES, body, namespace=self._namespace, timeout_s=ASK_WITHIN_S)

    def _renewal(self) -> Mapping[str, object]:
        now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {"holderIdentity": self._me, "leaseDurationSeconds": DURATION_S, "renewTime": now}


def _record(found: LeaseWire) -> Record:
    spec = found.spec
    return Record(
        holder=spec.holder_identity or "",
        duration_s=spec.lease_duration_seconds or DURATION_S,
        renewed=spec.renew_time or "",
        transitions=spec.lease_transitions or 0,
        version=found.metadata.resource_version,
    )
