"""The SNAT, connmark and mangle rules of an IPv4 node, as the lines `iptables-save` prints them (spec dataplane.md 11.2, 11.6, 13.0).

Pure: settings and facts in, wanted lines out; wanted and seen lines in, one `iptables-restore` input a table out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SNAT_CHAIN: Final = "AWS-SNAT-CHAIN-0"
CONNMARK_CHAIN: Final = "AWS-CONNMARK-CHAIN-0"
OUR_COMMENTS: Final = (
    "AWS SNAT CHAIN",
    "AWS, SNAT",
    "AWS, CONNMARK",
    "AWS CONNMARK CHAIN",
    "AWS, outbound connections",
    "AWS, primary ENI",
    "AWS SNAT CHAN",
)
_OUR_CHAIN: Final = re.compile(
    r"AWS-(SNAT|CONNMARK)-CHAIN-\d+"
)  # old releases made one a CIDR (spec dataplane.md 11.6)
_COMMENT: Final = re.compile(r'--comment "([^"]*)"')


@dataclass(frozen=True)
class FirewallFacts:
    """What the rules depend on. `older_prefixes`: of host veths that were made under another setting and still run (18.14)."""

    vpc_cidrs: tuple[str, ...]
    exclude_cidrs: tuple[str, ...]
    primary_address: str
    primary_link: str
    veth_prefix: str
    connmark: int
    external_snat: bool
    node_port: bool
    randomize: str
    older_prefixes: tuple[str, ...] = ()

    @property
    def veth_prefixes(self) -> tuple[str, ...]:
        """All prefixes that host veths of pods have."""
        return (self.veth_prefix, *self.older_prefixes)


@dataclass(frozen=True)
class Table:
    """Our part of one table: chains of our own with their rules, and our rules in built-in chains, in order."""

    name: str
    chains: dict[str, tuple[str, ...]]
    hooks: tuple[str, ...]


def wanted(facts: FirewallFacts) -> tuple[Table, Table]:
    """Return our part of the tables nat and mangle."""
    return _nat(facts), _mangle(facts)


def _nat(facts: FirewallFacts) -> Table:
    if facts.external_snat:
        return Table("nat", {SNAT_CHAIN: ()}, ())
    mark = f"{facts.connmark:#x}"
    randomly = {"prng": " --random-fully", "hashrandom": " --random", "none": ""}[facts.randomize]
    snat = [_return(SNAT_CHAIN, cidr, "AWS SNAT CHAIN EXCLUSION") for cidr in facts.exclude_cidrs]
    snat += [_return(SNAT_CHAIN, cidr, "AWS SNAT CHAIN") for cidr in facts.vpc_cidrs]
    snat.append(
        f'-A {SNAT_CHAIN} ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL '
        f"-j SNAT --to-source {facts.primary_address}{randomly}"
    )
    marks = [_return(CONNMARK_CHAIN, cidr, "AWS CONNMARK CHAIN, EXCLUDED CIDR") for cidr in facts.exclude_cidrs]
    marks += [_return(CONNMARK_CHAIN, cidr, "AWS CONNMARK CHAIN, VPC CIDR") for cidr in facts.vpc_cidrs]
    marks.append(f'-A {CONNMARK_CHAIN} -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark {mark}/{mark}')
    hooks = (
        *(
            f'-A PREROUTING -i {prefix}+ -m comment --comment "AWS, outbound connections" -j {CONNMARK_CHAIN}'
            for prefix in facts.veth_prefixes
        ),
        f'-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask {mark} --ctmask {mark}',
        f'-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j {SNAT_CHAIN}',
    )
    return Table("nat", {SNAT_CHAIN: tuple(snat), CONNMARK_CHAIN: tuple(marks)}, hooks)


def _mangle(facts: FirewallFacts) -> Table:
    mark = f"{facts.connmark:#x}"
    restore = f"-j CONNMARK --restore-mark --nfmask {mark} --ctmask {mark}"
    ours = '-m comment --comment "AWS, primary ENI"'
    hooks = []
    if facts.node_port:
        hooks.append(
            f"-A PREROUTING -i {facts.primary_link} {ours} -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark {mark}/{mark}"
        )
    if facts.node_port or not facts.external_snat:
        hooks += [f"-A PREROUTING -i {prefix}+ {ours} {restore}" for prefix in facts.veth_prefixes]
    if facts.node_port:
        hooks.append(f"-A PREROUTING -i vlan+ {ours} {restore}")
    return Table("mangle", {}, tuple(hooks))


def _return(chain: str, cidr: str, comment: str) -> str:
    where = "" if cidr == "0.0.0.0/0" else f"-d {cidr} "
    return f'-A {chain} {where}-m comment --comment "{comment}" -j RETURN'


def plan(table: Table, saved: str) -> str:
    """Return the `iptables-restore --noflush` input that makes the table right, "" when it is.

    `saved`: what `iptables-save -t TABLE` printed. Only our chains, and rules of built-in chains with a comment of ours, change.
    """
    lines = [line.strip() for line in saved.splitlines()]
    chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
    seen_hooks = [line for line in lines if _is_our_hook(line)]
    seen = {chain: tuple(line for line in lines if line.startswith(f"-A {chain} ")) for chain in table.chains}
    wrong = [chain for chain, rules in table.chains.items() if chain not in chains or seen[chain] != rules]
    stale = sorted(chain for chain in chains - table.chains.keys() if _OUR_CHAIN.fullmatch(chain))
    if not wrong and not stale and _same_hooks(seen_hooks, table.hooks):
        return ""
    out = [f"*{table.name}"]
    for chain in [*wrong, *stale]:
        out.append(f":{chain} - [0:0]")  # with --noflush this empties the one chain, inside the transaction
    if not _same_hooks(seen_hooks, table.hooks):
        out += ["-D" + line[2:] for line in seen_hooks]
        out += table.hooks
    for chain in wrong:
        out += table.chains[chain]
    out += [f"-X {chain}" for chain in stale]
    return "\n".join([*out, "COMMIT", ""])


def _same_hooks(seen: Sequence[str], wanted_hooks: Sequence[str]) -> bool:
    """Compare chain by chain: the order between built-in chains means nothing."""
    return sorted(seen, key=lambda line: line.split()[1]) == sorted(wanted_hooks, key=lambda line: line.split()[1])


def _is_our_hook(line: str) -> bool:
    if not line.startswith(("-A PREROUTING ", "-A POSTROUTING ")):
        return False
    comment = _COMMENT.search(line)
    return comment is not None and comment[1].startswith(OUR_COMMENTS)
