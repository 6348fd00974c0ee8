"""Start the policy agent from the flags of the reference's container (spec env.md 8): they become its environment.

The agent's flags stay on its own container in both shapes, while settings that all processes share come from aws-node's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from vpccni.cni.install import install_agent_tool
from vpccni.shared.settings import FALSE, TRUE

AGENT: Final = "vpccni.components.policy_agent"
VARIABLE: Final = "VPCCNI_AGENT_{}"
"""`--enable-ipv6` becomes VPCCNI_AGENT_ENABLE_IPV6, and so on for all flags."""
LOG_LEVEL, LOG_FILE = "LOG_LEVEL_POLICY_AGENT", "VPCCNI_LOG_FILE"
HOST_FOLDER: Final = Path("/host/opt/cni/bin")  # spec policy.md 5.1; of the swap shape alone
TABLE_SIZES: Final = range(32768, 1048576 + 1)
EXIT_FLAGS: Final = 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_FLAGS, f"{self.prog}: {message}\n")


def environment(argv: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the agent's environment. A log level of its own variable goes before the flag. Ends with 1 on flags that cannot be meant."""
    flags = {name: text for name, text in vars(_parser().parse_args(argv)).items() if text is not None}
    named = {VARIABLE.format(name.upper()): text for name, text in flags.items()}
    level = {LOG_LEVEL: flags["log_level"]} if "log_level" in flags else {}
    return {**named, LOG_FILE: flags.get("log_file", "") or "stderr", **level, **environ}


def _parser() -> _Parser:
    parser = _Parser(prog="vpccni agent-start", allow_abbrev=False)
    for name in ("network-policy", "ipv6", "policy-event-logs", "cloudwatch-logs", "profiling"):
        parser.add_argument(f"--enable-{name}", nargs="?", const="true", type=_boolean)
    for name in ("log-file", "log-level", "metrics-bind-addr", "health-probe-bind-addr", "kubeconfig"):
        parser.add_argument(f"--{name}")
    for name in (
        "log-file-max-size",
        "log-file-max-backups",
        "conntrack-cache-cleanup-period",
        "max-concurrent-reconciles",
    ):
        parser.add_argument(f"--{name}", type=_count)
    parser.add_argument("--conntrack-cache-table-size", type=_table_size)
    return parser


def _boolean(text: str) -> str:
    if text not in TRUE | FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is no boolean (true or false)")
    return "true" if text in TRUE else "false"


def _count(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return text


def _table_size(text: str) -> str:
    if int(_count(text)) not in TABLE_SIZES:
        raise argparse.ArgumentTypeError(f"{text} is not {TABLE_SIZES.start} to {TABLE_SIZES.stop - 1}")
    return text


def main(argv: Sequence[str]) -> NoReturn:
    """Put the command line tool in place where the host's folder is here, and become the agent."""
    if HOST_FOLDER.is_dir():
        try:
            install_agent_tool(HOST_FOLDER)
        except OSError as error:  # a tool for people: pods must not wait for it
            sys.stderr.write(f"vpccni agent-start: the command line tool is not installed: {error}\n")
    os.execve(sys.executable, [sys.executable, "-m", AGENT], environment(argv, os.environ))


if __name__ == "__main__":
    main(sys.argv[1:])
