"""What a runtime asks and is told: the specification's codes, historical results, and nothing else than CniFailure on junk."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.naming import alias_of, host_veth_name, parse_alias, route_table
from vpccni.components.netlink_programmer.request import WiredInterface, failure, parse, previous_addresses, result
from vpccni.shared.errors import CniFailure
from vpccni.shared.messages.base import PodRef, Sandbox

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "abc",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=sample-pod;K8S_POD_UID=u1",
}
CONF = {"cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "mtu": "9001", "vethPrefix": "eni"}


@pytest.mark.parametrize(
    ("namespace", "pod", "index", "digest"),
    [
        ("default", "sample-pod", 0, "cc21c2d7785"),
        ("kube-system", "coredns-57ff979f67-qqbdh", 0, "b5faff8a083"),
        ("kube-system", "web-2", 1, "7cd2485543c"),
        ("", "", 0, "3a52ce78095"),
    ],
)
def test_host_veths_have_the_names_of_the_contract(namespace: str, pod: str, index: int, digest: str) -> None:
    assert host_veth_name(PodRef(namespace, pod), "eni", index=index) == f"eni{digest}"


def test_tables_follow_the_formula() -> None:
    assert [route_table(0, 0), route_table(0, 1), route_table(1, 1), route_table(2, 3)] == [254, 2, 10101, 10203]


@pytest.mark.parametrize(
    ("change", "stdin", "code"),
    [
        ({"CNI_COMMAND": "FROB"}, json.dumps(CONF), 4),
        ({"CNI_CONTAINERID": ""}, json.dumps(CONF), 4),
        ({"CNI_CONTAINERID": "../x"}, json.dumps(CONF), 4),
        ({"CNI_IFNAME": "a/b"}, json.dumps(CONF), 4),
        ({"CNI_IFNAME": "sixteen-letters!"}, json.dumps(CONF), 4),
        ({"CNI_ARGS": "K8S_POD_NAME"}, json.dumps(CONF), 4),
        ({"CNI_ARGS": "Foreign=1"}, json.dumps(CONF), 4),
        ({}, "{", 6),
        ({}, "[]", 6),
        ({}, json.dumps({**CONF, "cniVersion": "9.9"}), 1),
        ({}, json.dumps({**CONF, "vethPrefix": "toolong"}), 7),
        ({}, json.dumps({**CONF, "prevResult": 5}), 6),
    ],
)
def test_bad_input_gets_the_code_of_the_specification(change: dict[str, str], stdin: str, code: int) -> None:
    with pytest.raises(CniFailure) as caught:
        parse({**ENV, **change}, stdin.encode())
    assert caught.value.cni_code == code
    assert json.loads(failure(caught.value, "0.4.0"))["code"] == code


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(sorted(ENV)), st.text(max_size=20)))
def test_no_input_raises_anything_but_a_cni_failure(stdin: bytes, change: dict[str, str]) -> None:
    try:
        parse({**ENV, **change}, stdin)
    except CniFailure as error:
        json.loads(failure(error, "1.0.0"))


def test_the_result_is_the_reference_s_for_0_4_0() -> None:
    wired = WiredInterface("enicc21c2d7785", "eth0", "10.0.97.30", 2, 1)
    assert json.loads(result("0.4.0", PodRef("default", "sample-pod"), "/var/run/netns/cni-1", [wired])) == {
        "cniVersion": "0.4.0",
        "interfaces": [
            {"name": "enicc21c2d7785"},
            {"name": "eth0", "mac": "2", "sandbox": "/var/run/netns/cni-1"},
            {"name": "dummycc21c2d7785", "mac": "0", "sandbox": "1"},
        ],
        "ips": [{"version": "4", "interface": 1, "address": "10.0.97.30/32"}],
        "dns": {},
    }


def test_stored_results_of_every_form_give_their_addresses() -> None:
    assert previous_addresses({"ips": [{"address": "10.0.0.9/32"}, {"address": 5}, "junk"]}) == ["10.0.0.9"]
    assert previous_addresses({"ip4": {"ip": "10.0.0.8/32"}}) == ["10.0.0.8"]
    assert previous_addresses({"ips": "junk"}) == previous_addresses(None) == []


@given(st.text(alphabet="abc-.0", max_size=253), st.text(alphabet="abc-", max_size=63))
def test_an_alias_fits_the_kernel_and_tells_whose_it_is(name: str, namespace: str) -> None:
    sandbox = Sandbox("f" * 64, "eth0")
    alias = alias_of(sandbox, PodRef(namespace, name, "0" * 36))
    assert len(alias.encode()) <= 255
    owner = parse_alias(alias)
    assert owner is not None
    assert owner[0] == sandbox
    assert name.startswith(owner[1].name)


@pytest.mark.parametrize("alias", [None, "", "somebody else's", "vpccni1|too|few"])
def test_a_foreign_alias_is_nobody_s(alias: str | None) -> None:
    assert parse_alias(alias) is None
