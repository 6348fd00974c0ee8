"""Names that are part of the contract: host veths, their aliases, table numbers (spec dataplane.md 2.2, 3)."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from vpccni.components.netlink_programmer.facts import IPV4
from vpccni.shared.messages.base import PodRef, Sandbox

MAIN_TABLE: Final = 254
CARD_TABLES: Final = 10000
"""Above it are the tables of ENIs on network cards from 1 on."""
HASH_DIGITS: Final = 11
INTERFACES_AT_MOST: Final = 16
"""Of a pod: more network cards has no instance type."""
ALIAS_HEAD: Final = "vpccni1"
"""Of a pod's first interface; a later one's carries its number: "vpccni1.2"."""
ALIAS_BYTES: Final = 255  # the kernel's IFALIASZ less the NUL
ALIAS_PARTS: Final = 7
EGRESS_HEAD: Final = "vpccni-egress1"
PARTING_HEAD: Final = "gone"


def host_veth_name(pod: PodRef, prefix: str, *, index: int = 0) -> str:
    """Return the host end's name for interface `index` of a pod."""
    name = pod.name if index == 0 else f"{pod.name}.{index}"
    digest = hashlib.sha1(f"{pod.namespace}.{name}".encode(), usedforsecurity=False).hexdigest()
    return prefix + digest[:HASH_DIGITS]


def veth_prefix_of(host_veth: str) -> str:
    """Return the prefix under which a host veth was named."""
    return host_veth[:-HASH_DIGITS]


def dummy_name(pod: PodRef) -> str:
    """Return the name of the result entry that carries what a tear-down needs."""
    return host_veth_name(pod, "dummy")


def parting_name(ifindex: int) -> str:
    """Return the name a host veth gets out of the way with, until it is deleted in the background."""
    return f"{PARTING_HEAD}{ifindex:x}"


def pod_gateway(family: int, index: int) -> str:
    """Return the gateway of a pod's interface (spec dataplane.md 2.3)."""
    return f"169.254.1.{index + 1}" if family == IPV4 else f"fe80::{index + 1:x}"


def pod_interface_name(sandbox: Sandbox, index: int) -> str:
    """Return the name of a pod's interface `index` inside the pod (spec dataplane.md 2.3)."""
    return sandbox.ifname if index == 0 else f"mNicIf{index}"


def new_mac() -> str:
    """Return a random locally administered unicast MAC: 46 random bits, so no other link has to be asked."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first | 0x02) & 0xFE, *rest))


def alias_of(sandbox: Sandbox, pod: PodRef, *, index: int = 0) -> str:
    """Return the host veth's alias: who it belongs to. The pod's name stands last and is cut when it does not fit."""
    head = f"{ALIAS_HEAD}.{index}" if index else ALIAS_HEAD
    parts = (head, sandbox.container_id, sandbox.ifname, sandbox.network, pod.uid, pod.namespace, pod.name)
    return "|".join(parts).encode()[:ALIAS_BYTES].decode(errors="ignore")


def parse_alias(alias: str | None) -> tuple[Sandbox, PodRef] | None:
    """Return whom a link belongs to, or None for a link that is not ours."""
    parts = (alias or "").split("|", ALIAS_PARTS - 1)
    if len(parts) != ALIAS_PARTS or parts[0].partition(".")[0] != ALIAS_HEAD:
        return None
    _, container_id, ifname, network, uid, namespace, name = parts
    return Sandbox(container_id, ifname, network), PodRef(namespace, name, uid)


def egress_alias(sandbox: Sandbox) -> str:
    """Return the alias of the host end of a sandbox's egress pair."""
    return "|".join((EGRESS_HEAD, sandbox.container_id, sandbox.ifname, sandbox.network))[:ALIAS_BYTES]


def egress_owner(alias: str) -> Sandbox | None:
    """Return whose egress a link is, or None for any other link."""
    head, *parts = alias.split("|")
    return Sandbox(*parts) if head == EGRESS_HEAD and len(parts) == 3 else None


def is_of_pod(owner: PodRef, pod: PodRef) -> bool:
    """Tell whether an alias names this pod: by namespace and name, of which an alias may hold the beginning alone."""
    return owner.namespace == pod.namespace and bool(owner.name) == bool(pod.name) and pod.name.startswith(owner.name)


def alias_index(alias: str) -> int:
    """Return the number of a pod's interface that `alias_of` wrote."""
    number = alias.split("|", 1)[0].partition(".")[2]
    return int(number) if number.isascii() and number.isdigit() else 0


def route_table(card: int, device_number: int) -> int:
    """Return the table of an ENI (spec dataplane.md 2.2)."""
    if card == 0:
        return MAIN_TABLE if device_number == 0 else device_number + 1
    return CARD_TABLES + 100 * card + device_number


def device_of(table: int) -> int:
    """Return the device number of an ENI by its table."""
    if table == MAIN_TABLE:
        return 0
    return table % 100 if table > CARD_TABLES else table - 1
