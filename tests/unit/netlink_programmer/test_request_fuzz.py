"""Whatever a runtime or another plugin hands over: a request, a well-formed result, or an error of the specification (18.31, 18.39)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.adding import _are_usable
from vpccni.components.netlink_programmer.egress_request import EgressPair, check_config, read_config, with_egress
from vpccni.components.netlink_programmer.request import (
    VERSIONS,
    CniRequest,
    WiredInterface,
    failure,
    parse,
    pass_on,
    previous_addresses,
    previous_host_veths,
    result,
    stdin_version,
    valid_attachments,
)
from vpccni.shared.errors import CniFailure
from vpccni.shared.messages.allocation import AssignedInterface
from vpccni.shared.messages.base import PodRef, Sandbox

ENV = {
    "CNI_COMMAND": "DEL",
    "CNI_CONTAINERID": "abc",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "",
}
CODES = {1, 4, 5, 6, 7, 11, 50, 51, 999}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["10.0.97.30/32", "fd00::1/128", "254", "0a:58:0a:00:61:1e", "true", "9001", "169.254.172.0/22"])
)
KEYS = st.sampled_from(
    "cniVersion name type mtu vethPrefix prevResult runtimeConfig interfaces ips mac sandbox address interface ip4 ip6 ip enabled nodeIP "
    "ipam ranges subnet dataDir randomizeSNAT pluginLogFile cni.dev/valid-attachments cni.dev/attachments containerID ifname "
    "io.kubernetes.cri.pod-annotations k8s.amazonaws.com/nicConfig".split()
) | st.text(max_size=8)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)
CONFIGS = st.dictionaries(KEYS, ANYTHING, max_size=8)


def refusal(work: Callable[[], object]) -> CniFailure | None:
    """The failure that some work ends in, None when it ends well; anything else it raises is raised."""
    try:
        work()
    except CniFailure as error:
        return error
    return None


def is_well_formed(error: CniFailure | None, version: str = "0.4.0") -> bool:
    if error is None:
        return True
    document = json.loads(failure(error, version))
    return {"cniVersion", "code", "msg"} <= document.keys() and document["code"] in CODES


@pytest.mark.spec("dataplane.18.31")
@given(CONFIGS, st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]), st.text(max_size=60))
def test_any_configuration_is_a_request_or_a_well_formed_error(
    config: dict[str, Any], command: str, arguments: str
) -> None:
    stdin = json.dumps({"cniVersion": "0.4.0", "name": "aws-cni", **config}).encode()
    env = {**ENV, "CNI_COMMAND": command, "CNI_ARGS": arguments}
    refused = refusal(lambda: parse(env, stdin))
    assert is_well_formed(refused, stdin_version(stdin))
    if refused is not None:
        return
    request = parse(env, stdin)
    assert request.version in VERSIONS
    assert all(isinstance(one, str) for one in previous_addresses(request.previous))
    assert all(isinstance(one, str) for one in previous_host_veths(request.previous))
    assert is_well_formed(refusal(lambda: valid_attachments(request)))
    assert is_well_formed(refusal(lambda: pass_on(request)))
    egress = read_config(request)
    refused = refusal(lambda: check_config(egress))
    assert is_well_formed(refused)
    if refused is None:
        assert egress.gateway
        json.loads(with_egress(request, egress, EgressPair("veth1", "02:00:00:00:00:01", "02:00:00:00:00:02")))


def test_a_gc_without_a_list_removes_nothing() -> None:
    def asked(**more: Any) -> CniRequest:
        return parse(
            {**ENV, "CNI_COMMAND": "GC"}, json.dumps({"cniVersion": "1.1.0", "name": "aws-cni", **more}).encode()
        )

    assert refusal(lambda: valid_attachments(asked())) is not None
    assert refusal(lambda: valid_attachments(asked(**{"cni.dev/valid-attachments": "junk"}))) is not None
    assert valid_attachments(asked(**{"cni.dev/valid-attachments": None})) == set()
    listed = [{"containerID": "c1", "ifname": "eth0"}]
    assert valid_attachments(asked(**{"cni.dev/attachments": listed})) == {("c1", "eth0")}


@pytest.mark.spec("dataplane.18.31")
@given(ANYTHING)
def test_no_stored_result_keeps_a_pod_from_being_deleted(previous: Any) -> None:
    stdin = json.dumps({"cniVersion": "0.4.0", "name": "aws-cni", "prevResult": previous}).encode()
    assert parse(ENV, stdin).command == "DEL"


@given(st.text(max_size=200), st.text(max_size=40), st.text(max_size=40), st.sampled_from(sorted(CODES)))
def test_an_error_is_json_whatever_it_quotes(what: str, on: str, why: str, code: int) -> None:
    error = CniFailure(what, cni_code=code, on=on, why=why)
    document = json.loads(failure(error, "1.0.0"))
    assert (document["code"], document["msg"], document["cniVersion"]) == (code, what, "1.0.0")


@pytest.mark.spec("dataplane.4.4", "dataplane.4.5")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("address", ["10.0.97.30", "2001:db8:1:abcd::3"])
def test_a_result_has_the_form_of_its_version(version: str, address: str) -> None:
    family, length = ("6", 128) if ":" in address else ("4", 32)
    wired = [WiredInterface("eni1", "eth0", address, 254, 0), WiredInterface("eni2", "mNicIf1", address, 10101, 1)]
    document = json.loads(result(version, PodRef("kube-system", "web-2"), "/netns", wired))
    assert document["cniVersion"] == version
    if version in ("0.1.0", "0.2.0"):
        assert document[f"ip{family}"] == {"ip": f"{address}/{length}"}
        assert "interfaces" not in document
        return
    assert [one.get("mac") for one in document["interfaces"]] == [None, "254", None, "10101", "0"]
    assert [one["interface"] for one in document["ips"]] == [1, 3]
    is_old = version in ("0.3.0", "0.3.1", "0.4.0")
    assert [one.get("version") for one in document["ips"]] == [family if is_old else None] * 2
    assert ("dns" in document) is is_old
    assert not {"routes"} & document.keys()


@pytest.mark.spec("dataplane.18.39")
@pytest.mark.parametrize("addresses", [(), ("",), ("10.0.97.30", ""), ("neither family",)])
def test_an_answer_without_an_address_is_none(addresses: tuple[str, ...]) -> None:
    assert not _are_usable([AssignedInterface(one, "eni-1", 0, 0, 254) for one in addresses])
    assert _are_usable([AssignedInterface("10.0.97.30", "eni-1", 0, 0, 254)])


@pytest.mark.spec("dataplane.13.5")
@pytest.mark.parametrize(
    ("runtime", "wanted"),
    [
        ({"io.kubernetes.cri.pod-annotations": {"k8s.amazonaws.com/nicConfig": "multi-nic-attachment"}}, True),
        ({"io.kubernetes.cri.pod-annotations": {"k8s.amazonaws.com/nicConfig": "other"}}, False),
        ({"io.kubernetes.cri.pod-annotations": "junk"}, False),
        ({}, False),
        ("junk", False),
    ],
)
def test_the_annotation_asks_for_every_card(runtime: Any, wanted: bool) -> None:
    stdin = json.dumps({"cniVersion": "0.4.0", "name": "aws-cni", "runtimeConfig": runtime}).encode()
    assert parse({**ENV, "CNI_COMMAND": "ADD"}, stdin).multi_nic is wanted


def test_an_egress_result_keeps_what_was_before_and_appends_two_entries() -> None:
    before = {"cniVersion": "0.4.0", "interfaces": [{"name": "a"}], "ips": [{"address": "fd00::1/128"}], "dns": {}}
    config = {"nodeIP": "10.0.0.1", "ipam": {"ranges": [[{"subnet": "169.254.172.0/22"}]]}, "mtu": "9001"}
    request = CniRequest("ADD", "0.4.0", Sandbox("c", "eth0"), PodRef(), "/netns", 9001, "eni", before, config)
    document = json.loads(with_egress(request, read_config(request), EgressPair("veth1", "m1", "m2")))
    assert document["interfaces"][1:] == [
        {"name": "veth1", "mac": "m1"},
        {"name": "v4if0", "mac": "m2", "sandbox": "/netns"},
    ]
    assert document["ips"] == before["ips"]
