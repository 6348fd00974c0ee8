"""What a call of `egress-cni` asks, and the result it gives: configuration, reservation and chain that belong to it. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vpccni.components.netlink_programmer.egress_chains import EgressChain
from vpccni.components.netlink_programmer.facts import IPV6, family_of
from vpccni.components.netlink_programmer.request import CODE_CONFIG, MTU_DEFAULT, MTU_MIN, CniRequest
from vpccni.components.netlink_programmer.reservations import Holder
from vpccni.shared.errors import CniFailure

DATA_DIR_DEFAULT: Final = "/var/lib/cni/networks"  # host-local's own
V4_IFNAME: Final = "v4if0"  # spec dataplane.md 2.3, like the next one
V6_IFNAME: Final = "v6if0"


@dataclass(frozen=True)
class EgressConfig:
    """What the plugin's configuration says. `node_address`: what pods' packets leave under, which also decides the family."""

    enabled: bool
    node_address: str
    subnet: str
    data_dir: str
    randomize: str
    mtu: str

    @property
    def is_ipv6(self) -> bool:
        """Whether pods get IPv6 egress."""
        return family_of(self.node_address) == IPV6

    @property
    def ifname(self) -> str:
        """The interface's name in the pod."""
        return V6_IFNAME if self.is_ipv6 else V4_IFNAME

    @property
    def gateway(self) -> str:
        """The subnet's first address."""
        return str(ipaddress.ip_network(self.subnet).network_address + 1)


@dataclass(frozen=True)
class EgressPair:
    """What the result tells of an egress interface."""

    host_veth: str
    mac: str
    pod_mac: str


def read_config(request: CniRequest) -> EgressConfig:
    """Return the configuration of a call. Never raises: a DEL must do what it can with any."""
    config = request.config
    ipam = config.get("ipam")
    ipam = ipam if isinstance(ipam, dict) else {}
    return EgressConfig(
        enabled=config.get("enabled") == "true",
        node_address=_text(config, "nodeIP"),
        subnet=_canonical(_subnet(ipam)),
        data_dir=_text(ipam, "dataDir") or DATA_DIR_DEFAULT,
        randomize=_text(config, "randomizeSNAT"),
        mtu=_text(config, "mtu"),
    )


def check_config(config: EgressConfig) -> int:
    """Return the MTU of a configuration that an ADD can be carried out with. Raises `CniFailure` naming what is wrong."""
    try:
        node = ipaddress.ip_address(config.node_address)
    except ValueError as error:
        raise _bad("nodeIP", config.node_address, "no address") from error
    if node.version == 6 and (node.is_link_local or node.is_multicast or node.is_unspecified or node.is_loopback):
        raise _bad("nodeIP", config.node_address, "no global address")
    if not config.subnet or family_of(config.subnet) != family_of(config.node_address):
        raise _bad("ipam.ranges", config.subnet, f"no subnet of the family of nodeIP {config.node_address}")
    if not config.mtu.isascii() or not config.mtu.isdigit() or not MTU_MIN <= int(config.mtu) <= MTU_DEFAULT:
        raise _bad("mtu", config.mtu, f"no number of {MTU_MIN} to {MTU_DEFAULT}")
    return int(config.mtu)


def holder_of(request: CniRequest) -> Holder:
    """Return under whose name a sandbox's address is reserved."""
    return Holder(request.sandbox.container_id, request.sandbox.ifname)


def chain_of(request: CniRequest, config: EgressConfig, address: str) -> EgressChain:
    """Return the SNAT chain of a sandbox's egress address."""
    sandbox = request.sandbox
    return EgressChain(sandbox.network, sandbox.container_id, address, config.node_address, config.randomize)


def with_egress(request: CniRequest, config: EgressConfig, pair: EgressPair) -> str:
    """Return the result before this plugin with the two entries of the egress interface; `ips` stays as it is (spec dataplane.md 4.5)."""
    previous = dict(request.previous or {})
    before = previous.get("interfaces")
    interfaces = list(before) if isinstance(before, list) else []
    interfaces.append({"name": pair.host_veth, "mac": pair.mac})
    interfaces.append({"name": config.ifname, "mac": pair.pod_mac, "sandbox": request.netns})
    if request.version not in ("0.1.0", "0.2.0"):  # these know no interfaces
        previous["interfaces"] = interfaces
    return json.dumps({**previous, "cniVersion": request.version}, indent=4) + "\n"


def _subnet(ipam: Mapping[str, Any]) -> str:
    ranges = ipam.get("ranges")
    first = ranges[0] if isinstance(ranges, list) and ranges else None
    one = first[0] if isinstance(first, list) and first else None
    return _text(one, "subnet") if isinstance(one, dict) else ""


def _canonical(subnet: str) -> str:
    """`fd00::ac:00/118` is how the reference writes it."""
    try:
        return str(ipaddress.ip_network(subnet, strict=False))
    except ValueError:
        return ""


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name, "")
    return value if isinstance(value, str) else ""


def _bad(field: str, value: str, why: str) -> CniFailure:
    return CniFailure(
        f"egress-cni: {field} cannot be used",
        cni_code=CODE_CONFIG,
        on=repr(value)[:80],
        why=why,
        remedy="See the conflist",
    )
