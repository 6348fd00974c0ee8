"""Run the policy controller: `python -m vpccni.components.policy_controller [flags of the reference]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import vpccni
from vpccni.components.policy_controller import exposition, flags
from vpccni.components.policy_controller.service import Service
from vpccni.shared import effects
from vpccni.shared.exposition import CONTENT_TYPE
from vpccni.shared.http import NOT_FOUND, HttpServer, Reply
from vpccni.shared.log import Log
from vpccni.shared.parent import end_with_parent
from vpccni.shared.standalone import Standalone

NAME = "policy_controller"
KILL_POINT = "VPCCNI_KILL_POINT"
"""`EFFECT NTH before|after`, heard with VPCCNI_KILL_POINTS=1: there is no bus to arm it over."""


def main(argv: list[str]) -> int:
    """Serve until SIGTERM, a changed switch, or the loss of the lease."""
    given = flags.read(argv)
    end_with_parent(os.environ)
    raw = {**os.environ, **({"KUBECONFIG": given.kubeconfig} if given.kubeconfig else {})}
    host = Standalone(NAME, raw, Log(NAME, level=given.log_level), version=vpccni.__version__)
    service = Service(host, given)
    if raw.get("VPCCNI_KILL_POINTS") == "1" and KILL_POINT in raw:
        effect, nth, side = raw[KILL_POINT].split()
        effects.arm(effect, nth=int(nth), before=side == "before")

    def metrics(path: str) -> Reply:
        return Reply(exposition.render(*host.series()), content_type=CONTENT_TYPE) if path == "/metrics" else NOT_FOUND

    def health(path: str) -> Reply:
        if path == "/healthz":
            return Reply("ok")
        if path == "/readyz":
            return Reply("ok") if service.is_ready() else Reply("\n".join(["not ready", *host.reasons()]), 500)
        return NOT_FOUND

    for address, answer in ((given.metrics_bind_addr, metrics), (given.health_probe_bind_addr, health)):
        if address not in ("", "0"):
            HttpServer(host.loop, address, answer, _trouble(host, address)).start()
    service.start()
    return host.run()


def _trouble(host: Standalone, address: str) -> Callable[[str], None]:
    return lambda why: host.degraded(f"http {address}", why) if why else host.healthy(f"http {address}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
