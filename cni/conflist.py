"""The conflist of the node, from its settings (spec dataplane.md 4.1). Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from vpccni.shared.settings import Settings

NAME: Final = "10-aws.conflist"
RUN_DIR: Final = Path("/var/run/aws-node")
EGRESS_LOG: Final = "/var/log/aws-routed-eni/egress-v6-plugin.log"
EGRESS_SUBNET: Final = "fd00::ac:00/118"
EGRESS_STATE: Final = "/run/cni/v4pd/egress-v6-ipam"


def render(settings: Settings, run_dir: Path = RUN_DIR) -> bytes:
    """Return the file's bytes. The front door's place stands in it only where it is not the one compiled into the plugin."""
    document = {
        "cniVersion": "0.4.0",
        "name": "aws-cni",
        "disableCheck": True,
        "plugins": plugins(settings, run_dir),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def plugins(settings: Settings, run_dir: Path) -> list[dict[str, Any]]:
    """Return the chain: aws-cni, egress-cni (off on an IPv4 node), portmap, and bandwidth and tuning where asked for."""
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
    egress: dict[str, Any] = {
        "name": "egress-cni",
        "type": "egress-cni",
        "mtu": str(settings.pod_mtu),
        "enabled": "false",
        "randomizeSNAT": settings.randomize_snat,
        "nodeIP": "",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": EGRESS_SUBNET}]],
            "routes": [{"dst": "::/0"}],
            "dataDir": EGRESS_STATE,
        },
        "pluginLogFile": EGRESS_LOG,
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
