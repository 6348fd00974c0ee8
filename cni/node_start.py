"""`vpccni node-start [-- COMMAND...]`: prepare the node once, before its processes; ends with 1 and one line a fault when it cannot.

Validates the operator's environment first of all, sets the sysctls of the primary interface, puts the plugin in place under both
its names, asks the plugins of the chain which CNI versions they speak, and last writes `settings.json`, which the processes wait
for. The conflist comes later, from the programmer, once an address is free. In a container it then becomes the command behind `--`;
the sysctls are the init container's there (`node_init`), since an unprivileged one cannot write them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vpccni.cni import conflist, versions
from vpccni.cni.install import install_agent_tool, write_atomically
from vpccni.cni.primary import link_with, primary_mac
from vpccni.shared import settings_file
from vpccni.shared.process import RUN_DIR_DEFAULT
from vpccni.shared.settings import Settings, read

SUPPORT_SCRIPT: Final = "aws-cni-support.sh"
COMPAT: Final = "VPCCNI_COMPAT"
"""On where the reference's agent may be beside this: the agent's container installs its own command line tool then."""
LOOSE_RP_FILTER: Final = "2"  # spec dataplane.md 2.4, like the next one
ACCEPT_RA_OF_A_ROUTER: Final = "2"
"""A node that forwards takes no router advertisements else, and its IPv6 default route would run out."""


def main(argv: Sequence[str]) -> int:
    """Carry out all steps in order; return the exit status."""
    parser = argparse.ArgumentParser(prog="vpccni node-start")
    parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    parser.add_argument("--skip-sysctls", action="store_true", help="the init container has set them")
    parser.add_argument("command", nargs="*", help="what to become afterwards")
    arguments = parser.parse_args(argv)
    reading = read(os.environ)
    for name in settings_file.unknown_names(os.environ):
        sys.stderr.write(f"vpccni node-start: {name} is no setting of this system: misspelt? It has no effect\n")
    for warning in reading.warnings:
        sys.stderr.write(f"vpccni node-start: {warning}\n")
    if reading.errors:
        sys.stderr.write("".join(f"vpccni node-start: {error}\n" for error in reading.errors))
        return 1
    try:
        arguments.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not arguments.skip_sysctls:
            set_sysctls(reading.settings, primary_interface(reading.settings))
        install_plugin(Path(reading.settings.host_bin_path))
        found = {conflist.VERSIONS_VARIABLE: ",".join(chain_versions(reading.settings))}
        settings_file.write(arguments.run_dir, os.environ, found)
        if arguments.command:
            os.execvp(arguments.command[0], arguments.command)
    except (OSError, LookupError) as error:
        sys.stderr.write(f"vpccni node-start: the node cannot be prepared: {error}\n")
        return 1
    return 0


def primary_interface(settings: Settings) -> str:
    """Return VPCCNI_PRIMARY_INTERFACE, else the link with metadata's primary MAC, else, metadata silent, the default route's.

    Raises LookupError when no link has that MAC, or there is no default route either.
    """
    if name := os.environ.get("VPCCNI_PRIMARY_INTERFACE"):
        return name
    try:
        mac = primary_mac(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""), settings.http_timeout_s)
    except OSError as error:
        name = default_route_link()
        sys.stderr.write(
            f"vpccni node-start: {error}; {name}, which the default route leaves by, is taken as primary\n"
        )
        return name
    return link_with(mac)


def default_route_link() -> str:
    """Return the link the default route leaves by. Raises LookupError when there is none."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        name, destination, _gateway, _flags, _ref, _use, _metric, mask, *_ = line.split()
        if destination == mask == "00000000":
            return name
    raise LookupError("no default route tells the primary interface; set VPCCNI_PRIMARY_INTERFACE to its name")


def set_sysctls(settings: Settings, primary: str) -> None:
    """Write what spec dataplane.md 10.1 asks of the init container; a value that is already right is not written."""
    _set(Path(f"/proc/sys/net/ipv4/conf/{primary}/rp_filter"), LOOSE_RP_FILTER)
    early_demux = Path("/proc/sys/net/ipv4/tcp_early_demux")
    if early_demux.exists():
        _set(early_demux, "1" if settings.tcp_early_demux else "0")
    of_ipv6 = Path("/proc/sys/net/ipv6/conf")
    if settings.ipv6:
        _set(of_ipv6 / "all/disable_ipv6", "0")
    if settings.ipv6 or settings.v6_egress:
        _set(of_ipv6 / "all/forwarding", "1")
        _set(of_ipv6 / f"{primary}/accept_ra", ACCEPT_RA_OF_A_ROUTER)


def install_plugin(folder: Path) -> None:
    """Put the plugin's executable into the host's plugin folder under both names, the support script (spec operations.md 14) and
    the agent's tool.
    """
    data = plugin_binary().read_bytes()
    for name in conflist.OURS:
        write_atomically(folder / name, data, 0o755)
    write_atomically(folder / SUPPORT_SCRIPT, Path(__file__).with_name(SUPPORT_SCRIPT).read_bytes(), 0o755)
    if os.environ.get(COMPAT, "").lower() != "true":
        install_agent_tool(folder)


def chain_versions(settings: Settings) -> tuple[str, ...]:
    """Return the CNI versions that all chained plugins speak; who does not answer within 2 s is named, and speaks none."""
    answers, trouble = versions.ask_all(conflist.chained(settings), Path(settings.host_bin_path))
    for sentence in trouble:
        sys.stderr.write(f"vpccni node-start: {sentence}; the conflist offers CNI {conflist.OLDEST} alone\n")
    return versions.common(answers)


def plugin_binary() -> Path:
    """Return where the built executable is: VPCCNI_PLUGIN_BINARY, else beside this module. Raises FileNotFoundError."""
    path = Path(os.environ.get("VPCCNI_PLUGIN_BINARY") or Path(__file__).with_name("aws-cni"))
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build it with `make cni/aws-cni`")
    return path


def _set(path: Path, value: str) -> None:
    if path.read_text().strip() != value:
        path.write_text(value)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
