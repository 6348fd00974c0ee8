"""The tree of errors an operator can meet, each with what failed, on which object, why, and what to do.

    VpccniError
    ├── SettingsError          the operator's environment cannot be used (exit 1)
    ├── BusError               another process could not be asked
    │   ├── PeerTimeout        no answer within the deadline
    │   └── PeerRefused        it answered with an error
    ├── SocketTaken            another process of this name owns the socket
    ├── CniFailure             an ADD, DEL, CHECK, STATUS or GC fails with a CNI code
    ├── KernelRefused          a netlink, sysctl or firewall change was refused
    ├── CheckpointFailed       the ledger could not be written or read
    └── CloudRefused           EC2 or instance metadata said no

`code` never changes: it is the metric label, the log key and the anchor in docs/errors.md.
"""

from __future__ import annotations


class VpccniError(Exception):
    """Base: `what` failed, `on` which object, `why`, and the `remedy`. The text reads as one line."""

    code = "internal"

    def __init__(self, what: str, *, on: str = "", why: str = "", remedy: str = "") -> None:
        self.what, self.on, self.why, self.remedy = what, on, why, remedy
        super().__init__(self.line())

    def line(self) -> str:
        """Return the error as one line for a log, a CNI message or a terminal."""
        text = self.what
        if self.on:
            text += f" ({self.on})"
        if self.why:
            text += f": {self.why}"
        if self.remedy:
            text += f". {self.remedy}"
        return text


class SettingsError(VpccniError):
    code = "settings"


class BusError(VpccniError):
    code = "bus"


class PeerTimeout(BusError):
    code = "peer_timeout"


class PeerRefused(BusError):
    """The peer answered with an error; `peer_code` is the code it gave."""

    code = "peer_refused"

    def __init__(self, what: str, *, peer_code: str, on: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, on=on, why=why, remedy=remedy)
        self.peer_code = peer_code


class SocketTaken(BusError):
    code = "socket_taken"


class KernelRefused(VpccniError):
    code = "kernel"


class CheckpointFailed(VpccniError):
    code = "checkpoint"


class CloudRefused(VpccniError):
    """EC2 or metadata refused; `api` is the action and `error_code` AWS's own word (empty: no answer at all)."""

    code = "cloud"

    def __init__(self, what: str, *, api: str, error_code: str, on: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, on=on, why=why, remedy=remedy)
        self.api, self.error_code = api, error_code


class CniFailure(VpccniError):
    """A CNI verb fails with `cni_code` (CNI specification; 11 try again, 50 and 51 from STATUS, 999 our own)."""

    code = "cni"

    def __init__(self, what: str, *, cni_code: int, on: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what, on=on, why=why, remedy=remedy)
        self.cni_code = cni_code
