"""Entering, making and ending network and mount namespaces.

A namespace belongs to a thread: `call_in` runs a function in a fresh thread that has entered them, so the caller's own
namespaces never change and nothing has to be restored after an error. A program started from such a function inherits them,
which saves a helper program in front of every command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

NETNS_FOLDER: Final = Path("/run/netns")
"""Where `ip netns` looks, so that other programs find a lab's namespaces by name."""

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWNET: Final = 0x40000000
MS_RDONLY: Final = 0x1
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MNT_DETACH: Final = 2

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LET_GO: Final[set[int]] = set()
T = TypeVar("T")


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount `source` at `target` in the calling thread's mount namespace."""
    status = _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(status, f"mount {source} at {target}")


def unmount(target: str) -> None:
    """Detach what is mounted at `target`; nothing there is success."""
    with contextlib.suppress(OSError):
        _check(_LIBC.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces of these kinds."""
    _check(_LIBC.unshare(flags), "unshare")


def _enter(path: str, kind: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_LIBC.setns(descriptor, kind), f"enter {path}")
    finally:
        os.close(descriptor)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a program runs: a network namespace and, if given, a mount namespace (paths of their handles)."""

    net: str | None = None
    mnt: str | None = None

    def enter(self) -> None:
        """Move the calling thread there. Only for a thread that ends afterwards."""
        # Both handles are opened before the mount namespace changes: their paths are the machine's.
        if self.net is not None:
            _enter(self.net, CLONE_NEWNET)
        if self.mnt is not None:
            unshare(CLONE_FS)  # the kernel refuses a mount namespace to a thread that shares its root and folder
            _enter(self.mnt, CLONE_NEWNS)


def call_in(place: Place, function: Callable[[], T]) -> T:
    """Return `function()`, run in `place`; its exception is raised here."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            place.enter()
            results.append(function())
        except BaseException as error:  # noqa: BLE001  (handed to the caller below)
            errors.append(error)

    thread = threading.Thread(target=run, name="place", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def popen_in(
    place: Place,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    cwd: str = "/",
    new_session: bool = False,
    text: bool = True,
) -> subprocess.Popen[str]:
    """Start a program in `place`; it is looked up there by the PATH of `env`."""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            list(argv), env=dict(env), stdin=stdin, stdout=stdout, stderr=stderr,
            cwd=cwd, start_new_session=new_session, text=text,
        )  # fmt: skip

    return call_in(place, start)


def let_go(program: subprocess.Popen[str]) -> None:
    """Leave a program to live on after us; `is_let_go` then says that nobody here waits for it."""
    program.returncode = 0
    _LET_GO.add(program.pid)


def is_let_go(pid: int) -> bool:
    """Tell whether this process started `pid` and let it go."""
    return pid in _LET_GO


def make_netns(name: str) -> str:
    """Make a network namespace with `lo` up, held by a file in the machine's usual folder; return the file's path."""
    path = NETNS_FOLDER / name
    NETNS_FOLDER.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o444, exist_ok=True)

    def make() -> None:
        unshare(CLONE_NEWNET)
        mount("/proc/thread-self/ns/net", str(path), flags=MS_BIND)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

    call_in(Place(), make)
    return str(path)


def remove_netns(name: str) -> None:
    """Let go of the namespace; it ends with its last process. Repeating it is harmless."""
    path = NETNS_FOLDER / name
    unmount(str(path))
    path.unlink(missing_ok=True)


def namespace_id(path: str) -> int | None:
    """Return the identity of the namespace behind a handle, None if the handle is gone."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
