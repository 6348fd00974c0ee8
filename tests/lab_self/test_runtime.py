"""The runtime with Debian's plugins: chain, undo, reverse order, port mappings, cached result."""

from __future__ import annotations

import json

import pytest

from vpccni.lab.api import CniError, Lab


def test_pods_of_one_node_talk_and_leave_nothing(lab: Lab) -> None:
    a, b = lab.add_pod("node-1", "a"), lab.add_pod("node-1", "b")
    assert a.exec(["ping", "-c1", "-W1", b.address]).returncode == 0
    assert a.exec(["ip", "-o", "link", "show", "lo"]).stdout.count("LOWER_UP") == 1
    assert {pod.address for pod in lab.pods()} == {a.address, b.address}
    assert lab.kube("GET", "/api/v1/namespaces/default/pods/a")["status"]["podIP"] == a.address
    lab.runtime("node-1").check(a.sandbox())
    lab.delete_pod("a")
    lab.delete_pod("b")
    assert "veth" not in lab.nodes[0].exec(["ip", "-o", "link"]).stdout
    assert lab.runtime("node-1").sandboxes() == []


def test_a_failing_plugin_is_reported_with_its_code_and_undone(lab: Lab) -> None:
    conf = lab.runtime("node-1").conflist()
    conf["plugins"].append({"type": "tuning", "sysctl": {"net.ipv4.no_such_setting": "1"}})
    pod = lab.make_pod("node-1", "broken")
    with pytest.raises(CniError) as error:
        lab.runtime("node-1").add(pod.sandbox(), conf)
    assert error.value.code > 0
    assert error.value.msg
    assert "veth" not in lab.nodes[0].exec(["ip", "-o", "link"]).stdout


def test_a_published_port_leads_to_the_pod(lab: Lab) -> None:
    port = {"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}
    pod = lab.add_pod("node-1", "web", command=["python3", "-m", "http.server", "80"], ports=[port])
    got = lab.nodes[1].exec(
        ["curl", "-s", "-m", "5", "--retry", "20", "--retry-connrefused", "--retry-delay", "0", "-o", "/dev/null", "-w", "%{http_code}",
         f"http://{lab.nodes[0].primary_address}:8088/"]
    )  # fmt: skip
    assert got.stdout == "200"
    assert pod.ports == [port]


def test_a_node_without_configuration_says_so(lab: Lab) -> None:
    path = lab.nodes[0].filesystem / "etc/cni/net.d/10-ptp.conflist"
    kept = path.read_text()
    path.unlink()
    try:
        with pytest.raises(CniError, match="no network configuration"):
            lab.add_pod("node-1", "early")
    finally:
        path.write_text(kept)
    assert lab.pods() == []


def test_another_runtime_in_the_node_finds_plugins_at_their_usual_places(lab: Lab) -> None:
    script = "CNI_COMMAND=VERSION /opt/cni/bin/ptp </dev/null"
    assert "1.0.0" in json.loads(lab.nodes[0].exec(["sh", "-c", script]).stdout)["supportedVersions"]
