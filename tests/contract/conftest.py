"""The servers, once for all tests of them, and clients of their administrators."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
import yaml
from charts.conftest import helm, render
from charts.objects import CHART, Render
from contract.programs import Programs, build
from contract.servers import Client, Server, lab_server, real_server
from support.waiting import until

from vpccni.components.policy_controller.crds import DEFINITIONS
from vpccni.shared.kube.resources import CRDS, NAMESPACES

__all__ = ["helm", "render"]
ESTABLISHED_WITHIN_S = 30.0
ACCOUNTS = {
    "aws-vpc-cni": "aws-node",
    "cni-metrics-helper": "cni-metrics-helper",
    "vpccni-policy-controller": "vpccni-policy-controller",
}
"""Charts and the service accounts that they make."""
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def programs() -> Programs:
    """kube-apiserver and etcd; left out where they cannot be built here."""
    try:
        return build()
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"`make kube-apiserver` cannot be done here: {error}")


@pytest.fixture(scope="session")
def real(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_server(programs, tmp_path_factory.mktemp("real")) as server:
        install_definitions(server)
        yield server


@pytest.fixture(scope="session")
def lab() -> Iterator[Server]:
    with lab_server() as server:
        install_definitions(server)
        yield server


@pytest.fixture(params=["lab", pytest.param("real", marks=pytest.mark.full)])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def api(server: Server) -> Iterator[Client]:
    client = Client(server)
    yield client
    client.close()


@pytest.fixture
def admin(real: Server) -> Iterator[Client]:
    """The real server's administrator."""
    client = Client(real)
    yield client
    client.close()


@pytest.fixture
def namespace(api: Client) -> str:
    """A namespace of the test's own."""
    name = f"contract-{next(_numbers)}"
    api.ask("POST", NAMESPACES.path(), {"metadata": {"name": name}})
    return name


@pytest.fixture(scope="session")
def accounts(real: Server, render: Render) -> dict[str, str]:
    """Install each chart's accounts and rights; return the accounts by chart."""
    client = Client(real)
    for chart in ACCOUNTS:
        for found in render(chart=chart):
            if found["kind"] == "ServiceAccount" or found["apiVersion"].startswith("rbac."):
                client.ask("POST", client.collection_of(found), found)
    client.close()
    return ACCOUNTS


def install_definitions(server: Server) -> None:
    """Create the custom kinds of the chart and of the policy controller, and wait until they are served."""
    client = Client(server)
    chart = [
        document
        for file in sorted((CHART / "crds").glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]
    for definition in (*chart, *DEFINITIONS.values()):
        client.ask("POST", CRDS.path(), json.loads(json.dumps(definition)))
        until(
            partial(is_established, client, definition["metadata"]["name"]),
            str(definition),
            within_s=ESTABLISHED_WITHIN_S,
        )
    client.close()


def is_established(client: Client, name: str) -> bool:
    conditions = client.ask("GET", CRDS.path(name=name)).get("status", {}).get("conditions") or ()  # null at first
    return any((row["type"], row["status"]) == ("Established", "True") for row in conditions)
