"""A Kubernetes API that has aws-node pods and their pages, CloudWatch over HTTP, and the helper as a process."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3  # noqa: TID253  (a client from outside)
import pytest
from moto.server import ThreadedMotoServer

from vpccni.lab.kube.resources import BY_PATH
from vpccni.lab.kube.server import Faults, Handler, _Server
from vpccni.lab.kube.store import ApiError, Store

PROXY = re.compile(r"^/api/v1/namespaces/([^/]+)/pods/([^/:]+):61678/proxy/metrics$")
PODS = BY_PATH[("", "v1", "pods")]
LEASES = BY_PATH[("coordination.k8s.io", "v1", "leases")]
REGION = "us-west-2"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}


class _ProxyHandler(Handler):
    """The lab's API with `pods/proxy`: a pod's page is what its function returns, None hangs until the end."""

    pages: dict[str, Callable[[], str | None]]
    forbid_leases: list[bool]
    ended: threading.Event

    def do_GET(self) -> None:
        found = PROXY.match(urlsplit(self.path).path)
        if found is None:
            return super().do_GET()
        text = self.pages[found[2]]()
        if text is None:
            self.ended.wait()
            self.close_connection = True
            return None
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return self.wfile.flush()

    def _route(self, path: str) -> Any:
        resource, at = super()._route(path)
        if resource is LEASES and self.forbid_leases:
            raise ApiError(403, "Forbidden", "leases are not allowed")
        return resource, at


class Api:
    """The API server with its aws-node pods."""

    def __init__(self) -> None:
        self.store = Store()
        self.pages: dict[str, Callable[[], str | None]] = {}
        self.forbid_leases: list[bool] = []
        self._ended = threading.Event()
        members = {
            "store": self.store, "faults": Faults(), "pages": self.pages, "forbid_leases": self.forbid_leases, "ended": self._ended,
        }  # fmt: skip
        self._server = _Server(("127.0.0.1", 0), type("H", (_ProxyHandler,), members))
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add_pod(
        self, name: str, page: Callable[[], str | None], *, namespace: str = "kube-system", phase: str = "Running"
    ) -> None:
        self.pages[name] = page
        meta = {"name": name, "labels": {"k8s-app": "aws-node"}}
        self.store.create(PODS, namespace, {"metadata": meta, "spec": {"nodeName": name}, "status": {"phase": phase}})

    def lease_holder(self) -> str:
        items, _ = self.store.list(LEASES, "kube-system", lambda one: True)
        return str(items[0]["spec"]["holderIdentity"]) if items else ""

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.close_all()
        self._server.server_close()
        self._thread.join()


class CloudWatch:
    """moto's CloudWatch, stopped and started at will on one port; what it has stays."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: ThreadedMotoServer | None = None
        self.start()
        self.client: Any = self._of("cloudwatch")

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def ec2(self) -> Any:
        return self._of("ec2")

    def _of(self, service: str) -> Any:
        return boto3.client(
            service, region_name=REGION, endpoint_url=self.url, aws_access_key_id="a", aws_secret_access_key="b"
        )

    def points(self, metric: str, cluster: str = "test") -> list[tuple[float, datetime, str]]:
        """Return (value, time, unit) of each datum, oldest first."""
        now = datetime.now(tz=UTC)
        reply = self.client.get_metric_statistics(
            Namespace="Kubernetes", MetricName=metric, Dimensions=[{"Name": "CLUSTER_ID", "Value": cluster}],
            StartTime=now - timedelta(minutes=10), EndTime=now + timedelta(minutes=1), Period=1, Statistics=["Sum", "SampleCount"],
        )  # fmt: skip
        rows = sorted(reply["Datapoints"], key=lambda row: row["Timestamp"])
        return [(row["Sum"], row["Timestamp"], row["Unit"]) for row in rows]

    def close(self) -> None:
        self.client.close()
        self.stop()


class Helper:
    """The helper as a process, its page on a Unix socket."""

    def __init__(self, api: Api, folder: Path, cloudwatch: CloudWatch | None, name: str, **environment: str) -> None:
        self._socket = folder / f"{name}.sock"
        config = folder / "kubeconfig"
        config.write_text(
            '{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],'
            f'"clusters": [{{"name": "c", "cluster": {{"server": "{api.url}"}}}}]}}'
        )
        variables = {
            "KUBECONFIG": str(config),
            "HOSTNAME": name,
            "AWS_CLUSTER_ID": "test",
            "AWS_REGION": REGION,
            "USE_PROMETHEUS": "true",
            "METRIC_UPDATE_INTERVAL": "1",
            "VPCCNI_HELPER_BIND_ADDRESS": f"unix:{self._socket}",
            **CREDENTIALS,
            **({"AWS_ENDPOINT_URL": cloudwatch.url} if cloudwatch else {"USE_CLOUDWATCH": "false"}),
            **environment,
        }
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            argv = [sys.executable, "-m", "vpccni.components.metrics_helper", "--cloudwatch=false"]
            self.child = subprocess.Popen(
                argv, env={**os.environ, "USE_CLOUDWATCH": "yes", **variables}, stdout=log, stderr=log
            )

    def page(self) -> dict[str, float]:
        """Return name and value of each sample; nothing while there is no page."""
        connection = http.client.HTTPConnection("helper", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self._socket))
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        finally:
            connection.close()
        return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[:1] != "#"}

    def value(self, name: str) -> float:
        return self.page().get(name, -1.0)

    def stop(self) -> int:
        self.child.terminate()
        return self.child.wait(timeout=15)

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(timeout=15)


@pytest.fixture
def api() -> Iterator[Api]:
    one = Api()
    yield one
    one.close()


@pytest.fixture(scope="session")
def cloudwatch_server() -> Iterator[CloudWatch]:
    one = CloudWatch()
    yield one
    one.close()


@pytest.fixture
def cloudwatch(cloudwatch_server: CloudWatch) -> CloudWatch:
    """CloudWatch with nothing in it."""
    with socket.create_connection(("127.0.0.1", cloudwatch_server.port)) as plain:
        plain.sendall(b"POST /moto-api/reset HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        assert b"200" in plain.recv(100)
    return cloudwatch_server


@pytest.fixture
def start(api: Api, tmp_path: Path) -> Iterator[Callable[..., Helper]]:
    """Start a helper; it is ended with the test."""
    begun: list[Helper] = []

    def one(name: str = "helper", cloudwatch: CloudWatch | None = None, **environment: str) -> Helper:
        begun.append(Helper(api, tmp_path, cloudwatch, name, **environment))
        return begun[-1]

    yield one
    for helper in begun:
        if helper.child.poll() is None:
            helper.kill()


def a_page(adds: float, *, enis: float = 2, more: str = "") -> str:
    return (
        f"# TYPE awscni_add_ip_req_count counter\nawscni_add_ip_req_count {adds}\n"
        f"# TYPE awscni_eni_allocated gauge\nawscni_eni_allocated {enis}\n{more}"
    )


def growing(per_second: float) -> Callable[[], str]:
    """Return a page whose counter grows with time."""
    begun = time.monotonic()
    return lambda: a_page(int((time.monotonic() - begun) * per_second))
