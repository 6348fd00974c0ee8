"""The cloud of a lab, one process in the VPC's namespace: EC2, metadata of all nodes, fabric, internet host, admin socket.

    python -m vpccni.lab.cloud STATE_FOLDER

Reads `plan.json` (which nodes of which type in which namespaces), starts their instances, and writes `cloud.json` when everything
answers. The state is this process's memory: a cloud that ends takes its VPC with it, so it is not restarted.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from vpccni.lab import ec2_server, imds, internet, vpc_plan
from vpccni.lab.ec2_actions import HANDLERS, eni_document, plain
from vpccni.lab.ec2_model import Ec2Model
from vpccni.lab.ec2_objects import Instance
from vpccni.lab.fabric import Fabric, Wire, configure_primary
from vpccni.lab.namespaces import NETNS_FOLDER
from vpccni.lab.unix_http import JsonHandler, UnixServer


class Cloud:
    """Model, fabric and servers of one lab, wired together."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.netns_of: dict[str, str] = {}
        self.metadata: dict[str, imds.Metadata] = {}
        self.model = Ec2Model(vpc_plan.VPC_CIDR, vpc_plan.subnets(), transition_s=float(plan["transition_s"]))
        self.fabric = Fabric(vpc_plan.VPC_CIDR, vpc_plan.VPC_CIDR_V6)
        self.ec2 = ec2_server.Ec2(self.model, lambda model: self.fabric.reconcile(self.wires()))

    def start(self) -> dict[str, Any]:
        """Build everything; return what the lab's user needs to know about each node."""
        routers = [subnet.router for subnet in self.model.subnets.values()]
        self.fabric.build(routers, self.plan["internet_netns"])
        internet.serve(str(NETNS_FOLDER / self.plan["internet_netns"]))
        nodes = [self._start_node(node) for node in self.plan["nodes"]]
        threading.Thread(target=self.ec2.keep_settling, name="settle", daemon=True).start()
        ec2_server.serve(self.ec2, str(vpc_plan.SERVICE), vpc_plan.EC2_PORT)
        return {
            "nodes": nodes,
            "vpc_id": self.model.vpc_id,
            "subnets": [_subnet_row(s) for s in self.model.subnets.values()],
        }

    def _start_node(self, node: Mapping[str, str]) -> dict[str, Any]:
        subnet = next(iter(self.model.subnets.values()))
        with self.ec2.lock:
            instance = self.model.run_instance(
                node["name"], node["instance_type"], subnet.id, now=time.monotonic(), ipv6=bool(self.plan["ipv6"])
            )
            self.netns_of[instance.id] = node["netns"]
            self.ec2.changed()
            primary = self.model.enis_of(instance.id)[0]
            wire = next(wire for wire in self.wires() if wire.eni_id == primary.id)
        primary_v6 = next(iter(primary.addresses_v6), None)
        configure_primary(wire, subnet.cidr.prefixlen, subnet.router, primary_v6)
        metadata = imds.Metadata(str(NETNS_FOLDER / node["netns"]), partial(self._leaves, instance))
        metadata.serve()
        self.metadata[node["name"]] = metadata
        return {
            "name": node["name"], "instance_id": instance.id, "instance_type": instance.limits.name, "zone": instance.zone,
            "primary_address": str(primary.primary), "primary_ipv6": str(primary_v6 or ""), "max_pods": instance.limits.max_pods, "subnet_id": subnet.id,
        }  # fmt: skip

    def wires(self) -> list[Wire]:
        """Return what the fabric should carry: ENIs that are on an instance and not on their way off."""
        rows = []
        for eni in self.model.enis.values():
            attachment = eni.attachment
            if attachment is None or attachment.status == "detaching":
                continue
            instance = self.model.instances[attachment.instance_id]
            extra = {
                *map(str, eni.secondaries),
                *map(str, eni.prefixes),
                *map(str, eni.addresses_v6),
                *map(str, eni.prefixes_v6),
            }
            number = _interface_number(instance, attachment.card_index, attachment.device_index)
            rows.append(
                Wire(eni_id=eni.id, netns=self.netns_of[instance.id], ifname=f"eth{number}", mac=eni.mac, primary=eni.primary,
                     destinations=frozenset(extra))
            )  # fmt: skip
        return rows

    def _leaves(self, instance: Instance, faults: imds.MetadataFaults) -> Mapping[str, str]:
        return imds.documents(self.model, instance, self.ec2.picture(faults.stale_s), missing=faults.missing_enis)

    # ------------------------------------------------------------------ admin

    def admin(self, verb: str, ask: Mapping[str, Any]) -> Any:
        """Answer the machine's own questions (calls, counts, picture) and set faults."""
        with self.ec2.lock:
            match verb:
                case "calls":
                    return list(self.ec2.calls)
                case "counts":
                    return dict(self.ec2.counts)
                case "picture":
                    return [_picture_row(self, eni.id) for eni in self.model.enis.values()]
                case "fault":
                    self._fault(ask)
                case "clear":
                    self._clear()
                case "faults":
                    return self._faults()
                case "permissions":
                    self.ec2.limits.deny(ask.get("deny", []))
                    self.ec2.limits.allow(ask.get("allow", []))
                case "subnet":
                    self._subnet(ask)
                case "forget-calls":
                    self.ec2.calls.clear()
                    self.ec2.counts.clear()
                case "settings":
                    self._settings(ask)
                case "imds-fault":
                    self._imds_fault(ask)
                case _:
                    raise LookupError(f"no such question: {verb}")
        return {}

    def _fault(self, ask: Mapping[str, Any]) -> None:
        if ask["action"] not in HANDLERS and ask["action"] != "*":
            raise LookupError(f"no EC2 action {ask['action']} in the lab; there are {', '.join(sorted(HANDLERS))}")
        self.ec2.faults.append(ec2_server.Fault(**ask))

    def _clear(self) -> None:
        self.ec2.faults.clear()
        self.ec2.limits.reset()
        self.ec2.describe_lag_s = 0.0
        for subnet_id in self.model.subnets:
            self.model.give_back(subnet_id)
        for metadata in self.metadata.values():
            metadata.faults = imds.MetadataFaults()

    def _faults(self) -> dict[str, Any]:
        """Return everything that is not as it should be."""
        return {
            "calls": [asdict(fault) for fault in self.ec2.faults],
            "denied": sorted(self.ec2.limits.denied),
            "throttle_scale": self.ec2.limits.scale,
            "describe_lag_s": self.ec2.describe_lag_s,
            "subnets": {subnet_id: len(taken) for subnet_id, taken in self.model.taken.items()},
            "metadata": {
                node: asdict(one.faults) | {"missing_enis": sorted(one.faults.missing_enis)}
                for node, one in self.metadata.items()
            },
        }

    def _subnet(self, ask: Mapping[str, Any]) -> None:
        """Change a subnet, named by id or by its Name tag."""
        named = [s for s in self.model.subnets.values() if ask["subnet"] in (s.id, s.tags.get("Name"))]
        if not named:
            names = ", ".join(s.tags.get("Name", s.id) for s in self.model.subnets.values())
            raise LookupError(f"no subnet {ask['subnet']}; there are {names}")
        subnet = named[0]
        for key, value in ask.get("tags", {}).items():
            self.model.untag([subnet.id], [key]) if value is None else self.model.tag([subnet.id], {key: value})
        if ask.get("leave") is not None:
            self.model.fill(subnet.id, leave=int(ask["leave"]))
        if ask.get("fragment"):
            self.model.fragment(subnet.id)
        if ask.get("give_back"):
            self.model.give_back(subnet.id)
        self.ec2.changed()

    def _settings(self, ask: Mapping[str, Any]) -> None:
        if "describe_lag_s" in ask:
            self.ec2.describe_lag_s = float(ask["describe_lag_s"])
        if "transition_s" in ask:
            self.model.transition_s = float(ask["transition_s"])
        if "throttle_scale" in ask:
            self.ec2.limits.scale = float(ask["throttle_scale"])
        if "more_vpc_cidrs" in ask:
            self.model.more_vpc_cidrs = [IPv4Network(cidr) for cidr in ask["more_vpc_cidrs"]]
            self.ec2.changed()

    def _imds_fault(self, ask: Mapping[str, Any]) -> None:
        if ask["node"] not in self.metadata:
            raise LookupError(f"no node {ask['node']}; there are {', '.join(sorted(self.metadata))}")
        faults = self.metadata[ask["node"]].faults
        faults.stale_s = float(ask.get("stale_s", faults.stale_s))
        faults.latency_ms = int(ask.get("latency_ms", faults.latency_ms))
        faults.statuses |= ask.get("statuses", {})
        faults.missing_enis |= set(ask.get("missing_enis", []))


def _interface_number(instance: Instance, card: int, device: int) -> int:
    """Number interfaces over all cards; on one card it is the device index."""
    return device + sum(limits.max_enis for limits in instance.limits.cards if limits.index < card)


def _subnet_row(subnet: Any) -> dict[str, Any]:
    return {
        "id": subnet.id,
        "cidr": str(subnet.cidr),
        "cidr_v6": str(subnet.cidr_v6),
        "zone": subnet.zone,
        "name": subnet.tags.get("Name", ""),
    }


def _picture_row(cloud: Cloud, eni_id: str) -> dict[str, Any]:
    eni = cloud.model.enis[eni_id]
    node = cloud.model.instances[eni.attachment.instance_id].node if eni.attachment else None
    row: dict[str, Any] = plain(eni_document(cloud.model, eni))
    addresses = [str(eni.primary), *map(str, eni.secondaries)]
    return row | {
        "node": node,
        "addresses": addresses,
        "prefixes": [str(prefix) for prefix in (*eni.prefixes, *eni.prefixes_v6)],
        "addresses_v6": [str(address) for address in eni.addresses_v6],
    }


def _serve_admin(cloud: Cloud, path: Path) -> None:
    class Handler(JsonHandler):
        def do_POST(self) -> None:
            try:
                self.reply(200, cloud.admin(self.path.strip("/"), self.body() or {}))
            except (LookupError, TypeError, ValueError) as error:
                self.reply(400, {"error": str(error)})

    threading.Thread(target=UnixServer(str(path), Handler).serve_forever, name="admin", daemon=True).start()


def main(argv: list[str]) -> int:
    """Start the cloud and serve until it is told to end."""
    state = Path(argv[0])
    cloud = Cloud(json.loads((state / "plan.json").read_text()))
    facts = cloud.start()
    _serve_admin(cloud, state / "admin.sock")
    fresh = state / "cloud.json.new"
    fresh.write_text(json.dumps(facts))
    os.replace(fresh, state / "cloud.json")
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
