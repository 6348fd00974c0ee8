"""The node's firewall in a namespace: from nothing and from every form a node may hold, in either back-end, to the one that is wanted."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from vpccni.components.netlink_programmer.firewall import Backend, FirewallFacts
from vpccni.components.netlink_programmer.node_firewall import NodeFirewall
from vpccni.shared import effects
from vpccni.shared.errors import KernelRefused

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
KUBE_CHAINS = 2500
WITH_KUBE_PROXY_S = 10.0
REFERENCE_NFT = """table ip aws-cni {
  chain snat-mark {
    counter ip daddr 10.0.0.0/16 return
    counter ip daddr 100.64.0.0/10 return
    counter ip daddr 192.168.0.0/16 return
    counter ct mark set ct mark | 0x80
  }
  chain nat-prerouting {
    type nat hook prerouting priority -90; policy accept;
    fib daddr type local return
    iifname "eni*" counter jump snat-mark
    counter meta mark set ct mark & 0x80
  }
}
"""
"""What the reference leaves with its nft connmark (spec dataplane.md 11.7), in the short form of comparisons that `nft` writes."""
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


Listing = dict[str, tuple[set[str], dict[str, list[str]]]]


def listing(space: Space, backend: Backend) -> Listing:
    """Each table's chains, and each chain's rules in order, as the back-end's own program prints them."""
    tables = {}
    for table in ("nat", "mangle", "filter"):
        lines = space.run(f"iptables-{backend}-save", "-t", table).splitlines()
        chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
        rules: dict[str, list[str]] = {}
        for line in lines:
            if line.startswith("-A "):
                rules.setdefault(line.split()[1], []).append(line)
        tables[table] = (chains, rules)
    return tables


def all_rules(space: Space, backend: Backend) -> list[str]:
    tables = listing(space, backend)
    return [rule for _, chains in tables.values() for rules in chains.values() for rule in rules]


def hint(space: Space, backend: Backend, name: str = "KUBE-KUBELET-CANARY") -> None:
    """Show the back-end as kubelet does."""
    space.run(f"iptables-{backend}", "-t", "mangle", "-N", name)


def apply(space: Space, facts: FirewallFacts = FACTS, firewall: NodeFirewall | None = None) -> int:
    one = firewall or NodeFirewall()
    changed: int = space.do(lambda: one.make_right(facts))
    return changed


def connmark(space: Space) -> dict[str, list[str]]:
    """The rules of `ip aws-cni` by chain as `nft` prints them, without counters; nothing where there is no such table."""
    found: dict[str, list[str]] = {}
    if "table ip aws-cni" not in space.run("nft", "list", "tables"):
        return found
    for line in space.run("nft", "list", "table", "ip", "aws-cni").splitlines():
        words = re.sub(r"counter packets \d+ bytes \d+ ", "", line.strip())
        if words.startswith("chain "):
            found[words.split()[1]] = []
        elif found and words not in ("", "}"):
            found[list(found)[-1]].append(words)
    return found


OUR_CONNMARK = {
    "snat-mark": [
        "ip daddr 192.168.0.0/16 return",
        "ip daddr 10.0.0.0/16 return",
        "ip daddr 100.64.0.0/10 return",
        "ct mark set ct mark | 0x00000080",
    ],
    "nat-prerouting": [
        "type nat hook prerouting priority dstnat + 10; policy accept;",
        "fib daddr type local return",
        'iifname "eni*" jump snat-mark',
        "ct mark & 0x00000080 == 0x00000080 meta mark set meta mark | 0x00000080",
        "ct mark & 0x00000080 == 0x00000000 meta mark set meta mark & 0xffffff7f",
    ],
}


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("node_port", [True, False])
@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("randomize", ["prng", "hashrandom", "none"])
@pytest.mark.spec("dataplane.18.26")
def test_a_second_and_third_start_change_nothing(
    space: Space, backend: Backend, node_port: bool, external: bool, randomize: str
) -> None:
    hint(space, backend)
    excluded = ("0.0.0.0/0", "192.168.0.0/16")
    facts = replace(
        FACTS, node_port=node_port, external_snat=external, randomize=randomize, exclude_cidrs=excluded,
        block_ipv4=True, block_ipv6=True,
    )  # fmt: skip
    assert apply(space, facts) > 0
    before = space.run("nft", "list", "ruleset"), all_rules(space, backend)
    assert apply(space, facts) == 0
    assert apply(space, facts) == 0
    assert (space.run("nft", "list", "ruleset"), all_rules(space, backend)) == before


@pytest.mark.parametrize("backend", Backend)
def test_the_listing_is_the_specified_one(space: Space, backend: Backend) -> None:
    hint(space, backend)
    apply(space, replace(FACTS, vpc_cidrs=("10.0.0.0/16",), exclude_cidrs=()))
    nat, mangle = listing(space, backend)["nat"][1], listing(space, backend)["mangle"][1]
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
    if backend is Backend.NFT:
        assert "PREROUTING" not in nat
        assert connmark(space) == {**OUR_CONNMARK, "snat-mark": OUR_CONNMARK["snat-mark"][1::2]}
        return
    assert connmark(space) == {}
    assert nat["PREROUTING"] == [
        '-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0',
        '-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80',
    ]
    assert nat["AWS-CONNMARK-CHAIN-0"] == [
        '-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS CONNMARK CHAIN, LOCAL" -m addrtype --dst-type LOCAL -j RETURN',
        '-A AWS-CONNMARK-CHAIN-0 -d 10.0.0.0/16 -m comment --comment "AWS CONNMARK CHAIN, VPC CIDR" -j RETURN',
        '-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80',
    ]


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("form", HISTORY)
@pytest.mark.spec("dataplane.18.25", "dataplane.11.6")
def test_every_historical_form_becomes_the_wanted_one_in_one_pass(space: Space, form: str, backend: Backend) -> None:
    hint(space, backend)
    apply(space)
    fresh = listing(space, backend), connmark(space)
    for table in ("nat", "mangle"):
        space.run(f"iptables-{backend}", "-t", table, "-F")
        space.run(f"iptables-{backend}", "-t", table, "-X")
    hint(space, backend)
    space.run(f"iptables-{backend}-restore", "--noflush", text=HISTORY[form])
    assert apply(space) > 0
    assert (listing(space, backend), connmark(space)) == fresh
    assert apply(space) == 0


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("form", HISTORY)
def test_rules_of_others_stay_as_they_are(space: Space, form: str, backend: Backend) -> None:
    hint(space, backend)
    space.run(f"iptables-{backend}-restore", "--noflush", text=FOREIGN)
    foreign = all_rules(space, backend)
    space.run(f"iptables-{backend}-restore", "--noflush", text=HISTORY[form])
    apply(space)
    assert [rule for rule in all_rules(space, backend) if rule in foreign] == foreign
    apply(space, replace(FACTS, external_snat=True, node_port=False))
    assert all_rules(space, backend) == foreign
    assert listing(space, backend)["nat"][0] >= {"FOREIGN", "AWS-SNAT-CHAIN-0"}
    assert "AWS-CONNMARK-CHAIN-0" not in listing(space, backend)["nat"][0]


def ours_in(space: Space, backend: Backend) -> list[str]:
    """All that is ours in one back-end; asking a legacy program where there are no legacy tables would make them."""
    if backend is Backend.LEGACY and not space.run("cat", "/proc/net/ip_tables_names"):
        return []
    saved = space.run(f"iptables-{backend}-save") + space.run(f"ip6tables-{backend}-save")
    return [line for line in saved.splitlines() if "AWS" in line or "Block Node Local" in line]


@pytest.mark.parametrize("shown", ["KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"])
@pytest.mark.parametrize("backend", Backend)
@pytest.mark.spec("dataplane.18.19", "dataplane.10.4")
def test_our_rules_follow_the_sign_of_kubelet_and_none_stay_behind(space: Space, backend: Backend, shown: str) -> None:
    firewall, facts = NodeFirewall(), replace(FACTS, block_ipv4=True, block_ipv6=True)
    apply(space, facts, firewall)
    assert firewall.backend is Backend.NFT, "without a sign"
    hint(space, backend, shown)
    assert space.do(firewall.moved) is (backend is Backend.LEGACY)
    changed = apply(space, facts, firewall)
    assert (changed > 0) is (backend is Backend.LEGACY)
    assert firewall.backend is backend
    assert ours_in(space, backend)
    assert ours_in(space, next(one for one in Backend if one is not backend)) == []
    assert (connmark(space) == {}) is (backend is Backend.LEGACY)
    assert apply(space, facts, firewall) == 0
    assert not space.do(firewall.moved)


@pytest.mark.spec("dataplane.18.19")
def test_rules_in_legacy_move_to_nft_when_its_sign_appears_and_stay_while_there_is_none(space: Space) -> None:
    hint(space, Backend.LEGACY)
    apply(space)
    space.run("iptables-legacy", "-t", "mangle", "-X", "KUBE-KUBELET-CANARY")
    firewall = NodeFirewall()
    assert apply(space, FACTS, firewall) == 0, "no sign: where our rules are is right"
    assert firewall.backend is Backend.LEGACY
    hint(space, Backend.NFT)
    assert apply(space, FACTS, firewall) > 0
    assert (ours_in(space, Backend.LEGACY), connmark(space)) == ([], OUR_CONNMARK)
    assert apply(space, FACTS, firewall) == 0


def test_a_node_without_legacy_tables_gets_none_by_our_looking(space: Space) -> None:
    hint(space, Backend.NFT)
    apply(space)
    assert space.run("cat", "/proc/net/ip_tables_names") == ""


@pytest.mark.spec("dataplane.18.24", "dataplane.16.3")
def test_the_reference_connmark_is_taken_over_in_one_batch(space: Space) -> None:
    hint(space, Backend.NFT)
    space.run("nft", "-f", "-", text=REFERENCE_NFT)
    apply(space)
    marks = connmark(space)
    assert marks["nat-prerouting"] == OUR_CONNMARK["nat-prerouting"]
    assert marks["snat-mark"] == connmark_of_reference(), "the chain that is right stays as it is"
    assert apply(space) == 0


def connmark_of_reference() -> list[str]:
    lines = [line.strip().removeprefix("counter ") for line in REFERENCE_NFT.splitlines()]
    return [*lines[2:5], "ct mark set ct mark | 0x00000080"]


@pytest.mark.parametrize(
    "broken",
    [
        "add rule ip aws-cni nat-prerouting ip daddr 1.1.1.1 drop",
        "insert rule ip aws-cni snat-mark return",
        "flush chain ip aws-cni snat-mark",
        "flush table ip aws-cni",
        "delete chain ip aws-cni nat-prerouting",
        "delete table ip aws-cni; add table ip aws-cni; add chain ip aws-cni nat-prerouting { type filter hook input priority 5; policy drop; }",
    ],
)
def test_a_connmark_that_somebody_changed_is_put_right(space: Space, broken: str) -> None:
    apply(space)
    space.run("nft", "-f", "-", text=broken.replace("; add", "\nadd") + "\n")
    assert connmark(space) != OUR_CONNMARK
    assert apply(space) == 1
    assert connmark(space) == OUR_CONNMARK
    assert apply(space) == 0


def test_a_vpc_without_a_cidr_is_an_error_not_a_rule_that_marks_everything(space: Space) -> None:
    with pytest.raises(KernelRefused, match="no CIDR"):
        apply(space, replace(FACTS, vpc_cidrs=()))
    assert space.run("nft", "list", "ruleset") == ""


@pytest.mark.parametrize("backend", Backend)
def test_the_block_comes_first_and_stays_when_others_come_before_it(space: Space, backend: Backend) -> None:
    hint(space, backend)
    facts = replace(FACTS, ipv4_pods=False, block_ipv4=True, block_ipv6=True)
    for family in ("iptables", "ip6tables"):
        space.run(f"{family}-{backend}", "-A", "FORWARD", "-j", "ACCEPT")
    assert apply(space, facts) == 2
    for family, comment in (("iptables", "IPv4"), ("ip6tables", "IPv6")):
        rules = space.run(f"{family}-{backend}", "-S", "FORWARD").splitlines()
        assert f"Block Node Local Pod access via {comment}" in rules[1]
        assert rules[2] == "-A FORWARD -j ACCEPT"
        space.run(f"{family}-{backend}", "-I", "FORWARD", "1", "-s", "10.9.9.9" if comment == "IPv4" else "::9")
    assert apply(space, facts) == 0


@pytest.mark.spec("dataplane.18.23")
def test_a_node_without_iptables_has_all_in_nft_and_none_of_it_once_there_is_iptables(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(FACTS, block_ipv4=True, block_ipv6=True)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert apply(space, facts) == 3
        assert apply(space, facts) == 0
    assert space.run("nft", "list", "tables").split("\n") == [
        "table ip aws-cni",
        "table ip vpccni",
        "table ip6 vpccni",
        "",
    ]
    listed = re.sub(r"counter packets \d+ bytes \d+ ", "", space.run("nft", "list", "ruleset"))
    for line in (
        'oifname != "vlan*" fib daddr type != local snat to 10.0.104.183 fully-random',
        'iifname "eth0" fib daddr . iif type local ct mark set ct mark | 0x00000080',
        'iifname "vlan*" ct mark & 0x00000080 == 0x00000080 meta mark set meta mark | 0x00000080',
        "ip daddr 169.254.172.0/22 ct state new reject",
        "ip6 daddr fd00::ac:0/118 ct state new reject",
    ):
        assert line in listed
    apply(space, facts)
    assert "vpccni" not in space.run("nft", "list", "tables")
    assert "--to-source" in space.run("iptables-nft-save")


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.spec("dataplane.18.18")
def test_ten_thousand_rules_of_kube_proxy_cost_one_restore_a_table(space: Space, backend: Backend) -> None:
    hint(space, backend)
    chains = [f"KUBE-SVC-{number:016X}" for number in range(KUBE_CHAINS)]
    lines = ["*nat", *(f":{chain} - [0:0]" for chain in chains)]
    for number, chain in enumerate(chains):
        target = f"10.{number // 250}.{number % 250}.7"
        lines += [f"-A {chain} -s {target}/32 -j MARK --set-xmark 0x4000/0x4000"] * 2
        lines += [f"-A {chain} -p tcp -m tcp -j DNAT --to-destination {target}:8080"] * 2
    space.run(f"iptables-{backend}-restore", "--noflush", text="\n".join([*lines, "COMMIT", ""]))
    effects.record(True)
    try:
        began = time.monotonic()
        apply(space)
        took = time.monotonic() - began
        apply(space)
    finally:
        done = effects.record(False)
    assert done.count("iptables.restore") == 2, "nat and mangle; nothing in the second pass"
    assert took < WITH_KUBE_PROXY_S
    kept = space.run(f"iptables-{backend}-save", "-t", "nat").count("-A KUBE-SVC-")
    assert kept == 4 * KUBE_CHAINS
