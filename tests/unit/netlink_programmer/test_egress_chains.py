"""Egress chains are named and written as the reference does; what removes them removes nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.egress_chains import (
    EgressChain,
    adding,
    is_whole,
    removing,
    removing_what_is_there,
)

V4 = EgressChain("aws-cni", "containerId-123", "169.254.172.10", "10.0.104.183")
V6 = EgressChain("aws-cni", "containerId-789", "fd00::ac:10", "2001:db8::1")
FOREIGN = [
    ":POSTROUTING ACCEPT [0:0]",
    ":KUBE-POSTROUTING - [0:0]",
    "-A POSTROUTING -j KUBE-POSTROUTING",
    '-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0',
]


@pytest.mark.spec("dataplane.3")
def test_names_are_the_references() -> None:
    assert V4.name == "CNI-E4-5740307710ebfd5fb24f5"
    assert V6.name == "CNI-E6-e335b08ae90730d0a659a"


@pytest.mark.spec("dataplane.12")
@pytest.mark.parametrize(
    ("randomize", "flag"), [("none", ""), ("hashrandom", " --random"), ("prng", " --random-fully")]
)
def test_a_chain_lets_multicast_pass_and_translates_the_rest(randomize: str, flag: str) -> None:
    chain = EgressChain("aws-cni", "c1", "169.254.172.10", "10.0.0.1", randomize)
    comment = '-m comment --comment "name: \\"aws-cni\\" id: \\"c1\\""'
    assert adding(chain) == [
        f":{chain.name} - [0:0]",
        f"-A {chain.name} -d 224.0.0.0/4 {comment} -j ACCEPT",
        f"-A {chain.name} {comment} -j SNAT --to-source 10.0.0.1{flag}",
        f"-A POSTROUTING -s 169.254.172.10/32 {comment} -j {chain.name}",
    ]
    assert "-d ff00::/8" in adding(V6)[1]


def saved(*chains: EgressChain) -> str:
    """What `iptables-save` prints of a node with these chains and the rules of others."""
    lines = [*FOREIGN, *(f":{chain.name} - [0:0]" for chain in chains)]
    lines += [line for chain in chains for line in adding(chain) if line.startswith("-A")]
    return "\n".join(["*nat", *lines, "COMMIT"])


def test_what_removes_a_whole_chain_is_what_is_there_of_it() -> None:
    other = EgressChain("aws-cni", "other", "169.254.172.11", "10.0.104.183")
    assert removing_what_is_there(V4.name, saved(V4, other)) == removing(V4)
    assert removing_what_is_there(V4.name, saved(other)) == []
    assert is_whole(V4, saved(V4, other))
    assert not is_whole(V4, saved(other))


@given(st.lists(st.sampled_from([*FOREIGN, *adding(V4), *adding(V6)[1:]]), max_size=12))
def test_removal_never_names_what_is_anothers(lines: list[str]) -> None:
    for line in removing_what_is_there(V4.name, "\n".join(lines)):
        assert V4.name in line
        assert line.startswith(("-D POSTROUTING ", f":{V4.name} ", f"-X {V4.name}"))
