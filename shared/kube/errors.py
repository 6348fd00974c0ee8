"""The one error of the Kubernetes API."""

from __future__ import annotations

from typing import Final

from vpccni.shared.errors import VpccniError

NOT_FOUND: Final = 404
CONFLICT: Final = 409
GONE: Final = 410
INVALID: Final = 422
TOO_MANY: Final = 429


class KubeRefused(VpccniError):
    """The API said no; `status` is the HTTP status, 0 where no answer came or it could not be read."""

    code = "kubernetes"

    def __init__(self, what: str, *, status: int, on: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, on=on, why=why, remedy=remedy)
        self.status = status

    @property
    def is_final(self) -> bool:
        """Tell whether repeating the same request cannot help: it is the request that is refused, not its moment or its sender."""
        return 400 <= self.status < 500 and self.status not in (401, 403, 408, TOO_MANY)


def remedy_of(status: int) -> str:
    """Return what an operator can do about a status; empty where waiting is all."""
    if status == 401:
        return "See the pod's service account and its token"
    if status == 403:
        return "See the ClusterRole aws-node"
    return ""
