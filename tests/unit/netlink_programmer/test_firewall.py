"""The firewall's plan: it reaches what is wanted from anything, leaves others alone, and then has nothing to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.firewall import (
    CONNMARK_CHAIN,
    SNAT_CHAIN,
    Backend,
    FirewallFacts,
    Table,
    none_of_ours,
    plan,
    wanted,
)

Chains = dict[str, list[str]]
BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
OURS = (SNAT_CHAIN, CONNMARK_CHAIN, "AWS-SNAT-CHAIN-1", "AWS-CONNMARK-CHAIN-7")
OUR_HOOKS = (
    '-m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0',
    '-m comment --comment "AWS SNAT CHAN" -j AWS-SNAT-CHAIN-0',
    '-i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0',
    '-i eth1 -m comment --comment "AWS, primary ENI" -j CONNMARK --set-xmark 0x80/0x80',
)
BLOCKS = (
    '-d 169.254.172.0/22 -m conntrack --ctstate NEW -m comment --comment "Block Node Local Pod access via IPv4" '
    "-j REJECT --reject-with icmp-port-unreachable",
    '-d fd00::ac:0/118 -m conntrack --ctstate NEW -m comment --comment "Block Node Local Pod access via IPv6" '
    "-j REJECT --reject-with icmp6-port-unreachable",
)
OUR_MARKS = ('--comment "AWS', '--comment "Block Node Local')
FOREIGN = ("-j FOREIGN", '-m comment --comment "KUBE, SNAT" -j MASQUERADE', "-s 10.1.0.0/16 -j ACCEPT", "-j RETURN")


def facts_of(**changed: Any) -> FirewallFacts:
    plain = FirewallFacts(("10.0.0.0/16",), (), "10.0.0.1", "eth0", "eni", 0x80, False, True, "prng")
    return replace(plain, **changed)


facts = st.builds(
    FirewallFacts,
    vpc_cidrs=st.lists(st.sampled_from(["10.0.0.0/16", "100.64.0.0/10"]), unique=True).map(tuple),
    exclude_cidrs=st.lists(st.sampled_from(["0.0.0.0/0", "192.168.0.0/16"]), unique=True).map(tuple),
    primary_address=st.just("10.0.104.183"),
    primary_link=st.just("eth0"),
    veth_prefix=st.sampled_from(["eni", "abcd"]),
    connmark=st.sampled_from([0x80, 0x10000]),
    external_snat=st.booleans(),
    node_port=st.booleans(),
    randomize=st.sampled_from(["prng", "hashrandom", "none"]),
    older_prefixes=st.sampled_from([(), ("old",), ("old", "veth")]),
    ipv4_pods=st.booleans(),
    block_ipv4=st.booleans(),
    block_ipv6=st.booleans(),
)
backends = st.sampled_from(list(Backend))


@st.composite
def tables(draw: st.DrawFn) -> Chains:
    """A table as a node may hold it: rules of ours in any form, number and order among those of others."""
    chains: Chains = {}
    for name in (*BUILT_IN, *draw(st.sets(st.sampled_from(OURS))), "FOREIGN"):
        pool = {"PREROUTING": FOREIGN + OUR_HOOKS, "POSTROUTING": FOREIGN + OUR_HOOKS, "FORWARD": FOREIGN + BLOCKS}.get(
            name, FOREIGN
        )
        chains[name] = [f"-A {name} {rule}" for rule in draw(st.lists(st.sampled_from(pool), max_size=5))]
    return chains


def saved(name: str, chains: Chains) -> str:
    heads = [f":{chain} {'ACCEPT' if chain in BUILT_IN else '-'} [0:0]" for chain in chains]
    return "\n".join([f"*{name}", *heads, *(rule for rules in chains.values() for rule in rules), "COMMIT", ""])


def restored(chains: Chains, text: str) -> Chains:
    """What `iptables-restore --noflush` makes of a table: all lines, or an error."""
    after = {chain: list(rules) for chain, rules in chains.items()}
    for line in text.splitlines()[1:-1]:
        verb, _, rest = line.partition(" ")
        chain = rest.split(" ")[0]
        if line.startswith(":"):
            assert line[1:].split()[0] not in BUILT_IN
            after[line[1:].split()[0]] = []
        elif verb == "-I":
            assert rest.split(" ")[1] == "1"
            after[chain].insert(0, f"-A {rest.replace(' 1 ', ' ', 1)}")
        elif verb == "-A":
            after[chain].append(line)
        elif verb == "-D":
            after[chain].remove(f"-A {rest}")
        else:
            assert verb == "-X"
            assert after.pop(chain) == []
    return after


def is_ours(rule: str) -> bool:
    return any(mark in rule for mark in OUR_MARKS)


def foreign(chains: Chains) -> Chains:
    """What is not ours, in order."""
    return {
        chain: [rule for rule in rules if not is_ours(rule)] for chain, rules in chains.items() if chain not in OURS
    }


def ours(table: Table, after: Chains) -> tuple[Chains, Chains]:
    """Our chains and our hooks."""
    hooks = {chain: [rule for rule in rules if is_ours(rule)] for chain, rules in after.items()}
    return (
        {chain: after[chain] for chain in after if chain in OURS},
        {chain: rules for chain, rules in hooks.items() if rules and chain in BUILT_IN},
    )


@given(facts, backends, tables(), st.data())
def test_a_plan_reaches_the_goal_leaves_others_alone_and_is_then_empty(
    asked: FirewallFacts, backend: Backend, seen: Chains, data: st.DataObject
) -> None:
    table = data.draw(st.sampled_from([*wanted(asked, backend), *none_of_ours()]))
    if table.name != "nat":
        seen = {chain: rules for chain, rules in seen.items() if chain not in OURS}
    after = restored(seen, plan(table, saved(table.name, seen)) or "*\nCOMMIT")
    chains, hooks = ours(table, after)
    assert chains == {chain: list(rules) for chain, rules in table.chains.items()}
    assert hooks == {
        chain: found
        for chain in BUILT_IN
        if (found := [rule for rule in table.hooks if rule.startswith(f"-A {chain} ")])
    }
    assert foreign(after) == foreign(seen)
    assert plan(table, saved(table.name, after)) == ""


@given(facts, backends)
def test_the_rule_that_ends_a_chain_stands_last(asked: FirewallFacts, backend: Backend) -> None:
    for table in wanted(asked, backend):
        for chain, rules in table.chains.items():
            assert all("-j RETURN" in rule for rule in rules[:-1])
            assert not rules or "-j RETURN" not in rules[-1], chain


@pytest.mark.spec("dataplane.16.4")
@pytest.mark.parametrize("comment", ["AWS CONNMARK CHAIN", "AWS CONNMARK CHAIN, VPC CIDR"])
def test_both_generations_of_comments_and_any_order_of_exceptions_are_right(comment: str) -> None:
    asked = facts_of(vpc_cidrs=("10.0.0.0/16", "100.64.0.0/10"), exclude_cidrs=("192.168.0.0/16",))
    nat = wanted(asked, Backend.LEGACY)[0]
    chains: Chains = {"PREROUTING": list(nat.hooks[:2]), "POSTROUTING": list(nat.hooks[2:])}
    for chain, rules in nat.chains.items():
        chains[chain] = [*reversed(rules[:-1]), rules[-1]]
    other = [rule.replace("AWS CONNMARK CHAIN, VPC CIDR", comment) for rule in chains[CONNMARK_CHAIN]]
    assert plan(nat, saved("nat", {**chains, CONNMARK_CHAIN: other})) == ""
    misspelt = [rule.replace('"AWS SNAT CHAIN"', '"AWS SNAT CHAN"') for rule in chains[SNAT_CHAIN]]
    assert plan(nat, saved("nat", {**chains, SNAT_CHAIN: misspelt})) != ""
    early = [chains[SNAT_CHAIN][-1], *chains[SNAT_CHAIN][:-1]]
    assert plan(nat, saved("nat", {**chains, SNAT_CHAIN: early})) != ""


def test_a_jump_into_a_chain_of_ours_is_ours_without_a_comment_too() -> None:
    nat = wanted(facts_of(), Backend.NFT)[0]
    chains: Chains = {"PREROUTING": [f"-A PREROUTING -i eni+ -j {CONNMARK_CHAIN}"], CONNMARK_CHAIN: []}
    after = restored({**chains, "POSTROUTING": []}, plan(nat, saved("nat", {**chains, "POSTROUTING": []})))
    assert after["PREROUTING"] == []
    assert CONNMARK_CHAIN not in after


def test_the_block_stays_where_it_is_and_comes_first_when_it_is_missing() -> None:
    filters = [table for table in wanted(facts_of(block_ipv4=True), Backend.NFT) if table.name == "filter"]
    foreign_rule, block = "-A FORWARD -s 10.1.0.0/16 -j ACCEPT", f"-A FORWARD {BLOCKS[0]}"
    assert plan(filters[0], saved("filter", {"FORWARD": [foreign_rule, block]})) == ""
    after = restored({"FORWARD": [foreign_rule]}, plan(filters[0], saved("filter", {"FORWARD": [foreign_rule]})))
    assert after == {"FORWARD": [block, foreign_rule]}


def test_an_ipv6_node_has_the_block_alone() -> None:
    assert [table.name for table in wanted(facts_of(ipv4_pods=False, block_ipv4=True), Backend.NFT)] == ["filter"]


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize(
    ("node_port", "external", "mangle", "nat"),
    [(True, False, 3, 3), (True, True, 3, 0), (False, False, 1, 3), (False, True, 0, 0)],
)
def test_settings_decide_which_hooks_there_are(
    backend: Backend, node_port: bool, external: bool, mangle: int, nat: int
) -> None:
    tables = wanted(facts_of(external_snat=external, node_port=node_port), backend)
    in_iptables = min(nat, 1) if backend is Backend.NFT else nat
    assert [len(table.hooks) for table in tables] == [in_iptables, mangle]
    marked = not external and backend is Backend.LEGACY
    assert tables[0].chains.keys() == ({SNAT_CHAIN, CONNMARK_CHAIN} if marked else {SNAT_CHAIN})


@pytest.mark.parametrize(
    ("randomize", "flag"), [("prng", " --random-fully"), ("hashrandom", " --random"), ("none", "")]
)
def test_the_choice_of_ports_is_the_settings(randomize: str, flag: str) -> None:
    last = wanted(facts_of(randomize=randomize), Backend.NFT)[0].chains[SNAT_CHAIN][-1]
    assert last.endswith(f"--to-source 10.0.0.1{flag}")


def test_excluding_everything_is_written_without_a_destination() -> None:
    for backend in Backend:
        for rules in wanted(facts_of(exclude_cidrs=("0.0.0.0/0",)), backend)[0].chains.values():
            exceptions = [rule for rule in rules if "-j RETURN" in rule]
            assert not any(" -d 0.0.0.0/0" in rule for rule in exceptions)
            assert any(" -d " not in rule and "--dst-type" not in rule for rule in exceptions)
