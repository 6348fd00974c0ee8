"""Where the API is and who we are: KUBECONFIG, else the pod's service account (spec env.md 10); CLUSTER_ENDPOINT replaces the server.

Read anew for each new connection, and the token for each request: tokens and CA bundles are exchanged under a running process.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from vpccni.shared.kube.errors import KubeRefused

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOST, PORT = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One API server and one identity. Empty texts: not given. `*_data` are the contents instead of a path."""

    server: str
    ca_file: str = ""
    ca_data: bytes = b""
    cert_file: str = ""
    cert_data: bytes = b""
    key_file: str = ""
    key_data: bytes = b""
    token: str = ""
    token_file: str = ""
    verify: bool = True
    server_name: str = ""
    proxy: str = ""

    def authorization(self) -> str:
        """Return the value of the Authorization header as of now, empty for none. Raises KubeRefused."""
        token = self.token
        if self.token_file:
            try:
                token = Path(self.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise _unusable(self.token_file, f"the token cannot be read: {error}") from error
        return f"Bearer {token}" if token else ""


def find_access(raw: Mapping[str, str], *, service_account: Path = SERVICE_ACCOUNT) -> Access:
    """Return the access that the environment `raw` gives. Raises KubeRefused with status 0 where there is none."""
    path = raw.get("KUBECONFIG", "").split(os.pathsep)[0]
    if path:
        access = _from_kubeconfig(Path(path))
    elif raw.get(HOST) and raw.get(PORT):
        host = f"[{raw[HOST]}]" if ":" in raw[HOST] else raw[HOST]
        access = Access(
            server=f"https://{host}:{raw[PORT]}",
            ca_file=str(service_account / "ca.crt"),
            token_file=str(service_account / "token"),
        )
    else:
        raise _unusable("environment", f"neither KUBECONFIG nor {HOST} and {PORT} are set")
    endpoint = raw.get("CLUSTER_ENDPOINT", "")
    if endpoint:
        access = replace(access, server=endpoint if "://" in endpoint else f"https://{endpoint}")
    return access


def _from_kubeconfig(path: Path) -> Access:
    try:
        document = _parse(path.read_text(encoding="utf-8"))
        context = _named(document, "contexts", "context", document["current-context"])
        cluster = _named(document, "clusters", "cluster", context["cluster"])
        user = _named(document, "users", "user", context.get("user", "")) if context.get("user") else {}
        if "exec" in user or "auth-provider" in user:
            raise ValueError("users that run a command for their token are not supported; use a token or a certificate")
        return _access(cluster, user, path.parent)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(str(path), f"it cannot be used: {error!r}") from error


def _access(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> Access:
    def file(of: Mapping[str, Any], name: str) -> str:
        return str(folder / of[name]) if of.get(name) else ""

    def data(of: Mapping[str, Any], name: str) -> bytes:
        return base64.b64decode(of[name]) if of.get(name) else b""

    return Access(
        server=str(cluster["server"]),
        ca_file=file(cluster, "certificate-authority"),
        ca_data=data(cluster, "certificate-authority-data"),
        cert_file=file(user, "client-certificate"),
        cert_data=data(user, "client-certificate-data"),
        key_file=file(user, "client-key"),
        key_data=data(user, "client-key-data"),
        token=str(user.get("token", "")),
        token_file=file(user, "tokenFile"),
        verify=not cluster.get("insecure-skip-tls-verify", False),
        server_name=str(cluster.get("tls-server-name", "")),
        proxy=str(cluster.get("proxy-url", "")),
    )


def _parse(text: str) -> Any:
    """JSON is tried first: it is YAML too, and needs no import of a megabyte."""
    try:
        return json.loads(text)
    except ValueError:
        import yaml  # type: ignore[import-untyped]  # it has no types; the one reply is checked by its reader

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"it is no YAML: {error}") from error


def _named(document: Any, group: str, member: str, name: str) -> Any:
    for row in document[group]:
        if row["name"] == name:
            return row[member]
    raise ValueError(f"{group} has no {name!r}")


def _unusable(on: str, why: str) -> KubeRefused:
    return KubeRefused("the Kubernetes API cannot be reached", status=0, on=on, why=why)
