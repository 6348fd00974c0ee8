"""Adapter of instance metadata (spec ipam.md 22): version 2 with a cached token, few requests, short limits.

Calls block: run them in a thread. One connection is kept between requests; calls of several threads take turns. One ENI that
cannot be read does not stop the rest: it comes back with its `problem` (spec ipam.md W27).
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from vpccni.components.eni_manager.facts import InstanceFacts, MetadataEni
from vpccni.shared.effects import effect
from vpccni.shared.errors import CloudRefused
from vpccni.shared.names import EniId, SubnetId

ENDPOINT: Final = "http://169.254.169.254"
TOKEN_TTL_S: Final = 300
TOKEN_RENEW_S: Final = 240.0
REQUEST_TIMEOUT_S: Final = 1.0
TRIES: Final = 3
BACKOFF_S: Final = 0.1
BODY_BYTES_AT_MOST: Final = 1 << 16
ROOT: Final = "/latest/meta-data/"

CountError = Callable[[str], None]
"""Hears the name of a metadata read that failed: label values of spec operations.md 2.4."""


class Imds:
    """See the module. `endpoint`: AWS_EC2_METADATA_SERVICE_ENDPOINT or empty; `v1_allowed` false: no fall-back without token;
    `of_ipv6_node`: an ENI's items are its IPv6 prefixes (see `facts`)."""

    def __init__(
        self,
        endpoint: str,
        *,
        v1_allowed: bool = True,
        of_ipv6_node: bool = False,
        on_error: CountError = lambda api: None,
    ) -> None:
        parts = urlsplit(endpoint or ENDPOINT)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._base = parts.path.rstrip("/")
        self._v1_allowed, self._of_ipv6_node = v1_allowed, of_ipv6_node
        self._on_error = on_error
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""
        self._token_until = 0.0

    def instance(self) -> InstanceFacts:
        """Return what does not change while the instance runs; about ten requests."""
        mac = self._must("GetMAC", "mac")
        interface = f"network/interfaces/macs/{mac}/"
        return InstanceFacts(
            instance_id=self._must("GetInstanceID", "instance-id"),
            instance_type=self._must("GetInstanceType", "instance-type"),
            region=self._region(),
            availability_zone=self._must("GetAZ", "placement/availability-zone"),
            primary_address=self._must("GetLocalIPv4", "local-ipv4"),
            primary_mac=mac,
            primary_eni=EniId(self._must("GetInterfaceID", interface + "interface-id")),
            subnet_id=SubnetId(self._must("GetSubnetID", interface + "subnet-id")),
            vpc_id=self._must("GetVpcID", interface + "vpc-id"),
        )

    def vpc_cidrs(self, mac: str) -> list[str]:
        """Return the IPv4 CIDRs of the VPC; one request."""
        text = self._must("GetVPCIPv4CIDRBlocks", f"network/interfaces/macs/{mac}/vpc-ipv4-cidr-blocks")
        return text.split()

    def vpc_ipv6_cidrs(self, mac: str) -> list[str]:
        """Return the IPv6 CIDRs of the VPC, none where it has none; one request."""
        path = f"network/interfaces/macs/{mac}/vpc-ipv6-cidr-blocks"
        return self._or_none("GetVPCIPv6CIDRBlocks", path).split()

    def security_groups(self, mac: str) -> list[str]:
        """Return the primary ENI's security groups, sorted; one request."""
        return sorted(self._must("GetSecurityGroupIDs", f"network/interfaces/macs/{mac}/security-group-ids").split())

    def macs(self) -> list[str]:
        """Return the MAC of every ENI that metadata lists; one request."""
        return [mac.rstrip("/") for mac in self._must("GetMACs", "network/interfaces/macs").split()]

    def enis(self) -> list[MetadataEni]:
        """Return every ENI that metadata lists; at most nine requests each."""
        primary = self._must("GetMAC", "mac")
        return [self._eni(mac, primary) for mac in self.macs()]

    def _eni(self, mac: str, primary_mac: str) -> MetadataEni:
        eni = MetadataEni(mac=mac, eni_id=EniId(""))
        try:
            base = f"network/interfaces/macs/{mac}/"
            eni = replace(eni, eni_id=EniId(self._must("GetInterfaceID", base + "interface-id")))
            fields = {name.rstrip("/") for name in self._must("GetMACImdsFields", base).split()}
            device = 0 if mac == primary_mac else int(self._must("GetDeviceNumber", base + "device-number"))
            card = int(self._must("GetNetworkCard", base + "network-card")) if "network-card" in fields else 0
            has_ipv4 = "local-ipv4s" in fields
            eni = replace(
                eni,
                device_number=device,
                card=card,
                subnet_id=SubnetId(self._must("GetSubnetID", base + "subnet-id")),
                subnet_cidr=self._or_none("GetSubnetIPv4CIDRBlock", base + "subnet-ipv4-cidr-block")
                if has_ipv4
                else "",
                addresses=tuple(self._or_none("GetLocalIPv4s", base + "local-ipv4s").split()) if has_ipv4 else (),
                prefixes=self._prefixes(base, fields),
            )
            addresses = self._or_none("GetIPv6s", base + "ipv6s").split() if "ipv6s" in fields else []
            if not addresses:
                return eni
            ranges = self._or_none("GetSubnetIPv6CIDRBlocks", base + "subnet-ipv6-cidr-blocks").split()
            return replace(eni, ipv6=addresses[0], subnet_cidr_v6=_range_of(addresses[0], ranges))
        except (CloudRefused, ValueError) as error:
            return replace(eni, problem=str(error))

    def _prefixes(self, base: str, fields: Collection[str]) -> tuple[str, ...]:
        api, field = ("GetIPv6Prefixes", "ipv6-prefix") if self._of_ipv6_node else ("GetIPv4Prefixes", "ipv4-prefix")
        return tuple(self._or_none(api, base + field).split()) if field in fields else ()

    def _region(self) -> str:
        text = self._must("GetRegion", "/latest/dynamic/instance-identity/document")
        try:
            region = json.loads(text)["region"]
        except (ValueError, KeyError, TypeError) as error:
            raise CloudRefused(
                "instance metadata tells no region", api="GetRegion", error_code="", why=repr(error)
            ) from error
        return str(region)

    def _must(self, api: str, path: str) -> str:
        status, text = self._get(api, path)
        if status != 200:
            self._on_error(api)
            raise CloudRefused("instance metadata has no answer", api=api, error_code=str(status), on=path)
        return text

    def _or_none(self, api: str, path: str) -> str:
        """404 means "none" here (spec ipam.md 22)."""
        status, text = self._get(api, path)
        if status not in (200, 404):
            self._on_error(api)
            raise CloudRefused("instance metadata has no answer", api=api, error_code=str(status), on=path)
        return text if status == 200 else ""

    def _get(self, api: str, path: str) -> tuple[int, str]:
        target = self._base + (path if path.startswith("/") else ROOT + path)
        with self._lock:
            for attempt in range(TRIES):
                last = attempt == TRIES - 1
                try:
                    status, text = self._send("GET", target, self._token_header())
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    if last:
                        self._on_error(api)
                        raise self._silent(api, path, error) from error
                else:
                    if status == 401:
                        self._token_until = 0.0
                    elif status < 500 and status != 429:
                        return status, text
                    if last:
                        return status, text
                time.sleep(BACKOFF_S * 2**attempt)
        raise AssertionError("TRIES is at least 1")

    def _silent(self, api: str, path: str, error: Exception) -> CloudRefused:
        return CloudRefused(
            "instance metadata cannot be reached",
            api=api,
            error_code="",
            on=f"{self._host}:{self._port} {path}",
            why=repr(error),
            remedy="Check that the instance allows metadata and that the process runs in the host's network",
        )

    def _token_header(self) -> dict[str, str]:
        if time.monotonic() >= self._token_until:
            status, text = self._send(
                "PUT", self._base + "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
            )
            if status == 200:
                self._token = text
            elif status in (403, 404, 405) and self._v1_allowed:
                self._token = ""
            else:
                raise http.client.HTTPException(f"no metadata token: HTTP {status}")
            self._token_until = time.monotonic() + TOKEN_RENEW_S
        return {"X-aws-ec2-metadata-token": self._token} if self._token else {}

    def _send(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, str]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=REQUEST_TIMEOUT_S)
        with effect("imds.request"):
            self._connection.request(method, target, headers=headers)
            with self._connection.getresponse() as response:
                body = response.read(BODY_BYTES_AT_MOST)
                if response.will_close:
                    self.close()
                return response.status, body.decode(errors="replace")

    def close(self) -> None:
        """Give the connection back; the next call makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _range_of(address: str, ranges: Sequence[str]) -> str:
    """Return the range the address lies in: a subnet may have several (spec ipam.md W27). Empty when it is in none of them."""
    return next((one for one in ranges if IPv6Address(address) in IPv6Network(one)), "")
