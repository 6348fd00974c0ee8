"""The node's SNAT, connmark, mangle and block rules, as the lines `iptables-save` prints them (spec dataplane.md 11.2, 11.4, 11.6, 13.0).

Pure: settings and facts in, wanted lines out; wanted and seen lines in, one `iptables-restore` input a table out. With the nft back-end
the connmark is not here but in a table of its own, see `connmark`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SNAT_CHAIN: Final = "AWS-SNAT-CHAIN-0"
CONNMARK_CHAIN: Final = "AWS-CONNMARK-CHAIN-0"
LEAVE_LOCAL: Final = (
    f'-A {CONNMARK_CHAIN} -m comment --comment "AWS CONNMARK CHAIN, LOCAL" -m addrtype --dst-type LOCAL -j RETURN'
)
"""An IPVS service's address is the node's: such a connection does not leave the VPC. The reference exempts it in nft alone (18.27)."""
OUR_COMMENTS: Final = (
    "AWS SNAT CHAIN",
    "AWS, SNAT",
    "AWS, CONNMARK",
    "AWS CONNMARK CHAIN",
    "AWS, outbound connections",
    "AWS, primary ENI",
    "AWS SNAT CHAN",
    "Block Node Local Pod access via IPv",
)
_OUR_CHAIN: Final = re.compile(
    r"AWS-(SNAT|CONNMARK)-CHAIN-\d+"
)  # old releases made one a CIDR (spec dataplane.md 11.6)
_COMMENT: Final = re.compile(r'--comment "([^"]*)"')
_LEADS_TO_OURS: Final = re.compile(rf" -j {_OUR_CHAIN.pattern}$")
_CONNMARK_GENERATIONS: Final = re.compile(
    r'"AWS CONNMARK CHAIN(?:, (?:VPC|EXCLUDED) CIDR)?"'
)  # the reference's two comments for one rule (spec dataplane.md 1)
_BUILT_IN: Final = ("PREROUTING", "POSTROUTING", "FORWARD")
EGRESS_IPV4_CIDR: Final = "169.254.172.0/22"  # spec dataplane.md 2.3, like the next one
EGRESS_IPV6_CIDR: Final = "fd00::ac:0/118"


class Backend(StrEnum):
    """Where the kernel keeps the rules that an iptables program writes."""

    NFT = "nft"
    LEGACY = "legacy"


@dataclass(frozen=True)
class FirewallFacts:
    """What the rules depend on. `older_prefixes`: of host veths that were made under another setting and still run (18.14).

    `ipv4_pods`: the pods' own addresses are IPv4, which alone needs SNAT and marks; `block_ipv4`, `block_ipv6`: pods have egress
    addresses of that family, which other pods of the node must not reach (11.4).
    """

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
    ipv4_pods: bool = True
    block_ipv4: bool = False
    block_ipv6: bool = False

    @property
    def marks(self) -> bool:
        """Whether connections that leave the VPC are marked."""
        return self.ipv4_pods and not self.external_snat

    @property
    def direct_cidrs(self) -> tuple[str, ...]:
        """Destinations that need neither mark nor SNAT, each once."""
        return tuple(dict.fromkeys((*self.exclude_cidrs, *self.vpc_cidrs)))

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
    ipv6: bool = False


def wanted(facts: FirewallFacts, backend: Backend) -> tuple[Table, ...]:
    """Return our part of each table that the node's mode needs."""
    tables = [_nat(facts, backend), _mangle(facts)] if facts.ipv4_pods else []
    if facts.block_ipv4:
        tables.append(Table("filter", {}, (_block(EGRESS_IPV4_CIDR, "IPv4", "icmp-port-unreachable"),)))
    if facts.block_ipv6:
        block = _block(EGRESS_IPV6_CIDR, "IPv6", "icmp6-port-unreachable")
        tables.append(Table("filter", {}, (block,), ipv6=True))
    return tuple(tables)


def none_of_ours() -> tuple[Table, ...]:
    """Return every table with nothing of ours: what a back-end that is not the node's should hold."""
    nothing = [Table(name, {}, (), ipv6=False) for name in ("nat", "mangle", "filter")]
    return (*nothing, Table("filter", {}, (), ipv6=True))


def _block(cidr: str, family: str, reject_with: str) -> str:
    return (
        f"-A FORWARD -d {cidr} -m conntrack --ctstate NEW "
        f'-m comment --comment "Block Node Local Pod access via {family}" -j REJECT --reject-with {reject_with}'
    )


def _nat(facts: FirewallFacts, backend: Backend) -> Table:
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
    leaving = f'-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j {SNAT_CHAIN}'
    if backend is Backend.NFT:
        return Table("nat", {SNAT_CHAIN: tuple(snat)}, (leaving,))
    marks = [LEAVE_LOCAL]
    marks += [_return(CONNMARK_CHAIN, cidr, "AWS CONNMARK CHAIN, EXCLUDED CIDR") for cidr in facts.exclude_cidrs]
    marks += [_return(CONNMARK_CHAIN, cidr, "AWS CONNMARK CHAIN, VPC CIDR") for cidr in facts.vpc_cidrs]
    marks.append(f'-A {CONNMARK_CHAIN} -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark {mark}/{mark}')
    hooks = (
        *(
            f'-A PREROUTING -i {prefix}+ -m comment --comment "AWS, outbound connections" -j {CONNMARK_CHAIN}'
            for prefix in facts.veth_prefixes
        ),
        f'-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --nfmask {mark} --ctmask {mark}',
        leaving,
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

    `saved`: what `iptables-save -t TABLE` printed. Only our chains, and rules of built-in chains with a comment of ours or a jump to a
    chain of ours, change. A chain with the reference's rules in another order or with its other comments is right as it is.
    """
    lines = [line.strip() for line in saved.splitlines()]
    chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
    seen_hooks = [line for line in lines if _is_our_hook(line)]
    seen = {chain: tuple(line for line in lines if line.startswith(f"-A {chain} ")) for chain in table.chains}
    wrong = [chain for chain, rules in table.chains.items() if chain not in chains or not _same(seen[chain], rules)]
    stale = sorted(chain for chain in chains - table.chains.keys() if _OUR_CHAIN.fullmatch(chain))
    if not wrong and not stale and _same_hooks(seen_hooks, table.hooks):
        return ""
    out = [f"*{table.name}"]
    for chain in [*wrong, *stale]:
        out.append(f":{chain} - [0:0]")  # with --noflush this empties the one chain, inside the transaction
    if not _same_hooks(seen_hooks, table.hooks):
        out += ["-D" + line[2:] for line in seen_hooks]
        out += [_placed(hook) for hook in table.hooks]
    for chain in wrong:
        out += table.chains[chain]
    out += [f"-X {chain}" for chain in stale]
    return "\n".join([*out, "COMMIT", ""])


def _placed(hook: str) -> str:
    """Return the line that puts a rule where it belongs: a block before all that may accept, the others at the end."""
    return hook.replace("-A FORWARD ", "-I FORWARD 1 ", 1)


def _same(seen: Sequence[str], rules: Sequence[str]) -> bool:
    """Tell whether a chain of ours means the same: the last rule ends it, those before it are exceptions in any order."""
    found, meant = ([_CONNMARK_GENERATIONS.sub('"AWS CONNMARK CHAIN"', line) for line in one] for one in (seen, rules))
    return found[-1:] == meant[-1:] and sorted(found) == sorted(meant)


def _same_hooks(seen: Sequence[str], wanted_hooks: Sequence[str]) -> bool:
    """Compare chain by chain: the order between built-in chains means nothing."""
    return sorted(seen, key=lambda line: line.split()[1]) == sorted(wanted_hooks, key=lambda line: line.split()[1])


def _is_our_hook(line: str) -> bool:
    if not line.startswith(tuple(f"-A {chain} " for chain in _BUILT_IN)):
        return False
    comment = _COMMENT.search(line)
    return _LEADS_TO_OURS.search(line) is not None or (comment is not None and comment[1].startswith(OUR_COMMENTS))
