"""Adapter of instance metadata for processes that only ask who the instance is; the node's owner of metadata is `eni_manager`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from vpccni.shared.errors import CloudRefused

ENDPOINT: Final = "http://169.254.169.254"
DOCUMENT: Final = "/latest/dynamic/instance-identity/document"
TOKEN_TTL_S: Final = 60
TIMEOUT_S: Final = 2.0
BODY_BYTES_AT_MOST: Final = 1 << 16


def identity(endpoint: str, *, remedy: str) -> tuple[str, str]:
    """Return (region, instance id) from the identity document; two requests. Raises CloudRefused with this remedy."""
    parts = urlsplit(endpoint or ENDPOINT)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_S)
    base = parts.path.rstrip("/")
    try:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
        token = _ask(connection, "PUT", f"{base}/latest/api/token", ttl)
        document = json.loads(_ask(connection, "GET", base + DOCUMENT, {"X-aws-ec2-metadata-token": token}))
        return str(document["region"]), str(document["instanceId"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise CloudRefused(
            "instance metadata does not tell region and instance",
            api="GetMetadata",
            error_code="",
            on=endpoint or ENDPOINT,
            why=repr(error),
            remedy=remedy,
        ) from error
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str]) -> str:
    connection.request(method, path, headers=dict(headers))
    answer = connection.getresponse()
    body = answer.read(BODY_BYTES_AT_MOST)
    if answer.status != http.client.OK:
        raise OSError(f"{method} {path} answers {answer.status}")
    return body.decode("utf-8")
