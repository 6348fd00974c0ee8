"""Instance metadata, version 2, at its real address inside each node's namespace.

The documents come from EC2's picture, as old as `stale_s` says. A fault gives a status code to paths below a prefix, or hides an ENI.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from vpccni.lab.ec2_model import Ec2Model
from vpccni.lab.ec2_objects import Eni, Instance
from vpccni.lab.namespaces import Place, call_in

ADDRESS: Final = ("169.254.169.254", 80)
TOKEN_TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"
MAX_TTL_S: Final = 21_600
REGION: Final = "us-west-2"


@dataclass
class MetadataFaults:
    """What one node's metadata gets wrong on demand."""

    stale_s: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    missing_enis: set[str] = field(default_factory=set)
    latency_ms: int = 0


def documents(model: Ec2Model, instance: Instance, enis: Mapping[str, Eni], *, missing: set[str]) -> dict[str, str]:
    """Return every leaf below `latest/` by its path."""
    held = [e for e in enis.values() if e.attachment and e.attachment.instance_id == instance.id]
    shown = [e for e in held if e.attachment and e.attachment.status == "attached" and e.id not in missing]
    leaves: dict[str, str] = {}
    for eni in shown:
        if eni.attachment and (eni.attachment.card_index, eni.attachment.device_index) == (0, 0):
            leaves |= _instance_leaves(instance, eni)
        leaves |= {
            f"meta-data/network/interfaces/macs/{eni.mac}/{k}": v for k, v in _eni_leaves(model, instance, eni).items()
        }
    return leaves


def _instance_leaves(instance: Instance, eni: Eni) -> dict[str, str]:
    identity = {
        "accountId": "123456789012", "architecture": "x86_64", "availabilityZone": instance.zone, "imageId": "ami-00000000000000001",
        "instanceId": instance.id, "instanceType": instance.limits.name, "privateIp": str(eni.primary), "region": REGION,
        "version": "2017-09-30",
    }  # fmt: skip
    leaves = {
        "dynamic/instance-identity/document": json.dumps(identity, indent=2),
        "meta-data/instance-id": instance.id,
        "meta-data/instance-type": instance.limits.name,
        "meta-data/local-ipv4": str(eni.primary),
        "meta-data/local-hostname": instance.node,
        "meta-data/hostname": instance.node,
        "meta-data/mac": eni.mac,
        "meta-data/placement/availability-zone": instance.zone,
        "meta-data/placement/region": REGION,
    }
    return leaves | ({"meta-data/ipv6": str(eni.addresses_v6[0])} if eni.addresses_v6 else {})


def _eni_leaves(model: Ec2Model, instance: Instance, eni: Eni) -> dict[str, str]:
    subnet = model.subnets[eni.subnet_id]
    attachment = eni.attachment
    leaves = {
        "interface-id": eni.id,
        "device-number": str(attachment.device_index if attachment else 0),
        "mac": eni.mac,
        "owner-id": "123456789012",
        "subnet-id": eni.subnet_id,
        "vpc-id": model.vpc_id,
        "subnet-ipv4-cidr-block": str(subnet.cidr),
        "vpc-ipv4-cidr-block": str(model.vpc_cidr),
        "vpc-ipv4-cidr-blocks": "\n".join(map(str, (model.vpc_cidr, *model.more_vpc_cidrs))),
        "security-group-ids": "\n".join(eni.groups),
        "security-groups": "lab",
        "local-ipv4s": "\n".join(map(str, (eni.primary, *eni.secondaries))),
        "subnet-ipv6-cidr-blocks": str(subnet.cidr_v6),
        "vpc-ipv6-cidr-blocks": str(subnet.cidr_v6.supernet(new_prefix=56)),
    }
    if len(instance.limits.cards) > 1:
        leaves["network-card"] = str(attachment.card_index if attachment else 0)
    for name, values in (("ipv4-prefix", eni.prefixes), ("ipv6s", eni.addresses_v6), ("ipv6-prefix", eni.prefixes_v6)):
        if values:
            leaves[name] = "\n".join(map(str, values))
    return leaves


def lookup(leaves: Mapping[str, str], path: str) -> str | None:
    """Return a leaf, or the listing of a folder (folders end with a slash), or None."""
    wanted = path.strip("/")
    if wanted in leaves:
        return leaves[wanted]
    base = f"{wanted}/" if wanted else ""
    below = [name.removeprefix(base) for name in leaves if name.startswith(base)]
    names = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in below})
    return "\n".join(names) if names else None


class Metadata:
    """The metadata service of one node."""

    def __init__(self, netns: str, leaves: Callable[[MetadataFaults], Mapping[str, str]]) -> None:
        self.faults = MetadataFaults()
        self._leaves = leaves
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()
        self._netns = netns

    def serve(self) -> None:
        """Listen inside the node; returns when connections are accepted."""
        handler = type("Handler", (_Handler,), {"metadata": self})

        def listen() -> socket.socket:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(ADDRESS)
            listener.listen(128)
            return listener

        server = ThreadingHTTPServer(ADDRESS, handler, bind_and_activate=False)
        server.daemon_threads = True
        server.socket.close()
        server.socket = call_in(Place(net=self._netns), listen)
        threading.Thread(target=server.serve_forever, name="metadata", daemon=True).start()

    def new_token(self, ttl_s: int) -> str:
        """Return a token that lives `ttl_s` seconds."""
        token, now = secrets.token_urlsafe(40), time.monotonic()
        with self._lock:
            self._tokens = {known: until for known, until in self._tokens.items() if until > now}
            self._tokens[token] = now + ttl_s
        return token

    def knows(self, token: str) -> bool:
        """Tell whether the token is valid now."""
        with self._lock:
            return self._tokens.get(token, 0.0) > time.monotonic()

    def answer(self, path: str) -> tuple[int, str]:
        """Return status and text for a path such as /latest/meta-data/mac."""
        if self.faults.latency_ms:
            time.sleep(self.faults.latency_ms / 1000)
        below = path.split("?")[0].removeprefix("/").removeprefix("latest").strip("/")
        for prefix, status in self.faults.statuses.items():
            if below.startswith(prefix.strip("/")):
                return status, ""
        text = lookup(self._leaves(self.faults), below)
        return (404, "") if text is None else (200, text)


class _Handler(BaseHTTPRequestHandler):
    metadata: Metadata
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_PUT(self) -> None:
        if self.path.rstrip("/") != "/latest/api/token":
            return self._reply(404, "")
        ttl = self.headers.get(TOKEN_TTL_HEADER, "")
        if not ttl.isdigit() or not 0 < int(ttl) <= MAX_TTL_S:
            return self._reply(400, "")
        status = next((s for p, s in self.metadata.faults.statuses.items() if p.strip("/") == "api/token"), 200)
        return self._reply(status, self.metadata.new_token(int(ttl)) if status == 200 else "", {TOKEN_TTL_HEADER: ttl})

    def do_GET(self) -> None:
        if not self.metadata.knows(self.headers.get(TOKEN_HEADER, "")):
            return self._reply(401, "")
        return self._reply(*self.metadata.answer(self.path))

    def _reply(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: metadata is read a dozen times a second."""
