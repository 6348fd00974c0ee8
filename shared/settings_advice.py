"""What each variable means now, and combinations that do not do what they seem to (spec env.md 1-5, ipam.md 29). Pure.

`TABLE` is what `vpccni settings` prints; `traps` are legal settings with an effect few expect: told as a warning event at start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vpccni.shared.settings import UNSUPPORTED_BOOLS, Settings


@dataclass(frozen=True, slots=True)
class Row:
    """One variable: its field in `Settings` (empty: the feature is not in this release) and what it does."""

    name: str
    field: str
    meaning: str


def _rows(text: str) -> tuple[Row, ...]:
    return tuple(
        Row(*(part.strip() for part in line.split("|", 2))) for line in text.strip().splitlines() if line.strip()
    )


TABLE: Final = _rows("""
    WARM_ENI_TARGET | warm_eni_target | ENIs' worth of free addresses to hold
    WARM_IP_TARGET | warm_ip_target | free addresses to hold (0: off)
    MINIMUM_IP_TARGET | minimum_ip_target | addresses to have in all (0: off)
    WARM_PREFIX_TARGET | warm_prefix_target | free /28 prefixes to hold
    MAX_ENI | max_eni | most ENIs of this node (0: what the type allows)
    IP_COOLDOWN_PERIOD | ip_cooldown_s | seconds before a released address is given out again
    AWS_MANAGE_ENIS_NON_SCHEDULABLE | manage_unschedulable | go on adding and freeing ENIs on a cordoned node
    DISABLE_NETWORK_RESOURCE_PROVISIONING | provisioning | whether ENIs and addresses are changed at EC2
    ENABLE_IMDS_ONLY_MODE | imds_only | never ask EC2, only instance metadata
    DISABLE_LEAKED_ENI_CLEANUP | leaked_eni_cleanup | whether ENIs that crashed nodes left are deleted
    ENABLE_IPv4 | | pods get IPv4 addresses
    ENABLE_IPv6 | ipv6 | pods get IPv6 addresses, out of one /80 prefix
    ENABLE_PREFIX_DELEGATION | prefix_delegation | take prefixes (/28; IPv6: /80) instead of single addresses
    VPCCNI_PREFIX_FALLBACK | prefix_fallback | single addresses where all subnets are fragmented
    ENABLE_SUBNET_DISCOVERY | subnet_discovery | choose ENIs' subnets by tag and free addresses
    AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG | custom_networking | take subnet and security groups from ENIConfig
    ENI_CONFIG_ANNOTATION_DEF | | node annotation that names the ENIConfig
    ENI_CONFIG_LABEL_DEF | | node label that names the ENIConfig
    ENABLE_POD_ENI | | security groups for pods
    POD_SECURITY_GROUP_ENFORCING_MODE | pod_sg_mode | how branch pods' traffic is judged
    ENABLE_MULTI_NIC | multi_nic | use network cards above 0 too
    MANAGE_UNTAGGED_ENI | manage_untagged_eni | whether ENIs without our tag are used
    ANNOTATE_POD_IP | annotate_pod_ip | write each pod's address into its annotations
    NETWORK_POLICY_ENFORCING_MODE | network_policy_mode | network policy (empty: no agent in the path)
    CLUSTER_NAME | cluster_name | tags ENIs and narrows the leak sweep
    CLUSTER_ENDPOINT | | API server to use instead of the service address
    ADDITIONAL_ENI_TAGS | additional_eni_tags | more tags of new ENIs
    MY_NODE_NAME | node_name | this node in the Kubernetes API
    MY_POD_NAME | pod_name | the pod that events are about
    VPC_CNI_VERSION | cni_version | user agent of AWS and Kubernetes calls
    AWS_EC2_ENDPOINT | ec2_endpoint | EC2 endpoint (empty: AWS's own)
    HTTP_TIMEOUT | http_timeout_s | seconds one AWS request may take
    AWS_VPC_K8S_CNI_BACKING_STORE | checkpoint_path | the checkpoint file
    DISABLE_INTROSPECTION | introspection_enabled | whether introspection is served
    INTROSPECTION_BIND_ADDRESS | introspection_bind_address | where introspection is served
    DISABLE_METRICS | metrics_enabled | whether Prometheus metrics are served on :61678
    AWS_VPC_K8S_CNI_LOGLEVEL | log_level | log level of all processes; LOG_LEVEL_<PROCESS> goes first
    AWS_VPC_K8S_CNI_LOG_FILE | | each process logs to its own file, which the supervisor names
    AWS_VPC_K8S_PLUGIN_LOG_FILE | plugin_log_file | the plugin's log
    AWS_VPC_K8S_PLUGIN_LOG_LEVEL | plugin_log_level | the plugin's log level
    AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE | egress_log_file | log of the egress plugin on IPv6 nodes
    AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE | egress_log_file | log of the egress plugin on IPv4 nodes
    AWS_VPC_K8S_CNI_EXTERNALSNAT | external_snat | leave SNAT to something outside the node
    AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS | exclude_snat_cidrs | destinations without SNAT
    AWS_EXTERNAL_SERVICE_CIDRS | external_service_cidrs | destinations reached through the main table
    AWS_VPC_K8S_CNI_RANDOMIZESNAT | randomize_snat | how SNAT chooses ports
    AWS_VPC_CNI_NODE_PORT_SUPPORT | node_port_support | connmark rules for NodePort
    AWS_VPC_K8S_CNI_CONNMARK | connmark | the mark that NodePort uses
    AWS_VPC_K8S_CNI_VETHPREFIX | veth_prefix | head of the host veths' names
    AWS_VPC_ENI_MTU | eni_mtu | MTU of ENIs
    POD_MTU | pod_mtu | MTU of pods
    ENABLE_V6_EGRESS | v6_egress | IPv6 egress of pods on IPv4 nodes
    ENABLE_V4_EGRESS | v4_egress | IPv4 egress of pods on IPv6 nodes
    ENABLE_BANDWIDTH_PLUGIN | bandwidth_plugin | chain the bandwidth plugin
    DISABLE_POD_V6 | disable_pod_v6 | switch IPv6 off in pods
    DISABLE_TCP_EARLY_DEMUX | tcp_early_demux | whether TCP early demux stays on
    HOST_CNI_BIN_PATH | host_bin_path | where plugins are installed
    HOST_CNI_CONFDIR_PATH | host_conf_path | where the conflist is written
""")


IPV4_ONLY: Final = frozenset(
    """WARM_ENI_TARGET WARM_IP_TARGET MINIMUM_IP_TARGET WARM_PREFIX_TARGET MAX_ENI VPCCNI_PREFIX_FALLBACK
    DISABLE_LEAKED_ENI_CLEANUP""".split()
)
"""What an IPv6 node has no use for: nothing there is grown, shrunk or swept (spec env.md 1, ipam.md 17)."""


IPV4_NODES_ONLY: Final = frozenset({"ENABLE_V6_EGRESS", "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE"})
IPV6_NODES_ONLY: Final = frozenset({"ENABLE_V4_EGRESS", "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE"})
"""Egress is into the family that the node's pods do not have."""


def note(name: str, settings: Settings) -> str:
    """Return why a value has no effect at present, or empty."""
    by_address = settings.warm_ip_target > 0 or settings.minimum_ip_target > 0
    if settings.ipv6 and name in IPV4_ONLY:
        return "no effect: IPv6 pods have all addresses of one /80"
    if name == "WARM_ENI_TARGET" and by_address:
        return "no effect: WARM_IP_TARGET or MINIMUM_IP_TARGET rules"
    if name == "WARM_ENI_TARGET" and settings.prefix_delegation:
        return "no effect: WARM_PREFIX_TARGET rules"
    if name == "WARM_PREFIX_TARGET" and not settings.prefix_delegation:
        return "no effect: ENABLE_PREFIX_DELEGATION is off"
    if name == "WARM_PREFIX_TARGET" and by_address:
        return "no effect: WARM_IP_TARGET or MINIMUM_IP_TARGET rules"
    if name == "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS" and settings.external_snat:
        return "no effect: SNAT is external"
    if name == "AWS_VPC_K8S_CNI_RANDOMIZESNAT" and settings.external_snat:
        return "no effect: SNAT is external"
    if name in (IPV4_NODES_ONLY if settings.ipv6 else IPV6_NODES_ONLY):
        return f"no effect on an {'IPv6' if settings.ipv6 else 'IPv4'} node"
    if name in UNSUPPORTED_BOOLS:
        return "not supported by this release"
    return ""


def traps(raw: Mapping[str, str], settings: Settings) -> list[str]:
    """Return a sentence for each legal setting that does not do what it seems to."""
    found = []
    if settings.minimum_ip_target > 0 and settings.warm_ip_target == 0:
        found.append(
            f"MINIMUM_IP_TARGET={settings.minimum_ip_target} without WARM_IP_TARGET: the node never has more addresses than that, "
            "and further pods fail; set WARM_IP_TARGET too"
        )
    if raw.get("WARM_PREFIX_TARGET", "0") not in ("", "0", "1") and not settings.prefix_delegation:
        found.append("WARM_PREFIX_TARGET is set but ENABLE_PREFIX_DELEGATION is off: it has no effect")
    if raw.get("WARM_ENI_TARGET", "") not in ("", "1") and (settings.warm_ip_target or settings.minimum_ip_target):
        found.append("WARM_ENI_TARGET has no effect while WARM_IP_TARGET or MINIMUM_IP_TARGET is set")
    if settings.ip_cooldown_s == 0:
        found.append(
            "IP_COOLDOWN_PERIOD=0: an address is given out again at once, while kube-proxy elsewhere may still send it the old pod's "
            "traffic"
        )
    if settings.veth_prefix != "eni" and settings.network_policy_mode not in ("", "none"):
        found.append(
            f"AWS_VPC_K8S_CNI_VETHPREFIX={settings.veth_prefix}: another vendor's policy agent looks for eni* only"
        )
    for name in ("WARM_ENI_TARGET", "WARM_IP_TARGET", "MINIMUM_IP_TARGET", "WARM_PREFIX_TARGET", "MAX_ENI"):
        text = raw.get(name, "")
        field = name.lower()
        if text and not text.lstrip("+-").isdigit():
            found.append(f"{name}={text!r} is no number: {getattr(settings, field)} is used")
    return found
