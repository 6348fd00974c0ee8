"""SNAT of egress addresses without iptables: what stands in the kernel, and that adding and removing repeat harmlessly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from vpccni.components.netlink_programmer import egress_nft

if TYPE_CHECKING:
    from tests.kernel.netlink_programmer.conftest import Space

IPV4 = ("169.254.172.2", "10.0.104.183")
IPV6 = ("fd00::ac:2", "2001:db8::7")


def ruleset(space: Space) -> str:
    return re.sub(r"counter packets \d+ bytes \d+ ", "", space.run("nft", "list", "ruleset"))


@pytest.mark.parametrize(
    ("pod", "node", "rule"),
    [
        (*IPV4, "ip saddr @pods ip daddr != 224.0.0.0/4 snat to 10.0.104.183 fully-random"),
        (*IPV6, "ip6 saddr @pods ip6 daddr != ff00::/8 snat to 2001:db8::7 fully-random"),
    ],
)
@pytest.mark.spec("dataplane.18.23")
def test_a_pods_address_is_an_element_beside_one_rule(space: Space, pod: str, node: str, rule: str) -> None:
    assert not space.do(lambda: egress_nft.is_there(pod))
    space.do(lambda: egress_nft.remove(pod))
    for _ in range(2):
        space.do(lambda: egress_nft.add(pod, node, "prng"))
    assert ruleset(space).count(rule) == 1
    assert f"elements = {{ {pod} }}" in ruleset(space)
    assert space.do(lambda: egress_nft.is_there(pod))
    for _ in range(2):
        space.do(lambda: egress_nft.remove(pod))
    assert "elements" not in ruleset(space)
    assert not space.do(lambda: egress_nft.is_there(pod))


def test_another_address_of_the_node_takes_the_place_of_the_old_one_and_pods_stay(space: Space) -> None:
    space.do(lambda: egress_nft.add("169.254.172.2", "10.0.0.4", "none"))
    space.do(lambda: egress_nft.add("169.254.172.3", "10.0.0.5", "hashrandom"))
    listed = ruleset(space)
    assert re.findall(r"snat to .*", listed) == ["snat to 10.0.0.5 random"]
    assert "169.254.172.2, 169.254.172.3" in listed
