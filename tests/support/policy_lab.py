"""The lab's Kubernetes API over HTTP, and policy controllers as processes that are started and killed at will."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from support.policies import Doc, pod_document
from support.waiting import until as wait_until

from vpccni.lab.kube import defaults
from vpccni.lab.kube.resources import BY_PATH, RESOURCES
from vpccni.lab.kube.server import merge_patch, serve
from vpccni.lab.kube.store import Store

WITHIN_S = 20.0
until = partial(wait_until, within_s=WITHIN_S)
KINDS = {resource.kind: resource for resource in RESOURCES}


class Api:
    """The API server and what tests do to its objects. Writes by others are seen as versions."""

    def __init__(self) -> None:
        self.store = Store()
        (self._server,) = serve(self.store, ("127.0.0.1", 0), None)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        for name in ("default", "kube-system", "shop"):
            self.put("Namespace", name, {}, namespace="")

    def close(self) -> None:
        """Go away, cutting every connection; objects stay."""
        self._server.shutdown()
        self._server.close_all()
        self._server.server_close()

    def back(self) -> None:
        """Come back at the same address."""
        (self._server,) = serve(self.store, self._server.server_address, None)

    def refuse(self, status: int | None, prefix: str = "") -> None:
        self._server.faults.status, self._server.faults.prefix = status, prefix

    def put(self, kind: str, name: str, document: Doc, *, namespace: str = "shop") -> Doc:
        resource = KINDS[kind]
        where = namespace if resource.namespaced else ""
        body = {**document, "metadata": {"name": name, **document.get("metadata", {})}}
        defaults.apply(resource, body)
        return self.store.create(resource, where, body)

    def pod(self, name: str, ip: str, **more: Any) -> Doc:
        document = pod_document(name, ip, **{"namespace": "shop", **more})
        return self.put("Pod", name, document, namespace=document["metadata"]["namespace"])

    def switch(self, value: str = "true") -> None:
        self.put("ConfigMap", "amazon-vpc-cni", {"data": {"enable-network-policy-controller": value}}, namespace="kube-system")  # fmt: skip

    def change(self, kind: str, name: str, patch: Doc, *, namespace: str = "shop") -> None:
        resource = KINDS[kind]
        where = namespace if resource.namespaced else ""
        self.store.update(resource, where, name, lambda before: merge_patch(before, patch))

    def delete(self, kind: str, name: str, *, namespace: str = "shop") -> None:
        resource = KINDS[kind]
        self.store.delete(resource, namespace if resource.namespaced else "", name)

    def get(self, kind: str, name: str, *, namespace: str = "shop") -> Doc:
        resource = KINDS[kind]
        return self.store.get(resource, namespace if resource.namespaced else "", name)

    def all(self, kind: str) -> list[Doc]:
        return self.store.list(KINDS[kind], None, lambda _: True)[0]

    def endpoints(self, policy: str) -> list[Doc]:
        """Return the endpoint objects whose owner has this name."""
        found = [*self.all("PolicyEndpoint"), *self.all("ClusterPolicyEndpoint")]
        return [one for one in found if one["metadata"]["ownerReferences"][0]["name"] == policy]

    def rows(self, policy: str, part: str) -> list[Doc]:
        return [row for one in self.endpoints(policy) for row in one["spec"].get(part, ())]

    def cidrs(self, policy: str, part: str = "ingress") -> set[str]:
        return {row["cidr"] for row in self.rows(policy, part)}

    def versions(self) -> dict[tuple[str, str, str], str]:
        """Return the version of every object that a controller writes, leases left out."""
        kinds = "PolicyEndpoint ClusterPolicyEndpoint NetworkPolicy ApplicationNetworkPolicy ClusterNetworkPolicy Event CustomResourceDefinition".split()
        events = self.store.list(BY_PATH[("events.k8s.io", "v1", "events")], None, lambda _: True)[0]
        objects = [(kind, one) for kind in kinds for one in self.all(kind)] + [("event", one) for one in events]
        return {
            (kind, one["metadata"].get("namespace", ""), one["metadata"]["name"]): one["metadata"]["resourceVersion"]
            for kind, one in objects
        }

    def events(self) -> list[Doc]:
        return self.store.list(BY_PATH[("events.k8s.io", "v1", "events")], None, lambda _: True)[0]

    def lease(self) -> str:
        leases = self.store.list(KINDS["Lease"], None, lambda _: True)[0]
        return str(leases[0]["spec"]["holderIdentity"]) if leases else ""


class Reachable(Protocol):
    """Where an API server is."""

    @property
    def url(self) -> str: ...


class Controller:
    """One replica. `kubeconfig` may be replaced before its start."""

    def __init__(self, api: Reachable, folder: Path, name: str) -> None:
        self._log, self._config = folder / f"{name}.log", folder / "kubeconfig"
        self.kubeconfig = _kubeconfig(api.url)
        self.metrics_port, self.health_port = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._begins_at = 0
        self.env: dict[str, str] = {}
        self.flags: list[str] = ["--leader-election-namespace=kube-system", "--log-level=debug"]

    def start(self) -> Controller:
        self._config.write_text(json.dumps(self.kubeconfig))
        ports = [f"--metrics-bind-addr=127.0.0.1:{self.metrics_port}", f"--health-probe-bind-addr=127.0.0.1:{self.health_port}"]  # fmt: skip
        argv = [sys.executable, "-m", "vpccni.components.policy_controller", f"--kubeconfig={self._config}", *ports, *self.flags]  # fmt: skip
        with self._log.open("ab") as log:
            self._begins_at = log.tell()
            self.process = subprocess.Popen(argv, env={**os.environ, **self.env}, stdout=log, stderr=log)
        return self

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        return self._signal(signal.SIGTERM)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(WITHIN_S)

    def log(self) -> str:
        """Return what it logged since its last start."""
        return self._log.read_bytes()[self._begins_at :].decode()

    def is_at_work(self) -> bool:
        return '"msg": "works"' in self.log()

    def page(self) -> str:
        return _get(f"http://127.0.0.1:{self.metrics_port}/metrics")

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = [line for line in self.page().splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(one in line for one in wanted))

    def is_ready(self) -> bool:
        try:
            return _get(f"http://127.0.0.1:{self.health_port}/readyz") == "ok"
        except OSError:
            return False

    def _signal(self, number: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WITHIN_S)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return str(reply.read().decode())


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _kubeconfig(server: str) -> Doc:
    return {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
