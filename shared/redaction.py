"""Secrets out of texts that leave the node. Pure.

What is known to carry secrets (kubeconfigs, environments, Kubernetes tokens) is never collected; this is the second line: whatever looks
like a credential in a log, a command line or a configuration is blanked, and the text around it stays.
"""

from __future__ import annotations

import re
from typing import Final

BLANK: Final = b"[REDACTED]"
_NAMES: Final = (
    rb"(?:aws_)?secret_?access_?key|secretaccesskey|(?:aws_)?session_?token|sessiontoken|x-aws-ec2-metadata-token|x-amz-security-token"
    rb"|authorization|password|passwd|(?:client-)?key-data|(?:client-)?certificate-data|[a-z_-]*token"
)
_RULES: Final = (
    # A private key, from its first line to its last.
    (re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), BLANK),
    # A JSON web token, as service accounts have.
    (re.compile(rb"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), BLANK),
    # An access key's id: it names whose secret it is.
    (re.compile(rb"(?:AKIA|ASIA)[A-Z0-9]{16}"), BLANK),
    (re.compile(rb"(?i)\b(bearer|basic) +[A-Za-z0-9+/=._~-]{8,}"), rb"\1 " + BLANK),
    # name: value, name=value, "name": "value", --name value
    (
        re.compile(
            rb"(?i)((?<![a-z0-9])(?:" + _NAMES + rb")\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!\[REDACTED)[^\s\"',}\\]{4,}"
        ),
        rb"\1" + BLANK,
    ),
    (re.compile(rb"(?i)(--(?:[a-z-]*token|password|secret[a-z-]*)[ =])\S+"), rb"\1" + BLANK),
    # The signature of a signed AWS request.
    (re.compile(rb"(?i)(X-Amz-(?:Signature|Credential)=)[^&\s\"']+"), rb"\1" + BLANK),
)


def redacted(text: bytes) -> bytes:
    """Return the text without credentials. Doing it again changes nothing."""
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text
