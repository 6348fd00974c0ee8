"""python -m vpccni.lab.kube STATE_FOLDER: the lab's Kubernetes API, in the VPC's namespace and on `kube.sock`."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from vpccni.lab import vpc_plan
from vpccni.lab.kube.resources import BY_PATH
from vpccni.lab.kube.server import serve
from vpccni.lab.kube.store import Store

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


def main(argv: list[str]) -> int:
    """Serve until told to end. Objects are not kept: a server that is started again has the versions after the ones before (410)."""
    state = Path(argv[0])
    (state / "kube.pid").write_text(str(os.getpid()))
    (state / "kube.sock").unlink(missing_ok=True)
    store = Store(first_version=int(time.time()))
    for name in NAMESPACES:
        labels = {"kubernetes.io/metadata.name": name}
        store.create(
            BY_PATH[("", "v1", "namespaces")],
            "",
            {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}},
        )
    service = {"metadata": {"name": "kubernetes"}, "spec": {"clusterIP": "172.20.0.1", "ports": [{"port": 443}]}}
    store.create(BY_PATH[("", "v1", "services")], "default", service)
    serve(store, (str(vpc_plan.SERVICE), vpc_plan.KUBE_PORT), state / "kube.sock")
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
