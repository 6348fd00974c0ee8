"""The documents of the introspection address, in the reference's shapes (spec operations.md 3). Pure."""

from __future__ import annotations

import base64
import json
import time
from ipaddress import ip_address
from typing import Final

from vpccni.components.metrics_publisher.pool import Cidr, Picture, cidrs_of, is_assigned
from vpccni.shared.messages.allocation import LedgerEntry
from vpccni.shared.messages.inventory import Eni
from vpccni.shared.settings import Settings

ENI_CONFIGS: Final = "/v1/eni-configs"
COMMANDS: Final = ("/v1/enis", ENI_CONFIGS, "/v1/networkutils-env-settings", "/v1/ipamd-env-settings")
NEVER: Final = "0001-01-01T00:00:00Z"
MAIN_TABLE: Final = 254  # spec dataplane.md 2.2
NANOSECONDS: Final = 1_000_000_000
RANDOMIZE_SNAT: Final = {"none": 0, "hashrandom": 1, "prng": 2}  # spec operations.md 3.4

Json = dict[str, "Json"] | list["Json"] | str | int | bool | None


def is_found(path: str, picture: Picture) -> bool:
    """Return whether there is an answer: the ENIConfig's name needs the node, as Kubernetes shows it (spec operations.md 3.2)."""
    return path != ENI_CONFIGS or (picture.node is not None and picture.node.exists)


def answer(path: str, picture: Picture, settings: Settings) -> str:
    """Return the body for a path; whatever is unknown gets the list of commands, never an error (spec operations.md 3.1)."""
    document: Json
    match path:
        case "/v1/enis":
            document = enis(picture)
        case "/v1/eni-configs":
            document = "" if picture.node is None else picture.node.eni_config
        case "/v1/networkutils-env-settings":
            document = networkutils_settings(settings)
        case "/v1/ipamd-env-settings":
            document = ipamd_settings(settings)
        case _:
            document = {"AvailableCommands": list(COMMANDS)}
    return json.dumps(document, separators=(",", ":"))


def enis(picture: Picture) -> Json:
    """Return `/v1/enis`: the pool by network card, ENI, CIDR and address."""
    tables = {} if picture.usable is None else {usable.eni_id: usable.route_table for usable in picture.usable.enis}
    by_eni: dict[str, list[LedgerEntry]] = {}
    for entry in picture.entries():
        by_eni.setdefault(entry.eni_id, []).append(entry)
    cards: dict[int, list[Eni]] = {0: []}
    for eni in picture.enis():
        cards.setdefault(eni.card, []).append(eni)
    return {
        str(card): {
            "TotalIPs": sum(cidr.num_addresses for eni in held for cidr in cidrs_of(eni)),
            "AssignedIPs": sum(is_assigned(entry) for eni in held for entry in by_eni.get(eni.eni_id, [])),
            "ENIs": {eni.eni_id: _eni(eni, by_eni.get(eni.eni_id, []), tables.get(eni.eni_id, 0)) for eni in held},
        }
        for card, held in sorted(cards.items())
    }


def _eni(eni: Eni, entries: list[LedgerEntry], table: int) -> Json:
    return {
        "ID": eni.eni_id,
        "IsPrimary": eni.is_primary,
        "IsTrunk": eni.is_trunk,
        "IsEFA": eni.is_efa,
        "DeviceNumber": eni.device_number,
        "AvailableIPv4Cidrs": {str(cidr): _cidr(cidr, entries) for cidr in cidrs_of(eni) if cidr.version == 4},
        "IPv6Cidrs": {str(cidr): _cidr(cidr, entries) for cidr in cidrs_of(eni) if cidr.version == 6},
        "IsExcludedForPodIPs": eni.excluded,
        "RouteTableID": MAIN_TABLE if eni.is_primary and eni.card == 0 else table,
        "SubnetID": eni.subnet_id,
    }


def _cidr(cidr: Cidr, entries: list[LedgerEntry]) -> Json:
    return {
        "Cidr": {"IP": str(cidr.network_address), "Mask": base64.b64encode(cidr.netmask.packed).decode()},
        "IPAddresses": {entry.address: _address(entry) for entry in entries if ip_address(entry.address) in cidr},
        "IsPrefix": cidr.prefixlen < cidr.max_prefixlen,
        "AddressFamily": str(cidr.version),
    }


def _address(entry: LedgerEntry) -> Json:
    """Return one address. Container id and interface stay blank: they are what a forged DEL needs (spec operations.md 3.3)."""
    held = is_assigned(entry)
    named = {"k8sPodNamespace": entry.pod.namespace, "k8sPodName": entry.pod.name} if held else {}
    return {
        "Address": entry.address,
        "IPAMKey": {"networkName": entry.sandbox.network if held else "", "containerID": "", "ifName": ""},
        "IPAMMetadata": {name: value for name, value in named.items() if value},
        "AssignedTime": rfc3339(entry.assigned_at_ns),
        "UnassignedTime": rfc3339(entry.released_at_ns),
    }


def rfc3339(wall_ns: int) -> str:
    """Return a time as the reference prints it: UTC, nanoseconds without trailing zeros; 0 is year 1."""
    if wall_ns == 0:
        return NEVER
    seconds, rest = divmod(wall_ns, NANOSECONDS)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + fraction + "Z"


def networkutils_settings(settings: Settings) -> Json:
    """Return the settings of the node's routing, parsed (spec operations.md 3.4)."""
    return {
        "AWS_VPC_K8S_CNI_CONNMARK": settings.connmark,
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": list(settings.exclude_snat_cidrs) or None,
        "AWS_VPC_K8S_CNI_EXTERNALSNAT": settings.external_snat,
        "AWS_EXTERNAL_SERVICE_CIDRS": list(settings.external_service_cidrs) or None,
        "AWS_VPC_ENI_MTU": settings.eni_mtu,
        "AWS_VPC_K8S_CNI_VETHPREFIX": settings.veth_prefix,
        "AWS_VPC_CNI_NODE_PORT_SUPPORT": settings.node_port_support,
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT": RANDOMIZE_SNAT[settings.randomize_snat],
    }


def ipamd_settings(settings: Settings) -> Json:
    """Return the settings of the pool, parsed (spec operations.md 3.5)."""
    return {
        "WARM_IP_TARGET": settings.warm_ip_target,
        "WARM_ENI_TARGET": settings.warm_eni_target,
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": settings.custom_networking,
        "AWS_MANAGE_ENIS_NON_SCHEDULABLE": settings.manage_unschedulable,
        "ENABLE_SUBNET_DISCOVERY": settings.subnet_discovery,
    }
