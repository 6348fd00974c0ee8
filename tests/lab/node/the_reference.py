"""A node as the reference leaves it (spec dataplane.md 13, operations.md 15.1), built with `ip`, iptables and nft by the listings there.

None of our code takes part: names, rules and files are written down here once more, so that what is compared is the specification.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from pyroute2 import IPRoute

from vpccni.lab.namespaces import call_in
from vpccni.lab.pod import Pod

VPC: Final = "10.0.0.0/16"
MARK: Final = "0x80"
RESTORE: Final = f"-j CONNMARK --restore-mark --nfmask {MARK} --ctmask {MARK}"


@dataclass(frozen=True)
class Release:
    """What differs between releases: where iptables' rules are, whether the connmark is a table of nft, and its comment."""

    name: str
    backend: str
    nft_connmark: bool
    comment: str


V1_22 = Release("v1.22.2 on nft", "nft", False, "AWS CONNMARK CHAIN, VPC CIDR")
V1_22_LEGACY = Release("v1.22.2 on legacy", "legacy", False, "AWS CONNMARK CHAIN, VPC CIDR")
V1_23 = Release("v1.23.1 on nft", "nft", True, "")
V1_23_LEGACY = Release("v1.23.1 on legacy", "legacy", False, "AWS CONNMARK CHAIN")


@dataclass
class Place:
    """The node's ENIs as EC2 has them."""

    primary: str
    primary_subnet: str
    second: str
    second_subnet: str
    second_mac: str
    addresses: dict[int, list[str]] = field(default_factory=dict)
    """Addresses for pods by device number."""

    @property
    def router(self) -> str:
        return str(ipaddress.ip_network(self.second_subnet)[1])

    @classmethod
    def of(cls, lab: Any, node: str) -> Place:
        enis = {int(eni["Attachment"]["DeviceIndex"]): eni for eni in enis_of(lab, node)}
        cidrs = {subnet["id"]: subnet["cidr"] for subnet in lab.facts["subnets"]}
        first, second = enis[0], enis[1]
        place = cls(
            first["addresses"][0],
            cidrs[first["SubnetId"]],
            second["addresses"][0],
            cidrs[second["SubnetId"]],
            second["MacAddress"],
        )
        for number, eni in enis.items():
            blocks = [ipaddress.ip_network(prefix) for prefix in eni["prefixes"]]
            place.addresses[number] = eni["addresses"][1:] + [str(one) for block in blocks for one in block]
        return place


def enis_of(lab: Any, node: str) -> list[dict[str, Any]]:
    return [eni for eni in lab.ec2_picture() if eni["node"] == node]


# -- the node


def kernel_of_node(node: Any, place: Place) -> None:
    """13.0 and 11.3: rules, the second ENI's link, address and table."""
    mask = place.second_subnet.split("/")[1]
    commands = [
        "link set eth1 mtu 9001 up",
        f"addr replace {place.second}/{mask} dev eth1",
        f"route del {place.second_subnet} dev eth1 table main",
        f"route replace {place.router} dev eth1 scope link table 2",
        f"route replace default via {place.router} dev eth1 table 2",
    ]
    for command in commands:
        node.node.exec(["ip", *command.split()], check=not command.startswith("route del"))
    add_rules(node, (1024, {"fwmark": 0x80, "fwmask": 0x80, "table": 254}), (32765, {"src": place.second, "table": 2}))
    node.shell("echo 2 > /proc/sys/net/ipv4/conf/eth0/rp_filter")


def add_rules(node: Any, *rules: tuple[int, dict[str, Any]]) -> None:
    """Add rules without a protocol, which `ip rule add` cannot."""

    def add() -> None:
        with IPRoute() as route:
            for priority, fields in rules:
                more = {"src_len": 32} if "src" in fields else {"dst_len": 32} if "dst" in fields else {}
                route.rule("add", priority=priority, **fields, **more)

    call_in(node.node.place, add)


def firewall_of_node(node: Any, place: Place, release: Release) -> None:
    """13.0, in the order of insertions at position 1 that the reference makes."""
    nat = [
        "*nat",
        ":AWS-SNAT-CHAIN-0 - [0:0]",
        '-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0',
        *snat_chain(place),
    ]
    if not release.nft_connmark:
        nat += [":AWS-CONNMARK-CHAIN-0 - [0:0]", *connmark_hooks(), *connmark_chain(release.comment)]
    text = "\n".join([*nat, "COMMIT", "*mangle", *mangle_hooks(), "COMMIT", ""])
    node.node.exec([f"iptables-{release.backend}", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY"])
    node.node.exec([f"iptables-{release.backend}-restore", "--noflush"], input=text)
    if release.nft_connmark:
        node.node.exec(["nft", "-f", "-"], input=nft_connmark())


def snat_chain(place: Place) -> list[str]:
    return [
        f'-A AWS-SNAT-CHAIN-0 -d {VPC} -m comment --comment "AWS SNAT CHAIN" -j RETURN',
        f'-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL '
        f"-j SNAT --to-source {place.primary} --random-fully",
    ]


def connmark_hooks() -> list[str]:
    return [
        '-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0',
        f'-A PREROUTING -m comment --comment "AWS, CONNMARK" {RESTORE}',
    ]


def connmark_chain(comment: str) -> list[str]:
    return [
        f'-A AWS-CONNMARK-CHAIN-0 -d {VPC} -m comment --comment "{comment}" -j RETURN',
        f'-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark {MARK}/{MARK}',
    ]


def mangle_hooks() -> list[str]:
    ours = '-m comment --comment "AWS, primary ENI"'
    return [
        f"-A PREROUTING -i eth0 {ours} -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark {MARK}/{MARK}",
        f"-A PREROUTING -i eni+ {ours} {RESTORE}",
        f"-A PREROUTING -i vlan+ {ours} {RESTORE}",
    ]


def nft_connmark() -> str:
    return f"""table ip aws-cni {{
  chain snat-mark {{
    counter ip daddr {VPC} return
    counter ct mark set ct mark | {MARK}
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -90; policy accept;
    fib daddr type local return
    iifname "eni*" counter jump snat-mark
    counter meta mark set ct mark & {MARK}
  }}
}}
"""


# -- pods


def host_veth(pod: Pod) -> str:
    """Section 3."""
    return "eni" + hashlib.sha1(f"{pod.namespace}.{pod.name}".encode(), usedforsecurity=False).hexdigest()[:11]


def wire(node: Any, pod: Pod, address: str, device: int) -> dict[str, Any]:
    """Wire a pod by 8.1, 8.2 and 13.1; return the result that the runtime keeps (4.5)."""
    veth, inside = host_veth(pod), pod.netns_path.rsplit("/", 1)[1]
    mac = "02:" + hashlib.sha1(veth.encode(), usedforsecurity=False).hexdigest()[:10]
    mac = ":".join(mac.replace(":", "")[at : at + 2] for at in range(0, 12, 2))
    node.node.exec(
        f"ip link add {veth} address {mac} mtu 9001 txqueuelen 0 type veth peer name eth0 mtu 9001 txqueuelen 0 netns {inside}".split()
    )
    for setting, value in (("accept_ra", 0), ("accept_redirects", 1), ("forwarding", 0)):
        node.shell(f"echo {value} > /proc/sys/net/ipv6/conf/{veth}/{setting}")
    node.node.exec(["ip", "link", "set", veth, "up"])
    for command in (
        "link set lo up",
        "link set eth0 up",
        "route replace 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1 dev eth0",
        f"addr add {address}/32 dev eth0",
        f"neigh add 169.254.1.1 lladdr {mac} dev eth0 nud permanent",
    ):
        pod.exec(["ip", *command.split()])
    node.node.exec(["ip", "route", "replace", address, "dev", veth, "scope", "link"])
    add_rules(node, (512, {"dst": address, "table": 254}))
    if device:
        add_rules(node, (1536, {"src": address, "table": device + 1}))
    return result(pod, address, device)


def result(pod: Pod, address: str, device: int) -> dict[str, Any]:
    veth = host_veth(pod)
    table = str(device + 1) if device else "254"
    return {
        "cniVersion": "0.4.0",
        "interfaces": [
            {"name": veth},
            {"name": "eth0", "mac": table, "sandbox": f"/var/run/netns/{pod.netns}"},
            {"name": "dummy" + veth[3:], "mac": "0", "sandbox": str(device)},
        ],
        "ips": [{"version": "4", "interface": 1, "address": f"{address}/32"}],
        "dns": {},
    }


def allocation(pod: Pod, address: str) -> dict[str, Any]:
    """One element of `ipam.json` (operations.md 15.1)."""
    return {
        "networkName": "aws-cni",
        "containerID": pod.container_id,
        "ifName": "eth0",
        "ipv4": address,
        "allocationTimestamp": time.time_ns(),
        "metadata": {"k8sPodNamespace": pod.namespace, "k8sPodName": pod.name, "interfacesCount": 1},
    }


def checkpoint(node: Any, allocations: list[dict[str, Any]]) -> None:
    node.node.root.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": "vpc-cni-ipam/1", "allocations": allocations})
    (node.node.root / "ipam.json").write_text(text)
