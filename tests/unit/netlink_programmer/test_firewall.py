"""The firewall's plan: it reaches what is wanted from anything, leaves others alone, and then has nothing to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.firewall import (
    CONNMARK_CHAIN,
    SNAT_CHAIN,
    FirewallFacts,
    Table,
    plan,
    wanted,
)

Chains = dict[str, list[str]]
BUILT_IN = ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")
OURS = (SNAT_CHAIN, CONNMARK_CHAIN, "AWS-SNAT-CHAIN-1", "AWS-CONNMARK-CHAIN-7")
OUR_HOOKS = (
    '-m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0',
    '-m comment --comment "AWS SNAT CHAN" -j AWS-SNAT-CHAIN-0',
    '-i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0',
    '-i eth1 -m comment --comment "AWS, primary ENI" -j CONNMARK --set-xmark 0x80/0x80',
)
FOREIGN = ("-j FOREIGN", '-m comment --comment "KUBE, SNAT" -j MASQUERADE', "-s 10.1.0.0/16 -j ACCEPT", "-j RETURN")

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
)


@st.composite
def tables(draw: st.DrawFn) -> Chains:
    """A table as a node may hold it: rules of ours in any form, number and order among those of others."""
    chains: Chains = {}
    for name in (*BUILT_IN, *draw(st.sets(st.sampled_from(OURS))), "FOREIGN"):
        pool = FOREIGN if name not in ("PREROUTING", "POSTROUTING") else FOREIGN + OUR_HOOKS
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
        elif verb == "-A":
            after[chain].append(line)
        elif verb == "-D":
            after[chain].remove(f"-A {rest}")
        else:
            assert verb == "-X"
            assert after.pop(chain) == []
    return after


def foreign(chains: Chains) -> Chains:
    """What is not ours, in order."""
    return {
        chain: [rule for rule in rules if '--comment "AWS' not in rule]
        for chain, rules in chains.items()
        if chain not in OURS
    }


def ours(table: Table, after: Chains) -> tuple[Chains, Chains]:
    """Our chains and our hooks."""
    hooks = {chain: [rule for rule in rules if '--comment "AWS' in rule] for chain, rules in after.items()}
    return (
        {chain: after[chain] for chain in after if chain in OURS},
        {chain: rules for chain, rules in hooks.items() if rules and chain in BUILT_IN},
    )


@given(facts, tables(), st.sampled_from([0, 1]))
def test_a_plan_reaches_the_goal_leaves_others_alone_and_is_then_empty(
    asked: FirewallFacts, seen: Chains, which: int
) -> None:
    table = wanted(asked)[which]
    if table.name == "mangle":
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


@given(facts)
def test_the_rule_that_ends_a_chain_stands_last(asked: FirewallFacts) -> None:
    for chain, rules in wanted(asked)[0].chains.items():
        assert all("-j RETURN" in rule for rule in rules[:-1])
        assert not rules or "-j RETURN" not in rules[-1], chain


@pytest.mark.parametrize(
    ("node_port", "external", "mangle", "nat"),
    [(True, False, 3, 3), (True, True, 3, 0), (False, False, 1, 3), (False, True, 0, 0)],
)
def test_settings_decide_which_hooks_there_are(node_port: bool, external: bool, mangle: int, nat: int) -> None:
    asked = FirewallFacts(("10.0.0.0/16",), (), "10.0.0.1", "eth0", "eni", 0x80, external, node_port, "prng")
    tables = wanted(asked)
    assert [len(table.hooks) for table in tables] == [nat, mangle]
    assert tables[0].chains.keys() == ({SNAT_CHAIN} if external else {SNAT_CHAIN, CONNMARK_CHAIN})
