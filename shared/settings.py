"""The operator's environment: every variable with its parsing rule, default and check (spec env.md 0-5).

The rules differ by variable and matter: `yes` is no boolean, an empty integer stops the start for one variable and means the
default for another. `read` turns raw texts into a `Settings` value, with the warnings and the errors found; it is pure. Where the
texts come from (`settings.json` of this pod, or the process's own environment) is decided in `settings_file`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
MTU_MAX: Final = 9001
MTU_MIN: Final = 576
MTU_MIN_V6: Final = 1280
CONNMARK_DEFAULT: Final = 0x80
CONNMARK_MAX: Final = 0xFFFFFFFF
VETH_PREFIX_BYTES: Final = 4
RESERVED_PREFIXES: Final = frozenset({"eth", "lo", "vlan"})
COOLDOWN_DEFAULT_S: Final = 30
HTTP_TIMEOUT_DEFAULT_S: Final = 10
POLICY_MODES: Final = frozenset({"none", "strict", "standard"})
CHECKPOINT_DEFAULT: Final = "/var/run/aws-node/ipam.json"

UNSUPPORTED_BOOLS: Final = {
    "ENABLE_POD_ENI": False,
}
"""Settings whose feature this release does not have: another value than the default stops the start, by name."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Typed values; each field names its variable. `raw`: the texts they came from."""

    warm_eni_target: int = 1  # WARM_ENI_TARGET
    warm_ip_target: int = 0  # WARM_IP_TARGET, 0: off
    minimum_ip_target: int = 0  # MINIMUM_IP_TARGET, 0: off
    warm_prefix_target: int = 0  # WARM_PREFIX_TARGET
    ipv6: bool = False  # ENABLE_IPv6, else ENABLE_IPv4: pods have addresses of one family
    multi_nic: bool = False  # ENABLE_MULTI_NIC
    prefix_delegation: bool = False  # ENABLE_PREFIX_DELEGATION
    prefix_fallback: bool = False  # VPCCNI_PREFIX_FALLBACK
    max_eni: int = 0  # MAX_ENI, 0: no cap
    ip_cooldown_s: int = COOLDOWN_DEFAULT_S  # IP_COOLDOWN_PERIOD
    manage_untagged_eni: bool = True  # MANAGE_UNTAGGED_ENI
    subnet_discovery: bool = True  # ENABLE_SUBNET_DISCOVERY
    custom_networking: bool = False  # AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG
    leaked_eni_cleanup: bool = True  # not DISABLE_LEAKED_ENI_CLEANUP, and not IPv6
    imds_only: bool = False  # ENABLE_IMDS_ONLY_MODE
    provisioning: bool = True  # not DISABLE_NETWORK_RESOURCE_PROVISIONING, and not IMDS-only
    manage_unschedulable: bool = False  # AWS_MANAGE_ENIS_NON_SCHEDULABLE
    annotate_pod_ip: bool = False  # ANNOTATE_POD_IP
    network_policy_mode: str = ""  # NETWORK_POLICY_ENFORCING_MODE, lower case; "": no agent in the path
    cluster_name: str = ""  # CLUSTER_NAME
    node_name: str = ""  # MY_NODE_NAME
    pod_name: str = ""  # MY_POD_NAME
    cni_version: str = ""  # VPC_CNI_VERSION
    ec2_endpoint: str = ""  # AWS_EC2_ENDPOINT
    additional_eni_tags: Mapping[str, str] = None  # type: ignore[assignment]  # filled by read: a mapping has no safe default
    http_timeout_s: int = HTTP_TIMEOUT_DEFAULT_S  # HTTP_TIMEOUT
    checkpoint_path: str = CHECKPOINT_DEFAULT  # AWS_VPC_K8S_CNI_BACKING_STORE
    introspection_enabled: bool = True  # not DISABLE_INTROSPECTION
    introspection_bind_address: str = "127.0.0.1:61679"  # INTROSPECTION_BIND_ADDRESS
    metrics_enabled: bool = True  # not DISABLE_METRICS
    log_level: str = "debug"  # AWS_VPC_K8S_CNI_LOGLEVEL
    plugin_log_file: str = "/var/log/aws-routed-eni/plugin.log"  # AWS_VPC_K8S_PLUGIN_LOG_FILE
    plugin_log_level: str = "Debug"  # AWS_VPC_K8S_PLUGIN_LOG_LEVEL
    pod_sg_mode: str = "strict"  # POD_SECURITY_GROUP_ENFORCING_MODE
    external_snat: bool = False  # AWS_VPC_K8S_CNI_EXTERNALSNAT
    exclude_snat_cidrs: tuple[str, ...] = ()  # AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS, canonical IPv4
    external_service_cidrs: tuple[str, ...] = ()  # AWS_EXTERNAL_SERVICE_CIDRS
    randomize_snat: str = "prng"  # AWS_VPC_K8S_CNI_RANDOMIZESNAT
    node_port_support: bool = True  # AWS_VPC_CNI_NODE_PORT_SUPPORT
    connmark: int = CONNMARK_DEFAULT  # AWS_VPC_K8S_CNI_CONNMARK
    veth_prefix: str = "eni"  # AWS_VPC_K8S_CNI_VETHPREFIX
    eni_mtu: int = MTU_MAX  # AWS_VPC_ENI_MTU
    pod_mtu: int = MTU_MAX  # POD_MTU, else AWS_VPC_ENI_MTU
    bandwidth_plugin: bool = False  # ENABLE_BANDWIDTH_PLUGIN
    disable_pod_v6: bool = False  # DISABLE_POD_V6
    v4_egress: bool = True  # ENABLE_V4_EGRESS, of pods on IPv6 nodes
    v6_egress: bool = False  # ENABLE_V6_EGRESS, of pods on IPv4 nodes
    egress_log_file: str = (
        "/var/log/aws-routed-eni/egress-v6-plugin.log"  # AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE (IPv6 nodes: V4)
    )
    tcp_early_demux: bool = True  # not DISABLE_TCP_EARLY_DEMUX
    host_bin_path: str = "/host/opt/cni/bin"  # HOST_CNI_BIN_PATH
    host_conf_path: str = "/host/etc/cni/net.d"  # HOST_CNI_CONFDIR_PATH


@dataclass(frozen=True)
class Reading:
    """What came of reading: `errors` are for exit 1, `warnings` tell of a default that stands in."""

    settings: Settings
    warnings: tuple[str, ...]
    errors: tuple[str, ...]


class _Reader:
    """The rules of spec env.md 0 over one mapping of texts."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self.raw = raw
        self.warnings: list[str] = []
        self.errors: list[str] = []

    def flag(self, name: str, default: bool, *, empty_is_unset: bool = False) -> bool:
        """Rules B1 and B2."""
        text = self.raw.get(name)
        if text is None or (empty_is_unset and text == ""):
            return default
        if text in TRUE:
            return True
        if text not in FALSE:
            self.warnings.append(f"{name}={text!r} is no boolean (true or false); {str(default).lower()} is used")
            return default
        return False

    def target(self, name: str, default: int, *, least: int = 0) -> int:
        """Rule I1: junk and values under `least` silently mean the default."""
        value = _integer(self.raw.get(name, ""))
        return default if value is None or value < least else value

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Rule I2 with a range: anything else stops the start."""
        text = self.raw.get(name)
        if text is None:
            return default
        value = _integer(text)
        if value is None or not low <= value <= high:
            top = f" to {high}" if high < 1 << 31 else " or more"
            self.errors.append(f"{name}={text!r} is not an integer of {low}{top}")
            return default
        return value

    def text(self, name: str, default: str = "") -> str:
        """Rule S1: empty is a value."""
        return self.raw.get(name, default)

    def filled(self, name: str, default: str = "") -> str:
        """Rule S2: empty means the default."""
        return self.raw.get(name) or default

    def cidrs(self, name: str) -> tuple[str, ...]:
        """A comma list of IPv4 CIDRs, canonical; bad and IPv6 items are skipped with a warning."""
        found = []
        for item in filter(None, (part.strip() for part in self.raw.get(name, "").split(","))):
            network = _ipv4_network(item)
            if network is None:
                self.warnings.append(f"{name}: {item!r} is no IPv4 CIDR; it is skipped")
            else:
                found.append(network)
        return tuple(found)


def read(raw: Mapping[str, str]) -> Reading:
    """Return the settings of an environment with what is wrong in it. Never raises."""
    reader = _Reader(raw)
    _refuse_unsupported(reader)
    ipv6 = _ipv6(reader)
    mtu_min = MTU_MIN_V6 if ipv6 else MTU_MIN
    eni_mtu = reader.number("AWS_VPC_ENI_MTU", MTU_MAX, mtu_min, MTU_MAX)
    settings = Settings(
        warm_eni_target=reader.target("WARM_ENI_TARGET", 1),
        warm_ip_target=reader.target("WARM_IP_TARGET", 0),
        minimum_ip_target=reader.target("MINIMUM_IP_TARGET", 0),
        warm_prefix_target=reader.target("WARM_PREFIX_TARGET", 0),
        ipv6=ipv6,
        multi_nic=reader.flag("ENABLE_MULTI_NIC", False),
        prefix_delegation=_prefix_delegation(reader, needed=ipv6),
        prefix_fallback=reader.flag("VPCCNI_PREFIX_FALLBACK", False),
        max_eni=reader.target("MAX_ENI", 0, least=1),
        ip_cooldown_s=reader.number("IP_COOLDOWN_PERIOD", COOLDOWN_DEFAULT_S, 0, 1 << 40),
        manage_untagged_eni=reader.flag("MANAGE_UNTAGGED_ENI", True),
        custom_networking=_custom_networking(reader, possible=not ipv6),
        subnet_discovery=reader.flag("ENABLE_SUBNET_DISCOVERY", True, empty_is_unset=True),
        leaked_eni_cleanup=not (reader.flag("DISABLE_LEAKED_ENI_CLEANUP", False) or ipv6),
        imds_only=(imds_only := reader.flag("ENABLE_IMDS_ONLY_MODE", False)),
        provisioning=not (reader.flag("DISABLE_NETWORK_RESOURCE_PROVISIONING", False) or imds_only),
        manage_unschedulable=reader.flag("AWS_MANAGE_ENIS_NON_SCHEDULABLE", False, empty_is_unset=True),
        annotate_pod_ip=reader.flag("ANNOTATE_POD_IP", False),
        network_policy_mode=_policy_mode(reader),
        cluster_name=reader.text("CLUSTER_NAME"),
        node_name=reader.text("MY_NODE_NAME"),
        pod_name=reader.text("MY_POD_NAME"),
        cni_version=reader.text("VPC_CNI_VERSION"),
        ec2_endpoint=reader.text("AWS_EC2_ENDPOINT"),
        additional_eni_tags=_additional_tags(reader),
        http_timeout_s=reader.target("HTTP_TIMEOUT", HTTP_TIMEOUT_DEFAULT_S, least=10),
        checkpoint_path=reader.filled("AWS_VPC_K8S_CNI_BACKING_STORE", CHECKPOINT_DEFAULT),
        introspection_enabled=not reader.flag("DISABLE_INTROSPECTION", False),
        introspection_bind_address=reader.text("INTROSPECTION_BIND_ADDRESS", "127.0.0.1:61679"),
        metrics_enabled=not reader.flag("DISABLE_METRICS", False),
        log_level=reader.filled("AWS_VPC_K8S_CNI_LOGLEVEL", "debug"),
        plugin_log_file=_plugin_log(reader),
        plugin_log_level=reader.text("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "Debug"),
        pod_sg_mode=reader.text("POD_SECURITY_GROUP_ENFORCING_MODE", "strict"),
        external_snat=reader.flag("AWS_VPC_K8S_CNI_EXTERNALSNAT", False, empty_is_unset=True),
        exclude_snat_cidrs=reader.cidrs("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
        external_service_cidrs=reader.cidrs("AWS_EXTERNAL_SERVICE_CIDRS"),
        randomize_snat=_randomize(reader),
        node_port_support=reader.flag("AWS_VPC_CNI_NODE_PORT_SUPPORT", True, empty_is_unset=True),
        connmark=_connmark(reader),
        veth_prefix=_veth_prefix(reader),
        eni_mtu=eni_mtu,
        pod_mtu=reader.number("POD_MTU", eni_mtu, mtu_min, MTU_MAX),
        bandwidth_plugin=reader.flag("ENABLE_BANDWIDTH_PLUGIN", False),
        disable_pod_v6=reader.flag("DISABLE_POD_V6", False),
        v4_egress=reader.flag("ENABLE_V4_EGRESS", True),
        v6_egress=reader.flag("ENABLE_V6_EGRESS", False),
        egress_log_file=_egress_log(reader, ipv6=ipv6),
        tcp_early_demux=not reader.flag("DISABLE_TCP_EARLY_DEMUX", False),
        host_bin_path=reader.text("HOST_CNI_BIN_PATH", "/host/opt/cni/bin"),
        host_conf_path=reader.text("HOST_CNI_CONFDIR_PATH", "/host/etc/cni/net.d"),
    )
    return Reading(settings, tuple(reader.warnings), tuple(reader.errors))


def _refuse_unsupported(reader: _Reader) -> None:
    for name, default in UNSUPPORTED_BOOLS.items():
        if reader.flag(name, default, empty_is_unset=True) != default:
            reader.errors.append(
                f"{name} is not supported by this release; unset it or set it to {str(default).lower()}"
            )


def _ipv6(reader: _Reader) -> bool:
    """Exactly one family must be on (spec env.md 2). Where ENABLE_IPv4 is not set, the other variable alone decides."""
    ipv6 = reader.flag("ENABLE_IPv6", False)
    if reader.flag("ENABLE_IPv4", not ipv6) == ipv6:
        state = "on" if ipv6 else "off"
        reader.errors.append(
            f"ENABLE_IPv4 and ENABLE_IPv6 are both {state}; pods have one family: set exactly one to true"
        )
    return ipv6


def _custom_networking(reader: _Reader, *, possible: bool) -> bool:
    wanted = reader.flag("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", False, empty_is_unset=True)
    if wanted and not possible:
        reader.errors.append("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true does not go with ENABLE_IPv6; set it to false")
    return wanted


def _policy_mode(reader: _Reader) -> str:
    mode = reader.raw.get("NETWORK_POLICY_ENFORCING_MODE")
    if mode is None:
        return ""
    if mode.lower() not in POLICY_MODES:
        reader.errors.append(
            f"NETWORK_POLICY_ENFORCING_MODE={mode!r} is none of none, strict, standard; correct or unset it"
        )
        return ""
    return mode.lower()


def _prefix_delegation(reader: _Reader, *, needed: bool) -> bool:
    """The targets are compared as texts, as the reference's entrypoint does (spec env.md 1): `abc` passes, `-5` does not."""
    wanted = reader.flag("ENABLE_PREFIX_DELEGATION", False)
    if needed and not wanted:
        reader.errors.append(
            "ENABLE_IPv6=true needs ENABLE_PREFIX_DELEGATION=true: pods' addresses come out of a /80 prefix"
        )
    names = ("WARM_PREFIX_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET")
    if wanted and all(reader.raw.get(name, "0") <= "0" for name in names):
        reader.errors.append(
            "ENABLE_PREFIX_DELEGATION is on, but none of WARM_PREFIX_TARGET, WARM_IP_TARGET and MINIMUM_IP_TARGET is above 0; "
            "set one, e.g. WARM_PREFIX_TARGET=1"
        )
    return wanted


def _plugin_log(reader: _Reader) -> str:
    path = reader.text("AWS_VPC_K8S_PLUGIN_LOG_FILE", "/var/log/aws-routed-eni/plugin.log")
    if path.lower() == "stdout":
        reader.errors.append(
            f"AWS_VPC_K8S_PLUGIN_LOG_FILE={path!r}: the plugin's standard output is the CNI result; use stderr or a path"
        )
    return path


def _egress_log(reader: _Reader, *, ipv6: bool) -> str:
    family = 4 if ipv6 else 6  # the family that pods lack
    name = f"AWS_VPC_K8S_EGRESS_V{family}_PLUGIN_LOG_FILE"
    path = reader.text(name, f"/var/log/aws-routed-eni/egress-v{family}-plugin.log")
    if path.lower() == "stdout":
        reader.errors.append(f"{name}={path!r}: the plugin's standard output is the CNI result; use stderr or a path")
    return path


def _veth_prefix(reader: _Reader) -> str:
    prefix = reader.text("AWS_VPC_K8S_CNI_VETHPREFIX", "eni")
    if len(prefix.encode()) > VETH_PREFIX_BYTES:
        reader.errors.append(f"AWS_VPC_K8S_CNI_VETHPREFIX={prefix!r} is longer than {VETH_PREFIX_BYTES} bytes")
    elif prefix in RESERVED_PREFIXES:
        reader.errors.append(f"AWS_VPC_K8S_CNI_VETHPREFIX={prefix!r} is reserved; use another, e.g. eni")
    return prefix


def _randomize(reader: _Reader) -> str:
    text = reader.filled("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng")
    if text not in ("prng", "hashrandom", "none"):
        reader.warnings.append(
            f"AWS_VPC_K8S_CNI_RANDOMIZESNAT={text!r} is none of prng, hashrandom, none; prng is used"
        )
        return "prng"
    return text


def _connmark(reader: _Reader) -> int:
    text = reader.raw.get("AWS_VPC_K8S_CNI_CONNMARK")
    if text is None:
        return CONNMARK_DEFAULT
    try:
        octal = len(text) > 1 and text[0] == "0" and text[1].isdigit()
        value = int(text, 8 if octal else 0)
    except ValueError:
        value = 0
    if not 1 <= value <= CONNMARK_MAX:
        reader.warnings.append(
            f"AWS_VPC_K8S_CNI_CONNMARK={text!r} is no mark of 1 to 2^32-1; {CONNMARK_DEFAULT:#x} is used"
        )
        return CONNMARK_DEFAULT
    return value


def _additional_tags(reader: _Reader) -> dict[str, str]:
    text = reader.filled("ADDITIONAL_ENI_TAGS", "{}")
    try:
        tags: Any = json.loads(text)
    except ValueError:
        tags = None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        reader.warnings.append(f"ADDITIONAL_ENI_TAGS={text!r} is no JSON object of strings; no tags are added")
        return {}
    reserved = [key for key in tags if "k8s.amazonaws.com" in key]
    for key in reserved:
        reader.warnings.append(f"ADDITIONAL_ENI_TAGS: {key!r} holds the reserved k8s.amazonaws.com; it is dropped")
    return {key: value for key, value in tags.items() if key not in reserved}


def _integer(text: str) -> int | None:
    digits = text[1:] if text[:1] in ("+", "-") else text
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def _ipv4_network(text: str) -> str | None:
    import ipaddress  # late: only the few nodes that set CIDR lists pay for it

    try:
        return str(ipaddress.IPv4Network(text, strict=False)) if "/" in text else None
    except ValueError:
        return None
