"""Which link is the node's primary interface: the one with the MAC that instance metadata names (spec dataplane.md 10.1)."""

from __future__ import annotations

import fcntl
import http.client
import socket
import struct
from typing import Final
from urllib.parse import urlsplit

METADATA: Final = "http://169.254.169.254"
TOKEN_TTL_S: Final = 60
BODY_BYTES_AT_MOST: Final = 256
SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h


def primary_mac(endpoint: str, timeout_s: float) -> str:
    """Return the primary interface's MAC from metadata version 2: two requests. Raises OSError when there is no such answer."""
    parts = urlsplit(endpoint or METADATA)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    base = parts.path.rstrip("/")
    try:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        token = _ask(connection, "PUT", f"{base}/latest/api/token", ttl)
        mac = _ask(connection, "GET", f"{base}/latest/meta-data/mac", {"X-aws-ec2-metadata-token": token})
    except (http.client.HTTPException, UnicodeDecodeError) as error:
        raise OSError(f"instance metadata at {endpoint or METADATA} sends no HTTP answer: {error!r}") from error
    finally:
        connection.close()
    return mac.strip().lower()


def link_with(mac: str) -> str:
    """Return the name of this namespace's first link with that MAC. Raises LookupError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in sorted(socket.if_nameindex()):
            try:
                answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, struct.pack("16s16x8x", name.encode()))
            except OSError:
                continue  # gone since it was listed
            if answer[18:24].hex(":") == mac:  # after the name and the address family
                return name
    raise LookupError(f"no link has the MAC {mac!r:.40} that instance metadata gives for the primary interface")


def _ask(connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> str:
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read(BODY_BYTES_AT_MOST)
    answer.read()
    if answer.status != http.client.OK:
        raise OSError(f"instance metadata answers {method} {path} with {answer.status}")
    return body.decode("ascii")
