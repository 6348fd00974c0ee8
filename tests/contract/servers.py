"""Two Kubernetes API servers behind one face: the lab's, and the real kube-apiserver with etcd and RBAC."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from contract.programs import Programs
from support.waiting import until

from vpccni.lab.kube import defaults
from vpccni.lab.kube.resources import BY_PATH
from vpccni.lab.kube.server import serve
from vpccni.lab.kube.store import Store
from vpccni.shared.kube.access import Access
from vpccni.shared.kube.errors import KubeRefused
from vpccni.shared.kube.resources import Resource
from vpccni.shared.kube.transport import JSON, MERGE_PATCH, Transport

READY_WITHIN_S: Final = 120.0
ANSWER_WITHIN_S: Final = 20.0
SILENCE_S: Final = 30.0
JSON_PATCH: Final = "application/json-patch+json"
ADMIN: Final = "contract-admin"
Object = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """One API server, as an administrator reaches it."""

    name: str
    access: Access

    @property
    def url(self) -> str:
        return self.access.server

    def kubeconfig(self, token: str) -> Object:
        """Return the kubeconfig of an identity."""
        cluster = {"server": self.url, "certificate-authority": self.access.ca_file}
        return {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "c", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }


class Client:
    """Requests of one identity, by the very transport that the processes use."""

    def __init__(self, server: Server, token: str = "") -> None:
        self.server = server
        access = replace(server.access, token=token) if token else server.access
        self._transport = Transport(access, user_agent="contract")

    def close(self) -> None:
        self._transport.close()

    def ask(self, method: str, path: str, body: object = None, *, content_type: str = JSON, **query: str) -> Object:
        """Return the answer. Raises KubeRefused."""
        reply = self._transport.ask(
            method, path, query, timeout_s=ANSWER_WITHIN_S, body=body, content_type=content_type
        )
        answer: Object = json.loads(reply.body)
        return answer

    def merge(self, path: str, body: Object, **query: str) -> Object:
        return self.ask("PATCH", path, body, content_type=MERGE_PATCH, **query)

    def refusal(self, method: str, path: str, body: object = None, *, content_type: str = JSON, **query: str) -> int:
        """Return the status by which a request is refused, 0 where it is not."""
        try:
            self.ask(method, path, body, content_type=content_type, **query)
        except KubeRefused as error:
            return error.status
        return 0

    def served(self, api_version: str) -> list[Object]:
        """Return what discovery tells of a group's version: its resources."""
        found: list[Object] = self.ask("GET", f"/{'apis' if '/' in api_version else 'api'}/{api_version}")["resources"]
        return found

    def collection_of(self, document: Object) -> str:
        """Return the path at which an object is created."""
        group, _, version = document["apiVersion"].rpartition("/")
        (kind,) = (
            one
            for one in self.served(document["apiVersion"])
            if one["kind"] == document["kind"] and "/" not in one["name"]
        )
        namespace = document["metadata"]["namespace"] if kind["namespaced"] else ""
        return Resource(group, version, kind["name"]).path(namespace=namespace)

    def events(self, path: str, *, seconds: int, **query: str) -> Iterator[Object]:
        """Yield the events of a watch, which the server ends after `seconds`."""
        asked = {"watch": "true", "timeoutSeconds": str(seconds), **query}
        for line in self._transport.lines(path, asked, opening_s=ANSWER_WITHIN_S, silence_s=SILENCE_S):
            yield json.loads(line)


@contextmanager
def lab_server() -> Iterator[Server]:
    """Serve the lab's API on a port of its own, begun as in a lab."""
    store = Store(first_version=int(time.time()))
    namespaces = BY_PATH[("", "v1", "namespaces")]
    for name in ("default", "kube-system"):
        namespace: Object = {"metadata": {"name": name}}
        defaults.apply(namespaces, namespace)
        store.create(namespaces, "", namespace)
    (server,) = serve(store, ("127.0.0.1", 0), None)
    try:
        yield Server("lab", Access(server=f"http://127.0.0.1:{server.server_address[1]}"))
    finally:
        server.shutdown()
        server.close_all()
        server.server_close()


@contextmanager
def real_server(programs: Programs, folder: Path) -> Iterator[Server]:
    """Run etcd and kube-apiserver with RBAC; both end with the block."""
    etcd_port, peer_port, port = _free_ports(3)
    _service_account_keys(folder)
    (folder / "tokens.csv").write_text(f'{ADMIN},admin,admin,"system:masters"\n')
    etcd = [
        str(programs.etcd), f"--data-dir={folder}/etcd", "--unsafe-no-fsync", "--log-level=error",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}", f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
    ]  # fmt: skip
    api = [
        str(programs.kube_apiserver), f"--etcd-servers=http://127.0.0.1:{etcd_port}", f"--cert-dir={folder}/certificates",
        "--bind-address=127.0.0.1", f"--secure-port={port}", "--authorization-mode=RBAC",
        f"--token-auth-file={folder}/tokens.csv", "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={folder}/sa.pub",
        f"--service-account-signing-key-file={folder}/sa.key",
        "--allow-privileged=true", "--disable-admission-plugins=ServiceAccount",  # no controller manager makes the accounts' secrets
    ]  # fmt: skip
    access = Access(server=f"https://127.0.0.1:{port}", ca_file=f"{folder}/certificates/apiserver.crt", token=ADMIN)
    with _running(etcd, folder / "etcd.log"), _running(api, folder / "kube-apiserver.log"):
        server = Server("real", access)
        until(lambda: _is_ready(server), (folder / "kube-apiserver.log").read_text, within_s=READY_WITHIN_S)
        yield server


def _is_ready(server: Server) -> bool:
    if not Path(server.access.ca_file).exists():
        return False
    client = Client(server)
    try:
        return all(
            client.refusal("GET", f"/api/v1/namespaces/{name}") == 0 for name in ("default", "kube-system")
        ) and (client.refusal("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/view") == 0)
    finally:
        client.close()


@contextmanager
def _running(argv: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _service_account_keys(folder: Path) -> None:
    for command in (
        ["openssl", "genrsa", "-out", "sa.key", "2048"],
        ["openssl", "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def pod(name: str, *, node: str = "node-1", **labels: str) -> Object:
    """Return a pod that any API server takes."""
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    }
