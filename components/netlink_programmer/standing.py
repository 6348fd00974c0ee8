"""The answers to CHECK and STATUS: silence when all is well, otherwise the `CniFailure` that says what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vpccni.components.netlink_programmer import kernel
from vpccni.components.netlink_programmer.request import CODE_NOT_READY, CODE_OWN, CniRequest
from vpccni.components.netlink_programmer.wiring import Wired
from vpccni.shared.errors import CniFailure
from vpccni.shared.messages.allocation import PoolState

STALE_POOL_S: Final = 10.0  # two heartbeats, design 5
MAKE_ANEW: Final = "Delete the pod; it is created anew"


def check(wired: Sequence[Wired], request: CniRequest, descriptor: int) -> None:
    """Raise what is wrong with a wired pod (spec dataplane.md 15). `wired`: none when a veth is not there; `descriptor`: its netlink."""
    if not wired:
        raise CniFailure(
            "check: the pod's interface is not there", cni_code=CODE_OWN, on=str(request.sandbox), remedy=MAKE_ANEW
        )
    trouble = kernel.check_pod(descriptor, wired)
    if trouble:
        raise CniFailure(
            "check: the pod's network is not as it was set up",
            cni_code=CODE_OWN,
            on=str(request.pod),
            why="; ".join(trouble),
            remedy=MAKE_ANEW,
        )


def status(pool: PoolState | None, *, silent_s: float, node_ready: bool) -> None:
    """Raise why no pod could be added now. `silent_s`: for how long the allocator was not heard."""
    if pool is None or silent_s > STALE_POOL_S:
        raise _not_ready("the address allocator is silent", "See `vpccni status`")
    if not pool.ready:
        raise _not_ready(f"{pool.cause}: {pool.detail}", "See docs/errors.md")
    if not node_ready:
        raise _not_ready("the node's rules are not in place yet", "See `vpccni status`")


def _not_ready(why: str, remedy: str) -> CniFailure:
    return CniFailure("not ready", cni_code=CODE_NOT_READY, why=why, remedy=remedy)
