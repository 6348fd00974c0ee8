"""Adapter: every write to the Kubernetes API but the lease's. Spends the reference's budget of requests, counts, and tells refusals."""

from __future__ import annotations

from typing import Final

import msgspec

from vpccni.components.policy_controller.chunks import Wanted
from vpccni.components.policy_controller.documents import (
    FINALIZERS,
    POLICIES,
    EndpointWire,
    endpoints_of,
    new_object,
    object_patch,
    stored_of,
)
from vpccni.components.policy_controller.exposition import REQUESTS, WRITES
from vpccni.components.policy_controller.model import Document, Held, Kind, Policy, Stored
from vpccni.shared.kube import EVENTS, Kube, KubeRefused
from vpccni.shared.kube.errors import CONFLICT, NOT_FOUND
from vpccni.shared.kube.resources import Resource
from vpccni.shared.kube.transport import JSON, MERGE_PATCH

WRITES_PER_S: Final = 20.0  # spec policy.md 3.1
BURST: Final = 100
CALL_TIMEOUT_S: Final = 10.0
JSON_PATCH: Final = "application/json-patch+json"


class Writer:
    """See the module. All methods raise KubeRefused, where nothing else is said."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._tokens, self._filled_at = float(BURST), kube.loop.clock()

    async def create(self, policy: Policy, wanted: Wanted, *, changed_at: str) -> Stored:
        """Make an endpoint object; return it as the API has it."""
        path = endpoints_of(policy.id.kind).path(namespace=policy.id.namespace)
        body = await self._ask("POST", path, new_object(policy, wanted, changed_at=changed_at))
        self._kube.count(WRITES, what="create")
        return _stored(body, path)

    async def update(self, policy: Policy, stored: Stored, wanted: Wanted, *, changed_at: str) -> Stored:
        """Change an endpoint object that is still as we know it (else 409); return it as the API has it."""
        path = endpoints_of(policy.id.kind).path(namespace=policy.id.namespace, name=stored.name)
        body = await self._ask("PATCH", path, object_patch(policy, stored, wanted, changed_at=changed_at), JSON_PATCH)
        self._kube.count(WRITES, what="update")
        return _stored(body, path)

    async def delete(self, kind: Kind, stored: Stored) -> None:
        """Delete an endpoint object; one that is gone is a success."""
        path = endpoints_of(kind).path(namespace=stored.namespace, name=stored.name)
        try:
            await self._ask("DELETE", path, _only_as(stored.resource_version))
        except KubeRefused as error:
            if error.status != NOT_FOUND:
                raise
        self._kube.count(WRITES, what="delete")

    async def put_finalizer(self, held: Held) -> None:
        """Keep the policy from going before its endpoint objects."""
        await self._set_finalizers(held, [*held.finalizers, FINALIZERS[held.policy.id.kind]])

    async def take_finalizer(self, held: Held) -> None:
        """Let the policy go; one that is gone is a success."""
        ours = FINALIZERS[held.policy.id.kind]
        try:
            await self._set_finalizers(held, [one for one in held.finalizers if one != ours])
        except KubeRefused as error:
            if error.status != NOT_FOUND:
                raise

    async def set_conditions(self, policy: Policy, conditions: list[Document]) -> None:
        path = self._path(POLICIES[policy.id.kind], policy, subresource="status")
        await self._ask("PATCH", path, {"status": {"conditions": conditions}}, MERGE_PATCH)

    async def tell(self, policy: Policy, event: Document) -> None:
        """Make an event; one that is there already is a success."""
        try:
            await self._ask("POST", EVENTS.path(namespace=policy.id.namespace or "default"), event)
        except KubeRefused as error:
            if error.status != CONFLICT:
                raise

    async def _set_finalizers(self, held: Held, finalizers: list[str]) -> None:
        path = self._path(POLICIES[held.policy.id.kind], held.policy)
        meta = {"finalizers": finalizers, "resourceVersion": held.resource_version}
        await self._ask("PATCH", path, {"metadata": meta}, MERGE_PATCH)

    def _path(self, resource: Resource, policy: Policy, *, subresource: str = "") -> str:
        return resource.path(namespace=policy.id.namespace, name=policy.id.name, subresource=subresource)

    async def _ask(self, method: str, path: str, body: object, content_type: str = JSON) -> bytes:
        await self._turn()
        try:
            reply = await self._kube.call(method, path, body=body, content_type=content_type, timeout_s=CALL_TIMEOUT_S)
        except KubeRefused as error:
            self._kube.count(REQUESTS, method=method, code=str(error.status or "none"))
            raise
        self._kube.count(REQUESTS, method=method, code=str(reply.status))
        return reply.body

    async def _turn(self) -> None:
        """Wait for a token: a cluster full of changes is no load for its API."""
        now = self._kube.loop.clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled_at) * WRITES_PER_S)
        self._filled_at = now
        self._tokens -= 1
        if self._tokens < 0:
            await self._kube.loop.sleep(-self._tokens / WRITES_PER_S)


def _stored(body: bytes, path: str) -> Stored:
    try:
        stored = stored_of(msgspec.json.decode(body, type=EndpointWire))
    except msgspec.MsgspecError as error:
        raise KubeRefused("the Kubernetes API's answer cannot be read", status=0, on=path, why=str(error)) from error
    if stored is None:
        raise KubeRefused("the endpoint object is being deleted", status=CONFLICT, on=path)
    return stored


def _only_as(version: str) -> Document:
    """Return the options of a deletion that spares an object that is no longer as we know it."""
    return {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"resourceVersion": version}}
