"""What a container runtime asks, as a value; and results and errors as the CNI specification wants them.

Pure: text in, a `CniRequest` or a `CniFailure` out (spec dataplane.md 4).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vpccni.components.netlink_programmer.facts import IPV6, family_of, host_prefix
from vpccni.components.netlink_programmer.naming import dummy_name
from vpccni.shared.errors import CniFailure
from vpccni.shared.messages.base import PodRef, Sandbox

VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
VALID_ATTACHMENTS: Final = (
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
)  # the second is older (spec dataplane.md 15)
MTU_DEFAULT: Final = 9001
MTU_MIN: Final = 576
ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"
NIC_ANNOTATION: Final = "k8s.amazonaws.com/nicConfig"
NIC_EVERY_CARD: Final = "multi-nic-attachment"
CODE_VERSION: Final = 1
CODE_ENVIRONMENT: Final = 4
CODE_DECODE: Final = 6
CODE_CONFIG: Final = 7
CODE_TRY_AGAIN: Final = 11
CODE_NOT_READY: Final = 50
CODE_OWN: Final = 999
ADD_FAILED: Final = "add cmd: failed to assign an IP address to container"
"""Operators search for this text (spec dataplane.md 4.6)."""

_NAME: Final = re.compile(r"^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$")
_NEEDED: Final = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}


@dataclass(frozen=True)
class CniRequest:
    """One call of the plugin. `previous` is prevResult as it came, None without one.

    `multi_nic`: the pod's annotation asks for an interface on every managed network card (spec dataplane.md 4.2).
    """

    command: str
    version: str
    sandbox: Sandbox
    pod: PodRef
    netns: str
    mtu: int
    veth_prefix: str
    previous: Mapping[str, Any] | None
    config: Mapping[str, Any]
    multi_nic: bool = False


@dataclass(frozen=True)
class WiredInterface:
    """What the result tells of one interface; `table` travels in the container entry's `mac` (spec dataplane.md 4.5)."""

    host_veth: str
    ifname: str
    address: str
    table: int
    device_number: int


def parse(env: Mapping[str, str], stdin: bytes) -> CniRequest:
    """Return the request; raises `CniFailure` with the specification's code and nothing else."""
    command = env.get("CNI_COMMAND", "")
    if command not in _NEEDED:
        raise CniFailure(
            f"unknown CNI_COMMAND: {command:.40}",
            cni_code=CODE_ENVIRONMENT,
            remedy="Use ADD, DEL, CHECK, STATUS, GC or VERSION",
        )
    missing = [name for name in _NEEDED[command] if not env.get(name)]
    if missing:
        raise CniFailure(f"required env variables [{','.join(missing)}] missing", cni_code=CODE_ENVIRONMENT)
    config = _config(stdin)
    version = _version(config)
    network = _text(config, "name", "aws-cni") or "aws-cni"
    sandbox = Sandbox(env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", ""), network)
    if command in ("ADD", "DEL", "CHECK"):
        _check_names(sandbox)
    arguments = _arguments(env.get("CNI_ARGS", ""))
    pod = PodRef(
        arguments.get("K8S_POD_NAMESPACE", ""), arguments.get("K8S_POD_NAME", ""), arguments.get("K8S_POD_UID", "")
    )
    previous = config.get("prevResult")
    if previous is not None and not isinstance(previous, dict):
        if command != "DEL":
            raise CniFailure("prevResult is no object", cni_code=CODE_DECODE)
        previous = None
    return CniRequest(
        command,
        version,
        sandbox,
        pod,
        env.get("CNI_NETNS", ""),
        _mtu(config),
        _veth_prefix(config),
        previous,
        config,
        _wants_every_card(config),
    )


def result(version: str, pod: PodRef, netns: str, wired: Sequence[WiredInterface]) -> str:
    """Return the ADD result of a CNI version, as the reference prints it."""
    interfaces: list[dict[str, Any]] = []
    ips: list[dict[str, Any]] = []
    old = version in ("0.3.0", "0.3.1", "0.4.0")
    for one in wired:
        interfaces.append({"name": one.host_veth})
        interfaces.append({"name": one.ifname, "mac": str(one.table), "sandbox": netns})
        entry: dict[str, Any] = {"version": "6" if family_of(one.address) == IPV6 else "4"} if old else {}
        ips.append({**entry, "interface": len(interfaces) - 1, "address": host_prefix(one.address)})
    interfaces.append({"name": dummy_name(pod), "mac": "0", "sandbox": str(wired[0].device_number)})
    document: dict[str, Any] = {"cniVersion": version, "interfaces": interfaces, "ips": ips}
    if version in ("0.1.0", "0.2.0"):
        key = "ip6" if family_of(wired[0].address) == IPV6 else "ip4"
        document = {"cniVersion": version, key: {"ip": host_prefix(wired[0].address)}, "dns": {}}
    elif old:
        document["dns"] = {}
    return json.dumps(document, indent=4) + "\n"


def pass_on(request: CniRequest) -> str:
    """Return what the egress plugin answers while egress of the other family is off: the result before it, unchanged."""
    if request.command != "ADD":
        return ""
    if request.previous is None:
        raise CniFailure(
            "must be called as a chained plugin", cni_code=CODE_CONFIG, on="egress-cni", why="there is no prevResult"
        )
    return json.dumps({**request.previous, "cniVersion": request.version}) + "\n"


def failure(error: CniFailure, version: str) -> str:
    """Return an error as CNI JSON."""
    document: dict[str, Any] = {"cniVersion": version, "code": error.cni_code, "msg": error.what}
    details = ". ".join(part for part in (error.on, error.why, error.remedy) if part)
    if details:
        document["details"] = details
    return json.dumps(document, indent=4) + "\n"


def previous_addresses(previous: Mapping[str, Any] | None) -> list[str]:
    """Return the addresses a stored result names, in any of its historical forms; junk gives none."""
    if previous is None:
        return []
    entries = previous.get("ips")
    found = (
        [entry.get("address", "") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    )
    for key in ("ip4", "ip6"):
        entry = previous.get(key)
        if isinstance(entry, dict):
            found.append(entry.get("ip", ""))
    return [address for text in found if isinstance(text, str) and (address := _address(text))]


def previous_host_veths(previous: Mapping[str, Any] | None) -> list[str]:
    """Return the host ends a stored result names: the entries without a namespace and without a MAC (spec dataplane.md 4.5)."""
    interfaces = (previous or {}).get("interfaces")
    if not isinstance(interfaces, list):
        return []
    entries = [one for one in interfaces if isinstance(one, dict) and not one.get("sandbox") and not one.get("mac")]
    return [one["name"] for one in entries if isinstance(one.get("name"), str)]


def _address(text: str) -> str:
    """Return the address of a result's entry in its canonical form, "" for junk."""
    try:
        return str(ipaddress.ip_address(text.split("/")[0]))
    except ValueError:
        return ""


def valid_attachments(request: CniRequest) -> set[tuple[str, str]]:
    """Return (container id, interface) of what a GC must leave alone. Raises `CniFailure` for a list that is none: nothing is removed then."""
    key = next((one for one in VALID_ATTACHMENTS if one in request.config), "")
    if not key:
        raise CniFailure(f"{VALID_ATTACHMENTS[0]} is missing", cni_code=CODE_CONFIG, why="nothing says what may go")
    listed = request.config[key] or []  # null is how runtimes written in Go say: none
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise CniFailure(f"{key} is no list of objects", cni_code=CODE_DECODE)
    return {(str(entry.get("containerID")), str(entry.get("ifname"))) for entry in listed}


def stdin_version(stdin: bytes) -> str:
    """Return the version an error should be told in, whatever else is wrong with stdin."""
    try:
        return _version(_config(stdin))
    except CniFailure:
        return "0.4.0"


def _config(stdin: bytes) -> dict[str, Any]:
    try:
        document = json.loads(stdin)
    except (ValueError, RecursionError) as error:
        raise CniFailure(
            "error parsing the network configuration", cni_code=CODE_DECODE, why=str(error)[:200]
        ) from error
    if not isinstance(document, dict):
        raise CniFailure("the network configuration is no JSON object", cni_code=CODE_DECODE)
    return document


def _version(config: Mapping[str, Any]) -> str:
    version = config.get("cniVersion") or "0.1.0"
    if version not in VERSIONS:
        raise CniFailure(
            f"incompatible CNI version {version!r:.40}", cni_code=CODE_VERSION, why=f"supported: {', '.join(VERSIONS)}"
        )
    return str(version)


def _check_names(sandbox: Sandbox) -> None:
    if not _NAME.match(sandbox.container_id):
        raise CniFailure(
            "CNI_CONTAINERID has invalid characters", cni_code=CODE_ENVIRONMENT, on=sandbox.container_id[:80]
        )
    name = sandbox.ifname
    if not 1 <= len(name.encode()) <= 15 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise CniFailure("CNI_IFNAME is no interface name", cni_code=CODE_ENVIRONMENT, on=name[:40])
    if not _NAME.match(sandbox.network):
        raise CniFailure("the network's name has invalid characters", cni_code=CODE_CONFIG, on=sandbox.network[:80])


def _arguments(text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        name, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise CniFailure("CNI_ARGS: invalid pair", cni_code=CODE_ENVIRONMENT, on=pair[:80])
        pairs[name] = value
    known = {"IgnoreUnknown", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"}
    unknown = sorted(pairs.keys() - known)
    if unknown and pairs.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        raise CniFailure(
            f"CNI_ARGS: unknown args {unknown}", cni_code=CODE_ENVIRONMENT, remedy="Set IgnoreUnknown=true"
        )
    return pairs


def _text(config: Mapping[str, Any], name: str, default: str) -> str:
    value = config.get(name, default)
    return value if isinstance(value, str) else default


def _mtu(config: Mapping[str, Any]) -> int:
    text = _text(config, "mtu", "")
    mtu = int(text) if text.isascii() and text.isdigit() else 0
    return mtu if MTU_MIN <= mtu <= MTU_DEFAULT else MTU_DEFAULT


def _veth_prefix(config: Mapping[str, Any]) -> str:
    prefix = _text(config, "vethPrefix", "eni") or "eni"
    if len(prefix.encode()) > 4:
        raise CniFailure("vethPrefix is longer than 4 bytes", cni_code=CODE_CONFIG, on=prefix[:40])
    return prefix


def _wants_every_card(config: Mapping[str, Any]) -> bool:
    runtime = config.get("runtimeConfig")
    annotations = runtime.get(ANNOTATIONS) if isinstance(runtime, dict) else None
    return isinstance(annotations, dict) and annotations.get(NIC_ANNOTATION) == NIC_EVERY_CARD
