"""Adapter: the custom resource definitions are there before anything else, and stay (spec policy.md 3.2)."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec

from vpccni.components.policy_controller.crds import DEFINITIONS
from vpccni.shared.backoff import Backoff
from vpccni.shared.kube import Kube, KubeRefused, Wire
from vpccni.shared.kube.errors import CONFLICT
from vpccni.shared.kube.resources import CRDS
from vpccni.shared.log import Log

ESTABLISHED_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 1.0
AUDIT_EVERY_S: Final = 15.0
PAUSES: Final = Backoff(0.5, 15.0)


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, frozen=True):
    conditions: list[_Condition] | None = None


class DefinitionWire(Wire, frozen=True):
    """A CustomResourceDefinition: only whether it is served is read."""

    status: _Status = _Status()


class NotEstablished(Exception):
    """A definition was made, and the API server does not serve it."""


async def ensure(kube: Kube, log: Log) -> None:
    """Make the definitions that are absent and wait until all are served; existing ones are never changed.

    With the API away it goes on trying. Raises NotEstablished when the API answers and one is not served within a minute.
    """
    since = kube.loop.clock()
    failures = 0
    while True:
        try:
            missing = [name for name in DEFINITIONS if not await _is_established(kube, name, log)]
            kube.healthy("definitions")
        except KubeRefused as error:
            failures += 1
            kube.degraded("definitions", f"The custom resource definitions cannot be looked at or made. {error}")
            await kube.loop.sleep(PAUSES.pause_s(failures, random.random()))
            since = kube.loop.clock()
            continue
        if not missing:
            return
        if kube.loop.clock() - since > ESTABLISHED_WITHIN_S:
            raise NotEstablished(", ".join(missing))
        await kube.loop.sleep(LOOK_EVERY_S)


async def lost(kube: Kube, log: Log) -> str:
    """Return the name of a definition that was deleted, empty if none was; other errors are only logged."""
    for name in DEFINITIONS:
        try:
            if await kube.get(CRDS, DefinitionWire, name=name) is None:
                return name
        except KubeRefused as error:
            log.warning("custom resource definitions not looked at", error=str(error))
            return ""
    return ""


async def _is_established(kube: Kube, name: str, log: Log) -> bool:
    found = await kube.get(CRDS, DefinitionWire, name=name)
    if found is not None:
        return any((one.type, one.status) == ("Established", "True") for one in found.status.conditions or ())
    body: dict[str, Any] = DEFINITIONS[name]
    try:
        await kube.create(CRDS, body)
        log.info("custom resource definition made", on=name)
    except KubeRefused as error:
        if error.status != CONFLICT:
            raise
    return False
