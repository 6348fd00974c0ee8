"""host-local's reservations of egress addresses: one file an address, so that a node may go over to the reference and back.

`<dataDir>/<network>/<address>` holds `<container id>\\r\\n<interface>`; beside it `last_reserved_ip.0`, after which the next search
begins, and `lock`, held with flock while anything changes (spec dataplane.md 12). All calls block: in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vpccni.shared.effects import effect
from vpccni.shared.errors import KernelRefused

LOCK_WITHIN_S: Final = 5.0
LOCK_AGAIN_S: Final = 0.005
FOLDERS_REMEMBERED: Final = 8
LAST: Final = "last_reserved_ip.0"
LOCK: Final = "lock"
FILE_BYTES: Final = 1024
SEPARATOR: Final = "\r\n"


_ONE_AT_A_TIME: Final = threading.Lock()
"""Among the threads of this process: they would poll for host-local's lock, and the unlucky for seconds."""


@dataclass(frozen=True)
class Holder:
    """Who holds an address: `ifname` is empty in files of old host-local releases."""

    container_id: str
    ifname: str


_Look = dict[str, tuple[tuple[int, int, int], Holder]]
_LAST_LOOK: Final[dict[tuple[int, int, int], _Look]] = {}
"""By folder, what each file said; only read and written with both locks held."""


class Reservations:
    """Of one network, below the opened state folder `root`. Every method takes the lock itself. Raises `KernelRefused`, OSError."""

    def __init__(self, root: int, network: str) -> None:
        self._root, self._network = root, network

    def reserve(self, holder: Holder, subnet: str) -> tuple[str, bool]:
        """Return an address for the holder and whether it is new. The first of the subnet is the gateway's, never a pod's."""
        with self._locked(make=True) as folder:
            held = _held(folder)
            for address, owner in held.items():
                if owner == holder:
                    return address, False
            address = _next_free(subnet, held.keys(), _read(folder, LAST))
            with effect("egress.reserve"):
                _write_new(folder, address, f"{holder.container_id}{SEPARATOR}{holder.ifname}")
                _replace(folder, LAST, address)
            return address, True

    def held(self) -> dict[str, Holder]:
        """Return all reservations; none where there is no folder."""
        try:
            with self._locked(make=False) as folder:
                return _held(folder)
        except FileNotFoundError:
            return {}

    def of(self, holder: Holder) -> list[str]:
        """Return the addresses of a holder."""
        return [one for one, owner in self.held().items() if owner in (holder, Holder(holder.container_id, ""))]

    def give_back(self, address: str, holder: Holder) -> None:
        """Forget a reservation if it is still the holder's; nothing there is success."""
        with contextlib.suppress(FileNotFoundError), self._locked(make=False) as folder:
            if _holder_in(_read(folder, address)) in (holder, Holder(holder.container_id, "")):
                with effect("egress.give_back"):
                    os.unlink(address, dir_fd=folder)

    @contextlib.contextmanager
    def _locked(self, *, make: bool) -> Iterator[int]:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._network, 0o755, dir_fd=self._root)
        with contextlib.ExitStack() as stack:
            folder = os.open(self._network, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
            stack.callback(os.close, folder)
            lock = os.open(LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o750, dir_fd=folder)
            stack.callback(os.close, lock)
            stack.enter_context(_ONE_AT_A_TIME)
            _lock(lock, self._network)
            yield folder


def _lock(descriptor: int, network: str) -> None:
    """host-local holds it for moments; who holds it longer must not hold up this process."""
    until = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise KernelRefused(
                    "the reservations of egress addresses are locked",
                    on=network,
                    why=f"somebody holds {LOCK} for {LOCK_WITHIN_S:.0f} s",
                    remedy="See who does: fuser on the file",
                ) from error
            time.sleep(LOCK_AGAIN_S)
        else:
            return


def _held(folder: int) -> dict[str, Holder]:
    """A file is written once: one that is the same as at the last look is not read again."""
    before = _LAST_LOOK.get(_identity(os.fstat(folder)), {})
    now: _Look = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            file = _identity(entry.stat(follow_symlinks=False))
            known = before.get(entry.name)
            if known is not None and known[0] == file:
                now[entry.name] = known
            elif entry.name not in (LOCK, LAST) and _is_address(entry.name):
                now[entry.name] = file, _holder_in(_read(folder, entry.name))
    if len(_LAST_LOOK) >= FOLDERS_REMEMBERED:
        _LAST_LOOK.clear()
    _LAST_LOOK[_identity(os.fstat(folder))] = now
    return {name: holder for name, (_, holder) in now.items()}


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns


def _holder_in(text: str) -> Holder:
    container_id, _, ifname = text.strip().partition(SEPARATOR)
    return Holder(container_id.strip(), ifname.strip())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _next_free(subnet: str, taken: Iterable[str], last: str) -> str:
    """Return the address after the last reserved one that is free, around the range once."""
    network = ipaddress.ip_network(subnet, strict=False)
    first = int(network.network_address) + 2  # the one before is the gateway's
    end = int(network.network_address) + network.num_addresses - (1 if network.version == 4 else 0)
    count, names = end - first, frozenset(taken)
    begin = int(ipaddress.ip_address(last)) + 1 - first if _is_address(last) else 0
    for step in range(count):
        address = str(type(network.network_address)(first + (begin + step) % count))
        if address not in names:
            return address
    raise KernelRefused(
        "no egress address is left", on=subnet, why=f"all {count} are reserved", remedy="Delete pods of this node"
    )


def _read(folder: int, name: str) -> str:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return ""
    try:
        return os.read(descriptor, FILE_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


def _write_new(folder: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
    except OSError:
        os.unlink(name, dir_fd=folder)  # a file that names nobody would be nobody's for ever
        raise
    finally:
        os.close(descriptor)


def _replace(folder: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
