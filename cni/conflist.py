"""The conflist of the node, from its settings (spec dataplane.md 4.1). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from vpccni.shared.settings import Settings

OLDEST: Final = "0.4.0"
NEWEST: Final = "1.1.0"
VERSIONS_VARIABLE: Final = "VPCCNI_CNI_VERSIONS"
"""Under this name the versions of the chain travel in settings.json, separated by commas; empty: some plugin did not answer."""
NAME: Final = "10-aws.conflist"
OURS: Final = ("aws-cni", "egress-cni")
"""Names our one executable has."""
RUN_DIR: Final = Path("/var/run/aws-node")


class Egress(NamedTuple):
    """The addresses pods have of the other family than their own, and where host-local keeps what is reserved."""

    subnet: str
    everywhere: str
    state: str


V4_EGRESS: Final = Egress("169.254.172.0/22", "0.0.0.0/0", "/run/cni/v6pd/egress-v4-ipam")  # spec dataplane.md 4.1
V6_EGRESS: Final = Egress("fd00::ac:00/118", "::/0", "/run/cni/v4pd/egress-v6-ipam")


def render(
    settings: Settings, run_dir: Path = RUN_DIR, versions: Sequence[str] = (), *, egress_address: str = ""
) -> bytes:
    """Return the file's bytes. The front door's place stands in it only where it is not the one compiled into the plugin.

    `egress_address`: the node's own address of the family that pods lack; without one there is no egress.

    `versions`: what all plugins of the chain speak. Runtimes take the highest they know themselves, so none may be in it that one
    plugin refuses. CHECK stays switched off, as the reference has it, while it would fail on pods that are well. The plugins'
    VERSION does not tell their release, so the newest CNI version stands for it: `portmap` 1.1 finds fault with the host ports of a
    pod without IPv6, and none that speaks 1.1.0 does. `bandwidth` crashes on pods without limits before its release 1.9.1, whatever
    it speaks.
    """
    is_checked = NEWEST in versions and not settings.bandwidth_plugin
    document: dict[str, Any] = {"cniVersion": OLDEST}
    if any(version != OLDEST for version in versions):
        document["cniVersions"] = list(versions)
    document["name"] = "aws-cni"
    if not is_checked:
        document["disableCheck"] = True
    document["plugins"] = plugins(settings, run_dir, egress_address)
    return (json.dumps(document, indent=2) + "\n").encode()


def versions_in(raw: Mapping[str, str]) -> list[str]:
    """Return the versions of the chain that stand in raw settings; none when nobody asked the plugins."""
    return [version for version in raw.get(VERSIONS_VARIABLE, "").split(",") if version]


def chained(settings: Settings) -> list[str]:
    """Return the types of the plugins that are not ours."""
    types = [str(plugin["type"]) for plugin in plugins(settings, RUN_DIR, "")]
    return [kind for kind in types if kind not in OURS]


def egress_wanted(settings: Settings) -> bool:
    """Tell whether pods shall reach the family that they have no address of."""
    return settings.v4_egress if settings.ipv6 else settings.v6_egress


def plugins(settings: Settings, run_dir: Path, egress_address: str) -> list[dict[str, Any]]:
    """Return the chain: aws-cni, egress-cni (often switched off), portmap, and bandwidth and tuning where asked for."""
    own: dict[str, Any] = {
        "name": "aws-cni",
        "type": "aws-cni",
        "vethPrefix": settings.veth_prefix,
        "mtu": str(settings.pod_mtu),
        "podSGEnforcingMode": settings.pod_sg_mode,
        "pluginLogFile": settings.plugin_log_file,
        "pluginLogLevel": settings.plugin_log_level,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True},
    }
    other = V4_EGRESS if settings.ipv6 else V6_EGRESS
    enabled = egress_wanted(settings) and bool(egress_address)
    egress: dict[str, Any] = {
        "name": "egress-cni",
        "type": "egress-cni",
        "mtu": str(settings.pod_mtu),
        "enabled": str(enabled).lower(),
        "randomizeSNAT": settings.randomize_snat,
        "nodeIP": egress_address if enabled or settings.ipv6 else "",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": other.subnet}]],
            "routes": [{"dst": other.everywhere}],
            "dataDir": other.state,
        },
        "pluginLogFile": settings.egress_log_file,
        "pluginLogLevel": settings.plugin_log_level,
    }
    if run_dir.resolve() != RUN_DIR.resolve():
        place = {"frontDoor": str(run_dir / "front-door.sock"), "spoolDir": str(run_dir / "spool")}
        own, egress = {**own, **place}, {**egress, **place}
    chain = [own, egress, {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]
    if settings.bandwidth_plugin:
        chain.append({"type": "bandwidth", "capabilities": {"bandwidth": True}})
    if settings.disable_pod_v6:
        names = ("all", "default", "lo")
        chain.append({"type": "tuning", "sysctl": {f"net.ipv6.conf.{name}.disable_ipv6": "1" for name in names}})
    return chain
