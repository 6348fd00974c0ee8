"""Real iptables in a namespace: from nothing and from every form a node may hold, to the one that is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from vpccni.components.netlink_programmer.firewall import FirewallFacts, wanted
from vpccni.components.netlink_programmer.iptables import make_right

if TYPE_CHECKING:
    from tests.kernel.netlink_programmer.conftest import Space

FACTS = FirewallFacts(
    vpc_cidrs=("10.0.0.0/16", "100.64.0.0/10"),
    exclude_cidrs=("192.168.0.0/16",),
    primary_address="10.0.104.183",
    primary_link="eth0",
    veth_prefix="eni",
    connmark=0x80,
    external_snat=False,
    node_port=True,
    randomize="prng",
)
FOREIGN = """*nat
:FOREIGN - [0:0]
-A PREROUTING -i docker0 -m comment --comment "not ours" -j FOREIGN
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
-A FOREIGN -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.1.1:8080
COMMIT
*mangle
-A PREROUTING -i eth9 -j MARK --set-xmark 0x7/0xffffffff
COMMIT
*filter
-A FORWARD -s 10.9.9.9/32 -j DROP
COMMIT
"""
SNAT_TAIL = '-m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL -j SNAT --to-source 10.0.104.183'
HISTORY = {
    "misspelt comment": f"""*nat
:AWS-SNAT-CHAIN-0 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAN" -j RETURN
-A AWS-SNAT-CHAIN-0 {SNAT_TAIL}
COMMIT
""",
    "SNAT on vlan links too": f"""*nat
:AWS-SNAT-CHAIN-0 - [0:0]
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 {SNAT_TAIL} --random-fully
COMMIT
""",
    "a chain a CIDR": f"""*nat
:AWS-SNAT-CHAIN-0 - [0:0]
:AWS-SNAT-CHAIN-1 - [0:0]
:AWS-SNAT-CHAIN-2 - [0:0]
:AWS-CONNMARK-CHAIN-0 - [0:0]
:AWS-CONNMARK-CHAIN-1 - [0:0]
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -m state --state NEW -j AWS-CONNMARK-CHAIN-0
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 ! -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-1
-A AWS-SNAT-CHAIN-1 ! -d 100.64.0.0/10 -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-2
-A AWS-SNAT-CHAIN-2 {SNAT_TAIL}
-A AWS-CONNMARK-CHAIN-0 ! -d 10.0.0.0/16 -m comment --comment "AWS CONNMARK CHAIN, VPC CIDR" -j AWS-CONNMARK-CHAIN-1
-A AWS-CONNMARK-CHAIN-1 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
COMMIT
""",
    "doubled and disordered": """*nat
:AWS-SNAT-CHAIN-0 - [0:0]
:AWS-CONNMARK-CHAIN-0 - [0:0]
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
COMMIT
*mangle
-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A PREROUTING -i ens5 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
COMMIT
""",
}


def listing(space: Space) -> dict[str, tuple[set[str], dict[str, list[str]]]]:
    """Each table's chains, and each chain's rules in order, as iptables-save prints them."""
    tables = {}
    for table in ("nat", "mangle", "filter"):
        lines = space.run("iptables-save", "-t", table).splitlines()
        chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
        rules: dict[str, list[str]] = {}
        for line in lines:
            if line.startswith("-A "):
                rules.setdefault(line.split()[1], []).append(line)
        tables[table] = (chains, rules)
    return tables


def apply(space: Space, facts: FirewallFacts = FACTS) -> int:
    return space.do(lambda: make_right(wanted(facts)))


def all_rules(space: Space) -> list[str]:
    tables = listing(space)
    return [rule for _, chains in tables.values() for rules in chains.values() for rule in rules]


@pytest.mark.parametrize("node_port", [True, False])
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("randomize", ["prng", "hashrandom", "none"])
@pytest.mark.spec("dataplane.18.26")
def test_a_second_pass_changes_nothing(space: Space, node_port: bool, external: bool, randomize: str) -> None:
    facts = replace(
        FACTS, node_port=node_port, external_snat=external, randomize=randomize, exclude_cidrs=("0.0.0.0/0",)
    )
    assert apply(space, facts) > 0
    assert apply(space, facts) == 0


def test_the_listing_is_the_specified_one(space: Space) -> None:
    apply(space, replace(FACTS, vpc_cidrs=("10.0.0.0/16",), exclude_cidrs=()))
    nat, mangle = listing(space)["nat"][1], listing(space)["mangle"][1]
    assert mangle["PREROUTING"] == [
        '-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80',
        '-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80',
        '-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80',
    ]
    assert nat["POSTROUTING"] == ['-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0']
    assert nat["AWS-SNAT-CHAIN-0"] == [
        '-A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS SNAT CHAIN" -j RETURN',
        f"-A AWS-SNAT-CHAIN-0 ! -o vlan+ {SNAT_TAIL} --random-fully",
    ]
    assert nat["PREROUTING"] == [
        '-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0',
        '-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80',
    ]
    assert nat["AWS-CONNMARK-CHAIN-0"] == [
        '-A AWS-CONNMARK-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS CONNMARK CHAIN, VPC CIDR" -j RETURN',
        '-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80',
    ]


@pytest.mark.parametrize("form", HISTORY)
@pytest.mark.spec("dataplane.18.25", "dataplane.11.6")
def test_every_historical_form_becomes_the_wanted_one(space: Space, form: str) -> None:
    apply(space)
    fresh = listing(space)
    for table in ("nat", "mangle"):
        space.run("iptables", "-t", table, "-F")
        space.run("iptables", "-t", table, "-X")
    space.run("iptables-restore", "--noflush", text=HISTORY[form])
    assert apply(space) > 0
    assert listing(space) == fresh
    assert apply(space) == 0


@pytest.mark.parametrize("form", HISTORY)
def test_rules_of_others_stay_as_they_are(space: Space, form: str) -> None:
    space.run("iptables-restore", "--noflush", text=FOREIGN)
    foreign = all_rules(space)
    space.run("iptables-restore", "--noflush", text=HISTORY[form])
    apply(space)
    assert [rule for rule in all_rules(space) if rule in foreign] == foreign
    apply(space, replace(FACTS, external_snat=True, node_port=False))
    assert all_rules(space) == foreign
    assert listing(space)["nat"][0] >= {"FOREIGN", "AWS-SNAT-CHAIN-0"}
    assert "AWS-CONNMARK-CHAIN-0" not in listing(space)["nat"][0]
