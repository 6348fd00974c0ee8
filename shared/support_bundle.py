"""`vpccni support-bundle`: what a supporter asks for, as one archive in the layout of the reference's (spec operations.md 14).

Nothing here needs anything of ours alive: what cannot be had is named in `errors.txt` and the rest is there. The archive is written as it
is collected; where the disk is full it goes to the run folder or to memory instead. Everything passes `redaction`.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec

import vpccni
from vpccni.shared import names, settings_file
from vpccni.shared.errors import VpccniError
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import GetSnapshot, GetStatus, Snapshot
from vpccni.shared.messages.wiring import GetPlan
from vpccni.shared.node_cli import ask_all
from vpccni.shared.node_text import lines, plain
from vpccni.shared.process import RUN_DIR_DEFAULT
from vpccni.shared.redaction import redacted
from vpccni.shared.top_cli import look

COMMAND_WITHIN_S: Final = 10.0
PAGE_WITHIN_S: Final = 3.0  # spec operations.md 14
WITHIN_S: Final = 120.0
"""For all of it: what was not begun then is left out, and named."""
FILE_BYTES_AT_MOST: Final = 20 << 20
"""Of a longer file the end is taken."""
FILES_AT_MOST: Final = 200
"""Of one folder, the newest."""
OUT_FOLDER: Final = "/var/log"
MEMORY_FOLDER: Final = "/dev/shm"
LOG_FOLDERS: Final = ("/host/var/log/aws-routed-eni", "/var/log/aws-routed-eni")
CONF_FOLDERS: Final = ("/host/etc/cni/net.d", "/etc/cni/net.d")
PAGES: Final = ("enis", "pods", "networkutils-env-settings", "ipamd-env-settings", "eni-configs")

COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    "networking/ip_rule.txt": ("ip", "rule"),
    "networking/ip6_rule.txt": ("ip", "-6", "rule"),
    "networking/ip_route_all.txt": ("ip", "route", "show", "table", "all"),
    "networking/ip6_route_all.txt": ("ip", "-6", "route", "show", "table", "all"),
    "networking/ip_link.txt": ("ip", "-d", "-s", "link"),
    "networking/ip_addr.txt": ("ip", "addr"),
    "networking/ip_neigh.txt": ("ip", "neigh"),
    "networking/iptables-save.txt": ("iptables-save", "-c"),
    "networking/ip6tables-save.txt": ("ip6tables-save", "-c"),
    "networking/nft.txt": ("nft", "list", "ruleset"),
    "networking/conntrack_stats.txt": ("conntrack", "-S"),
    "networking/sockets.txt": ("ss", "-s"),
    "networking/tc_filters.txt": ("tc", "-s", "qdisc"),
    "kernel/dmesg.txt": ("dmesg", "-T"),
    "kernel/uname.txt": ("uname", "-a"),
    "storage/df.txt": ("df", "-h"),
    "storage/inodes.txt": ("df", "-i"),
    "storage/mounts.txt": ("mount",),
    "storage/lsblk.txt": ("lsblk",),
    "system/ps.txt": ("ps", "-eo", "pid,ppid,pcpu,pmem,rss,etime,comm"),
    "system/top.txt": ("top", "-b", "-n", "1"),
    "kubelet/kubelet.txt": ("journalctl", "-u", "kubelet", "--since", "-1d", "--no-pager"),
    "containerd/containerd.txt": ("journalctl", "-u", "containerd", "--since", "-1d", "--no-pager"),
    "containerd/containers.txt": ("crictl", "ps", "-a"),
    "containerd/images.txt": ("crictl", "images"),
}
"""Programs that may be there or not; what they print."""
FILES: Final[dict[str, str]] = {
    "networking/route.txt": "/proc/net/route",
    "networking/fib_trie.txt": "/proc/net/fib_trie",
    "networking/ipv6_route.txt": "/proc/net/ipv6_route",
    "networking/dev.txt": "/proc/net/dev",
    "networking/sockstat.txt": "/proc/net/sockstat",
    "networking/conntrack.txt": "/proc/net/stat/nf_conntrack",
    "networking/softnet.txt": "/proc/net/softnet_stat",
    "networking/resolv.conf": "/etc/resolv.conf",
    "kernel/version.txt": "/proc/version",
    "kernel/modules.txt": "/proc/modules",
    "system/meminfo.txt": "/proc/meminfo",
    "system/loadavg.txt": "/proc/loadavg",
    "system/pressure_cpu.txt": "/proc/pressure/cpu",
    "system/pressure_memory.txt": "/proc/pressure/memory",
    "system/pressure_io.txt": "/proc/pressure/io",
    "storage/mountinfo.txt": "/proc/self/mountinfo",
    "system/os-release": "/etc/os-release",
}
Item = tuple[str, Callable[[], bytes]]
"""A name in the archive and how to get what belongs there."""


@dataclass(frozen=True)
class Wishes:
    """What the operator asked for."""

    run_dir: Path
    introspection: bool = True
    metrics: bool = True


def main(argv: Sequence[str]) -> int:
    """Write the archive and print its path; return 1 when there is no place for it."""
    parser = argparse.ArgumentParser(
        prog="vpccni support-bundle", description="What a supporter asks for, as one archive."
    )
    parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    parser.add_argument("--out", default="", metavar="FILE", help="write it there; - for standard output")
    parser.add_argument("--ignore_introspection", default="false", choices=("true", "false"))
    parser.add_argument("--ignore_metrics", default="false", choices=("true", "false"))
    arguments = parser.parse_args(argv)
    wishes = Wishes(
        run_dir=arguments.run_dir,
        introspection=arguments.ignore_introspection == "false",
        metrics=arguments.ignore_metrics == "false",
    )
    if arguments.out == "-":
        write(sys.stdout.buffer, wishes)
        return 0
    for path in _places(arguments.out, arguments.run_dir):
        if _written(path, wishes):
            sys.stdout.write(f"{path}\n")
            return 0
    return 1


def write(out: IO[bytes], wishes: Wishes) -> None:
    """Collect everything into a gzipped tar. Raises OSError only of `out` itself."""
    errors: list[str] = []
    until = time.monotonic() + WITHIN_S
    with tarfile.open(fileobj=out, mode="w|gz") as archive:
        for name, get in items(wishes):
            if time.monotonic() > until:
                errors.append(f"{name}: left out, {WITHIN_S:.0f} s were over")
                continue
            try:
                data = get()
            except (OSError, VpccniError, subprocess.SubprocessError, http.client.HTTPException, ValueError) as error:
                errors.append(f"{name}: {error}")
                continue
            _add(archive, name, data)
        _add(archive, "errors.txt", "".join(f"{line}\n" for line in errors).encode())


def items(wishes: Wishes) -> Iterator[Item]:
    """Yield what is collected, cheap and telling things first; nothing is read before it is asked for."""
    raw = _raw_settings(wishes.run_dir)
    yield from _of_processes(wishes.run_dir)
    yield from _of_pages(wishes, raw)
    yield from _of_folder("ipamd", wishes.run_dir, "ipam*.json*")
    yield from _of_folder("vpccni", wishes.run_dir, settings_file.FILE)
    yield from _of_folder("vpccni/bus", wishes.run_dir / "bus", "*.starts")
    yield from _of_folder("vpccni/spool", wishes.run_dir / "spool", "*")
    for folder in CONF_FOLDERS:
        yield from _of_folder("cni", Path(raw.get("HOST_CNI_CONFDIR_PATH", folder)), "*.conf*")
    for log_folder in dict.fromkeys(
        (raw.get("VPCCNI_LOG_DIR", ""), os.environ.get("VPCCNI_LOG_DIR", ""), *LOG_FOLDERS)
    ):
        if log_folder:
            yield from _of_folder("var_log/aws-routed-eni", Path(log_folder), "*")
    for name, argv in COMMANDS.items():
        yield name, lambda argv=argv: _output(argv)  # type: ignore[misc]  # a default is how a lambda keeps a value
    for name, path in FILES.items():
        yield name, lambda path=path: _tail(Path(path))  # type: ignore[misc]
    yield "sysctls/net.txt", _sysctls


def _of_processes(run_dir: Path) -> Iterator[Item]:
    yield "vpccni/version.txt", lambda: f"{vpccni.__version__}\n".encode()
    yield "vpccni/status.json", lambda: _answers(run_dir, GetStatus(), names.NODE_PROCESSES)
    yield "vpccni/snapshots.json", lambda: _answers(run_dir, GetSnapshot(), names.NODE_PROCESSES)
    yield "vpccni/plan.json", lambda: _answers(run_dir, GetPlan(), [names.NETLINK_PROGRAMMER])
    yield "vpccni/top.txt", lambda: "\n".join(lines(look(run_dir), plain, width=160)).encode()


def _of_pages(wishes: Wishes, raw: dict[str, str]) -> Iterator[Item]:
    if wishes.introspection:
        address = raw.get("INTROSPECTION_BIND_ADDRESS", "127.0.0.1:61679")
        for page in PAGES:
            yield f"ipamd/{page}.json", lambda page=page: _page(address, f"/v1/{page}")  # type: ignore[misc]
    if wishes.metrics:
        address = raw.get("VPCCNI_METRICS_BIND_ADDRESS", "127.0.0.1:61678")
        yield "ipamd/metrics.json", lambda: _page(address, "/metrics")


def _of_folder(into: str, folder: Path, pattern: str) -> Iterator[Item]:
    """Yield the regular files of a folder, the newest `FILES_AT_MOST`; a folder that is not there has none."""
    try:
        found = [path for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()]
        newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:FILES_AT_MOST]
    except OSError:
        newest = []
    for path in sorted(newest):
        yield f"{into}/{path.name}", lambda path=path: _tail(path)  # type: ignore[misc]


def _answers(run_dir: Path, ask: Message, processes: Sequence[str]) -> bytes:
    document = {
        name: msgspec.to_builtins(answer) if isinstance(answer, Message) else {"error": str(answer)}
        for name, answer in ask_all(run_dir, processes, ask).items()
    }
    return json.dumps(document, indent=1, default=str).encode()


def _page(address: str, path: str) -> bytes:
    """Return a page of the publisher at `HOST:PORT` (no host: this one) or `unix:PATH`."""
    connection = http.client.HTTPConnection("localhost", timeout=PAGE_WITHIN_S)
    try:
        connection.sock = _connected(address)
        connection.request("GET", path)
        return connection.getresponse().read(FILE_BYTES_AT_MOST)
    finally:
        connection.close()


def _connected(address: str) -> socket.socket:
    if address.startswith("unix:"):
        to = socket.socket(socket.AF_UNIX)
        try:
            to.settimeout(PAGE_WITHIN_S)
            to.connect(address.removeprefix("unix:"))
        except OSError:
            to.close()
            raise
        return to
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout=PAGE_WITHIN_S)


def _output(argv: Sequence[str]) -> bytes:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_WITHIN_S, check=False)
    told = done.stdout[-FILE_BYTES_AT_MOST:]
    return told if done.returncode == 0 else told + f"\nexit status {done.returncode}: ".encode() + done.stderr[-4096:]


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - FILE_BYTES_AT_MOST))
        return file.read(FILE_BYTES_AT_MOST)


def _sysctls() -> bytes:
    """Return the network's settings, as `sysctl -a` prints them; those that cannot be read are left out."""
    rows = []
    for path in sorted(Path("/proc/sys/net").rglob("*")):
        try:
            if path.is_file():
                rows.append(f"{'.'.join(path.parts[3:])} = {path.read_text().strip()}\n")
        except (OSError, UnicodeDecodeError):
            continue
    return "".join(rows).encode()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    clean = redacted(data)
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(clean), int(time.time()), 0o600
    archive.addfile(entry, io.BytesIO(clean))


def _raw_settings(run_dir: Path) -> dict[str, str]:
    environ = {name: text for name, text in os.environ.items() if name != "MY_POD_UID"}  # do not wait for a file
    try:
        return settings_file.raw_settings(run_dir, environ)
    except VpccniError:
        return environ


def _places(out: str, run_dir: Path) -> list[Path]:
    if out:
        return [Path(out), *(folder / Path(out).name for folder in (run_dir, Path(MEMORY_FOLDER)))]
    stamp = time.strftime("%Y-%m-%d_%H%M-UTC", time.gmtime())
    name = f"eks_{_instance_id(run_dir)}_{stamp}_{vpccni.__version__}.tar.gz"
    return [folder / name for folder in (Path(OUT_FOLDER), run_dir, Path(MEMORY_FOLDER))]


def _instance_id(run_dir: Path) -> str:
    answer = ask_all(run_dir, [names.ENI_MANAGER], GetSnapshot())[names.ENI_MANAGER]
    messages = answer.messages if isinstance(answer, Snapshot) else []
    return next((str(body["instance_id"]) for _, body in messages if body.get("instance_id")), "unknown")


def _written(path: Path, wishes: Wishes) -> bool:
    """Write the archive there, whole or not at all; say why not."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            write(out, wishes)
        os.rename(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        full = " (the disk is full)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        sys.stderr.write(f"vpccni support-bundle: not in {path.parent}: {error}{full}\n")
        return False
    return True
