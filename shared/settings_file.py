"""`settings.json` in the run folder: what `vpccni node-start` read of the operator's environment, for all processes of the pod.

`kubectl set env` on one container so reaches every component. A process with MY_POD_UID waits for the file of its own pod
(generation = that uid); one that is run alone, without the file, uses its own environment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vpccni.shared.errors import SettingsError
from vpccni.shared.files import replace_file

FILE: Final = "settings.json"
VERSION: Final = 1
WAIT_S: Final = 120.0
LOOK_AGAIN_S: Final = 0.2

KNOWN: Final = frozenset(
    """WARM_ENI_TARGET WARM_IP_TARGET MINIMUM_IP_TARGET WARM_PREFIX_TARGET MAX_ENI IP_COOLDOWN_PERIOD
    AWS_MANAGE_ENIS_NON_SCHEDULABLE DISABLE_NETWORK_RESOURCE_PROVISIONING ENABLE_IMDS_ONLY_MODE
    DISABLE_LEAKED_ENI_CLEANUP ENABLE_IPv4 ENABLE_IPv6 ENABLE_PREFIX_DELEGATION ENABLE_SUBNET_DISCOVERY
    AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG ENI_CONFIG_ANNOTATION_DEF ENI_CONFIG_LABEL_DEF ENABLE_POD_ENI
    POD_SECURITY_GROUP_ENFORCING_MODE ENABLE_MULTI_NIC MANAGE_UNTAGGED_ENI ANNOTATE_POD_IP
    NETWORK_POLICY_ENFORCING_MODE CLUSTER_NAME CLUSTER_ENDPOINT ADDITIONAL_ENI_TAGS MY_NODE_NAME MY_POD_NAME
    VPC_CNI_VERSION AWS_EC2_ENDPOINT HTTP_TIMEOUT AWS_VPC_K8S_CNI_BACKING_STORE DISABLE_INTROSPECTION
    INTROSPECTION_BIND_ADDRESS DISABLE_METRICS AWS_VPC_K8S_CNI_LOGLEVEL AWS_VPC_K8S_CNI_LOG_FILE
    AWS_VPC_K8S_PLUGIN_LOG_FILE AWS_VPC_K8S_PLUGIN_LOG_LEVEL AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE
    AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE AWS_VPC_K8S_CNI_EXTERNALSNAT AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS
    AWS_EXTERNAL_SERVICE_CIDRS AWS_VPC_K8S_CNI_RANDOMIZESNAT AWS_VPC_CNI_NODE_PORT_SUPPORT
    AWS_VPC_K8S_CNI_CONNMARK AWS_VPC_K8S_CNI_VETHPREFIX AWS_VPC_ENI_MTU POD_MTU ENABLE_V6_EGRESS ENABLE_V4_EGRESS
    ENABLE_BANDWIDTH_PLUGIN DISABLE_POD_V6 DISABLE_TCP_EARLY_DEMUX HOST_CNI_BIN_PATH HOST_CNI_CONFDIR_PATH
    VPCCNI_PREFIX_FALLBACK""".split()
)
"""Every variable of spec env.md 1-5, and ours."""
IGNORED: Final = frozenset({"AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER", "ENABLE_NFTABLES", "ENABLE_WINDOWS_IPAM"})
"""Accepted and without effect (spec env.md 6)."""
PREFIXES_CLOSE: Final = ("WARM_", "MINIMUM_", "ENABLE_", "DISABLE_", "AWS_VPC_K8S_", "AWS_VPC_CNI_", "AWS_VPC_ENI")


def write(run_dir: Path, environ: Mapping[str, str], found: Mapping[str, str] | None = None) -> Path:
    """Write the settings file of this pod, atomically, and return its path. Raises OSError.

    `found`: what node-start found out about the node, by names of our own; processes read it from their raw settings.
    """
    values = {name: {"text": environ[name], "source": "environment"} for name in sorted(KNOWN) if name in environ}
    values |= {name: {"text": text, "source": "node-start"} for name, text in (found or {}).items()}
    document = {"version": VERSION, "generation": environ.get("MY_POD_UID", ""), "values": values}
    path = run_dir / FILE
    replace_file(path, json.dumps(document, indent=1).encode(), mode=0o644, owner="settings")
    return path


def raw_settings(run_dir: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the raw texts this process starts from: the pod's settings file over its own environment.

    With MY_POD_UID set waits up to `WAIT_S` for the file of that pod; raises `SettingsError` after that, or when the file is junk.
    """
    own = dict(environ)
    wanted = environ.get("MY_POD_UID", "")
    deadline = time.monotonic() + WAIT_S
    while True:
        found = _document(run_dir / FILE)
        if found is not None and wanted in ("", found.generation):
            return {**{name: text for name, text in own.items() if name not in KNOWN}, **found.values}
        if not wanted:
            return own
        if time.monotonic() > deadline:
            raise SettingsError(
                "this pod's settings never came",
                on=str(run_dir / FILE),
                why=f"no file of generation {wanted} within {WAIT_S:.0f} s",
                remedy="See the log of the aws-node container: `vpccni node-start` writes it",
            )
        time.sleep(LOOK_AGAIN_S)  # before the loop exists: nothing else waits on this process yet


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """Return variables that look like settings of ours and are none: most likely misspelt."""
    return sorted(name for name in environ if name.startswith(PREFIXES_CLOSE) and name not in KNOWN | IGNORED)


@dataclass(frozen=True)
class _Found:
    generation: str
    values: dict[str, str]


def _document(path: Path) -> _Found | None:
    """Return what the file says, or None when there is no file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        values = {str(name): str(entry["text"]) for name, entry in document["values"].items()}
        return _Found(str(document["generation"]), values)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            "the settings file cannot be read",
            on=str(path),
            why=repr(error),
            remedy="Remove it and restart the aws-node container",
        ) from error
