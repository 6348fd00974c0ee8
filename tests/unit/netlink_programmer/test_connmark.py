"""The connmark in nft: planned from anything it may hold to the one that is wanted, then nothing; foreign forms are told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.netlink_programmer import nft_expressions as nft
from vpccni.components.netlink_programmer.connmark import BASE_CHAIN, MARK_CHAIN, TABLE, wanted_table
from vpccni.components.netlink_programmer.firewall import FirewallFacts
from vpccni.components.netlink_programmer.nft_tables import (
    DELTABLE,
    NEWRULE,
    Hook,
    NftChain,
    NftRule,
    NftTable,
    plan,
    removal,
)

FACTS = FirewallFacts(
    ("10.0.0.0/16", "100.64.0.0/10"), ("192.168.1.0/24",), "10.0.0.1", "eth0", "eni", 0x80, False, True, "prng"
)
WANTED = wanted_table(FACTS)
OLD_RESTORE = NftRule(
    "",
    (
        nft.Counter(),
        nft.Load("ct", nft.CT_MARK),
        nft.Bits(nft.number(0x80), bytes(4)),
        nft.Store("meta", nft.META_MARK),
    ),
)


def chain(table: NftTable, name: str) -> NftChain:
    return next(one for one in table.chains if one.name == name)


def with_chain(table: NftTable, changed: NftChain) -> NftTable:
    return replace(table, chains=tuple(changed if one.name == changed.name else one for one in table.chains))


def test_what_is_right_stays_untouched_whatever_the_order_of_the_cidrs() -> None:
    marks = chain(WANTED, MARK_CHAIN)
    turned = replace(marks, rules=(*reversed(marks.rules[:-1]), marks.rules[-1]))
    assert plan(WANTED, WANTED) == ()
    assert plan(WANTED, with_chain(WANTED, turned)) == ()


@pytest.mark.parametrize("cidr", ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32"])
def test_the_short_comparison_that_nft_writes_is_the_same_rule(cidr: str) -> None:
    """spec dataplane.md 17"""
    octets = int(cidr.split("/")[1]) // 8
    value = bytes(int(part) for part in cidr.split("/")[0].split("."))[:octets]
    ours = chain(wanted_table(replace(FACTS, vpc_cidrs=(cidr,), exclude_cidrs=())), MARK_CHAIN).rules[0]
    short = (
        nft.Counter(),
        nft.LoadHeader(nft.NETWORK_HEADER, nft.DESTINATION_OFFSET, octets),
        nft.Compare(nft.EQUAL, value),
        nft.Verdict(nft.VERDICT_RETURN),
    )
    assert nft.meaning(short) == nft.meaning(ours.expressions)


def test_the_restore_that_wipes_foreign_bits_is_replaced_in_one_batch() -> None:
    base = chain(WANTED, BASE_CHAIN)
    old = with_chain(WANTED, replace(base, rules=(*base.rules[:2], OLD_RESTORE)))
    steps = plan(WANTED, old)
    assert [step.text.split(" ip ")[0] for step in steps] == ["flush chain", *["add rule"] * 4]
    assert not any(MARK_CHAIN in step.text.split()[4] for step in steps), "the chain that is right stays"


@pytest.mark.parametrize(
    "hook", [Hook("nat", 0, -100), Hook("filter", 0, -90), Hook("nat that drops", 0, -90), Hook("nat", 4, -90), None]
)
def test_a_base_chain_at_another_place_is_made_anew(hook: Hook | None) -> None:
    wrong = with_chain(WANTED, replace(chain(WANTED, BASE_CHAIN), hook=hook))
    steps = plan(WANTED, wrong)
    assert steps[0].kind == DELTABLE
    assert sum(step.kind == NEWRULE for step in steps) == sum(len(one.rules) for one in WANTED.chains)


def test_the_mark_chain_must_end_with_the_mark() -> None:
    marks = chain(WANTED, MARK_CHAIN)
    assert plan(WANTED, with_chain(WANTED, replace(marks, rules=(marks.rules[-1], *marks.rules[:-1])))) != ()
    assert plan(WANTED, with_chain(WANTED, replace(marks, rules=marks.rules[:-1]))) != ()
    assert plan(WANTED, with_chain(WANTED, replace(marks, rules=(*marks.rules, marks.rules[0])))) != ()


def test_a_table_without_our_chains_gets_them() -> None:
    texts = [step.text for step in plan(WANTED, NftTable(TABLE, ()))]
    assert texts[0] == f"add chain ip {TABLE} {MARK_CHAIN}"
    assert texts[1].endswith("{ type nat hook prerouting priority -90; }")
    assert [step.text for step in removal(TABLE)] == [f"delete table ip {TABLE}"]


def test_every_prefix_of_running_pods_is_marked() -> None:
    texts = [rule.text for rule in chain(wanted_table(replace(FACTS, older_prefixes=("old",))), BASE_CHAIN).rules]
    assert texts[1:3] == ['iifname "eni*" jump snat-mark', 'iifname "old*" jump snat-mark']


def test_a_cidr_that_is_excluded_and_of_the_vpc_stands_once() -> None:
    table = wanted_table(replace(FACTS, exclude_cidrs=("10.0.0.0/16",)))
    assert len(chain(table, MARK_CHAIN).rules) == 3


values = st.binary(min_size=4, max_size=4)
expressions = st.one_of(
    st.builds(nft.Load, st.sampled_from(["meta", "ct"]), st.integers(0, 20)),
    st.builds(nft.Store, st.sampled_from(["meta", "ct"]), st.integers(0, 20)),
    st.builds(nft.LoadHeader, st.integers(0, 2), st.integers(0, 40), st.integers(1, 16)),
    st.builds(nft.AskRoutes, st.integers(1, 3), st.integers(1, 31)),
    st.builds(nft.Bits, values, values),
    st.builds(nft.Compare, st.integers(0, 5), st.binary(min_size=1, max_size=16)),
    st.builds(nft.Verdict, st.integers(-5, 1), st.sampled_from(["", "snat-mark"])),
    st.builds(nft.Put, st.binary(min_size=1, max_size=16)),
    st.builds(nft.TranslateSource, st.sampled_from([0, nft.NAT_RANDOM, nft.NAT_FULLY_RANDOM])),
    st.builds(nft.Reject, st.integers(0, 5)),
    st.just(nft.Counter()),
)


@given(st.lists(expressions, max_size=8))
def test_what_is_written_is_read_back(rule: list[nft.Expression]) -> None:
    assert nft.decode(nft.encode(rule)) == tuple(rule)


@given(st.binary(max_size=200))
def test_junk_is_read_as_something_else_never_an_error(data: bytes) -> None:
    assert isinstance(nft.decode(data), tuple)
